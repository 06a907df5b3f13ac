//! What each stage does, shell-neutral.

mod artifacts;
mod cache;
mod cleanup;
mod git_settings;
mod lfs;
mod sources;
mod submodules;

use super::ScriptContext;
use super::writer::{Command, Echo, ExitCheck, LastStatus, Style, Test, Writer};
use crate::job::failure::{FailureReason, Fault};
use crate::job::stage::{Stage, StepName};

/// `KEY=VALUE` lines that one stage leaves for the next ones.
const ENVIRONMENT_FILE: &str = "gitlab_runner_env";
/// Masks that a job added for itself, of the reference's helper.
const MASKING_FILE: &str = "masking.db";

/// Writes the script of `stage`; whether there is one.
pub(super) fn write(stage: &Stage, context: &ScriptContext, writer: &mut dyn Writer) -> Result<bool, Fault> {
    match stage {
        Stage::ResolveSecrets | Stage::PrepareExecutor => Ok(false),
        Stage::PrepareScript => {
            writer.say_host(&context.manager_host);
            writer.remove_files(&[&in_tmp(context, ENVIRONMENT_FILE), &in_tmp(context, MASKING_FILE)]);
            Ok(true)
        }
        Stage::GetSources => sources::get_sources(context, writer).map(|()| true),
        Stage::ClearWorktree => {
            sources::clear_worktree(context, writer);
            Ok(true)
        }
        Stage::RestoreCache => cache::restore(context, writer),
        Stage::DownloadArtifacts => Ok(artifacts::download(context, writer)),
        Stage::Step(name) => Ok(step(name, context, writer)),
        Stage::AfterScript => Ok(after_script(context, writer)),
        Stage::ArchiveCache => cache::archive(true, context, writer),
        Stage::ArchiveCacheOnFailure => cache::archive(false, context, writer),
        Stage::UploadArtifactsOnSuccess => Ok(artifacts::upload(true, context, writer)),
        Stage::UploadArtifactsOnFailure => Ok(artifacts::upload(false, context, writer)),
        Stage::CleanupFileVariables => {
            cleanup::cleanup(context, writer);
            Ok(true)
        }
    }
}

fn step(name: &StepName, context: &ScriptContext, writer: &mut dyn Writer) -> bool {
    let Some(script) = context.job.step_script(name.as_str()) else { return false };
    begin(context, writer);
    enter_project(context, writer);
    let runner = &context.runner;
    let (pre_build, post_build) = (runner.pre_build.as_slice(), runner.post_build.as_slice());
    let script_is_last = if post_build.is_empty() { LastStatus::Counts } else { LastStatus::Passes };
    user_commands("pre_build_script", pre_build, LastStatus::Passes, context, writer);
    user_commands("script_step", &script, script_is_last, context, writer);
    user_commands("post_build_script", post_build, LastStatus::Counts, context, writer);
    true
}

fn after_script(context: &ScriptContext, writer: &mut dyn Writer) -> bool {
    let script = &context.job.job.after_script;
    if script.is_empty() {
        return false;
    }
    begin(context, writer);
    enter_project(context, writer);
    writer.say(Style::Notice, "Running after script...");
    user_commands("after_script_step", script, LastStatus::Counts, context, writer);
    true
}

/// The job's variables, and what earlier stages left for this one.
fn begin(context: &ScriptContext, writer: &mut dyn Writer) {
    let dirs = &context.job.dirs;
    // User scripts write into this directory from their first command on.
    writer.make_dirs(&[&dirs.tmp_dir]);
    export_variables(context, writer, true);
    let environment_file = in_tmp(context, ENVIRONMENT_FILE);
    writer.export("GITLAB_ENV", &environment_file);
    writer.load_environment(&environment_file);
    git_settings::export_global(context, writer);
}

/// Sets every variable. `with_files`: the contents of file variables are written.
fn export_variables(context: &ScriptContext, writer: &mut dyn Writer, with_files: bool) {
    for variable in context.job.variables.iter().filter(|variable| variable.has_shell_name()) {
        if variable.file {
            let path = in_tmp(context, &variable.key);
            if with_files {
                writer.write_file(&path, &variable.value);
            }
            writer.export(&variable.key, &path);
        } else {
            writer.export(&variable.key, &variable.value);
        }
    }
    writer.export("CI_JOB_STATUS", context.job_status.as_str());
}

fn enter_project(context: &ScriptContext, writer: &mut dyn Writer) {
    writer.change_dir(&context.job.dirs.project_dir);
}

/// Commands of people, of the job or of the runner's configuration.
fn user_commands(
    prefix: &str,
    commands: &[String],
    last: LastStatus,
    context: &ScriptContext,
    writer: &mut dyn Writer,
) {
    if commands.is_empty() {
        return;
    }
    let flags = &context.job.flags;
    let sections = flags.is_on("FF_SCRIPT_SECTIONS") && context.job.job.features.trace_sections;
    let echo = if sections { Echo::Sections { prefix } } else { Echo::FirstLine };
    let check = if flags.is_on("FF_ENABLE_BASH_EXIT_CODE_CHECK") { ExitCheck::Explicit } else { ExitCheck::ByShell };
    writer.user_commands(commands, echo, check, last);
}

/// What the helper does in `body`, or else why it is not done. Nothing is done without the helper.
fn with_helper(context: &ScriptContext, writer: &mut dyn Writer, task: &str, body: &mut dyn FnMut(&mut dyn Writer)) {
    writer.begin_if(&Test::RunsQuietly(&Command::new(&context.helper).arg("--version")));
    body(writer);
    writer.otherwise();
    writer.say(Style::Warning, &format!("Missing {}. {task} is disabled.", context.helper));
    writer.end_if();
}

/// The job asks for a script that cannot be. The reference names no reason for it, which GitLab hears as a failure of
/// the runner.
fn refused(message: impl Into<String>) -> Fault {
    Fault::of(FailureReason::RunnerSystemFailure, message)
}

/// The path of a file in the job's temporary directory.
fn in_tmp(context: &ScriptContext, name: &str) -> String {
    format!("{}/{name}", context.job.dirs.tmp_dir)
}
