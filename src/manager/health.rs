//! When a runner may ask again after its requests failed.
//!
//! The reference switches a runner off for an hour after three refusals and comes back late after an
//! outage. Here every failure costs one jittered wait that doubles up to [`LONGEST_WAIT`], so that
//! work goes on within that time of GitLab's return.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// The longest pause after a failure: what an operator waits for at most when GitLab is back.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// One runner's standing with its GitLab server.
#[derive(Clone, Debug)]
pub struct Health {
    backoff: Backoff,
    failures: u32,
    refusals: u32,
    refusals_allowed: u32,
    /// What the last failure costs.
    backs_off_until: Option<Instant>,
    /// What the server asked for: no success makes it void.
    wished_until: Option<Instant>,
}

impl Health {
    /// `check_interval` is the first wait; `refusals_allowed` is `unhealthy_requests_limit`.
    pub fn new(check_interval: Duration, refusals_allowed: u32) -> Self {
        let first = check_interval.clamp(Duration::from_millis(100), LONGEST_WAIT);
        Self {
            backoff: Backoff::new(first, LONGEST_WAIT),
            failures: 0,
            refusals: 0,
            refusals_allowed: refusals_allowed.max(1),
            backs_off_until: None,
            wished_until: None,
        }
    }

    pub fn succeeded(&mut self) {
        self.backoff.reset();
        self.failures = 0;
        self.refusals = 0;
        self.backs_off_until = None;
    }

    /// The server could not be reached or answered with an error. `retry_after` is its own wish,
    /// which is kept even beyond [`LONGEST_WAIT`].
    pub fn failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        if !self.is_quiet(now) {
            self.failures = self.failures.saturating_add(1);
            self.backs_off_until = Some(now + self.backoff.next_wait());
        }
        self.wished_until = self.wished_until.max(retry_after.map(|wish| now + wish));
    }

    /// The server refused the runner (403), or the runner cannot ask at all.
    pub fn refused(&mut self, now: Instant) {
        if !self.is_quiet(now) {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.failed(None, now);
    }

    /// Nothing is asked then: what ends was under way when another request failed, and tells the same.
    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until().is_some_and(|until| now < until)
    }

    /// Nothing may be asked before this time.
    pub fn quiet_until(&self) -> Option<Instant> {
        self.backs_off_until.max(self.wished_until)
    }

    /// Refused as often as `unhealthy_requests_limit`: worth an operator's look.
    pub fn is_unhealthy(&self) -> bool {
        self.refusals >= self.refusals_allowed
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_but_never_beyond_the_longest() {
        let mut now = crate::time::now().instant;
        let mut health = Health::new(Duration::from_secs(3), 3);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            health.failed(None, now);
            last = health.quiet_until().expect("a failed runner waits") - now;
            assert!(last <= LONGEST_WAIT);
            now += last;
        }
        assert!(last >= LONGEST_WAIT / 2);
        health.succeeded();
        assert_eq!(health.quiet_until(), None);
    }

    #[test]
    fn the_servers_own_wish_is_kept() {
        let start = crate::time::now().instant;
        let mut health = Health::new(Duration::from_secs(3), 3);
        health.failed(Some(Duration::from_secs(60)), start);
        assert_eq!(health.quiet_until(), Some(start + Duration::from_secs(60)));
    }

    #[test]
    fn parallel_failures_are_one_and_a_parallel_success_leaves_the_servers_wish() {
        let start = crate::time::now().instant;
        let first = Duration::from_secs(3);
        let mut health = Health::new(first, 2);
        for _ in 0..8 {
            health.refused(start);
        }
        assert_eq!((health.failures(), health.is_unhealthy()), (1, false));
        assert!(health.quiet_until().is_some_and(|until| until <= start + first));
        let wish = Duration::from_secs(60);
        health.failed(Some(wish), start);
        health.succeeded();
        assert_eq!(health.quiet_until(), Some(start + wish));
    }

    #[test]
    fn only_refusals_make_a_runner_unhealthy() {
        let start = crate::time::now().instant;
        let mut health = Health::new(Duration::from_secs(3), 2);
        health.failed(None, start);
        health.refused(start + LONGEST_WAIT);
        assert!(!health.is_unhealthy());
        health.refused(start + 2 * LONGEST_WAIT);
        assert!(health.is_unhealthy());
    }
}
