//! From a received job to an accepted one: GitLab is told `pending` while an instance boots and `running`
//! when there is one. What the answers mean is [`super::offer`]'s.
//!
//! A server with two-phase commit keeps a received job for two minutes; `pending` extends that, and a job
//! that nobody accepts goes back to the queue. A server without it refuses `pending`: then the job is
//! running already, is acknowledged at once, and waits for its instance inside its own time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::job_records::{Ended, JobRecord};
use super::offer::{Offer, Step};
use super::poller::Received;
use super::served::ServedRunner;
use super::shutdown::Phase;
use super::slot::Slot;
use super::telling::{News, Untold};
use crate::error_chain::Chain;
use crate::gitlab::outcome::{JobUpdate, UpdateResult};
use crate::gitlab::wire::JobState;
use crate::job::failure::FailureReason;
use crate::taskscaler::Release;

/// Capacity that is there already is found within this time; a job on it needs no `pending`.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Whether the job is ours.
#[derive(Debug)]
pub enum Accepted {
    /// It runs from now on. The slot may still be missing.
    Yes(Slot),
    /// It is somebody else's, or goes back to the queue; `untold` is what GitLab may still have to hear for that.
    No { untold: Option<Box<Untold>> },
}

/// Why a job is not begun.
enum Refusal {
    /// It is somebody else's.
    NotOurs(&'static str),
    /// It was ours to begin, and is not begun.
    GivenUp(&'static str),
    Cancelled,
}

/// Brings a received job to `running`.
pub async fn accept(runner: &Arc<ServedRunner>, received: &Received, phase: &mut watch::Receiver<Phase>) -> Accepted {
    let mut offer = Offer::new(crate::time::now().instant);
    let mut slot = Slot::new(runner.clone(), received);
    let begun = match wait_for_slot(runner, received, phase, &mut offer, &mut slot).await {
        Ok(()) => acknowledge(runner, received, phase, &mut offer).await,
        refused => refused,
    };
    let Err(refusal) = begun else { return Accepted::Yes(slot) };
    slot.release(Release::Unused).await;
    Accepted::No { untold: not_begun(runner, received, &offer, refusal).map(Box::new) }
}

/// Announces the job until there is a slot for it. Where there is none in time, a server with two-phase commit has the
/// job back; any other has it acknowledged without.
async fn wait_for_slot(
    runner: &ServedRunner,
    received: &Received,
    phase: &mut watch::Receiver<Phase>,
    offer: &mut Offer,
    slot: &mut Slot,
) -> Result<(), Refusal> {
    let mut waited = tokio::time::timeout(AT_ONCE, slot.wait()).await.ok();
    let acquire_by = slot.acquire_by().unwrap_or_else(|| crate::time::now().instant);
    while waited.is_none() && crate::time::now().instant < acquire_by {
        let sent = crate::time::now().instant;
        let result = in_time(offer, update(runner, received, JobState::Pending)).await?;
        let wait = match offer.pending_answered(sent, &result) {
            Step::Again(wait) => wait,
            Step::Lost => return Err(Refusal::NotOurs("the server took it back while its instance was made")),
            Step::Cancelled => return Err(Refusal::Cancelled),
            Step::Acknowledge | Step::Ours => {
                debug!(status = result.status, "the server knows no pending jobs");
                break;
            }
        };
        let until = (crate::time::now().instant + wait).min(acquire_by).min(offer.lapses());
        tokio::select! {
            answer = slot.wait() => waited = Some(answer),
            () = tokio::time::sleep_until(until.into()) => {}
            () = aborting(phase) => return Err(Refusal::GivenUp("the manager stops")),
        }
    }
    if let Some(Err(error)) = waited {
        warn!(error = %Chain(&error), "no slot yet");
    }
    if !slot.is_held() && offer.goes_back_by_itself() {
        return Err(Refusal::GivenUp("there was no instance for it in time"));
    }
    Ok(())
}

/// Says `running` until that is answered.
async fn acknowledge(
    runner: &ServedRunner,
    received: &Received,
    phase: &mut watch::Receiver<Phase>,
    offer: &mut Offer,
) -> Result<(), Refusal> {
    // From the acknowledgement on the job is lost with us, unless somebody knows of it.
    if let Err(error) = runner.records.keep(&JobRecord::new(runner, received)).await {
        error!(error = %Chain(&error), "the job cannot be written down");
        return Err(Refusal::GivenUp("nobody would know of it after a crash"));
    }
    loop {
        let result = match in_time(offer, update(runner, received, JobState::Running)).await {
            Ok(result) => result,
            Err(_) if offer.runs_already() => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        let wait = match offer.running_answered(&result) {
            Step::Ours => return Ok(()),
            Step::Cancelled => return Err(Refusal::Cancelled),
            Step::Lost => return Err(Refusal::NotOurs("the server does not know it as ours")),
            Step::Again(wait) => wait,
            Step::Acknowledge => Duration::ZERO,
        };
        let until = (crate::time::now().instant + wait).min(offer.lapses());
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = aborting(phase) => return Err(Refusal::GivenUp("the manager stops")),
        }
    }
}

/// The answer, where it comes while the offer counts.
async fn in_time(offer: &Offer, update: impl Future<Output = UpdateResult>) -> Result<UpdateResult, Refusal> {
    let answered = tokio::time::timeout_at(offer.lapses().into(), update).await;
    answered.map_err(|_| Refusal::GivenUp("GitLab did not hear of it in time"))
}

/// What GitLab has to hear of a job that is not begun.
fn not_begun(runner: &ServedRunner, received: &Received, offer: &Offer, refusal: Refusal) -> Option<Untold> {
    let (why, news) = match refusal {
        Refusal::NotOurs(why) => (why, None),
        Refusal::GivenUp(why) if offer.goes_back_by_itself() => (why, None),
        Refusal::GivenUp(why) => (why, Some(News::NotBegun)),
        Refusal::Cancelled => {
            let supported = &received.job.payload.features.failure_reasons;
            let reason = FailureReason::JobCanceled.for_server(supported).as_str().to_owned();
            let ended = Ended { failure_reason: Some(reason), exit_code: None };
            runner.records.note_end(&received.reservation, &ended);
            ("it was cancelled before it began", Some(News::Ended(ended)))
        }
    };
    info!(why, "job not accepted");
    news.map(|news| Untold::new(runner, received.reservation.clone(), received.job.credentials.clone(), news))
}

async fn update(runner: &ServedRunner, received: &Received, state: JobState) -> UpdateResult {
    let update = JobUpdate::new(runner.client.info().clone(), state);
    let result = runner.client.update_job(&received.job.credentials, &update).await;
    debug!(?state, status = result.status, "Updating job...");
    result
}

/// Resolves when running jobs are to be ended.
pub async fn aborting(phase: &mut watch::Receiver<Phase>) {
    let told = phase.wait_for(|phase| matches!(phase, Phase::Aborting { .. } | Phase::Exiting)).await.is_ok();
    if !told {
        // The manager is gone, and its tasks with it.
        std::future::pending::<()>().await;
    }
}
