//! Asking for jobs.

use std::time::Duration;

use super::{LIMIT, client, client_with, features, loopback, options, receive, sandbox};
use crate::gitlab::observer::Endpoint;
use crate::gitlab::outcome::RequestOutcome;
use crate::gitlab::retry::LONGEST_WAIT;
use crate::gitlab::{COMPATIBLE_VERSION, Poll};
use crate::sandbox::{Fault, FaultKind, JobStatus, On, Options, RUNNER_TOKEN, Sandbox, SandboxJob};
use crate::time;

#[tokio::test]
async fn a_request_says_who_asks_and_a_201_is_the_job() {
    let sandbox = sandbox().await;
    let job = sandbox.enqueue(SandboxJob::new("hello", &["echo hello"]).variable("A", "b"));
    let received = receive(&client(&sandbox)).await;
    assert_eq!(received.credentials.id, job.id());
    assert_eq!(received.payload.id, job.id().0);
    assert!(!received.credentials.token.is_empty());
    assert_eq!(received.payload.steps.len(), 1);
    assert_eq!(received.payload.notes, []);

    let requests = sandbox.requests();
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.uri.as_str()), ("POST", "/api/v4/jobs/request"));
    assert_eq!(request.header("runner-token"), Some(RUNNER_TOKEN));
    assert_eq!(request.header("accept"), Some("application/json"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(
        request.header("user-agent").unwrap().starts_with(&format!("gitlab-runner {COMPATIBLE_VERSION} (flotilla-"))
    );
    assert_eq!(request.header("x-request-id"), Some(received.correlation_id.as_str()));
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body["token"], RUNNER_TOKEN);
    assert_eq!(body["system_id"], "s_0123456789ab");
    assert_eq!(body["info"]["name"], "gitlab-runner");
    assert_eq!(body["info"]["version"], COMPATIBLE_VERSION);
    assert_eq!(body["info"]["executor"], "docker-autoscaler");
    assert_eq!(body["info"]["config"]["gpus"], "");
    assert!(body.get("last_update").is_none());
}

#[tokio::test]
async fn all_features_are_named_in_the_references_order() {
    let sandbox = sandbox().await;
    client(&sandbox).request_job(Poll::AtOnce).await;
    let body = sandbox.requests()[0].body.clone();
    let names = "variables image services artifacts cache fallback_cache_keys shared upload_multiple_artifacts \
        upload_raw_artifacts session terminal refspecs masking proxy raw_variables artifacts_exclude multi_build_steps \
        trace_reset trace_checksum trace_size vault_secrets cancelable return_exit_code service_variables \
        service_multiple_aliases image_executor_opts service_executor_opts cancel_gracefully native_steps_integration \
        two_phase_job_commit job_inputs";
    let places: Vec<usize> = names.split_whitespace().map(|name| body.find(&format!("\"{name}\":")).unwrap()).collect();
    assert_eq!(places.len(), 31);
    assert!(places.is_sorted());
}

#[tokio::test]
async fn last_update_is_echoed_only_when_the_request_may_be_held() {
    let sandbox = sandbox().await;
    let client = client(&sandbox);
    let first = client.request_job(Poll::Held).await;
    assert!(matches!(first.outcome, RequestOutcome::NoJob) && !first.held, "there is no news to name yet");
    let started = time::now().instant;
    let at_once = client.request_job(Poll::AtOnce).await;
    assert!(matches!(at_once.outcome, RequestOutcome::NoJob) && !at_once.held);
    assert!(started.elapsed() < options().hold, "a request without last_update is answered at once");
    let held = client.request_job(Poll::Held).await;
    assert!(matches!(held.outcome, RequestOutcome::NoJob) && held.held);
    assert!(started.elapsed() >= options().hold, "a request with it is held");
    let echoes: Vec<bool> = sandbox.requests().iter().map(|request| request.body.contains("\"last_update\"")).collect();
    assert_eq!(echoes, [false, false, true]);
}

#[tokio::test]
async fn news_end_a_held_request_and_the_next_one_brings_the_job() {
    let options = Options { hold: LIMIT, ..Options::default() };
    let sandbox = Sandbox::start_with(loopback(), options).await.unwrap();
    let client = client(&sandbox);
    client.request_job(Poll::Held).await;
    let held = client.request_job(Poll::Held);
    let enqueue = async {
        let mut seen = 0;
        while sandbox.requests().len() < 2 {
            sandbox.changed(&mut seen).await;
        }
        sandbox.enqueue(SandboxJob::new("late", &["true"]))
    };
    let (held, job) = tokio::join!(held, enqueue);
    assert!(matches!(held.outcome, RequestOutcome::NoJob));
    let RequestOutcome::Job(received) = client.request_job(Poll::Held).await.outcome else { panic!("no job") };
    assert_eq!(received.credentials.id, job.id());
}

#[tokio::test]
async fn refusals_mean_what_the_table_says() {
    let sandbox = sandbox().await;
    let client = client(&sandbox);
    for (status, expected, healthy) in [
        (204, "NoJob", true),
        (403, "Forbidden", false),
        (409, "Conflict", true),
        (422, "Orphaned", true),
        (400, "Failed", true),
        (404, "Failed", true),
        (410, "Failed", true),
        (501, "Failed", true),
    ] {
        sandbox.faults().add(Fault::status(On::RequestJob, status).times(1));
        let result = client.request_job(Poll::AtOnce).await;
        assert!(format!("{:?}", result.outcome).starts_with(expected), "{status}: {:?}", result.outcome);
        assert_eq!(result.outcome.is_healthy(), healthy, "{status}");
        assert!(!result.pushed_back, "{status}");
    }
}

#[tokio::test]
async fn an_unknown_token_is_forbidden() {
    let sandbox = sandbox().await;
    let (client, _) = client_with(&sandbox.url(), "glrt-unknown", features());
    assert!(matches!(client.request_job(Poll::AtOnce).await.outcome, RequestOutcome::Forbidden));
}

#[tokio::test]
async fn a_refusal_of_the_moment_is_tried_five_times() {
    let sandbox = sandbox().await;
    let (client, calls) = client_with(&sandbox.url(), RUNNER_TOKEN, features());
    sandbox.faults().add(Fault::status(On::RequestJob, 503));
    let result = client.request_job(Poll::AtOnce).await;
    assert!(matches!(result.outcome, RequestOutcome::Unavailable));
    assert!(result.pushed_back);
    assert_eq!(sandbox.requests().len(), 5);
    let told = calls.0.lock().unwrap().clone();
    assert_eq!(told, [(Endpoint::RequestJob, "post", Some(503), 5, "/api/v4/jobs/request".to_owned())]);
}

#[tokio::test]
async fn a_success_after_refusals_is_the_job_and_tells_the_push_back() {
    let sandbox = sandbox().await;
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    sandbox.faults().add(Fault::status(On::RequestJob, 502).times(2));
    let result = client(&sandbox).request_job(Poll::AtOnce).await;
    assert!(matches!(result.outcome, RequestOutcome::Job(_)));
    assert!(result.pushed_back);
    let ids: std::collections::BTreeSet<String> =
        sandbox.requests().iter().map(|request| request.headers["x-request-id"].clone()).collect();
    assert_eq!(ids.len(), 3, "each try has an id of its own");
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    let sandbox = sandbox().await;
    sandbox.faults().add(Fault::status(On::RequestJob, 429).header("Retry-After", "1").times(1));
    let started = time::now().instant;
    let result = client(&sandbox).request_job(Poll::AtOnce).await;
    assert!(matches!(result.outcome, RequestOutcome::NoJob));
    assert!(result.pushed_back);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_long_retry_after_is_the_callers() {
    let sandbox = sandbox().await;
    sandbox.faults().add(Fault::status(On::RequestJob, 429).header("Retry-After", "60"));
    let started = time::now().instant;
    let result = client(&sandbox).request_job(Poll::AtOnce).await;
    assert!(matches!(result.outcome, RequestOutcome::Throttled));
    assert_eq!(result.retry_after, Some(Duration::from_secs(60)));
    assert!(started.elapsed() < LONGEST_WAIT);
    assert_eq!(sandbox.requests().len(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once_and_passes() {
    let sandbox = sandbox().await;
    let client = client(&sandbox);
    client.request_job(Poll::AtOnce).await;
    sandbox.faults().refuse_connections();
    let mut refused = 0;
    for _ in 0..3 {
        let result = client.request_job(Poll::AtOnce).await;
        assert!(result.outcome.is_healthy());
        refused += u32::from(matches!(result.outcome, RequestOutcome::Failed { status: None, .. }));
    }
    assert_eq!(refused, 3);
    sandbox.faults().take_connections();
    let back = async {
        while !matches!(client.request_job(Poll::AtOnce).await.outcome, RequestOutcome::NoJob) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, back).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_no_job_and_two_phase_commit_queues_the_job_again() {
    let options = Options { offer_ttl: Duration::from_millis(50), ..options() };
    let sandbox = Sandbox::start_with(loopback(), options).await.unwrap();
    let job = sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let client = client(&sandbox);
    sandbox.faults().add(Fault::new(On::RequestJob, FaultKind::LostAfter).times(1));
    let lost = client.request_job(Poll::AtOnce).await;
    assert!(matches!(lost.outcome, RequestOutcome::Failed { status: None, .. }), "{:?}", lost.outcome);
    assert_eq!(job.report().unwrap().status, JobStatus::Offered);
    let again = async {
        loop {
            if let RequestOutcome::Job(received) = client.request_job(Poll::AtOnce).await.outcome {
                break received;
            }
        }
    };
    let received = tokio::time::timeout(LIMIT, again).await.unwrap();
    assert_eq!(received.credentials.id, job.id());
    assert_eq!(job.report().unwrap().handed_out, 2);
}

#[tokio::test]
async fn a_job_that_breaks_off_or_cannot_be_read_is_still_named() {
    let sandbox = sandbox().await;
    let client = client(&sandbox);
    let whole = SandboxJob::new("hello", &["true"]);
    for (job, after) in [
        (SandboxJob::new("broken", &[]).raw_body(r#"{"id":{id},"token":"{token}","steps":[{]}"#), None),
        (
            SandboxJob::new("cut", &[]).raw_body(r#"{"id":{id},"token":"{token}","steps":[{"name":"script"}]}"#),
            Some(60),
        ),
        (whole.with(|payload| payload["id"] = 0.into()).raw_body(r#"{"token":"{token}","id":"{id}","#), None),
    ] {
        let job = sandbox.enqueue(job);
        if let Some(after) = after {
            sandbox.faults().add(Fault::new(On::RequestJob, FaultKind::BreaksOff { after }).times(1));
        }
        let outcome = client.request_job(Poll::AtOnce).await.outcome;
        let RequestOutcome::Undecodable { job: Some(named), error } = outcome else { panic!("{outcome:?}") };
        assert_eq!(named.id, job.id());
        assert!(!error.is_empty());
    }
    sandbox.enqueue(SandboxJob::new("nothing", &[]).raw_body("<html>"));
    let outcome = client.request_job(Poll::AtOnce).await.outcome;
    assert!(matches!(outcome, RequestOutcome::Undecodable { job: None, .. }), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_in_small_pieces_is_read_to_its_end() {
    let sandbox = sandbox().await;
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    let slow = FaultKind::SlowBytes { piece: 512, every: Duration::from_millis(5) };
    sandbox.faults().add(Fault::new(On::RequestJob, slow));
    assert_eq!(receive(&client(&sandbox)).await.payload.steps.len(), 1);
}

#[tokio::test]
async fn the_servers_request_id_becomes_the_correlation_id() {
    let sandbox = sandbox().await;
    let body = r#"{"id":1,"token":"x"}"#;
    sandbox.faults().add(Fault::status(On::RequestJob, 201).header("X-Request-Id", "theirs").body(body));
    assert_eq!(receive(&client(&sandbox)).await.correlation_id, "theirs");
}

#[tokio::test]
async fn a_redirect_within_the_server_is_followed_with_body_and_tokens() {
    let sandbox = sandbox().await;
    sandbox.enqueue(SandboxJob::new("hello", &["true"]));
    sandbox.faults().add(Fault::status(On::RequestJob, 307).header("Location", "/api/v4/jobs/request").times(1));
    receive(&client(&sandbox)).await;
    let requests = sandbox.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(requests[1].header("runner-token"), Some(RUNNER_TOKEN));
}

#[tokio::test]
async fn a_redirect_to_another_server_gets_neither_body_nor_tokens() {
    let (sandbox, other) = (sandbox().await, sandbox().await);
    let client = client(&sandbox);
    let target = format!("{}/api/v4/jobs/request", other.url());
    sandbox.faults().add(Fault::status(On::RequestJob, 308).header("Location", &target).times(1));
    let outcome = client.request_job(Poll::AtOnce).await.outcome;
    assert!(matches!(outcome, RequestOutcome::Failed { status: Some(308), .. }), "{outcome:?}");
    assert_eq!(other.requests().len(), 0);

    sandbox.faults().add(Fault::status(On::RequestJob, 302).header("Location", &target).times(1));
    client.request_job(Poll::AtOnce).await;
    let request = &other.requests()[0];
    assert_eq!((request.method.as_str(), request.body.as_str()), ("GET", ""));
    assert_eq!(request.header("runner-token"), None);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let sandbox = sandbox().await;
    sandbox.faults().add(Fault::status(On::RequestJob, 307).header("Location", "/api/v4/jobs/request"));
    let outcome = client(&sandbox).request_job(Poll::AtOnce).await.outcome;
    assert!(matches!(outcome, RequestOutcome::Failed { status: None, .. }), "{outcome:?}");
    assert_eq!(sandbox.requests().len(), 11);
}
