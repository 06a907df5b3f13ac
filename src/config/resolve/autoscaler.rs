//! `[runners.autoscaler]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::raw::{self, At, Section};
use crate::config::resolve::context::{Context, flag, optional_flag, secret, text};
use crate::config::resolve::{provider, served};
use crate::config::resolved::{
    Autoscaler, Buckets, ConnectorConfig, ExecutorKind, Policy, Protocol, ScaleThrottle, StateStorage, VmIsolation,
};
use crate::config::types::period::Period;

/// New instances a second where the file does not say.
const DEFAULT_SCALE_LIMIT: u32 = 100;

/// `None` where the executor needs none, or after an error.
pub(crate) fn resolve(runner: &raw::Runner, executor: ExecutorKind, context: &mut Context<'_>) -> Option<Autoscaler> {
    let Some(At { value: raw, .. }) = &runner.autoscaler else {
        if executor.uses_autoscaler() {
            let message = format!("the section is missing: the executor {} needs it", executor.as_str());
            context
                .error(&runner.spot().missing("autoscaler"), message)
                .help("write [runners.autoscaler] with plugin = \"…\"");
        }
        return None;
    };
    let plugin_config = provider::resolve(raw, context);
    let max_instances = context.count(&raw.max_instances);
    if max_instances == 0 {
        let spot =
            raw.max_instances.as_ref().map_or_else(|| raw.spot().missing("max_instances"), |value| value.spot.clone());
        context
            .warning(&spot, "the number of instances has no limit but the group's own")
            .help("write max_instances = 10");
    }
    let autoscaler = Autoscaler {
        plugin_config: plugin_config?,
        capacity_per_instance: context.count(&raw.capacity_per_instance).max(1),
        max_use_count: context.count(&raw.max_use_count),
        max_instances,
        delete_instances_on_shutdown: flag(&raw.delete_instances_on_shutdown),
        instance_ready_command: text(&raw.instance_ready_command),
        instance_acquire_timeout: context.duration_or(&raw.instance_acquire_timeout, minutes(15)),
        update_interval: context.duration_or(&raw.update_interval, minutes(1)),
        update_interval_when_expecting: context
            .duration_or(&raw.update_interval_when_expecting, Duration::from_secs(2)),
        deletion_retry_interval: context.duration_or(&raw.deletion_retry_interval, minutes(1)),
        shutdown_deletion_interval: context.duration_or(&raw.shutdown_deletion_interval, Duration::from_secs(10)),
        shutdown_deletion_retries: context.positive_count_or(&raw.shutdown_deletion_retries, 3),
        failure_threshold: context.positive_count_or(&raw.failure_threshold, 3),
        scale_throttle: scale_throttle(raw, max_instances, context),
        state_storage: state_storage(raw),
        connector_config: raw
            .connector_config
            .as_ref()
            .map_or_else(ConnectorConfig::default, |section| connector_config(&section.value, context)),
        vm_isolation: vm_isolation(raw, context),
        policies: policies(raw, context),
        reservation_throttling: optional_flag(&raw.reservation_throttling),
        log_internal_ip: flag(&raw.log_internal_ip),
        log_external_ip: flag(&raw.log_external_ip),
        buckets: buckets(raw, context),
    };
    check_policies(raw, &autoscaler, context);
    Some(autoscaler)
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// -1 is no limit, 0 the default.
fn scale_throttle(raw: &raw::Autoscaler, max_instances: u32, context: &mut Context<'_>) -> ScaleThrottle {
    let section = raw.scale_throttle.as_ref().map(|section| &section.value);
    let limit = match section.and_then(|section| section.limit.as_ref()) {
        Some(limit) if limit.value == -1 => None,
        limit => match context.count(&limit.cloned()) {
            0 => Some(DEFAULT_SCALE_LIMIT),
            limit => Some(limit),
        },
    };
    let burst = match context.count(&section.and_then(|section| section.burst.clone())) {
        0 if max_instances > 0 => max_instances,
        0 => limit.unwrap_or(DEFAULT_SCALE_LIMIT),
        burst => burst,
    };
    ScaleThrottle { limit, burst }
}

fn state_storage(raw: &raw::Autoscaler) -> StateStorage {
    let Some(At { value: raw, .. }) = &raw.state_storage else { return StateStorage::default() };
    StateStorage {
        enabled: optional_flag(&raw.enabled),
        dir: text(&raw.dir).map(PathBuf::from),
        keep_instance_with_acquisitions: flag(&raw.keep_instance_with_acquisitions),
    }
}

fn connector_config(raw: &raw::ConnectorConfig, context: &mut Context<'_>) -> ConnectorConfig {
    let static_credentials = flag(&raw.use_static_credentials);
    if let (Some(password), Some(_), false) = (&raw.password, &raw.key_path, static_credentials) {
        let message = "a password and a key are set, but the provider makes credentials of its own";
        context.warning(&password.spot, message).help("write use_static_credentials = true to use them");
    }
    ConnectorConfig {
        os: operating_system(&raw.os, context),
        arch: text(&raw.arch),
        protocol: protocol(&raw.protocol, context),
        port: port(&raw.protocol_port, context),
        username: text(&raw.username),
        password: secret(&raw.password),
        key_path: context.readable_file(&raw.key_path),
        use_static_credentials: static_credentials,
        keepalive: context.duration(&raw.keepalive),
        timeout: context.duration_or(&raw.timeout, ConnectorConfig::default().timeout),
        use_external_addr: flag(&raw.use_external_addr),
    }
}

/// The protocol; one that is not served yet refuses the runner.
pub(crate) fn protocol(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<Protocol> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    let protocol = match value.value.as_str() {
        "ssh" => Protocol::Ssh,
        "winrm" | "winrm+http" => Protocol::WinRmHttp,
        "winrm+https" => Protocol::WinRmHttps,
        _ => {
            let message = format!("{:?} is no protocol", value.value);
            context.error(&value.spot, message).help("write \"ssh\", \"winrm\" or \"winrm+https\"");
            return None;
        }
    };
    if !served::is_protocol_served(protocol) {
        context.refuse(&value.spot, format!("the protocol {} is not served yet", value.value));
    }
    Some(protocol)
}

/// The name of an operating system; one that is not served yet refuses the runner.
pub(crate) fn operating_system(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<String> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    if !served::is_operating_system_served(&value.value) {
        context.refuse(&value.spot, format!("the operating system {} is not served yet", value.value));
    }
    Some(value.value.clone())
}

/// 0 is the protocol's own port.
pub(crate) fn port(value: &Option<At<i64>>, context: &mut Context<'_>) -> Option<u16> {
    let value = value.as_ref()?;
    match u16::try_from(value.value) {
        Ok(port) => Some(port).filter(|port| *port != 0),
        Err(_) => {
            context.error(&value.spot, format!("{} is no port: 1 to 65535", value.value));
            None
        }
    }
}

/// Nothing where it is not enabled. Where it is, the runner is refused: it is not served yet.
fn vm_isolation(raw: &raw::Autoscaler, context: &mut Context<'_>) -> Option<VmIsolation> {
    let At { value: raw, .. } = raw.vm_isolation.as_ref()?;
    let connector_config = raw
        .connector_config
        .as_ref()
        .map_or_else(ConnectorConfig::default, |section| connector_config(&section.value, context));
    let enabled = raw.enabled.as_ref().filter(|enabled| enabled.value)?;
    context.refuse(&enabled.spot, "isolation of jobs in virtual machines is not served yet");
    Some(VmIsolation {
        nesting_host: text(&raw.nesting_host).unwrap_or_default(),
        nesting_config: raw.nesting_config.as_ref().map_or(serde_json::Value::Null, At::to_json),
        image: text(&raw.image),
        connector_config,
    })
}

fn policies(raw: &raw::Autoscaler, context: &mut Context<'_>) -> Vec<Policy> {
    let entries: Vec<&raw::Policy> = raw.policy.iter().flat_map(|list| &list.value).map(|entry| &entry.value).collect();
    entries.into_iter().map(|entry| policy(entry, context)).collect()
}

fn policy(raw: &raw::Policy, context: &mut Context<'_>) -> Policy {
    let mut periods = context.periods(&raw.periods, Period::parse_policy);
    if periods.is_empty() {
        periods.push(Period::always());
    }
    let scale_factor = raw.scale_factor.as_ref().map_or(0.0, |factor| factor.value);
    if let Some(factor) = raw.scale_factor.as_ref().filter(|factor| factor.value < 0.0) {
        context.error(&factor.spot, format!("it cannot be negative: {}", factor.value));
    }
    let idle_time = raw.idle_time.as_ref().and_then(|value| value.value.to_std()).unwrap_or_default();
    if let Some(value) = raw.idle_time.as_ref().filter(|value| value.value.is_negative()) {
        context.error(&value.spot, format!("a duration cannot be negative here: {}", value.value));
    }
    if let Some(value) = raw.idle_time.as_ref().filter(|_| !idle_time.is_zero() && idle_time < Duration::from_secs(1)) {
        context.warning(&value.spot, format!("instances go after {}: the reference asks for 1 s or more", value.value));
    }
    Policy {
        periods,
        timezone: context.timezone(&raw.timezone),
        idle_count: context.count(&raw.idle_count),
        idle_time,
        scale_factor: scale_factor.max(0.0),
        scale_factor_limit: context.count(&raw.scale_factor_limit),
        preemptive_mode: optional_flag(&raw.preemptive_mode),
    }
}

/// Policies that cannot do what they say.
fn check_policies(raw: &raw::Autoscaler, resolved: &Autoscaler, context: &mut Context<'_>) {
    let capacity = u64::from(resolved.max_instances) * u64::from(resolved.capacity_per_instance);
    let entries = raw.policy.iter().flat_map(|list| &list.value);
    for (raw, policy) in entries.zip(&resolved.policies) {
        if let Some(value) =
            raw.value.idle_count.as_ref().filter(|_| capacity > 0 && u64::from(policy.idle_count) > capacity)
        {
            let message = format!("{} idle jobs do not fit on {} instances", value.value, resolved.max_instances);
            context.warning(&value.spot, message).help(format!("their capacity is {capacity}"));
        }
        if let Some(value) = &raw.value.preemptive_mode
            && value.value
            && policy.idle_count == 0
            && policy.scale_factor == 0.0
        {
            context
                .warning(&value.spot, "no job is ever asked for: there is no idle capacity")
                .help("write idle_count = 1, or leave preemptive_mode out");
        }
    }
}

fn buckets(raw: &raw::Autoscaler, context: &mut Context<'_>) -> Buckets {
    let fallback = bucket_list(&raw.instance_operation_time_buckets, context);
    let mut own = |list| bucket_list(list, context).or_else(|| fallback.clone());
    Buckets {
        creation_time: own(&raw.instance_creation_time_buckets),
        is_running_time: own(&raw.instance_is_running_time_buckets),
        deletion_time: own(&raw.instance_deletion_time_buckets),
        readiness_time: own(&raw.instance_readiness_time_buckets),
        life_duration: bucket_list(&raw.instance_life_duration_buckets, context),
    }
}

fn bucket_list(list: &Option<At<Vec<At<f64>>>>, context: &mut Context<'_>) -> Option<Vec<f64>> {
    let list = list.as_ref().filter(|list| !list.value.is_empty())?;
    let bounds: Vec<f64> = list.value.iter().map(|bound| bound.value).collect();
    if !bounds.is_sorted_by(|a, b| a < b) {
        context.error(&list.spot, "the bounds do not rise");
    }
    Some(bounds)
}
