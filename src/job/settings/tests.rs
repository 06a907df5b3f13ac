use super::*;
use crate::job::variables::Variable;

const INPUT: SettingsInput = SettingsInput {
    allow_git_fetch: true,
    git_depth: 20,
    job_timeout: Duration::from_secs(3600),
    debug_trace_disabled: false,
};

fn read(pairs: &[(&str, &str)]) -> (JobSettings, Vec<String>) {
    let variables: Variables = pairs.iter().map(|(key, value)| Variable::new(*key, *value)).collect();
    let mut warnings = Vec::new();
    let settings = JobSettings::read(&variables, INPUT, &mut warnings);
    (settings, warnings)
}

#[test]
fn without_variables_the_defaults_hold_and_nothing_is_said() {
    let (settings, warnings) = read(&[]);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(settings.git_strategy, GitStrategy::Fetch);
    assert_eq!(settings.git_clean_flags, ["-ffdx"]);
    assert_eq!(settings.git_fetch_flags, ["--prune", "--quiet"]);
    assert_eq!(settings.submodule_depth, 20);
    assert_eq!(
        settings.attempts,
        Attempts { get_sources: 1, restore_cache: 1, download_artifacts: 1, section: 1, resolve_secrets: 1 }
    );
    assert_eq!((settings.script_timeout, settings.after_script_timeout), (None, Duration::from_secs(300)));
    assert!(settings.git_checkout && settings.after_script_ignore_errors && !settings.debug_trace);
}

#[test]
fn attempts_are_clamped_to_1_and_10_with_a_warning() {
    for (text, attempts, warned) in [
        ("1", 1, false),
        ("10", 10, false),
        ("3", 3, false),
        ("0", 1, true),
        ("-4", 1, true),
        ("11", 10, true),
        ("x", 1, true),
    ] {
        let (settings, warnings) = read(&[("GET_SOURCES_ATTEMPTS", text)]);
        assert_eq!(settings.attempts.get_sources, attempts, "{text}");
        assert_eq!(warnings.len(), usize::from(warned), "{text}: {warnings:?}");
    }
}

#[test]
fn booleans_are_gos_and_others_keep_the_default_with_a_warning() {
    let (settings, warnings) = read(&[("GIT_CHECKOUT", "no"), ("GIT_SUBMODULE_FORCE_HTTPS", "T")]);
    assert!(settings.git_checkout && settings.submodule_force_https);
    assert_eq!(warnings, ["GIT_CHECKOUT: expected bool got \"no\", using default value: true"]);
}

#[test]
fn a_warning_shows_a_value_as_it_is_so_that_its_mask_is_found() {
    for key in ["GIT_CHECKOUT", "GIT_SUBMODULE_DEPTH", "GET_SOURCES_ATTEMPTS", "GIT_STRATEGY", "GIT_SUBMODULE_STRATEGY"]
    {
        let (_, warnings) = read(&[(key, "a\"b\\c")]);
        assert!(warnings.iter().any(|warning| warning.contains("a\"b\\c")), "{key}: {warnings:?}");
    }
}

#[test]
fn flags_are_words_none_is_no_word_and_they_replace_the_default() {
    let (settings, _) = read(&[("GIT_CLEAN_FLAGS", "-ffdx -e cache/"), ("GIT_FETCH_EXTRA_FLAGS", "none")]);
    assert_eq!(settings.git_clean_flags, ["-ffdx", "-e", "cache/"]);
    assert_eq!(settings.git_fetch_flags, Vec::<String>::new());
}

#[test]
fn an_unknown_git_strategy_is_the_default_and_an_unknown_submodule_strategy_is_kept_to_fail() {
    let (settings, warnings) = read(&[("GIT_STRATEGY", "zip"), ("GIT_SUBMODULE_STRATEGY", "some")]);
    assert_eq!(settings.git_strategy, GitStrategy::Fetch);
    assert_eq!(settings.submodule_strategy, SubmoduleStrategy::Invalid("some".to_owned()));
    assert_eq!(warnings.len(), 2);
}

#[test]
fn without_sources_there_are_no_submodules() {
    for strategy in ["none", "empty"] {
        let (settings, _) = read(&[("GIT_STRATEGY", strategy), ("GIT_SUBMODULE_STRATEGY", "recursive")]);
        assert_eq!(settings.submodule_strategy, SubmoduleStrategy::None);
    }
}

#[test]
fn script_timeouts_that_cannot_be_used_are_named() {
    for (text, timeout, warning) in [
        ("5m", Some(300), None),
        ("1h0m0s", Some(3600), None),
        ("0", None, None),
        ("soon", None, Some("Ignoring malformed RUNNER_SCRIPT_TIMEOUT timeout: soon")),
        ("-5m", None, Some("Ignoring relative RUNNER_SCRIPT_TIMEOUT timeout: -5m")),
        ("2h", None, Some("RUNNER_SCRIPT_TIMEOUT timeout: 2h is longer than job timeout. Setting to job timeout")),
    ] {
        let (settings, warnings) = read(&[("RUNNER_SCRIPT_TIMEOUT", text)]);
        assert_eq!(settings.script_timeout, timeout.map(Duration::from_secs), "{text}");
        assert_eq!(warnings.first().map(String::as_str), warning, "{text}");
    }
}

#[test]
fn after_scripts_have_five_minutes_where_what_is_set_cannot_be_used() {
    for (text, seconds, warned) in [
        ("10m", 600, false),
        ("1h", 3600, false),
        ("0", 300, false),
        ("soon", 300, true),
        ("-5m", 300, true),
        ("2h", 300, true),
    ] {
        let (settings, warnings) = read(&[("RUNNER_AFTER_SCRIPT_TIMEOUT", text)]);
        assert_eq!(settings.after_script_timeout, Duration::from_secs(seconds), "{text}");
        assert_eq!(!warnings.is_empty(), warned, "{text}: {warnings:?}");
    }
}

#[test]
fn debug_trace_is_off_where_the_runner_forbids_it() {
    let variables: Variables = [Variable::new("CI_DEBUG_TRACE", "true")].into_iter().collect();
    let mut warnings = Vec::new();
    let settings = JobSettings::read(&variables, SettingsInput { debug_trace_disabled: true, ..INPUT }, &mut warnings);
    assert!(!settings.debug_trace);
    assert_eq!(warnings, ["CI_DEBUG_TRACE: usage is disabled on this Runner"]);
}
