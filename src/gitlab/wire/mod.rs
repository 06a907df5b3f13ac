//! What is said on the wire, field by field: requests, answers and the job payload.
//!
//! These types mirror GitLab's JSON and serve both sides: the client writes what the sandbox reads. They
//! hold no rules beyond shape; the meaning of an answer is in [`super::outcome`].

mod info;
pub mod payload;
mod requests;

pub use info::{ConfigInfo, Features, Info};
pub use payload::JobPayload;
pub use requests::{
    JobRequest, JobState, Output, RegisterRequest, RegisterResponse, ResetTokenRequest, ResetTokenResponse,
    UnregisterManagerRequest, UnregisterRequest, UpdateRequest, VerifyRequest, VerifyResponse,
};

/// Names of the headers that belong to this API, in lower case as HTTP libraries keep them.
pub mod header {
    /// The runner's token; beside the one in the body.
    pub const RUNNER_TOKEN: &str = "runner-token";
    /// The job's token, on every call about one job.
    pub const JOB_TOKEN: &str = "job-token";
    /// A personal access token, only to reset a runner's token by its number.
    pub const PRIVATE_TOKEN: &str = "private-token";
    /// Ours on the request; the server's, if it has one, on the answer.
    pub const REQUEST_ID: &str = "x-request-id";
    /// What the server wants back as `last_update`.
    pub const LAST_UPDATE: &str = "x-gitlab-last-update";
    /// `yes` where the server may hold a job request that names the latest news.
    pub const BUILDS_POLLING: &str = "gitlab-ci-builds-polling";
    /// Seconds between two trace patches, as the server wishes it.
    pub const TRACE_UPDATE_INTERVAL: &str = "x-gitlab-trace-update-interval";
    /// The job's state at GitLab: `running`, `canceling`, `canceled`, `failed`, …
    pub const JOB_STATUS: &str = "job-status";
}
