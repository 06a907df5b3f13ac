use serde_json::{Value, json};

use super::*;
use crate::gitlab::wire::JobPayload;
use crate::job::settings::GitStrategy;

/// Facts of a runner on an instance.
fn facts() -> Facts {
    Facts {
        token: Secret::new("glrt-abcdefghijkl"),
        system_id: "s_0123456789ab".to_owned(),
        environment: vec![("FROM_RUNNER".to_owned(), "r".to_owned()), ("SHARED".to_owned(), "runner".to_owned())],
        feature_flags: BTreeMap::new(),
        debug_trace_disabled: false,
        roots: Roots {
            builds_dir: "/home/u/builds".to_owned(),
            cache_dir: "/home/u/cache".to_owned(),
            shared: true,
            custom_build_dir: true,
        },
        shared_environment: true,
        concurrent_id: 4,
        concurrent_project_id: 1,
        tls: TlsData { ca_chain: "PEM$A".to_owned(), ..TlsData::default() },
        version: "19.4.0".to_owned(),
        revision: "abc".to_owned(),
        executable_arch: "linux/amd64".to_owned(),
        secrets: vec![],
        slot_cgroup: None,
    }
}

fn resolve(variables: Value, facts: &Facts) -> ResolvedJob {
    let body = json!({
        "id": 5, "token": "t", "allow_git_fetch": true, "variables": variables, "image": {"name": "alpine:$TAG"},
        "job_info": {"project_id": 7}, "git_info": {"repo_url": "https://u:t@h/g/p.git"}, "runner_info": {"timeout": 90},
        "steps": [{"name": "script", "script": ["echo $TAG"]}, {"name": "release", "script": ["release $TAG"]}],
    });
    let job = Job::from_wire(JobPayload::from_value(&body).expect("a payload"), "instance").expect("runs");
    ResolvedJob::resolve(Arc::new(job), facts).expect("resolves")
}

#[test]
fn later_groups_win_over_earlier_ones() {
    let resolved = resolve(
        json!([
            {"key": "SHARED", "value": "job"}, {"key": "CI_SERVER", "value": "mine"},
            {"key": "CI_RUNNER_VERSION", "value": "mine"}, {"key": "RUNNER_TEMP_PROJECT_DIR", "value": "/mine"},
        ]),
        &facts(),
    );
    let value = |key: &str| resolved.variables.value(key).to_owned();
    assert_eq!(value("SHARED"), "job", "the job's wins over the runner's environment");
    assert_eq!(value("CI_SERVER"), "mine", "the job may override what is set before it");
    assert_eq!(value("CI_RUNNER_VERSION"), "19.4.0", "nothing overrides the last group");
    assert_eq!(value("RUNNER_TEMP_PROJECT_DIR"), "/home/u/builds/abcdefghi/1/g/p.tmp");
    assert_eq!(value("CI_PROJECT_DIR"), "/home/u/builds/abcdefghi/1/g/p");
    assert_eq!(value("CI_JOB_TIMEOUT"), "90");
    assert_eq!((value("CI_CONCURRENT_ID"), value("CI_CONCURRENT_PROJECT_ID")), ("4".to_owned(), "1".to_owned()));
}

#[test]
fn the_order_of_groups_is_that_of_the_reference() {
    let mut facts = facts();
    facts.feature_flags.insert("FF_NETWORK_PER_BUILD".to_owned(), true);
    facts.slot_cgroup = Some("cg".to_owned());
    facts.secrets.push(Variable { masked: true, ..Variable::file("VAULT", "s") });
    let resolved = resolve(json!([{"key": "TAG", "value": "3"}]), &facts);
    let keys: Vec<&str> =
        resolved.variables.iter().map(|variable| variable.key.as_str()).filter(|key| !key.starts_with("FF_")).collect();
    assert_eq!(
        keys,
        [
            "CI_JOB_IMAGE",
            "CI_RUNNER_SHORT_TOKEN",
            "FROM_RUNNER",
            "SHARED",
            "CI_BUILDS_DIR",
            "CI_PROJECT_DIR",
            "CI_CONCURRENT_ID",
            "CI_CONCURRENT_PROJECT_ID",
            "CI_SERVER",
            "CI_JOB_STATUS",
            "CI_JOB_TIMEOUT",
            "CI_SERVER_TLS_CA_FILE",
            "TAG",
            "GITLAB_RUNNER_SLOT_CGROUP",
            "CI_SHARED_ENVIRONMENT",
            "CI_RUNNER_VERSION",
            "CI_RUNNER_REVISION",
            "CI_RUNNER_EXECUTABLE_ARCH",
            "VAULT",
            "RUNNER_TEMP_PROJECT_DIR",
            "CI_BUILD_NETWORK_NAME",
        ]
    );
    assert_eq!(resolved.variables.iter().filter(|variable| variable.key.starts_with("FF_")).count(), 52);
    assert_eq!(resolved.variables.value("CI_JOB_IMAGE"), "alpine:3");
    assert_eq!(resolved.variables.value("CI_SERVER_TLS_CA_FILE"), "PEM$A", "certificates are not expanded");
    assert_eq!(resolved.variables.value("CI_BUILD_NETWORK_NAME"), "runner-abcdefghi-7-1-5");
}

#[test]
fn the_jobs_own_flags_are_exported_once_with_the_value_that_holds() {
    let mut facts = facts();
    facts.feature_flags.insert("FF_HASH_CACHE_KEYS".to_owned(), false);
    let resolved = resolve(
        json!([{"key": "FF_HASH_CACHE_KEYS", "value": "1"}, {"key": "FF_SCRIPT_SECTIONS", "value": "1"}]),
        &facts,
    );
    let values = |key: &str| -> Vec<&str> {
        resolved
            .variables
            .iter()
            .filter(|variable| variable.key == key)
            .map(|variable| variable.value.as_str())
            .collect()
    };
    assert_eq!(values("FF_HASH_CACHE_KEYS"), ["false"]);
    assert_eq!(values("FF_SCRIPT_SECTIONS"), ["true"]);
}

#[test]
fn a_clone_path_may_refer_to_the_builds_directory() {
    let resolved = resolve(json!([{"key": "GIT_CLONE_PATH", "value": "$CI_BUILDS_DIR/go/src/p"}]), &facts());
    assert_eq!(resolved.dirs.project_dir, "/home/u/builds/go/src/p");
    assert_eq!(resolved.variables.value("CI_PROJECT_DIR"), "/home/u/builds/go/src/p");
}

#[test]
fn warnings_are_collected_once() {
    let resolved = resolve(
        json!([
            {"key": "GIT_STRATEGY", "value": "zip"}, {"key": "FF_TIMESTAMPS", "value": "?"}, {"key": "A-B", "value": "1"},
        ]),
        &facts(),
    );
    assert_eq!(resolved.settings.git_strategy, GitStrategy::Fetch);
    assert_eq!(resolved.warnings.len(), 3, "{:?}", resolved.warnings);
}

#[test]
fn only_release_steps_are_expanded_by_the_runner() {
    let resolved = resolve(json!([{"key": "TAG", "value": "3"}]), &facts());
    assert_eq!(resolved.step_script("script"), Some(vec!["echo $TAG".to_owned()]));
    assert_eq!(resolved.step_script("release"), Some(vec!["release 3".to_owned()]));
    assert_eq!(resolved.step_script("deploy"), None);
}
