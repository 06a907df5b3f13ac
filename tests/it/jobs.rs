//! How jobs end, with real parts: OpenSSH's sshd in a namespace of its own as the instance, a real Docker Engine
//! behind it. Only GitLab is the sandbox.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use flotilla::sandbox::{Fault, FaultKind, JobStatus, On, SandboxJob};

use crate::harness::local::LocalRig;
use crate::harness::rig::{Rig, Setup};
use crate::harness::{finish, for_each_executor, shows};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_succeed_and_fail_with_their_exit_code_and_after_script_sees_it() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let hello = rig.enqueue(SandboxJob::new("hello", &["echo hello from $CI_JOB_ID"]));
        let fail = SandboxJob::new("fail", &["echo before", "exit 3"]).after_script(&["echo after $CI_JOB_STATUS"]);
        let fail = rig.enqueue(fail);
        let (report, trace) = finish(&hello).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains(&format!("hello from {}", hello.id())), "{trace}");
        let (report, trace) = finish(&fail).await;
        assert_eq!((report.status, report.exit_code), (JobStatus::Failed, 3), "{trace}");
        assert_eq!(report.failure_reason, "script_failure");
        assert!(trace.contains("after failed"), "{trace}");
        assert!(trace.contains("ERROR: Job failed: exit code 3"), "{trace}");
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_after_script_changes_nothing_but_warns() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let (report, trace) = rig.run(SandboxJob::new("after", &["echo fine"]).after_script(&["exit 7"])).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        let warning = "WARNING: after_script failed, but job will continue unaffected: exit code 7";
        assert!(trace.contains(warning), "{trace}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_runs_after_script_and_leaves_nothing() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        // A job that prints nothing is asked about every 10 s.
        let script = ["echo started", "sleep 600"];
        let job = rig.enqueue(SandboxJob::new("cancel", &script).after_script(&["echo after $CI_JOB_STATUS"]));
        shows(&job, " started\n").await;
        job.cancel();
        let cancelled = flotilla::time::now().instant;
        shows(&job, "after canceled").await;
        assert!(cancelled.elapsed() < Duration::from_secs(10 + 5), "{:?}", cancelled.elapsed());
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Canceled, "{trace}");
        assert!(trace.contains("after canceled"), "{trace}");
        assert!(trace.contains("WARNING: script canceled externally (UI, API)"), "{trace}");
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cancel_ends_a_job_at_once_and_leaves_nothing() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        // Who prints hears of it with the next patch.
        let chatter = "while true; do echo still here; sleep 0.2; done";
        let after = ["echo cleaning up", chatter];
        let job = rig.enqueue(SandboxJob::new("cancel", &["echo started", chatter]).after_script(&after));
        shows(&job, " started\n").await;
        job.cancel();
        shows(&job, " cleaning up\n").await;
        job.cancel();
        let report = job.report().expect("the job");
        assert_eq!(report.status, JobStatus::Canceled);
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_before_the_script_ends_the_stage_and_leaves_nothing() {
    for_each_executor(|executor| async move {
        let hook = "pre_get_sources_script = \"while true; do echo still getting sources; sleep 0.2; done\"";
        let rig = Rig::boot(Setup { runner: hook, image: "flotilla-test/git", ..Setup::of(executor) }).await;
        let job = SandboxJob::new("cancel", &["echo never"]).git("http://127.0.0.1:1/never.git", "main", "0");
        let job = rig.enqueue(job);
        shows(&job, "still getting sources").await;
        job.cancel();
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Canceled, "{trace}");
        assert!(!trace.contains("echo never"), "{trace}");
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_two_phase_commit_is_served_all_the_same() {
    let rig = LocalRig::start("", "").await;
    rig.sandbox.change_options(|options| options.two_phase = false);
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("old", &["echo hello"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert_eq!(report.first(JobStatus::Offered), None);
}

/// The instance is ready while the server's refusal of `pending` is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_comes_while_the_server_is_asked_is_the_jobs_own() {
    let rig = LocalRig::start("", "max_use_count = 1\n    instance_ready_command = \"sleep 0.5\"").await;
    rig.sandbox.change_options(|options| options.two_phase = false);
    rig.sandbox.faults().add(Fault::new(On::UpdateJob, FaultKind::Late { by: Duration::from_secs(3) }).times(1));
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("old", &["echo hello"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let log = rig.manager.log();
    assert_eq!(log.matches("instance discovery").count(), 1, "one job takes one instance: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_gets_no_instance_in_time_goes_back_to_the_queue() {
    let never = "instance_acquire_timeout = \"2s\"\n    instance_ready_command = \"sleep 600\"";
    let rig = LocalRig::start("", never).await;
    let job = rig.enqueue(SandboxJob::new("waits", &["echo never"]));
    rig.manager.wait_log("there was no instance for it in time");
    let report = job.report().expect("the job");
    assert_eq!((report.status, report.first(JobStatus::Running)), (JobStatus::Offered, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_timeout_ends_the_script_and_leaves_nothing() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let job = SandboxJob::new("slow", &["sleep 600"]).timeout(Duration::from_secs(4));
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Failed, "{trace}");
        assert_eq!(report.failure_reason, "job_execution_timeout");
        assert!(trace.contains("execution took longer than 4s seconds"), "{trace}");
        rig.leaves_nothing();
    })
    .await;
}

/// More than sshd's MaxSessions and MaxStartups allow at once, by far.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_jobs_at_once_share_one_instance_of_debians_defaults() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let jobs: Vec<_> = (0..20).map(|_| rig.enqueue(SandboxJob::new("one", &["sleep 1", "echo done"]))).collect();
        for job in jobs {
            let (report, trace) = finish(&job).await;
            assert_eq!(report.status, JobStatus::Success, "{trace}");
        }
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stage_does_not_wait_for_what_only_another_user_may_end() {
    // As `sudo` leaves it: a process of root's below a user's job. It ends before the stage would be given up.
    let folder = tempfile::Builder::new().prefix("flotilla-sudo-").tempdir().expect("a folder");
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    open(folder.path(), 0o755);
    let sudo = folder.path().join("sudo");
    fs::copy("/usr/bin/setpriv", &sudo).expect("util-linux");
    open(&sudo, 0o4755);
    let marker = format!("9.{}", std::process::id());
    let rig = Rig::boot(Setup::of("instance")).await;
    let (sudo, up) = (sudo.display(), folder.path().join("up").display().to_string());
    let start = format!("{sudo} --reuid=0 --clear-groups sh -c 'touch {up}; exec sleep {marker}' >/dev/null 2>&1 &");
    let wait = format!("until [ -e {up} ]; do sleep 0.01; done");
    let (report, trace) = rig.run(SandboxJob::new("leaves", &[&start, &wait])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let left = rig.instance.processes().into_iter().any(|line| line.contains(&marker));
    assert!(left, "it has ended before the stage\n{trace}");
}
