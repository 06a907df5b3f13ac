//! `[runners.docker]`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::diagnostics::Spot;
use crate::config::raw::{self, At, OneOrMany, Section};
use crate::config::resolve::context::{Context, flag, map, number, optional_flag, text, texts};
use crate::config::resolved::{Docker, Isolation, Service};
use crate::config::types::allow_list::Pattern;
use crate::config::types::cpus::nano_cpus;
use crate::config::types::device::Device;
use crate::config::types::image_reference::ImageReference;
use crate::config::types::pull_policy::PullPolicy;
use crate::config::types::ulimit::Ulimit;
use crate::config::types::volume::{self, Volume};

/// An absent section has the defaults.
#[expect(clippy::too_many_lines, reason = "one line a key")]
pub(crate) fn resolve(raw: Option<&raw::Docker>, context: &mut Context<'_>) -> Docker {
    let Some(raw) = raw else { return Docker::default() };
    let pull_policies = pull_policies(&raw.pull_policy, context);
    let user = text(&raw.user);
    let privileged = flag(&raw.privileged);
    check_texts(raw, context);
    Docker {
        host: text(&raw.host),
        tls_cert_path: text(&raw.tls_cert_path).map(PathBuf::from),
        tls_verify: flag(&raw.tls_verify),
        hostname: text(&raw.hostname),
        image: text(&raw.image),
        runtime: text(&raw.runtime),
        memory: context.bytes(&raw.memory),
        memory_swap: context.bytes(&raw.memory_swap),
        memory_reservation: context.bytes(&raw.memory_reservation),
        cgroup_parent: text(&raw.cgroup_parent),
        cpuset_cpus: text(&raw.cpuset_cpus),
        cpuset_mems: text(&raw.cpuset_mems),
        nano_cpus: cpus(&raw.cpus, context),
        cpu_shares: number(&raw.cpu_shares),
        dns: context.parse_all::<IpAddr>(&raw.dns, "IP address"),
        dns_search: texts(&raw.dns_search),
        privileged,
        services_privileged: optional_flag(&raw.services_privileged).unwrap_or(privileged),
        disable_entrypoint_overwrite: flag(&raw.disable_entrypoint_overwrite),
        allowed_users: allowed_users(&raw.allowed_users, user.as_ref()),
        user,
        group_add: texts(&raw.group_add),
        userns_mode: text(&raw.userns_mode),
        cap_add: texts(&raw.cap_add),
        cap_drop: texts(&raw.cap_drop),
        oom_kill_disable: flag(&raw.oom_kill_disable),
        oom_score_adjust: number(&raw.oom_score_adjust),
        security_opt: security_opt(&raw.security_opt, context),
        services_security_opt: security_opt(&raw.services_security_opt, context),
        devices: context.parse_all(&raw.devices, "device"),
        device_cgroup_rules: texts(&raw.device_cgroup_rules),
        gpus: context.parse(&raw.gpus, "request for GPUs"),
        service_gpus: context.parse(&raw.service_gpus, "request for GPUs"),
        services_devices: services_devices(raw, context),
        disable_cache: flag(&raw.disable_cache),
        volumes: texts(&raw.volumes),
        volume_keep: flag(&raw.volume_keep),
        volume_driver: text(&raw.volume_driver),
        volume_driver_ops: map(&raw.volume_driver_ops),
        cache_dir: text(&raw.cache_dir),
        extra_hosts: texts(&raw.extra_hosts),
        volumes_from: texts(&raw.volumes_from),
        network_mode: text(&raw.network_mode),
        pid_mode: text(&raw.pid_mode),
        ipc_mode: text(&raw.ipcmode),
        mac_address: text(&raw.mac_address),
        links: texts(&raw.links),
        services: services(raw, context),
        services_limit: raw.services_limit.as_ref().and_then(|limit| u32::try_from(limit.value).ok()),
        service_memory: context.bytes(&raw.service_memory),
        service_memory_swap: context.bytes(&raw.service_memory_swap),
        service_memory_reservation: context.bytes(&raw.service_memory_reservation),
        service_cgroup_parent: text(&raw.service_cgroup_parent),
        service_cpuset_cpus: text(&raw.service_cpuset_cpus),
        service_nano_cpus: cpus(&raw.service_cpus, context),
        service_cpu_shares: number(&raw.service_cpu_shares),
        wait_for_services_timeout: wait_for_services(number(&raw.wait_for_services_timeout)),
        allowed_images: context.allow_list(&raw.allowed_images),
        allowed_services: context.allow_list(&raw.allowed_services),
        allowed_privileged_images: context.allow_list(&raw.allowed_privileged_images),
        allowed_privileged_services: context.allow_list(&raw.allowed_privileged_services),
        allowed_credential_helpers: raw
            .allowed_credential_helpers
            .is_some()
            .then(|| context.parse_all(&raw.allowed_credential_helpers, "credential helper")),
        allowed_pull_policies: allowed_pull_policies(raw, &pull_policies, context),
        pull_policies,
        isolation: isolation(&raw.isolation, context),
        shm_size: shm_size(&raw.shm_size, context),
        tmpfs: map(&raw.tmpfs),
        services_tmpfs: map(&raw.services_tmpfs),
        sysctls: map(&raw.sysctls),
        ulimits: ulimits(raw, context),
        helper_image: text(&raw.helper_image),
        helper_image_flavor: text(&raw.helper_image_flavor),
        container_labels: map(&raw.container_labels),
        enable_ipv6: flag(&raw.enable_ipv6),
        network_mtu: context.count(&raw.network_mtu),
        log_options: map(&raw.log_options),
    }
}

/// Values that stay text but have a grammar.
fn check_texts(raw: &raw::Docker, context: &mut Context<'_>) {
    let services = raw.services.iter().flat_map(|list| &list.value).filter_map(|entry| entry.value.name.as_ref());
    for image in [&raw.image, &raw.helper_image].into_iter().flatten().chain(services) {
        check_image(image, context);
    }
    check_volumes(&raw.volumes, context);
    for host in raw.extra_hosts.iter().flat_map(|list| &list.value).filter(|host| !host.value.contains(':')) {
        context.error(&host.spot, format!("{:?} has no address", host.value)).help("write \"host:address\"");
    }
    for volumes in raw.volumes_from.iter().flat_map(|list| &list.value) {
        let mode = volumes.value.split_once(':').map(|(_, mode)| mode);
        if mode.is_some_and(|mode| !["ro", "rw"].contains(&mode)) {
            context.error(&volumes.spot, format!("{:?} has a mode that is neither ro nor rw", volumes.value));
        }
    }
    if let Some(address) =
        raw.mac_address.as_ref().filter(|address| !address.value.is_empty() && !is_mac_address(&address.value))
    {
        let message = format!("{:?} is no hardware address", address.value);
        context.error(&address.spot, message).help("write it as \"02:42:ac:11:00:02\"");
    }
    for (key, value) in raw.log_options.iter().flat_map(|table| &table.value) {
        if !["env", "labels"].contains(&key.as_str()) {
            context.error(&value.spot, "only env and labels can be set here");
        }
    }
}

/// A name with a variable in it is checked when a job gives the variable its value.
fn check_image(image: &At<String>, context: &mut Context<'_>) {
    let is_known_now = !image.value.is_empty() && !image.value.contains('$');
    if let Some(error) = is_known_now.then(|| image.value.parse::<ImageReference>().err()).flatten() {
        context.error(&image.spot, error.to_string()).help("write \"registry.example/group/image:tag\"");
    }
}

fn is_mac_address(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let bytes: Vec<&str> = text.split(separator).collect();
    bytes.len() == 6 && bytes.iter().all(|byte| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// No volume twice, and none at the root.
fn check_volumes(list: &Option<At<Vec<At<String>>>>, context: &mut Context<'_>) {
    let mut destinations = Vec::new();
    for text in list.iter().flat_map(|list| &list.value).filter(|text| !volume::is_windows(&text.value)) {
        let Some(volume) = context.parse_one::<Volume>(text, "volume") else { continue };
        if destinations.contains(&volume.destination) {
            context.error(&text.spot, format!("another volume lies at {} already", volume.destination));
        }
        destinations.push(volume.destination);
    }
}

fn cpus(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<i64> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    let cpus = nano_cpus(&value.value);
    if cpus.is_none() {
        let message = format!("{:?} is no number of processors", value.value);
        context.error(&value.spot, message).help("write \"2\", \"0.5\" or \"1/3\"");
    }
    cpus
}

fn allowed_users(list: &Option<At<Vec<At<String>>>>, user: Option<&String>) -> Vec<String> {
    let allowed = texts(list);
    if allowed.is_empty() { user.cloned().into_iter().collect() } else { allowed }
}

/// A seccomp profile is read here, on the manager, and takes the place of its path.
fn security_opt(list: &Option<At<Vec<At<String>>>>, context: &mut Context<'_>) -> Vec<String> {
    let mut options = Vec::new();
    for option in list.iter().flat_map(|list| &list.value) {
        let profile = option.value.strip_prefix("seccomp=").or_else(|| option.value.strip_prefix("seccomp:"));
        match profile.filter(|profile| !profile.starts_with('{') && !["unconfined", "builtin"].contains(profile)) {
            Some(path) => options.extend(seccomp_profile(path, &option.spot, context)),
            None => options.push(option.value.clone()),
        }
    }
    options
}

fn seccomp_profile(path: &str, spot: &Spot, context: &mut Context<'_>) -> Option<String> {
    let bytes = match context.files.read(path.as_ref()) {
        Ok(bytes) => bytes,
        Err(error) => {
            context.refuse(spot, format!("cannot read the profile {path}: {error}"));
            return None;
        }
    };
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(profile) => Some(format!("seccomp={profile}")),
        Err(error) => {
            context.error(spot, format!("the profile {path} is no JSON: {error}"));
            None
        }
    }
}

fn services_devices(raw: &raw::Docker, context: &mut Context<'_>) -> Vec<(Pattern, Vec<Device>)> {
    let mut found = Vec::new();
    for (pattern, devices) in raw.services_devices.iter().flat_map(|table| &table.value) {
        let parsed = context.parse_all(&Some(devices.clone()), "device");
        match pattern.parse() {
            Ok(pattern) => found.push((pattern, parsed)),
            Err(error) => {
                context.error(&devices.spot, format!("{pattern:?} is no pattern: {error}"));
            }
        }
    }
    found
}

fn services(raw: &raw::Docker, context: &mut Context<'_>) -> Vec<Service> {
    let entries: Vec<&raw::Service> =
        raw.services.iter().flat_map(|list| &list.value).map(|entry| &entry.value).collect();
    let mut services = Vec::new();
    for entry in entries {
        let Some(name) = text(&entry.name) else {
            context.error(&entry.spot().missing("name"), "the key is missing").help("write name = \"postgres:16\"");
            continue;
        };
        let alias = text(&entry.alias).unwrap_or_default();
        services.push(Service {
            name,
            aliases: alias.split([' ', ',']).filter(|alias| !alias.is_empty()).map(str::to_owned).collect(),
            command: texts(&entry.command),
            entrypoint: texts(&entry.entrypoint),
            environment: context.variables(&entry.environment),
        });
    }
    services
}

fn wait_for_services(seconds: i64) -> Option<Duration> {
    match seconds {
        0 => Some(Duration::from_secs(30)),
        _ => u64::try_from(seconds).ok().map(Duration::from_secs),
    }
}

/// Never empty: `always` where the file has none.
fn pull_policies(value: &Option<At<OneOrMany>>, context: &mut Context<'_>) -> Vec<PullPolicy> {
    let words = value.iter().flat_map(|value| &value.value.0).filter(|word| !word.value.is_empty());
    let policies: Vec<PullPolicy> = words.filter_map(|word| context.parse_one(word, "pull policy")).collect();
    if policies.is_empty() { vec![PullPolicy::Always] } else { policies }
}

fn allowed_pull_policies(raw: &raw::Docker, configured: &[PullPolicy], context: &mut Context<'_>) -> Vec<PullPolicy> {
    let allowed: Vec<PullPolicy> = context.parse_all(&raw.allowed_pull_policies, "pull policy");
    if allowed.is_empty() {
        return configured.to_vec();
    }
    if let Some(list) = &raw.allowed_pull_policies
        && let Some(outside) = configured.iter().find(|policy| !allowed.contains(policy))
    {
        context.warning(
            &list.spot,
            format!("the configured pull policy {outside} is not among them, so it is never used"),
        );
    }
    allowed
}

fn isolation(value: &Option<At<String>>, context: &mut Context<'_>) -> Isolation {
    let Some(value) = value else { return Isolation::Unset };
    let known = [Isolation::Unset, Isolation::Default, Isolation::Process, Isolation::HyperV];
    known.into_iter().find(|isolation| isolation.as_str() == value.value).unwrap_or_else(|| {
        let message = format!("{:?} is no isolation", value.value);
        context.error(&value.spot, message).help("write default, process or hyperv");
        Isolation::Unset
    })
}

fn shm_size(value: &Option<At<i64>>, context: &mut Context<'_>) -> u64 {
    let Some(value) = value else { return 0 };
    u64::try_from(value.value).unwrap_or_else(|_| {
        context.error(&value.spot, format!("it cannot be negative: {}", value.value));
        0
    })
}

fn ulimits(raw: &raw::Docker, context: &mut Context<'_>) -> Vec<Ulimit> {
    let mut ulimits = Vec::new();
    for (name, limits) in raw.ulimit.iter().flat_map(|table| &table.value) {
        match Ulimit::parse(name, &limits.value) {
            Ok(ulimit) => ulimits.push(ulimit),
            Err(error) => {
                let message = format!("{:?} is no limit: {error}", limits.value);
                context
                    .error(&limits.spot, message)
                    .help("write \"soft\" or \"soft:hard\" with integers; -1 is unlimited");
            }
        }
    }
    ulimits
}
