//! The flags of `register` that go into the new entry as they are, with their variables and their keys: the names of
//! the reference. `[runners.autoscaler]`, `[runners.instance]`, labels and services have none there: a template says
//! them.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use self::Kind::{Boolean, Flags, Integer, Number, Pairs, Text, Texts, Words};
use super::parse_bool;
use crate::config::edit::{Given, Setting};

/// How a flag's value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    /// `--flag`, `--flag=false`.
    Boolean,
    /// One a flag; the flag may stand again.
    Texts,
    /// Separated by commas, or one a flag.
    Words,
    /// `key:value`; the flag may stand again.
    Pairs,
    /// The same with `true` or `false` as values.
    Flags,
}

/// Flag, variable (none where empty), key below `[[runners]]`, kind.
type Row = (&'static str, &'static str, &'static str, Kind);

const RUNNER: &[Row] = &[
    ("limit", "RUNNER_LIMIT", "limit", Integer),
    ("request-concurrency", "RUNNER_REQUEST_CONCURRENCY", "request_concurrency", Integer),
    ("strict-check-interval", "RUNNER_STRICT_CHECK_INTERVAL", "strict_check_interval", Boolean),
    ("output-limit", "RUNNER_OUTPUT_LIMIT", "output_limit", Integer),
    ("unhealthy-requests-limit", "RUNNER_UNHEALTHY_REQUESTS_LIMIT", "unhealthy_requests_limit", Integer),
    ("unhealthy-interval", "", "unhealthy_interval", Text),
    (
        "job-status-final-update-retry-limit",
        "RUNNER_job_status_final_update_retry_limit",
        "job_status_final_update_retry_limit",
        Integer,
    ),
    ("shell", "RUNNER_SHELL", "shell", Text),
    ("builds-dir", "RUNNER_BUILDS_DIR", "builds_dir", Text),
    ("cache-dir", "RUNNER_CACHE_DIR", "cache_dir", Text),
    ("env", "RUNNER_ENV", "environment", Texts),
    ("clone-url", "CLONE_URL", "clone_url", Text),
    ("pre-get-sources-script", "RUNNER_PRE_GET_SOURCES_SCRIPT", "pre_get_sources_script", Text),
    ("post-get-sources-script", "RUNNER_POST_GET_SOURCES_SCRIPT", "post_get_sources_script", Text),
    ("pre-build-script", "RUNNER_PRE_BUILD_SCRIPT", "pre_build_script", Text),
    ("post-build-script", "RUNNER_POST_BUILD_SCRIPT", "post_build_script", Text),
    ("prepare-timeout", "RUNNER_PREPARE_TIMEOUT", "prepare_timeout", Text),
    ("get-sources-timeout", "RUNNER_GET_SOURCES_TIMEOUT", "get_sources_timeout", Text),
    ("debug-trace-disabled", "RUNNER_DEBUG_TRACE_DISABLED", "debug_trace_disabled", Boolean),
    ("safe-directory-checkout", "RUNNER_SAFE_DIRECTORY_CHECKOUT", "safe_directory_checkout", Boolean),
    ("clean-git-config", "RUNNER_CLEAN_GIT_CONFIG", "clean_git_config", Boolean),
    ("proxy-exec", "RUNNER_PROXY_EXEC", "proxy_exec", Boolean),
    ("use-slot-cgroups", "RUNNER_USE_SLOT_CGROUPS", "use_slot_cgroups", Boolean),
    ("slot-cgroup-template", "RUNNER_SLOT_CGROUP_TEMPLATE", "slot_cgroup_template", Text),
    ("step-runner-image", "STEP_RUNNER_IMAGE", "step_runner_image", Text),
    ("custom_build_dir-enabled", "CUSTOM_BUILD_DIR_ENABLED", "custom_build_dir.enabled", Boolean),
    ("feature-flags", "FEATURE_FLAGS", "feature_flags", Flags),
];

/// `--docker-image` is asked for, and stands with those.
const DOCKER: &[Row] = &[
    ("docker-host", "DOCKER_HOST", "docker.host", Text),
    ("docker-cert-path", "DOCKER_CERT_PATH", "docker.tls_cert_path", Text),
    ("docker-tlsverify", "DOCKER_TLS_VERIFY", "docker.tls_verify", Boolean),
    ("docker-hostname", "DOCKER_HOSTNAME", "docker.hostname", Text),
    ("docker-runtime", "DOCKER_RUNTIME", "docker.runtime", Text),
    ("docker-memory", "DOCKER_MEMORY", "docker.memory", Text),
    ("docker-memory-swap", "DOCKER_MEMORY_SWAP", "docker.memory_swap", Text),
    ("docker-memory-reservation", "DOCKER_MEMORY_RESERVATION", "docker.memory_reservation", Text),
    ("docker-cgroup-parent", "DOCKER_CGROUP_PARENT", "docker.cgroup_parent", Text),
    ("docker-cpuset-cpus", "DOCKER_CPUSET_CPUS", "docker.cpuset_cpus", Text),
    ("docker-cpuset-mems", "DOCKER_CPUSET_MEMS", "docker.cpuset_mems", Text),
    ("docker-cpus", "DOCKER_CPUS", "docker.cpus", Text),
    ("docker-cpu-shares", "DOCKER_CPU_SHARES", "docker.cpu_shares", Integer),
    ("docker-dns", "DOCKER_DNS", "docker.dns", Texts),
    ("docker-dns-search", "DOCKER_DNS_SEARCH", "docker.dns_search", Texts),
    ("docker-privileged", "DOCKER_PRIVILEGED", "docker.privileged", Boolean),
    ("docker-services_privileged", "DOCKER_SERVICES_PRIVILEGED", "docker.services_privileged", Boolean),
    (
        "docker-disable-entrypoint-overwrite",
        "DOCKER_DISABLE_ENTRYPOINT_OVERWRITE",
        "docker.disable_entrypoint_overwrite",
        Boolean,
    ),
    ("docker-user", "DOCKER_USER", "docker.user", Text),
    ("docker-allowed_users", "DOCKER_ALLOWED_USERS", "docker.allowed_users", Texts),
    ("docker-group-add", "DOCKER_GROUP_ADD", "docker.group_add", Texts),
    ("docker-userns", "DOCKER_USERNS_MODE", "docker.userns_mode", Text),
    ("docker-cap-add", "DOCKER_CAP_ADD", "docker.cap_add", Texts),
    ("docker-cap-drop", "DOCKER_CAP_DROP", "docker.cap_drop", Texts),
    ("docker-oom-kill-disable", "DOCKER_OOM_KILL_DISABLE", "docker.oom_kill_disable", Boolean),
    ("docker-oom-score-adjust", "DOCKER_OOM_SCORE_ADJUST", "docker.oom_score_adjust", Integer),
    ("docker-security-opt", "DOCKER_SECURITY_OPT", "docker.security_opt", Texts),
    ("docker-services-security-opt", "DOCKER_SERVICES_SECURITY_OPT", "docker.services_security_opt", Texts),
    ("docker-devices", "DOCKER_DEVICES", "docker.devices", Texts),
    ("docker-device-cgroup-rules", "DOCKER_DEVICE_CGROUP_RULES", "docker.device_cgroup_rules", Texts),
    ("docker-gpus", "DOCKER_GPUS", "docker.gpus", Text),
    ("docker-service_gpus", "DOCKER_SERVICE_GPUS", "docker.service_gpus", Text),
    ("docker-disable-cache", "DOCKER_DISABLE_CACHE", "docker.disable_cache", Boolean),
    ("docker-volumes", "DOCKER_VOLUMES", "docker.volumes", Texts),
    ("docker-volume-keep", "DOCKER_VOLUME_KEEP", "docker.volume_keep", Boolean),
    ("docker-volume-driver", "DOCKER_VOLUME_DRIVER", "docker.volume_driver", Text),
    ("docker-volume-driver-ops", "DOCKER_VOLUME_DRIVER_OPS", "docker.volume_driver_ops", Pairs),
    ("docker-cache-dir", "DOCKER_CACHE_DIR", "docker.cache_dir", Text),
    ("docker-extra-hosts", "DOCKER_EXTRA_HOSTS", "docker.extra_hosts", Texts),
    ("docker-volumes-from", "DOCKER_VOLUMES_FROM", "docker.volumes_from", Texts),
    ("docker-network-mode", "DOCKER_NETWORK_MODE", "docker.network_mode", Text),
    ("docker-pid-mode", "DOCKER_PID_MODE", "docker.pid_mode", Text),
    ("docker-ipcmode", "DOCKER_IPC_MODE", "docker.ipcmode", Text),
    ("docker-mac-address", "DOCKER_MAC_ADDRESS", "docker.mac_address", Text),
    ("docker-links", "DOCKER_LINKS", "docker.links", Texts),
    ("docker-services-limit", "DOCKER_SERVICES_LIMIT", "docker.services_limit", Integer),
    ("docker-service-memory", "DOCKER_SERVICE_MEMORY", "docker.service_memory", Text),
    ("docker-service-memory-swap", "DOCKER_SERVICE_MEMORY_SWAP", "docker.service_memory_swap", Text),
    (
        "docker-service-memory-reservation",
        "DOCKER_SERVICE_MEMORY_RESERVATION",
        "docker.service_memory_reservation",
        Text,
    ),
    ("docker-service-cgroup-parent", "DOCKER_SERVICE_CGROUP_PARENT", "docker.service_cgroup_parent", Text),
    (
        "docker-service-slot-cgroup-template",
        "DOCKER_SERVICE_SLOT_CGROUP_TEMPLATE",
        "docker.service_slot_cgroup_template",
        Text,
    ),
    ("docker-service-cpuset-cpus", "DOCKER_SERVICE_CPUSET_CPUS", "docker.service_cpuset_cpus", Text),
    ("docker-service-cpus", "DOCKER_SERVICE_CPUS", "docker.service_cpus", Text),
    ("docker-service-cpu-shares", "DOCKER_SERVICE_CPU_SHARES", "docker.service_cpu_shares", Integer),
    (
        "docker-wait-for-services-timeout",
        "DOCKER_WAIT_FOR_SERVICES_TIMEOUT",
        "docker.wait_for_services_timeout",
        Integer,
    ),
    ("docker-allowed-images", "DOCKER_ALLOWED_IMAGES", "docker.allowed_images", Texts),
    ("docker-allowed-services", "DOCKER_ALLOWED_SERVICES", "docker.allowed_services", Texts),
    ("docker-allowed-privileged-images", "DOCKER_ALLOWED_PRIVILEGED_IMAGES", "docker.allowed_privileged_images", Texts),
    (
        "docker-allowed-privileged-services",
        "DOCKER_ALLOWED_PRIVILEGED_SERVICES",
        "docker.allowed_privileged_services",
        Texts,
    ),
    ("docker-pull-policy", "DOCKER_PULL_POLICY", "docker.pull_policy", Words),
    ("docker-allowed-pull-policies", "DOCKER_ALLOWED_PULL_POLICIES", "docker.allowed_pull_policies", Words),
    ("docker-isolation", "DOCKER_ISOLATION", "docker.isolation", Text),
    ("docker-shm-size", "DOCKER_SHM_SIZE", "docker.shm_size", Integer),
    ("docker-tmpfs", "DOCKER_TMPFS", "docker.tmpfs", Pairs),
    ("docker-services-tmpfs", "DOCKER_SERVICES_TMPFS", "docker.services_tmpfs", Pairs),
    ("docker-sysctls", "DOCKER_SYSCTLS", "docker.sysctls", Pairs),
    ("docker-ulimit", "DOCKER_ULIMIT", "docker.ulimit", Pairs),
    ("docker-helper-image", "DOCKER_HELPER_IMAGE", "docker.helper_image", Text),
    ("docker-helper-image-flavor", "DOCKER_HELPER_IMAGE_FLAVOR", "docker.helper_image_flavor", Text),
    ("docker-container-labels", "", "docker.container_labels", Pairs),
    ("docker-enable-ipv6", "", "docker.enable_ipv6", Boolean),
    ("docker-network-mtu", "", "docker.network_mtu", Integer),
    ("docker-log-options", "DOCKER_LOG_OPTIONS", "docker.log_options", Pairs),
];

const CACHE: &[Row] = &[
    ("cache-type", "CACHE_TYPE", "cache.Type", Text),
    ("cache-path", "CACHE_PATH", "cache.Path", Text),
    ("cache-shared", "CACHE_SHARED", "cache.Shared", Boolean),
    ("cache-max_uploaded_archive_size", "CACHE_MAXIMUM_UPLOADED_ARCHIVE_SIZE", "cache.MaxUploadedArchiveSize", Integer),
    ("cache-s3-server-address", "CACHE_S3_SERVER_ADDRESS", "cache.s3.ServerAddress", Text),
    ("cache-s3-access-key", "CACHE_S3_ACCESS_KEY", "cache.s3.AccessKey", Text),
    ("cache-s3-secret-key", "CACHE_S3_SECRET_KEY", "cache.s3.SecretKey", Text),
    ("cache-s3-session-token", "CACHE_S3_SESSION_TOKEN", "cache.s3.SessionToken", Text),
    ("cache-s3-bucket-name", "CACHE_S3_BUCKET_NAME", "cache.s3.BucketName", Text),
    ("cache-s3-bucket-location", "CACHE_S3_BUCKET_LOCATION", "cache.s3.BucketLocation", Text),
    ("cache-s3-insecure", "CACHE_S3_INSECURE", "cache.s3.Insecure", Boolean),
    ("cache-s3-authentication_type", "CACHE_S3_AUTHENTICATION_TYPE", "cache.s3.AuthenticationType", Text),
    ("cache-s3-server-side-encryption", "CACHE_S3_SERVER_SIDE_ENCRYPTION", "cache.s3.ServerSideEncryption", Text),
    (
        "cache-s3-server-side-encryption-key-id",
        "CACHE_S3_SERVER_SIDE_ENCRYPTION_KEY_ID",
        "cache.s3.ServerSideEncryptionKeyID",
        Text,
    ),
    ("cache-s3-dual-stack", "CACHE_S3_DUAL_STACK", "cache.s3.DualStack", Boolean),
    ("cache-s3-path-style", "CACHE_S3_PATH_STYLE", "cache.s3.PathStyle", Boolean),
    ("cache-s3-accelerate", "CACHE_S3_ACCELERATE", "cache.s3.Accelerate", Boolean),
    ("cache-s3-role-arn", "CACHE_S3_ROLE_ARN", "cache.s3.RoleARN", Text),
    ("cache-s3-upload-role-arn", "CACHE_S3_UPLOAD_ROLE_ARN", "cache.s3.UploadRoleARN", Text),
    ("cache-s3-assume-role-max-concurrency", "", "cache.s3.AssumeRoleMaxConcurrency", Integer),
    ("cache-s3-disable-assume-role-credentials-caching", "", "cache.s3.DisableAssumeRoleCredentialsCaching", Boolean),
    ("cache-gcs-access-id", "CACHE_GCS_ACCESS_ID", "cache.gcs.AccessID", Text),
    ("cache-gcs-private-key", "CACHE_GCS_PRIVATE_KEY", "cache.gcs.PrivateKey", Text),
    ("cache-gcs-credentials-file", "GOOGLE_APPLICATION_CREDENTIALS", "cache.gcs.CredentialsFile", Text),
    ("cache-gcs-bucket-name", "CACHE_GCS_BUCKET_NAME", "cache.gcs.BucketName", Text),
    ("cache-gcs-universe-domain", "CACHE_GCS_UNIVERSE_DOMAIN", "cache.gcs.UniverseDomain", Text),
    ("cache-azure-account-name", "CACHE_AZURE_ACCOUNT_NAME", "cache.azure.AccountName", Text),
    ("cache-azure-account-key", "CACHE_AZURE_ACCOUNT_KEY", "cache.azure.AccountKey", Text),
    ("cache-azure-container-name", "CACHE_AZURE_CONTAINER_NAME", "cache.azure.ContainerName", Text),
    ("cache-azure-storage-domain", "CACHE_AZURE_STORAGE_DOMAIN", "cache.azure.StorageDomain", Text),
];

const MACHINE: &[Row] = &[
    ("machine-max-growth-rate", "MACHINE_MAX_GROWTH_RATE", "machine.MaxGrowthRate", Integer),
    ("machine-idle-nodes", "MACHINE_IDLE_COUNT", "machine.IdleCount", Integer),
    ("machine-idle-scale-factor", "MACHINE_IDLE_SCALE_FACTOR", "machine.IdleScaleFactor", Number),
    ("machine-idle-count-min", "MACHINE_IDLE_COUNT_MIN", "machine.IdleCountMin", Integer),
    ("machine-idle-time", "MACHINE_IDLE_TIME", "machine.IdleTime", Integer),
    ("machine-max-builds", "MACHINE_MAX_BUILDS", "machine.MaxBuilds", Integer),
    ("machine-machine-driver", "MACHINE_DRIVER", "machine.MachineDriver", Text),
    ("machine-machine-name", "MACHINE_NAME", "machine.MachineName", Text),
    ("machine-machine-options", "MACHINE_OPTIONS", "machine.MachineOptions", Texts),
    ("machine-machine-options-with-name", "MACHINE_OPTIONS_WITH_NAME", "machine.MachineOptionsWithName", Texts),
    ("machine-max-removal-attempts", "MACHINE_MAX_REMOVAL_ATTEMPTS", "machine.MaxRemovalAttempts", Integer),
];

/// What the flags say; keys that none says are not among them.
#[derive(Clone, Debug, Default)]
pub struct RunnerFlags {
    pub settings: Vec<Setting>,
}

fn rows() -> impl Iterator<Item = &'static Row> {
    RUNNER.iter().chain(DOCKER).chain(CACHE).chain(MACHINE)
}

impl clap::Args for RunnerFlags {
    fn augment_args(command: Command) -> Command {
        rows().fold(command, |command, row| command.arg(arg(row)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// A flag may stand again: lists grow, and of single values the last one counts, as in the reference.
fn arg((flag, variable, key, kind): &Row) -> Arg {
    let arg = Arg::new(*flag).long(*flag).help(*key).help_heading("Keys of the new entry").action(ArgAction::Append);
    let arg = match kind {
        Boolean => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Text | Integer | Number | Texts | Words | Pairs | Flags => {
            arg.num_args(1).allow_hyphen_values(true).value_name("VALUE")
        }
    };
    if variable.is_empty() { arg } else { arg.env(*variable).hide_env_values(true) }
}

impl clap::FromArgMatches for RunnerFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Vec::new();
        for (flag, _, path, kind) in rows() {
            let texts = matches.get_many::<String>(flag).into_iter().flatten();
            let texts: Vec<&str> = texts.map(String::as_str).filter(|text| !text.is_empty()).collect();
            let value = given(*kind, &texts)
                .map_err(|what| clap::Error::raw(ErrorKind::ValueValidation, format!("--{flag}: {what}\n")))?;
            settings.extend(value.map(|value| Setting { path, value }));
        }
        Ok(Self { settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What these texts come to; nothing without any. A variable that is set to nothing says nothing.
fn given(kind: Kind, texts: &[&str]) -> Result<Option<Given>, String> {
    let Some(last) = texts.last() else { return Ok(None) };
    let owned = |text: &&str| (*text).to_owned();
    Ok(Some(match kind {
        Text => Given::Text((*last).to_owned()),
        Integer => Given::Integer(last.parse().map_err(|_| format!("{last:?} is no integer"))?),
        Number => Given::Number(last.parse().map_err(|_| format!("{last:?} is no number"))?),
        Boolean => Given::Boolean(parse_bool(last)?),
        Texts => Given::Texts(texts.iter().map(owned).collect()),
        Words => {
            Given::Texts(texts.iter().flat_map(|text| text.split(',')).map(|word| word.trim().to_owned()).collect())
        }
        Pairs => Given::Pairs(texts.iter().map(|text| pair(text)).collect::<Result<_, _>>()?),
        Flags => Given::Flags(texts.iter().map(|text| flag_pair(text)).collect::<Result<_, _>>()?),
    }))
}

/// Values may be secret: a message does not show them.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once(':').ok_or("write key:value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn flag_pair(text: &str) -> Result<(String, bool), String> {
    let (key, value) = pair(text)?;
    Ok((key, parse_bool(&value)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_flags_fit_beside_the_others_and_each_has_a_key_of_its_own() {
        Cli::command().debug_assert();
        let keys: BTreeSet<&str> = rows().map(|(_, _, key, _)| *key).collect();
        assert_eq!(keys.len(), rows().count());
    }

    #[test]
    fn values_are_read_as_the_reference_reads_them() {
        use Given as G;
        for (kind, texts, expected) in [
            (Text, vec!["a", "b"], G::Text("b".into())),
            (Integer, vec!["-5"], G::Integer(-5)),
            (Boolean, vec!["0"], G::Boolean(false)),
            (Texts, vec!["a,b", "c"], G::Texts(vec!["a,b".into(), "c".into()])),
            (Words, vec!["always, never"], G::Texts(vec!["always".into(), "never".into()])),
            (Pairs, vec!["/run:rw,size=1:2"], G::Pairs(vec![("/run".into(), "rw,size=1:2".into())])),
            (Flags, vec!["FF_A:true", "FF_B:0"], G::Flags(vec![("FF_A".into(), true), ("FF_B".into(), false)])),
        ] {
            assert_eq!(given(kind, &texts), Ok(Some(expected)), "{texts:?}");
        }
        assert_eq!(given(Integer, &[]), Ok(None));
        assert_eq!(given(Integer, &["many"]), Err("\"many\" is no integer".to_owned()));
        assert_eq!(given(Pairs, &["secret"]), Err("write key:value".to_owned()));
    }
}
