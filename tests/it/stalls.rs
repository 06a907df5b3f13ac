//! What stands still for a while holds nothing up for longer: answers of GitLab whose body never comes, and the manager
//! itself.

use std::time::Duration;

use flotilla::sandbox::{Fault, FaultKind, JobStatus, On, SandboxJob};

use crate::harness::local::LocalRig;
use crate::harness::{finish, shows};

fn stalls(on: On, status: Option<u16>) -> Fault {
    Fault::new(on, FaultKind::Stalls { status })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_jobs_whose_refusal_never_ends_stops_no_runner() {
    let rig = LocalRig::start("", "").await;
    rig.sandbox.faults().add(stalls(On::RequestJob, Some(500)).times(3));
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("next", &["echo next"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_and_ends_though_no_update_is_ever_answered_whole() {
    let rig = LocalRig::start("", "").await;
    for on in [On::UpdateJob, On::PatchTrace] {
        rig.sandbox.faults().add(stalls(on, None));
    }
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("unheard", &["echo a line", "exit 3"]))).await;
    assert_eq!((report.status, report.exit_code), (JobStatus::Failed, 3), "{trace}");
    assert!(trace.contains("a line\n"), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn terminate_tells_the_state_of_a_job_while_every_answer_stalls() {
    let mut rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("aborted", &["echo started", "sleep 600"]));
    shows(&job, " started\n").await;
    rig.sandbox.faults().add(stalls(On::Every, None));
    rig.manager.signal("TERM");
    let status = rig.manager.wait_exit(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", rig.manager.log());
    let (report, trace) = finish(&job).await;
    assert_eq!((report.status, report.failure_reason.as_str()), (JobStatus::Failed, "runner_interrupted"), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_was_stopped_for_a_minute_goes_on_with_its_job() {
    const STOPPED: Duration = Duration::from_secs(61);
    let rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("steady", &["for i in $(seq 1 62); do echo \"line $i\"; sleep 1; done"]));
    shows(&job, "line 1\n").await;
    rig.manager.signal("STOP");
    tokio::time::sleep(STOPPED).await;
    rig.manager.signal("CONT");
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let lines: Vec<_> = trace.lines().filter_map(|line| line.split("line ").nth(1)?.parse::<u32>().ok()).collect();
    assert!(lines.iter().copied().eq(1..=62), "{trace}");
    let log = rig.manager.log();
    assert!(!log.contains("stands still"), "{log}");
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("next", &["echo next"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
}
