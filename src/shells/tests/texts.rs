use super::*;

/// Scripts with the feature flags left out, which are many and the same everywhere.
fn text(context: &ScriptContext, stage: &str) -> String {
    let stage = Stage::from_id(stage).expect("a stage");
    let script = script(&stage, context).expect("a script").expect("something to do");
    let lines: Vec<&str> = script.as_str().lines().filter(|line| !line.starts_with("export FF_")).collect();
    lines.join("\n")
}

fn context(fields: Value, shell: ShellKind) -> ScriptContext {
    Place::new().context_of(fields, shell, |facts| {
        facts.roots.builds_dir = "/builds".to_owned();
        facts.roots.cache_dir = "/cache".to_owned();
    })
}

#[test]
fn the_scripts_of_a_trivial_job() {
    let fields = json!({
        "variables": [{"key": "GIT_STRATEGY", "value": "none"}], "steps": [{"name": "script", "script": ["echo hello"]}],
    });
    let context = context(fields, ShellKind::Bash);
    for stage in ["prepare_script", "get_sources", "step_script", "cleanup_file_variables"] {
        insta::assert_snapshot!(format!("trivial_{stage}"), text(&context, stage));
    }
}

#[test]
fn the_sources_of_a_job_with_submodules() {
    let fields = json!({
        "git_info": {
            "repo_url": "https://gitlab-ci-token:64_job-token@gitlab.example/g/p.git", "ref": "main", "sha": "0123456789abcdef",
            "depth": 20, "refspecs": ["+refs/heads/main:refs/remotes/origin/main"], "repo_object_format": "sha256",
        },
        "variables": [
            {"key": "GIT_SUBMODULE_STRATEGY", "value": "recursive"}, {"key": "GIT_SUBMODULE_PATHS", "value": "a b"},
            {"key": "GIT_SUBMODULE_UPDATE_FLAGS", "value": "--remote"}, {"key": "FF_USE_GIT_PROACTIVE_AUTH", "value": "1"},
        ],
    });
    let mut context = context(fields, ShellKind::Sh);
    context.runner.safe_directory_checkout = true;
    insta::assert_snapshot!("sources", text(&context, "get_sources"));
    insta::assert_snapshot!("cleanup", text(&context, "cleanup_file_variables"));
}

#[test]
fn a_script_prints_as_its_length() {
    let fields = json!({"steps": [{"name": "script", "script": ["echo s3cret"]}]});
    let stage = Stage::from_id("step_script").expect("a stage");
    let script = script(&stage, &context(fields, ShellKind::Bash)).expect("a script").expect("something to do");
    assert_eq!(format!("{script:?}"), format!("Script of {} bytes", script.as_str().len()));
}

#[test]
fn a_trivial_script_is_small() {
    let fields = json!({
        "variables": [{"key": "GIT_STRATEGY", "value": "none"}], "steps": [{"name": "script", "script": ["echo hello"]}],
    });
    let context = context(fields, ShellKind::Bash);
    for (stage, limit) in
        [("prepare_script", 1_000), ("get_sources", 5_000), ("step_script", 5_000), ("cleanup_file_variables", 2_000)]
    {
        let stage = Stage::from_id(stage).expect("a stage");
        let length = script(&stage, &context).expect("a script").expect("something to do").as_str().len();
        assert!(length <= limit, "{stage}: {length}");
    }
}
