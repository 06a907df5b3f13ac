//! What the lifecycle has to know about one job, as plain data.

use std::time::Duration;

use crate::go_duration::GoDuration;
use crate::job::payload::{Job, Policy};
use crate::job::resolved::ResolvedJob;
use crate::job::settings::{Attempts, DEFAULT_AFTER_SCRIPT_TIMEOUT};
use crate::job::stage::Stage;

/// Everything that decides a job's life.
#[derive(Clone, Debug)]
pub struct LifecycleSettings {
    /// The configured name, such as `docker-autoscaler`, for the headline.
    pub executor: String,
    /// The first lines of the trace.
    pub header: Vec<String>,
    /// Said before the first section.
    pub warnings: Vec<String>,
    /// Said before the first step.
    pub policy_lines: Vec<String>,
    pub plan: Plan,
    pub attempts: Attempts,
    pub job_timeout: Duration,
    /// At most the job's.
    pub prepare_timeout: Duration,
    /// At most the job's.
    pub get_sources_timeout: Duration,
    /// Of all steps together; `None`: only the job's.
    pub script_timeout: Option<Duration>,
    pub after_script_timeout: Duration,
    /// Whether a failing after_script leaves the job's result alone.
    pub after_script_ignore_errors: bool,
    /// Whether pauses between attempts grow from 5 s to 5 min, instead of from 1 s to 5 s.
    pub exponential_backoff: bool,
}

/// Which stages have something to do. The others are passed over without a section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub restore_cache: bool,
    pub download_artifacts: bool,
    /// In order.
    pub steps: Vec<Stage>,
    pub after_script: bool,
    pub archive_cache_on_success: bool,
    pub archive_cache_on_failure: bool,
    pub upload_artifacts_on_success: bool,
    pub upload_artifacts_on_failure: bool,
}

impl Plan {
    pub fn of(job: &Job) -> Self {
        Self {
            restore_cache: job.has_cache(),
            download_artifacts: !job.dependencies.is_empty(),
            steps: job.steps.iter().map(crate::job::payload::Step::stage).collect(),
            after_script: !job.after_script.is_empty(),
            archive_cache_on_success: job.caches_to_save(true).next().is_some(),
            archive_cache_on_failure: job.caches_to_save(false).next().is_some(),
            upload_artifacts_on_success: job.artifacts_to_upload(true).next().is_some(),
            upload_artifacts_on_failure: job.artifacts_to_upload(false).next().is_some(),
        }
    }
}

/// What the lifecycle takes from the runner.
#[derive(Clone, Copy, Debug)]
pub struct RunnerSide<'a> {
    /// The configured executor.
    pub executor: &'a str,
    /// The runner's `name`.
    pub name: &'a str,
    /// The part of its token that may be shown.
    pub short_token: &'a str,
    pub system_id: &'a str,
    /// The compatible version and what stands beside it, such as `19.4.0` and `flotilla-0.1.0`.
    pub version: &'a str,
    pub revision: &'a str,
    pub prepare_timeout: Option<Duration>,
    pub get_sources_timeout: Option<Duration>,
}

impl RunnerSide<'_> {
    fn header(&self, changed_flags: &[(&'static str, bool)]) -> Vec<String> {
        let mut lines = vec![
            format!("Running with gitlab-runner {} ({})", self.version, self.revision),
            format!("  on {} {}, system ID: {}", self.name, self.short_token, self.system_id),
        ];
        if !changed_flags.is_empty() {
            let flags: Vec<String> = changed_flags.iter().map(|(flag, on)| format!("{flag}:{on}")).collect();
            lines.push(format!("  feature flags: {}", flags.join(", ")));
        }
        lines
    }
}

impl LifecycleSettings {
    /// The settings of a resolved job.
    pub fn of(resolved: &ResolvedJob, runner: RunnerSide<'_>) -> Self {
        let changed: Vec<(&'static str, bool)> = resolved.flags.changed().collect();
        let settings = &resolved.settings;
        let mut warnings = resolved.warnings.clone();
        let job_timeout = resolved.job.timeout;
        Self {
            plan: Plan::of(&resolved.job),
            attempts: settings.attempts,
            prepare_timeout: within("prepare_timeout", runner.prepare_timeout, job_timeout, &mut warnings),
            get_sources_timeout: within("get_sources_timeout", runner.get_sources_timeout, job_timeout, &mut warnings),
            script_timeout: settings.script_timeout,
            after_script_timeout: settings.after_script_timeout,
            after_script_ignore_errors: settings.after_script_ignore_errors,
            exponential_backoff: resolved.flags.is_on("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY"),
            policy_lines: resolved.job.policy.as_ref().map(policy_lines).unwrap_or_default(),
            ..Self::bare(job_timeout, runner, &changed, warnings)
        }
    }

    /// The settings of a job that cannot be resolved. The driver answers its preparation with the
    /// fault, so that the trace has the header, the section and the reason.
    pub fn of_unresolved(job: &Job, runner: RunnerSide<'_>) -> Self {
        Self::bare(job.timeout, runner, &[], job.warnings.clone())
    }

    /// The settings of a job whose payload asks for what cannot be; see [`Self::of_unresolved`].
    pub fn of_refused(runner: RunnerSide<'_>) -> Self {
        Self::bare(crate::job::payload::DEFAULT_JOB_TIMEOUT, runner, &[], Vec::new())
    }

    fn bare(
        job_timeout: Duration,
        runner: RunnerSide<'_>,
        flags: &[(&'static str, bool)],
        warnings: Vec<String>,
    ) -> Self {
        Self {
            executor: runner.executor.to_owned(),
            header: runner.header(flags),
            warnings,
            policy_lines: Vec::new(),
            plan: Plan::default(),
            attempts: Attempts {
                get_sources: 1,
                restore_cache: 1,
                download_artifacts: 1,
                section: 1,
                resolve_secrets: 1,
            },
            job_timeout,
            prepare_timeout: job_timeout,
            get_sources_timeout: job_timeout,
            script_timeout: None,
            after_script_timeout: DEFAULT_AFTER_SCRIPT_TIMEOUT,
            after_script_ignore_errors: true,
            exponential_backoff: true,
        }
    }
}

/// A timeout of the runner's configuration, which cannot be longer than the job's.
fn within(name: &str, timeout: Option<Duration>, job_timeout: Duration, warnings: &mut Vec<String>) -> Duration {
    match timeout {
        None => job_timeout,
        Some(timeout) if timeout.is_zero() || timeout > job_timeout => {
            warnings.push(format!(
                "{name} of {} is not within the job timeout of {}. Using the job timeout",
                GoDuration::saturating(timeout),
                GoDuration::saturating(job_timeout)
            ));
            job_timeout
        }
        Some(timeout) => timeout,
    }
}

fn policy_lines(policy: &Policy) -> Vec<String> {
    let mut lines = vec![format!("Job triggered by policy {:?}.", policy.name)];
    let exceptions = policy.variables_override_exceptions.join(", ");
    match (policy.variables_override_allowed, exceptions.is_empty()) {
        (None, _) => lines.push("Variables of the policy take precedence over variables of users.".to_owned()),
        (Some(true), true) => lines.push("Users may override the variables of the policy.".to_owned()),
        (Some(true), false) => {
            lines.push(format!("Users may override the variables of the policy, except {exceptions}."))
        }
        (Some(false), true) => lines.push("Users may not override the variables of the policy.".to_owned()),
        (Some(false), false) => {
            lines.push(format!("Users may not override the variables of the policy, except {exceptions}."));
        }
    }
    lines
}
