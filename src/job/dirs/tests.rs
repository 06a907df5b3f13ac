use std::time::Duration;

use serde_json::json;

use super::*;
use crate::gitlab::wire::JobPayload;
use crate::job::settings::SettingsInput;
use crate::job::variables::{Variable, Variables};

const PLACE: Place<'_> =
    Place { token: "glrt-abcdefghijklmnopqrst", system_id: "s_0123456789ab", concurrent_project_id: 3 };

fn job(repo_url: &str) -> Job {
    let body = json!({"id": 77, "token": "t", "job_info": {"project_id": 42}, "git_info": {"repo_url": repo_url}});
    Job::from_wire(JobPayload::from_value(&body).expect("a payload"), "instance").expect("runs")
}

fn settings(pairs: &[(&str, &str)]) -> JobSettings {
    let variables: Variables = pairs.iter().map(|(key, value)| Variable::new(*key, *value)).collect();
    let input = SettingsInput {
        allow_git_fetch: true,
        git_depth: 0,
        job_timeout: Duration::from_secs(60),
        debug_trace_disabled: false,
    };
    JobSettings::read(&variables, input, &mut Vec::new())
}

fn roots(shared: bool) -> Roots {
    Roots {
        builds_dir: "/home/u/builds/".to_owned(),
        cache_dir: "/home/u/cache".to_owned(),
        shared,
        custom_build_dir: true,
    }
}

const URL: &str = "https://gitlab-ci-token:tok@gitlab.example/group/sub/project.git";

#[test]
fn names_are_those_of_the_reference() {
    let names = Names::of(&job(URL), PLACE);
    assert_eq!(names.unique, "runner-abcdefghi-project-42-concurrent-3");
    assert_eq!(names.short, "runner-abcdefghi-42-3-77");
    assert_eq!(names.reusable, "runner-c29c6f37240e17ea7d854fc86fd176fe");
}

#[test]
fn host_names_have_only_what_a_label_may_have() {
    let place = Place { token: "A_b!C", ..PLACE };
    assert_eq!(Names::of(&job(URL), place).unique, "runner-abc-project-42-concurrent-3");
    assert_eq!(host_name(&"-x".repeat(60)).len(), 63);
    assert_eq!(host_name("--a"), "a");
}

#[test]
fn a_directory_that_several_jobs_use_has_one_for_each_place() {
    let dirs = Dirs::of(&job(URL), &settings(&[]), &roots(true), PLACE).expect("dirs");
    assert_eq!(dirs.project_dir, "/home/u/builds/abcdefghi/3/group/sub/project");
    assert_eq!(dirs.tmp_dir, "/home/u/builds/abcdefghi/3/group/sub/project.tmp");
    assert_eq!(dirs.cache_dir, "/home/u/cache/group/sub/project");
    let dirs = Dirs::of(&job(URL), &settings(&[]), &roots(false), PLACE).expect("dirs");
    assert_eq!(dirs.project_dir, "/home/u/builds/group/sub/project");
}

#[test]
fn strategy_empty_has_a_directory_of_its_own() {
    let dirs = Dirs::of(&job(URL), &settings(&[("GIT_STRATEGY", "empty")]), &roots(false), PLACE).expect("dirs");
    assert_eq!(dirs.project_dir, "/home/u/builds/group/sub/project-empty");
    assert_eq!(dirs.cache_dir, "/home/u/cache/group/sub/project-empty");
}

#[test]
fn the_slug_is_the_path_of_the_repository_or_the_projects_number() {
    for (url, slug) in [
        (URL, "group/sub/project"),
        ("https://h/project", "project"),
        ("ssh://git@h:22/a/b.git", "a/b"),
        ("https://h/a/../../b.git?x=1", "b"),
        ("https://h", "project-42"),
        ("https://h/.git", "project-42"),
        ("", "project-42"),
    ] {
        assert_eq!(project_slug(&job(url)), slug, "{url}");
    }
}

#[test]
fn a_clone_path_must_be_allowed_and_stay_inside() {
    let at = |path: &str, roots: &Roots| Dirs::of(&job(URL), &settings(&[("GIT_CLONE_PATH", path)]), roots, PLACE);
    assert_eq!(at("/home/u/builds/x/./y", &roots(true)).expect("inside").project_dir, "/home/u/builds/x/y");
    for outside in ["/home/u/builds/../x", "/home/u/builds2", "x/y", "/"] {
        let fault = at(outside, &roots(true)).expect_err(outside);
        assert_eq!(fault.message, format!("the GIT_CLONE_PATH=\"{outside}\" has to be within \"/home/u/builds\""));
        assert_eq!(fault.reason(), crate::job::failure::FailureReason::RunnerConfigurationError);
    }
    let fault = at("/home/u/builds/x", &Roots { custom_build_dir: false, ..roots(true) }).expect_err("not allowed");
    assert_eq!(fault.message, "setting GIT_CLONE_PATH is not allowed, enable `custom_build_dir` feature");
}

#[test]
fn relative_paths_go_up_from_the_project_directory() {
    let dirs = Dirs::of(&job(URL), &settings(&[]), &roots(false), PLACE).expect("dirs");
    for (path, relative) in [
        ("/home/u/cache/group/sub/project/key/cache.zip", "../../../../cache/group/sub/project/key/cache.zip"),
        ("/home/u/builds/group/sub/project/a", "a"),
        ("/home/u/builds/group/sub/project", "."),
        ("/cache", "../../../../../../cache"),
    ] {
        assert_eq!(dirs.relative_to_project(path), relative, "{path}");
    }
}
