//! Whether a received job is ours. Pure: answers in, what to do next out.
//!
//! ```text
//!             pending: 200                       running: 200
//!   offered ───────────────▶ two-phase commit ─────────────────▶ ours
//!      │ pending: 400, 405, 409
//!      └─────────────────────▶ it runs already ── running: 200, or no answer for long ──▶ ours
//! ```
//!
//! A server with two-phase commit gives the job to another runner two minutes after it last heard of it, and what we
//! say later would be taken for that runner's word. So a job that is not acknowledged by then is never begun, unless
//! the server is known to have no two-phase commit.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::gitlab::outcome::{UpdateOutcome, UpdateResult};

/// How long an offer counts after the server has heard of it: well below the server's two minutes.
const LAPSES_AFTER: Duration = Duration::from_secs(90);
/// How often a waiting job is announced again: four times in the server's two minutes.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// The waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TwoPhase {
    Unknown,
    Yes,
    No,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same again after this time.
    Again(Duration),
    /// `running` is next, whether there is a slot or not: the server takes the job for running.
    Acknowledge,
    /// The job is ours.
    Ours,
    /// It was cancelled.
    Cancelled,
    /// It is somebody else's.
    Lost,
}

/// A job that GitLab has just handed out.
#[derive(Debug)]
pub struct Offer {
    two_phase: TwoPhase,
    lapses: Instant,
    backoff: Backoff,
}

impl Offer {
    /// The job was received at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            two_phase: TwoPhase::Unknown,
            lapses: now + LAPSES_AFTER,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
        }
    }

    /// An answer to `pending` or `running` that is not there by then comes too late.
    pub fn lapses(&self) -> Instant {
        self.lapses
    }

    /// Whether the job is begun where it has lapsed.
    pub fn runs_already(&self) -> bool {
        self.two_phase == TwoPhase::No
    }

    /// Whether GitLab gives the job to another runner if it hears no more.
    pub fn goes_back_by_itself(&self) -> bool {
        self.two_phase == TwoPhase::Yes
    }

    /// `pending`, sent at `sent`, was answered.
    pub fn pending_answered(&mut self, sent: Instant, result: &UpdateResult) -> Step {
        match result.outcome {
            UpdateOutcome::Succeeded => {
                self.two_phase = TwoPhase::Yes;
                self.lapses = sent + LAPSES_AFTER;
                self.backoff.reset();
                Step::Again(ANNOUNCE_EVERY)
            }
            UpdateOutcome::Aborted => Step::Lost,
            UpdateOutcome::StateRefused | UpdateOutcome::Conflict if self.two_phase == TwoPhase::Unknown => {
                self.two_phase = TwoPhase::No;
                self.backoff.reset();
                Step::Acknowledge
            }
            UpdateOutcome::StateRefused
            | UpdateOutcome::Conflict
            | UpdateOutcome::NotFound
            | UpdateOutcome::AcceptedNotCompleted
            | UpdateOutcome::TraceValidationFailed
            | UpdateOutcome::Failed => self.again(result),
        }
    }

    /// `running` was answered.
    pub fn running_answered(&mut self, result: &UpdateResult) -> Step {
        if result.cancel_requested {
            return Step::Cancelled;
        }
        match result.outcome {
            UpdateOutcome::Succeeded | UpdateOutcome::AcceptedNotCompleted | UpdateOutcome::TraceValidationFailed => {
                Step::Ours
            }
            UpdateOutcome::Aborted => Step::Lost,
            UpdateOutcome::NotFound | UpdateOutcome::StateRefused | UpdateOutcome::Conflict | UpdateOutcome::Failed => {
                self.again(result)
            }
        }
    }

    fn again(&mut self, result: &UpdateResult) -> Step {
        Step::Again(self.backoff.next_wait().max(result.retry_after.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn answer(outcome: UpdateOutcome) -> UpdateResult {
        UpdateResult { outcome, cancel_requested: false, trace_update_interval: None, retry_after: None, status: None }
    }

    fn offer() -> (Instant, Offer) {
        let now = crate::time::now().instant;
        (now, Offer::new(now))
    }

    #[test]
    fn only_a_refused_pending_tells_a_server_without_two_phase_commit() {
        for (outcome, runs) in [
            (UpdateOutcome::StateRefused, true),
            (UpdateOutcome::Conflict, true),
            (UpdateOutcome::Failed, false),
            (UpdateOutcome::NotFound, false),
            (UpdateOutcome::Succeeded, false),
        ] {
            let (now, mut offer) = offer();
            let step = offer.pending_answered(now, &answer(outcome));
            assert_eq!((step == Step::Acknowledge, offer.runs_already()), (runs, runs), "{outcome:?}");
            assert_eq!(offer.goes_back_by_itself(), outcome == UpdateOutcome::Succeeded, "{outcome:?}");
        }
        let (now, mut offer) = offer();
        offer.pending_answered(now, &answer(UpdateOutcome::Succeeded));
        let step = offer.pending_answered(now, &answer(UpdateOutcome::StateRefused));
        assert!(matches!(step, Step::Again(_)) && !offer.runs_already(), "the first answer counts");
    }

    #[test]
    fn an_offer_lapses_after_what_the_server_last_heard() {
        let (now, mut offer) = offer();
        let later = now + ANNOUNCE_EVERY;
        offer.pending_answered(later, &answer(UpdateOutcome::Failed));
        assert_eq!(offer.lapses(), now + LAPSES_AFTER);
        assert_eq!(offer.pending_answered(later, &answer(UpdateOutcome::Succeeded)), Step::Again(ANNOUNCE_EVERY));
        assert_eq!(offer.lapses(), later + LAPSES_AFTER);
        assert!(!offer.runs_already());
    }

    #[test]
    fn failures_are_tried_again_when_the_server_wishes_it() {
        let (now, mut offer) = offer();
        let busy = UpdateResult { retry_after: Some(LONG), ..answer(UpdateOutcome::Failed) };
        assert_eq!(offer.pending_answered(now, &busy), Step::Again(LONG));
        assert_eq!(offer.running_answered(&busy), Step::Again(LONG));
        let Step::Again(wait) = offer.running_answered(&answer(UpdateOutcome::Failed)) else { panic!("no retry") };
        assert!(wait <= LONGEST_RETRY, "{wait:?}");
    }

    #[test]
    fn running_makes_a_job_ours_unless_it_was_cancelled_or_is_somebody_elses() {
        let (_, mut offer) = offer();
        assert_eq!(offer.running_answered(&answer(UpdateOutcome::Succeeded)), Step::Ours);
        assert_eq!(offer.running_answered(&answer(UpdateOutcome::Aborted)), Step::Lost);
        let cancelled = UpdateResult { cancel_requested: true, ..answer(UpdateOutcome::Succeeded) };
        assert_eq!(offer.running_answered(&cancelled), Step::Cancelled);
    }
}
