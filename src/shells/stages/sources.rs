//! get_sources: the commit of the job in its project directory.

use super::git_settings::{self, cleans_config, external_file, template_dir};
use super::{
    Command, LastStatus, ScriptContext, Style, Test, Writer, begin, enter_project, lfs, refused, submodules,
    user_commands,
};
use crate::job::failure::Fault;
use crate::job::settings::{GitStrategy, SubmoduleStrategy};
use crate::shells::git_url::GitUrl;
use crate::shells::writer::git_clean;

/// Lock files of a git that was killed, and the hook that would run in the checkout.
const LEFTOVERS: [&str; 5] = ["index.lock", "shallow.lock", "HEAD.lock", "hooks/post-checkout", "config.lock"];

pub(super) fn get_sources(context: &ScriptContext, writer: &mut dyn Writer) -> Result<(), Fault> {
    let settings = &context.job.settings;
    if let SubmoduleStrategy::Invalid(_) = settings.submodule_strategy {
        return Err(refused("unknown GIT_SUBMODULE_STRATEGY"));
    }
    begin(context, writer);
    writer.export("GIT_TERMINAL_PROMPT", "0");
    writer.export("GCM_INTERACTIVE", "Never");
    git_settings::begin_global(context, writer);
    match settings.git_strategy {
        GitStrategy::None => {
            writer.say(Style::Notice, "Skipping Git repository setup");
            writer.make_dirs(&[&context.job.dirs.project_dir]);
            git_settings::write_minimal(context, writer);
            without_checkout(writer);
        }
        GitStrategy::Empty => {
            writer.say(Style::Notice, "Skipping Git repository setup and creating an empty build directory");
            writer.remove_dirs(&[&context.job.dirs.project_dir]);
            writer.make_dirs(&[&context.job.dirs.project_dir]);
            git_settings::write_minimal(context, writer);
            without_checkout(writer);
        }
        GitStrategy::Fetch | GitStrategy::Clone => from_repository(context, writer)?,
    }
    Ok(())
}

fn without_checkout(writer: &mut dyn Writer) {
    writer.say(Style::Notice, "Skipping Git checkout");
    writer.say(Style::Notice, "Skipping Git submodules setup");
}

fn from_repository(context: &ScriptContext, writer: &mut dyn Writer) -> Result<(), Fault> {
    let job = &context.job;
    let settings = &job.settings;
    if !context.shared_environment {
        git_settings::ensure_home(context, writer);
        global_tls_settings(context, writer);
    }
    let hooks = &context.runner;
    user_commands("pre_clone_script", hooks.pre_get_sources.as_slice(), LastStatus::Passes, context, writer);
    user_commands("pre_clone_script", &job.job.pre_get_sources, LastStatus::Passes, context, writer);
    if !settings.lfs_skip_smudge {
        // Files of LFS come all at once after the checkout.
        writer.export("GIT_LFS_SKIP_SMUDGE", "1");
    }
    tidy(context, writer);
    writer.make_dirs(&[&template_dir(context)]);
    if context.runner.safe_directory_checkout {
        let add = Command::new("git").args(["config", "--global", "--add", "safe.directory"]);
        writer.run(&add.arg(&job.dirs.project_dir));
    }
    git_settings::write_all(context, writer);
    if job.flags.is_on("FF_USE_GITALY_CORRELATION_ID") && !context.correlation_id.is_empty() {
        writer.say(Style::Notice, &format!("Gitaly correlation ID: {}", context.correlation_id));
    }
    if settings.git_strategy == GitStrategy::Clone {
        writer.remove_dirs(&[&job.dirs.project_dir]);
    }
    if settings.git_strategy == GitStrategy::Clone && job.flags.is_on("FF_USE_GIT_NATIVE_CLONE") {
        writer.begin_if(&Test::GitAtLeast("2.49"));
        native_clone(context, writer);
        writer.otherwise();
        fetch(context, writer);
        writer.end_if();
    } else {
        fetch(context, writer);
    }
    if settings.git_checkout {
        checkout(context, writer);
    } else {
        writer.say(Style::Notice, "Skipping Git checkout");
    }
    submodules::update(context, writer)?;
    user_commands("post_clone_script", &job.job.post_get_sources, LastStatus::Passes, context, writer);
    user_commands("post_clone_script", hooks.post_get_sources.as_slice(), LastStatus::Passes, context, writer);
    forget_credentials(context, writer);
    Ok(())
}

/// In a container of this job alone, the TLS files count for every git command.
fn global_tls_settings(context: &ScriptContext, writer: &mut dyn Writer) {
    let Some(origin) = git_settings::remote(context).map(|url| url.origin()) else { return };
    for (key, path) in git_settings::tls_settings(context) {
        let name = format!("http.{origin}.{key}");
        writer.run(&Command::new("git").args(["config", "--global"]).arg(name).arg(path));
    }
}

/// Takes away what an earlier job or a killed git left in the checkout.
pub(super) fn tidy(context: &ScriptContext, writer: &mut dyn Writer) {
    let git_dir = format!("{}/.git", context.job.dirs.project_dir);
    let has_submodules = context.job.settings.submodule_strategy != SubmoduleStrategy::None;
    let modules = format!("{git_dir}/modules");
    let in_git_dir = |name: &str| format!("{git_dir}/{name}");
    writer.begin_if(&Test::Directory(&git_dir));
    let mut files: Vec<String> = LEFTOVERS.iter().map(|name| in_git_dir(name)).collect();
    if cleans_config(context) {
        files.push(in_git_dir("config"));
    }
    writer.remove_files(&files.iter().map(String::as_str).collect::<Vec<_>>());
    writer.remove_files_below(&in_git_dir("refs"), &["*.lock"]);
    if cleans_config(context) {
        writer.remove_dirs(&[&in_git_dir("hooks")]);
    }
    if has_submodules {
        let names: Vec<&str> = LEFTOVERS.iter().map(|name| name.rsplit('/').next().unwrap_or(name)).collect();
        writer.remove_files_below(&modules, &names);
        if cleans_config(context) {
            writer.remove_files_below(&modules, &["config"]);
            writer.remove_dirs_below(&modules, "hooks");
        }
    }
    writer.end_if();
    if cleans_config(context) {
        let template = template_dir(context);
        writer.remove_files(&[&format!("{template}/config")]);
        writer.remove_dirs(&[&format!("{template}/hooks")]);
    }
}

/// `git` with the settings that the flags ask for.
fn git(context: &ScriptContext, settings: &[String]) -> Command {
    settings
        .iter()
        .fold(Command::new("git"), |command, setting| command.arg("-c").arg(setting))
        .args(proactive_auth(context))
}

fn proactive_auth(context: &ScriptContext) -> Vec<String> {
    if !context.job.flags.is_on("FF_USE_GIT_PROACTIVE_AUTH") {
        return Vec::new();
    }
    let setting = git_settings::remote(context).filter(GitUrl::is_http).map_or_else(
        || "http.proactiveAuth=basic".to_owned(),
        |url| format!("http.{}.proactiveAuth=basic", url.origin()),
    );
    vec!["-c".to_owned(), setting]
}

fn fetch(context: &ScriptContext, writer: &mut dyn Writer) {
    let job = &context.job;
    let git_info = &job.job.git;
    let project = job.dirs.project_dir.as_str();
    match git_info.depth {
        0 => writer.say(Style::Notice, "Fetching changes..."),
        depth => writer.say(Style::Notice, &format!("Fetching changes with git depth set to {depth}...")),
    }
    let mut init = Command::new("git").args(["init", project, "--template"]).arg(template_dir(context));
    if !matches!(git_info.object_format.as_str(), "" | "sha1") {
        init = init.arg("--object-format").arg(&git_info.object_format);
    }
    writer.run(&init);
    enter_project(context, writer);
    let remote = git_settings::remote_without_credentials(context);
    writer.begin_if(&Test::RunsQuietly(&Command::new("git").args(["remote", "add", "origin", remote.as_str()])));
    writer.say(Style::Notice, "Created fresh repository.");
    writer.otherwise();
    writer.run(&Command::new("git").args(["remote", "set-url", "origin", remote.as_str()]));
    let include = Command::new("git").args(["config", "--replace-all", "include.path"]);
    writer.run(&include.arg(external_file(context)).arg("\\.gitlab-runner\\.ext\\.conf$"));
    writer.end_if();
    let command = git(context, &[format!("http.userAgent={}", context.git_user_agent)])
        .args(["fetch", "origin", "--no-recurse-submodules"])
        .args(git_info.refspecs.iter().cloned());
    let flags = job.settings.git_fetch_flags.iter().cloned();
    if git_info.depth > 0 {
        writer.run(&command.arg("--depth").arg(git_info.depth.to_string()).args(flags));
        return;
    }
    let command = command.args(flags);
    writer.begin_if(&Test::File(&format!("{project}/.git/shallow")));
    writer.run(&command.clone().arg("--unshallow"));
    writer.otherwise();
    writer.run(&command);
    writer.end_if();
}

fn native_clone(context: &ScriptContext, writer: &mut dyn Writer) {
    let job = &context.job;
    let git_info = &job.job.git;
    writer.say(Style::Notice, "Git version at least \"2.49\"");
    let subject = if git_info.ref_name.is_empty() { String::new() } else { format!(" for {}", git_info.ref_name) };
    let depth = if git_info.depth > 0 { format!(" with git depth set to {}", git_info.depth) } else { String::new() };
    writer.say(Style::Notice, &format!("Cloning repository{subject}{depth}..."));
    let mut command = git(context, &[format!("http.userAgent={}", context.git_user_agent)])
        .args(["clone", "--no-checkout"])
        .arg(git_settings::remote_without_credentials(context))
        .arg(&job.dirs.project_dir)
        .arg("--template")
        .arg(template_dir(context));
    if git_info.depth > 0 {
        command = command.arg("--depth").arg(git_info.depth.to_string());
    }
    let reference = git_info.ref_name.as_str();
    if reference.starts_with("refs/") {
        command = command.arg("--revision").arg(reference);
    } else if !reference.is_empty() {
        command = command.arg("--branch").arg(reference);
    }
    writer.run(&command.args(job.settings.git_clone_flags.iter().cloned()));
    enter_project(context, writer);
}

fn checkout(context: &ScriptContext, writer: &mut dyn Writer) {
    let job = &context.job;
    let git_info = &job.job.git;
    let short: String = git_info.sha.chars().take(8).collect();
    let text = format!("Checking out {short} as detached HEAD (ref is {})...", git_info.ref_name);
    writer.say(Style::Notice, &text);
    let command = git(context, &["submodule.recurse=false".to_owned()]);
    writer.run(&command.args(["checkout", "-f", "-q", git_info.sha.as_str()]));
    if let Some(clean) = git_clean(&job.settings) {
        writer.run(&clean);
    }
    if !job.settings.lfs_skip_smudge {
        writer.begin_if(&Test::RunsQuietly(&Command::new("git").args(["lfs", "version"])));
        writer.run(&Command::new("git").args(["lfs", "pull"]));
        writer.say_nothing();
        lfs::otherwise_refuse(context, writer, &lfs::is_wanted());
        writer.end_if();
    }
}

/// Git's credential helpers forget the job's token, as far as they keep anything.
pub(super) fn forget_credentials(context: &ScriptContext, writer: &mut dyn Writer) {
    let remote = git_settings::remote(context)
        .filter(|url| matches!(url.scheme.as_str(), "http" | "https" | "ssh") && !url.host.is_empty());
    if let Some(url) = remote {
        let input = format!("url={}\nusername=gitlab-ci-token\n", url.origin());
        writer.try_with_input(&input, &Command::new("git").args(["credential", "reject"]));
    }
}

pub(super) fn clear_worktree(context: &ScriptContext, writer: &mut dyn Writer) {
    let project = &context.job.dirs.project_dir;
    writer.say(Style::Notice, "Deleting tracked and untracked files...");
    writer.begin_if(&Test::Directory(project));
    enter_project(context, writer);
    writer.run(&Command::new("git").args(["rm", "-rf", "--ignore-unmatch", "--quiet", "."]));
    writer.run(&Command::new("git").args(["clean", "-ffdx", "-q"]));
    writer.end_if();
}
