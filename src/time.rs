//! The only clock: every other module is given a [`Now`] or asks here.
//!
//! Deciders take `now` as an argument and simulators advance one; what acts calls [`now`]. The
//! monotonic side follows tokio's clock, so tests that pause it pause us too.

use std::time::{Duration, Instant, SystemTime};

/// One reading of both clocks, taken together: monotonic for deadlines, wall clock for periods and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub instant: Instant,
    pub utc: SystemTime,
}

impl Now {
    /// The reading after `passed`, for simulators and for deadlines that are kept as a whole `Now`.
    #[must_use]
    pub fn after(self, passed: Duration) -> Self {
        Self { instant: self.instant + passed, utc: self.utc + passed }
    }

    /// Whole seconds since 1970, as section markers want it; 0 before that.
    pub fn unix_seconds(self) -> u64 {
        self.utc.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
    }
}

/// Until a deadline; for ever where there is none.
#[cfg(feature = "manager")]
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// RFC 3339 in UTC, with so many digits of the second's fraction; empty for a time that no calendar has.
#[cfg(feature = "manager")]
pub fn rfc3339(time: SystemTime, digits: usize) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.digits$}"))
}

/// Reads both clocks.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the rest of the program asks")]
pub fn now() -> Now {
    Now { instant: tokio::time::Instant::now().into_std(), utc: SystemTime::now() }
}
