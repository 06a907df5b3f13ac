//! What there is to know of a job, for assertions and views.

use std::time::Duration;

use crate::gitlab::wire::JobState;
use crate::ids::JobId;

/// Where a job is, in GitLab's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobStatus {
    /// In the queue.
    Queued,
    /// Handed out under two-phase commit, not yet begun.
    Offered,
    Running,
    /// Cancelled by a user; the manager is ending it.
    Canceling,
    Success,
    Failed,
    Canceled,
}

impl JobStatus {
    /// As `Job-Status` names it.
    pub fn wire_name(self) -> &'static str {
        match self {
            Self::Queued | Self::Offered => "pending",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Offered | Self::Running | Self::Canceling => false,
            Self::Success | Self::Failed | Self::Canceled => true,
        }
    }

    /// Whether a manager has it.
    pub fn is_in_hand(self) -> bool {
        match self {
            Self::Offered | Self::Running | Self::Canceling => true,
            Self::Queued | Self::Success | Self::Failed | Self::Canceled => false,
        }
    }
}

/// A status and when the job came to it, since the start of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Duration,
    pub status: JobStatus,
}

/// One `PUT jobs/:id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUpdateSeen {
    pub at: Duration,
    pub state: JobState,
    pub checksum: String,
    pub bytesize: u64,
    /// How it was answered.
    pub answered: u16,
}

/// What the final update said of the trace, against the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceCheck {
    /// No final update, or one that says nothing.
    NotSaid,
    Matches,
    Differs,
}

/// A job without its trace.
#[derive(Clone, Debug)]
pub struct JobReport {
    pub id: JobId,
    pub name: String,
    pub status: JobStatus,
    /// Every status so far, `Queued` first.
    pub history: Vec<Moment>,
    /// The system id of the manager that has or had it.
    pub system_id: Option<String>,
    /// How often it was handed out.
    pub handed_out: u32,
    /// The wire name; empty unless it failed by a report.
    pub failure_reason: String,
    pub exit_code: i32,
    pub trace_len: usize,
    pub trace_check: TraceCheck,
    /// When the first bytes of the trace came.
    pub first_trace_at: Option<Duration>,
    /// Every update, in order; of very many only the first.
    pub updates: Vec<JobUpdateSeen>,
    /// What a runner must not do: sending for an ended job, finals that contradict each other, …
    pub violations: Vec<String>,
}

impl JobReport {
    /// When the job came to a status first.
    pub fn first(&self, status: JobStatus) -> Option<Duration> {
        self.history.iter().find(|moment| moment.status == status).map(|moment| moment.at)
    }
}

/// The most of something that there was at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Jobs handed out and not ended.
    pub running_jobs: usize,
    /// Job requests that were being answered, held ones too.
    pub open_requests: usize,
    /// Jobs in hand and open requests together: what `concurrent` limits.
    pub jobs_and_requests: usize,
}
