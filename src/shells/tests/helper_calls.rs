use super::*;

/// A helper that says how it was called and ends as the file `fail` names commands that fail.
const HELPER: &str = "#!/bin/sh
[ \"$1\" = --version ] && exit
for word; do printf '<%s>' \"$word\"; done; echo
[ -f \"$HOME/env-file\" ] && cat \"$(cat \"$HOME/env-file\")\"
! grep -qx -- \"$1\" \"$HOME/fail\" 2>/dev/null
";

fn place() -> Place {
    let place = Place::new();
    place.install("flotilla-helper", HELPER);
    place
}

fn ran(place: &Place, stage: &str, context: &ScriptContext) -> Ran {
    place.make_project(context);
    place.run_stage("bash", stage, context)
}

#[test]
fn each_dependency_is_downloaded_with_its_own_token() {
    let place = place();
    let dependencies = json!([
        {"id": 41, "name": "build", "token": "dep'1", "artifacts_file": {"filename": "a.zip"}},
        {"id": 40, "name": "lint", "token": "dep2", "artifacts_file": {"filename": "b.zip"}},
    ]);
    let context = place.context(json!({"dependencies": dependencies}), ShellKind::Bash);
    let good = ran(&place, "download_artifacts", &context);
    assert_eq!(
        good.lines(),
        [
            "Downloading artifacts for build (41)...",
            "<artifacts-downloader><--url><https://gitlab.example/><--token><dep'1><--id><41>",
            "Downloading artifacts for lint (40)...",
            "<artifacts-downloader><--url><https://gitlab.example/><--token><dep2><--id><40>",
        ]
    );
    fs::write(place.path("home/fail"), "artifacts-downloader\n").expect("a list");
    let failed = ran(&place, "download_artifacts", &context);
    assert_eq!((failed.code, failed.lines().len()), (1, 2), "the first failure ends the stage");
}

#[test]
fn artifacts_are_uploaded_by_their_condition_with_all_their_flags() {
    let place = place();
    let artifacts = json!([
        {"name": "out-$CI_JOB_NAME", "paths": ["out/**/*", "a b"], "exclude": ["out/*.log"], "expire_in": "1 week",
         "artifact_type": "archive", "artifact_format": "zip", "when": "always"},
        {"untracked": true, "when": "on_failure"},
        {"paths": ["report.xml"], "artifact_type": "junit", "artifact_format": "gzip"},
    ]);
    let context = place.context(json!({"artifacts": artifacts}), ShellKind::Bash);
    let common = "<artifacts-uploader><--url><https://gitlab.example/><--token><64_job-token><--id><42>\
                  <--timeout><1h0m0s><--response-header-timeout><10m0s>";
    let first = format!(
        "{common}<--path><out/**/*><--path><a b><--exclude><out/*.log><--name><out-$CI_JOB_NAME><--expire-in><1 week>\
         <--artifact-format><zip><--artifact-type><archive>"
    );
    assert_eq!(
        ran(&place, "upload_artifacts_on_success", &context).lines(),
        [
            "Uploading artifacts...",
            &first,
            "Uploading artifacts...",
            &format!("{common}<--path><report.xml><--artifact-format><gzip><--artifact-type><junit>"),
        ]
    );
    assert_eq!(
        ran(&place, "upload_artifacts_on_failure", &context).lines(),
        ["Uploading artifacts...", &first, "Uploading artifacts...", &format!("{common}<--untracked>")]
    );
}

#[test]
fn without_the_helper_its_stages_say_so_and_the_job_goes_on() {
    let place = Place::new();
    let fields = json!({
        "cache": [{"key": "k", "paths": ["v"]}], "artifacts": [{"paths": ["o"]}],
        "dependencies": [{"id": 1, "name": "b", "token": "t", "artifacts_file": {"filename": "f"}}],
    });
    let context = place.context(fields, ShellKind::Bash);
    for (stage, line) in [
        ("restore_cache", "Missing flotilla-helper. Extracting cache is disabled."),
        ("download_artifacts", "Missing flotilla-helper. Artifacts downloading is disabled."),
        ("archive_cache", "Missing flotilla-helper. Creating cache is disabled."),
        ("upload_artifacts_on_success", "Missing flotilla-helper. Uploading artifacts is disabled."),
    ] {
        let missing = ran(&place, stage, &context);
        assert_eq!((missing.code, missing.lines()), (0, strings(&[line])), "{stage}");
    }
}

#[test]
fn the_operators_limit_of_extracted_archives_reaches_the_helper_whatever_the_job_sets() {
    let place = place();
    let fields = json!({
        "cache": [{"key": "k", "paths": ["vendor/"]}],
        "dependencies": [{"id": 41, "name": "build", "token": "t", "artifacts_file": {"filename": "a.zip", "size": 1}}],
        "variables": [{"key": "MAX_EXTRACTED_SIZE", "value": "0"}, {"key": "max_extracted_size", "value": "0"}],
    });
    let mut context = place.context(fields, ShellKind::Bash);
    context.runner.max_extracted_size = 1_000;
    for stage in ["restore_cache", "download_artifacts"] {
        let ran = ran(&place, stage, &context);
        assert!(ran.lines().iter().any(|line| line.contains("<--max-extracted-size><1000>")), "{:?}", ran.lines());
    }
}

#[test]
fn a_cache_is_looked_for_under_its_key_and_then_the_fallbacks() {
    let place = place();
    let fields = json!({
        "cache": [{"key": "k-$TAG", "paths": ["vendor/"], "fallback_keys": ["f1", "../f2"]}],
        "variables": [{"key": "TAG", "value": "3"}, {"key": "CACHE_FALLBACK_KEY", "value": "last"}],
    });
    let context = place.context(fields, ShellKind::Bash);
    let call = |key: &str| format!("<cache-extractor><--file><../../../cache/g/p/{key}/cache.zip><--timeout><10>");
    let found = ran(&place, "restore_cache", &context);
    assert_eq!(
        found.lines(),
        [
            "cache key \"../f2\" sanitized to \"f2\"",
            "Checking cache for k-3...",
            &call("k-3"),
            "Successfully extracted cache"
        ]
    );
    fs::write(place.path("home/fail"), "cache-extractor\n").expect("a list");
    let missed = ran(&place, "restore_cache", &context);
    let mut expected = strings(&["cache key \"../f2\" sanitized to \"f2\""]);
    for key in ["k-3", "f1", "f2", "last"] {
        expected.extend([format!("Checking cache for {key}..."), call(key), "Failed to extract cache".to_owned()]);
    }
    assert_eq!((missed.code, missed.lines()), (0, expected), "a miss never fails");
}

#[test]
fn a_protected_fallback_is_refused_and_the_default_key_names_job_and_ref() {
    let place = place();
    let fields = json!({
        "cache": [{"paths": ["v"]}], "variables": [{"key": "CACHE_FALLBACK_KEY", "value": "main-protected%2f"}],
    });
    let context = place.context(fields, ShellKind::Bash);
    assert_eq!(
        ran(&place, "restore_cache", &context).lines()[..2],
        [
            "CACHE_FALLBACK_KEY \"main-protected\" not allowed to end in \"-protected\"",
            "Checking cache for test/main...",
        ]
    );
}

#[test]
fn policies_leave_out_one_side_and_unknown_ones_are_a_failure_of_the_runner() {
    let place = place();
    for (policy, restored, saved) in
        [("", true, true), ("pull-push", true, true), ("pull", true, false), ("$PUSH", false, true)]
    {
        let fields = json!({"cache": [{"key": "k", "paths": ["v"], "policy": policy}], "variables": [{"key": "PUSH", "value": "push"}]});
        let context = place.context(fields, ShellKind::Bash);
        let lines = ran(&place, "restore_cache", &context).lines();
        assert_eq!(lines[0] == "Checking cache for k...", restored, "{policy}");
        assert_eq!(lines[0] == "Not downloading cache k due to policy", !restored, "{policy}");
        let lines = ran(&place, "archive_cache", &context).lines();
        assert_eq!(lines[0] == "Creating cache k...", saved, "{policy}");
        assert_eq!(lines[0] == "Not uploading cache k due to policy", !saved, "{policy}");
    }
    let context = place.context(json!({"cache": [{"key": "k", "paths": ["v"], "policy": "both"}]}), ShellKind::Bash);
    for stage in [Stage::RestoreCache, Stage::ArchiveCache] {
        assert_eq!(
            script(&stage, &context).expect_err("refused"),
            Fault::of(FailureReason::RunnerSystemFailure, "unknown cache policy both for k")
        );
    }
}

#[test]
fn a_cache_is_saved_with_its_paths_and_a_failure_to_save_is_only_said() {
    let place = place();
    let context =
        place.context(json!({"cache": [{"key": "k", "paths": ["a", "b c"], "untracked": true}]}), ShellKind::Bash);
    let call =
        "<cache-archiver><--file><../../../cache/g/p/k/cache.zip><--timeout><10><--path><a><--path><b c><--untracked>";
    assert_eq!(ran(&place, "archive_cache", &context).lines(), ["Creating cache k...", call, "Created cache"]);
    fs::write(place.path("home/fail"), "cache-archiver\n").expect("a list");
    let failed = ran(&place, "archive_cache", &context);
    assert_eq!((failed.code, failed.lines()), (0, strings(&["Creating cache k...", call, "Failed to create cache"])));
}

#[test]
fn remote_caches_get_their_arguments_and_credentials_only_through_a_file() {
    let place = place();
    let mut context = place.context(json!({"cache": [{"key": "k", "paths": ["v"]}]}), ShellKind::Bash);
    let environment = BTreeMap::from([("SECRET".to_owned(), "a\"b$HOME\\".to_owned())]);
    let remote = RemoteCache {
        extract_arguments: strings(&["--url", "https://s3/get?sig=1&x"]),
        archive_arguments: strings(&["--url", "https://s3/put"]),
        environment,
    };
    context.remote_caches.insert("k".to_owned(), remote);
    let file = format!("{}/gitlab_runner_cache_env", context.job.dirs.tmp_dir);
    fs::write(place.path("home/env-file"), &file).expect("a name");
    let lines = ran(&place, "restore_cache", &context).lines();
    assert_eq!(
        lines[1],
        format!(
            "<cache-extractor><--file><../../../cache/g/p/k/cache.zip><--timeout><10><--url><https://s3/get?sig=1&x><--env-file><{file}>"
        )
    );
    assert_eq!(lines[2], "SECRET=\"a\\\"b$HOME\\\\\"", "the file is not expanded by a shell");
    assert!(!Path::new(&file).exists(), "it is removed at once");
    assert!(ran(&place, "archive_cache", &context).lines()[1].contains("<--url><https://s3/put><--env-file>"));
}

#[test]
fn a_failed_extraction_is_tidied_up_where_the_flag_asks_for_it() {
    let place = place();
    let fields = json!({
        "cache": [{"key": "k", "paths": ["vendor", "$OTHER"]}],
        "variables": [{"key": "FF_CLEAN_UP_FAILED_CACHE_EXTRACT", "value": "1"}, {"key": "OTHER", "value": "other"}],
    });
    let context = place.context(fields, ShellKind::Bash);
    fs::write(place.path("home/fail"), "cache-extractor\n").expect("a list");
    fs::create_dir_all(place.project(&context).join("vendor/half")).expect("a directory");
    let lines = ran(&place, "restore_cache", &context).lines();
    assert_eq!(lines[lines.len() - 3..], ["Failed to extract cache", "Removing vendor", "Removing other"]);
    assert!(!place.project(&context).join("vendor").exists());
}

#[test]
fn stages_without_anything_to_do_have_no_script_and_the_plan_knows_it() {
    use crate::job::lifecycle::Plan;
    let place = place();
    let everything = json!({
        "cache": [{"key": "k", "paths": ["v"], "when": "always"}], "artifacts": [{"paths": ["o"], "when": "always"}],
        "dependencies": [{"id": 1, "name": "b", "token": "t", "artifacts_file": {"filename": "f"}}],
        "steps": [{"name": "script", "script": ["a"]}, {"name": "after_script", "script": ["b"]}],
    });
    let only_failure = json!({"cache": [{"key": "k", "paths": ["v"], "when": "on_failure"}], "artifacts": [{"paths": ["o"], "when": "on_failure"}]});
    for fields in [json!({}), everything, only_failure] {
        let context = place.context(fields, ShellKind::Bash);
        let plan = Plan::of(&context.job.job);
        for (stage, planned) in [
            ("restore_cache", plan.restore_cache),
            ("download_artifacts", plan.download_artifacts),
            ("step_script", plan.steps.contains(&Stage::from_id("step_script").expect("a stage"))),
            ("after_script", plan.after_script),
            ("archive_cache", plan.archive_cache_on_success),
            ("archive_cache_on_failure", plan.archive_cache_on_failure),
            ("upload_artifacts_on_success", plan.upload_artifacts_on_success),
            ("upload_artifacts_on_failure", plan.upload_artifacts_on_failure),
            ("prepare_script", true),
            ("get_sources", true),
            ("clear_worktree", true),
            ("cleanup_file_variables", true),
            ("prepare_executor", false),
            ("resolve_secrets", false),
        ] {
            let written = script(&Stage::from_id(stage).expect("a stage"), &context).expect("a script");
            assert_eq!(written.is_some(), planned, "{stage}");
        }
    }
}

#[test]
fn metadata_says_who_ran_the_payloads_job_when_and_only_with_zip() {
    let place = place();
    for (format, with) in [("zip", true), ("", false), ("gzip", false)] {
        let fields = json!({
            "artifacts": [{"paths": ["o"], "artifact_format": format}],
            "variables": [
                {"key": "RUNNER_GENERATE_ARTIFACTS_METADATA", "value": "true"}, {"key": "CI_RUNNER_ID", "value": "34"},
            ],
        });
        let mut context = place.context(fields, ShellKind::Bash);
        context.provenance = Provenance {
            runner_id: 12,
            runner_name: "r 1".to_owned(),
            executor: "instance".to_owned(),
            started_at: "2026-11-21T01:07:45Z".to_owned(),
            ended_at: "2026-11-21T01:07:46Z".to_owned(),
        };
        let text = ran(&place, "upload_artifacts_on_success", &context).text;
        let expected = "<--generate-artifacts-metadata><--runner-id><34><--repo-url><https://gitlab.example/g/p>\
                        <--repo-digest><0123456789abcdef><--job-name><test><--executor-name><instance><--runner-name><r 1>\
                        <--started-at><2026-11-21T01:07:45Z><--ended-at><2026-11-21T01:07:46Z><--schema-version><v1>\
                        <--metadata-parameter><RUNNER_GENERATE_ARTIFACTS_METADATA><--metadata-parameter><CI_RUNNER_ID><--path>";
        assert_eq!(text.contains(expected), with, "{format}: {text}");
    }
}
