//! One job from received to final: it performs what the job's [`Lifecycle`] decides.
//!
//! ```text
//! accept ─▶ trace begins ─▶ lifecycle: prepare, stages ─▶ final update ─▶ clean-up ─▶ slot released
//! ```
//!
//! It chooses nothing itself. At most one piece of [`Work`] is under way; everything that can happen
//! meanwhile (GitLab cancels, the instance is lost, the manager stops, time passes) becomes an event.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::accept::{Accepted, aborting, accept};
use super::beginning::Beginning;
use super::job_records::{Ended, JobRecords};
use super::metrics::Metrics;
use super::poller::Received;
use super::registry::{Entry, Registry};
use super::scripts;
use super::served::{Assembly, ServedRunner};
use super::shutdown::Phase;
use super::slot::Slot;
use super::telling::{News, Untold};
use crate::detached::{Exit, StageHandle};
use crate::executors::{CleanUp, Environment, PrepareContext, StageRun};
use crate::fleeting::access::InstanceAccess;
use crate::ids::ReservationKey;
use crate::job::failure::{FailureReason, Fault, FaultClass};
use crate::job::lifecycle::{Action, Event, FinalResult, JobFailure, JobStatus, Level, Lifecycle, Outcome};
use crate::job::stage::Stage;
use crate::pulse::Pulses;
use crate::shells::ScriptContext;
use crate::taskscaler::Release;
use crate::trace::{CancelState, FinalOutcome, FinalUpdate, PatchBudget, Sink, Stream};

/// A job whose end takes longer stands still, which is said.
const ENDS_WITHIN: Duration = Duration::from_secs(10 * 60);

/// What all jobs share.
#[derive(Clone, Debug)]
pub struct JobDeps {
    pub metrics: Arc<Metrics>,
    pub pulses: Pulses,
    pub registry: Registry,
    pub phase: watch::Receiver<Phase>,
    pub patch_budget: PatchBudget,
    /// Folder of traces that grow beyond memory.
    pub spill: PathBuf,
}

impl JobDeps {
    pub fn new(assembly: &Assembly, registry: Registry, phase: watch::Receiver<Phase>) -> Self {
        let (metrics, pulses, spill) = (assembly.metrics.clone(), assembly.pulses.clone(), assembly.spill.clone());
        Self { metrics, pulses, registry, phase, patch_budget: PatchBudget::default(), spill }
    }
}

/// Runs a received job to its end. The capacity that was reserved for it is given back in every case. What GitLab has
/// yet to hear of the job comes back, also after a panic: that is a fault of ours in one job, which fails with it.
pub async fn run(runner: Arc<ServedRunner>, received: Received, deps: JobDeps) -> Option<Box<Untold>> {
    let (key, credentials) = (received.reservation.clone(), received.job.credentials.clone());
    let panic = match caught(Box::pin(take_to_its_end(runner.clone(), received, deps))).await {
        Ok(untold) => return untold,
        Err(panic) => panic,
    };
    error!(message = panic, "a job's task panicked");
    let reason = FailureReason::RunnerSystemFailure.as_str().to_owned();
    let ended = Ended { failure_reason: Some(reason), exit_code: None };
    runner.records.note_end(&key, &ended);
    runner.capacity.release(&key, Release::Broken).await;
    Some(Box::new(Untold::new(&runner, key, credentials, News::Ended(ended))))
}

/// What the work brings, or what it said when it panicked.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| words(panic.as_ref()))
}

async fn take_to_its_end(runner: Arc<ServedRunner>, received: Received, mut deps: JobDeps) -> Option<Box<Untold>> {
    let info = &received.job.payload.job_info;
    let id = received.job.credentials.id;
    let waited = Duration::try_from_secs_f64(info.time_in_queue_seconds).unwrap_or_default();
    deps.metrics.job_received(&runner.labels, waited, &info.project_jobs_running_on_instance_runners_count);
    let started = crate::time::now().instant;
    let url = format!("{}/{}/-/jobs/{id}", runner.config.url.as_str().trim_end_matches('/'), info.project_full_path);
    // It stands there until GitLab has been told and all is cleaned up.
    let entry = Arc::new(deps.registry.add(&runner.key, id, info.project_id, url, started));
    info!(queue_size = info.queue_size, queue_depth = info.queue_depth, "Added job to processing list");
    let key = received.reservation.clone();
    let credentials = received.job.credentials.clone();
    let untold = match accept(&runner, &received, &mut deps.phase).await {
        Accepted::Yes(slot) => {
            entry.set_state("running");
            let (result, untold) = execute(&runner, received, entry.clone(), slot, &deps).await;
            let reason = result.failure.as_ref().map(|failure| failure.reason.as_str());
            deps.metrics.job_finished(&runner.labels, since(started), reason);
            if reason.is_some() {
                deps.metrics.processing_failed(&runner.labels, "job_failure");
            }
            untold.map(|ended| Box::new(Untold::new(&runner, key, credentials, News::Ended(ended))))
        }
        Accepted::No { untold } => {
            if untold.is_none() {
                runner.records.forget(&key);
            }
            untold
        }
    };
    info!("Removed job from processing list");
    untold
}

/// Runs an accepted job, tells its final state, and cleans up after it. How it ended comes back where GitLab has yet
/// to hear it.
async fn execute(
    runner: &Arc<ServedRunner>,
    received: Received,
    entry: Arc<Entry>,
    slot: Slot,
    deps: &JobDeps,
) -> (FinalResult, Option<Ended>) {
    let began = crate::time::now().instant;
    let id = received.job.credentials.id;
    let supported = received.job.payload.features.failure_reasons.clone();
    let key = received.reservation.clone();
    let beginning = Beginning::of(runner, received, entry.indices(), deps.spill.clone());
    let sink = Sink::new(beginning.trace.clone());
    let (uploader, handle) = beginning.uploader(runner, sink.clone(), deps.patch_budget.clone());
    // A task of its own, so that a busy job does not hold its trace up; it ends with `handle`.
    let mut uploading = tokio::task::JoinSet::new();
    uploading.spawn(tracing::Instrument::in_current_span(uploader.run()));
    let drive = Drive::new(runner.clone(), beginning, entry.clone(), sink.clone(), slot);
    // The state of a job whose drive panics is told like any other's.
    let (result, rest) = match caught(Box::pin(drive.run(handle.cancel_state(), deps.phase.clone()))).await {
        Ok((result, rest)) => (result, Some(rest)),
        Err(panic) => (panicked(&sink, &panic), None),
    };
    log_result(&result, &sink, since(began));
    entry.leave_place();
    let update = final_update(&result, &supported);
    let ended = Ended::from(&update);
    runner.records.note_end(&key, &ended);
    let name = format!("job {id}");
    let finishing = Box::pin(handle.finish(update));
    let outcome = deps.pulses.during(&name, "GitLab to take its final state", ENDS_WITHIN, finishing).await;
    if outcome != FinalOutcome::Accepted {
        warn!(?outcome, "the final state was not accepted by GitLab");
    }
    let is_told = match outcome {
        FinalOutcome::Accepted | FinalOutcome::Refused => true,
        FinalOutcome::GaveUp | FinalOutcome::Interrupted => false,
    };
    // What was abandoned has dropped its slot, which counts as broken.
    if let Some(rest) = rest {
        deps.pulses.during(&name, "its place to be cleaned up", ENDS_WITHIN, Box::pin(rest.clean_up())).await;
    }
    if is_told {
        runner.records.forget(&key);
        return (result, None);
    }
    (result, Some(ended))
}

fn since(start: Instant) -> Duration {
    crate::time::now().instant.saturating_duration_since(start)
}

fn final_update(result: &FinalResult, supported: &[String]) -> FinalUpdate {
    match &result.failure {
        None => FinalUpdate::Success,
        Some(failure) => FinalUpdate::Failed {
            failure_reason: failure.reason.for_server(supported).as_str().to_owned(),
            exit_code: failure.exit_code,
        },
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn panicked(sink: &Sink, panic: &str) -> FinalResult {
    let message = sink.masked(&format!("panic: {panic}"));
    error!(message, "a job's task panicked");
    sink.error(&format!("Job failed (system failure): {message}"));
    let failure = JobFailure { reason: FailureReason::RunnerSystemFailure, message, exit_code: None };
    FinalResult { outcome: Outcome::Failed, failure: Some(failure) }
}

/// The message may quote what the job says of itself.
fn log_result(result: &FinalResult, sink: &Sink, took: Duration) {
    let duration_s = took.as_secs_f64();
    match &result.failure {
        None => info!(duration_s, "Job succeeded"),
        Some(failure) => warn!(
            duration_s,
            failure_reason = failure.reason.as_str(),
            exit_code = failure.exit_code,
            "Job failed: {}",
            sink.masked(&failure.message)
        ),
    }
}

/// What is under way. It owns what it works on and gives it back at its end.
type Work = BoxFuture<'static, WorkEnd>;

enum WorkEnd {
    Prepared(Slot, Result<Environment<Sink>, Fault>),
    StageEnded(Environment<Sink>, Result<(), Fault>),
}

/// What is left of a job when its result is known.
#[derive(Debug)]
struct Rest {
    environment: Option<Environment<Sink>>,
    /// A stage was abandoned: what it runs, nobody knows.
    abandoned: bool,
    slot: Option<Slot>,
    release: Release,
}

impl Rest {
    async fn clean_up(self) {
        let cleaned = match self.environment {
            Some(environment) => environment.cleanup().await,
            None if self.abandoned => CleanUp::LeftBehind,
            None => CleanUp::Done,
        };
        let Some(slot) = self.slot else { return };
        match cleaned {
            CleanUp::Done => slot.release(self.release).await,
            CleanUp::LeftBehind => {
                slot.note_remains();
                slot.release(Release::Broken).await;
            }
        }
    }
}

struct Drive {
    runner: Arc<ServedRunner>,
    beginning: Beginning,
    /// Of the job's record.
    reservation: ReservationKey,
    lifecycle: Lifecycle,
    entry: Arc<Entry>,
    sink: Sink,
    slot: Option<Slot>,
    environment: Option<Environment<Sink>>,
    /// What the stages' scripts are made of, once there is an environment.
    scripts: Option<ScriptContext>,
    /// The loss of the instance has been told.
    is_lost: bool,
    /// A stage was abandoned on the instance that the job has.
    abandoned: bool,
    work: Option<Work>,
    /// Ends the work that is under way.
    stop: CancellationToken,
    release: Release,
}

impl Drive {
    fn new(runner: Arc<ServedRunner>, beginning: Beginning, entry: Arc<Entry>, sink: Sink, slot: Slot) -> Self {
        Self {
            lifecycle: Lifecycle::new(beginning.lifecycle.clone(), crate::time::now()),
            runner,
            beginning,
            reservation: slot.reservation().clone(),
            entry,
            sink,
            slot: Some(slot),
            environment: None,
            scripts: None,
            is_lost: false,
            abandoned: false,
            work: None,
            stop: CancellationToken::new(),
            release: Release::Finished,
        }
    }

    async fn run(
        mut self,
        mut cancel: watch::Receiver<CancelState>,
        mut phase: watch::Receiver<Phase>,
    ) -> (FinalResult, Rest) {
        let mut told = CancelState::None;
        let mut interrupted = false;
        loop {
            while let Some(action) = self.lifecycle.next_action() {
                if let Some(result) = self.perform(action) {
                    let rest = Rest {
                        environment: self.environment,
                        abandoned: self.abandoned,
                        slot: self.slot,
                        release: self.release,
                    };
                    return (result, rest);
                }
            }
            let until = self.lifecycle.poll_timeout();
            tokio::select! {
                ended = under_way(&mut self.work) => self.work_ended(ended).await,
                state = severer(&mut cancel, told) => {
                    told = state;
                    let event = if state == CancelState::Aborted { Event::Aborted } else { Event::CancelRequested };
                    self.handle(event);
                }
                cause = lost(self.slot.as_ref()), if !self.is_lost => {
                    self.is_lost = true;
                    self.release = Release::Broken;
                    self.handle(Event::InstanceLost { cause });
                }
                () = aborting(&mut phase), if !interrupted => {
                    interrupted = true;
                    let signal = phase.borrow().signal().to_owned();
                    self.handle(Event::Interrupted { signal });
                }
                () = crate::time::sleep_until(until) => self.lifecycle.handle_timeout(crate::time::now()),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.lifecycle.handle(event, crate::time::now());
    }

    /// Does what the lifecycle says. The job's result, when it has ended.
    fn perform(&mut self, action: Action) -> Option<FinalResult> {
        match action {
            Action::Log { level, text } => match level {
                Level::Plain => self.sink.plain(&text),
                Level::Info => self.sink.info(&text),
                Level::Warning => self.sink.warning(&text),
                Level::Error => self.sink.error(&text),
                Level::Headline => self.sink.headline(&text),
            },
            Action::SectionStart(stage) => {
                self.entry.set_stage(&stage.id());
                self.sink.section_start(&stage.id());
            }
            Action::SectionEnd(stage) => {
                self.sink.flush_stream(Stream::Stdout);
                self.sink.flush_stream(Stream::Stderr);
                self.sink.section_end(&stage.id());
            }
            Action::PrepareExecutor { attempt } => self.prepare(attempt),
            Action::RunStage { stage, attempt, job_status } => self.run_stage(stage, attempt, job_status),
            Action::StopPreparation | Action::StopStage => self.stop.cancel(),
            Action::Abandon => {
                // A preparation has the slot with it, and is dropped together with it.
                self.abandoned |= self.slot.is_some() && self.work.is_some();
                self.work = None;
            }
            Action::Finish(result) => return Some(result),
        }
        None
    }

    fn prepare(&mut self, attempt: u32) {
        let Some(slot) = self.slot.take() else { return };
        let moves = std::mem::take(&mut self.is_lost);
        if moves {
            // What is left there goes with the instance, or is ended before that is used again.
            self.environment = None;
            self.abandoned = false;
            self.release = Release::Finished;
            slot.note_remains();
        }
        self.stop = CancellationToken::new();
        let stop = self.stop.clone();
        let (runner, sink) = (self.runner.clone(), self.sink.clone());
        let (job, key) = (self.beginning.job.clone(), self.beginning.key.clone());
        self.work = Some(Box::pin(async move {
            let mut slot = slot;
            if moves {
                slot.give_up_instance().await;
            }
            let prepared = match job {
                Ok((job, facts)) => {
                    let make = prepare_on(&runner, &mut slot, attempt, |access, disposable| PrepareContext {
                        job,
                        facts,
                        access,
                        key,
                        trace: sink,
                        instance_is_disposable: disposable,
                    });
                    tokio::select! {
                        prepared = make => prepared,
                        () = stop.cancelled() => Err(Fault::unclassified("stopped")),
                    }
                }
                Err(fault) => Err(fault),
            };
            WorkEnd::Prepared(slot, prepared)
        }));
    }

    fn run_stage(&mut self, stage: Stage, attempt: u32, job_status: JobStatus) {
        let (Some(mut environment), Some(scripts)) = (self.environment.take(), self.scripts.clone()) else {
            return self.handle(Event::StageFailed(Fault::environment_gone("the job's environment is gone")));
        };
        if stage.is_user_script() {
            self.sink.script_output_begins();
        }
        self.stop = CancellationToken::new();
        let stop = self.stop.clone();
        let (records, key) = (self.runner.records.clone(), self.reservation.clone());
        self.work = Some(Box::pin(async move {
            let noting = note_stage(records, key, environment.watch_stage());
            let (facts, now) = (environment.script_facts(&stage), crate::time::now().utc);
            let script = scripts::of_stage(&stage, job_status, scripts, facts, now);
            let ended = match script {
                Ok(None) => Ok(()),
                Ok(Some(script)) => {
                    let run = StageRun { stage: &stage, attempt, script: script.as_str(), cancel: &stop };
                    let ended = tokio::select! {
                        ended = environment.run_stage(run) => ended,
                        never = noting => match never {},
                    };
                    ended.and_then(exit_status)
                }
                Err(fault) => Err(fault),
            };
            WorkEnd::StageEnded(environment, ended)
        }));
    }

    async fn work_ended(&mut self, ended: WorkEnd) {
        self.work = None;
        match ended {
            WorkEnd::Prepared(slot, Ok(environment)) => {
                self.slot = Some(slot);
                self.scripts = Some(scripts::context(&self.runner, &self.beginning, &environment));
                self.environment = Some(environment);
                self.handle(Event::ExecutorPrepared);
            }
            WorkEnd::Prepared(mut slot, Err(fault)) => {
                if fault.class == FaultClass::Unclassified && !self.stop.is_cancelled() {
                    slot.note_remains();
                    slot.give_up_instance().await;
                }
                self.slot = Some(slot);
                self.handle(Event::ExecutorPreparationFailed(fault));
            }
            WorkEnd::StageEnded(environment, ended) => {
                self.environment = Some(environment);
                let event = match ended {
                    Ok(()) => Event::StageSucceeded,
                    // Neither the script's fault nor the container's: the instance could not be reached again.
                    Err(Fault { class: FaultClass::Unclassified, message }) => {
                        self.is_lost = true;
                        self.release = Release::Broken;
                        Event::InstanceLost { cause: message }
                    }
                    Err(fault) => Event::StageFailed(fault),
                };
                self.handle(event);
            }
        }
    }
}

/// Waits for the slot and makes the environment on its instance.
async fn prepare_on(
    runner: &ServedRunner,
    slot: &mut Slot,
    attempt: u32,
    context: impl FnOnce(Arc<dyn InstanceAccess>, bool) -> PrepareContext<Sink>,
) -> Result<Environment<Sink>, Fault> {
    let acquisition = slot.hold().await?;
    info!(instance = %acquisition.instance_id(), attempt, "Dialing instance");
    let access = acquisition.instance().clone();
    runner.executor.prepare(context(access, slot.is_last_use())).await
}

/// Writes down by what a stage can be found again, once it has begun.
async fn note_stage(
    records: JobRecords,
    key: ReservationKey,
    mut stage: watch::Receiver<Option<StageHandle>>,
) -> std::convert::Infallible {
    let begun = stage.wait_for(Option::is_some).await.map(|stage| stage.clone());
    if let Ok(Some(stage)) = begun {
        records.note_stage(&key, &stage);
    }
    std::future::pending().await
}

fn exit_status(exit: Exit) -> Result<(), Fault> {
    if exit.is_success() { Ok(()) } else { Err(Fault::exit(exit.code())) }
}

async fn under_way(work: &mut Option<Work>) -> WorkEnd {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn lost(slot: Option<&Slot>) -> String {
    match slot {
        Some(slot) => slot.lost().await,
        None => std::future::pending().await,
    }
}

/// Waits until GitLab wants more than it `told` so far.
async fn severer(cancel: &mut watch::Receiver<CancelState>, told: CancelState) -> CancelState {
    let state = cancel.wait_for(|state| *state > told).await.map(|state| *state);
    match state {
        Ok(state) => state,
        // The uploader is gone: nobody tells any more.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_with_its_words() {
        let number = "text";
        assert_eq!(caught(async { 3 }).await, Ok(3));
        assert_eq!(caught(async { panic!("no {number}") }).await, Err::<(), _>("no text".to_owned()));
        assert_eq!(caught(async { panic!("plain") }).await, Err::<(), _>("plain".to_owned()));
    }
}
