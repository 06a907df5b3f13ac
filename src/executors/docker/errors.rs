//! What an engine's refusal means for the job.

use bollard::errors::Error;

use super::helper_volume::AGENT_PATH;
use crate::decode_error::DecodeError;
use crate::error_chain::Chain;
use crate::excerpt::excerpt;
use crate::job::failure::{FailureReason, Fault};

/// The engine's status code, where it answered.
pub(crate) fn status(error: &Error) -> Option<u16> {
    if let Error::DockerResponseServerError { status_code, .. } = error { Some(*status_code) } else { None }
}

/// The engine's own words, as far as they are worth showing, or why there are none. Of an answer that cannot be decoded
/// nothing is quoted.
pub(crate) fn message(error: &Error) -> String {
    if let Error::DockerResponseServerError { message, .. } = error {
        excerpt(format!("Error response from daemon: {message}"))
    } else if let Error::DockerStreamError { error } = error {
        excerpt(error.as_str())
    } else if let Error::JsonDataError { column, .. } = error {
        format!("an answer of the Docker Engine cannot be decoded at column {column}")
    } else if let Error::JsonSerdeError { err } = error {
        format!("an answer of the Docker Engine cannot be decoded: {}", DecodeError::from(err))
    } else {
        excerpt(Chain(error).to_string())
    }
}

/// A refusal to create a container: what was asked for cannot be (400), else the runner's trouble.
pub(crate) fn create_fault(error: &Error) -> Fault {
    match status(error) {
        Some(400) => Fault::configuration(message(error)),
        // What it is made from has just been removed, which speaks against nobody.
        Some(404 | 409) => Fault::environment_gone(message(error)),
        Some(_) | None => Fault::unclassified(message(error)),
    }
}

/// What engines say with 500 though the job or the configuration asked for it: a user, group, program or device that
/// is not there on any instance. The text is all that tells.
const ASKED_FOR: [&str; 4] =
    ["unable to find user", "unable to find group", "exec format error", "error gathering device information"];

/// A refusal to start a container that was created. An instance that answers with 4xx is well: the image or the
/// job's entrypoint cannot be run (400), or somebody has removed the container, or what it needs.
pub(crate) fn start_fault(error: &Error) -> Fault {
    match status(error) {
        // Our program is missing: its volume was pruned, and the next try on this instance fills it.
        Some(400) if message(error).contains(AGENT_PATH) => Fault::environment_gone(message(error)),
        Some(404 | 409) => Fault::environment_gone(message(error)),
        Some(400..=499) => Fault::of(FailureReason::RunnerSystemFailure, message(error)),
        Some(_) if ASKED_FOR.iter().any(|words| message(error).contains(words)) => {
            Fault::of(FailureReason::RunnerSystemFailure, message(error))
        }
        Some(_) | None => Fault::unclassified(message(error)),
    }
}

/// A refusal of anything else.
pub(crate) fn fault(error: &Error) -> Fault {
    Fault::unclassified(message(error))
}

/// Words of a registry or the network in a failed pull, and what they mean. The first that occurs
/// counts; the text is all that the engine gives.
const PULL_FAILURES: [(FailureReason, &[&str]); 3] = [
    (
        FailureReason::RunnerExternalDependencyFailure,
        &[
            "dial tcp",
            "connection refused",
            "no such host",
            "i/o timeout",
            "tls handshake",
            "client.timeout exceeded",
            "request canceled",
            "connection reset",
        ],
    ),
    (FailureReason::RunnerConfigurationError, &["not found", "manifest unknown"]),
    (
        FailureReason::RunnerConfigurationError,
        &[
            "pull access denied",
            "access to the resource is denied",
            "no basic auth credentials",
            "repository does not exist or may require",
            "unauthorized",
            "authentication required",
        ],
    ),
];

/// Why a pull failed.
pub(crate) fn pull_reason(message: &str) -> FailureReason {
    let message = message.to_lowercase();
    PULL_FAILURES
        .iter()
        .find(|(_, words)| words.iter().any(|word| message.contains(word)))
        .map_or(FailureReason::ImagePullFailure, |(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::FaultClass;

    fn refused(status_code: u16) -> Error {
        Error::DockerResponseServerError { status_code, message: "no".to_owned() }
    }

    #[test]
    fn answer_that_cannot_be_decoded_is_not_quoted() {
        let err = serde_json::from_str::<u32>("\"hunter2\"").unwrap_err();
        let message_of_json = err.to_string();
        for error in [Error::JsonSerdeError { err }, Error::JsonDataError { message: message_of_json, column: 3 }] {
            assert!(error.to_string().contains("hunter2"));
            assert!(!message(&error).contains("hunter2") && message(&error).contains("column"), "{}", message(&error));
        }
    }

    #[test]
    fn long_words_of_an_engine_are_cut() {
        let said = "no ".repeat(1 << 20);
        for error in [
            Error::DockerResponseServerError { status_code: 500, message: said.clone() },
            Error::DockerStreamError { error: said },
        ] {
            assert!(message(&error).len() < 3_000 && message(&error).contains("cut"));
        }
    }

    #[test]
    fn what_cannot_be_created_is_a_configuration_error() {
        assert_eq!(create_fault(&refused(400)).reason(), FailureReason::RunnerConfigurationError);
        assert_eq!(create_fault(&refused(500)).reason(), FailureReason::RunnerSystemFailure);
        assert_eq!(create_fault(&refused(400)).message, "Error response from daemon: no");
    }

    #[test]
    fn what_cannot_be_started_speaks_against_the_instance_only_where_the_engine_failed() {
        let said = |status_code, message: &str| {
            start_fault(&Error::DockerResponseServerError { status_code, message: message.to_owned() }).class
        };
        let missing = "exec: \"/no/such\": stat /no/such: no such file or directory: unknown";
        assert_eq!(said(400, missing), FaultClass::Reason(FailureReason::RunnerSystemFailure));
        assert_eq!(said(400, &missing.replace("/no/such", AGENT_PATH)), FaultClass::EnvironmentGone);
        assert_eq!(said(404, "no such container"), FaultClass::EnvironmentGone);
        assert_eq!(said(500, "no space left on device"), FaultClass::Unclassified);
        let user = "unable to find user eve: no matching entries in passwd file";
        assert_eq!(said(500, user), FaultClass::Reason(FailureReason::RunnerSystemFailure));
    }

    #[test]
    fn failed_pulls_are_told_apart_by_the_registrys_words() {
        for (message, reason) in [
            ("Get https://r/v2/: dial tcp: lookup r: no such host", FailureReason::RunnerExternalDependencyFailure),
            ("manifest for a:b not found: manifest unknown", FailureReason::RunnerConfigurationError),
            ("pull access denied for x", FailureReason::RunnerConfigurationError),
            ("toomanyrequests: slow down", FailureReason::ImagePullFailure),
        ] {
            assert_eq!(pull_reason(message), reason, "{message}");
        }
    }
}
