//! Why a call to the group failed, as far as the core acts on the difference.

use std::fmt;
use std::time::Duration;

/// A failed call: its cause and the provider's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    /// For logs, such as `listing the group: connection reset`.
    pub detail: String,
}

/// What the core acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The provider asks for fewer calls; `retry_after` is how long the next one should wait.
    Throttled { retry_after: Option<Duration> },
    /// The provider has no instances to give now. `what` names the zone and type where the provider names them, else
    /// the limit that was met.
    NoCapacity { what: Option<String> },
    /// The credentials do not allow the call.
    Denied,
    /// The group's settings cannot work.
    Misconfigured,
    /// The provider may have done what was asked all the same.
    InDoubt,
    /// Anything else; the call may succeed the next time.
    Other,
}

impl Cause {
    /// One word, for log fields and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::NoCapacity { .. } => "no_capacity",
            Self::Denied => "denied",
            Self::Misconfigured => "misconfigured",
            Self::InDoubt => "in_doubt",
            Self::Other => "failed",
        }
    }

    /// How long the provider asks the core to wait, at most [`LONGEST_WISH`].
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } => retry_after.map(|wait| wait.min(LONGEST_WISH)),
            Self::NoCapacity { .. } | Self::Denied | Self::Misconfigured | Self::InDoubt | Self::Other => None,
        }
    }
}

/// A provider that asks for more is not believed: a wrong header must not stop a fleet for a day.
pub(super) const LONGEST_WISH: Duration = Duration::from_secs(600);

impl Failure {
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }

    /// A failure that the core treats like any other.
    pub fn other(detail: impl Into<String>) -> Self {
        Self::new(Cause::Other, detail)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Failures in a row since the last success, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Requests for instances that failed.
    pub requests: u32,
    /// Requests that the provider had no capacity for.
    pub capacity: u32,
    /// Instances that came up and did not become ready.
    pub instances: u32,
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, capacity, instances } = self;
        write!(f, "failed requests {requests}, without capacity {capacity}, failed instances {instances}")
    }
}
