//! A trace's whole way, to a GitLab that speaks HTTP.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    CancelState, FinalOutcome, FinalUpdate, GitlabTrace, Masks, PatchBudget, Sink, Stream, TraceSettings, Uploader,
    UploaderHandle, UploaderSettings,
};
use crate::gitlab::observer::Unobserved;
use crate::gitlab::outcome::{JobUpdate, RequestOutcome};
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::tls::TlsFiles;
use crate::gitlab::wire::{Features, Info, JobState};
use crate::gitlab::{Client, Connections, Poll, RunnerSettings};
use crate::sandbox::{
    Fault, FaultKind, JobHandle, JobStatus, On, Options, RUNNER_TOKEN, Sandbox, SandboxJob, TraceCheck,
};

/// Any wait in these tests ends long before.
const LIMIT: Duration = Duration::from_secs(30);

struct Running {
    sandbox: Sandbox,
    job: JobHandle,
    sink: Sink,
    handle: UploaderHandle,
    // Owns the uploader's task.
    _tasks: JoinSet<()>,
}

/// A job that GitLab has just been told to run.
async fn running(job: SandboxJob) -> Running {
    let options = Options { trace_update_interval: 1, ..Options::default() };
    let sandbox = Sandbox::start_with((Ipv4Addr::LOCALHOST, 0).into(), options).await.unwrap();
    let job = sandbox.enqueue(job);
    let settings = RunnerSettings {
        url: sandbox.url(),
        token: RUNNER_TOKEN.into(),
        system_id: "s_0123456789ab".to_owned(),
        info: Info::new("instance", "bash", Features::of_client()),
        tls: TlsFiles::default(),
    };
    let connections = Connections::new(ProxySettings::default(), Duration::from_secs(900));
    let client = Client::new(&connections, settings, Arc::new(Unobserved)).unwrap();
    let RequestOutcome::Job(received) = client.request_job(Poll::AtOnce).await.outcome else { panic!("no job") };
    client.update_job(&received.credentials, &JobUpdate::new(Arc::clone(client.info()), JobState::Running)).await;
    let sink = Sink::new(TraceSettings {
        folder: std::env::temp_dir(),
        limit: 16 << 20,
        timestamps: true,
        sections: true,
        masks: Masks::with_default_prefixes(true),
    });
    let api = GitlabTrace { client, credentials: received.credentials, debug_trace: false };
    let settings = UploaderSettings {
        final_update_retry_limit: 10,
        budget: PatchBudget::default(),
        give_up: CancellationToken::new(),
    };
    let (uploader, handle) = Uploader::new(api, sink.clone(), settings);
    let run = uploader.run();
    assert!(size_of_val(&run) < 16 * 1024, "hundreds of jobs have one each: {} bytes", size_of_val(&run));
    let mut tasks = JoinSet::new();
    tasks.spawn(run);
    Running { sandbox, job, sink, handle, _tasks: tasks }
}

#[tokio::test]
async fn a_trace_of_megabytes_with_a_secret_arrives_exactly_through_lost_answers_and_errors() {
    let running = running(SandboxJob::new("long", &["true"]).completes_after(1).refuses_trace(1)).await;
    let Running { sandbox, job, sink, handle, .. } = running;
    sandbox.faults().add(Fault::new(On::PatchTrace, FaultKind::LostAfter).times(1));
    sandbox.faults().add(Fault::status(On::PatchTrace, 502).times(2));
    sandbox.faults().add(Fault::new(On::UpdateJob, FaultKind::LostBefore).times(1));
    sink.add_masks(["hunter2hunter2"]);
    sink.plain("header");
    for number in 0..40_000 {
        sink.write(Stream::Stdout, format!("line {number} with hunter2").as_bytes());
        sink.write(Stream::Stdout, b"hunter2 in two writes\n");
    }
    let outcome = handle.finish(FinalUpdate::Success).await;
    assert_eq!(outcome, FinalOutcome::Accepted);
    let report = job.wait_final(LIMIT).await.unwrap();
    assert_eq!((report.status, report.trace_check), (JobStatus::Success, TraceCheck::Matches));
    assert_eq!(report.violations, Vec::<String>::new());
    let trace = String::from_utf8(job.trace()).unwrap();
    assert_eq!(trace.matches("with [MASKED] in two writes\n").count(), 40_000);
    assert!(!trace.contains("hunter2"));
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_and_the_failure_gitlab() {
    let Running { sandbox, job, sink, handle, _tasks } = running(SandboxJob::new("cancelled", &["sleep 60"])).await;
    let mut cancel = handle.cancel_state();
    sandbox.cancel(job.id());
    sink.plain("header");
    tokio::time::timeout(LIMIT, cancel.changed()).await.unwrap().unwrap();
    assert_eq!(*cancel.borrow(), CancelState::Canceling);
    let failed = FinalUpdate::Failed { failure_reason: "job_canceled".to_owned(), exit_code: None };
    assert_eq!(handle.finish(failed).await, FinalOutcome::Accepted);
    let report = job.wait_final(LIMIT).await.unwrap();
    assert_eq!(report.failure_reason, "job_canceled");
    assert_eq!(report.trace_check, TraceCheck::Matches);
}

#[tokio::test]
async fn a_job_that_gitlab_has_ended_is_not_argued_about() {
    let running = running(SandboxJob::new("too long", &["yes"]).trace_limit(1_000)).await;
    let mut cancel = running.handle.cancel_state();
    running.sink.write(Stream::Stdout, "too much\n".repeat(1_000).as_bytes());
    tokio::time::timeout(LIMIT, cancel.changed()).await.unwrap().unwrap();
    assert_eq!(*cancel.borrow(), CancelState::Aborted);
    let failed = FinalUpdate::Failed { failure_reason: "script_failure".to_owned(), exit_code: Some(1) };
    assert_eq!(running.handle.finish(failed).await, FinalOutcome::Refused);
}
