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

/// Reads both clocks.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the rest of the program asks")]
pub fn now() -> Now {
    Now { instant: tokio::time::Instant::now().into_std(), utc: SystemTime::now() }
}
