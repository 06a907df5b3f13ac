//! The breaker: what keeps a broken image or an empty zone from costing instances without end.
//!
//! After a failure nothing is created for a while, and then one instance at a time until one has become
//! ready. Failures of instances that had appeared before the last step count as the same failure: ten that
//! break together are one step, not ten.

use std::time::{Duration, Instant};

use super::failure::{Cause, Failures};
use crate::backoff::Backoff;

/// The first wait after a failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait after requests that the group refused: they cost calls only, and jobs may be waiting.
const REQUEST_CAP: Duration = Duration::from_secs(60);
/// The longest wait after requests that the provider had no capacity for: a shortage lasts, and asking more often brings
/// nothing but calls.
const CAPACITY_CAP: Duration = Duration::from_secs(120);
/// The longest wait after instances that came up broken: each try costs an instance.
const READINESS_CAP: Duration = Duration::from_secs(300);

/// How many instances may be asked for, as far as failures have a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    /// As many as are needed.
    Full,
    /// One, to see whether it becomes ready.
    Probe,
    /// None before this time.
    NotBefore(Instant),
}

/// Failures since the last success, of each kind.
#[derive(Debug)]
pub(super) struct Breaker {
    requests: Strikes,
    capacity: Strikes,
    readiness: Strikes,
    /// The provider wants no call before this time.
    asked_to_wait: Option<Instant>,
}

/// Failures of one kind.
#[derive(Debug)]
struct Strikes {
    backoff: Backoff,
    count: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            requests: Strikes::new(REQUEST_CAP),
            capacity: Strikes::new(CAPACITY_CAP),
            readiness: Strikes::new(READINESS_CAP),
            asked_to_wait: None,
        }
    }

    pub(super) fn request_failed(&mut self, cause: &Cause, now: Instant) {
        match cause {
            Cause::NoCapacity { .. } => self.capacity.strike(now),
            Cause::Throttled { .. } | Cause::Denied | Cause::Misconfigured | Cause::InDoubt | Cause::Other => {
                self.requests.strike(now);
            }
        }
        self.asked_to_wait = self.asked_to_wait.max(cause.retry_after().map(|wait| now + wait));
    }

    pub(super) fn request_succeeded(&mut self) {
        self.requests.reset();
        self.capacity.reset();
    }

    /// An instance that appeared at `born` did not become ready.
    pub(super) fn instance_failed(&mut self, born: Instant, now: Instant) {
        if self.readiness.last.is_none_or(|last| born >= last) {
            self.readiness.strike(now);
        }
    }

    pub(super) fn instance_succeeded(&mut self) {
        self.readiness.reset();
    }

    /// Whether anything has failed since the last success.
    pub(super) fn is_failing(&self) -> bool {
        self.requests.count > 0 || self.capacity.count > 0 || self.readiness.count > 0
    }

    pub(super) fn failures(&self) -> Failures {
        Failures { requests: self.requests.count, capacity: self.capacity.count, instances: self.readiness.count }
    }

    pub(super) fn allowance(&self, now: Instant) -> Allowance {
        let until = self.requests.until.max(self.capacity.until).max(self.readiness.until).max(self.asked_to_wait);
        match until {
            Some(until) if now < until => Allowance::NotBefore(until),
            _ if self.readiness.count > 0 => Allowance::Probe,
            _ => Allowance::Full,
        }
    }
}

impl Strikes {
    fn new(cap: Duration) -> Self {
        Self { backoff: Backoff::new(FIRST, cap), count: 0, last: None, until: None }
    }

    /// One group has one core, so there is nobody to be out of step with: the wait has no jitter.
    fn strike(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
        self.until = Some(now + self.backoff.next_wait_at(1.0));
    }

    fn reset(&mut self) {
        self.backoff.reset();
        self.count = 0;
        self.last = None;
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_that_fail_together_are_one_step() {
        let start = crate::time::now().instant;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new();
        assert_eq!(breaker.allowance(start), Allowance::Full);
        for _ in 0..10 {
            breaker.instance_failed(start, at(2));
        }
        assert_eq!(breaker.allowance(at(2)), Allowance::NotBefore(at(3)));
        assert_eq!(breaker.allowance(at(3)), Allowance::Probe);
        breaker.instance_failed(at(3), at(5));
        assert_eq!(breaker.allowance(at(6)), Allowance::NotBefore(at(7)));
        breaker.instance_succeeded();
        assert_eq!(breaker.allowance(at(6)), Allowance::Full);
    }

    #[test]
    fn a_broken_image_costs_a_bounded_number_of_instances() {
        let start = crate::time::now().instant;
        let mut breaker = Breaker::new();
        let mut now = start;
        let mut cost = 0;
        while now < start + Duration::from_secs(240) {
            match breaker.allowance(now) {
                Allowance::NotBefore(until) => now = until,
                Allowance::Full | Allowance::Probe => {
                    cost += 1;
                    breaker.instance_failed(now, now + Duration::from_secs(2));
                    now += Duration::from_secs(2);
                }
            }
        }
        assert_eq!(cost, 8, "the reference spends 20 in these four minutes");
    }

    #[test]
    fn refused_requests_wait_longer_each_time_up_to_a_minute() {
        let start = crate::time::now().instant;
        let mut breaker = Breaker::new();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            breaker.request_failed(&Cause::Other, start);
            assert_eq!(breaker.allowance(start), Allowance::NotBefore(start + Duration::from_secs(seconds)));
        }
        assert_eq!(breaker.allowance(start + Duration::from_secs(60)), Allowance::Full);
    }

    #[test]
    fn a_shortage_has_a_back_off_of_its_own() {
        let start = crate::time::now().instant;
        let mut breaker = Breaker::new();
        let shortage = Cause::NoCapacity { what: Some("eu-central-1a, m7i.large".to_owned()) };
        for seconds in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            breaker.request_failed(&shortage, start);
            assert_eq!(breaker.allowance(start), Allowance::NotBefore(start + Duration::from_secs(seconds)));
        }
        assert_eq!(breaker.failures(), Failures { capacity: 9, ..Failures::default() });
        breaker.request_failed(&Cause::Other, start);
        assert_eq!(breaker.failures().requests, 1);
        breaker.request_succeeded();
        assert_eq!((breaker.failures(), breaker.allowance(start)), (Failures::default(), Allowance::Full));
    }

    #[test]
    fn the_providers_wish_to_be_left_alone_is_granted_up_to_ten_minutes() {
        let start = crate::time::now().instant;
        let after = |seconds| Allowance::NotBefore(start + Duration::from_secs(seconds));
        for (wish, granted) in [(None, 1), (Some(0), 1), (Some(30), 30), (Some(86_400), 600)] {
            let mut breaker = Breaker::new();
            breaker.request_failed(&Cause::Throttled { retry_after: wish.map(Duration::from_secs) }, start);
            assert_eq!(breaker.allowance(start), after(granted), "{wish:?}");
        }
        // A success of a call that was under way takes nothing of it back.
        let mut breaker = Breaker::new();
        breaker.request_failed(&Cause::Throttled { retry_after: Some(Duration::from_secs(30)) }, start);
        breaker.request_succeeded();
        assert_eq!(breaker.allowance(start), after(30));
    }
}
