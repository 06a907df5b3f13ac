//! The feature flags of GitLab Runner 19.4, resolved for one job.
//!
//! `[runners.feature_flags]` wins over a variable of that name, which wins over the default. All of
//! them are exported to every script, because users' scripts and the helper read them.

use std::collections::BTreeMap;

use crate::job::settings::parse_bool;
use crate::job::variables::Variable;

/// Names and defaults, in the order in which they are exported.
pub const FEATURE_FLAGS: [(&str, bool); 52] = [
    ("FF_CLEAN_UP_FAILED_CACHE_EXTRACT", false),
    ("FF_CONCRETE", false),
    ("FF_DISABLE_AUTOMATIC_TOKEN_ROTATION", false),
    ("FF_DISABLE_POWERSHELL_STDIN", false),
    ("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", false),
    ("FF_DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR", false),
    ("FF_ENABLE_BASH_EXIT_CODE_CHECK", false),
    ("FF_ENABLE_JOB_CLEANUP", false),
    ("FF_ENABLE_JOB_INPUTS_INTERPOLATION", true),
    ("FF_EXPORT_HIGH_CARDINALITY_METRICS", false),
    ("FF_GIT_URLS_WITHOUT_TOKENS", false),
    ("FF_HASH_CACHE_KEYS", false),
    ("FF_KUBERNETES_HONOR_ENTRYPOINT", false),
    ("FF_LOG_IMAGES_CONFIGURED_FOR_JOB", false),
    ("FF_MASK_ALL_DEFAULT_TOKENS", true),
    ("FF_NETWORK_PER_BUILD", false),
    ("FF_POSIXLY_CORRECT_ESCAPES", false),
    ("FF_PRINT_POD_EVENTS", false),
    ("FF_RESOLVE_FULL_TLS_CHAIN", false),
    ("FF_SCRIPT_SECTIONS", false),
    ("FF_SCRIPT_TO_STEP_MIGRATION", false),
    ("FF_SECRET_RESOLVING_FAILS_IF_MISSING", true),
    ("FF_SUSPENDABLE_ENVIRONMENTS", false),
    ("FF_TEST_FEATURE", false),
    ("FF_TIMESTAMPS", true),
    ("FF_USE_ADAPTIVE_REQUEST_CONCURRENCY", true),
    ("FF_USE_ADVANCED_POD_SPEC_CONFIGURATION", false),
    ("FF_USE_DIRECT_DOWNLOAD", true),
    ("FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO", true),
    ("FF_USE_DUMB_INIT_WITH_KUBERNETES_EXECUTOR", false),
    ("FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL", false),
    ("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", true),
    ("FF_USE_FASTZIP", true),
    ("FF_USE_FLEETING_ACQUIRE_HEARTBEATS", false),
    ("FF_USE_GITALY_CORRELATION_ID", true),
    ("FF_USE_GIT_BUNDLE_URIS", true),
    ("FF_USE_GIT_NATIVE_CLONE", false),
    ("FF_USE_GIT_PROACTIVE_AUTH", false),
    ("FF_USE_INIT_WITH_DOCKER_EXECUTOR", false),
    ("FF_USE_JOB_ROUTER", false),
    ("FF_USE_LEGACY_BASH_EVAL", false),
    ("FF_USE_LEGACY_GCS_CACHE_ADAPTER", false),
    ("FF_USE_LEGACY_KUBERNETES_EXECUTION_STRATEGY", false),
    ("FF_USE_LEGACY_S3_CACHE_ADAPTER", false),
    ("FF_USE_NATIVE_CONTAINER_STOP", false),
    ("FF_USE_PARALLEL_ARTIFACT_TRANSFER", false),
    ("FF_USE_PARALLEL_CACHE_TRANSFER", false),
    ("FF_USE_POD_ACTIVE_DEADLINE_SECONDS", true),
    ("FF_USE_POWERSHELL_PATH_RESOLVER", false),
    ("FF_USE_WINDOWS_JOB_OBJECT", false),
    ("FF_USE_WINDOWS_LEGACY_PROCESS_STRATEGY", false),
    ("FF_WAIT_FOR_POD_TO_BE_REACHABLE", false),
];

/// Whether `name` is a flag of [`FEATURE_FLAGS`].
pub fn is_feature_flag(name: &str) -> bool {
    FEATURE_FLAGS.iter().any(|(flag, _)| *flag == name)
}

/// All flags with the value that holds for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureFlags {
    values: [bool; FEATURE_FLAGS.len()],
}

impl Default for FeatureFlags {
    fn default() -> Self {
        Self { values: FEATURE_FLAGS.map(|(_, default)| default) }
    }
}

impl FeatureFlags {
    /// Resolves every flag: `configured` first, then the last of `variables` with its name. Values
    /// that are no boolean keep the default and add a line to `warnings`.
    pub fn resolve(configured: &BTreeMap<String, bool>, variables: &[Variable], warnings: &mut Vec<String>) -> Self {
        let mut flags = Self::default();
        for ((name, _), value) in FEATURE_FLAGS.iter().zip(&mut flags.values) {
            if let Some(set) = configured.get(*name) {
                *value = *set;
            } else if let Some(variable) = variables.iter().rev().find(|variable| variable.key == *name) {
                match parse_bool(&variable.value) {
                    Some(set) => *value = set,
                    None if variable.value.is_empty() => {}
                    None => warnings
                        .push(format!("{name}: could not parse feature flag, expected bool, got {}", variable.value)),
                }
            }
        }
        flags
    }

    /// Whether the flag `name` of [`FEATURE_FLAGS`] is on.
    pub fn is_on(&self, name: &str) -> bool {
        debug_assert!(is_feature_flag(name), "{name} is no feature flag");
        self.iter().any(|(flag, value)| flag == name && value)
    }

    /// Every flag with its value, in the order of [`FEATURE_FLAGS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, bool)> + '_ {
        FEATURE_FLAGS.iter().zip(self.values).map(|((name, _), value)| (*name, value))
    }

    /// The flags that differ from their defaults, for the header of the trace.
    pub fn changed(&self) -> impl Iterator<Item = (&'static str, bool)> + '_ {
        FEATURE_FLAGS
            .iter()
            .zip(self.values)
            .filter(|((_, default), value)| default != value)
            .map(|((name, _), value)| (*name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_wins_over_the_job_and_the_job_over_the_default() {
        let mut warnings = Vec::new();
        let configured = BTreeMap::from([("FF_SCRIPT_SECTIONS".to_owned(), true), ("FF_TIMESTAMPS".to_owned(), false)]);
        let variables = [
            Variable::new("FF_SCRIPT_SECTIONS", "false"),
            Variable::new("FF_HASH_CACHE_KEYS", "0"),
            Variable::new("FF_HASH_CACHE_KEYS", "T"),
            Variable::new("FF_USE_FASTZIP", "maybe"),
            Variable::new("FF_USE_GIT_BUNDLE_URIS", ""),
        ];
        let flags = FeatureFlags::resolve(&configured, &variables, &mut warnings);
        assert_eq!(
            flags.changed().collect::<Vec<_>>(),
            [("FF_HASH_CACHE_KEYS", true), ("FF_SCRIPT_SECTIONS", true), ("FF_TIMESTAMPS", false)]
        );
        assert!(flags.is_on("FF_USE_FASTZIP"), "an unusable value keeps the default");
        assert_eq!(warnings, ["FF_USE_FASTZIP: could not parse feature flag, expected bool, got maybe"]);
    }

    #[test]
    fn there_are_52_flags_of_which_12_are_on_by_default() {
        assert_eq!(FeatureFlags::default().iter().count(), 52);
        assert_eq!(FeatureFlags::default().iter().filter(|(_, on)| *on).count(), 12);
    }
}
