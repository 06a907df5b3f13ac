//! Against a GitLab that speaks HTTP.

use std::net::Ipv4Addr;

use super::*;
use crate::gitlab::observer::Unobserved;
use crate::gitlab::outcome::RequestOutcome;
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::tls::TlsFiles;
use crate::gitlab::wire::{Features, Info};
use crate::gitlab::{Connections, Poll, RunnerSettings};
use crate::sandbox::{Fault, FaultKind, JobHandle, JobStatus, On, Options, RUNNER_TOKEN, Sandbox, SandboxJob};

/// Any wait in these tests ends long before.
const LIMIT: Duration = Duration::from_secs(30);

/// A job that was handed out, and what tells of it.
async fn received(options: Options, news: News) -> (Sandbox, JobHandle, Untold) {
    let sandbox = Sandbox::start_with((Ipv4Addr::LOCALHOST, 0).into(), options).await.unwrap();
    let job = sandbox.enqueue(SandboxJob::new("late", &["true"]));
    let settings = RunnerSettings {
        url: sandbox.url(),
        token: RUNNER_TOKEN.into(),
        system_id: "s_0123456789ab".to_owned(),
        info: Info::new("instance", "bash", Features { two_phase_job_commit: true, ..Features::of_client() }),
        tls: TlsFiles::default(),
    };
    let connections = Connections::new(ProxySettings::default(), Duration::from_secs(900));
    let client = Client::new(&connections, settings, Arc::new(Unobserved)).unwrap();
    let RequestOutcome::Job(received) = client.request_job(Poll::AtOnce).await.outcome else { panic!("no job") };
    let untold = Untold {
        client,
        records: JobRecords::default(),
        key: ReservationKey::new("r"),
        job: received.credentials,
        news,
    };
    (sandbox, job, untold)
}

async fn told(untold: Untold) {
    let mut outbox = Outbox::default();
    outbox.tell(untold);
    tokio::time::timeout(LIMIT, outbox.told()).await.expect("it is told");
}

#[tokio::test]
async fn an_end_is_told_until_gitlab_has_heard_it() {
    let ended = Ended { failure_reason: Some("script_failure".to_owned()), exit_code: Some(3) };
    let (sandbox, job, untold) = received(Options::default(), News::Ended(ended)).await;
    untold.client.update_job(&untold.job, &JobUpdate::new(untold.client.info().clone(), JobState::Running)).await;
    sandbox.faults().add(Fault::status(On::UpdateJob, 404).times(1));
    sandbox.faults().add(Fault::new(On::UpdateJob, FaultKind::LostBefore).times(1));
    told(untold).await;
    let report = job.report().unwrap();
    assert_eq!((report.status, report.exit_code), (JobStatus::Failed, 3));
    assert_eq!(report.failure_reason, "script_failure");
}

#[tokio::test]
async fn a_job_that_is_not_begun_goes_back_and_fails_where_the_server_cannot_take_it_back() {
    let (_sandbox, job, untold) = received(Options::default(), News::NotBegun).await;
    told(untold).await;
    assert_eq!(job.report().unwrap().status, JobStatus::Offered);
    let (_sandbox, job, untold) = received(Options { two_phase: false, ..Options::default() }, News::NotBegun).await;
    told(untold).await;
    let report = job.report().unwrap();
    assert_eq!((report.status, report.failure_reason.as_str()), (JobStatus::Failed, "runner_system_failure"));
}

#[tokio::test]
async fn a_job_that_heard_running_from_somebody_is_not_failed() {
    let (_sandbox, job, untold) = received(Options::default(), News::NotBegun).await;
    untold.client.update_job(&untold.job, &JobUpdate::new(untold.client.info().clone(), JobState::Running)).await;
    told(untold).await;
    assert_eq!(job.report().unwrap().status, JobStatus::Running);
}

#[test]
fn telling_ends_after_a_day_or_minutes_of_404_alone() {
    let start = crate::time::now().instant;
    let answer = |outcome, status| UpdateResult {
        outcome,
        cancel_requested: false,
        trace_update_interval: None,
        retry_after: None,
        status,
    };
    let (missing, lost) = (answer(UpdateOutcome::NotFound, Some(404)), answer(UpdateOutcome::Failed, None));
    let mut patience = Patience::new(start);
    assert!(patience.after(&missing, start).is_ok());
    assert!(patience.after(&answer(UpdateOutcome::Failed, Some(500)), start).is_ok());
    assert!(patience.after(&missing, start + GONE_AFTER).is_ok(), "there was an answer in between");
    assert!(patience.after(&lost, start + GONE_AFTER).is_ok());
    assert_eq!(patience.after(&missing, start + 2 * GONE_AFTER), Err(Told::WasFinal));
    let mut patience = Patience::new(start);
    assert!(patience.after(&lost, start + TELL_WITHIN / 2).is_ok());
    assert_eq!(patience.after(&lost, start + TELL_WITHIN), Err(Told::GaveUp));
}
