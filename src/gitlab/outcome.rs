//! What came of a call, in the caller's terms: the tables of the runner API as enums.
//!
//! Classified once, here, so that no other module compares status codes or header values.

use std::sync::Arc;
use std::time::Duration;

pub use super::credentials::JobCredentials;
use super::tls::JobTls;
use super::wire::{Info, JobPayload, JobState, RegisterResponse, ResetTokenResponse, VerifyResponse};

/// The answer to a job request.
#[derive(Debug)]
pub struct RequestResult {
    pub outcome: RequestOutcome,
    /// The server asked for restraint at least once (429 or 5xx), even if a later try succeeded:
    /// adaptive request concurrency halves on it.
    pub pushed_back: bool,
    /// The request named the latest news, and the server holds such requests until there are more.
    pub held: bool,
    /// The server wants to be left alone for this long; longer than the client waits by itself.
    pub retry_after: Option<Duration>,
}

#[derive(Debug)]
pub enum RequestOutcome {
    Job(Box<ReceivedJob>),
    /// 204: nothing to do, or news came and the next request will bring it.
    NoJob,
    /// A job was handed out that cannot be read: it has to be reported failed, where the server said
    /// enough to name it.
    Undecodable {
        job: Option<JobCredentials>,
        error: String,
    },
    /// 403: the token is not accepted. The one answer that makes a runner unhealthy.
    Forbidden,
    /// 503: GitLab is away or in maintenance.
    Unavailable,
    /// 429, after the client's own tries.
    Throttled,
    /// 409: two requests met, or a replica lags; asking again is right.
    Conflict,
    /// 422: the runner has lost its project or group.
    Orphaned,
    /// Anything else; `status` is absent where no whole answer arrived.
    Failed {
        status: Option<u16>,
        message: String,
    },
}

impl RequestOutcome {
    /// Whether the runner's token works as far as this answer tells: only a 403 says no.
    pub fn is_healthy(&self) -> bool {
        match self {
            Self::Forbidden => false,
            Self::Job(_)
            | Self::NoJob
            | Self::Undecodable { .. }
            | Self::Unavailable
            | Self::Throttled
            | Self::Conflict
            | Self::Orphaned
            | Self::Failed { .. } => true,
        }
    }
}

/// A job, with what its request and connection tell beside the payload.
#[derive(Debug)]
pub struct ReceivedJob {
    pub payload: JobPayload,
    pub credentials: JobCredentials,
    /// The request's id at the server, for Git's `X-Gitaly-Correlation-ID`.
    pub correlation_id: String,
    /// What the job's own connections to GitLab need.
    pub tls: JobTls,
}

/// What to tell GitLab about a job.
#[derive(Clone, Debug)]
pub struct JobUpdate {
    /// As [`crate::gitlab::Client::info`] gives it.
    pub info: Arc<Info>,
    pub state: JobState,
    /// Wire name; only with [`JobState::Failed`].
    pub failure_reason: Option<String>,
    /// `crc32:` and 8 hex digits over the whole trace so far.
    pub checksum: Option<String>,
    /// Bytes of the trace so far.
    pub bytesize: Option<u64>,
    /// The script's, where it is not 0.
    pub exit_code: Option<i32>,
}

impl JobUpdate {
    /// A bare state, such as the acknowledgement of a new job.
    pub fn new(info: Arc<Info>, state: JobState) -> Self {
        Self { info, state, failure_reason: None, checksum: None, bytesize: None, exit_code: None }
    }
}

/// So long a job may be missing at what answers for GitLab, such as a proxy while GitLab is upgraded.
pub const GONE_AFTER: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    Succeeded,
    /// 202: heard, but the trace is not yet stored; the same update again after the interval.
    AcceptedNotCompleted,
    /// 412: what the server has of the trace is not what we say; send it from 0, then update again.
    TraceValidationFailed,
    /// The job is no longer ours: cancelled or failed by the server. No more calls for it.
    Aborted,
    /// 404: GitLab says 403 of a job that is gone, so this may come from anything between us and it. The job is
    /// gone where nothing else is heard for [`GONE_AFTER`].
    NotFound,
    /// 400, 405: what `pending` gets from a server without two-phase commit.
    StateRefused,
    /// 409: to `pending`, the job has heard `running` already.
    Conflict,
    /// Worth another try.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateResult {
    pub outcome: UpdateOutcome,
    /// `Job-Status: canceling`: end the script, run after_script, report.
    pub cancel_requested: bool,
    /// How often the server wants patches of the trace.
    pub trace_update_interval: Option<Duration>,
    /// The server wants to be left alone for this long.
    pub retry_after: Option<Duration>,
    /// Absent where no answer arrived.
    pub status: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOutcome {
    /// Everything up to, not including, this position is at the server.
    Succeeded { sent_to: u64 },
    /// 416: go on from here, where the server's copy ends.
    RangeMismatch { server_has: u64 },
    /// 404: may come from anything between us and GitLab, so it is worth another try while the job runs.
    NotFound,
    /// The job is no longer ours.
    Aborted,
    /// Worth another try.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchResult {
    pub outcome: PatchOutcome,
    pub cancel_requested: bool,
    pub trace_update_interval: Option<Duration>,
    pub retry_after: Option<Duration>,
}

#[derive(Debug)]
pub enum VerifyOutcome {
    /// The token is good. The number is 0 where the server is too old to tell.
    Valid(VerifyResponse),
    /// 403: removed, or never valid.
    Invalid,
    /// Nothing is known: not to be taken for removed.
    Unknown { status: Option<u16>, message: String },
}

#[derive(Debug)]
pub enum RegisterOutcome {
    Registered(RegisterResponse),
    /// 403: the registration token is not accepted.
    Forbidden,
    /// 410: the server has registration tokens switched off.
    Gone,
    Failed {
        status: Option<u16>,
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnregisterOutcome {
    Removed,
    Forbidden,
    Failed { status: Option<u16>, message: String },
}

#[derive(Debug)]
pub enum ResetTokenOutcome {
    Reset(ResetTokenResponse),
    Forbidden,
    Failed { status: Option<u16>, message: String },
}
