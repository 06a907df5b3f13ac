//! Jobs in the shell of this machine.

use std::fs;
use std::time::Duration;

use flotilla::detached::Exit;
use flotilla::executors::CleanUp;
use flotilla::fleeting::access::InstanceAccess as _;
use serde_json::json;

use super::bench::{Bench, own_helpers, stage};

fn instance() -> Bench {
    Bench::new("instance", "", own_helpers())
}

/// Folders of jobs that are there.
fn folders(bench: &Bench) -> usize {
    fs::read_dir(bench.home.path().join(".flotilla/jobs")).expect("the folder of jobs").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn job_runs_in_the_home_and_leaves_no_folder_of_its_stages() {
    let bench = instance();
    let mut environment = bench.prepare(json!({})).await.unwrap();
    let id = bench.machine.id();
    let said =
        ["Preparing instance...".to_owned(), format!("Dialing instance {id}..."), format!("Instance {id} connected")];
    assert_eq!(bench.trace.lines(), said);
    let home = bench.home.path().display().to_string();
    let project = format!("{home}/builds/{}/0/group/project", bench.short_token());
    assert_eq!(environment.job().dirs.project_dir, project);
    let script = "pwd; echo $BASH_VERSION >&2; exit 2";
    assert_eq!(stage(&mut environment, "step_script", script).await.unwrap(), Exit::Code(2));
    assert_eq!(crate::harness::text(&bench.trace.stdout()), format!("{home}\n"));
    assert!(!bench.trace.stderr().is_empty(), "bash says its version");
    assert_eq!(folders(&bench), 1);
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert_eq!(folders(&bench), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_change_nothing_in_the_trace() {
    let bench = instance();
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
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_job_leaves_neither_folder_nor_processes() {
    let bench = instance();
    let mut environment = bench.prepare(json!({})).await.unwrap();
    let marker = format!("34{}", std::process::id());
    let script = format!("echo ready; sleep {marker}");
    tokio::select! {
        ended = stage(&mut environment, "step_script", &script) => panic!("{ended:?}"),
        () = async {
            while bench.trace.stdout() != b"ready\n" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    drop(environment);
    bench.executor.shutdown().await;
    assert_eq!(super::detached::processes_with(&marker), 0);
    assert_eq!(folders(&bench), 0);
}
