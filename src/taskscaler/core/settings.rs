//! What the core is told about one runner's fleet. Plain values that cannot be wrong; the actor builds
//! them from the resolved configuration, and the simulator makes them up.

use std::num::NonZeroU32;
use std::time::Duration;

use super::policy::Policy;

/// How one runner's fleet is to be kept. Every value may change while the core runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Jobs at the same time on one instance.
    pub capacity_per_instance: NonZeroU32,
    /// Jobs ever on one instance; `None` is no limit.
    pub max_use_count: Option<NonZeroU32>,
    /// Instances in any state; `None` leaves it to the group's own limit.
    pub max_instances: Option<NonZeroU32>,
    /// In the file's order: the last one that is active wins.
    pub policies: Vec<Policy>,
    /// `reservation_throttling` where the file has it.
    pub reservation_throttling: Option<bool>,
    pub scale_throttle: ScaleThrottle,
    /// How long a job waits for a slot before it is refused one.
    pub acquire_timeout: Duration,
    /// Between listings of the group while nothing is expected of it.
    pub update_interval: Duration,
    /// Between listings while instances are asked for, coming up or going.
    pub update_interval_when_expecting: Duration,
    /// After this a deletion that shows no effect is asked for again.
    pub deletion_retry_interval: Duration,
    /// Failed checks in a row after which an instance is given up.
    pub failure_threshold: NonZeroU32,
    /// Between checks of an instance that nobody has used meanwhile.
    pub liveness_interval: Duration,
    /// What a shutdown does with the instances.
    pub on_shutdown: OnShutdown,
    /// What to do with members of the group that nobody knows.
    pub unknown: UnknownInstances,
}

impl Settings {
    /// Slots of an instance that nobody has used: no more than it may have jobs ever.
    pub fn slots_per_instance(&self) -> NonZeroU32 {
        self.max_use_count.map_or(self.capacity_per_instance, |max| max.min(self.capacity_per_instance))
    }
}

/// How fast instances may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleThrottle {
    Unlimited,
    /// A bucket of `burst` instances that fills by `limit` a second.
    Limited {
        limit: NonZeroU32,
        burst: NonZeroU32,
    },
}

/// What a shutdown does with the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// They stay for the next start.
    Keep,
    /// They are deleted, and asked about again `retries` times, `interval` apart.
    Delete { interval: Duration, retries: u32 },
}

/// Members of the group that are in no record of ours and fit no open request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownInstances {
    /// Each member is the operator's own and is used: fixed lists of hosts.
    Adopt,
    /// The group is declared ours. What was there before the start is removed, what appears later is used.
    Remove,
    /// They count towards `max_instances`, and are neither used nor deleted.
    Report,
}
