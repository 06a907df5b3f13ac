//! Why instances are created and deleted, and why capacity is refused: a closed set, each with its numbers.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why instances are asked for: `+3: pending 2, idle target 5, have 4`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreationReason {
    /// Instances that are missing, whatever holds them back.
    pub required: u32,
    /// Instances that are asked for now.
    pub count: u32,
    /// Jobs that wait for a slot.
    pub pending: u32,
    /// Idle slots that the policy wants, in jobs.
    pub idle_target: u32,
    /// Instances that serve or will serve.
    pub have: u32,
    /// Why it is not all of them.
    pub limited_by: Option<Limit>,
}

/// What holds back a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// There are as many as there may be, those included that do not serve: they leave, or are not ours.
    MaxInstances {
        max: u32,
        others: u32,
    },
    ScaleThrottle,
    /// The last ones failed: one is tried first.
    Probe,
}

impl Limit {
    /// One word, by which limits are told apart.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxInstances { .. } => "max_instances",
            Self::ScaleThrottle => "scale_throttle",
            Self::Probe => "probe",
        }
    }
}

impl fmt::Display for CreationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { required, count, pending, idle_target, have, limited_by } = self;
        write!(f, "+{count}: pending {pending}, idle target {idle_target}, have {have}")?;
        match limited_by {
            None => Ok(()),
            Some(Limit::MaxInstances { max, others }) => {
                write!(f, " (of {required}, max_instances {max} with {others} that do not serve)")
            }
            Some(Limit::ScaleThrottle) => write!(f, " (of {required}, scale_throttle)"),
            Some(Limit::Probe) => write!(f, " (of {required}, one first after failures)"),
        }
    }
}

/// Why an instance goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalReason {
    /// It was idle for `idle` with `idle_time` allowed, and is not needed for the idle target.
    Idle { idle: Duration, idle_time: Duration },
    /// There are more instances than `max_instances` allows now.
    AboveMaximum { max: u32 },
    /// It has had all the jobs it may have.
    MaxUses { uses: u32 },
    /// It failed this many checks in a row.
    Unhealthy { failures: u32 },
    /// A job could not be prepared on it, or what an earlier one left there could not be ended.
    Broken { detail: String },
    /// It did not become ready.
    ReadyUpFailed { error: String },
    /// It took longer to come up than an instance may.
    StuckCreating { waited: Duration },
    /// The group says that it will not come up.
    TimedOut,
    /// Somebody else deletes it.
    TakenAway,
    /// It was there before us and nothing is known about it, in a group that is declared ours.
    Unknown,
    /// It was deleted, or given up with its jobs, and is listed again.
    Reappeared,
    /// The runner was removed from the configuration.
    Drained,
    /// `delete_instances_on_shutdown`.
    Shutdown,
}

impl RemovalReason {
    /// One word for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Idle { .. } => "idle",
            Self::AboveMaximum { .. } => "above_maximum",
            Self::MaxUses { .. } => "max_uses",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Broken { .. } => "broken",
            Self::ReadyUpFailed { .. } => "ready_up_failed",
            Self::StuckCreating { .. } => "stuck_creating",
            Self::TimedOut => "timed_out",
            Self::TakenAway => "taken_away",
            Self::Unknown => "unknown",
            Self::Reappeared => "reappeared",
            Self::Drained => "drained",
            Self::Shutdown => "shutdown",
        }
    }

    /// The reason with all its numbers; [`fmt::Display`] is the text that operators search for.
    pub fn explained(&self) -> String {
        if let Self::Idle { idle, idle_time } = self {
            return format!("{self} (idle for {} s, idle_time {} s)", idle.as_secs(), idle_time.as_secs());
        }
        self.to_string()
    }
}

impl fmt::Display for RemovalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle { .. } => f.write_str("instance exceeded max idle time"),
            Self::AboveMaximum { max } => write!(f, "more instances than max_instances {max}"),
            Self::MaxUses { uses } => write!(f, "instance reached max use count {uses}"),
            Self::Unhealthy { failures } => write!(f, "instance failed {failures} checks in a row"),
            Self::Broken { detail } => write!(f, "instance is broken: {detail}"),
            Self::ReadyUpFailed { error } => write!(f, "ready up failed: {error}"),
            Self::StuckCreating { waited } => write!(f, "instance did not come up in {} s", waited.as_secs()),
            Self::TimedOut => f.write_str("instance timed out at its provider"),
            Self::TakenAway => f.write_str("instance is deleted by somebody else"),
            Self::Unknown => f.write_str("no data on pre-existing instance so removing for safety"),
            Self::Reappeared => f.write_str("instance was deleted or given up before and is listed again"),
            Self::Drained => f.write_str("runner was removed"),
            Self::Shutdown => f.write_str("delete_instances_on_shutdown"),
        }
    }
}

/// Why no capacity is reserved for a poll.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The group has not been listed yet.
    #[error("no capacity: the group has not been listed yet")]
    Starting,
    /// The fleet is being given up.
    #[error("no capacity: shutting down")]
    Stopping,
    /// Nothing is free, and nothing may be counted on to become free.
    #[error("no capacity: no immediately available or potential capacity ({0})")]
    NoPotential(SlotCounts),
    /// Nothing is free now, and the mode asks for no more than that.
    #[error("no capacity: no immediately available capacity ({0})")]
    NoneAvailable(SlotCounts),
    /// The last idle instance stays unpromised.
    #[error("no capacity: reservations are throttled ({0})")]
    Throttled(SlotCounts),
    /// Nothing is free, and new instances fail or are held back.
    #[error("no capacity: instances cannot be created now ({0})")]
    CreationsFail(SlotCounts),
}

impl Refusal {
    /// One word for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::NoPotential(_) => "no_potential",
            Self::NoneAvailable(_) => "none_available",
            Self::Throttled(_) => "throttled",
            Self::CreationsFail(_) => "creations_fail",
        }
    }
}

/// The slots at the moment of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    pub idle: u32,
    pub reserved: u32,
    pub acquired: u32,
    pub unavailable: u32,
    pub unhealthy: u32,
    pub unready: u32,
}

impl fmt::Display for SlotCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idle, reserved: _, acquired, unavailable, unhealthy, unready } = self;
        write!(f, "idle:{idle},acquired:{acquired},unavailable:{unavailable},unhealthy:{unhealthy},unready:{unready}")
    }
}

/// Why a job got no slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    #[error("unable to acquire instance within the configured timeout of {} s", waited.as_secs())]
    TimedOut { waited: Duration },
    #[error("shutting down")]
    Stopping,
    /// The same key asked again: only the last one waits.
    #[error("a later call for the same key took over")]
    Superseded,
    /// The instance of this key is gone; it must be released first.
    #[error("the instance of this acquisition is gone")]
    Lost,
    #[error("cancelled")]
    Cancelled,
}

/// Why an acquisition was taken away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossCause {
    /// The group lists it no longer, and nobody here asked for that.
    #[error("instance {0} was unexpectedly removed")]
    UnexpectedlyRemoved(crate::ids::InstanceId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_as_operators_know_them() {
        let mut reason =
            CreationReason { required: 3, count: 3, pending: 2, idle_target: 5, have: 4, limited_by: None };
        assert_eq!(reason.to_string(), "+3: pending 2, idle target 5, have 4");
        reason.limited_by = Some(Limit::ScaleThrottle);
        reason.count = 1;
        assert_eq!(reason.to_string(), "+1: pending 2, idle target 5, have 4 (of 3, scale_throttle)");
        let idle = RemovalReason::Idle { idle: Duration::from_secs(61), idle_time: Duration::from_secs(60) };
        assert_eq!(idle.to_string(), "instance exceeded max idle time");
        assert_eq!(idle.explained(), "instance exceeded max idle time (idle for 61 s, idle_time 60 s)");
        let counts = SlotCounts { idle: 1, acquired: 2, ..SlotCounts::default() };
        assert_eq!(
            Refusal::NoneAvailable(counts).to_string(),
            "no capacity: no immediately available capacity (idle:1,acquired:2,unavailable:0,unhealthy:0,unready:0)"
        );
    }
}
