//! The task that brings one job's trace and final state to GitLab.
//!
//! It acts on what [`Pacing`] and [`Finishing`] choose and keeps the one fact they share: up to which
//! position GitLab has the trace. That is moved only by GitLab's answers, so a lost answer or a repeated
//! patch never makes a gap or a copy. It never blocks the job: writes go to the [`Sink`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error_chain::Chain;
use crate::gitlab::outcome::{PatchOutcome, PatchResult, UpdateOutcome, UpdateResult};
use crate::time;

use super::api::{FinalOutcome, FinalUpdate, JobReport, TraceApi};
use super::finishing::{FinalNext, Finishing};
use super::pacing::{Next, Pacing, Unsent};
use super::sink::{Progress, Sink};

/// GitLab takes no longer patches.
const LONGEST_PATCH: usize = 1 << 20;
/// Patches of this size need no share of the [`PatchBudget`].
const SMALL_PATCH: usize = 64 * 1024;

/// A call without an answer for so long has failed. Where GitLab took the patch all the same, its next
/// answer says so.
const LONGEST_CALL: Duration = Duration::from_secs(120);

/// What GitLab wants of the job besides its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CancelState {
    #[default]
    None,
    /// End the script, run `after_script`, report.
    Canceling,
    /// The job is no longer ours: end everything.
    Aborted,
}

/// Memory for long patches that are on their way at the same time, shared by the jobs of a manager. Where
/// it is used up, a job sends small patches instead of waiting.
#[derive(Clone, Debug)]
pub struct PatchBudget(Arc<Semaphore>);

impl PatchBudget {
    /// So many patches of full length at a time.
    pub fn new(patches: usize) -> Self {
        Self(Arc::new(Semaphore::new(patches)))
    }

    fn take(&self) -> Option<SemaphorePermit<'_>> {
        self.0.try_acquire().ok()
    }
}

impl Default for PatchBudget {
    fn default() -> Self {
        Self::new(16)
    }
}

/// What the operator chose about uploads.
#[derive(Clone, Debug)]
pub struct UploaderSettings {
    /// `job_status_final_update_retry_limit`.
    pub final_update_retry_limit: u32,
    pub budget: PatchBudget,
    /// Ends the uploader at once, whatever it does: the manager may wait no longer.
    pub give_up: CancellationToken,
}

/// Does the work; to be run as a task of the job's worker.
#[derive(Debug)]
pub struct Uploader<A> {
    api: A,
    sink: Sink,
    settings: UploaderSettings,
    /// Up to here GitLab has the trace.
    sent: u64,
    /// The end of the furthest patch that was ever sent.
    reached: u64,
    cancel: watch::Sender<CancelState>,
    finish: oneshot::Receiver<FinishRequest>,
    /// The bytes can no longer be read.
    is_unreadable: bool,
}

/// The worker's side of an [`Uploader`]. Dropping it ends the uploader without a final state.
#[derive(Debug)]
pub struct UploaderHandle {
    finish: oneshot::Sender<FinishRequest>,
    cancel: watch::Receiver<CancelState>,
}

#[derive(Debug)]
struct FinishRequest {
    update: FinalUpdate,
    reply: oneshot::Sender<FinalOutcome>,
}

impl UploaderHandle {
    /// What GitLab wants of the job, as it comes; it only ever becomes more severe.
    pub fn cancel_state(&self) -> watch::Receiver<CancelState> {
        self.cancel.clone()
    }

    /// Ends the trace, sends what is left of it and then the final state. Lasts until GitLab has answered for
    /// good, or the limits are reached.
    pub async fn finish(self, update: FinalUpdate) -> FinalOutcome {
        let (reply, outcome) = oneshot::channel();
        if self.finish.send(FinishRequest { update, reply }).is_err() {
            return FinalOutcome::Interrupted;
        }
        outcome.await.unwrap_or(FinalOutcome::Interrupted)
    }
}

impl<A: TraceApi> Uploader<A> {
    pub fn new(api: A, sink: Sink, settings: UploaderSettings) -> (Self, UploaderHandle) {
        let (finish_sender, finish) = oneshot::channel();
        let (cancel, cancel_receiver) = watch::channel(CancelState::None);
        let uploader = Self { api, sink, settings, sent: 0, reached: 0, cancel, finish, is_unreadable: false };
        (uploader, UploaderHandle { finish: finish_sender, cancel: cancel_receiver })
    }

    /// Sends the trace until the handle finishes the job or is dropped.
    pub async fn run(self) {
        let give_up = self.settings.give_up.clone();
        // Ending early drops the reply's sender, which the handle takes for an interruption.
        give_up.run_until_cancelled(self.run_to_the_end()).await;
    }

    async fn run_to_the_end(mut self) {
        let Some(FinishRequest { update, reply }) = self.run_until_finish().await else { return };
        self.sink.close();
        let outcome = self.bring_final_state(update).await;
        // A worker that no longer waits has made up its mind.
        reply.send(outcome).ok();
    }

    async fn run_until_finish(&mut self) -> Option<FinishRequest> {
        let mut pacing = Pacing::new(time::now().instant);
        loop {
            let progress = self.progress();
            let unsent = self.unsent(&progress);
            let next = if self.is_aborted() { None } else { Some(pacing.next(time::now().instant, unsent)) };
            let until = match next {
                Some(Next::Wait { until }) => Some(until),
                Some(Next::Patch | Next::KeepAlive | Next::Abort) => None,
                None => return (&mut self.finish).await.ok(),
            };
            tokio::select! {
                biased;
                request = &mut self.finish => return request.ok(),
                () = self.sink.changed(), if until.is_some() => continue,
                () = time::sleep_until(Some(until.unwrap_or_else(|| time::now().instant))) => {}
            }
            match next {
                Some(Next::Patch) => {
                    if let Some((start, result)) = self.patch().await {
                        pacing.patch_answered(time::now().instant, start, &result);
                    }
                }
                Some(Next::KeepAlive) => {
                    let result = self.update(None).await;
                    pacing.update_answered(time::now().instant, &result);
                }
                Some(Next::Abort) => self.raise_cancel(false, true),
                Some(Next::Wait { .. }) | None => {}
            }
        }
    }

    async fn bring_final_state(&mut self, update: FinalUpdate) -> FinalOutcome {
        let mut finishing = Finishing::new(self.settings.final_update_retry_limit);
        loop {
            if self.is_aborted() || self.is_unreadable {
                finishing.refuse_trace();
            }
            let progress = self.progress();
            let has_unsent = self.unsent(&progress).is_some();
            match finishing.next(time::now().instant, has_unsent) {
                FinalNext::Done(outcome) => return outcome,
                FinalNext::Wait { until } => time::sleep_until(Some(until)).await,
                FinalNext::Patch => {
                    if let Some((start, result)) = self.patch().await {
                        finishing.patch_answered(time::now().instant, start, &result);
                    }
                }
                FinalNext::Update => {
                    let result = self.update(Some(update.clone())).await;
                    if result.outcome == UpdateOutcome::TraceValidationFailed {
                        info!("GitLab's copy of the trace is not the whole one: sending it again");
                        self.sent = 0;
                    }
                    finishing.update_answered(time::now().instant, &result);
                }
            }
        }
    }

    /// Looks at the trace, and reports a storage failure the first time that it is seen.
    fn progress(&self) -> Progress {
        if let Some(failure) = self.sink.take_storage_failure() {
            warn!(error = %Chain(&failure), "the trace cannot be stored: it ends here");
        }
        self.sink.progress(self.sent)
    }

    fn unsent(&self, progress: &Progress) -> Option<Unsent> {
        let has_unsent = progress.written > self.sent && !self.is_unreadable;
        has_unsent.then_some(Unsent { since: progress.waiting_since, is_prompt: progress.is_prompt })
    }

    fn is_aborted(&self) -> bool {
        *self.cancel.borrow() == CancelState::Aborted
    }

    /// Sends the next bytes. None where they cannot be read.
    async fn patch(&mut self) -> Option<(u64, PatchResult)> {
        let budget = self.settings.budget.clone();
        let share = budget.take();
        let most = if share.is_some() { LONGEST_PATCH } else { SMALL_PATCH };
        let start = self.sent;
        let content = self.read(start, most)?;
        let sent_to = start + content.len() as u64;
        let call = self.api.patch_trace(start, content);
        let result = tokio::time::timeout(LONGEST_CALL, call).await.unwrap_or(PatchResult {
            outcome: PatchOutcome::Failed,
            cancel_requested: false,
            trace_update_interval: None,
            retry_after: None,
        });
        drop(share);
        self.reached = self.reached.max(sent_to);
        let result = PatchResult { outcome: believed(result.outcome, self.reached), ..result };
        match result.outcome {
            PatchOutcome::Succeeded { .. } => self.sent = sent_to,
            PatchOutcome::RangeMismatch { server_has } => self.sent = server_has,
            PatchOutcome::NotFound | PatchOutcome::Aborted | PatchOutcome::Failed => {}
        }
        self.raise_cancel(result.cancel_requested, result.outcome == PatchOutcome::Aborted);
        Some((start, result))
    }

    /// What is in memory, or in the page cache a moment after it was written: too quick for a task of its own.
    fn read(&mut self, start: u64, most: usize) -> Option<Bytes> {
        match self.sink.window(start, most).read() {
            Ok(content) => Some(content),
            Err(error) => {
                warn!(error = %Chain(&error), "the stored trace cannot be read: GitLab gets no more of it");
                self.is_unreadable = true;
                None
            }
        }
    }

    async fn update(&self, result: Option<FinalUpdate>) -> UpdateResult {
        let progress = self.sink.progress(self.sent);
        let report = JobReport { result, checksum: progress.checksum, bytesize: progress.written };
        let call = self.api.update_job(report);
        let result = tokio::time::timeout(LONGEST_CALL, call).await.unwrap_or(UpdateResult {
            outcome: UpdateOutcome::Failed,
            cancel_requested: false,
            trace_update_interval: None,
            retry_after: None,
            status: None,
        });
        self.raise_cancel(result.cancel_requested, result.outcome == UpdateOutcome::Aborted);
        result
    }

    fn raise_cancel(&self, cancel_requested: bool, is_aborted: bool) {
        let wanted = match (is_aborted, cancel_requested) {
            (true, _) => CancelState::Aborted,
            (false, true) => CancelState::Canceling,
            (false, false) => CancelState::None,
        };
        self.cancel.send_if_modified(|state| {
            let is_worse = wanted > *state;
            *state = wanted.max(*state);
            is_worse
        });
    }
}

/// A server cannot have more of the trace than was ever sent, up to `reached`: an answer that says so is a failure like
/// any other, so that the rest of the trace is sent again.
fn believed(outcome: PatchOutcome, reached: u64) -> PatchOutcome {
    match outcome {
        PatchOutcome::RangeMismatch { server_has } if server_has > reached => {
            warn!(server_has, reached, "GitLab claims to have more of the trace than was sent");
            PatchOutcome::Failed
        }
        PatchOutcome::RangeMismatch { .. }
        | PatchOutcome::Succeeded { .. }
        | PatchOutcome::NotFound
        | PatchOutcome::Aborted
        | PatchOutcome::Failed => outcome,
    }
}

#[cfg(test)]
mod tests;
