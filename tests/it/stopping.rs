//! How the process ends: SIGQUIT drains, SIGTERM and SIGINT abort, a further one leaves at once.

use std::time::Duration;

use flotilla::sandbox::{Fault, JobStatus, On, SandboxJob};

use crate::harness::local::LocalRig;
use crate::harness::rig::{Rig, Setup};
use crate::harness::{LIMIT, finish, for_each_executor, shows};

/// `shutdown_timeout` of the rigs, and what a loaded machine takes beside it.
const SHUTDOWN: Duration = Duration::from_secs(10 + 5);

#[tokio::test(flavor = "multi_thread")]
async fn quit_lets_jobs_end_takes_no_new_one_and_repeating_it_changes_nothing() {
    let mut rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("last", &["echo started", "sleep 4", "echo ended"]));
    shows(&job, " started\n").await;
    rig.manager.signal("QUIT");
    rig.manager.wait_log("Starting graceful shutdown");
    let late = rig.enqueue(SandboxJob::new("late", &["echo late"]));
    rig.manager.signal("QUIT");
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let status = rig.manager.wait_exit(SHUTDOWN);
    assert_eq!(status.code(), Some(0), "{}", rig.manager.log());
    assert_eq!(late.report().expect("the job").status, JobStatus::Queued);
    assert_eq!(rig.instances(), Vec::new(), "delete_instances_on_shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminate_ends_jobs_tells_gitlab_and_leaves_nothing() {
    for_each_executor(|executor| async move {
        let mut rig = Rig::boot(Setup::of(executor)).await;
        let script = ["echo started", "sleep 600"];
        let job = rig.enqueue(SandboxJob::new("aborted", &script).after_script(&["echo after"]));
        let old = SandboxJob::new("of an old server", &script)
            .with(|payload| payload["features"]["failure_reasons"] = serde_json::json!([]));
        let old = rig.enqueue(old);
        shows(&job, " started\n").await;
        shows(&old, " started\n").await;
        rig.manager.signal("TERM");
        let status = rig.manager.wait_exit(SHUTDOWN);
        assert_eq!(status.code(), Some(0), "{}", rig.manager.log());
        for (job, reason) in [(job, "runner_interrupted"), (old, "unknown_failure")] {
            let (report, trace) = finish(&job).await;
            assert_eq!(report.status, JobStatus::Failed, "{trace}");
            assert_eq!(report.failure_reason, reason);
            assert!(trace.contains("ERROR: Job failed: aborted: terminated"), "{trace}");
        }
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_during_a_drain_aborts() {
    let mut rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("long", &["echo started", "sleep 600"]));
    shows(&job, " started\n").await;
    rig.manager.signal("QUIT");
    rig.manager.wait_log("Starting graceful shutdown");
    rig.manager.signal("INT");
    assert_eq!(rig.manager.wait_exit(SHUTDOWN).code(), Some(0), "{}", rig.manager.log());
    let (report, trace) = finish(&job).await;
    assert_eq!(report.failure_reason, "runner_interrupted");
    assert!(trace.contains("ERROR: Job failed: aborted: interrupt"), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gitlab_terminate_waits_for_shutdown_timeout_and_no_longer() {
    let mut rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("long", &["echo started", "sleep 600"]));
    shows(&job, " started\n").await;
    rig.sandbox.faults().add(Fault::status(On::Every, 500));
    let told = flotilla::time::now().instant;
    rig.manager.signal("TERM");
    let status = rig.manager.wait_exit(SHUTDOWN);
    assert!(told.elapsed() >= Duration::from_secs(9), "{:?}", told.elapsed());
    assert_eq!(status.code(), Some(1), "a job was left behind:\n{}", rig.manager.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_terminate_leaves_at_once() {
    let mut rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("long", &["echo started", "sleep 600"]));
    shows(&job, " started\n").await;
    rig.sandbox.faults().add(Fault::status(On::Every, 500));
    rig.manager.signal("TERM");
    rig.manager.wait_log("Starting forceful shutdown");
    let told = flotilla::time::now().instant;
    rig.manager.signal("TERM");
    let status = rig.manager.wait_exit(LIMIT);
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    assert_eq!(status.code(), Some(1), "{}", rig.manager.log());
}
