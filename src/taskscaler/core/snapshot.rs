//! The fleet at one moment, for metrics, the status page and `plan`.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use crate::ids::{InstanceId, ReservationKey};

use super::decision::Decision;
use super::instance::{Instance, Standing};
use super::keys::Claim;
use super::policy::ActivePolicy;
use super::reasons::{Refusal, RemovalReason};
use super::reservation::Mode;

/// Everything there is to see.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub tasks: TaskCounts,
    pub instances: InstanceCounts,
    pub totals: Totals,
    /// Instances that there should be.
    pub desired: u32,
    pub max_instances: u32,
    pub capacity_per_instance: u32,
    pub max_use_count: Option<u32>,
    pub policy: ActivePolicy,
    pub mode: Mode,
    /// Whether the group has been listed since the start.
    pub surveyed: bool,
    /// Creations wait until then because of failures.
    pub backing_off_until: Option<Instant>,
    pub fleet: Vec<(InstanceId, Instance, Standing)>,
    pub claims: Vec<(ReservationKey, Claim)>,
    /// The latest decisions, oldest first.
    pub decisions: Vec<(SystemTime, Decision)>,
}

/// Slots and claims by state, as `fleeting_taskscaler_tasks` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    pub idle: u32,
    pub reserved: u32,
    pub pending: u32,
    pub acquired: u32,
    pub unavailable: u32,
    pub unhealthy: u32,
    pub unready: u32,
}

/// Instances by state, as `fleeting_provisioner_instances` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCounts {
    /// Asked for and not yet listed.
    pub requested: u32,
    pub creating: u32,
    /// Running, and not yet known to work.
    pub preparing: u32,
    pub ready: u32,
    pub deleting: u32,
    pub foreign: u32,
}

/// What has happened since the start, only ever growing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub reserve: u64,
    pub unreserve: u64,
    pub acquire: u64,
    pub release: u64,
    /// Refusals because neither idle nor potential capacity was there.
    pub reserve_iop_capacity_failure: u64,
    /// Refusals because nothing was idle.
    pub reserve_available_capacity_failure: u64,
    pub scale_up: u64,
    pub scale_down: u64,
    pub created: u64,
    pub deleted: u64,
    pub unexpectedly_removed: u64,
    pub ready_up_failed: u64,
    pub increase_failed: u64,
    pub decrease_failed: u64,
    pub listings: u64,
    pub listings_failed: u64,
    /// By [`RemovalReason::as_str`].
    pub removals: BTreeMap<&'static str, u64>,
    /// By [`Refusal::as_str`].
    pub refusals: BTreeMap<&'static str, u64>,
}

impl Totals {
    pub(super) fn removal(&mut self, reason: &RemovalReason) {
        *self.removals.entry(reason.as_str()).or_default() += 1;
    }

    pub(super) fn refusal(&mut self, refusal: &Refusal) {
        *self.refusals.entry(refusal.as_str()).or_default() += 1;
        match refusal {
            Refusal::NoneAvailable(_) | Refusal::Throttled(_) => self.reserve_available_capacity_failure += 1,
            Refusal::Starting | Refusal::Stopping | Refusal::NoPotential(_) | Refusal::CreationsFail(_) => {
                self.reserve_iop_capacity_failure += 1;
            }
        }
    }
}
