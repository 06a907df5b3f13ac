//! The decider of a job's life: which stage runs when, what each outcome leads to, and what the job's
//! final state is. It does no I/O, does not wait, and is told the time.
//!
//! ```text
//!            new
//!             │ header, warnings
//!             ▼          failed, tries left
//!        ┌► Preparing ───────────────────► WaitingToPrepare
//!        └──────┼──────────── 3 s ──────────────┘
//!               │ prepared    ▲ instance lost before the steps
//!               ▼          failed, attempts left
//!        ┌► Running(stage) ──────────────► WaitingToRun
//!        │      │  ▲ └──────── back-off ────────┘
//!        │      │  └ next stage
//!        │      │ deadline, cancel, abort, stop
//!        │      ▼
//!        └── Stopping(what, why) ──── why ends the job ──┐
//!   why ends only the scripts │                          │
//!   (canceling, script        │                          ▼
//!   timeout): after_script    └────────────────────► Ended, with the final result
//! ```
//!
//! Stages, in order: prepare_script, get_sources, restore_cache, download_artifacts, the steps,
//! after_script, archive_cache, upload_artifacts, cleanup_file_variables. A failure before the steps
//! skips them and after_script, but not what follows. What ends the whole job skips everything.
//!
//! # The driver's contract
//!
//! After [`Lifecycle::new`] and after each [`Lifecycle::handle`] and [`Lifecycle::handle_timeout`],
//! the driver performs [`Lifecycle::next_action`] until there is none, then waits for an event or for
//! [`Lifecycle::poll_timeout`]. At any time at most one preparation or stage is being performed. Each
//! [`Action::PrepareExecutor`] is answered once by [`Event::ExecutorPrepared`] or
//! [`Event::ExecutorPreparationFailed`], each [`Action::RunStage`] once by [`Event::StageSucceeded`] or
//! [`Event::StageFailed`], also after a stop was asked for (the answer then only says that it has
//! ended); after [`Action::Abandon`] there is no answer. A preparation that failed has cleaned up
//! after itself before it is reported.
//!
//! # Who writes which line of the trace
//!
//! All lines of the manager are actions of the lifecycle: header, sections, headlines, warnings,
//! retries, the final line. Their texts come without the level's prefix (`WARNING: `, `ERROR: `),
//! which the trace adds. The executor writes only what belongs to its own work inside the section
//! that is open: `Dialing instance …`, image pulls, and the output of the scripts. After
//! [`Action::Finish`] nothing more is written.

mod end;
mod progress;
pub mod settings;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub use self::end::{FinalResult, JobFailure, Outcome};
pub use self::settings::{LifecycleSettings, Plan};
use crate::job::failure::Fault;
use crate::job::stage::Stage;
use crate::time::Now;

/// Tries of the executor's preparation, this far apart. A job that moves to another instance has those that are left.
pub const PREPARE_ATTEMPTS: u32 = 3;
pub const PREPARE_PAUSE: Duration = Duration::from_secs(3);

/// How long a stage that was told to stop is waited for.
pub const STOP_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Something that happened to the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answer to [`Action::PrepareExecutor`].
    ExecutorPrepared,
    /// Answer to [`Action::PrepareExecutor`]. An unclassified fault is worth another try.
    ExecutorPreparationFailed(Fault),
    /// Answer to [`Action::RunStage`].
    StageSucceeded,
    /// Answer to [`Action::RunStage`]; also where its script could not be written.
    StageFailed(Fault),
    /// GitLab shows the job as `canceling`: the scripts end, after_script runs.
    CancelRequested,
    /// GitLab shows the job as `canceled` or `failed`, or no longer knows it: everything ends.
    Aborted,
    /// The runner is being stopped by this signal, such as `terminated`.
    Interrupted { signal: String },
    /// The instance is gone and will not come back.
    InstanceLost { cause: String },
}

/// Something for the driver to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A line of the trace.
    Log {
        level: Level,
        text: String,
    },
    /// A section of the trace opens; its headline is the next action.
    SectionStart(Stage),
    SectionEnd(Stage),
    /// Make the environment ready. After an [`Event::InstanceLost`] it is to be another instance's.
    PrepareExecutor {
        attempt: u32,
    },
    /// End the running preparation soon; it is still answered.
    StopPreparation,
    /// Run a stage's script. `attempt` counts the starts of this stage from 1 and is never used twice
    /// for it, so that it may name the stage's folder.
    RunStage {
        stage: Stage,
        attempt: u32,
        job_status: JobStatus,
    },
    /// Terminate the running stage, with grace; it is still answered.
    StopStage,
    /// Leave what is running to itself: it cannot be reached, or did not end in time. No answer follows.
    Abandon,
    /// The job has ended; this is the last action. The executor's clean-up comes after the final update.
    Finish(FinalResult),
}

/// How a line of the trace looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Plain,
    /// Green.
    Info,
    /// Yellow, after `WARNING: `.
    Warning,
    /// Red, after `ERROR: `.
    Error,
    /// Cyan, under the start of a section.
    Headline,
}

/// `CI_JOB_STATUS`, as the stage's script shall see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    Running,
    Success,
    Failed,
    Canceled,
    TimedOut,
}

impl JobStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::TimedOut => "timedout",
        }
    }
}

/// One stage that runs or will run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    stage: Stage,
    /// As the user's `*_ATTEMPTS` counts.
    attempt: u32,
    /// Starts within this attempt: more than one where the stage's container vanished.
    section_attempt: u32,
    /// Of the part of the job to which the stage belongs; the job's own deadline is apart.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Preparing { deadline: Instant },
    WaitingToPrepare { until: Instant, deadline: Instant },
    Running(Run),
    WaitingToRun { run: Run, until: Instant },
    Stopping { what: Stopped, why: Interruption, until: Instant },
    Ended,
}

/// What is being stopped.
#[derive(Clone, Debug)]
enum Stopped {
    Preparation,
    Stage(Run),
}

/// Why something does not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Interruption {
    PrepareTimeout,
    SourcesTimeout,
    ScriptTimeout,
    AfterScriptTimeout,
    JobTimeout,
    /// By `canceling`, during the steps.
    ScriptCanceled,
    /// By `canceling`, before the steps.
    Canceled,
    Aborted,
    Interrupted {
        signal: String,
    },
    InstanceLost {
        cause: String,
    },
}

impl Interruption {
    /// Whether nothing of the job runs after this.
    fn ends_job(&self) -> bool {
        match self {
            Self::ScriptTimeout | Self::AfterScriptTimeout | Self::ScriptCanceled => false,
            Self::PrepareTimeout
            | Self::SourcesTimeout
            | Self::JobTimeout
            | Self::Canceled
            | Self::Aborted
            | Self::Interrupted { .. }
            | Self::InstanceLost { .. } => true,
        }
    }

    fn is_timeout(&self) -> bool {
        match self {
            Self::PrepareTimeout
            | Self::SourcesTimeout
            | Self::ScriptTimeout
            | Self::AfterScriptTimeout
            | Self::JobTimeout => true,
            Self::ScriptCanceled
            | Self::Canceled
            | Self::Aborted
            | Self::Interrupted { .. }
            | Self::InstanceLost { .. } => false,
        }
    }
}

/// One job's life. See the module's documentation.
#[derive(Debug)]
pub struct Lifecycle {
    settings: LifecycleSettings,
    job_deadline: Instant,
    state: State,
    /// What the job failed with, before or in its scripts.
    fault: Option<Fault>,
    /// What saving the cache or uploading artifacts failed with; it counts where `fault` is none.
    late_fault: Option<Fault>,
    job_status: JobStatus,
    /// How often the preparation was started.
    preparations: u32,
    /// How often each stage was started.
    starts: BTreeMap<Stage, u32>,
    actions: VecDeque<Action>,
}

impl Lifecycle {
    /// Begins a job: its clock starts `now`.
    pub fn new(settings: LifecycleSettings, now: Now) -> Self {
        let now = now.instant;
        let mut job = Self {
            job_deadline: now + settings.job_timeout,
            state: State::Ended,
            fault: None,
            late_fault: None,
            job_status: JobStatus::Running,
            preparations: 0,
            starts: BTreeMap::new(),
            actions: VecDeque::new(),
            settings,
        };
        for line in std::mem::take(&mut job.settings.header) {
            job.log(Level::Plain, line);
        }
        for line in std::mem::take(&mut job.settings.warnings) {
            job.log(Level::Warning, line);
        }
        job.begin_to_prepare(now);
        job
    }

    /// The next thing to do; `None` until something happens.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether the job has ended; its last action is [`Action::Finish`].
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Takes in what happened. An event that fits nothing under way is passed over.
    pub fn handle(&mut self, event: Event, now: Now) {
        let now = now.instant;
        match event {
            Event::ExecutorPrepared => self.on_prepared(now),
            Event::ExecutorPreparationFailed(fault) => self.on_preparation_failed(fault, now),
            Event::StageSucceeded => self.on_stage_ended(None, now),
            Event::StageFailed(fault) => self.on_stage_ended(Some(fault), now),
            Event::CancelRequested => self.on_cancel(now),
            Event::Aborted => self.interrupt(Interruption::Aborted, now),
            Event::Interrupted { signal } => self.interrupt(Interruption::Interrupted { signal }, now),
            Event::InstanceLost { cause } => self.on_instance_lost(cause, now),
        }
    }

    /// When [`Lifecycle::handle_timeout`] is due; `None` once the job has ended.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Preparing { deadline } => Some(self.job_deadline.min(*deadline)),
            State::WaitingToPrepare { until, deadline } => Some(self.job_deadline.min(*deadline).min(*until)),
            State::Running(run) => Some(run.deadline.map_or(self.job_deadline, |own| own.min(self.job_deadline))),
            State::WaitingToRun { run, until } => {
                Some(run.deadline.map_or(self.job_deadline, |own| own.min(self.job_deadline)).min(*until))
            }
            State::Stopping { why, until, .. } if why.ends_job() => Some(*until),
            State::Stopping { until, .. } => Some(self.job_deadline.min(*until)),
            State::Ended => None,
        }
    }

    /// Does what is due. Calling it early does nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.instant;
        let job_is_over = now >= self.job_deadline;
        match &self.state {
            State::Ended => {}
            State::Stopping { why, .. } if job_is_over && !why.ends_job() => {
                self.interrupt(Interruption::JobTimeout, now)
            }
            State::Stopping { until, .. } => {
                if now >= *until {
                    self.give_up_stopping(now);
                }
            }
            State::Preparing { .. }
            | State::WaitingToPrepare { .. }
            | State::Running(_)
            | State::WaitingToRun { .. }
                if job_is_over =>
            {
                self.interrupt(Interruption::JobTimeout, now);
            }
            State::Preparing { deadline } => {
                if now >= *deadline {
                    self.interrupt(Interruption::PrepareTimeout, now);
                }
            }
            State::WaitingToPrepare { until, deadline } => {
                let (until, deadline) = (*until, *deadline);
                if now >= deadline {
                    self.interrupt(Interruption::PrepareTimeout, now);
                } else if now >= until {
                    self.prepare(deadline);
                }
            }
            State::Running(run) => {
                if run.deadline.is_some_and(|deadline| now >= deadline) {
                    let why = timeout_of(&run.stage);
                    self.interrupt(why, now);
                }
            }
            State::WaitingToRun { run, until } => {
                if run.deadline.is_some_and(|deadline| now >= deadline) {
                    let why = timeout_of(&run.stage);
                    self.interrupt(why, now);
                } else if now >= *until {
                    let run = run.clone();
                    self.run(run);
                }
            }
        }
    }

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.actions.push_back(Action::Log { level, text: text.into() });
    }

    fn open_section(&mut self, stage: Stage) {
        let headline = stage.headline(&self.settings.executor).into_owned();
        self.actions.push_back(Action::SectionStart(stage));
        self.log(Level::Headline, headline);
    }
}

/// Which deadline of a part of the job a stage runs under.
fn timeout_of(stage: &Stage) -> Interruption {
    match stage {
        Stage::GetSources | Stage::ClearWorktree => Interruption::SourcesTimeout,
        Stage::Step(_) => Interruption::ScriptTimeout,
        Stage::AfterScript => Interruption::AfterScriptTimeout,
        Stage::PrepareExecutor | Stage::PrepareScript => Interruption::PrepareTimeout,
        Stage::ResolveSecrets
        | Stage::RestoreCache
        | Stage::DownloadArtifacts
        | Stage::ArchiveCache
        | Stage::ArchiveCacheOnFailure
        | Stage::UploadArtifactsOnSuccess
        | Stage::UploadArtifactsOnFailure
        | Stage::CleanupFileVariables => Interruption::JobTimeout,
    }
}

#[cfg(test)]
mod tests;
