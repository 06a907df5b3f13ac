//! cleanup_file_variables: nothing of the job's secrets stays behind.

use super::git_settings::{export_global, external_file, global_file};
use super::{
    Command, ENVIRONMENT_FILE, MASKING_FILE, ScriptContext, Style, Writer, enter_project, export_variables, in_tmp,
    sources,
};
use crate::job::settings::{GitStrategy, SubmoduleStrategy};
use crate::shells::writer::git_clean;

pub(super) fn cleanup(context: &ScriptContext, writer: &mut dyn Writer) {
    let job = &context.job;
    let strategy = job.settings.git_strategy;
    let used_git = matches!(strategy, GitStrategy::Fetch | GitStrategy::Clone);
    let cleans_up = job.flags.is_on("FF_ENABLE_JOB_CLEANUP");
    if used_git || cleans_up {
        // Git and its credential helpers see what they saw before.
        export_variables(context, writer, false);
        export_global(context, writer);
    }
    if used_git {
        sources::forget_credentials(context, writer);
    }
    let mut files = vec![
        in_tmp(context, ENVIRONMENT_FILE),
        in_tmp(context, MASKING_FILE),
        external_file(context),
        global_file(context),
    ];
    for variable in job.variables.iter().filter(|variable| variable.file && variable.has_shell_name()) {
        let path = in_tmp(context, &variable.key);
        if !files.contains(&path) {
            files.push(path);
        }
    }
    writer.remove_files(&files.iter().map(String::as_str).collect::<Vec<_>>());
    if cleans_up {
        project_directory(context, strategy, writer);
    }
    sources::tidy(context, writer);
}

/// `FF_ENABLE_JOB_CLEANUP`: the next job finds no more than it would have got itself.
fn project_directory(context: &ScriptContext, strategy: GitStrategy, writer: &mut dyn Writer) {
    let settings = &context.job.settings;
    match strategy {
        GitStrategy::None => writer.say(Style::Notice, "Skipping build directory cleanup step"),
        GitStrategy::Clone | GitStrategy::Empty => writer.remove_dirs(&[&context.job.dirs.project_dir]),
        GitStrategy::Fetch => {
            enter_project(context, writer);
            let recursive = match settings.submodule_strategy {
                SubmoduleStrategy::None | SubmoduleStrategy::Invalid(_) => None,
                SubmoduleStrategy::Normal => Some(false),
                SubmoduleStrategy::Recursive => Some(true),
            };
            let clean = git_clean(settings);
            let reset = Command::new("git").args(["reset", "--hard"]);
            for command in clean.iter().chain([&reset]) {
                writer.run(command);
            }
            if let Some(recursive) = recursive {
                for command in clean.iter().chain([&reset]) {
                    let each =
                        Command::new("git").args(["submodule", "foreach"]).args(recursive.then_some("--recursive"));
                    writer.run(&each.args(command.words().iter().cloned()));
                }
            }
        }
    }
}
