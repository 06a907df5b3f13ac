//! Why a job failed: the classification, its word on the wire, and the fault that carries it.

use serde::{Deserialize, Serialize};

/// The class of a failure, for GitLab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The user's commands, or a stage around them, ended with an error.
    ScriptFailure,
    /// This runner or its instance failed.
    RunnerSystemFailure,
    JobExecutionTimeout,
    ImagePullFailure,
    /// The job or the configuration asks for what cannot be.
    RunnerConfigurationError,
    /// Something outside failed: a registry, a store of secrets.
    RunnerExternalDependencyFailure,
    /// The runner was stopped.
    RunnerInterrupted,
    JobCanceled,
    UnknownFailure,
}

impl FailureReason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScriptFailure => "script_failure",
            Self::RunnerSystemFailure => "runner_system_failure",
            Self::JobExecutionTimeout => "job_execution_timeout",
            Self::ImagePullFailure => "image_pull_failure",
            Self::RunnerConfigurationError => "runner_configuration_error",
            Self::RunnerExternalDependencyFailure => "runner_external_dependency_failure",
            Self::RunnerInterrupted => "runner_interrupted",
            Self::JobCanceled => "job_canceled",
            Self::UnknownFailure => "unknown_failure",
        }
    }

    /// The reason to send to a server that lists `supported` reasons with the job: itself, or what
    /// comes nearest among those that every server knows.
    #[must_use]
    pub fn for_server(self, supported: &[String]) -> Self {
        let fallback = match self {
            Self::ScriptFailure | Self::RunnerSystemFailure | Self::JobExecutionTimeout | Self::UnknownFailure => {
                return self;
            }
            Self::ImagePullFailure | Self::RunnerExternalDependencyFailure => Self::RunnerSystemFailure,
            Self::RunnerConfigurationError => Self::ScriptFailure,
            Self::RunnerInterrupted | Self::JobCanceled => Self::UnknownFailure,
        };
        if supported.iter().any(|reason| reason == self.as_str()) { self } else { fallback }
    }
}

/// What went wrong, as the job's last line says it, and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Lower case, no full stop, such as `exit code 2`.
    pub message: String,
    pub class: FaultClass,
}

/// How a fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// A command ended with this code.
    Exit(i32),
    /// Known to be of this kind; trying again would change nothing.
    Reason(FailureReason),
    /// As `Reason`, with an exit code that no command ended with: the reference has one for refusals.
    Coded { reason: FailureReason, exit_code: i32 },
    /// The container in which the stage ran is gone; `EXECUTOR_JOB_SECTION_ATTEMPTS` may allow another try.
    EnvironmentGone,
    /// Anything else: a connection, the engine, the instance. A preparation is tried again.
    Unclassified,
}

impl Fault {
    /// A command ended with `code`.
    pub fn exit(code: i32) -> Self {
        Self { message: format!("exit code {code}"), class: FaultClass::Exit(code) }
    }

    pub fn of(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { message: message.into(), class: FaultClass::Reason(reason) }
    }

    /// What the job or the configuration asks for cannot be.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::of(FailureReason::RunnerConfigurationError, message)
    }

    pub fn unclassified(message: impl Into<String>) -> Self {
        Self { message: message.into(), class: FaultClass::Unclassified }
    }

    pub fn environment_gone(message: impl Into<String>) -> Self {
        Self { message: message.into(), class: FaultClass::EnvironmentGone }
    }

    pub fn reason(&self) -> FailureReason {
        match self.class {
            FaultClass::Exit(_) => FailureReason::ScriptFailure,
            FaultClass::Reason(reason) | FaultClass::Coded { reason, .. } => reason,
            FaultClass::EnvironmentGone | FaultClass::Unclassified => FailureReason::RunnerSystemFailure,
        }
    }

    pub fn exit_code(&self) -> Option<i32> {
        match self.class {
            FaultClass::Exit(code) | FaultClass::Coded { exit_code: code, .. } => Some(code),
            FaultClass::Reason(_) | FaultClass::EnvironmentGone | FaultClass::Unclassified => None,
        }
    }

    /// The same fault with its message wrapped.
    #[must_use]
    pub(crate) fn with_message(self, message: impl FnOnce(&str) -> String) -> Self {
        Self { message: message(&self.message), class: self.class }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_the_server_does_not_list_is_sent_as_its_fallback() {
        use FailureReason as R;
        for (reason, word, fallback) in [
            (R::ScriptFailure, "script_failure", R::ScriptFailure),
            (R::RunnerSystemFailure, "runner_system_failure", R::RunnerSystemFailure),
            (R::JobExecutionTimeout, "job_execution_timeout", R::JobExecutionTimeout),
            (R::ImagePullFailure, "image_pull_failure", R::RunnerSystemFailure),
            (R::RunnerConfigurationError, "runner_configuration_error", R::ScriptFailure),
            (R::RunnerExternalDependencyFailure, "runner_external_dependency_failure", R::RunnerSystemFailure),
            (R::RunnerInterrupted, "runner_interrupted", R::UnknownFailure),
            (R::JobCanceled, "job_canceled", R::UnknownFailure),
            (R::UnknownFailure, "unknown_failure", R::UnknownFailure),
        ] {
            assert_eq!(reason.as_str(), word);
            assert_eq!(serde_json::to_string(&reason).expect("writes"), format!("\"{word}\""));
            assert_eq!(reason.for_server(&[]), fallback, "{word}");
            assert_eq!(reason.for_server(&[word.to_owned()]), reason, "{word}");
        }
    }

    #[test]
    fn faults_without_a_class_are_the_runners() {
        assert_eq!(Fault::unclassified("x").reason(), FailureReason::RunnerSystemFailure);
        assert_eq!(Fault::environment_gone("x").reason(), FailureReason::RunnerSystemFailure);
        assert_eq!(Fault::exit(3).reason(), FailureReason::ScriptFailure);
        assert_eq!(Fault::exit(3).exit_code(), Some(3));
    }
}
