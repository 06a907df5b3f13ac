//! The configuration as the program uses it: plain data with public fields, defaults filled in, units and
//! ranges checked, legacy spellings gone.
//!
//! Only `config::resolve` builds these values from a file. Nothing here parses text, reads a file or the
//! environment. A runner that `check` lets pass but that cannot run yet carries its [`Refusal`]s.

mod autoscaler;
mod cache;
mod docker;
mod machine;
mod runner;

use std::collections::BTreeMap;
use std::time::Duration;

pub use autoscaler::{
    Autoscaler, AwsGroup, AzureScaleSet, Buckets, ConnectorConfig, DEFAULT_CONNECT_TIMEOUT, GoogleCloudGroup,
    LocalGroup, PluginConfig, Policy, Protocol, ReservationMode, ScaleThrottle, StateStorage, StaticHost, StaticHosts,
    VmIsolation,
};
pub use cache::{Azure, Cache, Gcs, GcsCredentials, S3, S3Authentication, S3Encryption, Store};
pub use docker::{Docker, Isolation, Service, SlotCgroups};
pub use machine::{Idle, Machine, MachinePeriod};
pub use runner::{
    Artifact, BootVerify, ExecutorKind, FleetRunner, Instance, JobQueuingDuration, Refusal, Runner, Shell, TlsFiles,
};

use crate::secret::Secret;

/// The whole file, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Running jobs of the whole process at once; at least 1.
    pub concurrent: u32,
    /// Between two requests for jobs of one runner.
    pub check_interval: Duration,
    /// `None` where the file has none: the command line or the built-in level decides.
    pub log_level: Option<LogLevel>,
    /// `None` where the file has none: text on a terminal, JSON otherwise.
    pub log_format: Option<LogFormat>,
    /// `host:port` of the admin server; `None` means that none is served. A host alone got the port 9252.
    pub listen_address: Option<String>,
    /// How long the forceful phase of a stop may take.
    pub shutdown_timeout: Duration,
    /// Idle connections to GitLab older than this are closed; `None` is no limit.
    pub connection_max_age: Option<Duration>,
    pub sentry_dsn: Option<Secret>,
    /// Default labels of all runners. A runner's own set ([`Runner::labels`]) already contains them.
    pub labels: BTreeMap<String, String>,
    pub session_server: Option<SessionServer>,
    /// `[machine.shutdown_drain]`.
    pub shutdown_drain: ShutdownDrain,
    /// In the order of the file.
    pub runners: Vec<Runner>,
}

impl Config {
    /// The runners that `run` may serve.
    pub fn runnable(&self) -> impl Iterator<Item = FleetRunner> {
        self.runners.iter().filter_map(Runner::with_fleet)
    }

    /// The runners that `run` must refuse; each says why in [`Runner::refusals`].
    pub fn refused(&self) -> impl Iterator<Item = &Runner> {
        self.runners.iter().filter(|runner| !runner.refusals.is_empty())
    }
}

impl Default for Config {
    /// What an absent or empty file means.
    fn default() -> Self {
        Self {
            concurrent: 1,
            check_interval: Duration::from_secs(3),
            log_level: None,
            log_format: None,
            listen_address: None,
            shutdown_timeout: Duration::from_secs(30),
            connection_max_age: Some(Duration::from_secs(15 * 60)),
            sentry_dsn: None,
            labels: BTreeMap::new(),
            session_server: None,
            shutdown_drain: ShutdownDrain::default(),
            runners: Vec::new(),
        }
    }
}

/// `log_level`. `Panic` and `Fatal` of the reference have no level of their own here and mean [`LogLevel::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `log_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Coloured lines for a terminal.
    Runner,
    Text,
    Json,
}

/// `[session_server]`: web terminals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionServer {
    /// `host:port` to listen on.
    pub listen_address: String,
    /// `host:port` that GitLab is told; the listen address where none is set.
    pub advertise_address: String,
    /// How long a terminal may keep a finished job open.
    pub session_timeout: Duration,
}

/// `[machine.shutdown_drain]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownDrain {
    pub enabled: bool,
    pub concurrency: u32,
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// Multiplied by the number of the attempt.
    pub retry_backoff: Duration,
}

impl Default for ShutdownDrain {
    fn default() -> Self {
        Self { enabled: false, concurrency: 3, max_retries: 3, retry_backoff: Duration::from_secs(5) }
    }
}
