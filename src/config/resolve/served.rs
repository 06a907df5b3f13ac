//! What is understood but not yet acted on: the one place to change when a part is finished.

use crate::config::diagnostics::Spot;
use crate::config::resolved::{ExecutorKind, Protocol, Shell};
use crate::config::types::plugin::Plugin;

/// A key of the file that has no effect yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// `runners[gitlab].docker.services`.
    pub key: String,
    /// What it would do, as "interactive terminals".
    pub what: &'static str,
}

/// Keys without effect, with what they stand for. A section stands for all its keys.
const UNSERVED: &[(&str, &str)] = &[
    ("sentry_dsn", "error reports to Sentry"),
    ("user", "the account of the shell executor"),
    ("experimental.usage_logger", "the usage log"),
    ("session_server.listen_address", "interactive terminals"),
    ("machine.shutdown_drain", "removal of machines at the end"),
    ("runners.token_expires_at", "tokens are not rotated: this one ends then"),
    ("runners.unhealthy_requests_limit", "pauses after failed requests: they are half a minute at most"),
    ("runners.unhealthy_interval", "pauses after failed requests: they are half a minute at most"),
    ("runners.proxy_exec", "scripts run through the helper"),
    ("runners.use_slot_cgroups", "control groups of slots"),
    ("runners.slot_cgroup_template", "control groups of slots"),
    ("runners.step_runner_image", "steps in the job's run keyword"),
    ("runners.experimental.boot_verify", "the check of each runner at the start"),
    ("runners.referees", "referees"),
    ("runners.monitoring", "the metric of acceptable queuing"),
    ("runners.instance.allowed_images", "isolation of jobs in virtual machines"),
    ("runners.cache.Type", "caches in an object store"),
    ("runners.cache.Path", "caches in an object store"),
    ("runners.cache.Shared", "caches in an object store"),
    ("runners.cache.MaxUploadedArchiveSize", "caches in an object store"),
    ("runners.docker.tls_cert_path", "TLS to the engine"),
    ("runners.docker.tls_verify", "TLS to the engine"),
    ("runners.docker.service_gpus", "services"),
    ("runners.docker.services", "services"),
    ("runners.docker.services_limit", "services"),
    ("runners.docker.services_privileged", "services"),
    ("runners.docker.services_security_opt", "services"),
    ("runners.docker.services_devices", "services"),
    ("runners.docker.services_tmpfs", "services"),
    ("runners.docker.service_memory", "services"),
    ("runners.docker.service_memory_swap", "services"),
    ("runners.docker.service_memory_reservation", "services"),
    ("runners.docker.service_cgroup_parent", "services"),
    ("runners.docker.service_slot_cgroup_template", "services"),
    ("runners.docker.service_cpuset_cpus", "services"),
    ("runners.docker.service_cpus", "services"),
    ("runners.docker.service_cpu_shares", "services"),
    ("runners.docker.wait_for_services_timeout", "services"),
    ("runners.docker.allowed_services", "services"),
    ("runners.docker.allowed_privileged_services", "services"),
    ("runners.docker.log_options", "options of the log driver"),
    ("runners.autoscaler.state_storage.keep_instance_with_acquisitions", "instances kept with their jobs"),
];

/// Feature flags that change nothing, with their default and what they stand for. Those of other executors and of
/// other operating systems change nothing in the reference either.
const UNSERVED_FLAGS: &[(&str, bool, &str)] = &[
    ("FF_CONCRETE", false, "jobs run as steps"),
    ("FF_ENABLE_JOB_INPUTS_INTERPOLATION", true, "inputs of jobs"),
    ("FF_EXPORT_HIGH_CARDINALITY_METRICS", false, "metrics of each stage"),
    ("FF_LOG_IMAGES_CONFIGURED_FOR_JOB", false, "lines about the images of a job"),
    ("FF_POSIXLY_CORRECT_ESCAPES", false, "the older way to quote in scripts"),
    ("FF_RESOLVE_FULL_TLS_CHAIN", false, "the whole chain of GitLab's certificate for jobs"),
    ("FF_SCRIPT_TO_STEP_MIGRATION", false, "jobs run as steps"),
    ("FF_SECRET_RESOLVING_FAILS_IF_MISSING", true, "secrets of outside stores"),
    ("FF_SUSPENDABLE_ENVIRONMENTS", false, "environments that are suspended"),
    ("FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL", false, "longer intervals of silent traces"),
    ("FF_USE_FASTZIP", true, "another archiver: there is one"),
    ("FF_USE_JOB_ROUTER", false, "jobs fetched through a router"),
    ("FF_USE_LEGACY_BASH_EVAL", false, "the older way to run scripts"),
    ("FF_USE_LEGACY_GCS_CACHE_ADAPTER", false, "caches in an object store"),
    ("FF_USE_LEGACY_S3_CACHE_ADAPTER", false, "caches in an object store"),
    ("FF_USE_NATIVE_CONTAINER_STOP", false, "containers stopped without a signal to their processes"),
    ("FF_USE_PARALLEL_ARTIFACT_TRANSFER", false, "transfers in parallel"),
    ("FF_USE_PARALLEL_CACHE_TRANSFER", false, "transfers in parallel"),
];

/// Whether a feature flag with this value is one to be said: it changes nothing, and its default is another.
pub(crate) fn is_unserved_flag(name: &str, value: bool) -> bool {
    UNSERVED_FLAGS.iter().any(|(flag, default, _)| *flag == name && *default != value)
}

/// Those keys of the file that have no effect, in the order of the file.
pub(crate) fn unserved(present: &[Spot]) -> Vec<Unserved> {
    let mut found: Vec<(usize, Unserved)> = Vec::new();
    for spot in present {
        let what = what(spot.path.plain());
        found.extend(what.map(|what| (spot.span.start, Unserved { key: spot.path.shown().to_owned(), what })));
    }
    found.sort_by_key(|(start, _)| *start);
    found.into_iter().map(|(_, unserved)| unserved).collect()
}

fn what(key: &str) -> Option<&'static str> {
    let of_key = UNSERVED.iter().find(|(known, _)| *known == key).map(|(_, what)| *what);
    let flag = key.rsplit('.').next().unwrap_or(key);
    of_key.or_else(|| UNSERVED_FLAGS.iter().find(|(known, ..)| *known == flag).map(|(.., what)| *what))
}

pub(crate) fn is_executor_served(executor: ExecutorKind) -> bool {
    matches!(executor, ExecutorKind::DockerAutoscaler | ExecutorKind::Instance)
}

pub(crate) fn is_shell_served(shell: Shell) -> bool {
    matches!(shell, Shell::Bash | Shell::Sh)
}

pub(crate) fn is_protocol_served(protocol: Protocol) -> bool {
    protocol == Protocol::Ssh
}

/// Of instances, by the name in `os`.
pub(crate) fn is_operating_system_served(name: &str) -> bool {
    !name.eq_ignore_ascii_case("windows")
}

/// Whether the code that talks to the provider is part of this build.
pub(crate) fn is_provider_compiled_in(plugin: Plugin) -> bool {
    match plugin {
        Plugin::Static | Plugin::Local => true,
        Plugin::Aws => cfg!(feature = "aws"),
        Plugin::GoogleCloud | Plugin::Azure => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostics::KeyPath;

    fn spot(start: usize, path: KeyPath) -> Spot {
        Spot { span: start..start + 1, path }
    }

    #[test]
    fn keys_are_said_one_by_one_in_the_order_of_the_file() {
        let docker = KeyPath::root().key("runners").element("a").key("docker");
        let present =
            [spot(9, docker.key("services")), spot(1, KeyPath::root().key("user")), spot(5, docker.key("image"))];
        let keys: Vec<String> = unserved(&present).into_iter().map(|unserved| unserved.key).collect();
        assert_eq!(keys, ["user", "runners[a].docker.services"]);
    }
}
