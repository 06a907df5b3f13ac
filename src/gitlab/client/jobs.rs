//! Calls about jobs: asking for one, reporting its state, sending its trace.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::super::call::{Call, Reply};
use super::super::credentials::JobCredentials;
use super::super::observer::Endpoint;
use super::super::outcome::{
    JobUpdate, PatchOutcome, PatchResult, ReceivedJob, RequestOutcome, RequestResult, UpdateOutcome, UpdateResult,
};
use super::super::wire::{JobPayload, JobRequest, JobState, Output, UpdateRequest, header};
use super::super::{salvage, transport};
use super::{Answered, Client, Poll, json_body, told};
use crate::error_chain::Chain;
use crate::ids::JobId;

/// A held request takes 50 s by default, and an operator of GitLab may lengthen that.
const HELD_ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// One that is answered at once holds a permit that other runners wait for.
const ANSWER_AT_ONCE_WITHIN: Duration = Duration::from_secs(30);
/// What is believed of the server's wish for the time between two patches of a trace.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Payloads carry all variables of a job; the largest known are a few megabytes.
const PAYLOAD_LIMIT: usize = 64 << 20;

impl Client {
    /// `POST jobs/request`: asks for one job.
    pub async fn request_job(&self, poll: Poll) -> RequestResult {
        let last_update = match poll {
            Poll::Held => self.last_update().unwrap_or_default(),
            Poll::AtOnce => String::new(),
        };
        let may_be_held = !last_update.is_empty();
        let body = JobRequest {
            info: self.inner.info.clone(),
            token: self.inner.token.clone(),
            system_id: self.inner.system_id.clone(),
            last_update,
        };
        let mut call = Call::new(Method::POST, "jobs/request")
            .token(header::RUNNER_TOKEN, &self.inner.token)
            .body("application/json", json_body(&body))
            .accept_json();
        call.answer_within = if may_be_held { HELD_ANSWER_WITHIN } else { ANSWER_AT_ONCE_WITHIN };
        call.body_limit = PAYLOAD_LIMIT;
        let answered = self.send(Endpoint::RequestJob, &call).await;
        RequestResult {
            pushed_back: answered.pushed_back,
            held: may_be_held && answered.reply.as_ref().is_ok_and(holds_requests),
            retry_after: answered.reply.as_ref().ok().and_then(|reply| reply.retry_after),
            outcome: request_outcome(&answered),
        }
    }

    /// `PUT jobs/:id`: tells a job's state. [`JobState::Pending`](crate::gitlab::wire::JobState) keeps a job
    /// that waits for its instance, where the server knows two-phase commit.
    pub async fn update_job(&self, job: &JobCredentials, update: &JobUpdate) -> UpdateResult {
        let checksum = update.checksum.clone().unwrap_or_default();
        let body = UpdateRequest {
            info: update.info.clone(),
            token: job.token.clone(),
            state: update.state,
            failure_reason: update.failure_reason.clone().unwrap_or_default(),
            output: Output { checksum: checksum.clone(), bytesize: update.bytesize.unwrap_or_default() },
            checksum,
            exit_code: update.exit_code.unwrap_or_default(),
        };
        let call = Call::new(Method::PUT, format!("jobs/{}", job.id))
            .token(header::JOB_TOKEN, &job.token)
            .body("application/json", json_body(&body))
            .without_answer_body();
        let answered = self.send(Endpoint::UpdateJob, &call).await;
        let Ok(reply) = &answered.reply else {
            told::updated(&answered, UpdateOutcome::Failed, None);
            return UpdateResult {
                outcome: UpdateOutcome::Failed,
                cancel_requested: false,
                trace_update_interval: None,
                retry_after: None,
                status: None,
            };
        };
        let notice = Notice::of(reply);
        let outcome = update_outcome(update.state, reply.status, &notice);
        told::updated(&answered, outcome, notice.trace_update_interval);
        UpdateResult {
            outcome,
            cancel_requested: notice.cancel_requested,
            trace_update_interval: notice.trace_update_interval,
            retry_after: reply.retry_after,
            status: Some(reply.status.as_u16()),
        }
    }

    /// `PATCH jobs/:id/trace`: sends the trace's bytes from position `start`, at most 1 MiB at once.
    /// `debug_trace` tells that the job shows its variables, which restricts who may read it.
    pub async fn patch_trace(
        &self,
        job: &JobCredentials,
        start: u64,
        content: Bytes,
        debug_trace: bool,
    ) -> PatchResult {
        let end = start + content.len() as u64;
        let failed = PatchResult {
            outcome: PatchOutcome::Failed,
            cancel_requested: false,
            trace_update_interval: None,
            retry_after: None,
        };
        if content.is_empty() {
            return PatchResult { outcome: PatchOutcome::Succeeded { sent_to: start }, ..failed };
        }
        let sent = format!("{start}-{}", end - 1);
        let Ok(range) = HeaderValue::try_from(&sent) else { return failed };
        let mut call = Call::new(Method::PATCH, format!("jobs/{}/trace", job.id))
            .token(header::JOB_TOKEN, &job.token)
            .header(CONTENT_RANGE, range)
            .body("text/plain", content)
            .without_answer_body();
        call.query = Some(format!("debug_trace={debug_trace}"));
        let answered = self.send(Endpoint::PatchTrace, &call).await;
        let Ok(reply) = &answered.reply else {
            told::patched(&answered, failed.outcome, &sent, None);
            return failed;
        };
        let notice = Notice::of(reply);
        let outcome = patch_outcome(reply, &notice, end);
        told::patched(&answered, outcome, &sent, notice.trace_update_interval);
        PatchResult {
            outcome,
            cancel_requested: notice.cancel_requested,
            trace_update_interval: notice.trace_update_interval,
            retry_after: reply.retry_after,
        }
    }
}

fn holds_requests(reply: &Reply) -> bool {
    transport::text(&reply.headers, header::BUILDS_POLLING).is_some_and(|value| value.eq_ignore_ascii_case("yes"))
}

fn request_outcome(answered: &Answered) -> RequestOutcome {
    match answered.status() {
        Some(201) => answered.reply.as_ref().map_or_else(|_| failed(answered), |reply| job(reply, answered)),
        Some(204) => RequestOutcome::NoJob,
        Some(403) => RequestOutcome::Forbidden,
        Some(409) => RequestOutcome::Conflict,
        Some(422) => RequestOutcome::Orphaned,
        Some(429) => RequestOutcome::Throttled,
        Some(503) => RequestOutcome::Unavailable,
        Some(_) | None => failed(answered),
    }
}

fn failed(answered: &Answered) -> RequestOutcome {
    RequestOutcome::Failed { status: answered.status(), message: answered.message() }
}

/// The job of a 201. Whatever is wrong with it, it was handed out: it is never just dropped.
fn job(reply: &Reply, answered: &Answered) -> RequestOutcome {
    let undecodable = |error: String| RequestOutcome::Undecodable { job: salvage::credentials(&reply.body), error };
    if reply.body_error.is_some() {
        return undecodable(answered.message());
    }
    match JobPayload::decode(&reply.body) {
        Ok(payload) => RequestOutcome::Job(Box::new(ReceivedJob {
            credentials: JobCredentials { id: JobId(payload.id), token: payload.token.clone() },
            payload,
            correlation_id: reply.correlation_id.clone(),
            tls: reply.job_tls(),
        })),
        Err(error) => undecodable(Chain(&error).to_string()),
    }
}

/// What the headers of an answer about a job say.
#[derive(Debug)]
struct Notice {
    /// The job is cancelled or failed at GitLab: not ours any more.
    ended: bool,
    cancel_requested: bool,
    trace_update_interval: Option<Duration>,
}

impl Notice {
    fn of(reply: &Reply) -> Self {
        let status = transport::text(&reply.headers, header::JOB_STATUS);
        Self {
            ended: matches!(status, Some("canceled" | "failed")),
            cancel_requested: status == Some("canceling"),
            trace_update_interval: interval(&reply.headers),
        }
    }
}

fn interval(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = transport::text(headers, header::TRACE_UPDATE_INTERVAL)?.trim().parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_INTERVAL))
}

/// The server names the job's state after the update, so the `failed` that answers our own report of a
/// failure is no news.
fn update_outcome(sent: JobState, status: StatusCode, notice: &Notice) -> UpdateOutcome {
    match status.as_u16() {
        200 if sent.is_final() => UpdateOutcome::Succeeded,
        _ if notice.ended => UpdateOutcome::Aborted,
        403 => UpdateOutcome::Aborted,
        404 => UpdateOutcome::NotFound,
        400 | 405 => UpdateOutcome::StateRefused,
        409 => UpdateOutcome::Conflict,
        200 => UpdateOutcome::Succeeded,
        202 => UpdateOutcome::AcceptedNotCompleted,
        412 => UpdateOutcome::TraceValidationFailed,
        _ => UpdateOutcome::Failed,
    }
}

fn patch_outcome(reply: &Reply, notice: &Notice, end: u64) -> PatchOutcome {
    match reply.status.as_u16() {
        _ if notice.ended => PatchOutcome::Aborted,
        403 => PatchOutcome::Aborted,
        202 => PatchOutcome::Succeeded { sent_to: end },
        404 => PatchOutcome::NotFound,
        416 => PatchOutcome::RangeMismatch { server_has: server_has(transport::text(&reply.headers, RANGE.as_str())) },
        _ => PatchOutcome::Failed,
    }
}

/// `0-N`, where N is how much the server has; 0 where that is not what it says.
fn server_has(range: Option<&str>) -> u64 {
    range.and_then(|range| range.trim().strip_prefix("0-")?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_position_is_what_its_range_ends_with() {
        assert_eq!(server_has(Some("0-400")), 400);
        for range in [None, Some(""), Some("400"), Some("5-400"), Some("0-x"), Some("0--1")] {
            assert_eq!(server_has(range), 0, "{range:?}");
        }
    }

    #[test]
    fn updates_mean_what_the_table_says() {
        let notice = |ended| Notice { ended, cancel_requested: false, trace_update_interval: None };
        for (sent, status, ended, expected) in [
            (JobState::Running, 200, true, UpdateOutcome::Aborted),
            (JobState::Running, 500, true, UpdateOutcome::Aborted),
            (JobState::Running, 403, false, UpdateOutcome::Aborted),
            (JobState::Running, 404, false, UpdateOutcome::NotFound),
            (JobState::Running, 200, false, UpdateOutcome::Succeeded),
            (JobState::Failed, 200, true, UpdateOutcome::Succeeded),
            (JobState::Failed, 403, true, UpdateOutcome::Aborted),
            (JobState::Success, 202, false, UpdateOutcome::AcceptedNotCompleted),
            (JobState::Success, 202, true, UpdateOutcome::Aborted),
            (JobState::Success, 412, false, UpdateOutcome::TraceValidationFailed),
            (JobState::Running, 201, false, UpdateOutcome::Failed),
            (JobState::Pending, 400, false, UpdateOutcome::StateRefused),
            (JobState::Pending, 409, false, UpdateOutcome::Conflict),
            (JobState::Success, 500, false, UpdateOutcome::Failed),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(update_outcome(sent, status, &notice(ended)), expected, "{sent} {status} {ended}");
        }
    }
}
