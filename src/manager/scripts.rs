//! From a runner, a job and the place it got to what its scripts are made of.

use std::sync::Arc;
use std::time::SystemTime;

use super::beginning::Beginning;
use super::served::ServedRunner;
use crate::executors::{Environment, ScriptFacts};
use crate::gitlab::COMPATIBLE_VERSION;
use crate::job::failure::Fault;
use crate::job::lifecycle::JobStatus;
use crate::job::stage::Stage;
use crate::shells::{Provenance, RemoteCaches, RunnerScript, Script, ScriptContext, ShellKind};
use crate::time::rfc3339;
use crate::trace::Sink;

/// Everything that the job's scripts have in common.
pub fn context(runner: &ServedRunner, beginning: &Beginning, environment: &Environment<Sink>) -> ScriptContext {
    let info = runner.client.info();
    ScriptContext {
        job: Arc::new(environment.job().clone()),
        shell: ShellKind::Bash,
        job_status: JobStatus::Running,
        runner: runner_script(runner),
        helper: String::new(),
        manager_host: runner.host_name.clone(),
        correlation_id: beginning.correlation_id.clone(),
        git_user_agent: format!("{} {COMPATIBLE_VERSION} {}/{}", info.name, info.platform, info.architecture),
        shared_environment: runner.executor.is_shared(),
        remote_caches: RemoteCaches::new(),
        provenance: Provenance {
            runner_id: runner.config.id,
            runner_name: runner.config.name.clone(),
            executor: runner.executor.name().to_owned(),
            started_at: rfc3339(beginning.at, 0),
            ended_at: String::new(),
        },
    }
}

/// The script of one stage, for where it will run from `now` on.
///
/// # Errors
/// The job asks for what cannot be.
pub fn of_stage(
    stage: &Stage,
    job_status: JobStatus,
    mut context: ScriptContext,
    facts: ScriptFacts,
    now: SystemTime,
) -> Result<Option<Script>, Fault> {
    context.job_status = job_status;
    context.shell = if facts.shell.ends_with("bash") { ShellKind::Bash } else { ShellKind::Sh };
    context.helper = facts.helper;
    context.provenance.ended_at = rfc3339(now, 0);
    crate::shells::script(stage, &context)
}

fn runner_script(runner: &ServedRunner) -> RunnerScript {
    let config = &runner.config;
    RunnerScript {
        url: config.url.as_str().to_owned(),
        clone_url: config.clone_url.clone(),
        pre_get_sources: config.pre_get_sources_script.clone(),
        post_get_sources: config.post_get_sources_script.clone(),
        pre_build: config.pre_build_script.clone(),
        post_build: config.post_build_script.clone(),
        clean_git_config: config.clean_git_config,
        safe_directory_checkout: config.safe_directory_checkout.unwrap_or_else(|| !runner.executor.is_shared()),
        artifact_upload_timeout: config.artifact.upload_timeout,
        artifact_response_header_timeout: config.artifact.response_header_timeout,
        artifact_redirect_hosts: config.artifact.redirect_hosts.clone(),
        max_extracted_size: config.max_extracted_size,
    }
}
