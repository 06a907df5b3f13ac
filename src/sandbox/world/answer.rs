//! An answer before it is HTTP.

use bytes::Bytes;
use serde::Serialize;

use super::report::JobStatus;
use crate::gitlab::wire::header;

/// Status, headers, body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox) struct Answer {
    pub(in crate::sandbox) status: u16,
    pub(in crate::sandbox) headers: Vec<(&'static str, String)>,
    /// JSON, where there is one.
    pub(in crate::sandbox) body: Bytes,
}

impl Answer {
    pub(in crate::sandbox) fn bare(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub(in crate::sandbox) fn json(status: u16, body: &impl Serialize) -> Self {
        // Types of ours have text keys only, which is all that could fail.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// An error as GitLab words it.
    pub(in crate::sandbox) fn error(status: u16, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "message": message }))
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn job_status(self, status: JobStatus) -> Self {
        self.header(header::JOB_STATUS, status.wire_name())
    }
}
