//! The command line, as it is typed: clap types and nothing else.

mod runner_flags;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::fleeting::local::ServeArgs;
use crate::go_duration::GoDuration;
use crate::helper;

pub use runner_flags::RunnerFlags;

/// A GitLab runner manager that scales a fleet of instances and loses no job.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// How flotilla speaks of itself. What is given here wins over the config file.
#[derive(Clone, Debug, Default, Args)]
pub struct LogArgs {
    /// error, warn, info, debug or trace.
    #[arg(long, short = 'l', global = true, env = "LOG_LEVEL", hide_env_values = true)]
    pub log_level: Option<String>,
    /// runner, text or json.
    #[arg(long, global = true, env = "LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<String>,
    /// The same as --log-level debug.
    #[arg(long, global = true, env = "RUNNER_DEBUG", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub debug: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs from GitLab and run them, until told to stop.
    Run(RunArgs),
    /// Check a config file: all that is wrong with it, and what to write instead.
    Check(CheckArgs),
    /// See the main job with no account and no cloud: an embedded GitLab, local instances, sample jobs.
    Demo(DemoArgs),
    /// Register a runner with GitLab and add it to the config file.
    Register(Box<RegisterArgs>),
    /// Ask GitLab whether the runners of the config file are valid.
    Verify(VerifyArgs),
    /// Take runners away from GitLab and the config file.
    Unregister(UnregisterArgs),
    /// The runners of the config file.
    List(ConfigArgs),
    /// Try an autoscaler policy before paying for it: the same rules, a virtual clock, and jobs from a file or made up.
    Simulate(Box<SimulateArgs>),
    /// What the autoscaler would do now and why: the group is listed, and nothing is done.
    Plan(PlanArgs),
    /// An embedded instance of the plugin `local`.
    #[command(hide = true)]
    LocalInstance(ServeArgs),
    #[command(flatten)]
    Helper(helper::cli::Command),
}

/// Which config file.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// The config file. Without it: FLOTILLA_CONFIG, CONFIG_FILE, then the usual folders.
    #[arg(long, short = 'c')]
    pub config: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where the admin server listens; wins over the config file.
    #[arg(long, env = "LISTEN_ADDRESS", hide_env_values = true)]
    pub listen_address: Option<String>,
    /// The folder to work in.
    #[arg(long, short = 'd')]
    pub working_directory: Option<PathBuf>,
    /// Accepted for old service files; the service manager names the service.
    #[arg(long, short = 'n', hide = true)]
    pub service: Option<String>,
    /// Accepted for old service files; the service manager chooses the user.
    #[arg(long, short = 'u', hide = true)]
    pub user: Option<String>,
    /// Accepted for old service files; the service manager takes the log.
    #[arg(long, hide = true)]
    pub syslog: bool,
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// text or json.
    #[arg(long, default_value = "text")]
    pub format: CheckFormat,
}

/// How `check` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How many jobs to run; at least one of each kind.
    #[arg(long, default_value_t = 0)]
    pub jobs: u32,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RegisterArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// GitLab's URL.
    #[arg(long, short = 'u', env = "CI_SERVER_URL", hide_env_values = true)]
    pub url: Option<String>,
    /// The runner's authentication token (glrt-…).
    #[arg(long, short = 't', env = "CI_SERVER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A registration token, for servers that still take one.
    #[arg(long, short = 'r', env = "REGISTRATION_TOKEN", hide_env_values = true)]
    pub registration_token: Option<String>,
    /// The runner's name.
    #[arg(long, visible_alias = "description", env = "RUNNER_NAME", hide_env_values = true)]
    pub name: Option<String>,
    /// docker-autoscaler or instance; docker and docker+machine are written down, but not served yet.
    #[arg(long, env = "RUNNER_EXECUTOR", hide_env_values = true)]
    pub executor: Option<String>,
    /// The image of jobs that name none.
    #[arg(long, env = "DOCKER_IMAGE", hide_env_values = true)]
    pub docker_image: Option<String>,
    /// A TOML file with one [[runners]] whose keys are taken over.
    #[arg(long, env = "TEMPLATE_CONFIG_FILE", hide_env_values = true)]
    pub template_config: Option<PathBuf>,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Ask nothing.
    #[arg(long, short = 'n', env = "REGISTER_NON_INTERACTIVE", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub non_interactive: Option<bool>,
    /// Tags, separated by commas; with a registration token only.
    #[arg(long, env = "RUNNER_TAG_LIST", hide_env_values = true)]
    pub tag_list: Option<String>,
    /// Whether the runner takes jobs without tags; with a registration token only.
    #[arg(long, env = "REGISTER_RUN_UNTAGGED", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub run_untagged: Option<bool>,
    /// Whether the runner stays with its project (it does by default); with a registration token only.
    #[arg(long, env = "REGISTER_LOCKED", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub locked: Option<bool>,
    /// not_protected or ref_protected; with a registration token only.
    #[arg(long, env = "REGISTER_ACCESS_LEVEL", hide_env_values = true)]
    pub access_level: Option<AccessLevel>,
    /// The longest that a job may take, in seconds; with a registration token only.
    #[arg(long, env = "REGISTER_MAXIMUM_TIMEOUT", hide_env_values = true)]
    pub maximum_timeout: Option<u64>,
    /// Whether the runner gets no jobs yet; with a registration token only.
    #[arg(long, env = "REGISTER_PAUSED", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub paused: Option<bool>,
    /// A note for those who look after the runner; with a registration token only.
    #[arg(long, env = "REGISTER_MAINTENANCE_NOTE", hide_env_values = true)]
    pub maintenance_note: Option<String>,
    /// Do not take the runner off GitLab again where it could not be added to the file.
    #[arg(long, env = "REGISTER_LEAVE_RUNNER", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    pub leave_runner: Option<bool>,
    #[command(flatten)]
    pub flags: RunnerFlags,
}

/// Which jobs a registered runner gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum AccessLevel {
    NotProtected,
    RefProtected,
}

impl AccessLevel {
    /// As GitLab names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotProtected => "not_protected",
            Self::RefProtected => "ref_protected",
        }
    }
}

/// The files of a server with an authority of its own, or that wants a certificate.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// Authorities of the server, in PEM.
    #[arg(long, env = "CI_SERVER_TLS_CA_FILE", hide_env_values = true)]
    pub tls_ca_file: Option<PathBuf>,
    /// Our certificate for the server, in PEM.
    #[arg(long, env = "CI_SERVER_TLS_CERT_FILE", hide_env_values = true)]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(long, env = "CI_SERVER_TLS_KEY_FILE", hide_env_values = true)]
    pub tls_key_file: Option<PathBuf>,
}

/// Which of the file's runners.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArgs {
    #[arg(long, short = 'n')]
    pub name: Option<String>,
    #[arg(long, short = 'u')]
    pub url: Option<String>,
    #[arg(long, short = 't')]
    pub token: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Take runners that GitLab does not know out of the config file.
    #[arg(long)]
    pub delete: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct UnregisterArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// All runners of the file.
    #[arg(long)]
    pub all_runners: bool,
}

/// Which autoscaled runner, and which jobs.
#[derive(Clone, Debug, Args)]
#[command(group(clap::ArgGroup::new("load").required(true).args(["jobs", "generate"])))]
pub struct SimulateArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The runner's name; may be left out where only one is autoscaled.
    #[arg(long, short = 'n')]
    pub runner: Option<String>,
    /// A file of jobs: `arrival,duration` a line, in seconds since the start; a header is fine. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub jobs: Option<PathBuf>,
    /// Make jobs up: so many an hour, on the average of a week.
    #[arg(long, value_name = "JOBS_PER_HOUR")]
    pub generate: Option<f64>,
    /// For how long generated jobs arrive.
    #[arg(long, default_value = "168h", requires = "generate")]
    pub length: GoDuration,
    /// How long generated jobs run on average.
    #[arg(long, default_value = "5m", requires = "generate")]
    pub duration: GoDuration,
    /// How the lengths of generated jobs differ.
    #[arg(long, default_value = "lognormal", requires = "generate")]
    pub spread: SpreadArg,
    /// How the rate of generated jobs changes: office is busy in office hours (UTC) of working days.
    #[arg(long, default_value = "flat", requires = "generate")]
    pub shape: ShapeArg,
    /// How long an instance takes from the request until it runs.
    #[arg(long, default_value = "30s")]
    pub boot: GoDuration,
    /// How long it then takes until it has jobs: connecting, and instance_ready_command.
    #[arg(long, default_value = "2s")]
    pub ready: GoDuration,
    /// The part of the instances asked for that the group refuses, from 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub refused: f64,
    /// How long GitLab holds a request for a job while it has none; 0s: it answers at once.
    #[arg(long, default_value = "50s")]
    pub long_poll: GoDuration,
    /// The same seed gives the same jobs and the same result.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// When it begins, for the periods of policies. The default is a Monday.
    #[arg(long, default_value = "2026-01-05T00:00:00Z", value_name = "TIME")]
    pub start: jiff::Timestamp,
    /// text or json.
    #[arg(long, default_value = "text")]
    pub format: ReportFormat,
}

/// How the lengths of generated jobs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SpreadArg {
    Fixed,
    Exponential,
    Lognormal,
}

/// How the rate of generated jobs changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ShapeArg {
    Flat,
    Office,
}

/// How a command reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The runner's name; without it all autoscaled runners.
    #[arg(long, short = 'n')]
    pub runner: Option<String>,
}

/// Go's booleans, as scripts for the reference give them; nothing is false, as an environment file may have it.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}
