//! What became of a running job's calls, as log lines. Operators and their tools search for these messages, so they
//! read as in the reference; the span has the job.

use std::time::Duration;

use reqwest::header::RANGE;
use tracing::{info, warn};

use super::super::outcome::{PatchOutcome, UpdateOutcome};
use super::super::transport;
use super::super::wire::header;
use super::Answered;

/// A part of the trace was sent; `sent` is its range.
pub(super) fn patched(answered: &Answered, outcome: PatchOutcome, sent: &str, interval: Option<Duration>) {
    let code = answered.status();
    let (job_log, job_status) = (value(answered, RANGE.as_str()), value(answered, header::JOB_STATUS));
    let interval = seconds(interval);
    match outcome {
        PatchOutcome::Succeeded { .. } => info!(
            code,
            "sent-log" = sent,
            "job-log" = job_log,
            "job-status" = job_status,
            "update-interval" = interval,
            "Appending trace to coordinator...ok"
        ),
        PatchOutcome::RangeMismatch { .. } => warn!(
            code,
            "sent-log" = sent,
            "job-log" = job_log,
            "job-status" = job_status,
            "Appending trace to coordinator... range mismatch"
        ),
        PatchOutcome::NotFound => {
            warn!(code, "sent-log" = sent, "job-status" = job_status, "Appending trace to coordinator... not found");
        }
        PatchOutcome::Aborted => {
            warn!(code, "sent-log" = sent, "job-status" = job_status, "Appending trace to coordinator... aborted");
        }
        PatchOutcome::Failed => {
            let error = answered.message();
            warn!(code, "sent-log" = sent, error, "Appending trace to coordinator... failed");
        }
    }
}

/// The job's state was told.
pub(super) fn updated(answered: &Answered, outcome: UpdateOutcome, interval: Option<Duration>) {
    let (code, job_status) = (answered.status(), value(answered, header::JOB_STATUS));
    let interval = seconds(interval);
    match outcome {
        UpdateOutcome::Succeeded => {
            info!(code, "job-status" = job_status, "update-interval" = interval, "Submitting job to coordinator...ok")
        }
        UpdateOutcome::AcceptedNotCompleted => info!(
            code,
            "job-status" = job_status,
            "update-interval" = interval,
            "Submitting job to coordinator...accepted, but not yet completed"
        ),
        UpdateOutcome::TraceValidationFailed => {
            info!(code, "job-status" = job_status, "Submitting job to coordinator...trace validation failed");
        }
        UpdateOutcome::Aborted => warn!(code, "job-status" = job_status, "Submitting job to coordinator... aborted"),
        UpdateOutcome::NotFound => {
            warn!(code, "job-status" = job_status, "Submitting job to coordinator... not found");
        }
        UpdateOutcome::StateRefused | UpdateOutcome::Conflict | UpdateOutcome::Failed => {
            let error = answered.message();
            warn!(code, "job-status" = job_status, error, "Submitting job to coordinator... failed");
        }
    }
}

fn value<'a>(answered: &'a Answered, name: &str) -> &'a str {
    answered.reply.as_ref().ok().and_then(|reply| transport::text(&reply.headers, name)).unwrap_or_default()
}

/// As the reference prints it, `0s` where the server has no wish.
fn seconds(interval: Option<Duration>) -> String {
    format!("{}s", interval.unwrap_or_default().as_secs())
}
