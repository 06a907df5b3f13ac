//! The scripts of a job's stages.
//!
//! What a stage does is said once, without regard to the shell (`stages`), to a [`writer::Writer`];
//! [`bash`] writes it for bash and every POSIX shell. A script is data: nothing here runs it.
//!
//! A script may be given to its shell as a file (`bash FILE`) or as standard input (`bash -s < FILE`).
//! The shell has read all of it before the first command runs; the commands themselves find `/dev/null`
//! as their standard input. It does not look at `$0` and needs no particular working directory.

pub mod bash;
pub mod cache_key;
mod git_url;
mod stages;
pub mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::job::failure::Fault;
use crate::job::lifecycle::JobStatus;
use crate::job::resolved::ResolvedJob;
use crate::job::stage::Stage;

/// Which shell reads the scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShellKind {
    Bash,
    Sh,
}

impl ShellKind {
    /// The shell's name, which is also its command.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Sh => "sh",
        }
    }
}

/// Everything that the scripts of one job are made of.
#[derive(Clone, Debug)]
pub struct ScriptContext {
    /// The job in its place: directories are absolute.
    pub job: Arc<ResolvedJob>,
    pub shell: ShellKind,
    /// `CI_JOB_STATUS` for the stage that is written.
    pub job_status: JobStatus,
    pub runner: RunnerScript,
    /// The command with the artifact and cache subcommands, on the search path or absolute.
    pub helper: String,
    /// The manager's host name, for `Running on … via …`.
    pub manager_host: String,
    /// Of the answer that brought the job; empty where the server sent none.
    pub correlation_id: String,
    /// How git names itself, such as `gitlab-runner 19.4.0 linux/amd64`.
    pub git_user_agent: String,
    /// Jobs share the place with others, so that nothing is put into git's settings of the user.
    pub shared_environment: bool,
    pub remote_caches: RemoteCaches,
    /// For `RUNNER_GENERATE_ARTIFACTS_METADATA`.
    pub provenance: Provenance,
}

/// What the runner's configuration adds to scripts.
#[derive(Clone, Debug)]
pub struct RunnerScript {
    /// The server, for the helper.
    pub url: String,
    pub clone_url: Option<String>,
    pub pre_get_sources: Option<String>,
    pub post_get_sources: Option<String>,
    pub pre_build: Option<String>,
    pub post_build: Option<String>,
    /// Git's settings and hooks in the checkout are taken away before and after the job. `None`: unless the job has
    /// no sources from git.
    pub clean_git_config: Option<bool>,
    /// The project directory is declared safe for git, whoever owns it.
    pub safe_directory_checkout: bool,
    pub artifact_upload_timeout: Duration,
    pub artifact_response_header_timeout: Duration,
    /// Where an upload may be redirected to besides the server's own host.
    pub artifact_redirect_hosts: Vec<String>,
    /// Bytes that one archive may expand to; 0 is the free disk space. A job's variables cannot raise it.
    pub max_extracted_size: u64,
}

impl RunnerScript {
    /// Arguments of the helper's commands that extract archives.
    fn extract_arguments(&self) -> Vec<String> {
        match self.max_extracted_size {
            0 => Vec::new(),
            size => vec!["--max-extracted-size".to_owned(), size.to_string()],
        }
    }
}

impl Default for RunnerScript {
    fn default() -> Self {
        Self {
            url: String::new(),
            clone_url: None,
            pre_get_sources: None,
            post_get_sources: None,
            pre_build: None,
            post_build: None,
            clean_git_config: None,
            safe_directory_checkout: false,
            artifact_upload_timeout: Duration::from_secs(3600),
            artifact_response_header_timeout: Duration::from_secs(600),
            artifact_redirect_hosts: Vec::new(),
            max_extracted_size: 0,
        }
    }
}

/// Where caches are kept besides the place itself, by object key ([`cache_key::CacheKey::object`]); empty: nowhere.
pub type RemoteCaches = BTreeMap<String, RemoteCache>;

/// How the helper reaches one remote cache object. The arguments are the helper's own.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RemoteCache {
    /// Added to `cache-extractor`, such as `--url …`.
    pub extract_arguments: Vec<String>,
    /// Added to `cache-archiver`.
    pub archive_arguments: Vec<String>,
    /// Set for the helper through a file that is removed at once, such as credentials.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for RemoteCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Signed URLs are credentials.
        f.write_str("RemoteCache")
    }
}

/// Who ran the job when, for artifact metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    pub runner_id: i64,
    pub runner_name: String,
    pub executor: String,
    /// When the job began; RFC 3339, as the helper reads nothing else.
    pub started_at: String,
    /// When the stage's script is written; RFC 3339.
    pub ended_at: String,
}

/// A stage's script. It holds the job's secrets, so it prints as its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Script(String);

impl Script {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script of {} bytes", self.0.len())
    }
}

/// Writes the script of `stage`; `None` where there is nothing to do.
///
/// # Errors
/// The job asks for what cannot be, such as an unknown submodule strategy or cache policy.
pub fn script(stage: &Stage, context: &ScriptContext) -> Result<Option<Script>, Fault> {
    let mut writer = bash::BashWriter::new(context.shell, context.job.settings.debug_trace);
    Ok(stages::write(stage, context, &mut writer)?.then(|| writer.finish()))
}

#[cfg(test)]
mod tests;
