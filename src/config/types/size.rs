//! Sizes such as `128m`, with binary multiples, as the go-units library's `RAMInBytes` reads them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [char; 5] = ['k', 'm', 'g', 't', 'p'];

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or(SizeError::NoNumber)?;
        let (number, suffix) = text.split_at(end + 1);
        let number = number.strip_suffix(' ').unwrap_or(number);
        let value: f64 = number.parse().map_err(|_| SizeError::NoNumber)?;
        if value < 0.0 {
            return Err(SizeError::Negative);
        }
        let bytes = value * multiplier(suffix).ok_or(SizeError::Suffix)?;
        if !bytes.is_finite() || bytes >= 9_223_372_036_854_775_808.0 {
            return Err(SizeError::TooLarge);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked; fractions of a byte go")]
        Ok(Self(bytes as u64))
    }
}

/// `b`, or one of the units alone, with `b` or with `ib`, in any case; nothing means bytes.
fn multiplier(suffix: &str) -> Option<f64> {
    let suffix = suffix.to_ascii_lowercase();
    let mut letters = suffix.chars();
    let Some(unit) = letters.next() else { return Some(1.0) };
    let rest = letters.as_str();
    if unit == 'b' {
        return rest.is_empty().then_some(1.0);
    }
    let power = UNITS.iter().position(|known| *known == unit)?;
    let power = i32::try_from(power).ok()? + 1;
    ["", "b", "ib"].contains(&rest).then(|| 1024_f64.powi(power))
}

impl fmt::Display for ByteSize {
    /// The largest unit that leaves no remainder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0;
        let mut unit = None;
        for next in UNITS {
            if value == 0 || !value.is_multiple_of(1024) {
                break;
            }
            value /= 1024;
            unit = Some(next);
        }
        match unit {
            Some(unit) => write!(f, "{value}{unit}"),
            None => write!(f, "{value}"),
        }
    }
}

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("it has no number")]
    NoNumber,
    #[error("a size cannot be negative; unlimited is expressed by leaving the key out")]
    Negative,
    #[error("the suffix is none of b, k, m, g, t, p, with b or ib after it")]
    Suffix,
    #[error("it is too large")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn multiples_are_binary_and_case_does_not_count() {
        for (text, bytes) in [
            ("0", 0),
            ("128", 128),
            ("128b", 128),
            ("64mb", 67_108_864),
            ("128mib", 134_217_728),
            ("128MiB", 134_217_728),
            ("128M", 134_217_728),
            ("1k", 1024),
            ("1.5g", 1_610_612_736),
            ("2 g", 2_147_483_648),
            ("1e3", 1000),
            (".5k", 512),
            ("1.k", 1024),
            ("1t", 1_099_511_627_776),
            ("1p", 1_125_899_906_842_624),
            ("0.7", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_the_reference_rejects_is_rejected() {
        for (text, error) in [
            ("", SizeError::NoNumber),
            ("x", SizeError::NoNumber),
            ("m", SizeError::NoNumber),
            ("-1", SizeError::Negative),
            ("-1m", SizeError::Negative),
            ("0x10", SizeError::NoNumber),
            ("2  g", SizeError::NoNumber),
            ("1bb", SizeError::Suffix),
            ("1mi", SizeError::Suffix),
            ("1mbb", SizeError::Suffix),
            ("1x", SizeError::Suffix),
            ("9e99", SizeError::TooLarge),
            ("8192p", SizeError::TooLarge),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same_size(bytes in 0..(1_u64 << 53)) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
