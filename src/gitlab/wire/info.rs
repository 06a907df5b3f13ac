//! The `info` block: who we are and what we can do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gitlab::identity::{COMPATIBLE_VERSION, REVISION, architecture, platform};

/// Sent with each registration, verification, job request and job update. GitLab keeps it at most every
/// 40 minutes, so it must be whole on the first request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// As Go names it, such as `linux`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// As Go names it, such as `amd64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// The executor's name in the configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub executor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub shell: String,
    pub features: Features,
    pub config: ConfigInfo,
    /// Global and runner labels, merged.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The part of the configuration that GitLab shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigInfo {
    /// Docker's `gpus` option without spaces.
    pub gpus: String,
}

impl Info {
    /// This program on this machine, with an executor (`docker-autoscaler`), its shell (`bash`) and what
    /// the two support.
    pub fn new(executor: &str, shell: &str, features: Features) -> Self {
        Self {
            name: "gitlab-runner".to_owned(),
            version: COMPATIBLE_VERSION.to_owned(),
            revision: REVISION.to_owned(),
            platform: platform().to_owned(),
            architecture: architecture().to_owned(),
            executor: executor.to_owned(),
            shell: shell.to_owned(),
            features,
            config: ConfigInfo::default(),
            labels: BTreeMap::new(),
        }
    }
}

/// What the runner can do. GitLab fails a job that needs a feature we do not name, so each is true only
/// where it really works. The order is the reference's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    pub variables: bool,
    pub image: bool,
    pub services: bool,
    pub artifacts: bool,
    pub cache: bool,
    pub fallback_cache_keys: bool,
    pub shared: bool,
    pub upload_multiple_artifacts: bool,
    pub upload_raw_artifacts: bool,
    pub session: bool,
    pub terminal: bool,
    pub refspecs: bool,
    pub masking: bool,
    pub proxy: bool,
    pub raw_variables: bool,
    pub artifacts_exclude: bool,
    pub multi_build_steps: bool,
    pub trace_reset: bool,
    pub trace_checksum: bool,
    pub trace_size: bool,
    pub vault_secrets: bool,
    pub cancelable: bool,
    pub return_exit_code: bool,
    pub service_variables: bool,
    pub service_multiple_aliases: bool,
    pub image_executor_opts: bool,
    pub service_executor_opts: bool,
    pub cancel_gracefully: bool,
    pub native_steps_integration: bool,
    pub two_phase_job_commit: bool,
    pub job_inputs: bool,
}

impl Features {
    /// What this client does by itself, whatever executor and shell stand behind it: traces that can be
    /// sent again and are checked, and cancelling, graceful or not.
    #[must_use]
    pub fn of_client() -> Self {
        Self {
            trace_reset: true,
            trace_checksum: true,
            trace_size: true,
            cancelable: true,
            cancel_gracefully: true,
            ..Self::default()
        }
    }
}
