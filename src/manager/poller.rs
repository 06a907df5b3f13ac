//! One poll: capacity first, then the request, and the capacity back where no job came.

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::admission::PollOutcome;
use super::job_records::Ended;
use super::served::ServedRunner;
use super::telling::{News, Untold};
use crate::error_chain::Chain;
use crate::gitlab::outcome::{ReceivedJob, RequestOutcome, RequestResult};
use crate::gitlab::{JobCredentials, Poll};
use crate::ids::ReservationKey;
use crate::job::failure::FailureReason;

/// A job and the capacity that was reserved for it.
#[derive(Debug)]
pub struct Received {
    pub job: Box<ReceivedJob>,
    pub reservation: ReservationKey,
}

/// What a poll came to.
#[derive(Debug)]
pub struct Polled {
    pub outcome: PollOutcome,
    pub received: Option<Received>,
    /// A job that was received and cannot be run.
    pub untold: Option<Box<Untold>>,
}

impl Polled {
    fn without_job(outcome: PollOutcome) -> Self {
        Self { outcome, received: None, untold: None }
    }
}

/// Asks for one job that `reservation` is for. `cancel` ends a request that is still held by the server.
pub async fn poll(
    runner: &ServedRunner,
    reservation: ReservationKey,
    long: bool,
    cancel: &CancellationToken,
) -> Polled {
    let began = crate::time::now().instant;
    let no_capacity = || Polled::without_job(PollOutcome::NoCapacity { asked: began });
    let reserved = tokio::select! {
        reserved = runner.capacity.reserve(&reservation) => reserved,
        // Whatever the answer would be, it is for nobody.
        () = cancel.cancelled() => {
            runner.capacity.abandon(&reservation);
            return no_capacity();
        }
    };
    if let Err(refusal) = reserved {
        debug!(error = %Chain(&refusal), failure_type = "no_free_executor", "Failed to process runner");
        runner.metrics.processing_failed(&runner.labels, "no_free_executor");
        return no_capacity();
    }
    let asked = crate::time::now().instant;
    let how = if long { Poll::Held } else { Poll::AtOnce };
    let result = tokio::select! {
        result = runner.client.request_job(how) => result,
        () = cancel.cancelled() => {
            runner.capacity.unreserve(&reservation).await;
            return no_capacity();
        }
    };
    let RequestResult { outcome, pushed_back, held, retry_after } = result;
    let mut untold = None;
    let outcome = match outcome {
        RequestOutcome::Job(job) => {
            info!(job = %job.credentials.id, "Checking for jobs... received");
            let received = Some(Received { job, reservation });
            return Polled { outcome: PollOutcome::Job { pushed_back }, received, untold };
        }
        RequestOutcome::NoJob | RequestOutcome::Conflict => {
            debug!("Checking for jobs... no content");
            PollOutcome::NoJob { asked, held, pushed_back }
        }
        RequestOutcome::Forbidden => {
            error!("Checking for jobs... forbidden");
            runner.metrics.health_check_failed(&runner.labels);
            PollOutcome::Refused
        }
        RequestOutcome::Unavailable => {
            warn!("Checking for jobs... GitLab instance currently unavailable");
            PollOutcome::Failed { retry_after, pushed_back }
        }
        RequestOutcome::Throttled => {
            warn!("Checking for jobs... throttled");
            PollOutcome::Failed { retry_after, pushed_back }
        }
        RequestOutcome::Orphaned => {
            warn!("Checking for jobs... the runner belongs to no project or group any more");
            PollOutcome::Refused
        }
        RequestOutcome::Failed { status, message } => {
            warn!(?status, error = message, "Checking for jobs... failed");
            PollOutcome::Failed { retry_after, pushed_back }
        }
        RequestOutcome::Undecodable { job, error } => {
            untold = undecodable(runner, &reservation, job, &error).map(Box::new);
            PollOutcome::Failed { retry_after, pushed_back }
        }
    };
    runner.capacity.unreserve(&reservation).await;
    Polled { outcome, received: None, untold }
}

/// A job that cannot be read was handed out all the same: GitLab must not wait for it until its timeout.
fn undecodable(
    runner: &ServedRunner,
    reservation: &ReservationKey,
    job: Option<JobCredentials>,
    error: &str,
) -> Option<Untold> {
    let Some(job) = job else {
        error!(error, "Checking for jobs... received a job that cannot be read, not even its id");
        return None;
    };
    error!(job = %job.id, error, "Checking for jobs... received a job that cannot be read");
    let reason = FailureReason::RunnerSystemFailure.as_str().to_owned();
    let ended = Ended { failure_reason: Some(reason), exit_code: None };
    Some(Untold::new(runner, reservation.clone(), job, News::Ended(ended)))
}
