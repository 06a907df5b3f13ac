//! `[runners.docker]`, ready for the engine: sizes in bytes, cpus in billionths, lists parsed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::types::allow_list::{AllowList, Pattern};
use crate::config::types::credential_helper::CredentialHelper;
use crate::config::types::device::Device;
use crate::config::types::gpus::Gpus;
use crate::config::types::pull_policy::PullPolicy;
use crate::config::types::ulimit::Ulimit;

/// `[runners.docker]`. `None` and empty mean that the engine or the job decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Docker {
    /// With docker-autoscaler: an address on the instance; `None` is the instance's own default.
    pub host: Option<String>,
    pub tls_cert_path: Option<PathBuf>,
    pub tls_verify: bool,
    pub hostname: Option<String>,
    /// Default image; the job's variables are still to be expanded.
    pub image: Option<String>,
    pub runtime: Option<String>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub memory_swap: Option<u64>,
    /// Bytes.
    pub memory_reservation: Option<u64>,
    pub cgroup_parent: Option<String>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// `cpus`, in billionths of one.
    pub nano_cpus: Option<i64>,
    /// 0 is the engine's default.
    pub cpu_shares: i64,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub privileged: bool,
    /// `privileged` where the file has none.
    pub services_privileged: bool,
    pub disable_entrypoint_overwrite: bool,
    pub user: Option<String>,
    /// Empty: any user. Where the file has a `user` and no list, that user alone.
    pub allowed_users: Vec<String>,
    pub group_add: Vec<String>,
    pub userns_mode: Option<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub oom_kill_disable: bool,
    pub oom_score_adjust: i64,
    /// The contents of a `seccomp=<path>` file stand in the place of its path.
    pub security_opt: Vec<String>,
    pub services_security_opt: Vec<String>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub gpus: Option<Gpus>,
    pub service_gpus: Option<Gpus>,
    /// Devices by pattern on the service's image; all that match add up.
    pub services_devices: Vec<(Pattern, Vec<Device>)>,
    pub disable_cache: bool,
    /// As in the file: variables in destinations are expanded per job. Their grammar is checked.
    pub volumes: Vec<String>,
    pub volume_keep: bool,
    pub volume_driver: Option<String>,
    pub volume_driver_ops: BTreeMap<String, String>,
    /// Folder of the engine's host for volumes that are only a path.
    pub cache_dir: Option<String>,
    pub extra_hosts: Vec<String>,
    pub volumes_from: Vec<String>,
    pub network_mode: Option<String>,
    pub pid_mode: Option<String>,
    pub ipc_mode: Option<String>,
    pub mac_address: Option<String>,
    pub links: Vec<String>,
    /// `[[runners.docker.services]]`: before the job's own.
    pub services: Vec<Service>,
    /// Services of the config and the job together; `None` is no limit.
    pub services_limit: Option<u32>,
    /// Bytes.
    pub service_memory: Option<u64>,
    /// Bytes.
    pub service_memory_swap: Option<u64>,
    /// Bytes.
    pub service_memory_reservation: Option<u64>,
    pub service_cgroup_parent: Option<String>,
    pub service_cpuset_cpus: Option<String>,
    /// `service_cpus`, in billionths of one.
    pub service_nano_cpus: Option<i64>,
    pub service_cpu_shares: i64,
    /// `None`: services are not waited for.
    pub wait_for_services_timeout: Option<Duration>,
    pub allowed_images: AllowList,
    pub allowed_services: AllowList,
    pub allowed_privileged_images: AllowList,
    pub allowed_privileged_services: AllowList,
    /// The credential helpers that a job's `DOCKER_AUTH_CONFIG` may name. `None`: those that the operator's own Docker
    /// configurations name, and those of large clouds.
    pub allowed_credential_helpers: Option<Vec<CredentialHelper>>,
    /// In the order of attempts; a repeated one is a retry. Never empty.
    pub pull_policies: Vec<PullPolicy>,
    /// `pull_policies` where the file has none.
    pub allowed_pull_policies: Vec<PullPolicy>,
    pub isolation: Isolation,
    /// Bytes; 0 is the engine's default.
    pub shm_size: u64,
    pub tmpfs: BTreeMap<String, String>,
    pub services_tmpfs: BTreeMap<String, String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    /// `None`: the built-in helper. The job's variables are still to be expanded.
    pub helper_image: Option<String>,
    pub helper_image_flavor: Option<String>,
    /// Values are still to be expanded with the job's variables.
    pub container_labels: BTreeMap<String, String>,
    pub enable_ipv6: bool,
    /// Of per-build networks; 0 is the engine's default.
    pub network_mtu: u32,
    /// Options of the log driver; only `env` and `labels` occur.
    pub log_options: BTreeMap<String, String>,
}

impl Default for Docker {
    /// What an absent section means.
    #[expect(clippy::too_many_lines, reason = "one line a key")]
    fn default() -> Self {
        Self {
            host: None,
            tls_cert_path: None,
            tls_verify: false,
            hostname: None,
            image: None,
            runtime: None,
            memory: None,
            memory_swap: None,
            memory_reservation: None,
            cgroup_parent: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            nano_cpus: None,
            cpu_shares: 0,
            dns: Vec::new(),
            dns_search: Vec::new(),
            privileged: false,
            services_privileged: false,
            disable_entrypoint_overwrite: false,
            user: None,
            allowed_users: Vec::new(),
            group_add: Vec::new(),
            userns_mode: None,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            oom_kill_disable: false,
            oom_score_adjust: 0,
            security_opt: Vec::new(),
            services_security_opt: Vec::new(),
            devices: Vec::new(),
            device_cgroup_rules: Vec::new(),
            gpus: None,
            service_gpus: None,
            services_devices: Vec::new(),
            disable_cache: false,
            volumes: Vec::new(),
            volume_keep: false,
            volume_driver: None,
            volume_driver_ops: BTreeMap::new(),
            cache_dir: None,
            extra_hosts: Vec::new(),
            volumes_from: Vec::new(),
            network_mode: None,
            pid_mode: None,
            ipc_mode: None,
            mac_address: None,
            links: Vec::new(),
            services: Vec::new(),
            services_limit: None,
            service_memory: None,
            service_memory_swap: None,
            service_memory_reservation: None,
            service_cgroup_parent: None,
            service_cpuset_cpus: None,
            service_nano_cpus: None,
            service_cpu_shares: 0,
            wait_for_services_timeout: Some(Duration::from_secs(30)),
            allowed_images: AllowList::default(),
            allowed_services: AllowList::default(),
            allowed_privileged_images: AllowList::default(),
            allowed_privileged_services: AllowList::default(),
            allowed_credential_helpers: None,
            pull_policies: vec![PullPolicy::Always],
            allowed_pull_policies: vec![PullPolicy::Always],
            isolation: Isolation::Unset,
            shm_size: 0,
            tmpfs: BTreeMap::new(),
            services_tmpfs: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            ulimits: Vec::new(),
            helper_image: None,
            helper_image_flavor: None,
            container_labels: BTreeMap::new(),
            enable_ipv6: false,
            network_mtu: 0,
            log_options: BTreeMap::new(),
        }
    }
}

/// `isolation` of Windows containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    Unset,
    Default,
    Process,
    HyperV,
}

impl Isolation {
    /// The word for the engine.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "",
            Self::Default => "default",
            Self::Process => "process",
            Self::HyperV => "hyperv",
        }
    }
}

/// One `[[runners.docker.services]]`. Names and aliases are still to be expanded with the job's variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    /// Separated by blanks or commas in the file.
    pub aliases: Vec<String>,
    pub command: Vec<String>,
    pub entrypoint: Vec<String>,
    pub environment: Vec<(String, String)>,
}

/// `use_slot_cgroups` with its templates, in which `$slot` stands for the slot's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCgroups {
    pub template: String,
    /// Of service containers; the same template where the file has none.
    pub service_template: String,
}
