//! `[runners.autoscaler]`: the group of instances, how to reach them, and how many there should be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::types::host_key::HostKeyText;
use crate::config::types::period::Period;
use crate::config::types::plugin::Plugin;
use crate::config::types::timezone::Timezone;
use crate::secret::Secret;

/// How long connecting to an instance may take where the file does not say.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// `[runners.autoscaler]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscaler {
    /// The provider and its settings.
    pub plugin_config: PluginConfig,
    /// Jobs on one instance at once; at least 1.
    pub capacity_per_instance: u32,
    /// Jobs before an instance is removed; 0 is no limit.
    pub max_use_count: u32,
    /// In any state; 0 is no limit.
    pub max_instances: u32,
    pub delete_instances_on_shutdown: bool,
    pub instance_ready_command: Option<String>,
    /// How long a job waits for an instance.
    pub instance_acquire_timeout: Duration,
    /// Between two lists of the group.
    pub update_interval: Duration,
    /// The same while a change is awaited.
    pub update_interval_when_expecting: Duration,
    pub deletion_retry_interval: Duration,
    pub shutdown_deletion_interval: Duration,
    pub shutdown_deletion_retries: u32,
    /// Failed checks in a row before an instance is replaced; at least 1.
    pub failure_threshold: u32,
    pub scale_throttle: ScaleThrottle,
    pub state_storage: StateStorage,
    pub connector_config: ConnectorConfig,
    /// Set where it is enabled.
    pub vm_isolation: Option<VmIsolation>,
    /// The last entry that is active counts.
    pub policies: Vec<Policy>,
    /// `None`: not in the file.
    pub reservation_throttling: Option<bool>,
    pub log_internal_ip: bool,
    pub log_external_ip: bool,
    pub buckets: Buckets,
}

impl Autoscaler {
    /// The policy that holds at this time; `None` means none is active: no idle capacity, five minutes of idle time.
    pub fn policy_at(&self, utc: SystemTime) -> Option<&Policy> {
        self.policies.iter().rev().find(|policy| policy.is_active(utc))
    }

    /// How capacity is reserved before a job is asked for, while this policy is the one that counts.
    pub fn reservation_mode(&self, policy: Option<&Policy>) -> ReservationMode {
        match (policy.and_then(|policy| policy.preemptive_mode), self.reservation_throttling) {
            (Some(true), _) => ReservationMode::Preemptive,
            (Some(false) | None, Some(true)) => ReservationMode::Throttled,
            (Some(false), Some(false) | None) => ReservationMode::OnDemand,
            (None, Some(false) | None) => ReservationMode::Adaptive,
        }
    }

    /// The mode with each policy that may count at some time, by its place in the file, and with none.
    pub fn reservation_modes(&self) -> Vec<(Option<usize>, ReservationMode)> {
        let always = self.policies.iter().rposition(|policy| policy.periods.contains(&Period::always()));
        let counting = self.policies.iter().enumerate().skip(always.unwrap_or_default());
        let mut modes: Vec<(Option<usize>, ReservationMode)> =
            counting.map(|(place, policy)| (Some(place), self.reservation_mode(Some(policy)))).collect();
        if always.is_none() {
            modes.push((None, self.reservation_mode(None)));
        }
        modes
    }
}

/// What `preemptive_mode` and `reservation_throttling` come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationMode {
    /// Jobs are asked for only where capacity is ready.
    Preemptive,
    /// Potential capacity counts too: whatever could be created.
    OnDemand,
    /// The same, and one idle instance stays unpromised.
    Throttled,
    /// Neither is set: idle capacity first, and more while GitLab goes on answering with jobs.
    Adaptive,
}

impl ReservationMode {
    /// The word for the operator.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preemptive => "preemptive",
            Self::OnDemand => "on demand",
            Self::Throttled => "throttled",
            Self::Adaptive => "adaptive",
        }
    }
}

/// `[runners.autoscaler.plugin_config]`, by provider.
#[derive(Clone, Debug, PartialEq)]
pub enum PluginConfig {
    Aws(AwsGroup),
    GoogleCloud(GoogleCloudGroup),
    Azure(AzureScaleSet),
    Static(StaticHosts),
    Local(LocalGroup),
}

impl PluginConfig {
    /// The provider's name.
    pub fn plugin(&self) -> Plugin {
        match self {
            Self::Aws(_) => Plugin::Aws,
            Self::GoogleCloud(_) => Plugin::GoogleCloud,
            Self::Azure(_) => Plugin::Azure,
            Self::Static(_) => Plugin::Static,
            Self::Local(_) => Plugin::Local,
        }
    }
}

/// An Auto Scaling group. Missing files and region are the SDK's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsGroup {
    pub name: String,
    pub profile: Option<String>,
    pub config_file: Option<PathBuf>,
    pub credentials_file: Option<PathBuf>,
    pub region: Option<String>,
    /// For emulators.
    pub endpoint_url: Option<String>,
}

/// A managed instance group, zonal, or regional where `region` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleCloudGroup {
    pub name: String,
    pub project: String,
    /// One of `zone` and `region` is set.
    pub zone: Option<String>,
    pub region: Option<String>,
    /// `None`: application default credentials.
    pub credentials_file: Option<PathBuf>,
    pub endpoint: Option<String>,
}

/// A VM scale set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureScaleSet {
    pub name: String,
    pub subscription_id: String,
    pub resource_group_name: String,
    pub endpoint: Option<String>,
    pub authority_host: Option<String>,
}

/// A fixed list of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticHosts {
    /// By the name of the instance; never empty.
    pub instances: BTreeMap<String, StaticHost>,
}

/// One host. What is `None` comes from `connector_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticHost {
    /// `host[:port]`; one of the two addresses is set.
    pub external_addr: Option<String>,
    /// `host[:port]`.
    pub internal_addr: Option<String>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub key_path: Option<PathBuf>,
    pub protocol: Option<Protocol>,
    pub port: Option<u16>,
    pub os: Option<String>,
    pub arch: Option<String>,
    pub timeout: Option<Duration>,
    /// The key that the host must present; `None`: the one of the first contact.
    pub host_key: Option<HostKeyText>,
}

/// Embedded instances on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalGroup {
    /// Instances at once; `None`: `max_instances` decides.
    pub max_size: Option<u32>,
    /// How long an instance takes to boot, on purpose.
    pub boot_time: Duration,
    /// Folder of the instances' state; `None`: beside the config file.
    pub root: Option<PathBuf>,
}

/// `[runners.autoscaler.connector_config]`. What is `None` comes from the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorConfig {
    pub os: Option<String>,
    pub arch: Option<String>,
    pub protocol: Option<Protocol>,
    /// `None`: the protocol's own.
    pub port: Option<u16>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// A private key file; readable when the config was loaded.
    pub key_path: Option<PathBuf>,
    pub use_static_credentials: bool,
    /// `None`: the connector's own.
    pub keepalive: Option<Duration>,
    pub timeout: Duration,
    pub use_external_addr: bool,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self {
            os: None,
            arch: None,
            protocol: None,
            port: None,
            username: None,
            password: None,
            key_path: None,
            use_static_credentials: false,
            keepalive: None,
            timeout: DEFAULT_CONNECT_TIMEOUT,
            use_external_addr: false,
        }
    }
}

/// `protocol` of a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Ssh,
    WinRmHttp,
    WinRmHttps,
}

impl Protocol {
    /// The port where the file has none or 0.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Ssh => 22,
            Self::WinRmHttp => 5985,
            Self::WinRmHttps => 5986,
        }
    }
}

/// `[runners.autoscaler.scale_throttle]`: a bucket of tokens, one for each new instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleThrottle {
    /// Tokens a second; `None` is no limit.
    pub limit: Option<u32>,
    /// Size of the bucket; at least 1.
    pub burst: u32,
}

/// `[runners.autoscaler.state_storage]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateStorage {
    /// `None`: not in the file. The reference's default is off; ours is on.
    pub enabled: Option<bool>,
    /// `None`: beside the config file.
    pub dir: Option<PathBuf>,
    pub keep_instance_with_acquisitions: bool,
}

/// `[runners.autoscaler.vm_isolation]`, where it is enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct VmIsolation {
    pub nesting_host: String,
    /// Passed on as JSON.
    pub nesting_config: serde_json::Value,
    pub image: Option<String>,
    pub connector_config: ConnectorConfig,
}

/// One `[[runners.autoscaler.policy]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Never empty: no periods in the file are `* * * * *`.
    pub periods: Vec<Period>,
    pub timezone: Timezone,
    /// Idle job capacity, in jobs and not in instances.
    pub idle_count: u32,
    pub idle_time: Duration,
    /// Idle capacity per job in progress; not negative.
    pub scale_factor: f64,
    /// Ceiling of what `scale_factor` comes to; 0 is none.
    pub scale_factor_limit: u32,
    /// `None`: not in the file.
    pub preemptive_mode: Option<bool>,
}

impl Policy {
    /// Whether any of the periods contains this time in the policy's zone.
    pub fn is_active(&self, utc: SystemTime) -> bool {
        let local = self.timezone.local(utc);
        self.periods.iter().any(|period| period.contains(local))
    }
}

/// Histogram buckets in seconds; `None`: the built-in ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    pub creation_time: Option<Vec<f64>>,
    pub is_running_time: Option<Vec<f64>>,
    pub deletion_time: Option<Vec<f64>>,
    pub readiness_time: Option<Vec<f64>>,
    pub life_duration: Option<Vec<f64>>,
}
