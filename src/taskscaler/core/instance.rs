//! One member of the group, from its first listing to its end.
//!
//! ```text
//!  asked for ──listed──▶ Creating ──running──▶ Preparing ──ready──▶ Ready
//!                            │                    │ failed            │ idle, spent, unhealthy
//!                            └── stuck ──▶ Leaving ◀──────────────────┘   (never with a job in a slot)
//!                                             │ no longer listed
//!                                             ▼
//!                                           gone (remembered for a while, so that a late listing is no stranger)
//!
//!  listed, not ours ──▶ Foreign: counted, never used, never deleted
//! ```
//!
//! Missing from a listing is no state: a group may leave an instance out by mistake. It gets no job while it
//! is missing, and is given up when a second listing lacks it and it does not answer either.

use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::time::Now;

use super::creations::CreationId;
use super::mutations::{self, Mutation};
use super::reasons::RemovalReason;
use super::slots::Slots;

/// How long a sign of life stands for the check before an assignment.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// Why an instance is in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// We asked for it.
    Requested,
    /// It was there before us.
    Preexisted,
    /// It appeared and nobody asked for it.
    Unexpected,
}

impl Cause {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Preexisted => "preexisted",
            Self::Unexpected => "unexpected",
        }
    }
}

/// What can be done with an instance now.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Creating,
    /// It runs; whether it can take jobs is being found out, since then.
    Preparing {
        since: Instant,
    },
    Ready,
    Leaving(Leaving),
    /// A member of the group that is not ours.
    Foreign,
}

/// An instance on its way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaving {
    pub reason: RemovalReason,
    pub since: Instant,
    pub deletion: Deletion,
    /// The group has been asked to delete it, so the size it works towards may no longer include it.
    pub asked: bool,
    /// Since when listings that began after the group had answered still show it as if nothing were.
    pub lingers: Option<Instant>,
}

/// How far the deletion of an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// To be asked for at this time.
    Due(Instant),
    /// Asked for; the group has not answered.
    InFlight,
    /// The group has agreed. Where it still lists the instance then, it is asked again.
    Accepted { since: Instant, retry_at: Instant },
    /// The group itself says that it is going.
    Confirmed,
}

/// What is known about an instance answering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Failed checks in a row.
    pub failures: u32,
    /// A job could not be prepared on it: nothing may be started there any more, whatever it answers.
    pub broken: Option<String>,
    /// Listings in a row that lack it.
    pub missing: u32,
    /// It has answered since a listing first lacked it.
    pub answered_while_missing: bool,
    /// A check is on its way.
    pub checking: bool,
    pub last_alive: Option<Instant>,
}

impl Health {
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.last_alive.is_some_and(|alive| now.saturating_duration_since(alive) < FRESH)
    }

    pub(super) fn alive(&mut self, now: Instant) {
        self.failures = 0;
        self.answered_while_missing = self.missing > 0;
        self.last_alive = Some(now);
    }

    /// A listing lacks it; how many in a row do.
    pub(super) fn lacked(&mut self) -> u32 {
        self.missing += 1;
        self.missing
    }

    fn is_suspect(&self) -> bool {
        self.failures > 0 || self.missing > 0
    }
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    pub cause: Cause,
    pub state: State,
    pub slots: Slots,
    /// Jobs that have had a slot here, the present ones included.
    pub uses: u32,
    pub health: Health,
    /// The request that it came from.
    pub creation: Option<CreationId>,
    /// When it was asked for, where we did.
    pub requested_at: Option<Instant>,
    pub listed_at: Instant,
    pub listed_at_utc: SystemTime,
    /// When its last job ended, else when it became ready.
    pub idle_since: Instant,
    /// It is known from an earlier run of the manager.
    pub restored: bool,
    /// What the group may put in its place, because it seems to be gone.
    pub replacement: Option<CreationId>,
}

/// The limits that say how many slots an instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Slots of an instance that nobody has used.
    pub capacity: NonZeroU32,
    /// Jobs ever.
    pub max_uses: Option<NonZeroU32>,
}

/// The standing of a ready instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It may take jobs.
    Healthy,
    /// It may be alive: no job until it has answered.
    Suspect,
    /// It takes no more jobs.
    Unhealthy,
}

impl Standing {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl State {
    /// One word, as `fleeting_provisioner_instances` has it where it has one.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Preparing { .. } => "preparing",
            Self::Ready => "ready",
            Self::Leaving(_) => "deleting",
            Self::Foreign => "foreign",
        }
    }
}

impl Instance {
    /// One that is listed for the first time.
    pub(super) fn listed(cause: Cause, state: State, now: Now) -> Self {
        Self {
            cause,
            state,
            slots: Slots::default(),
            uses: 0,
            health: Health::default(),
            creation: None,
            requested_at: None,
            listed_at: now.instant,
            listed_at_utc: now.utc,
            idle_since: now.instant,
            restored: false,
            replacement: None,
        }
    }

    pub fn standing(&self, threshold: NonZeroU32) -> Standing {
        if self.health.broken.is_some() || self.health.failures >= threshold.get() {
            Standing::Unhealthy
        } else if self.health.is_suspect() {
            Standing::Suspect
        } else {
            Standing::Healthy
        }
    }

    /// Slots that jobs may yet take, whatever its health.
    pub fn free_slots(&self, shape: Shape) -> u32 {
        let capacity = shape.capacity.get() + u32::from(mutations::on(Mutation::CapacityOffByOne));
        let by_capacity = capacity.saturating_sub(self.slots.taken());
        let by_uses = shape.max_uses.map_or(u32::MAX, |max| max.get().saturating_sub(self.uses));
        by_capacity.min(by_uses)
    }

    /// Whether it has had all the jobs it may have.
    pub fn is_spent(&self, shape: Shape) -> bool {
        shape.max_uses.is_some_and(|max| self.uses >= max.get())
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }
}
