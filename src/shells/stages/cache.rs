//! restore_cache and archive_cache: calls of the helper, which has the archives and the transfers.

use super::{Command, ScriptContext, Style, Test, Writer, begin, enter_project, in_tmp, refused, with_helper};
use crate::job::failure::Fault;
use crate::job::payload::CacheEntry;
use crate::shells::RemoteCache;
use crate::shells::cache_key::{self, CacheKey, KeyResult};

/// The archive's name, whatever its format.
const ARCHIVE: &str = "cache.zip";
/// Variables for the helper alone.
const ENVIRONMENT_FILE: &str = "gitlab_runner_cache_env";

/// What a cache entry is for, by its policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    PullPush,
    Pull,
    Push,
}

impl Policy {
    fn of(entry: &CacheEntry, shown_key: &str, context: &ScriptContext) -> Result<Self, Fault> {
        match context.job.variables.expand(&entry.policy).as_str() {
            "" | "pull-push" => Ok(Self::PullPush),
            "pull" => Ok(Self::Pull),
            "push" => Ok(Self::Push),
            other => Err(refused(format!("unknown cache policy {other} for {shown_key}"))),
        }
    }
}

pub(super) fn restore(context: &ScriptContext, writer: &mut dyn Writer) -> Result<bool, Fault> {
    let entries: Vec<&CacheEntry> = context.job.job.caches.iter().filter(|entry| entry.has_files()).collect();
    if entries.is_empty() {
        return Ok(false);
    }
    begin(context, writer);
    enter_project(context, writer);
    for entry in entries {
        let primary = cache_key::primary(entry, &context.job);
        let Some(key) = usable(&primary, "extraction", writer) else { continue };
        if Policy::of(entry, &key.shown, context)? == Policy::Push {
            writer.say(Style::Notice, &format!("Not downloading cache {} due to policy", key.shown));
            continue;
        }
        let mut keys = vec![key.clone()];
        for fallback in cache_key::fallbacks(entry, &context.job) {
            if let Some(warning) = &fallback.warning {
                writer.say(Style::Warning, warning);
            }
            keys.extend(fallback.key.filter(|key| !keys.contains(key)));
        }
        with_helper(context, writer, "Extracting cache", &mut |writer| extract(&keys, entry, context, writer));
    }
    Ok(true)
}

/// Says what is to be said about a key.
fn usable<'a>(result: &'a KeyResult, task: &str, writer: &mut dyn Writer) -> Option<&'a CacheKey> {
    if let Some(warning) = &result.warning {
        writer.say(Style::Warning, warning);
    }
    if result.key.is_none() {
        writer.say(Style::Notice, &format!("Skipping cache {task} due to empty cache key"));
    }
    result.key.as_ref()
}

/// Tries the keys until one brings something. Without any the job goes on.
fn extract(keys: &[CacheKey], entry: &CacheEntry, context: &ScriptContext, writer: &mut dyn Writer) {
    let Some((key, others)) = keys.split_first() else { return };
    let remote = context.remote_caches.get(&key.object);
    writer.say(Style::Notice, &format!("Checking cache for {}...", key.shown));
    let environment = write_environment(remote, context, writer);
    let mut command = Command::new(&context.helper)
        .args(["cache-extractor", "--file"])
        .arg(archive_path(key, context))
        .arg("--timeout")
        .arg(context.job.settings.cache_request_timeout.to_string())
        .args(context.runner.extract_arguments())
        .args(remote.into_iter().flat_map(|remote| remote.extract_arguments.iter().cloned()));
    if let Some(file) = &environment {
        command = command.arg("--env-file").arg(file);
    }
    writer.begin_if(&Test::Runs(&command));
    writer.say(Style::Notice, "Successfully extracted cache");
    writer.otherwise();
    writer.say(Style::Warning, "Failed to extract cache");
    if context.job.flags.is_on("FF_CLEAN_UP_FAILED_CACHE_EXTRACT") {
        for path in &entry.paths {
            let path = context.job.variables.expand(path);
            writer.say(Style::Warning, &format!("Removing {path}"));
            writer.remove_dirs(&[&path]);
        }
    }
    extract(others, entry, context, writer);
    writer.end_if();
    remove_environment(environment, writer);
}

pub(super) fn archive(job_succeeded: bool, context: &ScriptContext, writer: &mut dyn Writer) -> Result<bool, Fault> {
    let entries: Vec<&CacheEntry> = context.job.job.caches_to_save(job_succeeded).collect();
    if entries.is_empty() {
        return Ok(false);
    }
    begin(context, writer);
    enter_project(context, writer);
    for entry in entries {
        let primary = cache_key::primary(entry, &context.job);
        let Some(key) = usable(&primary, "archiving", writer) else { continue };
        if Policy::of(entry, &key.shown, context)? == Policy::Pull {
            writer.say(Style::Notice, &format!("Not uploading cache {} due to policy", key.shown));
            continue;
        }
        with_helper(context, writer, "Creating cache", &mut |writer| save(key, entry, context, writer));
    }
    Ok(true)
}

fn save(key: &CacheKey, entry: &CacheEntry, context: &ScriptContext, writer: &mut dyn Writer) {
    let remote = context.remote_caches.get(&key.object);
    writer.say(Style::Notice, &format!("Creating cache {}...", key.shown));
    let environment = write_environment(remote, context, writer);
    let mut command = Command::new(&context.helper)
        .args(["cache-archiver", "--file"])
        .arg(archive_path(key, context))
        .arg("--timeout")
        .arg(context.job.settings.cache_request_timeout.to_string());
    for path in &entry.paths {
        command = command.arg("--path").arg(path);
    }
    if entry.untracked {
        command = command.arg("--untracked");
    }
    command = command.args(remote.into_iter().flat_map(|remote| remote.archive_arguments.iter().cloned()));
    if let Some(file) = &environment {
        command = command.arg("--env-file").arg(file);
    }
    writer.begin_if(&Test::Runs(&command));
    writer.say(Style::Notice, "Created cache");
    writer.otherwise();
    writer.say(Style::Warning, "Failed to create cache");
    writer.end_if();
    remove_environment(environment, writer);
}

/// The local archive as seen from the project directory, where the helper runs.
fn archive_path(key: &CacheKey, context: &ScriptContext) -> String {
    let dirs = &context.job.dirs;
    dirs.relative_to_project(&format!("{}/{}/{ARCHIVE}", dirs.cache_dir, key.object))
}

/// Credentials go through a file, so that no list of processes shows them.
fn write_environment(remote: Option<&RemoteCache>, context: &ScriptContext, writer: &mut dyn Writer) -> Option<String> {
    let environment = &remote.filter(|remote| !remote.environment.is_empty())?.environment;
    let file = in_tmp(context, ENVIRONMENT_FILE);
    let lines: String = environment
        .iter()
        .map(|(key, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
            format!("{key}=\"{value}\"\n")
        })
        .collect();
    writer.write_file(&file, &lines);
    Some(file)
}

fn remove_environment(file: Option<String>, writer: &mut dyn Writer) {
    if let Some(file) = file {
        writer.remove_files(&[&file]);
    }
}
