//! What the job's variables set: `GIT_*`, attempts, timeouts and the like, each with its default and
//! the warning that users get for a value that cannot be used.

use std::time::Duration;

use crate::go_duration::GoDuration;
use crate::job::variables::Variables;

/// Attempts of a stage may not exceed this.
const MAX_ATTEMPTS: u32 = 10;

/// How long after_script may take where nothing is set.
pub const DEFAULT_AFTER_SCRIPT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How a cache request may last, in minutes, where nothing is set.
const DEFAULT_CACHE_REQUEST_TIMEOUT: u32 = 10;

/// A boolean as Go reads it.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `GIT_STRATEGY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitStrategy {
    /// Anew each time.
    Clone,
    /// Into the checkout that is there.
    Fetch,
    /// Whatever is in the project directory is left alone.
    None,
    /// The project directory is emptied.
    Empty,
}

/// `GIT_SUBMODULE_STRATEGY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmoduleStrategy {
    None,
    Normal,
    Recursive,
    /// Fails get_sources.
    Invalid(String),
}

/// How often stages may be tried; each 1 to 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    pub get_sources: u32,
    pub restore_cache: u32,
    pub download_artifacts: u32,
    /// Of any stage whose container vanished.
    pub section: u32,
    pub resolve_secrets: u32,
}

/// Everything that variables set for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSettings {
    pub git_strategy: GitStrategy,
    pub git_checkout: bool,
    /// Words for `git clean`; empty: no clean.
    pub git_clean_flags: Vec<String>,
    /// Words that replace the default flags of `git fetch`.
    pub git_fetch_flags: Vec<String>,
    /// Words for a native `git clone`.
    pub git_clone_flags: Vec<String>,
    pub submodule_strategy: SubmoduleStrategy,
    pub submodule_paths: Vec<String>,
    /// 0: full.
    pub submodule_depth: u32,
    pub submodule_update_flags: Vec<String>,
    pub submodule_force_https: bool,
    /// The user wants pointers instead of LFS files.
    pub lfs_skip_smudge: bool,
    /// `GIT_CLONE_PATH`, already expanded.
    pub git_clone_path: Option<String>,
    pub attempts: Attempts,
    /// `RUNNER_SCRIPT_TIMEOUT`; `None`: only the job's.
    pub script_timeout: Option<Duration>,
    pub after_script_timeout: Duration,
    pub after_script_ignore_errors: bool,
    /// Minutes, for the helper.
    pub cache_request_timeout: u32,
    pub cache_fallback_key: String,
    /// `CI_DEBUG_TRACE`: scripts show what they run.
    pub debug_trace: bool,
    /// `CI_DEBUG_SERVICES`: the output of services is shown.
    pub debug_services: bool,
    pub generate_artifacts_metadata: bool,
    pub slsa_schema_version: String,
}

/// What the settings depend on besides the variables.
#[derive(Clone, Copy, Debug)]
pub struct SettingsInput {
    pub allow_git_fetch: bool,
    pub git_depth: u32,
    pub job_timeout: Duration,
    /// The runner's `debug_trace_disabled`.
    pub debug_trace_disabled: bool,
}

impl JobSettings {
    /// Reads `variables`, which are expanded. What cannot be used adds a line to `warnings`.
    pub fn read(variables: &Variables, input: SettingsInput, warnings: &mut Vec<String>) -> Self {
        let mut reader = Reader { variables, warnings };
        let strategy = reader.git_strategy(input.allow_git_fetch);
        let debug_trace = reader.debug("CI_DEBUG_TRACE", "CI_DEBUG_TRACE: usage is disabled on this Runner", input);
        let debug_services =
            reader.debug("CI_DEBUG_SERVICES", "CI_DEBUG_SERVICES: usage is disabled on this Runner", input);
        Self {
            git_strategy: strategy,
            git_checkout: reader.bool("GIT_CHECKOUT", true),
            git_clean_flags: reader.words_or("GIT_CLEAN_FLAGS", &["-ffdx"]),
            git_fetch_flags: reader.words_or("GIT_FETCH_EXTRA_FLAGS", &["--prune", "--quiet"]),
            git_clone_flags: reader.words_or("GIT_CLONE_EXTRA_FLAGS", &[]),
            submodule_strategy: reader.submodule_strategy(strategy),
            submodule_paths: reader.words_or("GIT_SUBMODULE_PATHS", &[]),
            submodule_depth: reader.number("GIT_SUBMODULE_DEPTH", input.git_depth),
            submodule_update_flags: reader.words_or("GIT_SUBMODULE_UPDATE_FLAGS", &[]),
            submodule_force_https: reader.bool("GIT_SUBMODULE_FORCE_HTTPS", false),
            lfs_skip_smudge: reader.bool("GIT_LFS_SKIP_SMUDGE", false),
            git_clone_path: Some(variables.value("GIT_CLONE_PATH")).filter(|path| !path.is_empty()).map(str::to_owned),
            attempts: Attempts {
                get_sources: reader.attempts("GET_SOURCES_ATTEMPTS"),
                restore_cache: reader.attempts("RESTORE_CACHE_ATTEMPTS"),
                download_artifacts: reader.attempts("ARTIFACT_DOWNLOAD_ATTEMPTS"),
                section: reader.attempts("EXECUTOR_JOB_SECTION_ATTEMPTS"),
                resolve_secrets: reader.attempts("SECRETS_RETRIEVAL_ATTEMPTS"),
            },
            script_timeout: reader.timeout("RUNNER_SCRIPT_TIMEOUT", input.job_timeout),
            after_script_timeout: reader
                .timeout("RUNNER_AFTER_SCRIPT_TIMEOUT", input.job_timeout)
                .unwrap_or(DEFAULT_AFTER_SCRIPT_TIMEOUT),
            after_script_ignore_errors: reader.bool("AFTER_SCRIPT_IGNORE_ERRORS", true),
            cache_request_timeout: reader.number("CACHE_REQUEST_TIMEOUT", DEFAULT_CACHE_REQUEST_TIMEOUT),
            cache_fallback_key: variables.value("CACHE_FALLBACK_KEY").to_owned(),
            debug_trace,
            debug_services,
            generate_artifacts_metadata: reader.bool("RUNNER_GENERATE_ARTIFACTS_METADATA", false),
            slsa_schema_version: Some(variables.value("SLSA_PROVENANCE_SCHEMA_VERSION"))
                .filter(|version| !version.is_empty())
                .unwrap_or("v1")
                .to_owned(),
        }
    }
}

/// Its warnings show values as they are: escaped, one that is masked would not be found in them.
struct Reader<'a> {
    variables: &'a Variables,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn bool(&mut self, key: &str, default: bool) -> bool {
        let text = self.variables.value(key);
        if text.is_empty() {
            return default;
        }
        parse_bool(text).unwrap_or_else(|| {
            self.warnings.push(format!("{key}: expected bool got \"{text}\", using default value: {default}"));
            default
        })
    }

    fn number(&mut self, key: &str, default: u32) -> u32 {
        let text = self.variables.value(key);
        if text.is_empty() {
            return default;
        }
        match text.parse::<i64>() {
            Ok(number) => u32::try_from(number.max(0)).unwrap_or(u32::MAX),
            Err(_) => {
                self.warnings.push(format!("{key}: expected int got \"{text}\", using default value: {default}"));
                default
            }
        }
    }

    fn attempts(&mut self, key: &str) -> u32 {
        let text = self.variables.value(key);
        if text.is_empty() {
            return 1;
        }
        match text.parse::<i64>() {
            Ok(number) if (1..=i64::from(MAX_ATTEMPTS)).contains(&number) => u32::try_from(number).unwrap_or(1),
            Ok(number) => {
                let clamped = if number < 1 { 1 } else { MAX_ATTEMPTS };
                self.warnings.push(format!(
                    "{key}: number of attempts out of the range [1, {MAX_ATTEMPTS}] (got {number}), using {clamped}"
                ));
                clamped
            }
            Err(_) => {
                self.warnings.push(format!("{key}: expected int got \"{text}\", using default value: 1"));
                1
            }
        }
    }

    /// Words split at blanks; `none` means no word, and unset means `default`.
    fn words_or(&self, key: &str, default: &[&str]) -> Vec<String> {
        let text = self.variables.value(key);
        if text.is_empty() {
            default.iter().map(|&word| word.to_owned()).collect()
        } else if text == "none" {
            Vec::new()
        } else {
            text.split_whitespace().map(str::to_owned).collect()
        }
    }

    fn git_strategy(&mut self, allow_fetch: bool) -> GitStrategy {
        let default = if allow_fetch { GitStrategy::Fetch } else { GitStrategy::Clone };
        match self.variables.value("GIT_STRATEGY") {
            "" => default,
            "clone" => GitStrategy::Clone,
            "fetch" => GitStrategy::Fetch,
            "none" => GitStrategy::None,
            "empty" => GitStrategy::Empty,
            other => {
                let name = if allow_fetch { "fetch" } else { "clone" };
                self.warnings.push(format!(
                    "GIT_STRATEGY: expected either 'clone', 'fetch', 'none', or 'empty' got \"{other}\", using default value: {name}"
                ));
                default
            }
        }
    }

    fn submodule_strategy(&mut self, strategy: GitStrategy) -> SubmoduleStrategy {
        if matches!(strategy, GitStrategy::None | GitStrategy::Empty) {
            return SubmoduleStrategy::None;
        }
        match self.variables.value("GIT_SUBMODULE_STRATEGY") {
            "" | "none" => SubmoduleStrategy::None,
            "normal" => SubmoduleStrategy::Normal,
            "recursive" => SubmoduleStrategy::Recursive,
            other => {
                self.warnings.push(format!(
                    "GIT_SUBMODULE_STRATEGY: expected either 'none', 'normal', or 'recursive' got \"{other}\""
                ));
                SubmoduleStrategy::Invalid(other.to_owned())
            }
        }
    }

    /// A timeout within the job's. `None` for an absent or zero one, or one that cannot be used; the job's own counts
    /// in any case.
    fn timeout(&mut self, key: &str, job_timeout: Duration) -> Option<Duration> {
        let text = self.variables.value(key);
        if text.is_empty() {
            return None;
        }
        let Ok(wanted) = text.parse::<GoDuration>() else {
            self.warnings.push(format!("Ignoring malformed {key} timeout: {text}"));
            return None;
        };
        match wanted.to_std() {
            None => {
                self.warnings.push(format!("Ignoring relative {key} timeout: {text}"));
                None
            }
            Some(Duration::ZERO) => None,
            Some(timeout) => {
                if timeout > job_timeout {
                    self.warnings
                        .push(format!("{key} timeout: {text} is longer than job timeout. Setting to job timeout"));
                    return None;
                }
                Some(timeout)
            }
        }
    }

    fn debug(&mut self, key: &str, disabled: &str, input: SettingsInput) -> bool {
        let wanted = self.bool(key, false);
        if wanted && input.debug_trace_disabled {
            self.warnings.push(disabled.to_owned());
        }
        wanted && !input.debug_trace_disabled
    }
}

#[cfg(test)]
mod tests;
