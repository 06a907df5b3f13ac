//! Who is told of each call: the manager counts `gitlab_runner_api_request_*` from it.

use std::fmt;
use std::time::Duration;

/// The calls that are told apart in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    RequestJob,
    UpdateJob,
    PatchTrace,
    ResetToken,
    Verify,
    Register,
    Unregister,
}

impl Endpoint {
    /// The value of the metrics' `endpoint` label. The reference counts the first four.
    pub fn label(self) -> &'static str {
        match self {
            Self::RequestJob => "request_job",
            Self::UpdateJob => "update_job",
            Self::PatchTrace => "patch_trace",
            Self::ResetToken => "reset_token",
            Self::Verify => "verify_runner",
            Self::Register => "register_runner",
            Self::Unregister => "unregister_runner",
        }
    }
}

/// One call, all its tries together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallReport<'a> {
    pub endpoint: Endpoint,
    /// Lower case, as in the metrics.
    pub method: &'static str,
    /// Of the last answer; absent where none arrived (the metrics' `-1`).
    pub status: Option<u16>,
    /// From the first try to the last answer.
    pub duration: Duration,
    /// Tries, the first included: what the reference adds to `…_retries_total`.
    pub attempts: u32,
    /// Path of the URL with numbers as `{id}`.
    pub path: &'a str,
}

/// Is told of each call when it has ended. Called in the caller's task: it must be quick and must not block.
pub trait CallObserver: fmt::Debug + Send + Sync {
    fn observe(&self, call: &CallReport<'_>);
}

/// For clients whose calls nobody counts, such as those of `verify`.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl CallObserver for Unobserved {
    fn observe(&self, _call: &CallReport<'_>) {}
}
