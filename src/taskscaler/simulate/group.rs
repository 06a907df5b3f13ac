//! A group of instances that boots what it is asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::chance::Chance;
use crate::ids::InstanceId;
use crate::taskscaler::core::{GroupState, Listing};

/// How the provider behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Provider {
    /// How long a call to it takes.
    pub call: Duration,
    /// From the request until the group lists the instance as running.
    pub boot: Duration,
    /// From then until it takes jobs: connecting, and `instance_ready_command`.
    pub ready: Duration,
    /// From the request to delete until it is gone.
    pub deletion: Duration,
    /// The part of the instances asked for that the group refuses, from 0 to 1.
    pub refused: f64,
    /// The group's own limit.
    pub max_size: Option<u32>,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            call: Duration::from_millis(200),
            boot: Duration::from_secs(30),
            ready: Duration::from_secs(2),
            deletion: Duration::from_secs(10),
            refused: 0.0,
            max_size: None,
        }
    }
}

/// The members of the group.
#[derive(Debug)]
pub(super) struct Group {
    provider: Provider,
    chance: Chance,
    members: BTreeMap<InstanceId, Member>,
    last: u64,
    target: u32,
}

#[derive(Debug)]
struct Member {
    runs_from: Instant,
    gone_from: Option<Instant>,
}

impl Group {
    pub(super) fn new(provider: Provider, seed: u64) -> Self {
        Self { provider, chance: Chance::new(seed), members: BTreeMap::new(), last: 0, target: 0 }
    }

    /// Launches up to `count` instances: those that it does launch.
    pub(super) fn increase(&mut self, count: u32, now: Instant) -> Vec<InstanceId> {
        self.forget_gone(now);
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let room = self.provider.max_size.map_or(u32::MAX, |max| max.saturating_sub(members));
        let granted =
            (0..count).filter(|_| self.provider.refused <= 0.0 || self.chance.fraction() >= self.provider.refused);
        let granted = u32::try_from(granted.count()).unwrap_or(count).min(room);
        self.target += granted;
        let launch = |_| {
            self.last += 1;
            let id = InstanceId::new(format!("i-{:06}", self.last));
            self.members.insert(id.clone(), Member { runs_from: now + self.provider.boot, gone_from: None });
            id
        };
        (0..granted).map(launch).collect()
    }

    /// Begins to delete these instances.
    pub(super) fn decrease<'a>(&mut self, ids: impl Iterator<Item = &'a InstanceId>, now: Instant) {
        for id in ids {
            if let Some(member) = self.members.get_mut(id)
                && member.gone_from.is_none()
            {
                member.gone_from = Some(now + self.provider.deletion);
                self.target = self.target.saturating_sub(1);
            }
        }
    }

    pub(super) fn list(&mut self, now: Instant) -> Listing {
        self.forget_gone(now);
        let state = |member: &Member| match member.gone_from {
            Some(_) => GroupState::Deleting,
            None if member.runs_from <= now => GroupState::Running,
            None => GroupState::Creating,
        };
        let instances = self.members.iter().map(|(id, member)| (id.clone(), state(member))).collect();
        Listing { target: Some(self.target), instances }
    }

    fn forget_gone(&mut self, now: Instant) {
        self.members.retain(|_, member| member.gone_from.is_none_or(|at| at > now));
    }
}
