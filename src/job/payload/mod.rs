//! The wire's payload as a job that can be run: what is missing is filled in, what may not be guessed
//! refuses the job.

use std::time::Duration;

use crate::gitlab::wire::payload::{
    ExecutorOptions, GitInfo, HookName, JobArtifacts, JobCache, JobCredential, JobDependency, JobHook, JobImage,
    JobInfo, JobPayload, JobStep, Note, PolicyOptions, When,
};
use crate::ids::JobId;
use crate::job::failure::{FailureReason, Fault, FaultClass};
use crate::job::stage::{Stage, StepName};
use crate::job::variables::Variable;
use crate::secret::Secret;

/// Where GitLab sets no timeout.
pub const DEFAULT_JOB_TIMEOUT: Duration = Duration::from_secs(7200);
/// GitLab allows a month; a larger number is an error somewhere, and must not overflow a clock.
pub const LONGEST_JOB_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3600);

/// The name of the step that runs after the others, whatever their result.
const AFTER_SCRIPT: &str = "after_script";

/// A job to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub token: Secret,
    pub name: String,
    /// The stage of the pipeline, not one of ours.
    pub pipeline_stage: String,
    pub pipeline_id: i64,
    pub project: Project,
    pub git: Git,
    pub allow_git_fetch: bool,
    pub timeout: Duration,
    /// As GitLab sent them, unexpanded.
    pub variables: Vec<Variable>,
    /// In order, without after_script and without steps that have no commands.
    pub steps: Vec<Step>,
    /// Empty: there is none.
    pub after_script: Vec<String>,
    pub image: Option<Image>,
    pub services: Vec<Image>,
    pub artifacts: Vec<Artifacts>,
    pub caches: Vec<CacheEntry>,
    pub registry_credentials: Vec<RegistryCredential>,
    /// Those that left artifacts.
    pub dependencies: Vec<Dependency>,
    pub pre_get_sources: Vec<String>,
    pub post_get_sources: Vec<String>,
    pub features: Features,
    pub policy: Option<Policy>,
    /// What of the payload could not be used, as lines for the trace.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    pub id: i64,
    pub name: String,
    pub full_path: String,
    pub namespace_id: i64,
    pub root_namespace_id: i64,
}

/// What to check out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Git {
    /// With credentials.
    pub repo_url: Secret,
    /// Empty means sha1.
    pub object_format: String,
    pub ref_name: String,
    pub sha: String,
    pub before_sha: String,
    pub refspecs: Vec<String>,
    /// 0: all of the history.
    pub depth: u32,
    /// GitLab's own word, or else what CI_COMMIT_REF_PROTECTED says.
    pub protected: bool,
}

/// A list of the user's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// As sent: `script`, `release`, …
    pub name: String,
    pub script: Vec<String>,
}

impl Step {
    pub fn stage(&self) -> Stage {
        Stage::Step(StepName::new(&self.name))
    }
}

/// The image of the job or of a service; names still unexpanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub name: String,
    /// Host names of a service, separated by blanks or commas.
    pub alias: String,
    pub command: Vec<String>,
    pub entrypoint: Vec<String>,
    /// Of a service.
    pub variables: Vec<Variable>,
    pub pull_policies: Vec<String>,
    pub platform: Option<String>,
    pub user: Option<String>,
}

/// After which result something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    OnSuccess,
    OnFailure,
    Always,
    /// The payload has a word that we do not know.
    Never,
}

impl Condition {
    pub fn holds(self, job_succeeded: bool) -> bool {
        match self {
            Self::OnSuccess => job_succeeded,
            Self::OnFailure => !job_succeeded,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// One archive or report to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifacts {
    pub name: String,
    pub untracked: bool,
    pub paths: Vec<String>,
    pub exclude: Vec<String>,
    pub when: Condition,
    /// `archive`, `junit`, `dotenv`, …; passed on.
    pub kind: String,
    /// Empty, `zip`, `gzip`, `raw`, …; passed on.
    pub format: String,
    pub expire_in: String,
}

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    pub key: String,
    pub fallback_keys: Vec<String>,
    pub untracked: bool,
    pub paths: Vec<String>,
    /// Unexpanded.
    pub policy: String,
    pub when: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryCredential {
    pub url: String,
    pub username: String,
    pub password: Secret,
}

/// An earlier job whose artifacts are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    pub id: JobId,
    pub name: String,
    pub token: Secret,
}

/// What the server understands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub trace_sections: bool,
    pub token_mask_prefixes: Vec<String>,
    pub failure_reasons: Vec<String>,
}

/// The pipeline execution policy that made this job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: String,
    pub variables_override_allowed: Option<bool>,
    pub variables_override_exceptions: Vec<String>,
}

/// Why a job cannot be run, before anything was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub message: String,
    pub reason: FailureReason,
    pub exit_code: i32,
}

impl Refused {
    /// The reference's code for jobs that ask for what the executor does not have.
    const EXIT_CODE: i32 = 3;

    fn new(message: String) -> Self {
        Self { message, reason: FailureReason::RunnerSystemFailure, exit_code: Self::EXIT_CODE }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let Refused { message, reason, exit_code } = refused;
        Self { message, class: FaultClass::Coded { reason, exit_code } }
    }
}

impl Job {
    /// Takes over a payload for a runner with this executor.
    ///
    /// # Errors
    /// Where running the job would mean to run something else than was asked for: unreadable commands
    /// or images, options that the executor does not have, `run:` together with `script:`, secrets of
    /// outside stores and templates of job inputs, which this runner does not resolve.
    pub fn from_wire(payload: JobPayload, executor: &str) -> Result<Self, Refused> {
        refuse_unreadable(&payload.notes)?;
        refuse_unresolvable(&payload)?;
        for image in payload.image.iter().chain(&payload.services) {
            refuse_unknown_options(&image.executor_opts, executor)?;
        }
        let mut variables: Vec<Variable> = payload.variables.into_iter().map(Variable::from).collect();
        let (steps, after_script) = all_steps(payload.steps, &payload.run, &mut variables)?;
        let warnings = payload.notes.iter().map(|note| format!("part of the job's payload was ignored: {note}"));
        Ok(Self {
            id: JobId(payload.id),
            token: payload.token,
            name: payload.job_info.name.clone(),
            pipeline_stage: payload.job_info.stage.clone(),
            pipeline_id: payload.job_info.pipeline_id,
            project: Project::from(payload.job_info),
            git: Git::from_wire(payload.git_info, &variables),
            allow_git_fetch: payload.allow_git_fetch,
            timeout: u64::try_from(payload.runner_info.timeout)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map_or(DEFAULT_JOB_TIMEOUT, |seconds| Duration::from_secs(seconds).min(LONGEST_JOB_TIMEOUT)),
            variables,
            steps,
            after_script,
            image: payload.image.map(Image::from).filter(|image| !image.name.is_empty()),
            services: payload.services.into_iter().map(Image::from).collect(),
            artifacts: payload.artifacts.into_iter().map(Artifacts::from).collect(),
            caches: payload.cache.into_iter().map(CacheEntry::from).collect(),
            registry_credentials: payload.credentials.into_iter().filter_map(registry_credential).collect(),
            dependencies: payload.dependencies.into_iter().filter_map(dependency).collect(),
            pre_get_sources: hook_commands(&payload.hooks, &HookName::PreGetSources),
            post_get_sources: hook_commands(&payload.hooks, &HookName::PostGetSources),
            features: Features {
                trace_sections: payload.features.trace_sections,
                token_mask_prefixes: payload.features.token_mask_prefixes,
                failure_reasons: payload.features.failure_reasons,
            },
            policy: policy(payload.policy_options),
            warnings: warnings.collect(),
        })
    }

    /// Whether some cache is to be restored, so that the stage has something to do.
    pub fn has_cache(&self) -> bool {
        self.caches.iter().any(CacheEntry::has_files)
    }

    /// The caches to save after this result.
    pub fn caches_to_save(&self, job_succeeded: bool) -> impl Iterator<Item = &CacheEntry> {
        self.caches.iter().filter(move |cache| cache.has_files() && cache.when.holds(job_succeeded))
    }

    /// The artifacts to upload after this result.
    pub fn artifacts_to_upload(&self, job_succeeded: bool) -> impl Iterator<Item = &Artifacts> {
        self.artifacts.iter().filter(move |artifacts| {
            (artifacts.untracked || !artifacts.paths.is_empty()) && artifacts.when.holds(job_succeeded)
        })
    }
}

impl CacheEntry {
    pub fn has_files(&self) -> bool {
        self.untracked || !self.paths.is_empty()
    }
}

/// A command that could not be read must not be left out of the script, nor an image replaced by another.
fn refuse_unreadable(notes: &[Note]) -> Result<(), Refused> {
    let essential = |note: &&Note| {
        ["steps", "hooks", "image", "services", "run"].iter().any(|field| {
            note.path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    match notes.iter().find(essential) {
        Some(note) => Err(Refused::new(format!("the job's payload cannot be used: {note}"))),
        None => Ok(()),
    }
}

/// GitLab sends these only to runners that offer to resolve them, which this one does not.
fn refuse_unresolvable(payload: &JobPayload) -> Result<(), Refused> {
    if !payload.secrets.is_empty() {
        let names: Vec<&str> = payload.secrets.keys().map(String::as_str).collect();
        return Err(Refused::new(format!(
            "this runner does not fetch secrets of outside stores, and the job needs {}",
            names.join(", ")
        )));
    }
    let interpolated = (&payload.steps, &payload.image, &payload.services, &payload.artifacts, &payload.cache);
    let has_templates = || serde_json::to_string(&interpolated).is_ok_and(|text| text.contains("${{"));
    if !payload.inputs.is_empty() && has_templates() {
        return Err(Refused::new("this runner does not interpolate job inputs, and the job uses them".to_owned()));
    }
    Ok(())
}

fn refuse_unknown_options(options: &ExecutorOptions, executor: &str) -> Result<(), Refused> {
    for (section, unknown, supported) in [
        ("executor_opts", &options.unknown, "docker, kubernetes"),
        ("docker executor", &options.docker.unknown, "platform, user"),
        ("kubernetes executor", &options.kubernetes.unknown, "user"),
    ] {
        if !unknown.is_empty() {
            let names: Vec<&str> = unknown.keys().map(String::as_str).collect();
            return Err(Refused::new(format!(
                "Unsupported \"{section}\" options [{}] for \"{executor}\"; supported options are [{supported}]",
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// The steps to run in order, and after_script's commands.
fn all_steps(
    wire: Vec<JobStep>,
    run: &str,
    variables: &mut Vec<Variable>,
) -> Result<(Vec<Step>, Vec<String>), Refused> {
    let mut steps: Vec<Step> = wire.into_iter().map(|step| Step { name: step.name, script: step.script }).collect();
    if !run.is_empty() {
        let (step, variable) = run_shim(run, &steps, variables)?;
        steps = vec![step];
        variables.push(variable);
    }
    let (after, mut steps): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| step.name == AFTER_SCRIPT);
    steps.retain(|step| !step.script.is_empty());
    merge_same_stages(&mut steps);
    Ok((steps, after.into_iter().flat_map(|step| step.script).collect()))
}

/// Two steps of one name are one stage, which runs once.
fn merge_same_stages(steps: &mut Vec<Step>) {
    let mut merged: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps.drain(..) {
        match merged.iter_mut().find(|earlier| earlier.stage() == step.stage()) {
            Some(earlier) => earlier.script.extend(step.script),
            None => merged.push(step),
        }
    }
    *steps = merged;
}

/// `run:` steps are handed to a `step-runner` of the job's image.
fn run_shim(run: &str, steps: &[Step], variables: &[Variable]) -> Result<(Step, Variable), Refused> {
    if steps.iter().any(|step| !step.script.is_empty()) {
        return Err(Refused::new("the `run` and `script` keywords cannot be used together".to_owned()));
    }
    if variables.iter().any(|variable| variable.key == "STEPS") {
        return Err(Refused::new("the `run` keyword requires the exclusive use of the variable STEPS".to_owned()));
    }
    let step = Step { name: "script".to_owned(), script: vec!["step-runner ci".to_owned()] };
    Ok((step, Variable { raw: true, ..Variable::new("STEPS", run) }))
}

fn registry_credential(wire: JobCredential) -> Option<RegistryCredential> {
    let credential = RegistryCredential { url: wire.url, username: wire.username, password: wire.password };
    (wire.kind == "registry").then_some(credential)
}

fn dependency(wire: JobDependency) -> Option<Dependency> {
    let dependency = Dependency { id: JobId(wire.id), name: wire.name, token: wire.token };
    (!wire.artifacts_file.filename.is_empty()).then_some(dependency)
}

fn policy(wire: PolicyOptions) -> Option<Policy> {
    let policy = Policy {
        name: wire.policy_name,
        variables_override_allowed: wire.policy_variables_override_allowed,
        variables_override_exceptions: wire.policy_variables_override_exceptions,
    };
    wire.execution_policy_job.then_some(policy)
}

fn hook_commands(hooks: &[JobHook], name: &HookName) -> Vec<String> {
    hooks.iter().filter(|hook| hook.name == *name).flat_map(|hook| hook.script.iter().cloned()).collect()
}

impl From<JobInfo> for Project {
    fn from(wire: JobInfo) -> Self {
        Self {
            id: wire.project_id,
            name: wire.project_name,
            full_path: wire.project_full_path,
            namespace_id: wire.namespace_id,
            root_namespace_id: wire.root_namespace_id,
        }
    }
}

impl Git {
    fn from_wire(wire: GitInfo, variables: &[Variable]) -> Self {
        Self {
            repo_url: wire.repo_url,
            object_format: wire.repo_object_format,
            ref_name: wire.ref_name,
            sha: wire.sha,
            before_sha: wire.before_sha,
            refspecs: wire.refspecs,
            depth: u32::try_from(wire.depth.max(0)).unwrap_or(u32::MAX),
            protected: wire.protected.unwrap_or_else(|| says_protected(variables)),
        }
    }
}

/// Servers that do not say it themselves: the first variable of the name counts, which users cannot override.
fn says_protected(variables: &[Variable]) -> bool {
    variables
        .iter()
        .find(|variable| variable.key == "CI_COMMIT_REF_PROTECTED")
        .is_some_and(|found| found.value == "true")
}

impl From<When> for Condition {
    fn from(wire: When) -> Self {
        match wire {
            When::OnSuccess => Self::OnSuccess,
            When::OnFailure => Self::OnFailure,
            When::Always => Self::Always,
            When::Unknown(_) => Self::Never,
        }
    }
}

impl From<JobImage> for Image {
    fn from(wire: JobImage) -> Self {
        let docker = wire.executor_opts.docker;
        Self {
            name: wire.name,
            alias: wire.alias,
            command: wire.command,
            entrypoint: wire.entrypoint,
            variables: wire.variables.into_iter().map(Variable::from).collect(),
            pull_policies: wire.pull_policy,
            platform: Some(docker.platform).filter(|platform| !platform.is_empty()),
            user: Some(docker.user).filter(|user| !user.is_empty()),
        }
    }
}

impl From<JobArtifacts> for Artifacts {
    fn from(wire: JobArtifacts) -> Self {
        Self {
            name: wire.name,
            untracked: wire.untracked,
            paths: wire.paths,
            exclude: wire.exclude,
            when: wire.when.into(),
            kind: wire.artifact_type,
            format: wire.artifact_format,
            expire_in: wire.expire_in,
        }
    }
}

impl From<JobCache> for CacheEntry {
    fn from(wire: JobCache) -> Self {
        Self {
            key: wire.key,
            fallback_keys: wire.fallback_keys,
            untracked: wire.untracked,
            paths: wire.paths,
            policy: wire.policy,
            when: wire.when.into(),
        }
    }
}

#[cfg(test)]
mod tests;
