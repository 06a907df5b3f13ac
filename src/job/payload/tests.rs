use serde_json::{Value, json};

use super::*;

fn job(fields: Value) -> Result<Job, Refused> {
    let mut body = json!({"id": 9, "token": "job-token"});
    if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
        body.extend(fields);
    }
    let payload: JobPayload = serde_json::from_value(body).unwrap_or_default();
    Job::from_wire(payload, "docker-autoscaler")
}

#[test]
fn steps_of_one_name_are_one_stage() {
    let job = job(json!({"steps": [{"name": "script", "script": ["a"]}, {"name": "Script", "script": ["b"]}]}))
        .expect("runs");
    assert_eq!(job.steps, [Step { name: "script".to_owned(), script: vec!["a".to_owned(), "b".to_owned()] }]);
}

#[test]
fn after_script_is_apart_and_steps_without_commands_are_left_out() {
    let job = job(json!({"steps": [
        {"name": "script", "script": ["a"]}, {"name": "release", "script": []},
        {"name": "after_script", "script": ["z"]}, {"name": "Deploy", "script": ["b"]},
    ]}))
    .expect("runs");
    assert_eq!(
        job.steps.iter().map(|step| step.stage().id().into_owned()).collect::<Vec<_>>(),
        ["step_script", "step_deploy"]
    );
    assert_eq!(job.after_script, ["z"]);
}

#[test]
fn a_job_without_a_timeout_has_two_hours() {
    let longest = LONGEST_JOB_TIMEOUT.as_secs();
    for (timeout, seconds) in
        [(json!(0), 7200), (json!(-5), 7200), (json!(60), 60), (Value::Null, 7200), (json!(i64::MAX), longest)]
    {
        let job = job(json!({"runner_info": {"timeout": timeout}})).expect("runs");
        assert_eq!(job.timeout, Duration::from_secs(seconds));
    }
}

#[test]
fn commands_that_could_not_be_read_refuse_the_job_and_other_fields_do_not() {
    let refused = job(json!({"steps": [{"name": "script", "script": ["a", {}]}]})).expect_err("refused");
    assert_eq!(
        refused.message,
        "the job's payload cannot be used: steps[0].script[1]: expected a string, found an object"
    );
    assert_eq!((refused.reason, refused.exit_code), (FailureReason::RunnerSystemFailure, 3));
    assert!(job(json!({"image": []})).is_err());
    let taken = job(json!({"artifacts": "all", "steps_of_others": 1})).expect("runs");
    assert_eq!(taken.warnings, ["part of the job's payload was ignored: artifacts: expected a list, found a string"]);
}

#[test]
fn options_that_the_executor_does_not_have_refuse_the_job() {
    let refused =
        job(json!({"image": {"name": "a", "executor_opts": {"docker": {"gpus": 1, "cpus": 2}}}})).expect_err("refused");
    assert_eq!(
        refused.message,
        "Unsupported \"docker executor\" options [cpus, gpus] for \"docker-autoscaler\"; supported options are [platform, user]"
    );
    let refused = job(json!({"services": [{"name": "a", "executor_opts": {"podman": {}}}]})).expect_err("refused");
    assert!(refused.message.starts_with("Unsupported \"executor_opts\" options [podman]"), "{}", refused.message);
}

#[test]
fn run_steps_are_handed_to_step_runner() {
    let taken = job(json!({"run": "[{}]", "steps": [{"name": "script", "script": []}]})).expect("runs");
    assert_eq!(taken.steps, [Step { name: "script".to_owned(), script: vec!["step-runner ci".to_owned()] }]);
    assert_eq!(taken.variables, [Variable { raw: true, ..Variable::new("STEPS", "[{}]") }]);
    assert!(job(json!({"run": "[{}]", "steps": [{"name": "script", "script": ["x"]}]})).is_err());
    assert!(job(json!({"run": "[{}]", "variables": [{"key": "STEPS", "value": ""}]})).is_err());
}

#[test]
fn only_dependencies_with_artifacts_are_wanted() {
    let taken = job(json!({"dependencies": [
        {"id": 1, "name": "a", "token": "t", "artifacts_file": {"filename": "a.zip", "size": 3}},
        {"id": 2, "name": "b", "token": "t", "artifacts_file": {}}, {"id": 3, "name": "c", "token": "t"},
    ]}))
    .expect("runs");
    assert_eq!(taken.dependencies.iter().map(|found| found.id).collect::<Vec<_>>(), [JobId(1)]);
}

#[test]
fn an_unknown_condition_never_holds() {
    for (when, success, failure) in [
        ("on_success", true, false),
        ("", true, false),
        ("on_failure", false, true),
        ("always", true, true),
        ("later", false, false),
    ] {
        let taken = job(json!({"cache": [{"key": "k", "paths": ["p"], "when": when}], "artifacts": [{"untracked": true, "when": when}]}))
            .expect("runs");
        assert_eq!(taken.caches_to_save(true).count() == 1, success, "{when}");
        assert_eq!(taken.caches_to_save(false).count() == 1, failure, "{when}");
        assert_eq!(taken.artifacts_to_upload(true).count() == 1, success, "{when}");
        assert_eq!(taken.artifacts_to_upload(false).count() == 1, failure, "{when}");
    }
}

#[test]
fn entries_that_name_no_files_do_nothing() {
    let taken = job(json!({"cache": [{"key": "k"}], "artifacts": [{"name": "a"}]})).expect("runs");
    assert!(!taken.has_cache());
    assert_eq!(taken.artifacts_to_upload(true).count(), 0);
}

#[test]
fn a_ref_is_protected_as_gitlab_says_or_else_by_the_first_variable() {
    let variables = json!([{"key": "CI_COMMIT_REF_PROTECTED", "value": "true"}, {"key": "CI_COMMIT_REF_PROTECTED", "value": "false"}]);
    assert!(job(json!({"variables": variables})).expect("runs").git.protected);
    assert!(!job(json!({"variables": variables, "git_info": {"protected": false}})).expect("runs").git.protected);
    assert!(!job(json!({})).expect("runs").git.protected);
}

#[test]
fn hooks_are_taken_by_name_and_unknown_ones_are_not_run() {
    let taken = job(json!({"hooks": [
        {"name": "pre_get_sources_script", "script": ["a", "b"]}, {"name": "post_get_sources_script", "script": ["c"]},
        {"name": "new_hook", "script": ["d"]},
    ]}))
    .expect("runs");
    assert_eq!(taken.pre_get_sources, ["a", "b"]);
    assert_eq!(taken.post_get_sources, ["c"]);
}

#[test]
fn what_is_not_resolved_is_not_run_without_it() {
    let refused = job(json!({"secrets": {"DB_PASSWORD": {"vault": {}}}})).expect_err("refused");
    assert!(refused.message.ends_with("the job needs DB_PASSWORD"), "{}", refused.message);
    let inputs = json!([{"key": "env", "value": {"type": "string", "content": "x"}}]);
    let template = json!([{"name": "script", "script": ["deploy ${{ job.inputs.env }}"]}]);
    assert!(job(json!({"inputs": inputs, "steps": template})).is_err());
    assert!(job(json!({"inputs": inputs, "steps": [{"name": "script", "script": ["deploy"]}]})).is_ok());
    assert!(job(json!({"steps": template})).is_ok(), "without inputs the text means itself");
}

#[test]
fn a_refusal_is_a_fault_with_its_code() {
    let fault = Fault::from(job(json!({"image": []})).expect_err("refused"));
    assert_eq!((fault.reason(), fault.exit_code()), (FailureReason::RunnerSystemFailure, Some(3)));
}
