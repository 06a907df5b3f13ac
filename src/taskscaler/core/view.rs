//! What can be seen of the core from outside.

use crate::time::Now;

use super::Core;
use super::backoff::Allowance;
use super::scaling;
use super::snapshot::{InstanceCounts, Snapshot, TaskCounts};

impl Core {
    /// Everything there is to see now.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let tally = self.fleet.tally();
        let capacity = self.capacity();
        let required = scaling::required(&capacity, self.idle_target()).max(0);
        let desired = i64::from(capacity.instances).saturating_add(required);
        let threshold = self.settings.failure_threshold;
        Snapshot {
            tasks: TaskCounts {
                idle: tally.idle,
                reserved: self.keys.reserved(),
                pending: self.keys.pending(),
                acquired: tally.acquired + tally.doomed,
                unavailable: tally.unavailable,
                unhealthy: tally.unhealthy,
                unready: tally.unready,
            },
            instances: InstanceCounts {
                requested: self.creations.expected(),
                creating: tally.creating,
                preparing: tally.preparing,
                ready: tally.ready,
                deleting: tally.leaving,
                foreign: tally.foreign,
            },
            totals: self.totals.clone(),
            desired: u32::try_from(desired).unwrap_or(u32::MAX),
            max_instances: self.max_instances(),
            capacity_per_instance: self.settings.capacity_per_instance.get(),
            max_use_count: self.settings.max_use_count.map(std::num::NonZeroU32::get),
            policy: *self.schedule.active(),
            mode: self.mode(),
            surveyed: self.calls.surveyed,
            backing_off_until: match self.breaker.allowance(now.instant) {
                Allowance::NotBefore(until) => Some(until),
                Allowance::Full | Allowance::Probe => None,
            },
            fleet: self.fleet.iter().map(|(id, it)| (id.clone(), it.clone(), it.standing(threshold))).collect(),
            claims: self.keys.iter().map(|(key, claim)| (key.clone(), claim.clone())).collect(),
            decisions: self.ring.iter().cloned().collect(),
        }
    }
}
