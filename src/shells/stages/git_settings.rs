//! Git's settings for one job: written as two files, instead of one process for each setting.
//!
//! The template of new repositories includes the file of this job, which lies outside of the
//! checkout: credentials are never in `.git/config`, and the next job's take their place.

use std::fmt::Write as _;

use super::{Command, ScriptContext, Test, Writer, in_tmp};
use crate::job::settings::GitStrategy;
use crate::shells::git_url::GitUrl;

/// The template for `git init`.
const TEMPLATE_DIR: &str = "git-template";
/// This job's settings.
const EXTERNAL_FILE: &str = ".gitlab-runner.ext.conf";
/// Takes the place of the user's settings where URLs carry no tokens.
const GLOBAL_FILE: &str = ".glr.gconf";
/// A home for git where the user has none to write to.
const HOME_DIR: &str = "home";
/// The user's settings, below the home.
const USER_FILES: [&str; 2] = [".gitconfig", ".config/git/config"];

/// Variables with paths of TLS files, and the settings that they become.
const TLS_SETTINGS: [(&str, &str); 3] = [
    ("CI_SERVER_TLS_CA_FILE", "sslCAInfo"),
    ("CI_SERVER_TLS_CERT_FILE", "sslCert"),
    ("CI_SERVER_TLS_KEY_FILE", "sslKey"),
];

pub(super) fn template_dir(context: &ScriptContext) -> String {
    in_tmp(context, TEMPLATE_DIR)
}

pub(super) fn external_file(context: &ScriptContext) -> String {
    in_tmp(context, EXTERNAL_FILE)
}

pub(super) fn global_file(context: &ScriptContext) -> String {
    in_tmp(context, GLOBAL_FILE)
}

/// Whether credentials come from a helper instead of standing in URLs.
pub(super) fn without_tokens(context: &ScriptContext) -> bool {
    context.job.flags.is_on("FF_GIT_URLS_WITHOUT_TOKENS")
}

/// Every stage's git finds the job's credentials.
pub(super) fn export_global(context: &ScriptContext, writer: &mut dyn Writer) {
    if without_tokens(context) {
        writer.export("GIT_CONFIG_GLOBAL", &global_file(context));
    }
}

/// Begins the file that every stage of the job names as the user's settings, with those that the user has. It is
/// written once: what the job then sets with `git config --global` is there in its later stages.
pub(super) fn begin_global(context: &ScriptContext, writer: &mut dyn Writer) {
    if !without_tokens(context) {
        return;
    }
    let global = global_file(context);
    let include = Command::new("git").args(["config", "--file", global.as_str(), "--add", "include.path"]);
    writer.write_file(&global, "");
    for file in USER_FILES {
        // Git goes without settings of the user that it may not read, but not without an included file.
        writer.begin_if(&Test::ReadableAtHome(file));
        writer.run_with_home_file(&include, file);
        writer.end_if();
    }
    writer.run(&include.arg(external_file(context)));
}

/// Users without a home, as those without an entry in the image's list of users, get one for this stage: git's settings
/// for all repositories lie there.
pub(super) fn ensure_home(context: &ScriptContext, writer: &mut dyn Writer) {
    let home = in_tmp(context, HOME_DIR);
    writer.begin_if(&Test::HomeIsClosed);
    // It is made anew: what an earlier job has set there is not for this one.
    writer.remove_dirs(&[&home]);
    writer.make_dirs(&[&home]);
    writer.export("HOME", &home);
    writer.end_if();
}

/// Writes the settings without which strategy `none` and `empty` have no credentials.
pub(super) fn write_minimal(context: &ScriptContext, writer: &mut dyn Writer) {
    if without_tokens(context) {
        let mut settings = Settings::default();
        settings.credential_helper(remote(context).filter(GitUrl::is_http));
        writer.write_file(&external_file(context), &settings.text);
    }
}

/// Writes the template and this job's settings.
pub(super) fn write_all(context: &ScriptContext, writer: &mut dyn Writer) {
    let external = external_file(context);
    writer.remove_files(&[&external]);
    writer.write_file(&format!("{}/config", template_dir(context)), &template(&external).text);
    writer.write_file(&external, &external_settings(context).text);
    writer.export("GLR_EXT_GIT_CONFIG_PATH", &external);
}

fn template(external: &str) -> Settings {
    let mut settings = Settings::default();
    settings.set("init", None, "defaultBranch", "none");
    settings.set("fetch", None, "recurseSubmodules", "false");
    settings.set("credential", None, "interactive", "never");
    settings.set("gc", None, "autoDetach", "false");
    settings.set("include", None, "path", external);
    settings
}

fn external_settings(context: &ScriptContext) -> Settings {
    let mut settings = Settings::default();
    let flags = &context.job.flags;
    if flags.is_on("FF_USE_GITALY_CORRELATION_ID") && !context.correlation_id.is_empty() {
        let header = format!("X-Gitaly-Correlation-ID: {}", context.correlation_id);
        settings.set("http", None, "extraHeader", &header);
    }
    if flags.is_on("FF_USE_GIT_BUNDLE_URIS") {
        settings.set("transfer", None, "bundleURI", "true");
    }
    if context.shared_environment {
        for (key, path) in tls_settings(context) {
            settings.set("http", remote(context).map(|url| url.origin()).as_deref(), key, &path);
        }
    }
    for (replacement, original) in replacements(context) {
        settings.set("url", Some(&replacement), "insteadOf", &original);
    }
    if without_tokens(context) {
        settings.credential_helper(remote(context).filter(GitUrl::is_http));
    }
    settings
}

/// The job's TLS files as settings of git.
pub(super) fn tls_settings(context: &ScriptContext) -> Vec<(&'static str, String)> {
    let variables = &context.job.variables;
    TLS_SETTINGS
        .into_iter()
        .filter(|(variable, _)| variables.find(variable).is_some())
        .map(|(variable, key)| (key, variables.get(variable)))
        .collect()
}

/// The base of the server's URLs: `clone_url`, or the runner's own.
fn base_url(context: &ScriptContext) -> Option<GitUrl> {
    context
        .runner
        .clone_url
        .as_deref()
        .and_then(GitUrl::parse)
        .or_else(|| GitUrl::parse(&context.runner.url))
        .filter(GitUrl::is_http)
}

/// Where the sources come from, with what credentials there are.
pub(super) fn remote(context: &ScriptContext) -> Option<GitUrl> {
    let token = context.job.job.token.expose();
    let url = match context.runner.clone_url.as_deref().and_then(GitUrl::parse) {
        Some(base) => {
            let path =
                format!("{}/{}.git", base.path.trim_end_matches('/'), context.job.variables.value("CI_PROJECT_PATH"));
            let url = base.with_path(&path);
            if url.scheme == "ssh" { url } else { url.with_job_token(token) }
        }
        None => GitUrl::parse(context.job.job.git.repo_url.expose())?,
    };
    Some(match url.scheme.as_str() {
        "ssh" if url.userinfo.is_none() => GitUrl { userinfo: Some("git".to_owned()), ..url },
        "ssh" => url,
        _ if without_tokens(context) => url.without_user(),
        _ => url,
    })
}

/// The remote as it stands in `.git/config`: without credentials.
pub(super) fn remote_without_credentials(context: &ScriptContext) -> String {
    remote(context).map_or_else(
        || context.job.job.git.repo_url.expose().to_owned(),
        |url| if url.scheme == "ssh" { url.to_string() } else { url.without_user().to_string() },
    )
}

/// URLs that git shall use, and what they stand in for.
fn replacements(context: &ScriptContext) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = Vec::new();
    let mut add = |replacement: String, original: String| {
        if replacement != original && !list.contains(&(replacement.clone(), original.clone())) {
            list.push((replacement, original));
        }
    };
    let tokens = !without_tokens(context);
    if let Some(url) = remote(context).filter(GitUrl::is_http) {
        add(url.to_string(), url.without_user().to_string());
    }
    let token = context.job.job.token.expose();
    if let Some(base) = base_url(context) {
        let plain = base.without_user().trimmed();
        let used = if tokens { base.with_job_token(token).trimmed() } else { plain.clone() };
        if tokens {
            add(used.clone(), plain);
        }
        if context.job.settings.submodule_force_https {
            let (host, port) = ssh_host(context);
            if port.is_empty() || port == "22" {
                add(format!("{used}/"), format!("git@{host}:"));
                add(used, format!("ssh://git@{host}"));
            } else {
                add(used, format!("ssh://git@{host}:{port}"));
            }
        }
    }
    if let Some(repo) = GitUrl::parse(context.job.job.git.repo_url.expose()).filter(|url| tokens && url.is_http()) {
        let base = repo.with_path("");
        add(base.to_string(), base.without_user().to_string());
    }
    list
}

fn ssh_host(context: &ScriptContext) -> (String, String) {
    let variables = &context.job.variables;
    let host = Some(variables.value("CI_SERVER_SHELL_SSH_HOST")).filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| variables.value("CI_SERVER_HOST"));
    (host.to_owned(), variables.value("CI_SERVER_SHELL_SSH_PORT").to_owned())
}

/// Whether the settings are cleaned before and after this job.
pub(super) fn cleans_config(context: &ScriptContext) -> bool {
    context.runner.clean_git_config.unwrap_or(context.job.settings.git_strategy != GitStrategy::None)
}

/// A file in the format of git's settings.
#[derive(Default)]
struct Settings {
    text: String,
}

impl Settings {
    fn set(&mut self, section: &str, subsection: Option<&str>, key: &str, value: &str) {
        let (section, value) = match subsection {
            None => (section.to_owned(), quoted(value)),
            Some(name) => (format!("{section} {}", quoted(name)), quoted(value)),
        };
        // Writing to a string does not fail.
        writeln!(self.text, "[{section}]\n\t{key} = {value}").unwrap_or_default();
    }

    /// The job's token for a server, from the job's own variables.
    fn credential_helper(&mut self, server: Option<GitUrl>) {
        if let Some(server) = server {
            let origin = server.origin();
            // The empty one forgets the helpers of the user's own settings.
            self.set("credential", Some(&origin), "helper", "");
            let helper = "!f(){ if [ \"$1\" = get ]; then echo \"password=${CI_JOB_TOKEN}\"; fi; }; f";
            self.set("credential", Some(&origin), "helper", helper);
            self.set("credential", Some(&origin), "username", "gitlab-ci-token");
        }
    }
}

/// A value or subsection in double quotes.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}
