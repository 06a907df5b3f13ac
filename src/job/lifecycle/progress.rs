//! From one stage to the next.

use std::time::{Duration, Instant};

use super::{
    Action, Interruption, JobStatus, Level, Lifecycle, PREPARE_ATTEMPTS, PREPARE_PAUSE, Run, STOP_PATIENCE, State,
    Stopped,
};
use crate::job::failure::{Fault, FaultClass};
use crate::job::stage::Stage;

impl Lifecycle {
    pub(super) fn begin_to_prepare(&mut self, now: Instant) {
        self.open_section(Stage::PrepareExecutor);
        self.prepare(now + self.settings.prepare_timeout);
    }

    pub(super) fn prepare(&mut self, deadline: Instant) {
        self.preparations += 1;
        self.state = State::Preparing { deadline };
        self.actions.push_back(Action::PrepareExecutor { attempt: self.preparations });
    }

    pub(super) fn on_prepared(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Preparing { deadline } => {
                self.actions.push_back(Action::SectionEnd(Stage::PrepareExecutor));
                self.begin(Stage::PrepareScript, Some(deadline));
            }
            State::Stopping { what: Stopped::Preparation, why, .. } => self.stopped(&Stopped::Preparation, why, now),
            other @ (State::WaitingToPrepare { .. }
            | State::Running(_)
            | State::WaitingToRun { .. }
            | State::Stopping { .. }
            | State::Ended) => self.state = other,
        }
    }

    pub(super) fn on_preparation_failed(&mut self, fault: Fault, now: Instant) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Preparing { deadline } => match fault.class {
                FaultClass::Reason(_) | FaultClass::Coded { .. } | FaultClass::Exit(_) => {
                    self.actions.push_back(Action::SectionEnd(Stage::PrepareExecutor));
                    self.fail(fault);
                }
                FaultClass::EnvironmentGone | FaultClass::Unclassified => {
                    self.log(Level::Error, format!("Preparation failed: {}", fault.message));
                    if self.preparations < PREPARE_ATTEMPTS {
                        self.log(Level::Info, format!("Will be retried in {}s ...", PREPARE_PAUSE.as_secs()));
                        let until = now + PREPARE_PAUSE;
                        self.state = State::WaitingToPrepare { until, deadline };
                    } else {
                        self.actions.push_back(Action::SectionEnd(Stage::PrepareExecutor));
                        self.fail(fault);
                    }
                }
            },
            State::Stopping { what: Stopped::Preparation, why, .. } => self.stopped(&Stopped::Preparation, why, now),
            other @ (State::WaitingToPrepare { .. }
            | State::Running(_)
            | State::WaitingToRun { .. }
            | State::Stopping { .. }
            | State::Ended) => self.state = other,
        }
    }

    pub(super) fn on_stage_ended(&mut self, fault: Option<Fault>, now: Instant) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(run) => match fault {
                None => {
                    self.actions.push_back(Action::SectionEnd(run.stage.clone()));
                    self.after_success(&run, now);
                }
                Some(fault)
                    if fault.class == FaultClass::EnvironmentGone
                        && run.section_attempt < self.settings.attempts.section =>
                {
                    self.log(Level::Warning, format!("{} Will retry...", fault.message));
                    self.start(Run { section_attempt: run.section_attempt + 1, ..run });
                }
                Some(fault) => {
                    self.actions.push_back(Action::SectionEnd(run.stage.clone()));
                    self.after_failure(run, fault, now);
                }
            },
            State::Stopping { what: what @ Stopped::Stage(_), why, .. } => self.stopped(&what, why, now),
            other @ (State::Preparing { .. }
            | State::WaitingToPrepare { .. }
            | State::WaitingToRun { .. }
            | State::Stopping { .. }
            | State::Ended) => self.state = other,
        }
    }

    /// `canceling`: before the steps it ends the job, during the steps only them, later it changes nothing.
    pub(super) fn on_cancel(&mut self, now: Instant) {
        let why = match &self.state {
            State::Preparing { .. } | State::WaitingToPrepare { .. } => Interruption::Canceled,
            State::Running(run) | State::WaitingToRun { run, .. } => {
                if comes_before_steps(&run.stage) {
                    Interruption::Canceled
                } else if matches!(run.stage, Stage::Step(_)) {
                    Interruption::ScriptCanceled
                } else {
                    return;
                }
            }
            State::Stopping { .. } | State::Ended => return,
        };
        self.interrupt(why, now);
    }

    /// Before the steps nothing of the user's has run, so the job moves to another instance. Later it fails: what
    /// its script has done so far must not be done twice.
    pub(super) fn on_instance_lost(&mut self, cause: String, now: Instant) {
        let what = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return,
            State::Running(run) if self.may_move(&run.stage) => {
                self.actions.push_back(Action::Abandon);
                self.actions.push_back(Action::SectionEnd(run.stage));
                return self.move_on(&cause, now);
            }
            State::WaitingToRun { run, .. } if self.may_move(&run.stage) => {
                // Its section is closed.
                return self.move_on(&cause, now);
            }
            State::WaitingToRun { run, .. } => {
                return self.conclude(&Stopped::Stage(run), Interruption::InstanceLost { cause }, now);
            }
            State::Preparing { .. } => Stopped::Preparation,
            State::WaitingToPrepare { .. } => {
                self.actions.push_back(Action::SectionEnd(Stage::PrepareExecutor));
                return self.conclude(&Stopped::Preparation, Interruption::InstanceLost { cause }, now);
            }
            State::Running(run) => Stopped::Stage(run),
            // What is already ending the job says more than the loss that may have come of it.
            State::Stopping { what, why, .. } if why.ends_job() => {
                self.actions.push_back(Action::Abandon);
                return self.stopped(&what, why, now);
            }
            State::Stopping { what, .. } => what,
        };
        self.actions.push_back(Action::Abandon);
        self.stopped(&what, Interruption::InstanceLost { cause }, now);
    }

    fn may_move(&self, stage: &Stage) -> bool {
        self.preparations < PREPARE_ATTEMPTS && comes_before_steps(stage)
    }

    fn move_on(&mut self, cause: &str, now: Instant) {
        self.log(Level::Warning, format!("The instance is lost: {cause}"));
        self.log(Level::Info, "Nothing of the script has run, so the job moves to another instance.");
        self.begin_to_prepare(now);
    }

    /// Stops what is running because of `why`. What ends the whole job outranks what ends only a part.
    pub(super) fn interrupt(&mut self, why: Interruption, now: Instant) {
        let until = now + STOP_PATIENCE;
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => {}
            State::Preparing { .. } => {
                self.actions.push_back(Action::StopPreparation);
                self.state = State::Stopping { what: Stopped::Preparation, why, until };
            }
            State::WaitingToPrepare { .. } => {
                self.actions.push_back(Action::SectionEnd(Stage::PrepareExecutor));
                self.conclude(&Stopped::Preparation, why, now);
            }
            State::Running(run) => {
                self.actions.push_back(Action::StopStage);
                self.state = State::Stopping { what: Stopped::Stage(run), why, until };
            }
            State::WaitingToRun { run, .. } => self.conclude(&Stopped::Stage(run), why, now),
            State::Stopping { what, why: earlier, until } => {
                let why = if why.ends_job() && !earlier.ends_job() { why } else { earlier };
                self.state = State::Stopping { what, why, until };
            }
        }
    }

    /// What was told to stop did not in time.
    pub(super) fn give_up_stopping(&mut self, now: Instant) {
        if let State::Stopping { what, why, .. } = std::mem::replace(&mut self.state, State::Ended) {
            self.log(Level::Warning, "Timed out waiting for the build to finish");
            self.actions.push_back(Action::Abandon);
            self.stopped(&what, why, now);
        }
    }

    fn stopped(&mut self, what: &Stopped, why: Interruption, now: Instant) {
        let stage = match what {
            Stopped::Preparation => Stage::PrepareExecutor,
            Stopped::Stage(run) => run.stage.clone(),
        };
        self.actions.push_back(Action::SectionEnd(stage));
        self.conclude(what, why, now);
    }

    fn after_success(&mut self, run: &Run, now: Instant) {
        match &run.stage {
            Stage::PrepareScript => self.begin(Stage::GetSources, Some(now + self.settings.get_sources_timeout)),
            Stage::ClearWorktree => self.sources_after_clearing(run),
            Stage::GetSources => self.enter_restore_cache(now),
            Stage::RestoreCache => self.enter_download_artifacts(now),
            Stage::DownloadArtifacts => self.enter_steps(now),
            step @ Stage::Step(_) => {
                let next = self.settings.plan.steps.iter().skip_while(|planned| *planned != step).nth(1).cloned();
                match next {
                    Some(next) => self.begin(next, run.deadline),
                    None => self.enter_after_script(now),
                }
            }
            Stage::AfterScript => self.enter_archive_cache(),
            Stage::ArchiveCache | Stage::ArchiveCacheOnFailure => self.enter_upload_artifacts(),
            Stage::UploadArtifactsOnSuccess | Stage::UploadArtifactsOnFailure => self.enter_cleanup(),
            Stage::CleanupFileVariables | Stage::ResolveSecrets | Stage::PrepareExecutor => self.finish(),
        }
    }

    fn after_failure(&mut self, run: Run, fault: Fault, now: Instant) {
        match &run.stage {
            Stage::PrepareScript => self.fail(fault.with_message(|message| {
                format!(
                    "prepare environment: {message}. \
                     Check https://docs.gitlab.com/runner/shells/#shell-profile-loading for more information"
                )
            })),
            // The fetch that follows says more than the failure to tidy up before it.
            Stage::ClearWorktree => self.sources_after_clearing(&run),
            Stage::GetSources | Stage::RestoreCache | Stage::DownloadArtifacts => {
                self.retry_or_skip_steps(run, fault, now)
            }
            Stage::Step(_) => {
                self.fault = Some(fault);
                self.enter_after_script(now);
            }
            Stage::AfterScript => {
                self.on_after_script_failed(fault);
                self.enter_archive_cache();
            }
            Stage::ArchiveCache | Stage::ArchiveCacheOnFailure => {
                self.late_fault = Some(fault);
                self.enter_upload_artifacts();
            }
            Stage::UploadArtifactsOnSuccess | Stage::UploadArtifactsOnFailure => {
                self.late_fault.get_or_insert(fault);
                self.enter_cleanup();
            }
            Stage::CleanupFileVariables | Stage::ResolveSecrets | Stage::PrepareExecutor => self.finish(),
        }
    }

    fn retry_or_skip_steps(&mut self, run: Run, fault: Fault, now: Instant) {
        if run.attempt < self.attempts_of(&run.stage) {
            self.log(Level::Warning, "Retrying...");
            let until = now + self.pause_after(run.attempt);
            let next = Run { attempt: run.attempt + 1, section_attempt: 1, ..run };
            self.state = State::WaitingToRun { run: next, until };
        } else {
            self.fault = Some(fault);
            self.enter_archive_cache();
        }
    }

    fn attempts_of(&self, stage: &Stage) -> u32 {
        let attempts = &self.settings.attempts;
        match stage {
            Stage::GetSources => attempts.get_sources,
            Stage::RestoreCache => attempts.restore_cache,
            Stage::DownloadArtifacts => attempts.download_artifacts,
            Stage::ResolveSecrets
            | Stage::PrepareExecutor
            | Stage::PrepareScript
            | Stage::ClearWorktree
            | Stage::Step(_)
            | Stage::AfterScript
            | Stage::ArchiveCache
            | Stage::ArchiveCacheOnFailure
            | Stage::UploadArtifactsOnSuccess
            | Stage::UploadArtifactsOnFailure
            | Stage::CleanupFileVariables => 1,
        }
    }

    /// The pause after the attempt of this number failed: doubling.
    fn pause_after(&self, attempt: u32) -> Duration {
        let (first, cap) = if self.settings.exponential_backoff { (5, 5 * 60) } else { (1, 5) };
        let doubled = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
        Duration::from_secs(doubled.saturating_mul(first).min(cap))
    }

    pub(super) fn on_after_script_failed(&mut self, fault: Fault) {
        if self.settings.after_script_ignore_errors {
            let text = format!("after_script failed, but job will continue unaffected: {}", fault.message);
            self.log(Level::Warning, text);
        } else {
            self.fault.get_or_insert(fault);
        }
    }

    /// A pause is over: the second attempt at the sources begins with a clean worktree.
    pub(super) fn run(&mut self, run: Run) {
        if run.stage == Stage::GetSources && run.attempt == 2 {
            let clearing = Run { stage: Stage::ClearWorktree, ..run };
            self.open_section(clearing.stage.clone());
            self.start(clearing);
        } else {
            self.open_section(run.stage.clone());
            self.start(run);
        }
    }

    /// `clearing` stood before the second attempt at the sources.
    fn sources_after_clearing(&mut self, clearing: &Run) {
        let run = Run { stage: Stage::GetSources, section_attempt: 1, ..clearing.clone() };
        self.open_section(run.stage.clone());
        self.start(run);
    }

    fn begin(&mut self, stage: Stage, deadline: Option<Instant>) {
        self.open_section(stage.clone());
        self.start(Run { stage, attempt: 1, section_attempt: 1, deadline });
    }

    fn start(&mut self, run: Run) {
        let starts = self.starts.entry(run.stage.clone()).or_insert(0);
        *starts += 1;
        let action = Action::RunStage { stage: run.stage.clone(), attempt: *starts, job_status: self.job_status };
        self.actions.push_back(action);
        self.state = State::Running(run);
    }

    fn enter_restore_cache(&mut self, now: Instant) {
        if self.settings.plan.restore_cache {
            self.begin(Stage::RestoreCache, None);
        } else {
            self.enter_download_artifacts(now);
        }
    }

    fn enter_download_artifacts(&mut self, now: Instant) {
        if self.settings.plan.download_artifacts {
            self.begin(Stage::DownloadArtifacts, None);
        } else {
            self.enter_steps(now);
        }
    }

    fn enter_steps(&mut self, now: Instant) {
        for line in std::mem::take(&mut self.settings.policy_lines) {
            self.log(Level::Info, line);
        }
        match self.settings.plan.steps.first().cloned() {
            Some(step) => self.begin(step, self.settings.script_timeout.map(|timeout| now + timeout)),
            None => self.enter_after_script(now),
        }
    }

    pub(super) fn enter_after_script(&mut self, now: Instant) {
        if self.job_status == JobStatus::Running {
            self.job_status = if self.fault.is_none() { JobStatus::Success } else { JobStatus::Failed };
        }
        if self.settings.plan.after_script {
            self.begin(Stage::AfterScript, Some(now + self.settings.after_script_timeout));
        } else {
            self.enter_archive_cache();
        }
    }

    pub(super) fn enter_archive_cache(&mut self) {
        let plan = &self.settings.plan;
        let (stage, planned) = match self.fault {
            None => (Stage::ArchiveCache, plan.archive_cache_on_success),
            Some(_) => (Stage::ArchiveCacheOnFailure, plan.archive_cache_on_failure),
        };
        if planned { self.begin(stage, None) } else { self.enter_upload_artifacts() }
    }

    fn enter_upload_artifacts(&mut self) {
        let plan = &self.settings.plan;
        let (stage, planned) = match self.fault {
            None => (Stage::UploadArtifactsOnSuccess, plan.upload_artifacts_on_success),
            Some(_) => (Stage::UploadArtifactsOnFailure, plan.upload_artifacts_on_failure),
        };
        if planned { self.begin(stage, None) } else { self.enter_cleanup() }
    }

    fn enter_cleanup(&mut self) {
        self.begin(Stage::CleanupFileVariables, None);
    }
}

/// Whether a stage comes before anything of the user's script runs.
fn comes_before_steps(stage: &Stage) -> bool {
    match stage {
        Stage::ResolveSecrets
        | Stage::PrepareExecutor
        | Stage::PrepareScript
        | Stage::GetSources
        | Stage::ClearWorktree
        | Stage::RestoreCache
        | Stage::DownloadArtifacts => true,
        Stage::Step(_)
        | Stage::AfterScript
        | Stage::ArchiveCache
        | Stage::ArchiveCacheOnFailure
        | Stage::UploadArtifactsOnSuccess
        | Stage::UploadArtifactsOnFailure
        | Stage::CleanupFileVariables => false,
    }
}
