//! How a job ends: its final state, and the line that says so.

use std::time::Instant;

use super::{Action, Interruption, JobStatus, Level, Lifecycle, State, Stopped};
use crate::go_duration::GoDuration;
use crate::job::failure::{FailureReason, Fault};
use crate::job::stage::Stage;

/// Where users find what to do about timeouts.
const TIMEOUTS_PAGE: &str =
    "https://docs.gitlab.com/ci/runners/configure_runners/#set-script-and-after_script-timeouts";

/// What is reported to GitLab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalResult {
    pub outcome: Outcome,
    /// `None`: the job succeeded.
    pub failure: Option<JobFailure>,
}

impl FinalResult {
    pub fn is_success(&self) -> bool {
        self.failure.is_none()
    }
}

/// Why a job failed, as GitLab is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailure {
    pub reason: FailureReason,
    /// Without `Job failed: `.
    pub message: String,
    /// Of the command that failed.
    pub exit_code: Option<i32>,
}

/// How the job ended, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Success,
    Failed,
    Canceled,
    TimedOut,
    Terminated,
}

impl Outcome {
    /// The reference's word, as metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::TimedOut => "timedout",
            Self::Terminated => "terminated",
        }
    }
}

impl Lifecycle {
    /// What was being stopped has ended, or is given up: `why` takes its effect.
    pub(super) fn conclude(&mut self, what: &Stopped, why: Interruption, now: Instant) {
        let stage = match what {
            Stopped::Preparation => Stage::PrepareExecutor,
            Stopped::Stage(run) => run.stage.clone(),
        };
        if why.is_timeout() {
            self.log(
                Level::Warning,
                format!(
                    "{stage} could not run to completion because the timeout was exceeded. \
                     For more control over job and script timeouts see: {TIMEOUTS_PAGE}"
                ),
            );
        }
        // The result is known before the clean-up begins; only GitLab itself may still discard it.
        if stage == Stage::CleanupFileVariables && why != Interruption::Aborted {
            return self.finish();
        }
        let timed_out = |text: String| Fault::of(FailureReason::JobExecutionTimeout, text);
        match why {
            Interruption::PrepareTimeout => {
                let limit = GoDuration::saturating(self.settings.prepare_timeout);
                self.fail(timed_out(format!("prepare timeout: exceeded timeout of {limit}")));
            }
            Interruption::SourcesTimeout => {
                let limit = GoDuration::saturating(self.settings.get_sources_timeout);
                self.fail(timed_out(format!("get sources timeout: exceeded timeout of {limit}")));
            }
            Interruption::ScriptTimeout => {
                self.job_status = JobStatus::TimedOut;
                self.fault = Some(timed_out("script timeout: context deadline exceeded".to_owned()));
                self.enter_after_script(now);
            }
            Interruption::AfterScriptTimeout => {
                self.on_after_script_failed(timed_out("context deadline exceeded".to_owned()));
                self.enter_archive_cache();
            }
            Interruption::JobTimeout => {
                let limit = GoDuration::saturating(self.settings.job_timeout);
                self.end(Outcome::TimedOut, timed_out(format!("execution took longer than {limit} seconds")));
            }
            Interruption::ScriptCanceled => {
                self.log(Level::Warning, "script canceled externally (UI, API)");
                self.job_status = JobStatus::Canceled;
                self.fault = Some(Fault::of(FailureReason::JobCanceled, "canceled"));
                self.enter_after_script(now);
            }
            Interruption::Canceled | Interruption::Aborted => {
                self.end(Outcome::Canceled, Fault::of(FailureReason::JobCanceled, "canceled"));
            }
            Interruption::Interrupted { signal } => {
                self.end(
                    Outcome::Terminated,
                    Fault::of(FailureReason::RunnerInterrupted, format!("aborted: {signal}")),
                );
            }
            Interruption::InstanceLost { cause } => self.fail(Fault::unclassified(cause)),
        }
    }

    /// Ends the job with what happened so far.
    pub(super) fn finish(&mut self) {
        match self.fault.take().or_else(|| self.late_fault.take()) {
            Some(fault) => self.fail(fault),
            None => {
                self.log(Level::Info, "Job succeeded");
                self.state = State::Ended;
                self.actions.push_back(Action::Finish(FinalResult { outcome: Outcome::Success, failure: None }));
            }
        }
    }

    /// Ends the job as failed.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.end(Outcome::Failed, fault);
    }

    fn end(&mut self, outcome: Outcome, fault: Fault) {
        let reason = fault.reason();
        let kind = if reason == FailureReason::RunnerSystemFailure { " (system failure)" } else { "" };
        self.log(Level::Error, format!("Job failed{kind}: {}", fault.message));
        self.state = State::Ended;
        let exit_code = fault.exit_code();
        let failure = JobFailure { reason, message: fault.message, exit_code };
        self.actions.push_back(Action::Finish(FinalResult { outcome, failure: Some(failure) }));
    }
}
