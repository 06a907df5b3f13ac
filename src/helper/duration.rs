//! Durations of flags: as Go writes them, and not negative.

use std::time::Duration;

use crate::go_duration::GoDuration;

/// Reads one. Negative ones are refused: no flag of the helper means anything by them.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let read = text.parse::<GoDuration>().ok().and_then(GoDuration::to_std);
    read.ok_or_else(|| format!("'{text}' is no duration: write 90s, 10m or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_durations_and_bare_numbers_are_refused() {
        assert_eq!(parse_duration("1m1s500ms"), Ok(Duration::from_millis(61_500)));
        for text in ["", "5", "-1s", "soon"] {
            assert_eq!(parse_duration(text), Err(format!("'{text}' is no duration: write 90s, 10m or 1h30m")));
        }
    }
}
