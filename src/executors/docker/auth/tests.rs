use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::detached::records::OutputStream;
use crate::executors::docker::credential_helper::tests::Scripts;
use crate::gitlab::wire::JobPayload;
use crate::job::dirs::Roots;
use crate::job::payload::Job;
use crate::job::resolved::{Facts, TlsData};
use crate::secret::Secret;

#[test]
fn keys_of_docker_configurations_become_paths() {
    for (key, path) in [
        ("https://index.docker.io/v1/", "docker.io"),
        ("Registry.Example:5000", "registry.example:5000"),
        ("registry.example/group/project/", "registry.example/group/project"),
        ("registry.example/group:tag", "registry.example/group"),
    ] {
        assert_eq!(registry_path(key), path);
    }
}

#[test]
fn longest_path_to_the_image_comes_first() {
    let check = |image: &str, paths: &[&str]| assert_eq!(lookup_paths(&image.parse().unwrap()), paths);
    check(
        "registry.example:5000/group/project:1",
        &["registry.example:5000/group/project", "registry.example:5000/group", "registry.example:5000"],
    );
    check("alpine", &["docker.io/alpine", "docker.io"]);
    let digest = format!("group/app@sha256:{}", "0".repeat(64));
    check(&digest, &["docker.io/group/app", "docker.io/group", "docker.io"]);
}

/// Remembers the manager's lines; masks one phrase.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl JobTrace for Lines {
    fn output(&self, _: OutputStream, _: &[u8]) {}
    fn plain(&self, _: &str) {}
    fn info(&self, _: &str) {}
    fn warning(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn masked(&self, text: &str) -> String {
        text.replace("hunter2", "[MASKED]")
    }
}

fn resolved(variables: &[(&str, &str)]) -> ResolvedJob {
    let variables: Vec<_> = variables.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    let body = json!({
        "id": 5, "token": "t", "variables": variables, "image": {"name": "r.example/a:1"},
        "job_info": {"project_id": 7}, "git_info": {"repo_url": "https://u:t@h/g/p.git"}, "runner_info": {"timeout": 90},
        "steps": [{"name": "script", "script": ["true"]}],
    });
    let job = Job::from_wire(JobPayload::from_value(&body).unwrap(), "docker-autoscaler").unwrap();
    let facts = Facts {
        token: Secret::new("glrt-abcdefghijkl"),
        system_id: "s_0123456789ab".to_owned(),
        environment: Vec::new(),
        feature_flags: BTreeMap::new(),
        debug_trace_disabled: false,
        roots: Roots {
            builds_dir: "/builds".to_owned(),
            cache_dir: "/cache".to_owned(),
            shared: false,
            custom_build_dir: true,
        },
        shared_environment: false,
        concurrent_id: 0,
        concurrent_project_id: 0,
        tls: TlsData::default(),
        version: "19.4.0".to_owned(),
        revision: "abc".to_owned(),
        executable_arch: "linux/amd64".to_owned(),
        secrets: Vec::new(),
        slot_cgroup: None,
    };
    ResolvedJob::resolve(Arc::new(job), &facts).unwrap()
}

/// What a job whose `DOCKER_AUTH_CONFIG` is `config` finds for `r.example/a:1`, as `user:secret from source`, and what
/// its trace says.
async fn found(config: &str, keyring: &Keyring) -> (Result<Option<String>, Fault>, String) {
    let job = resolved(&[(VARIABLE, config)]);
    let trace = Lines::default();
    let found = find(&"r.example/a:1".parse().unwrap(), &job, keyring, &trace).await;
    let shown = |found: Found| {
        let credentials = found.credentials;
        let (user, secret) = (credentials.username.unwrap_or_default(), credentials.password.unwrap_or_default());
        format!("{user}:{secret} from {}", found.source)
    };
    let lines = trace.0.lock().unwrap().join("\n");
    (found.map(|found| found.map(shown)), lines)
}

/// A helper that leaves a mark, and answers.
const ANSWERS: &str = "cat >>asked; echo '{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"s\"}'";
const ANSWERS_IN_LOWER_CASE: &str = "cat >>asked; echo '{\"username\":\"u\",\"secret\":\"s\"}'";

fn helper_for_registry(helper: &str) -> String {
    format!(r#"{{"credHelpers":{{"r.example":"{helper}"}}}}"#)
}

fn keyring(scripts: &Scripts, configured: Option<&[&str]>) -> Keyring {
    let configured = configured.map(|names| names.iter().map(|name| name.parse().unwrap()).collect());
    Keyring { environment: scripts.environment(), configured, operators_variable: String::new() }
}

#[tokio::test]
async fn auth_values_are_decoded_and_bad_ones_refuse_the_source() {
    let keyring = Keyring::default();
    let (credentials, _) = found(r#"{"auths":{"r.example":{"auth":"dXNlcjpwYTpzcw=="}}}"#, &keyring).await;
    assert_eq!(credentials.unwrap().as_deref(), Some("user:pa:ss from $DOCKER_AUTH_CONFIG"));
    let (credentials, said) = found(r#"{"auths":{"r.example":{"auth":"!"}}}"#, &keyring).await;
    assert_eq!(credentials.unwrap(), None);
    assert!(said.contains("base64"), "{said}");
}

#[tokio::test]
async fn helper_of_a_job_runs_only_where_it_is_listed() {
    let scripts = Scripts::new(&[("listed", ANSWERS), ("other", ANSWERS), ("gcr", ANSWERS_IN_LOWER_CASE)]);
    let check = async |config: &str, configured: Option<&[&str]>, runs: bool| {
        std::fs::remove_file(scripts.file("asked")).unwrap_or_default();
        let (credentials, said) = found(config, &keyring(&scripts, configured)).await;
        let expected = runs.then_some("u:s from $DOCKER_AUTH_CONFIG");
        assert_eq!(credentials.unwrap().as_deref(), expected, "{config}, {configured:?}: {said}");
        assert_eq!(scripts.file("asked").exists(), runs, "{config}, {configured:?}");
        assert_eq!(said.contains("allowed_credential_helpers"), !runs, "{said}");
    };
    check(&helper_for_registry("listed"), Some(&["listed"]), true).await;
    check(&helper_for_registry("other"), Some(&["listed"]), false).await;
    check(r#"{"credsStore":"other"}"#, Some(&["listed"]), false).await;
    check(&helper_for_registry("gcr"), Some(&["listed"]), false).await;
    check(&helper_for_registry("gcr"), None, true).await;
    check(&helper_for_registry("other"), None, false).await;
    check(&helper_for_registry("gcr"), Some(&[]), false).await;
}

#[tokio::test]
async fn helpers_that_the_operator_names_need_no_list() {
    let scripts = Scripts::new(&[("own", ANSWERS)]);
    let operators = Keyring { operators_variable: helper_for_registry("own"), ..keyring(&scripts, Some(&[])) };
    let (credentials, said) = found(&helper_for_registry("own"), &operators).await;
    assert_eq!(credentials.unwrap().as_deref(), Some("u:s from $DOCKER_AUTH_CONFIG"), "{said}");
    std::fs::create_dir(scripts.file(".docker")).unwrap();
    std::fs::write(scripts.file(".docker/config.json"), helper_for_registry("own")).unwrap();
    let source = scripts.file(".docker/config.json").display().to_string();
    let (credentials, said) = found("{}", &keyring(&scripts, Some(&[]))).await;
    assert_eq!(credentials.unwrap(), Some(format!("u:s from {source}")), "{said}");
    // Without a list, a job may name it too.
    let (credentials, said) = found(&helper_for_registry("own"), &keyring(&scripts, None)).await;
    assert_eq!(credentials.unwrap().as_deref(), Some("u:s from $DOCKER_AUTH_CONFIG"), "{said}");
}

#[tokio::test]
async fn store_is_asked_for_its_servers_of_the_image_only() {
    let list = "{\"https://r.example\":\"u\",\"other.example\":\"u\"}";
    let store = format!("if [ $1 = list ]; then echo '{list}'; exit; fi\n{ANSWERS}");
    let scripts = Scripts::new(&[("store", &store)]);
    let (credentials, said) = found(r#"{"credsStore":"store"}"#, &keyring(&scripts, Some(&["store"]))).await;
    assert_eq!(credentials.unwrap().as_deref(), Some("u:s from $DOCKER_AUTH_CONFIG"), "{said}");
    assert_eq!(std::fs::read_to_string(scripts.file("asked")).unwrap(), "https://r.example");
}

#[tokio::test]
async fn helpers_name_that_is_a_path_fails_the_preparation() {
    for name in ["../../bin/sh", "/bin/sh", "..", "a\\\\b", ""] {
        let (credentials, _) = found(&helper_for_registry(name), &Keyring::default()).await;
        let fault = credentials.unwrap_err();
        assert_eq!(fault.reason(), crate::job::failure::FailureReason::RunnerConfigurationError, "{name}");
    }
}

#[tokio::test]
async fn words_of_a_failed_helper_are_not_for_the_trace() {
    let scripts = Scripts::new(&[("gcr", "echo no login for hunter2 in /etc/keys; exit 1")]);
    let (credentials, said) = found(&helper_for_registry("gcr"), &keyring(&scripts, None)).await;
    assert_eq!(credentials.unwrap(), None);
    assert!(said.contains("docker-credential-gcr failed") && !said.contains("hunter2"), "{said}");
    assert!(!said.contains("/etc/keys"), "{said}");
}

#[tokio::test]
async fn job_cannot_have_a_helper_asked_for_what_is_no_server() {
    let scripts = Scripts::new(&[("gcr", ANSWERS)]);
    for server in [
        "registry.corp#://r.example",
        "https://r.example/\\nregistry.corp",
        "https://r.example/?x=registry.corp",
        "https://r.example/x://registry.corp",
        &format!("https://r.example/{}", "a".repeat(LONGEST_SERVER)),
    ] {
        let config = format!(r#"{{"credHelpers":{{"{server}":"gcr"}}}}"#);
        let (credentials, said) = found(&config, &keyring(&scripts, None)).await;
        assert_eq!(credentials.unwrap(), None, "{server}");
        assert!(said.contains("characters") && !scripts.file("asked").exists(), "{server}: {said}");
    }
}
