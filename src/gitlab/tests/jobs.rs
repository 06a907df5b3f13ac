//! Telling states and sending traces: the sequences of a job's life.

use std::time::Duration;

use bytes::Bytes;

use super::{LIMIT, client, client_with, final_update, loopback, options, receive, sandbox, update};
use crate::gitlab::JobCredentials;
use crate::gitlab::observer::Endpoint;
use crate::gitlab::outcome::{PatchOutcome, UpdateOutcome};
use crate::gitlab::wire::{Features, JobState};
use crate::sandbox::{Fault, FaultKind, JobStatus, On, Options, RUNNER_TOKEN, Sandbox, SandboxJob, TraceCheck};

fn patch(content: &str) -> Bytes {
    Bytes::copy_from_slice(content.as_bytes())
}

#[tokio::test]
async fn a_normal_job_is_acknowledged_sent_and_finished() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;

    let acknowledged = client.update_job(&credentials, &update(&client, JobState::Running)).await;
    assert_eq!((acknowledged.outcome, acknowledged.status), (UpdateOutcome::Succeeded, Some(200)));
    assert_eq!(acknowledged.trace_update_interval, Some(Duration::from_secs(3)));
    let first = client.patch_trace(&credentials, 0, patch("one "), false).await;
    assert_eq!(first.outcome, PatchOutcome::Succeeded { sent_to: 4 });
    let second = client.patch_trace(&credentials, 4, patch("two"), true).await;
    assert_eq!(second.outcome, PatchOutcome::Succeeded { sent_to: 7 });
    let finished = client.update_job(&credentials, &final_update(&client, JobState::Success, b"one two")).await;
    assert_eq!(finished.outcome, UpdateOutcome::Succeeded);

    let report = job.wait_final(LIMIT).await.unwrap();
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.trace_check, TraceCheck::Matches);
    assert_eq!(report.violations, Vec::<String>::new());
    assert_eq!(job.trace(), b"one two");
    let statuses: Vec<JobStatus> = report.history.iter().map(|moment| moment.status).collect();
    assert_eq!(statuses, [JobStatus::Queued, JobStatus::Offered, JobStatus::Running, JobStatus::Success]);

    let requests = sandbox.requests();
    let lines: Vec<String> = requests.iter().map(|request| format!("{} {}", request.method, request.uri)).collect();
    let expected = [
        "POST /api/v4/jobs/request",
        "PUT /api/v4/jobs/1",
        "PATCH /api/v4/jobs/1/trace?debug_trace=false",
        "PATCH /api/v4/jobs/1/trace?debug_trace=true",
        "PUT /api/v4/jobs/1",
    ];
    assert_eq!(lines, expected);
    assert!(requests[1].body.contains(r#""output":{}"#), "{}", requests[1].body);
    assert!(
        !requests[1].body.contains("\"checksum\"") && !requests[1].body.contains("\"exit_code\""),
        "{}",
        requests[1].body
    );
    assert_ne!(requests[1].header("accept"), Some("application/json"));
    assert_eq!(requests[2].header("content-range"), Some("0-3"));
    assert_eq!(requests[3].header("content-range"), Some("4-6"));
    assert_eq!(requests[3].header("content-type"), Some("text/plain"));
    assert_eq!(requests[3].header("job-token"), Some(credentials.token.expose()));
    assert_eq!(requests[3].header("runner-token"), None);
    assert!(requests[4].body.contains(r#""checksum":"crc32:"#) && requests[4].body.contains(r#""bytesize":7"#));
}

#[tokio::test]
async fn a_failure_carries_its_reason_and_exit_code() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("fails", &["exit 3"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    let mut failed = update(&client, JobState::Failed);
    failed.failure_reason = Some("script_failure".to_owned());
    failed.exit_code = Some(3);
    assert_eq!(client.update_job(&credentials, &failed).await.outcome, UpdateOutcome::Succeeded);
    let report = job.report().unwrap();
    assert_eq!(
        (report.status, report.failure_reason.as_str(), report.exit_code),
        (JobStatus::Failed, "script_failure", 3)
    );
}

#[tokio::test]
async fn an_empty_patch_is_no_request() {
    let sandbox = sandbox().await;
    let credentials = JobCredentials { id: crate::ids::JobId(1), token: "x".into() };
    let result = client(&sandbox).patch_trace(&credentials, 7, Bytes::new(), false).await;
    assert_eq!(result.outcome, PatchOutcome::Succeeded { sent_to: 7 });
    assert_eq!(sandbox.requests().len(), 0);
}

#[tokio::test]
async fn pending_keeps_an_offer_and_running_takes_it() {
    let options = Options { offer_ttl: Duration::from_secs(60), ..options() };
    let sandbox = Sandbox::start_with(loopback(), options).await.unwrap();
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    let pending = client.update_job(&credentials, &update(&client, JobState::Pending)).await;
    assert_eq!((pending.outcome, pending.status), (UpdateOutcome::Succeeded, Some(200)));
    assert_eq!(job.report().unwrap().status, JobStatus::Offered);
    let running = client.update_job(&credentials, &update(&client, JobState::Running)).await;
    assert_eq!(running.outcome, UpdateOutcome::Succeeded);
    let late = client.update_job(&credentials, &update(&client, JobState::Pending)).await;
    assert_eq!((late.outcome, late.status), (UpdateOutcome::Conflict, Some(409)));
    assert_eq!(job.report().unwrap().status, JobStatus::Running);
}

#[tokio::test]
async fn a_server_without_two_phase_commit_refuses_pending_with_400() {
    let sandbox = Sandbox::start_with(loopback(), Options { two_phase: false, ..options() }).await.unwrap();
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    let pending = client.update_job(&credentials, &update(&client, JobState::Pending)).await;
    assert_eq!((pending.outcome, pending.status), (UpdateOutcome::StateRefused, Some(400)));
    let running = client.update_job(&credentials, &update(&client, JobState::Running)).await;
    assert_eq!(running.outcome, UpdateOutcome::Succeeded);
}

#[tokio::test]
async fn an_offer_that_lapsed_is_refused() {
    let sandbox = Sandbox::start_with(loopback(), Options { offer_ttl: Duration::ZERO, ..options() }).await.unwrap();
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    let late = client.update_job(&credentials, &update(&client, JobState::Running)).await;
    assert_eq!((late.outcome, late.status), (UpdateOutcome::Aborted, Some(403)));
}

#[tokio::test]
async fn a_live_trace_is_accepted_until_it_is_complete() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]).completes_after(2));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    let finished = final_update(&client, JobState::Success, b"");
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(client.update_job(&credentials, &finished).await.outcome);
    }
    let accepted = UpdateOutcome::AcceptedNotCompleted;
    assert_eq!(outcomes, [accepted, accepted, UpdateOutcome::Succeeded]);
    assert_eq!(job.report().unwrap().status, JobStatus::Success);
}

#[tokio::test]
async fn a_trace_that_was_refused_is_sent_again_from_its_start() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]).refuses_trace(1));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    client.patch_trace(&credentials, 0, patch("trace"), false).await;
    let finished = final_update(&client, JobState::Success, b"trace");
    assert_eq!(client.update_job(&credentials, &finished).await.outcome, UpdateOutcome::TraceValidationFailed);
    let again = client.patch_trace(&credentials, 0, patch("trace"), false).await;
    assert_eq!(again.outcome, PatchOutcome::Succeeded { sent_to: 5 });
    assert_eq!(client.update_job(&credentials, &finished).await.outcome, UpdateOutcome::Succeeded);
    assert_eq!(job.report().unwrap().trace_check, TraceCheck::Matches);
}

#[tokio::test]
async fn a_patch_at_the_wrong_place_learns_the_right_one() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    client.patch_trace(&credentials, 0, patch("0123"), false).await;
    let ahead = client.patch_trace(&credentials, 6, patch("6789"), false).await;
    assert_eq!(ahead.outcome, PatchOutcome::RangeMismatch { server_has: 4 });
    let right = client.patch_trace(&credentials, 4, patch("456789"), false).await;
    assert_eq!(right.outcome, PatchOutcome::Succeeded { sent_to: 10 });
    assert_eq!(job.trace(), b"0123456789");
}

#[tokio::test]
async fn a_patch_whose_answer_was_lost_is_found_at_the_server() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    sandbox.faults().add(Fault::new(On::PatchTrace, FaultKind::LostAfter).times(1));
    let lost = client.patch_trace(&credentials, 0, patch("abc"), false).await;
    assert_eq!(lost.outcome, PatchOutcome::Failed);
    let again = client.patch_trace(&credentials, 0, patch("abc"), false).await;
    assert_eq!(again.outcome, PatchOutcome::RangeMismatch { server_has: 3 });
    assert_eq!(job.trace(), b"abc");
}

#[tokio::test]
async fn patches_mean_what_the_table_says() {
    let sandbox = sandbox().await;
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    let answers = [
        (Fault::status(On::PatchTrace, 404), PatchOutcome::NotFound),
        (Fault::status(On::PatchTrace, 403), PatchOutcome::Aborted),
        (Fault::status(On::PatchTrace, 202).header("Job-Status", "canceled"), PatchOutcome::Aborted),
        (Fault::status(On::PatchTrace, 202).header("Job-Status", "failed"), PatchOutcome::Aborted),
        (Fault::status(On::PatchTrace, 416), PatchOutcome::RangeMismatch { server_has: 0 }),
        (Fault::status(On::PatchTrace, 416).header("Range", "0-400"), PatchOutcome::RangeMismatch { server_has: 400 }),
        (Fault::status(On::PatchTrace, 400), PatchOutcome::Failed),
        (Fault::status(On::PatchTrace, 200), PatchOutcome::Failed),
        (Fault::new(On::PatchTrace, FaultKind::LostBefore), PatchOutcome::Failed),
    ];
    for (fault, expected) in answers {
        let shown = format!("{fault:?}");
        sandbox.faults().clear();
        sandbox.faults().add(fault);
        assert_eq!(client.patch_trace(&credentials, 0, patch("x"), false).await.outcome, expected, "{shown}");
    }
}

#[tokio::test]
async fn a_throttled_patch_tells_how_long_to_wait() {
    let sandbox = sandbox().await;
    let credentials = JobCredentials { id: crate::ids::JobId(1), token: "x".into() };
    sandbox.faults().add(Fault::status(On::Every, 429).header("Retry-After", "60"));
    let client = client(&sandbox);
    let patched = client.patch_trace(&credentials, 0, patch("x"), false).await;
    assert_eq!((patched.outcome, patched.retry_after), (PatchOutcome::Failed, Some(Duration::from_secs(60))));
    let updated = client.update_job(&credentials, &update(&client, JobState::Running)).await;
    assert_eq!((updated.outcome, updated.retry_after), (UpdateOutcome::Failed, Some(Duration::from_secs(60))));
}

#[tokio::test]
async fn an_interval_that_is_no_number_is_passed_over() {
    let sandbox = sandbox().await;
    let credentials = JobCredentials { id: crate::ids::JobId(1), token: "x".into() };
    let client = client(&sandbox);
    for (interval, expected) in [("60", Some(Duration::from_secs(60))), ("soon", None), ("0", None), ("-3", None)] {
        sandbox.faults().clear();
        sandbox.faults().add(Fault::status(On::Every, 202).header("X-GitLab-Trace-Update-Interval", interval));
        let patched = client.patch_trace(&credentials, 0, patch("x"), false).await;
        assert_eq!(patched.trace_update_interval, expected, "{interval}");
    }
}

#[tokio::test]
async fn a_graceful_cancel_lets_the_job_end_by_itself() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["sleep 60"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    job.cancel();
    let patched = client.patch_trace(&credentials, 0, patch("a"), false).await;
    assert_eq!((patched.outcome, patched.cancel_requested), (PatchOutcome::Succeeded { sent_to: 1 }, true));
    let alive = client.update_job(&credentials, &update(&client, JobState::Running)).await;
    assert_eq!((alive.outcome, alive.cancel_requested), (UpdateOutcome::Succeeded, true));
    let failed = final_update(&client, JobState::Failed, b"a");
    assert_eq!(client.update_job(&credentials, &failed).await.outcome, UpdateOutcome::Succeeded);
    let report = job.report().unwrap();
    assert_eq!(report.status, JobStatus::Canceled);
    assert_eq!(report.violations, Vec::<String>::new());
}

#[tokio::test]
async fn a_hard_cancel_aborts_every_call() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["sleep 60"]));
    let (client, calls) = client_with(&sandbox.url(), RUNNER_TOKEN, Features::default());
    let credentials = receive(&client).await.credentials;
    job.cancel();
    let patched = client.patch_trace(&credentials, 0, patch("a"), false).await;
    assert_eq!((patched.outcome, patched.cancel_requested), (PatchOutcome::Aborted, false));
    let failed = client.update_job(&credentials, &update(&client, JobState::Failed)).await;
    assert_eq!((failed.outcome, failed.status), (UpdateOutcome::Aborted, Some(403)));
    let told = calls.0.lock().unwrap().clone();
    assert_eq!(told[1], (Endpoint::PatchTrace, "patch", Some(403), 1, "/api/v4/jobs/{id}/trace".to_owned()));
}

#[tokio::test]
async fn a_foreign_token_is_refused() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    receive(&client).await;
    let foreign = JobCredentials { id: job.id(), token: "other".into() };
    assert_eq!(client.update_job(&foreign, &update(&client, JobState::Running)).await.outcome, UpdateOutcome::Aborted);
    assert_eq!(client.patch_trace(&foreign, 0, patch("a"), false).await.outcome, PatchOutcome::Aborted);
}

#[tokio::test]
async fn a_trace_larger_than_the_project_allows_ends_the_job() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("loud", &["yes"]).trace_limit(4));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    let result = client.patch_trace(&credentials, 0, patch("12345"), false).await;
    assert_eq!(result.outcome, PatchOutcome::Aborted);
    assert_eq!(job.report().unwrap().status, JobStatus::Failed);
}

#[tokio::test]
async fn a_wrong_checksum_and_calls_after_the_end_are_noted() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    client.patch_trace(&credentials, 0, patch("abc"), false).await;
    client.update_job(&credentials, &final_update(&client, JobState::Success, b"abd")).await;
    client.patch_trace(&credentials, 3, patch("d"), false).await;
    let report = job.report().unwrap();
    assert_eq!(report.trace_check, TraceCheck::Differs);
    assert_eq!(report.violations.len(), 2, "{:?}", report.violations);
}

#[tokio::test]
async fn the_same_job_can_be_handed_out_twice() {
    let sandbox = sandbox().await;
    sandbox.enqueue(SandboxJob::new("twice", &["true"]).handed_out(2));
    let client = client(&sandbox);
    assert_eq!(receive(&client).await.credentials, receive(&client).await.credentials);
}

#[tokio::test]
async fn jobs_and_requests_at_once_are_counted() {
    let sandbox = Sandbox::start_with(loopback(), Options { hold: LIMIT, ..Options::default() }).await.unwrap();
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    receive(&client).await;
    client.request_job(crate::gitlab::Poll::Held).await;
    let held = client.request_job(crate::gitlab::Poll::Held);
    let cut = async {
        let mut seen = 0;
        while sandbox.requests().len() < 3 {
            sandbox.changed(&mut seen).await;
        }
        sandbox.faults().cut_connections();
    };
    tokio::join!(held, cut);
    let peaks = sandbox.peaks();
    assert_eq!((peaks.running_jobs, peaks.open_requests, peaks.jobs_and_requests), (1, 1, 2));
}
