//! What the uploader asks of GitLab, and the final state as data.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::gitlab::Client;
use crate::gitlab::outcome::{JobCredentials, JobUpdate, PatchResult, UpdateResult};
use crate::gitlab::wire::JobState;

/// The two calls about a running job. Implemented for GitLab by [`GitlabTrace`], and by simulators.
pub trait TraceApi: Send + Sync + 'static {
    /// Tells the job's state, size and checksum of its trace.
    fn update_job(&self, report: JobReport) -> impl Future<Output = UpdateResult> + Send;

    /// Sends the bytes of the trace that begin at `start`.
    fn patch_trace(&self, start: u64, content: Bytes) -> impl Future<Output = PatchResult> + Send;
}

/// What one update says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReport {
    /// None while the job runs.
    pub result: Option<FinalUpdate>,
    /// CRC-32 (IEEE) of the whole trace so far.
    pub checksum: u32,
    /// Bytes of the trace so far.
    pub bytesize: u64,
}

/// The one final state of a job, as the journal keeps it until GitLab has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinalUpdate {
    Success,
    Failed {
        /// Wire name, already mapped to what the server knows.
        failure_reason: String,
        /// The script's, where it is what failed the job.
        exit_code: Option<i32>,
    },
}

/// What came of telling the final state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalOutcome {
    /// GitLab has the state and the whole trace.
    Accepted,
    /// GitLab says that the job is final already or not ours: nothing is left to tell.
    Refused,
    /// Neither a yes nor a no within the limits on tries and time: the result has to be kept.
    GaveUp,
    /// The manager ends: the result has to be kept.
    Interrupted,
}

/// One job at GitLab.
#[derive(Clone, Debug)]
pub struct GitlabTrace {
    pub client: Client,
    pub credentials: JobCredentials,
    /// `CI_DEBUG_TRACE` or `CI_DEBUG_SERVICES` is in effect: GitLab then restricts who may read the trace.
    pub debug_trace: bool,
}

impl TraceApi for GitlabTrace {
    async fn update_job(&self, report: JobReport) -> UpdateResult {
        let (state, failure_reason, exit_code) = match report.result {
            None => (JobState::Running, None, None),
            Some(FinalUpdate::Success) => (JobState::Success, None, None),
            Some(FinalUpdate::Failed { failure_reason, exit_code }) => {
                (JobState::Failed, Some(failure_reason), exit_code)
            }
        };
        let update = JobUpdate {
            info: Arc::clone(self.client.info()),
            state,
            failure_reason,
            checksum: Some(format!("crc32:{:08x}", report.checksum)),
            bytesize: Some(report.bytesize),
            exit_code,
        };
        self.client.update_job(&self.credentials, &update).await
    }

    async fn patch_trace(&self, start: u64, content: Bytes) -> PatchResult {
        self.client.patch_trace(&self.credentials, start, content, self.debug_trace).await
    }
}
