//! Which call a request is.

use crate::ids::JobId;

/// The calls of the runner API, and one for the storage behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    RequestJob,
    UpdateJob(JobId),
    PatchTrace(JobId),
    UploadArtifacts(JobId),
    DownloadArtifacts(JobId),
    /// Where direct downloads are sent on to.
    Storage(JobId),
    Register,
    Verify,
    Unregister,
    UnregisterManager,
    ResetToken,
    ResetTokenOf(i64),
    /// Of the job router, which this server does not have.
    Discovery,
    Unknown,
}

impl Route {
    pub(super) fn of(method: &str, path: &str) -> Self {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let job = |id: &str| id.parse().ok().map(JobId);
        let found = match (method, parts.as_slice()) {
            ("POST", ["api", "v4", "jobs", "request"]) => Some(Self::RequestJob),
            ("PUT", ["api", "v4", "jobs", id]) => job(id).map(Self::UpdateJob),
            ("PATCH", ["api", "v4", "jobs", id, "trace"]) => job(id).map(Self::PatchTrace),
            ("POST", ["api", "v4", "jobs", id, "artifacts"]) => job(id).map(Self::UploadArtifacts),
            ("GET", ["api", "v4", "jobs", id, "artifacts"]) => job(id).map(Self::DownloadArtifacts),
            ("GET", ["storage", id]) => job(id).map(Self::Storage),
            ("POST", ["api", "v4", "runners"]) => Some(Self::Register),
            ("POST", ["api", "v4", "runners", "verify"]) => Some(Self::Verify),
            ("DELETE", ["api", "v4", "runners"]) => Some(Self::Unregister),
            ("DELETE", ["api", "v4", "runners", "managers"]) => Some(Self::UnregisterManager),
            ("POST", ["api", "v4", "runners", "reset_authentication_token"]) => Some(Self::ResetToken),
            ("POST", ["api", "v4", "runners", id, "reset_authentication_token"]) => {
                id.parse().ok().map(Self::ResetTokenOf)
            }
            ("GET", ["api", "v4", "runners", "router", "discovery"]) => Some(Self::Discovery),
            _ => None,
        };
        found.unwrap_or(Self::Unknown)
    }

    /// The job that the call is about.
    pub(super) fn job(self) -> Option<JobId> {
        match self {
            Self::UpdateJob(id)
            | Self::PatchTrace(id)
            | Self::UploadArtifacts(id)
            | Self::DownloadArtifacts(id)
            | Self::Storage(id) => Some(id),
            Self::RequestJob
            | Self::Register
            | Self::Verify
            | Self::Unregister
            | Self::UnregisterManager
            | Self::ResetToken
            | Self::ResetTokenOf(_)
            | Self::Discovery
            | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_method_and_path() {
        for (method, path, route) in [
            ("POST", "/api/v4/jobs/request", Route::RequestJob),
            ("PUT", "/api/v4/jobs/7", Route::UpdateJob(JobId(7))),
            ("PATCH", "/api/v4/jobs/7/trace", Route::PatchTrace(JobId(7))),
            ("GET", "/api/v4/jobs/7/artifacts", Route::DownloadArtifacts(JobId(7))),
            ("POST", "/api/v4/runners/3/reset_authentication_token", Route::ResetTokenOf(3)),
            ("PUT", "/api/v4/jobs/x", Route::Unknown),
            ("GET", "/", Route::Unknown),
        ] {
            assert_eq!(Route::of(method, path), route, "{method} {path}");
        }
    }
}
