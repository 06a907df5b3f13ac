//! Bodies of requests and of the short answers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Info;
use crate::secret::Secret;

/// `POST jobs/request`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobRequest {
    pub info: Arc<Info>,
    pub token: Secret,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system_id: String,
    /// The last `X-GitLab-Last-Update`. With it the server may hold the request until there is news.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_update: String,
}

/// The states that a runner can report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Received, waiting for an instance: only under two-phase commit.
    Pending,
    Running,
    Success,
    Failed,
}

impl JobState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing follows it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Success | Self::Failed => true,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `PUT jobs/:id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateRequest {
    #[serde(default)]
    pub info: Arc<Info>,
    pub token: Secret,
    pub state: JobState,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure_reason: String,
    /// An older place of `output.checksum`; both are sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checksum: String,
    #[serde(default)]
    pub output: Output,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exit_code: i32,
}

/// What the trace amounts to so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// `crc32:` and 8 hex digits over the bytes of the trace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub checksum: String,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub bytesize: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero_u64(number: &u64) -> bool {
    *number == 0
}

/// `POST runners/verify`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VerifyRequest {
    #[serde(default)]
    pub info: Arc<Info>,
    pub token: Secret,
    #[serde(default)]
    pub system_id: String,
}

/// Its answer; old servers answer with plain text, which leaves this empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifyResponse {
    pub id: i64,
    pub token: Secret,
    /// RFC 3339, absent where the token does not expire.
    pub token_expires_at: Option<String>,
}

/// `POST runners`: registration with a registration token, the old way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RegisterRequest {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub maintenance_note: String,
    /// Separated by commas.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag_list: String,
    #[serde(default)]
    pub run_untagged: bool,
    #[serde(default)]
    pub locked: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub access_level: String,
    /// Seconds; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub maximum_timeout: u64,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub info: Arc<Info>,
    /// The registration token.
    #[serde(default)]
    pub token: Secret,
}

/// Its answer: the new runner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RegisterResponse {
    pub id: i64,
    pub token: Secret,
    pub token_expires_at: Option<String>,
}

/// `DELETE runners`: the runner itself, for tokens of the old way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnregisterRequest {
    pub token: Secret,
}

/// `DELETE runners/managers`: only this manager of the runner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnregisterManagerRequest {
    pub token: Secret,
    pub system_id: String,
}

/// `POST runners/reset_authentication_token`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResetTokenRequest {
    pub token: Secret,
}

/// Its answer, also to the form with a runner's number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResetTokenResponse {
    pub token: Secret,
    pub token_expires_at: Option<String>,
}
