//! From the answers of AWS to the errors of a group.
//!
//! The codes are those of the services' "Common errors" pages and of the operations themselves; AWS reports many a
//! cause as `ValidationError`, and then only the message tells it.

use std::error::Error;
use std::time::Duration;

use aws_sdk_autoscaling::config::http::HttpResponse;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};

use super::call::Call;
use crate::fleeting::group::{GroupError, Operation};

/// The API asked for fewer calls.
const THROTTLED: [&str; 9] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "TooManyRequestsException",
    "EC2ThrottledException",
    // Nothing was changed: another change of the same group is under way.
    "ScalingActivityInProgress",
    "ResourceContention",
];

/// The account may not do it.
const DENIED: [&str; 6] =
    ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthException", "OptInRequired", "Blocked"];

/// The account is not known, or its credentials have run out.
const NOT_AUTHENTICATED: [&str; 10] = [
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// There is nothing of this kind, or no more for this account.
const NO_CAPACITY: [&str; 8] = [
    "InsufficientCapacity",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "VcpuLimitExceeded",
];

/// An instance that is new is not known everywhere at once.
const NOT_YET: [&str; 4] = [
    "EC2InstanceNotFoundException",
    "EC2InstanceStateInvalidException",
    "EC2InstanceUnavailableException",
    "InvalidInstanceID.NotFound",
];

/// What an API answered in place of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: String,
    pub message: String,
    pub status: u16,
    pub retry_after: Option<Duration>,
}

/// A call that an API refused, in the API's words.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}: {} (status {})", call.permission(), refusal.code, refusal.message, refusal.status)]
struct Refused {
    call: Call,
    refusal: Refusal,
}

/// A call without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", call.permission())]
struct Unanswered {
    call: Call,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

/// Why a call of the SDK failed.
#[derive(Debug)]
pub(super) enum CallError {
    Refused(Call, Refusal),
    /// Nothing came back. Where `was_cut`, the connection broke, and a call that changes nothing may be made again.
    Unanswered {
        call: Call,
        was_cut: bool,
        source: Box<dyn Error + Send + Sync>,
    },
}

impl CallError {
    pub(super) fn new<E>(call: Call, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let SdkError::ServiceError(answer) = &error else {
            let was_cut = matches!(&error, SdkError::DispatchFailure(failure) if failure.is_io());
            return Self::Unanswered { call, was_cut, source: Box::new(error) };
        };
        let header = answer.raw().headers().get("retry-after");
        // A service that refuses before it looks at the operation may answer in the form of another one.
        let body = answer.raw().body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
        let of_body = |tag: &str| element(&body, tag).unwrap_or("unknown").to_owned();
        let refusal = Refusal {
            code: answer.err().code().map_or_else(|| of_body("Code"), str::to_owned),
            message: answer.err().message().map_or_else(|| of_body("Message"), str::to_owned),
            status: answer.raw().status().as_u16(),
            retry_after: header.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs),
        };
        Self::Refused(call, refusal)
    }

    /// In the words of the taskscaler.
    pub(super) fn during(self, operation: Operation) -> GroupError {
        match self {
            Self::Refused(call, refusal) => group_error(operation, call, refusal),
            Self::Unanswered { call, source, was_cut: _ } => GroupError::failed(operation, Unanswered { call, source }),
        }
    }

    /// Whether the API asked for fewer calls.
    pub(super) fn is_throttled(&self) -> bool {
        matches!(self, Self::Refused(_, refusal) if refusal.is_throttled())
    }

    /// Whether the connection broke before an answer came.
    pub(super) fn was_cut(&self) -> bool {
        matches!(self, Self::Unanswered { was_cut: true, .. })
    }

    /// Whether the account may not make this call.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(_, refusal) if refusal.is_denied())
    }

    /// Whether the group does not have the instance that the call is about.
    pub(super) fn is_unknown_instance(&self) -> bool {
        // "Instance Id not found - No managed instance found for instance ID: i-…"
        matches!(self, Self::Refused(_, refusal)
            if refusal.code == "ValidationError" && refusal.message.contains("Instance Id not found"))
    }
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    after.split_once("</").map(|(text, _)| text)
}

impl Refusal {
    fn is_denied(&self) -> bool {
        DENIED.contains(&self.code.as_str()) || (self.status == 403 && self.code == "unknown")
    }

    fn is_throttled(&self) -> bool {
        THROTTLED.contains(&self.code.as_str())
            || self.status == 429
            || (self.status == 503 && self.retry_after.is_some())
    }
}

fn group_error(operation: Operation, call: Call, refusal: Refusal) -> GroupError {
    let code = refusal.code.as_str();
    let permission = call.permission();
    let said = |what: &str| format!("{what} ({code}: {})", refusal.message);
    if refusal.is_throttled() {
        return GroupError::Throttled { operation, retry_after: refusal.retry_after };
    }
    if refusal.is_denied() {
        return GroupError::Denied { operation, detail: said(&format!("the IAM policy must allow {permission}")) };
    }
    if NOT_AUTHENTICATED.contains(&code) {
        return GroupError::Denied { operation, detail: said("the credentials are not accepted") };
    }
    if NO_CAPACITY.contains(&code) {
        return GroupError::NoCapacity { operation, detail: format!("{code}: {}", refusal.message) };
    }
    if code == "ValidationError" && refusal.message.contains("min size") {
        let detail = said("the group keeps its minimum of instances: set MinSize to 0");
        return GroupError::Misconfigured { detail };
    }
    if NOT_YET.contains(&code) || !(400..500).contains(&refusal.status) {
        return GroupError::failed(operation, Refused { call, refusal });
    }
    GroupError::Misconfigured { detail: Refused { call, refusal }.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(call: Call, code: &str, message: &str, status: u16) -> CallError {
        let refusal = Refusal { code: code.to_owned(), message: message.to_owned(), status, retry_after: None };
        CallError::Refused(call, refusal)
    }

    #[test]
    fn throttling_keeps_the_wait_that_the_api_asks_for() {
        for (code, status) in [("Throttling", 400), ("RequestLimitExceeded", 503), ("Anything", 429)] {
            let error = refused(Call::DescribeGroup, code, "Rate exceeded", status);
            assert!(error.is_throttled(), "{code}");
            assert!(error.during(Operation::Update).is_throttled(), "{code}");
        }
        let retry_after = Some(Duration::from_secs(7));
        let refusal = Refusal { code: "ServiceUnavailable".to_owned(), status: 503, retry_after, ..Refusal::default() };
        let error = CallError::Refused(Call::SetDesiredCapacity, refusal).during(Operation::Increase);
        assert!(matches!(error, GroupError::Throttled { retry_after: Some(wait), .. } if wait.as_secs() == 7));
    }

    #[test]
    fn a_change_that_must_wait_for_another_was_not_made() {
        let error = refused(Call::SetDesiredCapacity, "ScalingActivityInProgress", "activity 1 is in progress", 400);
        assert!(error.during(Operation::Increase).is_throttled());
    }

    #[test]
    fn a_denial_names_the_permission() {
        let error = refused(Call::SetDesiredCapacity, "AccessDenied", "User: u is not authorized", 403);
        assert!(error.is_denied());
        let said = error.during(Operation::Increase).to_string();
        let expected = "not allowed while increasing the group: the IAM policy must allow \
                        autoscaling:SetDesiredCapacity (AccessDenied: User: u is not authorized)";
        assert_eq!(said, expected);
        let error = refused(Call::DescribeInstances, "ExpiredToken", "The security token has expired", 403);
        let said = error.during(Operation::Update).to_string();
        assert!(said.contains("the credentials are not accepted (ExpiredToken"), "{said}");
    }

    #[test]
    fn a_refusal_without_a_code_is_read_as_far_as_it_goes() {
        let xml = "<Response><Errors><Error><Code>AccessDenied</Code><Message>no</Message></Error></Errors></Response>";
        assert_eq!((element(xml, "Code"), element(xml, "Message")), (Some("AccessDenied"), Some("no")));
        assert_eq!(element("<html>", "Code"), None);
        assert!(refused(Call::DescribePolicies, "unknown", "unknown", 403).is_denied());
        assert!(!refused(Call::DescribePolicies, "unknown", "unknown", 400).is_denied());
    }

    #[test]
    fn no_capacity_says_where_and_of_what() {
        let message = "There is no c5.large capacity in eu-central-1a";
        let error = refused(Call::SetDesiredCapacity, "InsufficientInstanceCapacity", message, 500);
        let error = error.during(Operation::Increase);
        assert!(error.is_capacity() && error.to_string().contains(message), "{error}");
    }

    #[test]
    fn only_an_answer_that_settles_it_is_no_failure_in_doubt() {
        let error = refused(Call::SetDesiredCapacity, "InternalFailure", "try again", 500);
        let error = error.during(Operation::Increase);
        assert!(matches!(error, GroupError::Failed { .. }), "{error}");
        let error = refused(Call::SetDesiredCapacity, "ValidationError", "New size is above the maximum", 400);
        let error = error.during(Operation::Increase);
        let said = "autoscaling:SetDesiredCapacity: ValidationError: New size is above the maximum (status 400)";
        assert_eq!(error.to_string(), said);
        assert!(!error.is_retryable());
        let message = "Terminating instance without replacement will violate group's min size constraint.";
        let error = refused(Call::TerminateInstance, "ValidationError", message, 400).during(Operation::Decrease);
        assert!(error.to_string().contains("set MinSize to 0"), "{error}");
    }

    #[test]
    fn an_instance_that_is_not_known_yet_is_asked_for_again() {
        let error = refused(Call::SendKey, "EC2InstanceNotFoundException", "not found", 404);
        assert!(error.during(Operation::ConnectInfo).is_retryable());
        let message = "Instance Id not found - No managed instance found for instance ID: i-1";
        assert!(refused(Call::TerminateInstance, "ValidationError", message, 400).is_unknown_instance());
    }
}
