//! `[[runners]]` and its small sections.

use std::collections::BTreeMap;

use crate::config::raw::autoscaler::Autoscaler;
use crate::config::raw::cache::Cache;
use crate::config::raw::docker::Docker;
use crate::config::raw::machine::Machine;
use crate::config::raw::reader::{At, section};
use crate::config::raw::value::{Foreign, Moment};
use crate::go_duration::GoDuration;
use crate::secret::Secret;

section! {
    /// One `[[runners]]`.
    Runner {
        name: String,
        url: String,
        id: i64,
        token: Secret,
        token_obtained_at: Moment,
        token_expires_at: Moment,
        tls_ca_file as "tls-ca-file": String,
        tls_cert_file as "tls-cert-file": String,
        tls_key_file as "tls-key-file": String,
        limit: i64,
        request_concurrency: i64,
        strict_check_interval: bool,
        output_limit: i64,
        /// Not a key of the reference.
        max_extracted_size: i64,
        unhealthy_requests_limit: i64,
        unhealthy_interval: GoDuration,
        job_status_final_update_retry_limit: i64,
        executor: String,
        shell: String,
        builds_dir: String,
        cache_dir: String,
        environment: Vec<At<String>>,
        clone_url: String,
        pre_get_sources_script: String,
        post_get_sources_script: String,
        /// Removed in 17.0: `pre_get_sources_script`.
        pre_clone_script: String,
        /// Removed in 17.0: `post_get_sources_script`.
        post_clone_script: String,
        pre_build_script: String,
        post_build_script: String,
        prepare_timeout: GoDuration,
        get_sources_timeout: GoDuration,
        debug_trace_disabled: bool,
        safe_directory_checkout: bool,
        clean_git_config: bool,
        proxy_exec: bool,
        labels: BTreeMap<String, At<String>>,
        use_slot_cgroups: bool,
        slot_cgroup_template: String,
        step_runner_image: String,
        experimental: Experimental,
        custom_build_dir: CustomBuildDir,
        artifact: Artifact,
        feature_flags: BTreeMap<String, At<bool>>,
        monitoring: Monitoring,
        docker: Docker,
        cache: Cache,
        autoscaler: Autoscaler,
        instance: Instance,
        machine: Machine,
        ssh: Foreign,
        parallels: Foreign,
        virtualbox: Foreign,
        kubernetes: Foreign,
        custom: Foreign,
    }
    unused {
        referees: Referees,
    }
}

section! {
    /// `[runners.experimental]`
    Experimental {
        boot_verify: BootVerify,
    }
}

section! {
    /// `[runners.experimental.boot_verify]`
    BootVerify {
        enabled: bool,
        timeout: GoDuration,
        acquire_min_backoff: GoDuration,
        acquire_max_backoff: GoDuration,
    }
}

section! {
    /// `[runners.custom_build_dir]`
    CustomBuildDir {
        enabled: bool,
    }
}

section! {
    /// `[runners.artifact]`
    Artifact {
        upload_timeout: GoDuration,
        response_header_timeout: GoDuration,
        redirect_hosts: Vec<At<String>>,
    }
}

section! {
    /// `[runners.referees]`
    Referees {}
    unused {
        metrics: MetricsReferee,
    }
}

section! {
    /// `[runners.referees.metrics]`
    MetricsReferee {}
    unused {
        prometheus_address: String,
        query_interval: i64,
        queries: Vec<At<String>>,
    }
}

section! {
    /// `[runners.monitoring]`
    Monitoring {
        job_queuing_durations: Vec<At<JobQueuingDuration>>,
    }
}

section! {
    /// One `[[runners.monitoring.job_queuing_durations]]`.
    JobQueuingDuration {
        periods: Vec<At<String>>,
        timezone: String,
        threshold: GoDuration,
        jobs_running_for_project: String,
    }
}

section! {
    /// `[runners.instance]`
    Instance {
        allowed_images: Vec<At<String>>,
        use_common_build_dir: bool,
    }
}
