//! `[runners.feature_flags]`: the names that the reference knows, and those of `environment` that change nothing.

use std::collections::BTreeMap;

use crate::config::diagnostics::Spot;
use crate::config::raw::At;
use crate::config::resolve::context::Context;
use crate::config::resolve::served;
use crate::config::types::boolean;

const KNOWN: [&str; 57] = [
    "FF_CLEAN_UP_FAILED_CACHE_EXTRACT",
    "FF_CONCRETE",
    "FF_DISABLE_AUTOMATIC_TOKEN_ROTATION",
    "FF_DISABLE_POWERSHELL_STDIN",
    "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR",
    "FF_DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR",
    "FF_ENABLE_BASH_EXIT_CODE_CHECK",
    "FF_ENABLE_JOB_CLEANUP",
    "FF_ENABLE_JOB_INPUTS_INTERPOLATION",
    "FF_EXPORT_HIGH_CARDINALITY_METRICS",
    "FF_GIT_URLS_WITHOUT_TOKENS",
    "FF_HASH_CACHE_KEYS",
    "FF_KUBERNETES_HONOR_ENTRYPOINT",
    "FF_LOG_IMAGES_CONFIGURED_FOR_JOB",
    "FF_MASK_ALL_DEFAULT_TOKENS",
    "FF_NETWORK_PER_BUILD",
    "FF_POSIXLY_CORRECT_ESCAPES",
    "FF_PRINT_POD_EVENTS",
    "FF_RESOLVE_FULL_TLS_CHAIN",
    "FF_SCRIPT_SECTIONS",
    "FF_SCRIPT_TO_STEP_MIGRATION",
    "FF_SECRET_RESOLVING_FAILS_IF_MISSING",
    "FF_SUSPENDABLE_ENVIRONMENTS",
    "FF_TEST_FEATURE",
    "FF_TIMESTAMPS",
    "FF_USE_ADAPTIVE_REQUEST_CONCURRENCY",
    "FF_USE_ADVANCED_POD_SPEC_CONFIGURATION",
    "FF_USE_DIRECT_DOWNLOAD",
    "FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO",
    "FF_USE_DUMB_INIT_WITH_KUBERNETES_EXECUTOR",
    "FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL",
    "FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY",
    "FF_USE_FASTZIP",
    "FF_USE_FLEETING_ACQUIRE_HEARTBEATS",
    "FF_USE_GITALY_CORRELATION_ID",
    "FF_USE_GIT_BUNDLE_URIS",
    "FF_USE_GIT_NATIVE_CLONE",
    "FF_USE_GIT_PROACTIVE_AUTH",
    "FF_USE_INIT_WITH_DOCKER_EXECUTOR",
    "FF_USE_JOB_ROUTER",
    "FF_USE_LEGACY_BASH_EVAL",
    "FF_USE_LEGACY_GCS_CACHE_ADAPTER",
    "FF_USE_LEGACY_KUBERNETES_EXECUTION_STRATEGY",
    "FF_USE_LEGACY_S3_CACHE_ADAPTER",
    "FF_USE_NATIVE_CONTAINER_STOP",
    "FF_USE_NATIVE_STEPS",
    "FF_USE_PARALLEL_ARTIFACT_TRANSFER",
    "FF_USE_PARALLEL_CACHE_TRANSFER",
    "FF_USE_POD_ACTIVE_DEADLINE_SECONDS",
    "FF_USE_POWERSHELL_PATH_RESOLVER",
    "FF_USE_WINDOWS_JOB_OBJECT",
    "FF_USE_WINDOWS_LEGACY_PROCESS_STRATEGY",
    "FF_WAIT_FOR_POD_TO_BE_REACHABLE",
    "FF_SKIP_NOOP_BUILD_STAGES",
    "FF_USE_IMPROVED_URL_MASKING",
    "FF_RETRIEVE_POD_WARNING_EVENTS",
    "FF_CMD_DISABLE_DELAYED_ERROR_LEVEL_EXPANSION",
];

pub(crate) fn resolve(
    table: &Option<At<BTreeMap<String, At<bool>>>>,
    context: &mut Context<'_>,
) -> BTreeMap<String, bool> {
    let mut flags = BTreeMap::new();
    for (name, value) in table.iter().flat_map(|table| &table.value) {
        if !KNOWN.contains(&name.as_str()) {
            context.warning(&value.spot, format!("{name} is no feature flag that is known here; it is passed on"));
        }
        if served::is_unserved_flag(name, value.value) {
            context.reader.present.push(value.spot.clone());
        }
        flags.insert(name.clone(), value.value);
    }
    flags
}

/// Notes the flags among the entries of `environment` that have no effect yet.
pub(crate) fn note_unserved(environment: &Option<At<Vec<At<String>>>>, context: &mut Context<'_>) {
    let Some(list) = environment else { return };
    for entry in &list.value {
        let Some((name, value)) = entry.value.split_once('=') else { continue };
        if boolean::parse(value).is_some_and(|value| served::is_unserved_flag(name, value)) {
            let spot = Spot { span: entry.spot.span.clone(), path: list.spot.path.key(name) };
            context.reader.present.push(spot);
        }
    }
}
