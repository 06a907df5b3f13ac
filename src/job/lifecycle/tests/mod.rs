mod properties;
mod tables;

use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::job::settings::Attempts;
use crate::job::stage::StepName;

/// A job with everything: caches, artifacts, two steps, after_script.
fn settings() -> LifecycleSettings {
    LifecycleSettings {
        executor: "instance".to_owned(),
        header: vec!["Running".to_owned()],
        warnings: vec![],
        policy_lines: vec![],
        plan: Plan {
            restore_cache: true,
            download_artifacts: true,
            steps: vec![Stage::Step(StepName::new("script")), Stage::Step(StepName::new("release"))],
            after_script: true,
            archive_cache_on_success: true,
            archive_cache_on_failure: true,
            upload_artifacts_on_success: true,
            upload_artifacts_on_failure: true,
        },
        attempts: Attempts { get_sources: 1, restore_cache: 1, download_artifacts: 1, section: 1, resolve_secrets: 1 },
        job_timeout: Duration::from_secs(3600),
        prepare_timeout: Duration::from_secs(300),
        get_sources_timeout: Duration::from_secs(600),
        script_timeout: None,
        after_script_timeout: Duration::from_secs(300),
        after_script_ignore_errors: true,
        exponential_backoff: true,
    }
}

/// A job of one step and nothing else.
fn bare() -> LifecycleSettings {
    let plan = Plan { steps: vec![Stage::Step(StepName::new("script"))], ..Plan::default() };
    LifecycleSettings { plan, ..settings() }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning of a test")]
fn beginning() -> Now {
    Now { instant: Instant::now(), utc: SystemTime::UNIX_EPOCH }
}

/// Drives a lifecycle and writes down what it does, one short line an action.
struct Driver {
    job: Lifecycle,
    now: Now,
    lines: Vec<String>,
}

impl Driver {
    fn new(settings: LifecycleSettings) -> Self {
        let now = beginning();
        let mut driver = Self { job: Lifecycle::new(settings, now), now, lines: vec![] };
        driver.drain();
        driver
    }

    /// Brings the job to the point where `stage` runs, everything before it being well.
    fn at(settings: LifecycleSettings, stage: &str) -> Self {
        let mut driver = Self::new(settings);
        driver.event(Event::ExecutorPrepared);
        while driver.running().as_deref() != Some(stage) {
            assert!(!driver.job.has_ended(), "{stage} never ran: {:?}", driver.lines);
            driver.event(Event::StageSucceeded);
        }
        driver.lines.clear();
        driver
    }

    fn running(&self) -> Option<String> {
        match &self.job.state {
            State::Running(run) => Some(run.stage.id().into_owned()),
            State::Preparing { .. }
            | State::WaitingToPrepare { .. }
            | State::WaitingToRun { .. }
            | State::Stopping { .. }
            | State::Ended => None,
        }
    }

    fn event(&mut self, event: Event) -> &mut Self {
        self.job.handle(event, self.now);
        self.drain();
        self
    }

    fn ok(&mut self) -> &mut Self {
        self.event(Event::StageSucceeded)
    }

    fn exit(&mut self, code: i32) -> &mut Self {
        self.event(Event::StageFailed(Fault::exit(code)))
    }

    /// Lets time pass, waking the job whenever it asked for it.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        let end = self.now.after(Duration::from_secs(seconds));
        while let Some(due) = self.job.poll_timeout().filter(|due| *due <= end.instant) {
            self.now = self.now.after(due.saturating_duration_since(self.now.instant));
            self.job.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self
    }

    /// All remaining stages end well.
    fn rest(&mut self) -> &mut Self {
        while self.running().is_some() {
            self.ok();
        }
        self
    }

    fn drain(&mut self) {
        while let Some(action) = self.job.next_action() {
            self.lines.push(match action {
                Action::Log { level: Level::Headline, .. } => continue,
                Action::Log { level, text } => format!("{level:?}: {text}"),
                Action::SectionStart(stage) => format!("[{stage}"),
                Action::SectionEnd(stage) => format!("{stage}]"),
                Action::PrepareExecutor { attempt } => format!("prepare {attempt}"),
                Action::StopPreparation => "stop preparation".to_owned(),
                Action::RunStage { stage, attempt, job_status } => {
                    format!("run {stage} {attempt} {}", job_status.as_str())
                }
                Action::StopStage => "stop".to_owned(),
                Action::Abandon => "abandon".to_owned(),
                Action::Finish(FinalResult { outcome, failure: None }) => format!("finish {}", outcome.as_str()),
                Action::Finish(FinalResult { outcome, failure: Some(failure) }) => {
                    let code = failure.exit_code.map_or_else(String::new, |code| format!(" {code}"));
                    format!("finish {} {}{code}", outcome.as_str(), failure.reason.as_str())
                }
            });
        }
    }

    /// What happened since the last look, without the noise of sections.
    fn seen(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
            .into_iter()
            .filter(|line| !line.starts_with('[') && !line.ends_with(']'))
            .collect()
    }

    fn all(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
