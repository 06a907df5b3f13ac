//! The stages of a job, by the names that users see as sections.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One part of a job's life. Its id names the section of the trace and, with the attempt, the folder
/// in which it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Secrets of outside stores are fetched, by the manager.
    ResolveSecrets,
    /// The executor makes the environment ready; no script.
    PrepareExecutor,
    PrepareScript,
    GetSources,
    /// Before another attempt at the sources.
    ClearWorktree,
    RestoreCache,
    DownloadArtifacts,
    /// The user's commands: `script`, `release` and any other step.
    Step(StepName),
    AfterScript,
    ArchiveCache,
    ArchiveCacheOnFailure,
    UploadArtifactsOnSuccess,
    UploadArtifactsOnFailure,
    CleanupFileVariables,
}

/// The lower-cased name of a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepName(Arc<str>);

impl StepName {
    pub fn new(name: &str) -> Self {
        Self(name.to_lowercase().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    /// In the manager itself.
    Manager,
    /// Beside the job: the helper container, or the shell of the instance.
    Predefined,
    /// Where the user's commands run: the job's image, or the shell of the instance.
    Build,
}

impl Stage {
    /// The section's name, and the stage's on disk.
    pub fn id(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ResolveSecrets => "resolve_secrets",
            Self::PrepareExecutor => "prepare_executor",
            Self::PrepareScript => "prepare_script",
            Self::GetSources => "get_sources",
            Self::ClearWorktree => "clear_worktree",
            Self::RestoreCache => "restore_cache",
            Self::DownloadArtifacts => "download_artifacts",
            Self::Step(name) => return Cow::Owned(format!("step_{}", name.as_str())),
            Self::AfterScript => "after_script",
            Self::ArchiveCache => "archive_cache",
            Self::ArchiveCacheOnFailure => "archive_cache_on_failure",
            Self::UploadArtifactsOnSuccess => "upload_artifacts_on_success",
            Self::UploadArtifactsOnFailure => "upload_artifacts_on_failure",
            Self::CleanupFileVariables => "cleanup_file_variables",
        })
    }

    /// The stage with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        Some(match id {
            "resolve_secrets" => Self::ResolveSecrets,
            "prepare_executor" => Self::PrepareExecutor,
            "prepare_script" => Self::PrepareScript,
            "get_sources" => Self::GetSources,
            "clear_worktree" => Self::ClearWorktree,
            "restore_cache" => Self::RestoreCache,
            "download_artifacts" => Self::DownloadArtifacts,
            "after_script" => Self::AfterScript,
            "archive_cache" => Self::ArchiveCache,
            "archive_cache_on_failure" => Self::ArchiveCacheOnFailure,
            "upload_artifacts_on_success" => Self::UploadArtifactsOnSuccess,
            "upload_artifacts_on_failure" => Self::UploadArtifactsOnFailure,
            "cleanup_file_variables" => Self::CleanupFileVariables,
            other => Self::Step(StepName::new(other.strip_prefix("step_")?)),
        })
    }

    /// The line under the section's start. `executor` is the configured name, such as `docker-autoscaler`.
    pub fn headline(&self, executor: &str) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ResolveSecrets => "Resolving secrets",
            Self::PrepareExecutor => return Cow::Owned(format!("Preparing the \"{executor}\" executor")),
            Self::PrepareScript => "Preparing environment",
            Self::GetSources => "Getting source from Git repository",
            Self::ClearWorktree => "Deleting all tracked and untracked files due to source fetch failure",
            Self::RestoreCache => "Restoring cache",
            Self::DownloadArtifacts => "Downloading artifacts",
            Self::Step(_) => return Cow::Owned(format!("Executing \"{}\" stage of the job script", self.id())),
            Self::AfterScript => "Running after_script",
            Self::ArchiveCache => "Saving cache for successful job",
            Self::ArchiveCacheOnFailure => "Saving cache for failed job",
            Self::UploadArtifactsOnSuccess => "Uploading artifacts for successful job",
            Self::UploadArtifactsOnFailure => "Uploading artifacts for failed job",
            Self::CleanupFileVariables => "Cleaning up project directory and file based variables",
        })
    }

    pub fn environment(&self) -> Environment {
        match self {
            Self::ResolveSecrets | Self::PrepareExecutor => Environment::Manager,
            Self::Step(_) | Self::AfterScript => Environment::Build,
            Self::PrepareScript
            | Self::GetSources
            | Self::ClearWorktree
            | Self::RestoreCache
            | Self::DownloadArtifacts
            | Self::ArchiveCache
            | Self::ArchiveCacheOnFailure
            | Self::UploadArtifactsOnSuccess
            | Self::UploadArtifactsOnFailure
            | Self::CleanupFileVariables => Environment::Predefined,
        }
    }

    /// The variable that says how often the stage may be tried; `None`: once.
    pub fn attempts_variable(&self) -> Option<&'static str> {
        match self {
            Self::ResolveSecrets => Some("SECRETS_RETRIEVAL_ATTEMPTS"),
            Self::GetSources => Some("GET_SOURCES_ATTEMPTS"),
            Self::RestoreCache => Some("RESTORE_CACHE_ATTEMPTS"),
            Self::DownloadArtifacts => Some("ARTIFACT_DOWNLOAD_ATTEMPTS"),
            Self::PrepareExecutor
            | Self::PrepareScript
            | Self::ClearWorktree
            | Self::Step(_)
            | Self::AfterScript
            | Self::ArchiveCache
            | Self::ArchiveCacheOnFailure
            | Self::UploadArtifactsOnSuccess
            | Self::UploadArtifactsOnFailure
            | Self::CleanupFileVariables => None,
        }
    }

    /// Whether the stage runs commands of the job's author, which must never start twice by themselves.
    pub fn is_user_script(&self) -> bool {
        self.environment() == Environment::Build
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.id())
    }
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::from_id(&id).ok_or_else(|| serde::de::Error::custom(format!("no stage is called {id:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_comes_back_from_its_id() {
        for (id, environment) in [
            ("resolve_secrets", Environment::Manager),
            ("prepare_executor", Environment::Manager),
            ("prepare_script", Environment::Predefined),
            ("get_sources", Environment::Predefined),
            ("clear_worktree", Environment::Predefined),
            ("restore_cache", Environment::Predefined),
            ("download_artifacts", Environment::Predefined),
            ("step_script", Environment::Build),
            ("step_release", Environment::Build),
            ("after_script", Environment::Build),
            ("archive_cache", Environment::Predefined),
            ("archive_cache_on_failure", Environment::Predefined),
            ("upload_artifacts_on_success", Environment::Predefined),
            ("upload_artifacts_on_failure", Environment::Predefined),
            ("cleanup_file_variables", Environment::Predefined),
        ] {
            let stage = Stage::from_id(id).expect(id);
            assert_eq!(stage.id(), id);
            assert_eq!(stage.environment(), environment, "{id}");
            let json = serde_json::to_string(&stage).expect("writes");
            assert_eq!(serde_json::from_str::<Stage>(&json).expect("reads"), stage);
        }
        assert_eq!(Stage::from_id("somewhere"), None);
    }

    #[test]
    fn a_step_is_named_in_lower_case() {
        let stage = Stage::Step(StepName::new("Release"));
        assert_eq!(stage.id(), "step_release");
        assert_eq!(stage.headline("instance"), "Executing \"step_release\" stage of the job script");
    }

    #[test]
    fn the_headline_of_the_preparation_names_the_executor() {
        assert_eq!(
            Stage::PrepareExecutor.headline("docker-autoscaler"),
            "Preparing the \"docker-autoscaler\" executor"
        );
    }
}
