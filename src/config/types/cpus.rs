//! `cpus`: a rational number such as `2`, `0.5`, `1/3` or `1e1`, in billionths of a processor.

/// Billionths of one, rounded down. `None` for what is no such number, or negative, or beyond the engine's range.
pub fn nano_cpus(text: &str) -> Option<i64> {
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let (numerator, shift) = decimal(numerator)?;
    let denominator = if text.contains('/') { denominator.parse::<u64>().ok()?.into() } else { 1 };
    let shift = shift.checked_add(9)?;
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    let nanos = if shift >= 0 {
        numerator.checked_mul(power)?.checked_div(denominator)?
    } else {
        numerator.checked_div(denominator.checked_mul(power)?)?
    };
    i64::try_from(nanos).ok().filter(|nanos| *nanos >= 0)
}

/// `digits[.digits][e[sign]digits]` as an integer and a power of ten.
fn decimal(text: &str) -> Option<(i128, i32)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.strip_prefix('+').unwrap_or(whole);
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let places = i32::try_from(fraction.len()).ok()?;
    Some((digits.parse().ok()?, exponent.checked_sub(places)?))
}

#[cfg(test)]
mod tests {
    use super::nano_cpus;

    #[test]
    fn rationals_become_billionths() {
        for (text, nanos) in [
            ("2", Some(2_000_000_000)),
            ("0.5", Some(500_000_000)),
            (".5", Some(500_000_000)),
            ("1/3", Some(333_333_333)),
            ("1/2", Some(500_000_000)),
            ("1e1", Some(10_000_000_000)),
            ("25e-2", Some(250_000_000)),
            ("+1.5", Some(1_500_000_000)),
            ("0", Some(0)),
            ("1e-12", Some(0)),
            ("", None),
            ("-1", None),
            ("1/0", None),
            ("1/x", None),
            ("two", None),
            ("1e99", None),
            ("1.2.3", None),
            ("1e-2147483648", None),
            ("99999999999", None),
        ] {
            assert_eq!(nano_cpus(text), nanos, "{text}");
        }
    }
}
