//! download_artifacts and upload_artifacts: calls of the helper.

use super::{Command, ScriptContext, Style, Writer, begin, enter_project, with_helper};
use crate::go_duration::GoDuration;
use crate::job::payload::Artifacts;
use crate::shells::git_url::GitUrl;

/// The format whose archives may carry metadata.
const ZIP: &str = "zip";

pub(super) fn download(context: &ScriptContext, writer: &mut dyn Writer) -> bool {
    let dependencies = &context.job.job.dependencies;
    if dependencies.is_empty() {
        return false;
    }
    begin(context, writer);
    enter_project(context, writer);
    with_helper(context, writer, "Artifacts downloading", &mut |writer| {
        for dependency in dependencies {
            writer.say(Style::Notice, &format!("Downloading artifacts for {} ({})...", dependency.name, dependency.id));
            let command = Command::new(&context.helper)
                .args(["artifacts-downloader", "--url", context.runner.url.as_str()])
                .args(["--token", dependency.token.expose()])
                .arg("--id")
                .arg(dependency.id.to_string())
                .args(context.runner.extract_arguments());
            writer.run(&command);
        }
    });
    true
}

pub(super) fn upload(job_succeeded: bool, context: &ScriptContext, writer: &mut dyn Writer) -> bool {
    let entries: Vec<&Artifacts> = context.job.job.artifacts_to_upload(job_succeeded).collect();
    if entries.is_empty() || context.runner.url.is_empty() {
        return false;
    }
    begin(context, writer);
    enter_project(context, writer);
    with_helper(context, writer, "Uploading artifacts", &mut |writer| {
        for entry in &entries {
            writer.say(Style::Notice, "Uploading artifacts...");
            writer.run(&upload_command(entry, context));
        }
    });
    true
}

fn upload_command(entry: &Artifacts, context: &ScriptContext) -> Command {
    let job = &context.job.job;
    let runner = &context.runner;
    let mut command = Command::new(&context.helper)
        .args(["artifacts-uploader", "--url", runner.url.as_str(), "--token", job.token.expose(), "--id"])
        .arg(job.id.to_string())
        .args(["--timeout".to_owned(), GoDuration::saturating(runner.artifact_upload_timeout).to_string()])
        .args([
            "--response-header-timeout".to_owned(),
            GoDuration::saturating(runner.artifact_response_header_timeout).to_string(),
        ]);
    // Upstream's helper does not know the flag, and follows to any host.
    for host in &runner.artifact_redirect_hosts {
        command = command.arg("--redirect-host").arg(host);
    }
    if context.job.settings.generate_artifacts_metadata && entry.format == ZIP {
        command = with_metadata(command, context);
    }
    for path in &entry.paths {
        command = command.arg("--path").arg(path);
    }
    for path in &entry.exclude {
        command = command.arg("--exclude").arg(path);
    }
    if entry.untracked {
        command = command.arg("--untracked");
    }
    for (flag, value) in [
        ("--name", &entry.name),
        ("--expire-in", &entry.expire_in),
        ("--artifact-format", &entry.format),
        ("--artifact-type", &entry.kind),
    ] {
        if !value.is_empty() {
            command = command.arg(flag).arg(value);
        }
    }
    command
}

fn with_metadata(command: Command, context: &ScriptContext) -> Command {
    let job = &context.job.job;
    let provenance = &context.provenance;
    let url = GitUrl::parse(job.git.repo_url.expose()).map_or_else(String::new, |url| url.without_user().to_string());
    let repository = url.strip_suffix(".git").unwrap_or(&url);
    // As GitLab names us to the job; where it does not, as it was named to us.
    let named = job.variables.iter().rfind(|variable| variable.key == "CI_RUNNER_ID").map(|id| id.value.clone());
    let runner_id = named.filter(|id| !id.is_empty()).unwrap_or_else(|| provenance.runner_id.to_string());
    let command = command
        .args(["--generate-artifacts-metadata", "--runner-id", runner_id.as_str()])
        .args(["--repo-url", repository, "--repo-digest", job.git.sha.as_str()])
        .args(["--job-name", job.name.as_str(), "--executor-name", provenance.executor.as_str()])
        .args(["--runner-name", provenance.runner_name.as_str(), "--started-at", provenance.started_at.as_str()])
        .args(["--ended-at", provenance.ended_at.as_str()])
        .args(["--schema-version", context.job.settings.slsa_schema_version.as_str()]);
    let keys = job.variables.iter().map(|variable| variable.key.as_str());
    keys.fold(command, |command, key| command.args(["--metadata-parameter", key]))
}
