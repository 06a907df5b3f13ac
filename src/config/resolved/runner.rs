//! One `[[runners]]` entry and its small sections.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::resolved::{Autoscaler, Cache, Docker, Machine, SlotCgroups};
use crate::config::types::allow_list::AllowList;
use crate::config::types::period::Period;
use crate::config::types::server_url::ServerUrl;
use crate::config::types::timezone::Timezone;
use crate::ids::RunnerKey;
use crate::secret::Secret;

/// One `[[runners]]` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Runner {
    /// Empty where the file has none.
    pub name: String,
    /// Of the GitLab server. A refused runner without a usable URL has one under `.invalid`.
    pub url: ServerUrl,
    /// The runner's number at GitLab; 0 where the file does not have it.
    pub id: i64,
    /// Environment references are expanded. Empty only for a refused runner.
    pub token: Secret,
    /// `None` for the zero date.
    pub token_obtained_at: Option<SystemTime>,
    /// `None` means that the token never expires.
    pub token_expires_at: Option<SystemTime>,
    pub tls: TlsFiles,
    /// Jobs of this runner at once; 0 is no limit.
    pub limit: u32,
    /// Job requests in flight at once; at least 1.
    pub request_concurrency: u32,
    /// No further request at once after a job was received.
    pub strict_check_interval: bool,
    /// Bytes of a job's trace.
    pub output_limit: u64,
    /// Bytes that one archive of a cache or of artifacts may expand to; 0 is the free disk space.
    pub max_extracted_size: u64,
    /// Failed requests in a row before a pause; at least 1.
    pub unhealthy_requests_limit: u32,
    /// How long such a pause may last.
    pub unhealthy_interval: Duration,
    /// At least 1.
    pub job_status_final_update_retry_limit: u32,
    pub executor: ExecutorKind,
    /// `None`: the executor's own.
    pub shell: Option<Shell>,
    /// `None`: the executor's own.
    pub builds_dir: Option<String>,
    /// `None`: the executor's own.
    pub cache_dir: Option<String>,
    /// In the order of the file, prepended to the job's variables.
    pub environment: Vec<(String, String)>,
    pub clone_url: Option<String>,
    pub pre_get_sources_script: Option<String>,
    pub post_get_sources_script: Option<String>,
    pub pre_build_script: Option<String>,
    pub post_build_script: Option<String>,
    /// `None`: the job's timeout.
    pub prepare_timeout: Option<Duration>,
    /// `None`: the job's timeout.
    pub get_sources_timeout: Option<Duration>,
    pub debug_trace_disabled: bool,
    /// `None`: the executor's own.
    pub safe_directory_checkout: Option<bool>,
    /// `None`: the executor's own.
    pub clean_git_config: Option<bool>,
    pub proxy_exec: bool,
    /// Global labels with the runner's own laid over them; at most 32.
    pub labels: BTreeMap<String, String>,
    /// Set where `use_slot_cgroups` is on.
    pub slot_cgroups: Option<SlotCgroups>,
    pub step_runner_image: Option<String>,
    /// `[runners.custom_build_dir]`; `None`: the executor's own.
    pub custom_build_dir_enabled: Option<bool>,
    pub artifact: Artifact,
    /// `[runners.feature_flags]`: these win over the job's variables.
    pub feature_flags: BTreeMap<String, bool>,
    /// `[[runners.monitoring.job_queuing_durations]]`; the last entry that matches counts.
    pub job_queuing_durations: Vec<JobQueuingDuration>,
    /// `[runners.experimental.boot_verify]`, where it is enabled.
    pub boot_verify: Option<BootVerify>,
    pub docker: Docker,
    pub cache: Cache,
    /// Set for every runner whose executor needs it, unless the runner is refused: see [`FleetRunner`].
    pub(in crate::config) autoscaler: Option<Autoscaler>,
    pub instance: Instance,
    pub machine: Option<Machine>,
    /// Why `run` must not serve this runner; empty for one that it may.
    pub refusals: Vec<Refusal>,
}

/// A runner that `run` may serve, with its fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetRunner {
    entry: Runner,
    pub fleet: Autoscaler,
}

impl Deref for FleetRunner {
    type Target = Runner;

    fn deref(&self) -> &Runner {
        &self.entry
    }
}

impl Runner {
    /// The runner with its fleet; `None` where `run` must not serve it.
    pub fn with_fleet(&self) -> Option<FleetRunner> {
        let fleet = self.autoscaler.clone().filter(|_| self.refusals.is_empty())?;
        Some(FleetRunner { entry: self.clone(), fleet })
    }

    /// `[runners.autoscaler]` of an entry, whether it can be served or not.
    pub fn autoscaler(&self) -> Option<&Autoscaler> {
        self.autoscaler.as_ref()
    }

    /// What names this entry for as long as it stands, across token rotation.
    pub fn key(&self) -> RunnerKey {
        RunnerKey::new(self.url.as_str(), self.id, self.token.expose())
    }

    /// The part of the token that may be shown.
    pub fn short_token(&self) -> &str {
        crate::ids::short_token(self.token.expose())
    }

    /// A feature flag of the runner: its own table first, then the last `FF_X=…` of `environment` that parses as
    /// a boolean. `None`: the job or the built-in default decides.
    pub fn feature_flag(&self, name: &str) -> Option<bool> {
        self.feature_flags.get(name).copied().or_else(|| {
            let (_, text) = self.environment.iter().rev().find(|(key, _)| key == name)?;
            crate::config::types::boolean::parse(text)
        })
    }
}

/// A reason why `run` must not serve a runner, as a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `tls-ca-file`, `tls-cert-file`, `tls-key-file`. `None`: looked for in the `certs` folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// `executor`, with the names of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutorKind {
    Docker,
    DockerAutoscaler,
    DockerMachine,
    DockerWindows,
    Instance,
    Shell,
    Ssh,
    Parallels,
    VirtualBox,
    Kubernetes,
    Custom,
    /// No name, or one that nobody knows: the runner is refused.
    Unknown,
}

impl ExecutorKind {
    /// Every name that the reference knows, with its kind.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("docker", Self::Docker),
        ("docker-autoscaler", Self::DockerAutoscaler),
        ("docker+machine", Self::DockerMachine),
        ("docker-windows", Self::DockerWindows),
        ("instance", Self::Instance),
        ("shell", Self::Shell),
        ("ssh", Self::Ssh),
        ("parallels", Self::Parallels),
        ("virtualbox", Self::VirtualBox),
        ("kubernetes", Self::Kubernetes),
        ("custom", Self::Custom),
    ];

    /// The name in the file.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("unknown", |(name, _)| name)
    }

    /// Whether jobs run on instances of `[runners.autoscaler]`.
    pub fn uses_autoscaler(self) -> bool {
        matches!(self, Self::DockerAutoscaler | Self::Instance)
    }

    /// Whether jobs run in containers, so that `[runners.docker]` counts.
    pub fn uses_docker(self) -> bool {
        matches!(self, Self::Docker | Self::DockerAutoscaler | Self::DockerMachine | Self::DockerWindows)
    }
}

/// `shell`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Sh,
    Pwsh,
    PowerShell,
}

impl Shell {
    /// The name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Sh => "sh",
            Self::Pwsh => "pwsh",
            Self::PowerShell => "powershell",
        }
    }
}

/// `[runners.artifact]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub upload_timeout: Duration,
    pub response_header_timeout: Duration,
    /// Where GitLab may redirect an upload, with the job's token, besides its own host (ours).
    pub redirect_hosts: Vec<String>,
}

impl Default for Artifact {
    fn default() -> Self {
        Self {
            upload_timeout: Duration::from_secs(3600),
            response_header_timeout: Duration::from_secs(600),
            redirect_hosts: Vec::new(),
        }
    }
}

/// `[runners.instance]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    /// Only checked where VM isolation is on and the job names an image.
    pub allowed_images: AllowList,
    pub use_common_build_dir: bool,
}

/// One `[[runners.monitoring.job_queuing_durations]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct JobQueuingDuration {
    pub periods: Vec<Period>,
    pub timezone: Timezone,
    pub threshold: Duration,
    /// A regular expression over the payload's text of the same name.
    pub jobs_running_for_project: Option<String>,
}

/// `[runners.experimental.boot_verify]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootVerify {
    pub timeout: Duration,
    pub acquire_min_backoff: Duration,
    pub acquire_max_backoff: Duration,
}
