//! Durations such as `20m0s`, in the syntax of Go's `time.ParseDuration`: signed, counted in nanoseconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A signed number of nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

const SECOND: u64 = 1_000_000_000;

/// The unit's words with their nanoseconds. Longer words stand before their beginnings.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

impl GoDuration {
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The longest there is for one that is longer: 292 years.
    pub fn saturating(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }

    /// `None` where it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(DurationError::Empty);
        }
        let mut nanos: u64 = 0;
        while !rest.is_empty() {
            let (term, after) = term(rest)?;
            nanos = nanos.checked_add(term).filter(|sum| *sum <= 1 << 63).ok_or(DurationError::TooLong)?;
            rest = after;
        }
        let signed = if negative { -i128::from(nanos) } else { i128::from(nanos) };
        i64::try_from(signed).map(Self).map_err(|_| DurationError::TooLong)
    }
}

/// One `<decimal><unit>` at the beginning, in nanoseconds, and what follows it.
fn term(text: &str) -> Result<(u64, &str), DurationError> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber { at: text.to_owned() });
    }
    let (scale, rest) = unit(rest)?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let whole = whole.checked_mul(scale).ok_or(DurationError::TooLong)?;
    let nanos = whole.checked_add(fraction_of(fraction, scale)).ok_or(DurationError::TooLong)?;
    Ok((nanos, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The unit's nanoseconds, and what follows it. A unit reaches to the next digit or dot.
fn unit(text: &str) -> Result<(u64, &str), DurationError> {
    let (word, rest) = text.split_at(text.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(text.len()));
    if word.is_empty() {
        return Err(DurationError::NoUnit);
    }
    let known = UNITS.iter().find(|(known, _)| *known == word);
    known.map(|(_, scale)| (*scale, rest)).ok_or_else(|| DurationError::Unit { unit: word.to_owned() })
}

/// `0.<digits>` of a unit, rounded down. Digits after the eighteenth cannot count.
fn fraction_of(digits: &str, scale: u64) -> u64 {
    let (mut value, mut divisor) = (0_u128, 1_u128);
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    u64::try_from(value * u128::from(scale) / divisor).unwrap_or(u64::MAX)
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1h0m0s`, `1.5s`, `300ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => decimal(f, nanos, 1_000).and_then(|()| f.write_str("µs")),
            1_000_000..SECOND => decimal(f, nanos, 1_000_000).and_then(|()| f.write_str("ms")),
            _ => {
                let minutes = nanos / (60 * SECOND);
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                decimal(f, nanos % (60 * SECOND), SECOND)?;
                f.write_str("s")
            }
        }
    }
}

/// `value / unit` with as many digits as it needs.
fn decimal(f: &mut fmt::Formatter<'_>, value: u64, unit: u64) -> fmt::Result {
    write!(f, "{}", value / unit)?;
    let rest = value % unit;
    if rest == 0 {
        return Ok(());
    }
    let width = usize::try_from(unit.ilog10()).unwrap_or_default();
    let digits = format!("{rest:0width$}");
    write!(f, ".{}", digits.trim_end_matches('0'))
}

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("it is empty")]
    Empty,
    #[error("there is no number at {at:?}")]
    NoNumber { at: String },
    #[error("the number has no unit")]
    NoUnit,
    #[error("{unit:?} is no unit: ns, us, ms, s, m and h are")]
    Unit { unit: String },
    #[error("it is longer than 292 years")]
    TooLong,
}

impl DurationError {
    /// What was probably meant, where that can be told.
    pub fn suggestion(&self, text: &str) -> Option<String> {
        let joined: String = text.split_whitespace().collect();
        let candidate = match self {
            Self::NoUnit => format!("{joined}s"),
            Self::Unit { .. } | Self::NoNumber { .. } => in_units_of_go(&joined)?,
            Self::Empty | Self::TooLong => return None,
        };
        candidate.parse::<GoDuration>().ok().map(|_| candidate)
    }
}

/// Long words and days as the units that there are.
fn in_units_of_go(text: &str) -> Option<String> {
    let mut written = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = digits(rest);
        let count: u64 = number.parse().ok()?;
        let (word, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let (count, unit) = match word.to_ascii_lowercase().as_str() {
            "d" | "day" | "days" => (count.checked_mul(24)?, "h"),
            "w" | "week" | "weeks" => (count.checked_mul(24 * 7)?, "h"),
            "h" | "hr" | "hrs" | "hour" | "hours" => (count, "h"),
            "m" | "min" | "mins" | "minute" | "minutes" => (count, "m"),
            "s" | "sec" | "secs" | "second" | "seconds" => (count, "s"),
            "ms" | "milliseconds" => (count, "ms"),
            _ => return None,
        };
        written.push_str(&count.to_string());
        written.push_str(unit);
        rest = after;
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn the_syntax_of_go_parses() {
        for (text, nanos) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("30s", 30 * S),
            ("20m0s", 1200 * S),
            ("24h", 86_400 * S),
            ("1h30m", 5400 * S),
            (".5h", 1800 * S),
            ("5.s", 5 * S),
            ("1.5s", S + S / 2),
            ("-5m", -300 * S),
            ("+5s", 5 * S),
            ("300ms", 300_000_000),
            ("1us", 1000),
            ("1µs", 1000),
            ("1μs", 1000),
            ("1ns", 1),
            ("0.3ns", 0),
            ("3s1h", 3603 * S),
            ("1h1h", 7200 * S),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("0.33333333333333333333h", 1_199_999_999_999),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(nanos)), "{text}");
        }
    }

    #[test]
    fn what_go_rejects_is_rejected_with_a_suggestion() {
        for (text, suggestion) in [
            ("30", Some("30s")),
            ("1d", Some("24h")),
            ("1w", Some("168h")),
            ("1 h 30 min", Some("1h30m")),
            ("20 minutes", Some("20m")),
            ("1h 30m", Some("1h30m")),
            ("5M", Some("5m")),
            ("", None),
            ("-", None),
            (".", None),
            (".s", None),
            ("s", None),
            ("1x", None),
            ("1.2.3s", None),
            ("99999999999999999999s", None),
            ("9223372036854775808ns", None),
            ("3000000h", None),
        ] {
            let error = text.parse::<GoDuration>().unwrap_err();
            assert_eq!(error.suggestion(text).as_deref(), suggestion, "{text}: {error}");
        }
    }

    #[test]
    fn it_prints_as_go_prints_it() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300 * S / 1000, "3.3s"),
            (4 * 60 * S + 5 * S + S / 1000, "4m5.001s"),
            (3600 * S, "1h0m0s"),
            (-90 * S, "-1m30s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration(nanos).to_string(), text);
        }
    }

    #[test]
    fn only_what_is_not_negative_becomes_a_std_duration() {
        assert_eq!(GoDuration(S).to_std(), Some(Duration::from_secs(1)));
        assert_eq!(GoDuration(-1).to_std(), None);
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same_duration(nanos: i64) {
            prop_assert_eq!(GoDuration(nanos).to_string().parse(), Ok(GoDuration(nanos)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+]?[0-9.]{0,24}[a-zµ ]{0,3}[0-9.]{0,24}[a-z]{0,2}") {
            if let Err(error) = text.parse::<GoDuration>() {
                drop(error.suggestion(&text));
            }
        }
    }
}
