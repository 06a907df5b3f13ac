//! `[runners.autoscaler]`, and `plugin_config` as each provider has it.

use std::collections::BTreeMap;

use crate::config::raw::reader::{At, section};
use crate::config::raw::value::Deferred;
use crate::go_duration::GoDuration;
use crate::secret::Secret;

section! {
    /// `[runners.autoscaler]`
    Autoscaler {
        plugin: String,
        plugin_config: Deferred,
        capacity_per_instance: i64,
        max_use_count: i64,
        max_instances: i64,
        delete_instances_on_shutdown: bool,
        instance_ready_command: String,
        instance_acquire_timeout: GoDuration,
        update_interval: GoDuration,
        update_interval_when_expecting: GoDuration,
        deletion_retry_interval: GoDuration,
        shutdown_deletion_interval: GoDuration,
        shutdown_deletion_retries: i64,
        failure_threshold: i64,
        reservation_throttling: bool,
        log_internal_ip: bool,
        log_external_ip: bool,
        instance_operation_time_buckets: Vec<At<f64>>,
        instance_creation_time_buckets: Vec<At<f64>>,
        instance_is_running_time_buckets: Vec<At<f64>>,
        instance_deletion_time_buckets: Vec<At<f64>>,
        instance_readiness_time_buckets: Vec<At<f64>>,
        instance_life_duration_buckets: Vec<At<f64>>,
        scale_throttle: ScaleThrottle,
        state_storage: StateStorage,
        connector_config: ConnectorConfig,
        vm_isolation: VmIsolation,
        policy: Vec<At<Policy>>,
    }
}

section! {
    /// `[runners.autoscaler.scale_throttle]`
    ScaleThrottle {
        limit: i64,
        burst: i64,
    }
}

section! {
    /// `[runners.autoscaler.state_storage]`
    StateStorage {
        enabled: bool,
        dir: String,
        keep_instance_with_acquisitions: bool,
    }
}

section! {
    /// `[runners.autoscaler.connector_config]`, and the same of `vm_isolation`.
    ConnectorConfig {
        os: String,
        arch: String,
        protocol: String,
        protocol_port: i64,
        username: String,
        password: Secret,
        key_path: String,
        use_static_credentials: bool,
        keepalive: GoDuration,
        timeout: GoDuration,
        use_external_addr: bool,
    }
}

section! {
    /// `[runners.autoscaler.vm_isolation]`
    VmIsolation {
        enabled: bool,
        nesting_host: String,
        nesting_config: Deferred,
        image: String,
        connector_config: ConnectorConfig,
    }
}

section! {
    /// One `[[runners.autoscaler.policy]]`.
    Policy {
        periods: Vec<At<String>>,
        timezone: String,
        idle_count: i64,
        idle_time: GoDuration,
        scale_factor: f64,
        scale_factor_limit: i64,
        preemptive_mode: bool,
    }
}

section! {
    /// `plugin_config` of `aws`.
    AwsPlugin {
        name: String,
        profile: String,
        config_file: String,
        credentials_file: String,
        region: String,
        endpoint_url: String,
    }
}

section! {
    /// `plugin_config` of `googlecloud`.
    GoogleCloudPlugin {
        name: String,
        project: String,
        zone: String,
        region: String,
        credentials_file: String,
        endpoint: String,
    }
}

section! {
    /// `plugin_config` of `azure`.
    AzurePlugin {
        name: String,
        subscription_id: String,
        resource_group_name: String,
        endpoint: String,
        authority_host: String,
    }
}

section! {
    /// `plugin_config` of `static`.
    StaticPlugin {
        instances: BTreeMap<String, At<StaticInstance>>,
    }
}

section! {
    /// One `[runners.autoscaler.plugin_config.instances.NAME]`.
    StaticInstance {
        external_addr: String,
        internal_addr: String,
        username: String,
        password: Secret,
        key_path: String,
        protocol: String,
        port: i64,
        os: String,
        arch: String,
        timeout: GoDuration,
        host_key: String,
    }
}

section! {
    /// `plugin_config` of `local`.
    LocalPlugin {
        max_size: i64,
        boot_time: GoDuration,
        root: String,
    }
}
