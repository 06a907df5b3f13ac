//! Durations as Go writes them: `1h0m0s`, `1.5s`, `300ms`.

use std::time::Duration;

/// Reads one. A bare `0` is allowed; another number needs its unit. Negative ones are refused: no flag of
/// the helper means anything by them.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("'{text}' is no duration: write 90s, 10m or 1h30m");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(refused());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| refused())?;
        let seconds = number * unit_seconds(unit).ok_or_else(refused)?;
        let part = Duration::try_from_secs_f64(seconds).map_err(|_| refused())?;
        total = total.checked_add(part).ok_or_else(refused)?;
        rest = after;
    }
    Ok(total)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_read() {
        for (text, milliseconds) in [
            ("1h0m0s", 3_600_000),
            ("10m", 600_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("0", 0),
            ("0s", 0),
            ("+2s", 2_000),
            ("1m1s500ms", 61_500),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "5", "s", "1x", "-1s", "1h ", "1..5s", "99999999999999999999h", "soon"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
