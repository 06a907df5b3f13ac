use serde_json::json;

use super::*;

fn decode(body: &Value) -> JobPayload {
    JobPayload::from_value(body).expect("a job")
}

fn notes(payload: &JobPayload) -> Vec<String> {
    payload.notes.iter().map(ToString::to_string).collect()
}

#[test]
fn everything_but_id_and_token_may_be_absent() {
    let payload = decode(&json!({"id": 1, "token": "t"}));
    assert_eq!(payload, JobPayload { id: 1, token: Secret::new("t"), ..JobPayload::default() });
}

#[test]
fn null_is_the_default_of_every_field() {
    let mut body = serde_json::to_value(JobPayload::default()).expect("serializes");
    for (_, value) in body.as_object_mut().expect("object") {
        *value = Value::Null;
    }
    body["id"] = json!(5);
    body["token"] = json!("t");
    let payload = decode(&body);
    assert_eq!(payload.variables, []);
    assert_eq!(notes(&payload), Vec::<String>::new());
}

#[test]
fn unknown_fields_and_words_do_not_lose_the_job() {
    let payload = decode(&json!({
        "id": 1, "token": "t", "id_tokens": {}, "cache": [{"key": "k", "when": "on_full_moon", "new": [1]}],
        "hooks": [{"name": "mid_get_sources_script", "script": ["x"]}],
    }));
    assert_eq!(payload.cache[0].when, When::Unknown("on_full_moon".to_owned()));
    assert_eq!(payload.hooks[0].name, HookName::Unknown("mid_get_sources_script".to_owned()));
    assert_eq!(notes(&payload), Vec::<String>::new());
}

#[test]
fn wrong_types_become_defaults_with_a_note_that_names_the_place() {
    let payload = decode(&json!({
        "id": 1, "token": "t", "job_info": [], "image": "alpine", "git_info": {"depth": "many", "refspecs": "x", "protected": 3},
        "variables": [{"key": "A", "value": {}}, 7, {"key": "B", "value": "b"}],
        "steps": [{"name": "script", "script": ["a", ["b"], "c"]}],
    }));
    assert_eq!(
        notes(&payload),
        [
            "job_info: expected an object, found a list",
            "git_info.refspecs: expected a list, found a string",
            "git_info.depth: expected a whole number, found a string",
            "git_info.protected: expected a boolean, found a number",
            "variables[0].value: expected a string, found an object",
            "variables[1]: expected an object, found a number",
            "steps[0].script[1]: expected a string, found a list",
            "image: expected an object, found a string",
        ]
    );
    assert_eq!(payload.git_info.protected, None);
    assert_eq!(payload.image, None);
    assert_eq!(payload.variables.len(), 2);
    assert_eq!(payload.steps[0].script, ["a", "c"]);
}

#[test]
fn numbers_and_booleans_are_read_where_text_is_meant_and_the_other_way_round() {
    let payload = decode(&json!({
        "id": "7", "token": "t", "runner_info": {"timeout": 3600.0}, "allow_git_fetch": "true",
        "variables": [{"key": "N", "value": 12}, {"key": "T", "value": true}],
        "image": {"name": "a", "executor_opts": {"docker": {"user": 1000}}},
    }));
    assert_eq!((payload.id, payload.runner_info.timeout, payload.allow_git_fetch), (7, 3600, true));
    assert_eq!(payload.variables[0].value.expose(), "12");
    assert_eq!(payload.variables[1].value.expose(), "true");
    assert_eq!(payload.image.expect("image").executor_opts.docker.user, "1000");
    assert_eq!(payload.notes, []);
}

#[test]
fn unknown_executor_options_are_kept_by_name() {
    let payload = decode(&json!({
        "id": 1, "token": "t",
        "image": {"name": "a", "executor_opts": {"docker": {"platform": "p", "cpus": 2}, "podman": {}}},
    }));
    let options = payload.image.expect("image").executor_opts;
    assert_eq!(options.unknown.keys().collect::<Vec<_>>(), ["podman"]);
    assert_eq!(options.docker.unknown.keys().collect::<Vec<_>>(), ["cpus"]);
}

#[test]
fn what_cannot_be_reported_is_an_error() {
    let kind = |body: &str| JobPayload::decode(body.as_bytes()).expect_err("no job").to_string();
    assert_eq!(kind("<html>"), "the job payload is not JSON");
    assert_eq!(kind("[]"), "the job payload is not an object");
    assert_eq!(kind("{\"token\": \"t\"}"), "the job payload has no id");
    assert_eq!(kind("{\"id\": 4}"), "the payload of job 4 has no token");
}

#[test]
fn a_payload_comes_back_from_its_own_json_notes_included() {
    let payload = decode(&json!({
        "id": 1, "token": "t", "git_info": {"ref": "main", "depth": true}, "secrets": {"S": {"vault": {}}},
        "inputs": [{"key": "i", "value": {"type": "number", "content": 3}}],
        "credentials": [{"type": "registry", "url": "r", "username": "u", "password": "p"}],
        "artifacts": [{"paths": ["a"], "when": "always"}], "features": {"tracing": {"trace_id": "ab"}},
        "image": {"name": "a", "executor_opts": {"docker": {"cpus": 2}}},
    }));
    let again: JobPayload = serde_json::from_str(&serde_json::to_string(&payload).expect("writes")).expect("reads");
    assert_eq!(again, payload);
    assert_eq!(again.notes.len(), 1);
}

#[test]
fn debug_output_shows_no_token_and_no_variable() {
    let payload = decode(&json!({
        "id": 1, "token": "s3cret", "variables": [{"key": "A", "value": "s3cret"}],
        "git_info": {"repo_url": "https://u:s3cret@h/p.git"}, "credentials": [{"password": "s3cret"}],
        "dependencies": [{"id": 2, "token": "s3cret"}],
    }));
    assert!(!format!("{payload:?}").contains("s3cret"));
}
