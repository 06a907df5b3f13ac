//! What breaks in mid-job: connections, the network, the instance, GitLab.

use std::time::Duration;

use flotilla::sandbox::{Fault, JobHandle, JobStatus, On, SandboxJob};
use tokio::time::sleep;

use crate::harness::rig::{Rig, Setup};
use crate::harness::{EXECUTORS, all, finish, for_each_executor, log, processes_with, shows};

/// Bytes that are no UTF-8, on both streams, before, during and after the loss.
fn noise(lines: u32) -> String {
    format!(
        r"for i in $(seq 1 {lines}); do printf 'out %d \377\376\303\n' $i; printf 'err %d \200\n' $i >&2; sleep 0.1; done"
    )
}

/// The whole trace as its reader sees it, sections without their times: once without the script's stderr and once
/// without its stdout, as between the two no order is promised. Each byte is the character of its number: a decoder
/// would hide which one was no UTF-8.
fn whole(job: &JobHandle) -> [Vec<String>; 2] {
    let text: String = job.trace().into_iter().map(char::from).collect();
    let lines = log::lines(&text);
    ["err ", "out "].map(|stream| lines.iter().filter(|line| !line.starts_with(stream)).cloned().collect())
}

/// The trace of a job that nothing happens to; it has all of the noise.
async fn undisturbed(rig: &Rig, lines: u32) -> [Vec<String>; 2] {
    let job = rig.enqueue(SandboxJob::new("noise", &[&noise(lines)]));
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let shown = whole(&job);
    for (shown, stream) in shown.iter().zip(["out ", "err "]) {
        let written = shown.iter().filter(|line| line.starts_with(stream));
        let numbers: Vec<u32> = written.filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
        assert_eq!(numbers, (1..=lines).collect::<Vec<_>>(), "{trace}");
    }
    shown
}

fn without_timestamps(executor: &str) -> Setup<'_> {
    Setup { runner: "[runners.feature_flags]\n    FF_TIMESTAMPS = false", ..Setup::of(executor) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_connection_loses_and_repeats_no_byte() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(without_timestamps(executor)).await;
        let expected = undisturbed(&rig, 60).await;
        let disturbed = rig.enqueue(SandboxJob::new("noise", &[&noise(60)]));
        for line in ["out 10 ", "out 30 "] {
            shows(&disturbed, line).await;
            rig.instance.drop_connections();
        }
        let (report, trace) = finish(&disturbed).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert_eq!(whole(&disturbed), expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_for_a_while_loses_and_repeats_no_byte() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(without_timestamps(executor)).await;
        let expected = undisturbed(&rig, 120).await;
        let job = rig.enqueue(SandboxJob::new("noise", &[&noise(120)]));
        shows(&job, "out 10 ").await;
        rig.instance.set_link(false);
        sleep(Duration::from_secs(8)).await;
        rig.instance.set_link(true);
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert_eq!(whole(&job), expected);
    })
    .await;
}

/// A static host is not destroyed when its link is down for longer than a loss may take to heal: the job fails, and
/// its script runs on.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_runs_no_job_beside_one_that_was_lost() {
    let tests = EXECUTORS.into_iter().flat_map(|executor| [false, true].map(|restarted| (executor, restarted)));
    all(tests.map(|(executor, restarted)| async move {
        let mut rig = Rig::boot(Setup { slots: 1, ..Setup::of(executor) }).await;
        let word = format!("7654.{:05}", rand::random::<u16>());
        let job = rig.enqueue(SandboxJob::new("lost", &["echo started", &format!("sleep {word}")]));
        shows(&job, " started\n").await;
        crate::harness::eventually("the job runs", || !processes_with(&word).is_empty());
        rig.instance.set_link(false);
        let (report, trace) = finish(&job).await;
        assert_eq!(report.failure_reason, "runner_system_failure", "{trace}");
        // Nobody tries any more to take its things away.
        rig.manager.wait_log(match executor {
            "instance" => "an abandoned job's folder: no answer",
            _ => "something of a job was left on the engine",
        });
        if restarted {
            rig.manager.kill();
            rig.manager.start_again();
        }
        rig.instance.set_link(true);
        let next = rig.enqueue(SandboxJob::new("next", &["echo started", "sleep 1"]));
        shows(&next, " started\n").await;
        assert_eq!(processes_with(&word), Vec::<u32>::new());
        let (report, trace) = finish(&next).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        rig.leaves_nothing();
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_is_a_system_failure_within_thirty_seconds() {
    for_each_executor(|executor| async move {
        let mut rig = Rig::boot(Setup::of(executor)).await;
        let job = rig.enqueue(SandboxJob::new("doomed", &["echo started", "sleep 60"]));
        shows(&job, " started\n").await;
        rig.instance.kill();
        let killed = flotilla::time::now().instant;
        let (report, trace) = finish(&job).await;
        assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
        assert_eq!(report.status, JobStatus::Failed, "{trace}");
        assert_eq!(report.failure_reason, "runner_system_failure");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gitlab_that_fails_for_a_minute_gets_the_whole_trace_and_the_true_end() {
    const OUTAGE: Duration = Duration::from_secs(60);
    let ends = [("exit 0", JobStatus::Success), ("exit 4", JobStatus::Failed)];
    let tests = ["instance", "docker-autoscaler"].into_iter().flat_map(|executor| ends.map(|end| (executor, end)));
    all(tests.map(|(executor, (end, status))| async move {
        let rig = Rig::boot(without_timestamps(executor)).await;
        // It begins before the outage and ends in the middle of it.
        let script = [r"for i in $(seq 1 30); do echo line $i; sleep 0.5; done", end];
        let job = rig.enqueue(SandboxJob::new("steady", &script));
        shows(&job, "line 5\n").await;
        for on in [On::RequestJob, On::UpdateJob, On::PatchTrace] {
            rig.sandbox.faults().add(Fault::status(on, 500).lasting(OUTAGE));
        }
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, status, "{trace}");
        let lines: Vec<_> = trace.lines().filter(|line| line.starts_with("line ")).map(str::to_owned).collect();
        assert_eq!(lines, (1..=30).map(|number| format!("line {number}")).collect::<Vec<_>>());
        // GitLab is well again, and so is the runner: within 30 s it asks for jobs.
        let healed = flotilla::time::now().instant;
        let (report, trace) = rig.run(SandboxJob::new("next", &["echo next"])).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(healed.elapsed() < Duration::from_secs(40), "{:?}", healed.elapsed());
    }))
    .await;
}
