//! A Docker Engine that is restarted in the middle of a job.

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::harness::engine::Engine;
use crate::harness::rig::{Rig, Setup};
use crate::harness::{eventually, finish, shows};

const IMAGE: &str = "flotilla-test/busybox";
const LINES: u32 = 20;

/// A job that prints a line each half second, on an engine that is restarted after some of them.
async fn restarted_in_mid_job(live_restore: bool) -> (JobStatus, String, Vec<u32>) {
    let mut engine = Engine::start(IMAGE, live_restore);
    let host = format!("host = \"{}\"", engine.host());
    let rig = Rig::boot(Setup { docker: &host, ..Setup::of("docker-autoscaler") }).await;
    let script = format!("for i in $(seq 1 {LINES}); do echo \"line $i\"; sleep 0.5; done");
    let job = rig.enqueue(SandboxJob::new("steady", &[&script]));
    shows(&job, "line 3\n").await;
    engine.stop();
    engine.start_again();
    let (report, trace) = finish(&job).await;
    let lines = trace.lines().filter_map(|line| line.split("line ").nth(1)?.parse().ok()).collect();
    let (next, next_trace) = rig.run(SandboxJob::new("next", &["echo next"])).await;
    assert_eq!(next.status, JobStatus::Success, "{next_trace}\nafter\n{trace}");
    eventually("no container is left", || engine.docker(&["ps", "-aq"]).is_empty());
    drop(rig);
    (report.status, report.failure_reason, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_container_outlives_the_engines_restart_loses_and_repeats_no_line() {
    let (status, _, lines) = restarted_in_mid_job(true).await;
    assert_eq!(status, JobStatus::Success);
    assert_eq!(lines, (1..=LINES).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_container_an_engine_took_down_fails_by_the_system_with_all_that_it_printed() {
    let (status, reason, lines) = restarted_in_mid_job(false).await;
    assert_eq!((status, reason.as_str()), (JobStatus::Failed, "runner_system_failure"));
    assert!(lines.len() >= 3 && lines.iter().copied().eq(1..=lines.len().try_into().unwrap()), "{lines:?}");
}
