//! When the simulated manager asks for jobs: the rules of one runner's polls, as `manager::admission` has them
//! for many.
//!
//! Polls and jobs together stay within `concurrent` and the runner's `limit`. A runner without news asks once a
//! `check_interval`; one that was just given a job asks again at once, with up to `request_concurrency` polls
//! under way; one that found no capacity asks when there is some.

use std::time::{Duration, Instant};

/// A held poll ends because something changed or its time is up: the job, if there is one, comes with the next.
const HELD: Duration = Duration::from_millis(500);

/// What the configuration says about asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollingRules {
    /// Jobs and polls at once of the whole manager, which serves only this runner here.
    pub concurrent: u32,
    /// The same of the runner; 0 is no limit.
    pub limit: u32,
    /// Between polls that bring no job.
    pub check_interval: Duration,
    /// Polls at once while jobs come; at least 1.
    pub request_concurrency: u32,
    /// After a job a `check_interval` passes too.
    pub strict_check_interval: bool,
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollEnd {
    /// Nothing was asked: there is no capacity to promise.
    NoCapacity,
    NoJob {
        asked: Instant,
        long: bool,
    },
    /// The job keeps the permit.
    Job,
}

/// The polls of one runner.
#[derive(Debug)]
pub(super) struct Polling {
    rules: PollingRules,
    polls: u32,
    jobs: u32,
    due: Instant,
    /// The last answer was a job.
    busy: bool,
    /// The last try found no capacity.
    starved: bool,
}

impl Polling {
    pub(super) fn new(rules: PollingRules, now: Instant) -> Self {
        Self { rules, polls: 0, jobs: 0, due: now, busy: false, starved: false }
    }

    /// Begins a poll if one is due; whether the server may hold it.
    pub(super) fn begin(&mut self, now: Instant) -> Option<bool> {
        if !self.has_room() || self.due > now {
            return None;
        }
        let long = !self.busy;
        self.polls += 1;
        if !(self.busy && self.has_room()) {
            self.due = now + self.rules.check_interval;
        }
        Some(long)
    }

    /// When [`Polling::begin`] is worth asking again, if nothing else happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.has_room().then_some(self.due)
    }

    pub(super) fn end(&mut self, end: PollEnd, now: Instant) {
        self.polls = self.polls.saturating_sub(1);
        self.starved = false;
        match end {
            PollEnd::NoCapacity => {
                self.busy = false;
                self.starved = true;
                self.due = now + self.rules.check_interval;
            }
            PollEnd::NoJob { asked, long } => {
                self.busy = false;
                let held = long && now.saturating_duration_since(asked) >= HELD;
                self.due = if held { now } else { (asked + self.rules.check_interval).max(now) };
            }
            PollEnd::Job => {
                self.jobs += 1;
                self.busy = !self.rules.strict_check_interval;
                self.due = if self.busy { now } else { now + self.rules.check_interval };
            }
        }
    }

    pub(super) fn job_ended(&mut self) {
        self.jobs = self.jobs.saturating_sub(1);
    }

    /// There is capacity again: who found none may ask at once.
    pub(super) fn capacity_changed(&mut self, now: Instant) {
        if std::mem::take(&mut self.starved) {
            self.due = self.due.min(now);
        }
    }

    fn has_room(&self) -> bool {
        let held = self.jobs + self.polls;
        let requests = if self.busy { self.rules.request_concurrency.max(1) } else { 1 };
        let within_limit = self.rules.limit == 0 || held < self.rules.limit;
        self.polls < requests && held < self.rules.concurrent && within_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: PollingRules = PollingRules {
        concurrent: 4,
        limit: 0,
        check_interval: Duration::from_secs(3),
        request_concurrency: 2,
        strict_check_interval: false,
    };

    fn begun(polling: &mut Polling, now: Instant) -> usize {
        std::iter::from_fn(|| polling.begin(now)).count()
    }

    #[test]
    fn without_news_one_poll_an_interval() {
        let start = crate::time::now().instant;
        let mut polling = Polling::new(RULES, start);
        assert_eq!(begun(&mut polling, start), 1);
        polling.end(PollEnd::NoJob { asked: start, long: true }, start + Duration::from_millis(50));
        assert_eq!(polling.poll_timeout(), Some(start + RULES.check_interval));
    }

    #[test]
    fn after_a_job_as_many_polls_as_request_concurrency_until_permits_run_out() {
        let start = crate::time::now().instant;
        let mut polling = Polling::new(RULES, start);
        assert_eq!(begun(&mut polling, start), 1);
        polling.end(PollEnd::Job, start);
        assert_eq!(begun(&mut polling, start), 2);
        polling.end(PollEnd::Job, start);
        polling.end(PollEnd::Job, start);
        assert_eq!(begun(&mut polling, start), 1, "three jobs and one poll are four");
        polling.end(PollEnd::Job, start);
        assert_eq!(begun(&mut polling, start), 0);
        polling.job_ended();
        assert_eq!(begun(&mut polling, start), 1);
    }

    #[test]
    fn a_held_poll_and_new_capacity_are_followed_at_once() {
        let start = crate::time::now().instant;
        let later = start + Duration::from_secs(1);
        let mut polling = Polling::new(RULES, start);
        polling.begin(start);
        polling.end(PollEnd::NoJob { asked: start, long: true }, later);
        assert_eq!(begun(&mut polling, later), 1);
        polling.end(PollEnd::NoCapacity, later);
        assert_eq!(begun(&mut polling, later), 0);
        polling.capacity_changed(later);
        assert_eq!(begun(&mut polling, later), 1);
    }
}
