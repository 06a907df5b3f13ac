//! Tells GitLab what it could not be told when it was time: how a job ended, or that it is not begun. It is told
//! until GitLab has heard, or calls the job final, or a day has passed. What is still untold when the process ends is
//! in the journal, for the next manager's [`former_jobs`](super::former_jobs).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{Instrument, error, info, info_span, warn};

use super::job_records::{Ended, JobRecords};
use super::served::ServedRunner;
use crate::backoff::Backoff;
use crate::gitlab::outcome::{GONE_AFTER, JobUpdate, UpdateOutcome, UpdateResult};
use crate::gitlab::wire::JobState;
use crate::gitlab::{Client, JobCredentials};
use crate::ids::ReservationKey;
use crate::job::failure::FailureReason;

/// How long GitLab is told again while it does not answer.
const TELL_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// Calls at once: GitLab may just have come back.
const CALLS_AT_ONCE: usize = 8;
/// Jobs that are told of at a time; a day of an outage brings fewer.
const MOST_UNTOLD: usize = 10_000;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What GitLab has to hear of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It was handed out and is not begun: it goes back to the queue, and fails where the server cannot do that.
    NotBegun,
    Ended(Ended),
}

/// A job that GitLab has yet to hear of. Its record goes when that is done.
#[derive(Debug)]
pub struct Untold {
    client: Client,
    records: JobRecords,
    key: ReservationKey,
    job: JobCredentials,
    news: News,
}

impl Untold {
    pub fn new(runner: &ServedRunner, key: ReservationKey, job: JobCredentials, news: News) -> Self {
        Self { client: runner.client.clone(), records: runner.records.clone(), key, job, news }
    }

    async fn tell(self, at_once: Arc<Semaphore>) {
        let line = Line::new(self.client, at_once);
        match &self.news {
            News::Ended(ended) => {
                line.tell_end(&self.job, ended).await;
            }
            News::NotBegun => {
                // The next manager would take it for a job that was begun.
                self.records.forget(&self.key);
                line.give_back(&self.job).await;
            }
        }
        self.records.forget(&self.key);
    }
}

/// Tells of jobs beside the work that goes on.
#[derive(Debug)]
pub struct Outbox {
    at_once: Arc<Semaphore>,
    telling: JoinSet<()>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { at_once: Line::permits(), telling: JoinSet::new() }
    }
}

impl Outbox {
    pub fn tell(&mut self, untold: Untold) {
        if self.telling.len() >= MOST_UNTOLD {
            error!(job = %untold.job.id, "too many jobs are untold: the next manager tells GitLab of this one");
            return;
        }
        let span = info_span!("telling", job = %untold.job.id);
        self.telling.spawn(untold.tell(self.at_once.clone()).instrument(span));
    }

    /// Resolves when one job has been told, to be called again; never where there is none.
    pub async fn told(&mut self) {
        match self.telling.join_next().await {
            Some(Ok(())) => {}
            Some(Err(fault)) => error!(error = %fault, "telling GitLab of a job ended badly"),
            None => std::future::pending().await,
        }
    }

    /// Lets the calls under way come to an end for so long.
    pub async fn close(mut self, within: Duration) {
        let all = async { while self.telling.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            warn!(jobs = self.telling.len(), "GitLab could not be told of all jobs: the next manager tells");
        }
        self.telling.shutdown().await;
    }
}

/// What came of telling an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Heard,
    /// GitLab calls it final, or does not know it.
    WasFinal,
    /// A day has passed.
    GaveUp,
}

/// A client that makes few calls at once.
#[derive(Clone, Debug)]
pub(super) struct Line {
    client: Client,
    at_once: Arc<Semaphore>,
}

impl Line {
    pub(super) fn new(client: Client, at_once: Arc<Semaphore>) -> Self {
        Self { client, at_once }
    }

    /// What the calls of several lines share.
    pub(super) fn permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CALLS_AT_ONCE))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn update(&self, job: &JobCredentials, update: &JobUpdate) -> UpdateResult {
        // It is never closed.
        let _permit = self.at_once.acquire().await.ok();
        self.client.update_job(job, update).await
    }

    pub(super) fn bare(&self, state: JobState) -> JobUpdate {
        JobUpdate::new(self.client.info().clone(), state)
    }

    /// Tells how a job ended.
    pub(super) async fn tell_end(&self, job: &JobCredentials, ended: &Ended) -> Told {
        let Ended { failure_reason, exit_code } = ended.clone();
        let state = if failure_reason.is_some() { JobState::Failed } else { JobState::Success };
        let update = JobUpdate { failure_reason, exit_code, ..self.bare(state) };
        let mut patience = Patience::new(crate::time::now().instant);
        loop {
            let result = self.update(job, &update).await;
            match result.outcome {
                UpdateOutcome::Succeeded => {
                    warn!(job = %job.id, failure_reason = update.failure_reason, "the end of a job was told late");
                    return Told::Heard;
                }
                UpdateOutcome::Aborted => return was_final(job),
                UpdateOutcome::NotFound
                | UpdateOutcome::StateRefused
                | UpdateOutcome::Conflict
                | UpdateOutcome::AcceptedNotCompleted
                | UpdateOutcome::TraceValidationFailed
                | UpdateOutcome::Failed => {}
            }
            match patience.after(&result, crate::time::now().instant) {
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(Told::WasFinal) => return was_final(job),
                Err(given_up) => {
                    error!(job = %job.id, "GitLab could not be told in a day how a job ended");
                    return given_up;
                }
            }
        }
    }

    /// Gives a job back that is not begun. Where it has heard `running` all the same, that may be another runner's
    /// word, who has got it in the meantime.
    async fn give_back(&self, job: &JobCredentials) {
        let pending = self.bare(JobState::Pending);
        let mut patience = Patience::new(crate::time::now().instant);
        loop {
            let result = self.update(job, &pending).await;
            match result.outcome {
                UpdateOutcome::Succeeded => {
                    return info!(job = %job.id, "a job that is not begun goes back to the queue");
                }
                UpdateOutcome::Aborted | UpdateOutcome::Conflict => {
                    return info!(job = %job.id, "a job that is not begun is not ours any more");
                }
                UpdateOutcome::StateRefused => {
                    let reason = FailureReason::RunnerSystemFailure.as_str().to_owned();
                    self.tell_end(job, &Ended { failure_reason: Some(reason), exit_code: None }).await;
                    return;
                }
                UpdateOutcome::NotFound
                | UpdateOutcome::AcceptedNotCompleted
                | UpdateOutcome::TraceValidationFailed
                | UpdateOutcome::Failed => {}
            }
            match patience.after(&result, crate::time::now().instant) {
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(_) => return info!(job = %job.id, "GitLab could not be told of a job that is not begun"),
            }
        }
    }
}

fn was_final(job: &JobCredentials) -> Told {
    info!(job = %job.id, "a job that GitLab had yet to hear of was final already");
    Told::WasFinal
}

/// When a call that failed is made again, and when no more. Pure.
#[derive(Debug)]
struct Patience {
    until: Instant,
    missing_since: Option<Instant>,
    backoff: Backoff,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { until: now + TELL_WITHIN, missing_since: None, backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY) }
    }

    fn after(&mut self, result: &UpdateResult, now: Instant) -> Result<Duration, Told> {
        if result.outcome == UpdateOutcome::NotFound {
            self.missing_since.get_or_insert(now);
        } else if result.status.is_some() {
            self.missing_since = None;
        }
        if self.missing_since.is_some_and(|since| now.saturating_duration_since(since) >= GONE_AFTER) {
            return Err(Told::WasFinal);
        }
        if now >= self.until {
            return Err(Told::GaveUp);
        }
        Ok(self.backoff.next_wait().max(result.retry_after.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
