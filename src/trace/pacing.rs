//! When to send what while the job runs. Pure: it is told what happened and says what to do next.
//!
//! Patches follow the interval that GitLab asks for, except the first bytes of the trace and of the
//! script's output, which leave at once. A job that has sent nothing for a while is asked about with an
//! update, since the answer is how a cancel is noticed. A failed call is tried again with growing waits;
//! what GitLab asks for with `Retry-After` wins. Patches that fail keep no update back.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::gitlab::outcome::{GONE_AFTER, PatchOutcome, PatchResult, UpdateOutcome, UpdateResult};

/// Between two patches until GitLab says otherwise.
const FIRST_INTERVAL: Duration = Duration::from_secs(3);
const LONGEST_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// New bytes wait so long for more of them, so that a burst is one patch.
const GATHER: Duration = Duration::from_millis(150);

/// A job without any call for so long is asked about; a little less than the 10 s in which a cancel has
/// to be noticed, for the call itself.
const KEEP_ALIVE: Duration = Duration::from_millis(9_500);
/// The same on a server that answers 429.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Waits after failed calls: short outages are over soon, long ones must not be hammered.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// No server is obeyed for longer.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

/// So many times in a row a different position of the server's is believed at once; then it counts as a failure.
pub(super) const REWINDS_IN_A_ROW: u32 = 3;

const TOO_MANY_REQUESTS: u16 = 429;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the next bytes.
    Patch,
    /// Ask about the job with an update.
    KeepAlive,
    /// GitLab has not known the job for long: it is not ours any more.
    Abort,
    /// Nothing before then, unless more of the trace comes.
    Wait { until: Instant },
}

/// What is there to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// When the first byte came that has not been tried yet; None where all were, and failed.
    pub since: Option<Instant>,
    /// It is the beginning of the trace or of the script's output.
    pub is_prompt: bool,
}

/// The decider. Every call about the job is told to it.
#[derive(Debug)]
pub struct Pacing {
    interval: Duration,
    keep_alive: Duration,
    last_patch: Option<Instant>,
    /// The last answer that was no failure.
    last_contact: Instant,
    /// No call before then.
    not_before: Option<Instant>,
    backoff: Backoff,
    /// No patch before then: the last one failed.
    patch_not_before: Option<Instant>,
    patch_backoff: Backoff,
    /// The last call was that patch: an update that is due goes first.
    patch_failed_last: bool,
    /// Since when updates find no such job.
    missing_since: Option<Instant>,
    is_gone: bool,
    rewinds: u32,
    /// The last patch did not arrive, or not where it should: the next one does not wait for the interval.
    is_overdue: bool,
}

impl Pacing {
    /// The job begins at `now`, when GitLab has just heard of it.
    pub fn new(now: Instant) -> Self {
        Self {
            interval: FIRST_INTERVAL,
            keep_alive: KEEP_ALIVE,
            last_patch: None,
            last_contact: now,
            not_before: None,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            patch_not_before: None,
            patch_backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            patch_failed_last: false,
            missing_since: None,
            is_gone: false,
            rewinds: 0,
            is_overdue: false,
        }
    }

    /// What to do at `now`, given what is there to send.
    pub fn next(&self, now: Instant, unsent: Option<Unsent>) -> Next {
        if self.is_gone {
            return Next::Abort;
        }
        let allowed = |at: Instant| self.not_before.map_or(at, |not_before| at.max(not_before));
        let keep_alive = allowed(self.last_contact + self.keep_alive);
        let patch = unsent.map(|unsent| allowed(self.patch_time(now, unsent)));
        match patch {
            Some(_) if self.patch_failed_last && keep_alive <= now => Next::KeepAlive,
            Some(at) if at <= now => Next::Patch,
            Some(_) | None if keep_alive <= now => Next::KeepAlive,
            Some(at) => Next::Wait { until: at.min(keep_alive) },
            None => Next::Wait { until: keep_alive },
        }
    }

    fn patch_time(&self, now: Instant, unsent: Unsent) -> Instant {
        if let Some(at) = self.patch_not_before {
            return at;
        }
        let gathered = unsent.since.map_or(now, |since| since + GATHER);
        match self.last_patch {
            Some(_) if self.is_overdue => now,
            Some(last) if !unsent.is_prompt => gathered.max(last + self.interval),
            Some(_) | None => gathered,
        }
    }

    /// A patch that began at position `start` was answered.
    pub fn patch_answered(&mut self, now: Instant, start: u64, result: &PatchResult) {
        self.last_patch = Some(now);
        self.is_overdue = true;
        self.patch_not_before = None;
        self.patch_failed_last = false;
        self.heed(now, result.trace_update_interval, result.retry_after, false);
        match result.outcome {
            PatchOutcome::Succeeded { .. } => {
                self.is_overdue = false;
                self.rewinds = 0;
                self.patch_backoff.reset();
                self.succeeded(now);
            }
            PatchOutcome::RangeMismatch { server_has } if server_has != start && self.rewinds < REWINDS_IN_A_ROW => {
                self.rewinds += 1;
                self.last_contact = now;
            }
            // After an abort nothing is asked of this decider any more.
            PatchOutcome::RangeMismatch { .. }
            | PatchOutcome::NotFound
            | PatchOutcome::Aborted
            | PatchOutcome::Failed => {
                self.rewinds = 0;
                self.patch_failed_last = true;
                self.patch_not_before = Some(now + self.patch_backoff.next_wait());
            }
        }
    }

    /// An update that says the job runs was answered.
    pub fn update_answered(&mut self, now: Instant, result: &UpdateResult) {
        self.patch_failed_last = false;
        self.heed(now, result.trace_update_interval, result.retry_after, result.status == Some(TOO_MANY_REQUESTS));
        match result.outcome {
            UpdateOutcome::Succeeded | UpdateOutcome::AcceptedNotCompleted | UpdateOutcome::TraceValidationFailed => {
                self.succeeded(now);
            }
            UpdateOutcome::NotFound => {
                let since = *self.missing_since.get_or_insert(now);
                self.is_gone = now.saturating_duration_since(since) >= GONE_AFTER;
                self.failed(now, result.retry_after);
            }
            UpdateOutcome::Aborted | UpdateOutcome::StateRefused | UpdateOutcome::Conflict | UpdateOutcome::Failed => {
                self.failed(now, result.retry_after);
            }
        }
    }

    fn succeeded(&mut self, now: Instant) {
        self.last_contact = now;
        self.backoff.reset();
        self.missing_since = None;
    }

    fn failed(&mut self, now: Instant, retry_after: Option<Duration>) {
        let wait = self.backoff.next_wait();
        self.not_before = Some(now + retry_after.map_or(wait, |asked| asked.min(LONGEST_RETRY_AFTER).max(wait)));
    }

    /// Follows the server's wishes about the time between calls.
    fn heed(&mut self, now: Instant, interval: Option<Duration>, retry_after: Option<Duration>, throttled: bool) {
        if let Some(interval) = interval.filter(|interval| !interval.is_zero()) {
            self.interval = interval.min(LONGEST_INTERVAL);
        }
        self.not_before = retry_after.map(|asked| now + asked.min(LONGEST_RETRY_AFTER));
        let is_pushed_back = throttled || retry_after.is_some();
        self.keep_alive = if is_pushed_back { (self.keep_alive * 2).min(LONGEST_KEEP_ALIVE) } else { KEEP_ALIVE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_SENT: PatchResult = PatchResult {
        outcome: PatchOutcome::Succeeded { sent_to: 10 },
        cancel_requested: false,
        trace_update_interval: None,
        retry_after: None,
    };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn start() -> (Instant, Pacing) {
        let now = crate::time::now().instant;
        (now, Pacing::new(now))
    }

    fn ordinary(since: Instant) -> Option<Unsent> {
        Some(Unsent { since: Some(since), is_prompt: false })
    }

    fn updated(outcome: UpdateOutcome, status: u16, retry_after: Option<Duration>) -> UpdateResult {
        UpdateResult {
            outcome,
            cancel_requested: false,
            trace_update_interval: None,
            retry_after,
            status: Some(status),
        }
    }

    #[test]
    fn first_bytes_leave_after_gathering_and_later_ones_by_the_interval() {
        let (begin, mut pacing) = start();
        let prompt = Some(Unsent { since: Some(begin), is_prompt: true });
        assert_eq!(pacing.next(begin, prompt), Next::Wait { until: begin + GATHER });
        assert_eq!(pacing.next(begin + GATHER, prompt), Next::Patch);
        pacing.patch_answered(begin + GATHER, 0, &NOW_SENT);
        let later = begin + seconds(1.0);
        assert_eq!(pacing.next(later, ordinary(later)), Next::Wait { until: begin + GATHER + FIRST_INTERVAL });
        assert_eq!(pacing.next(begin + GATHER + FIRST_INTERVAL, ordinary(later)), Next::Patch);
        assert_eq!(pacing.next(later + GATHER, Some(Unsent { since: Some(later), is_prompt: true })), Next::Patch);
    }

    #[test]
    fn bytes_after_a_silence_longer_than_the_interval_leave_after_gathering() {
        let (begin, mut pacing) = start();
        pacing.patch_answered(begin, 0, &NOW_SENT);
        let later = begin + seconds(5.0);
        assert_eq!(pacing.next(later, ordinary(later)), Next::Wait { until: later + GATHER });
    }

    #[test]
    fn a_silent_job_is_asked_about_whatever_the_interval() {
        let (begin, mut pacing) = start();
        pacing.patch_answered(begin, 0, &PatchResult { trace_update_interval: Some(seconds(60.0)), ..NOW_SENT });
        assert_eq!(pacing.next(begin, None), Next::Wait { until: begin + KEEP_ALIVE });
        assert_eq!(pacing.next(begin + KEEP_ALIVE, None), Next::KeepAlive);
        // Bytes that wait for the interval are no reason to stay silent.
        assert_eq!(pacing.next(begin + KEEP_ALIVE, ordinary(begin)), Next::KeepAlive);
        pacing.update_answered(begin + KEEP_ALIVE, &updated(UpdateOutcome::Succeeded, 200, None));
        assert_eq!(pacing.next(begin + KEEP_ALIVE, None), Next::Wait { until: begin + 2 * KEEP_ALIVE });
        assert_eq!(pacing.next(begin + seconds(60.0), ordinary(begin)), Next::Patch);
    }

    #[test]
    fn throttling_makes_questions_rarer_until_a_calm_answer() {
        let (begin, mut pacing) = start();
        pacing.update_answered(begin, &updated(UpdateOutcome::Failed, 429, Some(seconds(40.0))));
        assert_eq!(pacing.next(begin, ordinary(begin)), Next::Wait { until: begin + seconds(40.0) });
        let again = begin + seconds(40.0);
        assert_eq!(pacing.next(again, None), Next::KeepAlive);
        pacing.update_answered(again, &updated(UpdateOutcome::Succeeded, 200, Some(seconds(30.0))));
        assert_eq!(pacing.next(again, None), Next::Wait { until: again + 4 * KEEP_ALIVE });
        pacing.update_answered(again, &updated(UpdateOutcome::Succeeded, 200, None));
        assert_eq!(pacing.next(again, None), Next::Wait { until: again + KEEP_ALIVE });
    }

    #[test]
    fn an_absurd_retry_after_is_not_obeyed() {
        let (begin, mut pacing) = start();
        pacing.update_answered(begin, &updated(UpdateOutcome::Failed, 429, Some(seconds(1e9))));
        assert_eq!(pacing.next(begin, None), Next::Wait { until: begin + LONGEST_RETRY_AFTER });
    }

    #[test]
    fn failures_wait_longer_and_longer_up_to_half_a_minute() {
        let (begin, mut pacing) = start();
        let failed = PatchResult { outcome: PatchOutcome::Failed, ..NOW_SENT };
        let mut waits = Vec::new();
        for _ in 0..8 {
            pacing.patch_answered(begin, 0, &failed);
            let Some(not_before) = pacing.patch_not_before else { panic!("a failure has to be waited out") };
            waits.push((not_before - begin).as_secs_f64());
        }
        assert!(waits[0] <= 1.0 && waits[7] >= 15.0 && waits[7] <= 30.0, "{waits:?}");
        assert_eq!(pacing.next(begin, ordinary(begin)), Next::Wait { until: begin + KEEP_ALIVE });
    }

    #[test]
    fn patches_and_updates_that_fail_leave_each_other_their_turn() {
        let (begin, mut pacing) = start();
        let mut now = begin;
        let failed = PatchResult { outcome: PatchOutcome::Failed, ..NOW_SENT };
        let (mut asked, mut patched) = (Vec::new(), 0);
        while asked.len() < 20 {
            match pacing.next(now, ordinary(begin)) {
                Next::Patch => {
                    patched += 1;
                    pacing.patch_answered(now, 0, &failed);
                }
                Next::KeepAlive => {
                    asked.push(now);
                    let is_first_half = asked.len() <= 10;
                    let outcome = if is_first_half { UpdateOutcome::Succeeded } else { UpdateOutcome::Failed };
                    pacing.update_answered(now, &updated(outcome, if is_first_half { 200 } else { 500 }, None));
                }
                Next::Wait { until } => now = until,
                Next::Abort => panic!("the job is known"),
            }
        }
        let longest = asked.windows(2).take(9).map(|two| two[1] - two[0]).max();
        assert_eq!(longest, Some(KEEP_ALIVE), "whatever patches do");
        assert!(patched >= 10, "{patched} patches");
    }

    #[test]
    fn only_a_job_that_is_missing_for_minutes_is_given_up() {
        let (begin, mut pacing) = start();
        let missing = updated(UpdateOutcome::NotFound, 404, None);
        for at in [0, 10, 290] {
            pacing.update_answered(begin + seconds(f64::from(at)), &missing);
            assert_ne!(pacing.next(begin, None), Next::Abort, "after {at} s");
        }
        pacing.update_answered(begin + seconds(295.0), &updated(UpdateOutcome::Succeeded, 200, None));
        pacing.update_answered(begin + seconds(305.0), &missing);
        assert_ne!(pacing.next(begin, None), Next::Abort, "it was there in between");
        pacing.update_answered(begin + seconds(305.0) + GONE_AFTER, &missing);
        assert_eq!(pacing.next(begin, None), Next::Abort);
    }

    #[test]
    fn a_rewind_is_followed_at_once_but_not_for_ever() {
        let (begin, mut pacing) = start();
        pacing.patch_answered(begin, 0, &NOW_SENT);
        let mismatch = PatchResult { outcome: PatchOutcome::RangeMismatch { server_has: 4 }, ..NOW_SENT };
        let tried = Some(Unsent { since: None, is_prompt: false });
        for _ in 0..REWINDS_IN_A_ROW {
            pacing.patch_answered(begin, 10, &mismatch);
            assert_eq!(pacing.next(begin, tried), Next::Patch);
        }
        pacing.patch_answered(begin, 10, &mismatch);
        assert!(matches!(pacing.next(begin, tried), Next::Wait { .. }));
        pacing.patch_answered(begin, 4, &mismatch);
        assert!(matches!(pacing.next(begin, tried), Next::Wait { .. }), "the same position again is no progress");
    }
}
