//! `[runners.docker]`.

use std::collections::BTreeMap;

use crate::config::raw::reader::{At, section};
use crate::config::raw::value::OneOrMany;

section! {
    /// `[runners.docker]`
    Docker {
        host: String,
        tls_cert_path: String,
        tls_verify: bool,
        hostname: String,
        image: String,
        runtime: String,
        memory: String,
        memory_swap: String,
        memory_reservation: String,
        cgroup_parent: String,
        cpuset_cpus: String,
        cpuset_mems: String,
        cpus: String,
        cpu_shares: i64,
        dns: Vec<At<String>>,
        dns_search: Vec<At<String>>,
        privileged: bool,
        services_privileged: bool,
        disable_entrypoint_overwrite: bool,
        user: String,
        allowed_users: Vec<At<String>>,
        group_add: Vec<At<String>>,
        userns_mode: String,
        cap_add: Vec<At<String>>,
        cap_drop: Vec<At<String>>,
        oom_kill_disable: bool,
        oom_score_adjust: i64,
        security_opt: Vec<At<String>>,
        services_security_opt: Vec<At<String>>,
        devices: Vec<At<String>>,
        device_cgroup_rules: Vec<At<String>>,
        gpus: String,
        service_gpus: String,
        services_devices: BTreeMap<String, At<Vec<At<String>>>>,
        disable_cache: bool,
        volumes: Vec<At<String>>,
        volume_keep: bool,
        volume_driver: String,
        volume_driver_ops: BTreeMap<String, At<String>>,
        cache_dir: String,
        extra_hosts: Vec<At<String>>,
        volumes_from: Vec<At<String>>,
        network_mode: String,
        pid_mode: String,
        ipcmode: String,
        mac_address: String,
        links: Vec<At<String>>,
        services: Vec<At<Service>>,
        services_limit: i64,
        service_memory: String,
        service_memory_swap: String,
        service_memory_reservation: String,
        service_cgroup_parent: String,
        service_slot_cgroup_template: String,
        service_cpuset_cpus: String,
        service_cpus: String,
        service_cpu_shares: i64,
        wait_for_services_timeout: i64,
        allowed_images: Vec<At<String>>,
        allowed_services: Vec<At<String>>,
        allowed_privileged_images: Vec<At<String>>,
        allowed_privileged_services: Vec<At<String>>,
        allowed_credential_helpers: Vec<At<String>>,
        pull_policy: OneOrMany,
        allowed_pull_policies: Vec<At<String>>,
        isolation: String,
        shm_size: i64,
        tmpfs: BTreeMap<String, At<String>>,
        services_tmpfs: BTreeMap<String, At<String>>,
        sysctls: BTreeMap<String, At<String>>,
        ulimit: BTreeMap<String, At<String>>,
        helper_image: String,
        helper_image_flavor: String,
        container_labels: BTreeMap<String, At<String>>,
        enable_ipv6: bool,
        network_mtu: i64,
        log_options: BTreeMap<String, At<String>>,
    }
}

section! {
    /// One `[[runners.docker.services]]`.
    Service {
        name: String,
        alias: String,
        command: Vec<At<String>>,
        entrypoint: Vec<At<String>>,
        environment: Vec<At<String>>,
    }
    unused {
        suspend_data_path: String,
    }
}
