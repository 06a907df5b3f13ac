//! Jobs in containers of a real engine, over its local socket.

use std::fs;
use std::time::Duration;

use flotilla::config::environment::Environment;
use flotilla::detached::Exit;
use flotilla::executors::{CleanUp, Helpers, StageRun};
use flotilla::job::failure::{FailureReason, FaultClass};
use flotilla::job::stage::{Stage, StepName};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::agents::HELPER;
use super::bench::{Bench, stage, static_helpers};
use crate::harness::{run, text};

/// The lines of `[runners.docker]` of most tests.
const QUIET: &str = "image=\"flotilla-test/busybox\"\npull_policy=\"if-not-present\"\nnetwork_mode=\"host\"";

fn docker(lines: &str) -> Bench {
    Bench::new("docker-autoscaler", lines, static_helpers())
}

/// What this test's runner has on the engine: containers, and volumes that are not kept for later jobs.
fn leftovers(bench: &Bench) -> Vec<String> {
    let ours = label(bench);
    let containers = run("docker", &["ps", "-aq", "--filter", &ours]);
    let passing = "label=com.gitlab.gitlab-runner.reusable=false";
    let volumes = run("docker", &["volume", "ls", "-q", "--filter", &ours, "--filter", passing]);
    containers.lines().chain(volumes.lines()).map(str::to_owned).collect()
}

fn label(bench: &Bench) -> String {
    format!("label=com.gitlab.gitlab-runner.runner.id={}", bench.short_token())
}

#[tokio::test(flavor = "multi_thread")]
async fn job_runs_in_one_container_and_leaves_nothing() {
    let bench = docker(QUIET);
    let mut environment = bench.prepare(json!({})).await.unwrap();
    assert_eq!(stage(&mut environment, "prepare_script", "id -u; hostname; umask").await.unwrap(), Exit::Code(0));
    let script = "umask; echo $GREETING; touch /builds/x; ls /builds; exit 3";
    assert_eq!(stage(&mut environment, "step_script", script).await.unwrap(), Exit::Code(3));
    let name = format!("runner-{}-project-42-concurrent-0", bench.short_token());
    assert_eq!(text(&bench.trace.stdout()), format!("0\n{name}\n0000\n0022\nhello\nx\n"));
    assert_eq!(leftovers(&bench).len(), 2, "the container, and the volume of its builds");
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn user_of_the_image_may_write_where_the_job_works() {
    let bench = docker(&QUIET.replace("flotilla-test/busybox", "flotilla-test/nonroot"));
    let mut environment = bench.prepare(json!({})).await.unwrap();
    let script = "id -u; touch /builds/x && echo written";
    assert_eq!(stage(&mut environment, "step_script", script).await.unwrap(), Exit::Code(0));
    assert_eq!(text(&bench.trace.stdout()), "1000\nwritten\n");
    assert_eq!(environment.cleanup().await, CleanUp::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_own_stages_are_the_jobs_users_with_an_open_umask() {
    let check = async |lines: String, image: Value| {
        let bench = docker(&lines);
        let mut environment = bench.prepare(json!({"image": image})).await.unwrap();
        let script = "id -u; umask; mkdir /builds/p; echo sources > /builds/p/x; touch $HOME/.gitconfig";
        let exit = stage(&mut environment, "get_sources", script).await.unwrap();
        assert_eq!(exit, Exit::Code(0), "{}", text(&bench.trace.stderr()));
        let script = "id -u; echo script >> /builds/p/x; mkdir -m 700 /builds/p/y; echo closed > /builds/p/y/x";
        assert_eq!(stage(&mut environment, "step_script", script).await.unwrap(), Exit::Code(0));
        assert_eq!(
            stage(&mut environment, "archive_cache", "id -u; cat /builds/p/x /builds/p/y/x").await.unwrap(),
            Exit::Code(0)
        );
        assert_eq!(text(&bench.trace.stdout()), "1000\n0000\n1000\n1000\nsources\nscript\nclosed\n");
        assert_eq!(environment.cleanup().await, CleanUp::Done);
        assert_eq!(leftovers(&bench), Vec::<String>::new());
    };
    check(QUIET.to_owned(), json!({"name": "flotilla-test/nonroot"})).await;
    check(format!("{QUIET}\nuser = \"1000\""), json!({"name": "flotilla-test/busybox"})).await;
    // An image that begins as root and goes on as someone else, as database images do.
    let drops = "exec su -c 'exec \"$@\"' -- job sh \"$@\"";
    let image = json!({"name": "flotilla-test/busybox", "entrypoint": ["/bin/sh", "-c", drops, "sh"]});
    check(QUIET.to_owned(), image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_the_images_users_where_the_umask_is_off() {
    let bench = docker(&QUIET.replace("flotilla-test/busybox", "flotilla-test/nonroot"));
    let flag = json!({"key": "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", "value": "true"});
    let none = json!({"key": "GIT_STRATEGY", "value": "none"});
    let mut environment = bench.prepare(json!({"variables": [flag, none]})).await.unwrap();
    assert_eq!(stage(&mut environment, "get_sources", "id -u; umask").await.unwrap(), Exit::Code(0));
    assert_eq!(text(&bench.trace.stdout()), "1000\n0022\n");
    assert_eq!(environment.cleanup().await, CleanUp::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn entrypoint_speaks_first_and_must_run_its_command() {
    let bench = docker(QUIET);
    let with = |entrypoint: &str| {
        let entrypoint = ["/bin/sh", "-c", entrypoint, "sh"];
        json!({"image": {"name": "flotilla-test/busybox", "entrypoint": entrypoint}})
    };
    // Its stderr comes on a stream of its own, and is not waited for when the agent has spoken.
    let entrypoint = "echo welcome; echo hint >&2; sleep 0.5; exec \"$@\"";
    let mut environment = bench.prepare(with(entrypoint)).await.unwrap();
    assert_eq!(stage(&mut environment, "step_script", "echo script").await.unwrap(), Exit::Code(0));
    let printed = text(&bench.trace.stdout());
    assert!(printed.contains("welcome\n") && printed.contains("hint\n") && printed.ends_with("script\n"), "{printed}");
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    let fault = bench.prepare(with("echo no; exit 5")).await.unwrap_err();
    assert_eq!(fault.reason(), FailureReason::ScriptFailure);
    assert!(fault.message.contains("exit code 5"), "{}", fault.message);
    // The engine cannot start it: the job's own matter, which costs no instance.
    let missing = json!({"image": {"name": "flotilla-test/busybox", "entrypoint": ["/no/such/program"]}});
    let fault = bench.prepare(missing).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Reason(FailureReason::RunnerSystemFailure), "{fault:?}");
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_preparation_leaves_nothing() {
    let bench = docker(QUIET);
    for after in [1, 20, 60, 120, 200] {
        drop(tokio::time::timeout(Duration::from_millis(after), bench.prepare(json!({}))).await);
    }
    bench.executor.shutdown().await;
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_container_gives_up_its_output_and_can_be_made_again() {
    let bench = docker(QUIET);
    let mut environment = bench.prepare(json!({})).await.unwrap();
    let ours = label(&bench);
    let killer = async {
        while !bench.trace.stdout().starts_with(b"before") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let kill = move || run("docker", &["kill", run("docker", &["ps", "-q", "--filter", &ours]).trim()]);
        tokio::task::spawn_blocking(kill).await.unwrap();
    };
    let (result, _) = tokio::join!(stage(&mut environment, "step_script", "echo before; sleep 60"), killer);
    let fault = result.unwrap_err();
    assert!(fault.message.contains("exit code 137"), "{fault:?}");
    assert_eq!(bench.trace.stdout(), b"before\n");
    assert_eq!(stage(&mut environment, "after_script", "echo again").await.unwrap(), Exit::Code(0));
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn image_without_git_needs_the_helper_image_for_sources() {
    let bench = docker(&QUIET.replace("if-not-present", "never"));
    let sources = json!({"variables": [{"key": "GIT_STRATEGY", "value": "clone"}]});
    let fault = bench.prepare(sources).await.unwrap_err();
    assert_eq!(fault.reason(), FailureReason::RunnerConfigurationError);
    assert!(fault.message.contains("no git"), "{}", fault.message);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn helper_image_runs_the_runners_own_stages() {
    let bench = docker(&format!("{QUIET}\nhelper_image=\"flotilla-test/nonroot\""));
    let mut environment = bench.prepare(json!({})).await.unwrap();
    assert_eq!(stage(&mut environment, "get_sources", "id -u; echo shared > /builds/x").await.unwrap(), Exit::Code(0));
    assert_eq!(stage(&mut environment, "step_script", "id -u; cat /builds/x").await.unwrap(), Exit::Code(0));
    assert_eq!(text(&bench.trace.stdout()), "1000\n0\nshared\n");
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_the_stage_and_the_container_goes_on() {
    let bench = docker(QUIET);
    let mut environment = bench.prepare(json!({})).await.unwrap();
    let cancel = CancellationToken::new();
    let step = Stage::Step(StepName::new("script"));
    let stopper = async {
        while !bench.trace.stdout().starts_with(b"ready") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
        flotilla::time::now().instant
    };
    let script = "trap 'exit 1' TERM; echo ready; while true; do sleep 0.1; done";
    let run = StageRun { stage: &step, attempt: 0, script, cancel: &cancel };
    let (exit, cancelled) = tokio::join!(environment.run_stage(run), stopper);
    assert_eq!(exit.unwrap(), Exit::Code(1));
    assert!(cancelled.elapsed() < Duration::from_secs(5), "{:?}", cancelled.elapsed());
    assert_eq!(stage(&mut environment, "after_script", "true").await.unwrap(), Exit::Code(0));
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_after_a_lost_connection_have_what_the_entrypoint_exported() {
    let bench = docker(QUIET);
    let entrypoint = ["/bin/sh", "-c", "export EXPORTED='by the entrypoint'; exec \"$@\"", "sh"];
    let image = json!({"name": "flotilla-test/busybox", "entrypoint": entrypoint});
    let mut environment = bench.prepare(json!({"image": image})).await.unwrap();
    let script = "echo $EXPORTED; echo $GREETING; pwd";
    let waiting = format!("{script}; until [ -e /builds/goes-on ]; do sleep 0.01; done");
    let cutter = async {
        while !bench.trace.stdout().ends_with(b"/\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.machine.cut();
        let ours = label(&bench);
        let touch = move || {
            let container = run("docker", &["ps", "-q", "--filter", &ours]);
            run("docker", &["exec", container.trim(), "touch", "/builds/goes-on"])
        };
        tokio::task::spawn_blocking(touch).await.unwrap();
    };
    let (exit, ()) = tokio::join!(stage(&mut environment, "step_script", &waiting), cutter);
    assert_eq!(exit.unwrap(), Exit::Code(0));
    let before = bench.trace.take_stdout();
    assert_eq!(stage(&mut environment, "after_script", script).await.unwrap(), Exit::Code(0));
    assert_eq!(text(&before), "by the entrypoint\nhello\n/\n");
    assert_eq!(text(&bench.trace.stdout()), text(&before));
    assert_eq!(environment.cleanup().await, CleanUp::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_change_nothing_in_the_trace() {
    let bench = docker(QUIET);
    let mut environment = bench.prepare(json!({})).await.unwrap();
    let script = super::detached::SLOW_AND_INVALID;
    let cutter = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            bench.machine.cut();
        }
    };
    let (exit, ()) = tokio::join!(stage(&mut environment, "step_script", script), cutter);
    assert_eq!(exit.unwrap(), Exit::Code(3));
    let disturbed = bench.trace.take_stdout();
    assert_eq!(stage(&mut environment, "after_script", script).await.unwrap(), Exit::Code(3));
    let undisturbed = bench.trace.take_stdout();
    assert!(disturbed == undisturbed && disturbed.len() > 8_000, "the trace of a disturbed run differs");
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_helper_volume_is_filled_again_by_the_next_try() {
    // Volumes go by the helper's content: this one is nobody else's.
    let folder = tempfile::tempdir().unwrap();
    let mut program = fs::read(static_helpers().folder.join("flotilla-helper")).unwrap();
    program.extend_from_slice(&rand::random::<[u8; 16]>());
    fs::write(folder.path().join("flotilla-helper"), program).unwrap();
    let helpers = || Helpers::new(HELPER.into(), folder.path().to_owned(), Environment::default());
    let name = helpers().for_architecture(std::env::consts::ARCH).await.unwrap().name.clone();
    let bench = Bench::new("docker-autoscaler", QUIET, helpers());

    assert_eq!(bench.prepare(json!({})).await.unwrap().cleanup().await, CleanUp::Done);
    run("docker", &["volume", "rm", &name]);
    let fault = bench.prepare(json!({})).await.unwrap_err();
    assert!(fault.message.contains("flotilla-helper"), "{fault:?}");
    assert_eq!(bench.prepare(json!({})).await.unwrap().cleanup().await, CleanUp::Done);
    assert_eq!(leftovers(&bench), Vec::<String>::new());
    run("docker", &["volume", "rm", &name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_classified() {
    let check = async |lines: &str, payload: Value, reason: FailureReason, said: &str| {
        let bench = docker(lines);
        let fault = bench.prepare(payload).await.unwrap_err();
        assert_eq!(fault.reason(), reason, "{fault:?}");
        assert!(fault.message.contains(said), "{fault:?}");
        assert_eq!(leftovers(&bench), Vec::<String>::new());
    };
    let configuration = FailureReason::RunnerConfigurationError;
    let other = json!({"image": {"name": "other:1"}});
    let lines = format!("{QUIET}\nallowed_images=[\"a/**\"]");
    check(&lines, other.clone(), configuration, "disallowed image").await;
    let lines = QUIET.replace("if-not-present", "never");
    check(&lines, other, FailureReason::ImagePullFailure, "No such image").await;
    let user = json!({"image": {"name": "flotilla-test/busybox", "executor_opts": {"docker": {"user": "eve"}}}});
    let lines = format!("{QUIET}\nallowed_users=[\"ci\"]");
    check(&lines, user.clone(), configuration, "not an allowed user").await;
    let fault = docker(QUIET).prepare(user).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Reason(FailureReason::RunnerSystemFailure), "{fault:?}");
    let lines = format!("{QUIET}\nvolumes=[\"/tmp:/x/$GREETING\", \"/x/hello\"]");
    check(&lines, json!({}), configuration, "already defined").await;
    let unreachable = json!({"image": {"name": "127.0.0.1:1/x:1"}});
    let unnamed = json!({"image": {"name": "Not:a:name"}});
    check(QUIET, unnamed, FailureReason::ImagePullFailure, "failed to pull image").await;
    check(QUIET, unreachable, FailureReason::RunnerExternalDependencyFailure, "failed to pull image").await;
}
