//! How the final state gets to GitLab. Pure, like [`super::pacing`].
//!
//! ```text
//! trace left to send ─→ Patch ─ok, 416─→ …       416: from where the server's copy ends
//! all sent, or GitLab wants no more of it (403, for minutes 404), or takes none for long ─→ Update
//! Update ─200─→ Accepted   ─403, for minutes 404─→ Refused
//!        ─202─→ wait, Update again               the trace is not stored yet
//!        ─412─→ send the trace from 0, Update    the copy is not what we say
//!        ─else─→ wait, Update again              growing waits, until the limits
//! ```
//!
//! A result outlives an outage of GitLab: the limit on tries counts only after [`PERSISTENCE`]. A trace that does not
//! get through by then keeps the state no longer back: it is told once, and given up where that fails too.
//!
//! 404 is what a proxy may say while GitLab restarts, so it ends the trace only after [`GONE_AFTER`]: told before, the
//! state could be taken, and what is left of the trace would be lost. Patches and updates share that time.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::gitlab::outcome::{GONE_AFTER, PatchOutcome, PatchResult, UpdateOutcome, UpdateResult};

use super::api::FinalOutcome;
use super::pacing::{FIRST_RETRY, LONGEST_RETRY, LONGEST_RETRY_AFTER, REWINDS_IN_A_ROW};

/// Between two updates while GitLab stores the trace, until it says otherwise.
const FIRST_INTERVAL: Duration = Duration::from_secs(3);
/// GitLab's own waits for that grow to about a minute.
const LONGEST_INTERVAL: Duration = Duration::from_secs(64);

/// So long an outage is outlived, whatever the limit on tries.
const PERSISTENCE: Duration = Duration::from_secs(10 * 60);

/// GitLab stops waiting for a trace to be stored after 5 minutes; after three times that we do.
const LONGEST_STORING: Duration = Duration::from_secs(15 * 60);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalNext {
    /// Send the next bytes of the trace.
    Patch,
    /// Tell the final state.
    Update,
    Wait {
        until: Instant,
    },
    Done(FinalOutcome),
}

/// The decider.
#[derive(Debug)]
pub struct Finishing {
    retry_limit: u32,
    interval: Duration,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// Failures in a row and when they began.
    failures: Option<(u32, Instant)>,
    /// When GitLab first said that the trace is not stored yet, or not right.
    storing_since: Option<Instant>,
    rewinds: u32,
    /// Since when GitLab finds no such job, whatever it is asked.
    missing_since: Option<Instant>,
    /// GitLab takes no more of the trace.
    trace_is_refused: bool,
    outcome: Option<FinalOutcome>,
}

impl Finishing {
    /// Gives up after `retry_limit` failures in a row, but not before an outage of ten minutes.
    pub fn new(retry_limit: u32) -> Self {
        Self {
            retry_limit,
            interval: FIRST_INTERVAL,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            not_before: None,
            failures: None,
            storing_since: None,
            rewinds: 0,
            missing_since: None,
            trace_is_refused: false,
            outcome: None,
        }
    }

    /// GitLab has said before that the job is not ours, or the trace cannot be read: no more patches.
    pub fn refuse_trace(&mut self) {
        self.trace_is_refused = true;
    }

    /// What to do at `now`, given whether some of the trace is not at GitLab.
    pub fn next(&self, now: Instant, has_unsent: bool) -> FinalNext {
        if let Some(outcome) = self.outcome {
            return FinalNext::Done(outcome);
        }
        match self.not_before {
            Some(until) if now < until => FinalNext::Wait { until },
            Some(_) | None if has_unsent && !self.trace_is_refused => FinalNext::Patch,
            Some(_) | None => FinalNext::Update,
        }
    }

    /// A patch that began at position `start` was answered.
    pub fn patch_answered(&mut self, now: Instant, start: u64, result: &PatchResult) {
        self.heed(now, result.trace_update_interval, result.retry_after);
        match result.outcome {
            PatchOutcome::Succeeded { .. } => {
                self.rewinds = 0;
                self.missing_since = None;
                self.progressed();
            }
            PatchOutcome::RangeMismatch { server_has } if server_has != start && self.rewinds < REWINDS_IN_A_ROW => {
                self.missing_since = None;
                self.rewinds += 1;
            }
            PatchOutcome::Aborted => self.trace_is_refused = true,
            PatchOutcome::NotFound => {
                self.rewinds = 0;
                let has_failed_for_long = self.failed(now, result.retry_after);
                self.trace_is_refused = self.is_gone(now) || has_failed_for_long;
            }
            PatchOutcome::RangeMismatch { .. } | PatchOutcome::Failed => {
                self.rewinds = 0;
                self.trace_is_refused = self.failed(now, result.retry_after);
            }
        }
    }

    /// The update with the final state was answered.
    pub fn update_answered(&mut self, now: Instant, result: &UpdateResult) {
        self.heed(now, result.trace_update_interval, result.retry_after);
        match result.outcome {
            UpdateOutcome::Succeeded => self.outcome = Some(FinalOutcome::Accepted),
            UpdateOutcome::Aborted => self.outcome = Some(FinalOutcome::Refused),
            UpdateOutcome::AcceptedNotCompleted | UpdateOutcome::TraceValidationFailed => {
                self.missing_since = None;
                self.progressed();
                let since = *self.storing_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= LONGEST_STORING {
                    self.outcome = Some(FinalOutcome::GaveUp);
                }
                self.wait_until(now + self.interval);
            }
            UpdateOutcome::NotFound => {
                self.update_failed(now, result.retry_after);
                if self.is_gone(now) {
                    self.outcome = Some(FinalOutcome::Refused);
                }
            }
            UpdateOutcome::StateRefused | UpdateOutcome::Conflict | UpdateOutcome::Failed => {
                self.update_failed(now, result.retry_after);
            }
        }
    }

    /// GitLab has just found no such job: whether it has not for so long that there is none.
    fn is_gone(&mut self, now: Instant) -> bool {
        let since = *self.missing_since.get_or_insert(now);
        now.saturating_duration_since(since) >= GONE_AFTER
    }

    fn progressed(&mut self) {
        self.failures = None;
        self.backoff.reset();
    }

    fn update_failed(&mut self, now: Instant, retry_after: Option<Duration>) {
        if self.failed(now, retry_after) {
            self.outcome = Some(FinalOutcome::GaveUp);
        }
    }

    /// Whether that is enough.
    fn failed(&mut self, now: Instant, retry_after: Option<Duration>) -> bool {
        let (count, since) = self.failures.unwrap_or((0, now));
        self.failures = Some((count + 1, since));
        let wait = self.backoff.next_wait();
        self.wait_until(now + retry_after.map_or(wait, |asked| asked.min(LONGEST_RETRY_AFTER).max(wait)));
        count + 1 >= self.retry_limit && now.saturating_duration_since(since) >= PERSISTENCE
    }

    fn heed(&mut self, now: Instant, interval: Option<Duration>, retry_after: Option<Duration>) {
        if let Some(interval) = interval.filter(|interval| !interval.is_zero()) {
            self.interval = interval.min(LONGEST_INTERVAL);
        }
        self.not_before = retry_after.map(|asked| now + asked.min(LONGEST_RETRY_AFTER));
    }

    fn wait_until(&mut self, until: Instant) {
        self.not_before = Some(self.not_before.map_or(until, |asked| asked.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(outcome: PatchOutcome) -> PatchResult {
        PatchResult { outcome, cancel_requested: false, trace_update_interval: None, retry_after: None }
    }

    fn updated(outcome: UpdateOutcome, interval: Option<u64>) -> UpdateResult {
        let trace_update_interval = interval.map(Duration::from_secs);
        UpdateResult { outcome, cancel_requested: false, trace_update_interval, retry_after: None, status: None }
    }

    fn start() -> (Instant, Finishing) {
        (crate::time::now().instant, Finishing::new(10))
    }

    #[test]
    fn the_trace_goes_before_the_state() {
        let (now, mut finishing) = start();
        assert_eq!(finishing.next(now, true), FinalNext::Patch);
        finishing.patch_answered(now, 0, &patched(PatchOutcome::Succeeded { sent_to: 10 }));
        assert_eq!(finishing.next(now, true), FinalNext::Patch);
        assert_eq!(finishing.next(now, false), FinalNext::Update);
        finishing.update_answered(now, &updated(UpdateOutcome::Succeeded, None));
        assert_eq!(finishing.next(now, false), FinalNext::Done(FinalOutcome::Accepted));
    }

    #[test]
    fn a_refused_trace_does_not_keep_the_state_back() {
        let (now, mut finishing) = start();
        finishing.patch_answered(now, 0, &patched(PatchOutcome::Aborted));
        assert_eq!(finishing.next(now, true), FinalNext::Update);
        finishing.update_answered(now, &updated(UpdateOutcome::Aborted, None));
        assert_eq!(finishing.next(now, true), FinalNext::Done(FinalOutcome::Refused));
    }

    /// Answers until the end: patches always fail, and the state is heard or not.
    fn with_failing_patches(patch: PatchOutcome, update: UpdateOutcome) -> (FinalOutcome, Duration, usize) {
        let (begin, mut finishing) = start();
        let (mut now, mut updates) = (begin, 0);
        loop {
            match finishing.next(now, true) {
                FinalNext::Wait { until } => now = until,
                FinalNext::Patch => finishing.patch_answered(now, 0, &patched(patch)),
                FinalNext::Update => {
                    updates += 1;
                    finishing.update_answered(now, &updated(update, None));
                }
                FinalNext::Done(outcome) => return (outcome, now - begin, updates),
            }
        }
    }

    #[test]
    fn the_state_is_told_all_the_same_where_the_trace_does_not_get_through() {
        for (patch, after) in [
            (PatchOutcome::Failed, PERSISTENCE),
            (PatchOutcome::RangeMismatch { server_has: 0 }, PERSISTENCE),
            (PatchOutcome::NotFound, GONE_AFTER),
        ] {
            let (outcome, took, updates) = with_failing_patches(patch, UpdateOutcome::Succeeded);
            assert_eq!((outcome, updates), (FinalOutcome::Accepted, 1), "{patch:?}");
            assert!(took >= after && took <= after + 2 * LONGEST_RETRY, "{patch:?}: {took:?}");
        }
        let (outcome, _, updates) = with_failing_patches(PatchOutcome::Failed, UpdateOutcome::Failed);
        assert_eq!((outcome, updates), (FinalOutcome::GaveUp, 1));
    }

    #[test]
    fn a_job_that_is_gone_is_given_up_after_the_same_time_whatever_was_asked_of_it() {
        let (outcome, took, updates) = with_failing_patches(PatchOutcome::NotFound, UpdateOutcome::NotFound);
        assert_eq!((outcome, updates), (FinalOutcome::Refused, 1));
        assert!(took >= GONE_AFTER && took <= GONE_AFTER + 2 * LONGEST_RETRY, "{took:?}");
    }

    #[test]
    fn a_job_that_was_not_found_for_a_while_loses_nothing_of_its_trace() {
        let (begin, mut finishing) = start();
        let (mut now, mut updates) = (begin, 0);
        let mut left = true;
        loop {
            match finishing.next(now, left) {
                FinalNext::Wait { until } => now = until,
                FinalNext::Patch if now - begin < GONE_AFTER / 2 => {
                    finishing.patch_answered(now, 0, &patched(PatchOutcome::NotFound));
                }
                FinalNext::Patch => {
                    finishing.patch_answered(now, 0, &patched(PatchOutcome::Succeeded { sent_to: 10 }));
                    left = false;
                }
                FinalNext::Update => {
                    assert!(!left, "the state is told after the trace");
                    updates += 1;
                    // Another while begins with the first such answer.
                    let is_first = updates == 1;
                    if is_first {
                        now = begin + GONE_AFTER;
                    }
                    let answer = if is_first { UpdateOutcome::NotFound } else { UpdateOutcome::Succeeded };
                    finishing.update_answered(now, &updated(answer, None));
                }
                FinalNext::Done(outcome) => return assert_eq!(outcome, FinalOutcome::Accepted),
            }
        }
    }

    #[test]
    fn only_a_job_that_is_missing_for_minutes_is_given_up() {
        let (now, mut finishing) = start();
        finishing.update_answered(now, &updated(UpdateOutcome::NotFound, None));
        assert!(matches!(finishing.next(now, false), FinalNext::Wait { .. }));
        let mut back = finishing;
        back.update_answered(now + GONE_AFTER, &updated(UpdateOutcome::NotFound, None));
        assert_eq!(back.next(now, false), FinalNext::Done(FinalOutcome::Refused));
    }

    #[test]
    fn a_trace_that_is_being_stored_is_asked_about_at_the_servers_pace() {
        let (now, mut finishing) = start();
        finishing.update_answered(now, &updated(UpdateOutcome::AcceptedNotCompleted, None));
        assert_eq!(finishing.next(now, false), FinalNext::Wait { until: now + FIRST_INTERVAL });
        finishing.update_answered(now, &updated(UpdateOutcome::AcceptedNotCompleted, Some(1)));
        let second = now + Duration::from_secs(1);
        assert_eq!(finishing.next(now, false), FinalNext::Wait { until: second });
        assert_eq!(finishing.next(second, false), FinalNext::Update);
        finishing.update_answered(now + LONGEST_STORING, &updated(UpdateOutcome::AcceptedNotCompleted, Some(1)));
        assert_eq!(finishing.next(second, false), FinalNext::Done(FinalOutcome::GaveUp));
    }

    #[test]
    fn an_outage_of_minutes_is_outlived_whatever_the_limit() {
        let (begin, _) = start();
        let mut finishing = Finishing::new(1);
        let (mut now, mut tries) = (begin, 0);
        let outcome = loop {
            match finishing.next(now, false) {
                FinalNext::Wait { until } => now = until,
                FinalNext::Update => {
                    tries += 1;
                    finishing.update_answered(now, &updated(UpdateOutcome::Failed, None));
                }
                FinalNext::Done(outcome) => break outcome,
                FinalNext::Patch => panic!("there is nothing to send"),
            }
        };
        assert_eq!(outcome, FinalOutcome::GaveUp);
        assert!(now - begin >= PERSISTENCE && now - begin <= PERSISTENCE + LONGEST_RETRY, "{:?}", now - begin);
        assert!((20..60).contains(&tries), "{tries} tries");
    }

    #[test]
    fn the_limit_on_tries_is_kept_after_that() {
        let (begin, _) = start();
        let mut finishing = Finishing::new(1000);
        finishing.update_answered(begin, &updated(UpdateOutcome::Failed, None));
        let later = begin + 2 * PERSISTENCE;
        for _ in 2..1000 {
            finishing.update_answered(later, &updated(UpdateOutcome::Failed, None));
            assert!(matches!(finishing.next(later, false), FinalNext::Wait { .. }));
        }
        finishing.update_answered(later, &updated(UpdateOutcome::Failed, None));
        assert_eq!(finishing.next(later, false), FinalNext::Done(FinalOutcome::GaveUp));
    }

    #[test]
    fn retry_after_wins_over_shorter_waits() {
        let (now, mut finishing) = start();
        let asked = Duration::from_secs(60);
        finishing.patch_answered(now, 0, &PatchResult { retry_after: Some(asked), ..patched(PatchOutcome::Failed) });
        assert_eq!(finishing.next(now, true), FinalNext::Wait { until: now + asked });
    }
}
