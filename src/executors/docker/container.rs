//! What is asked of the engine for a job's container. Pure: configuration and job in, request out.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, EndpointSettings, HostConfig, HostConfigIsolationEnum,
    HostConfigLogConfig, Mount, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, NetworkingConfig,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::helper_volume::{self, AGENT_PATH, JOBS_FOLDER};
use super::names::{self, Kind, Owner};
use super::volumes::{Made, Plan};
use crate::config::resolved::{Docker, Isolation};
use crate::config::types::gpus::Gpus;
use crate::job::failure::Fault;
use crate::job::resolved::ResolvedJob;

/// Everything that a container of a job depends on.
#[derive(Debug)]
pub(crate) struct Blueprint<'a> {
    pub(crate) config: &'a Docker,
    pub(crate) job: &'a ResolvedJob,
    pub(crate) owner: &'a Owner,
    pub(crate) kind: Kind,
    /// The container's own name.
    pub(crate) name: &'a str,
    /// As the engine knows it.
    pub(crate) image: &'a str,
    pub(crate) privileged: bool,
    pub(crate) volumes: &'a Plan,
    /// The volume with our program; `None` where it is put into the container itself.
    pub(crate) helper_volume: Option<&'a str>,
    /// The per-build network, where there is one.
    pub(crate) network: Option<&'a str>,
}

/// The user that the job's container runs as; empty for the image's own.
///
/// # Errors
/// The job asks for a user that the runner does not allow.
pub(crate) fn user(config: &Docker, job: &ResolvedJob) -> Result<String, Fault> {
    let asked = job.job.image.as_ref().and_then(|image| image.user.as_deref()).map(|user| job.variables.expand(user));
    let user = config.user.clone().or(asked).unwrap_or_default();
    let allowed = &config.allowed_users;
    if user.is_empty() || allowed.is_empty() || allowed.contains(&user) {
        return Ok(user);
    }
    Err(Fault::configuration(format!("user {user:?} is not an allowed user: [{}]", allowed.join(" "))))
}

/// Whether a container of this user needs folders made for it: root makes its own.
pub(crate) fn is_root(user: &str) -> bool {
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    matches!(name, "" | "root" | "0")
}

impl Blueprint<'_> {
    /// The request. `user` is empty for the image's own.
    pub(crate) fn body(&self, user: &str) -> ContainerCreateBody {
        let agent = [AGENT_PATH, "agent", "--stay", "--root", JOBS_FOLDER].map(str::to_owned);
        let mut labels = names::labels(self.job, self.owner, [("type", self.kind.as_str().to_owned())]);
        let own = self.config.container_labels.iter();
        labels.extend(own.map(|(name, value)| (name.clone(), self.job.variables.expand(value))));
        ContainerCreateBody {
            hostname: Some(self.config.hostname.clone().unwrap_or_else(|| self.job.names.unique.clone())),
            user: filled(user),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            tty: Some(false),
            env: Some(self.environment()),
            cmd: Some(agent.into()),
            image: Some(self.image.to_owned()),
            entrypoint: self.entrypoint(),
            labels: Some(labels),
            // The agent has no use for TERM: what it runs is stopped through it.
            stop_signal: Some("SIGKILL".to_owned()),
            host_config: Some(self.host_config()),
            networking_config: self.networking(),
            ..ContainerCreateBody::default()
        }
    }

    fn environment(&self) -> Vec<String> {
        let variables = &self.job.variables;
        let value = |variable: &crate::job::variables::Variable| {
            if variable.file { variables.file_path(&variable.key) } else { variable.value.clone() }
        };
        variables.iter().map(|variable| format!("{}={}", variable.key, value(variable))).collect()
    }

    fn entrypoint(&self) -> Option<Vec<String>> {
        let asked =
            self.job.job.image.as_ref().map(|image| &image.entrypoint).filter(|entrypoint| !entrypoint.is_empty());
        match self.kind {
            Kind::Build if !self.config.disable_entrypoint_overwrite => asked.cloned(),
            Kind::Build | Kind::Predefined => None,
        }
    }

    fn network_mode(&self) -> Option<&str> {
        self.config.network_mode.as_deref().or(self.network)
    }

    /// An endpoint is described only where there is something to say: engines before 1.44 refuse more.
    fn networking(&self) -> Option<NetworkingConfig> {
        let mode = self.network_mode();
        let aliases = mode.filter(|mode| is_user_defined(mode)).map(|_| vec!["build".to_owned(), self.name.to_owned()]);
        if aliases.is_none() && self.config.mac_address.is_none() {
            return None;
        }
        let endpoint =
            EndpointSettings { aliases, mac_address: self.config.mac_address.clone(), ..EndpointSettings::default() };
        let name = mode.unwrap_or("default").to_owned();
        Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(name, endpoint)])) })
    }

    fn host_config(&self) -> HostConfig {
        let config = self.config;
        let is_build = self.kind == Kind::Build;
        let init = is_build && self.job.flags.is_on("FF_USE_INIT_WITH_DOCKER_EXECUTOR");
        HostConfig {
            // Frames of the agent, which nobody would read again. The stages' output is in their records.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            network_mode: self.network_mode().map(str::to_owned),
            binds: filled_list(&self.volumes.binds),
            mounts: Some(self.mounts()),
            volume_driver: config.volume_driver.clone(),
            volumes_from: filled_list(&config.volumes_from),
            privileged: Some(self.privileged),
            cap_add: filled_list(&config.cap_add),
            cap_drop: filled_list(&config.cap_drop),
            security_opt: filled_list(&config.security_opt),
            userns_mode: config.userns_mode.clone(),
            group_add: filled_list(&config.group_add),
            runtime: config.runtime.clone(),
            init: init.then_some(true),
            pid_mode: config.pid_mode.clone().filter(|_| is_build),
            ipc_mode: config.ipc_mode.clone(),
            dns: filled_list(&config.dns.iter().map(ToString::to_string).collect::<Vec<_>>()),
            dns_search: filled_list(&config.dns_search),
            extra_hosts: filled_list(&config.extra_hosts),
            links: filled_list(&config.links),
            memory: bytes(config.memory),
            memory_swap: bytes(config.memory_swap),
            memory_reservation: bytes(config.memory_reservation),
            cgroup_parent: config.cgroup_parent.clone(),
            cpuset_cpus: config.cpuset_cpus.clone(),
            cpuset_mems: config.cpuset_mems.clone(),
            cpu_shares: Some(config.cpu_shares).filter(|shares| *shares != 0),
            nano_cpus: config.nano_cpus,
            oom_kill_disable: config.oom_kill_disable.then_some(true),
            oom_score_adj: Some(config.oom_score_adjust).filter(|score| *score != 0),
            devices: devices(config),
            device_cgroup_rules: filled_list(&config.device_cgroup_rules),
            device_requests: config.gpus.as_ref().map(|gpus| vec![device_request(gpus)]),
            shm_size: bytes(Some(config.shm_size).filter(|size| *size != 0)),
            tmpfs: filled_map(&config.tmpfs),
            sysctls: filled_map(&config.sysctls),
            ulimits: ulimits(config),
            isolation: isolation(config.isolation),
            ..HostConfig::default()
        }
    }

    fn mounts(&self) -> Vec<Mount> {
        let helper = self.helper_volume.map(|name| Mount { read_only: Some(true), ..helper_volume::mount(name) });
        self.volumes.made.iter().map(|made| self.made_mount(made)).chain(helper).collect()
    }

    /// A volume that the engine makes with the container, where it is not there yet.
    fn made_mount(&self, made: &Made) -> Mount {
        let own = [
            ("type", "cache".to_owned()),
            ("destination", made.destination.clone()),
            ("protected", made.protected.to_string()),
            ("reusable", made.reusable.to_string()),
        ];
        let driver = self.config.volume_driver.as_ref().map(|name| MountVolumeOptionsDriverConfig {
            name: Some(name.clone()),
            options: filled_map(&self.config.volume_driver_ops),
        });
        let options = MountVolumeOptions {
            labels: Some(names::labels(self.job, self.owner, own)),
            driver_config: driver,
            ..MountVolumeOptions::default()
        };
        Mount {
            typ: Some(MountType::VOLUME),
            source: Some(made.name.clone()),
            target: Some(made.destination.clone()),
            volume_options: Some(options),
            ..Mount::default()
        }
    }
}

/// Networks that the engine itself has take no aliases.
fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "" | "default" | "bridge" | "host" | "none" | "nat") && !mode.starts_with("container:")
}

fn devices(config: &Docker) -> Option<Vec<DeviceMapping>> {
    let mapping = |device: &crate::config::types::device::Device| DeviceMapping {
        path_on_host: Some(device.host.clone()),
        path_in_container: Some(device.container.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    };
    filled_list(&config.devices.iter().map(mapping).collect::<Vec<_>>())
}

fn device_request(gpus: &Gpus) -> DeviceRequest {
    DeviceRequest {
        driver: filled(&gpus.driver),
        count: Some(gpus.count),
        device_ids: filled_list(&gpus.device_ids),
        capabilities: Some(vec![gpus.capabilities.clone()]),
        options: filled_map(&gpus.options),
    }
}

fn ulimits(config: &Docker) -> Option<Vec<ResourcesUlimits>> {
    let limit = |ulimit: &crate::config::types::ulimit::Ulimit| ResourcesUlimits {
        name: Some(ulimit.name.clone()),
        soft: Some(ulimit.soft),
        hard: Some(ulimit.hard),
    };
    filled_list(&config.ulimits.iter().map(limit).collect::<Vec<_>>())
}

fn isolation(isolation: Isolation) -> Option<HostConfigIsolationEnum> {
    match isolation {
        Isolation::Unset => None,
        Isolation::Default => Some(HostConfigIsolationEnum::DEFAULT),
        Isolation::Process => Some(HostConfigIsolationEnum::PROCESS),
        Isolation::HyperV => Some(HostConfigIsolationEnum::HYPERV),
    }
}

fn bytes(size: Option<u64>) -> Option<i64> {
    size.map(|size| i64::try_from(size).unwrap_or(i64::MAX))
}

fn filled(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

fn filled_list<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list.to_vec()) }
}

fn filled_map(map: &std::collections::BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    if map.is_empty() { None } else { Some(map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_makes_its_own_folders() {
        for (user, root) in
            [("", true), ("root", true), ("0", true), ("0:0", true), ("1000", false), ("app:app", false)]
        {
            assert_eq!(is_root(user), root, "{user:?}");
        }
    }

    #[test]
    fn networks_of_the_engine_take_no_aliases() {
        for (mode, own) in [("host", false), ("none", false), ("container:x", false), ("bridge", false), ("ci", true)] {
            assert_eq!(is_user_defined(mode), own, "{mode}");
        }
    }
}
