//! The helper's flags, as they are typed; nothing else.
//!
//! Names and meanings are those of GitLab Runner's helper, whose flags follow Go: `--flag value` and
//! `--flag=value`, a switch is `--flag` or `--flag=true`, and the last of a repeated flag counts. A flag
//! that is absent stays `None` here: its default may come from the environment, which the command's
//! settings know.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::duration::parse_duration;
use super::own::Place;
use super::stage;
use crate::secret::Secret;

/// The command line of the helper binary.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla-helper",
    about = "What runs beside a GitLab job",
    disable_version_flag = true,
    args_override_self = true
)]
pub struct Cli {
    /// Print the version and what it was built for.
    #[arg(long, short = 'v')]
    pub version: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How the helper speaks.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Say more [env: RUNNER_DEBUG].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub debug: Option<bool>,
    /// runner, text or json [env: LOG_FORMAT].
    #[arg(long)]
    pub log_format: Option<String>,
    /// debug, info, warn, error or fatal [env: LOG_LEVEL].
    #[arg(long, short = 'l')]
    pub log_level: Option<String>,
}

/// What the helper does; `flotilla` has the same subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create and upload a job's artifacts.
    #[command(args_override_self = true)]
    ArtifactsUploader(Box<ArtifactsUploaderArgs>),
    /// Download and extract artifacts of a job.
    #[command(args_override_self = true)]
    ArtifactsDownloader(ArtifactsDownloaderArgs),
    /// Create a cache archive, and upload it where a URL is given.
    #[command(args_override_self = true)]
    CacheArchiver(Box<CacheArchiverArgs>),
    /// Extract a cache archive, downloaded first where a URL is given.
    #[command(args_override_self = true)]
    CacheExtractor(Box<CacheExtractorArgs>),
    /// Make new cache volumes writable for every user.
    CacheInit(CacheInitArgs),
    /// Wait until services accept connections.
    HealthCheck(HealthCheckArgs),
    /// Run and follow stages for the manager, over stdin and stdout.
    #[command(hide = true)]
    Agent(stage::AgentArgs),
    /// Keep one stage, detached.
    #[command(hide = true)]
    Keep(stage::KeepArgs),
    /// Give folders to the job's user, for the manager.
    #[command(hide = true)]
    Own(OwnArgs),
}

/// Which job at which GitLab.
#[derive(Clone, Debug, Default, Args)]
pub struct JobArgs {
    /// GitLab's URL [env: CI_SERVER_URL].
    #[arg(long)]
    pub url: Option<String>,
    /// The job's token [env: CI_JOB_TOKEN].
    #[arg(long, allow_hyphen_values = true, value_parser = parse_secret)]
    pub token: Option<Secret>,
    /// The job's number [env: CI_JOB_ID].
    #[arg(long)]
    pub id: Option<i64>,
    /// PEM file of further authorities [env: CI_SERVER_TLS_CA_FILE].
    #[arg(long)]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of a client certificate [env: CI_SERVER_TLS_CERT_FILE].
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key [env: CI_SERVER_TLS_KEY_FILE].
    #[arg(long)]
    pub tls_key_file: Option<PathBuf>,
}

/// Which files go into an archive.
#[derive(Clone, Debug, Default, Args)]
pub struct FileArgs {
    /// A file, folder or pattern; repeatable.
    #[arg(long = "path", allow_hyphen_values = true)]
    pub paths: Vec<String>,
    /// A pattern of what to leave out; repeatable.
    #[arg(long, allow_hyphen_values = true)]
    pub exclude: Vec<String>,
    /// Add what Git does not track.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub untracked: Option<bool>,
    /// Name each file.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub verbose: Option<bool>,
}

/// How often to try.
#[derive(Clone, Debug, Args)]
pub struct RetryArgs {
    /// Tries after the first.
    #[arg(long, default_value_t = 2)]
    pub retry: u32,
    /// Time between tries.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub retry_time: Duration,
}

/// How transfers are shown.
#[derive(Clone, Debug, Default, Args)]
pub struct MeterArgs {
    /// How often to print a transfer's progress; 0 is never [env: TRANSFER_METER_FREQUENCY].
    #[arg(long, value_parser = parse_duration)]
    pub transfer_meter_frequency: Option<Duration>,
}

#[derive(Clone, Debug, Args)]
pub struct ArtifactsUploaderArgs {
    #[command(flatten)]
    pub job: JobArgs,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub meter: MeterArgs,
    /// The archive's name, without its ending.
    #[arg(long, default_value = "artifacts", allow_hyphen_values = true)]
    pub name: String,
    /// When GitLab deletes the artifacts.
    #[arg(long, allow_hyphen_values = true)]
    pub expire_in: Option<String>,
    /// zip, gzip or raw.
    #[arg(long)]
    pub artifact_format: Option<String>,
    /// What the artifacts are, such as archive or junit.
    #[arg(long)]
    pub artifact_type: Option<String>,
    /// fastest, fast, default, slow or slowest [env: ARTIFACT_COMPRESSION_LEVEL].
    #[arg(long)]
    pub compression_level: Option<String>,
    /// Longest time of one upload.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Longest time until GitLab answers.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    pub response_header_timeout: Duration,
    /// A host that GitLab may redirect the upload to, besides its own; may be given again.
    #[arg(long = "redirect-host")]
    pub redirect_hosts: Vec<String>,
    /// Accepted: status and message of an answer are shown always.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub ci_debug_trace: Option<bool>,
    #[command(flatten)]
    pub provenance: ProvenanceArgs,
}

/// What a provenance statement says; it is not written yet, and asking for one warns.
#[derive(Clone, Debug, Default, Args)]
pub struct ProvenanceArgs {
    /// Add a provenance statement.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub generate_artifacts_metadata: Option<bool>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub runner_id: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub repo_url: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub repo_digest: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub job_name: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub executor_name: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub runner_name: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub started_at: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub ended_at: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub schema_version: Option<String>,
    #[arg(long = "metadata-parameter", hide = true, allow_hyphen_values = true)]
    pub metadata_parameters: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct ArtifactsDownloaderArgs {
    #[command(flatten)]
    pub job: JobArgs,
    #[command(flatten)]
    pub retry: RetryArgs,
    #[command(flatten)]
    pub meter: MeterArgs,
    /// Let GitLab send us to its object storage [env: FF_USE_DIRECT_DOWNLOAD].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub direct_download: Option<bool>,
    /// Where the archive lies while it is extracted [env: ARCHIVER_STAGING_DIR].
    #[arg(long)]
    pub archiver_staging_dir: Option<PathBuf>,
    /// Most bytes that an archive may expand to; 0 is the free disk space.
    #[arg(long)]
    pub max_extracted_size: Option<u64>,
}

/// Sizes of parallel transfers. They are accepted; a transfer is one stream.
#[derive(Clone, Debug, Default, Args)]
pub struct TransferArgs {
    #[arg(long, hide = true)]
    pub transfer_buffer_size: Option<u64>,
    #[arg(long, hide = true)]
    pub chunk_size: Option<u64>,
    #[arg(long, hide = true)]
    pub concurrency: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub struct CacheArchiverArgs {
    /// The archive to write.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// The archive under the name that another naming scheme gives it.
    #[arg(long)]
    pub alternate_file: Option<PathBuf>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub retry: RetryArgs,
    #[command(flatten)]
    pub meter: MeterArgs,
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// Where to put the archive: a pre-signed URL.
    #[arg(long)]
    pub url: Option<String>,
    /// Where to look whether the archive is there already: a pre-signed URL for HEAD.
    #[arg(long)]
    pub check_url: Option<String>,
    /// A bucket's URL.
    #[arg(long = "gocloud-url")]
    pub gocloud_url: Option<String>,
    /// Longest time of a transfer, in minutes; 0 is 10.
    #[arg(long, default_value_t = 10, allow_hyphen_values = true)]
    pub timeout: i64,
    /// A header of the upload, `Name: value`; repeatable.
    #[arg(long = "header", allow_hyphen_values = true)]
    pub headers: Vec<String>,
    /// Metadata of the archive, a JSON object of texts [env: CACHE_METADATA].
    #[arg(long, allow_hyphen_values = true)]
    pub metadata: Option<String>,
    /// fastest, fast, default, slow or slowest [env: CACHE_COMPRESSION_LEVEL].
    #[arg(long)]
    pub compression_level: Option<String>,
    /// zip [env: CACHE_COMPRESSION_FORMAT].
    #[arg(long)]
    pub compression_format: Option<String>,
    /// Largest archive that is uploaded, in bytes; 0 is any [env: CACHE_MAX_UPLOADED_ARCHIVE_SIZE].
    #[arg(long, allow_hyphen_values = true)]
    pub max_uploaded_archive_size: Option<i64>,
    /// File with variables for the transfer.
    #[arg(long)]
    pub env_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct CacheExtractorArgs {
    /// The archive to extract.
    #[arg(long)]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub retry: RetryArgs,
    #[command(flatten)]
    pub meter: MeterArgs,
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// Where to get the archive: a pre-signed URL.
    #[arg(long)]
    pub url: Option<String>,
    /// Where to look how old that archive is: a pre-signed URL for HEAD.
    #[arg(long)]
    pub head_url: Option<String>,
    /// The archive under the name that another naming scheme gives it.
    #[arg(long)]
    pub alternate_url: Option<String>,
    #[arg(long)]
    pub alternate_head_url: Option<String>,
    /// A bucket's URL.
    #[arg(long = "gocloud-url")]
    pub gocloud_url: Option<String>,
    #[arg(long = "alternate-gocloud-url")]
    pub alternate_gocloud_url: Option<String>,
    /// Longest time of a transfer, in minutes; 0 is 10.
    #[arg(long, default_value_t = 10, allow_hyphen_values = true)]
    pub timeout: i64,
    /// File with variables for the transfer.
    #[arg(long)]
    pub env_file: Option<PathBuf>,
    /// Most bytes that an archive may expand to; 0 is the free disk space.
    #[arg(long)]
    pub max_extracted_size: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub struct CacheInitArgs {
    pub paths: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct HealthCheckArgs {
    /// A port of this host that has to accept connections; repeatable.
    #[arg(long = "port", short = 'p')]
    pub ports: Vec<String>,
}

/// Whose the job's folders are to be. Each is `ROOT:PATH`, the second relative to where a volume is mounted.
#[derive(Clone, Debug, Args)]
pub struct OwnArgs {
    #[arg(long, value_parser = parse_owner)]
    pub uid: u32,
    #[arg(long, value_parser = parse_owner)]
    pub gid: u32,
    /// A folder of a volume that this place's jobs alone have; repeatable.
    #[arg(long = "volume", value_parser = Place::parse)]
    pub volumes: Vec<Place>,
    /// A folder of storage that others share; repeatable.
    #[arg(long = "bind", value_parser = Place::parse)]
    pub binds: Vec<Place>,
}

/// Truth as Go's `ParseBool` reads it.
pub(super) fn parse_bool_text(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    parse_bool_text(text).ok_or_else(|| "write true or false".to_owned())
}

/// A user's or group's number; the largest stands for none.
fn parse_owner(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|number| *number != u32::MAX).ok_or_else(|| "write a number".to_owned())
}

fn parse_secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests;
