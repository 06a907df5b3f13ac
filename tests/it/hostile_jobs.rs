//! Jobs that turn against the processes that keep them: nothing of theirs runs beside the next job.

use std::fs;

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::harness::rig::{Rig, Setup};
use crate::harness::{eventually, finish, processes_with, shows};

async fn rig() -> Rig {
    Rig::boot(Setup { slots: 1, ..Setup::of("instance") }).await
}

/// A word that no other process has on its command line.
fn word() -> String {
    format!("7655.{:05}", rand::random::<u16>())
}

async fn next_job_runs_alone(rig: &Rig, word: &str) {
    let next = rig.enqueue(SandboxJob::new("next", &["echo started", "sleep 1"]));
    shows(&next, " started\n").await;
    assert_eq!(processes_with(word), Vec::<u32>::new());
    let (report, trace) = finish(&next).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_hides_from_the_keeper_that_it_kills_is_ended_before_the_next_job() {
    let (rig, word) = (rig().await, word());
    let hide = format!("setsid sleep {word} </dev/null >/dev/null 2>&1 &");
    let job = rig.enqueue(SandboxJob::new("killer", &[&hide, "echo started", "kill -9 $PPID", "sleep 600"]));
    let (report, trace) = finish(&job).await;
    assert_eq!(report.failure_reason, "runner_system_failure", "{trace}");
    assert!(trace.contains("keeper was killed"), "{trace}");
    next_job_runs_alone(&rig, &word).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_a_job_stops_goes_on_and_the_job_with_it() {
    let (rig, word) = (rig().await, word());
    let job = rig.enqueue(SandboxJob::new("stopper", &["kill -STOP $PPID", "echo after", &format!(": {word}")]));
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    next_job_runs_alone(&rig, &word).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_stops_its_keeper_again_and_again_is_cancelled_all_the_same() {
    let (rig, word) = (rig().await, word());
    let stop = format!("KEEPER=$PPID setsid sh -c 'while :; do kill -STOP $KEEPER; sleep 0.01; done' {word} &");
    let job = rig.enqueue(SandboxJob::new("stubborn", &[&stop, "echo started", &format!("sleep {word}")]));
    shows(&job, "started\n").await;
    eventually("the job runs on", || processes_with(&word).len() > 1);
    job.cancel();
    let (report, trace) = finish(&job).await;
    assert_eq!(report.failure_reason, "job_canceled", "{trace}");
    next_job_runs_alone(&rig, &word).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_a_job_puts_in_the_helpers_place_is_never_started() {
    let rig = rig().await;
    let mark = tempfile::Builder::new().prefix("flotilla-mark-").tempdir().expect("a folder");
    fs::set_permissions(mark.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
    let mark = mark.path().join("ran");
    let replace = format!(
        "for f in ~/.flotilla/bin/flotilla-helper-*; do rm $f; printf '#!/bin/sh\\ntouch {}\\n' > $f; chmod 755 $f; done",
        mark.display()
    );
    // What becomes of that job itself is its own matter.
    rig.run(SandboxJob::new("replaces", &[&replace])).await;
    // Agents that are there already are the genuine ones: these are lost, and others are started.
    rig.instance.drop_connections();
    fs::remove_file(&mark).ok();
    let (report, trace) = rig.run(SandboxJob::new("next", &["echo next"])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(!mark.exists(), "the job's program ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_agents_die_costs_its_job_and_not_the_instance() {
    let rig = Rig::boot(Setup { slots: 1, ..Setup::of("docker-autoscaler") }).await;
    // The main process is the agent: a signal that it cannot ignore comes from outside only, so its streams go.
    let script = ["echo started", "while :; do kill -9 $(pidof flotilla-helper); done"];
    let job = rig.enqueue(SandboxJob::new("killer", &script));
    let (report, trace) = finish(&job).await;
    assert_eq!(report.failure_reason, "runner_system_failure", "{trace}");
    let (report, trace) = rig.run(SandboxJob::new("next", &["echo next"])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(!rig.manager.log().contains("instance marked for removal"), "{}", rig.manager.log());
}
