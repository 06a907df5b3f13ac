//! All members of the group, counted and in order.
//!
//! Every change of an instance goes through [`Fleet::edit`], which takes it out of the counts and orders and
//! puts it back: so a decision reads counts instead of walking ten thousand instances, and a count cannot
//! drift from what it counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Instant;

use crate::ids::InstanceId;

use super::instance::{Deletion, Instance, Shape, Standing, State};
use super::mutations::{self, Mutation};

/// Declares the counts and how one instance's share is put in and taken out.
macro_rules! tally {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counts over instances and their slots.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) struct Tally { $($(#[$doc])* pub $field: u32,)* }

        impl Tally {
            fn add(&mut self, share: &Self) { $(self.$field += share.$field;)* }
            fn remove(&mut self, share: &Self) { $(self.$field -= share.$field;)* }
        }
    };
}

tally! {
    /// Instances that come up at their provider.
    creating,
    /// Instances that run and are not yet ready.
    preparing,
    /// Instances that are ready, whatever their health.
    ready,
    /// Instances on their way out.
    leaving,
    /// Of those, instances that no job holds back.
    going,
    /// Members that are not ours.
    foreign,
    /// Of the serving ones, instances that the last listing lacked.
    missing,
    /// Slots with a job, on instances that serve.
    acquired,
    /// Slots with a job, on instances on their way out.
    doomed,
    /// Slots that a job could have now.
    idle,
    /// Slots of instances that are not ready, or suspect.
    unready,
    /// Slots of ready instances that can never be used again.
    unavailable,
    /// Free slots of instances that take no more jobs.
    unhealthy,
}

impl Tally {
    /// Instances that serve or will serve.
    pub(super) fn serving(&self) -> u32 {
        self.creating + self.preparing + self.ready
    }

    /// Every member of the group.
    pub(super) fn all(&self) -> u32 {
        self.serving() + self.leaving + self.foreign
    }
}

/// Where an instance stands among those with free slots: the fullest first, so that jobs are packed and whole
/// instances fall idle; of equals the one that was used last, so that the others can age out.
type OpenRank = (Reverse<u32>, Reverse<Instant>, InstanceId);

/// The members of the group.
#[derive(Debug)]
pub(super) struct Fleet {
    shape: Shape,
    failure_threshold: NonZeroU32,
    instances: BTreeMap<InstanceId, Instance>,
    tally: Tally,
    open: BTreeSet<OpenRank>,
    idle: BTreeSet<(Instant, InstanceId)>,
    deletions: BTreeSet<(Instant, InstanceId)>,
}

impl Fleet {
    pub(super) fn new(shape: Shape, failure_threshold: NonZeroU32) -> Self {
        Self {
            shape,
            failure_threshold,
            instances: BTreeMap::new(),
            tally: Tally::default(),
            open: BTreeSet::new(),
            idle: BTreeSet::new(),
            deletions: BTreeSet::new(),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Other limits hold: everything is counted anew.
    pub(super) fn reshape(&mut self, shape: Shape, failure_threshold: NonZeroU32) {
        let instances = std::mem::take(&mut self.instances);
        *self = Self::new(shape, failure_threshold);
        for (id, instance) in instances {
            self.insert(id, instance);
        }
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.instances.iter()
    }

    pub(super) fn insert(&mut self, id: InstanceId, instance: Instance) {
        self.enter(&id, &instance);
        if let Some(before) = self.instances.insert(id.clone(), instance) {
            self.leave(&id, &before);
        }
    }

    pub(super) fn remove(&mut self, id: &InstanceId) -> Option<Instance> {
        let instance = self.instances.remove(id)?;
        self.leave(id, &instance);
        Some(instance)
    }

    /// The one way to change an instance.
    pub(super) fn edit<R>(&mut self, id: &InstanceId, change: impl FnOnce(&mut Instance) -> R) -> Option<R> {
        let mut instance = self.instances.remove(id)?;
        self.leave(id, &instance);
        let result = change(&mut instance);
        self.enter(id, &instance);
        self.instances.insert(id.clone(), instance);
        Some(result)
    }

    /// The instance whose free slot the next job should have.
    pub(super) fn first_open(&self) -> Option<&InstanceId> {
        self.open.first().map(|(_, _, id)| id)
    }

    /// Ready instances without a job, the longest idle first, and since when.
    pub(super) fn idle(&self) -> impl Iterator<Item = (Instant, &InstanceId)> {
        self.idle.iter().map(|(since, id)| (*since, id))
    }

    /// Deletions to be asked for, the earliest first, and when.
    pub(super) fn deletions(&self) -> impl Iterator<Item = (Instant, &InstanceId)> {
        self.deletions.iter().map(|(at, id)| (*at, id))
    }

    /// The counts made from nothing, to compare with [`Fleet::tally`].
    pub(super) fn recount(&self) -> Tally {
        let mut tally = Tally::default();
        for instance in self.instances.values() {
            tally.add(&self.share(instance));
        }
        tally
    }

    fn enter(&mut self, id: &InstanceId, instance: &Instance) {
        self.tally.add(&self.share(instance));
        self.open.extend(self.open_rank(id, instance));
        self.idle.extend(idle_rank(id, instance));
        self.deletions.extend(deletion_rank(id, instance));
    }

    fn leave(&mut self, id: &InstanceId, instance: &Instance) {
        self.tally.remove(&self.share(instance));
        if let Some(rank) = self.open_rank(id, instance) {
            self.open.remove(&rank);
        }
        if let Some(rank) = idle_rank(id, instance) {
            self.idle.remove(&rank);
        }
        if let Some(rank) = deletion_rank(id, instance) {
            self.deletions.remove(&rank);
        }
    }

    fn share(&self, instance: &Instance) -> Tally {
        let taken = instance.slots.taken();
        let free = instance.free_slots(self.shape);
        let lost = self.shape.capacity.get().saturating_sub(taken + free);
        let missing = u32::from(instance.health.missing > 0);
        let base = Tally { missing, ..Tally::default() };
        match &instance.state {
            State::Creating => Tally { creating: 1, unready: free, acquired: taken, ..base },
            State::Preparing { .. } => Tally { preparing: 1, unready: free, acquired: taken, ..base },
            State::Ready => {
                let ready = Tally { ready: 1, acquired: taken, unavailable: lost, ..base };
                match instance.standing(self.failure_threshold) {
                    Standing::Healthy => Tally { idle: free, ..ready },
                    Standing::Suspect => Tally { unready: free, ..ready },
                    Standing::Unhealthy => Tally { unhealthy: free, ..ready },
                }
            }
            State::Leaving(_) => {
                let going = u32::from(taken == 0);
                Tally { leaving: 1, going, doomed: taken, ..Tally::default() }
            }
            State::Foreign => Tally { foreign: 1, ..Tally::default() },
        }
    }

    fn open_rank(&self, id: &InstanceId, instance: &Instance) -> Option<OpenRank> {
        let open = instance.is_ready()
            && instance.standing(self.failure_threshold) == Standing::Healthy
            && instance.free_slots(self.shape) > 0;
        open.then(|| (Reverse(instance.slots.taken()), Reverse(instance.idle_since), id.clone()))
    }
}

fn idle_rank(id: &InstanceId, instance: &Instance) -> Option<(Instant, InstanceId)> {
    let idle = instance.slots.is_empty() || mutations::on(Mutation::BusyDeleted);
    (instance.is_ready() && idle).then(|| (instance.idle_since, id.clone()))
}

/// An instance with a job in a slot is never deleted, whoever is to blame for its leaving.
fn deletion_rank(id: &InstanceId, instance: &Instance) -> Option<(Instant, InstanceId)> {
    let State::Leaving(leaving) = &instance.state else { return None };
    let (Deletion::Due(at) | Deletion::Accepted { retry_at: at, .. }) = leaving.deletion else { return None };
    let idle = instance.slots.is_empty() || mutations::on(Mutation::BusyDeleted);
    idle.then(|| (at, id.clone()))
}
