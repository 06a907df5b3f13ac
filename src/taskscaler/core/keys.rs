//! Claims on capacity, one a key.
//!
//! ```text
//!           reserve             acquire            a slot is free       the instance answers
//!  (none) ─────────▶ Reserved ─────────▶ Pending ─────────────▶ Candidate ──────────▶ Acquired
//!     ▲  unreserve      │ ▲ cancel, timeout │ ▲   it does not answer  │                  │
//!     ├─────────────────┘ └─────────────────┘ └────────────────────────┘     instance gone │
//!     │                                        release                                    ▼
//!     └──────────────────────────────────────────────────────────────────────────────── Lost
//! ```
//!
//! A reservation is soft: it is no instance and no slot, only a promise about counts. A lost acquisition keeps
//! its key until it is released, and counts for nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ids::{InstanceId, ReservationKey};

use super::event::Ticket;

/// How far a claim has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    Reserved,
    Pending(Waiting),
    Candidate { waiting: Waiting, place: Place },
    Acquired(Place),
    Lost,
}

/// A job that waits for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Whom to answer.
    pub ticket: Ticket,
    pub since: Instant,
    /// Its number in the queue; it keeps it when a slot turns out to be no good.
    pub number: u64,
}

/// One slot of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub instance: InstanceId,
    pub slot: u32,
}

/// All claims, and the queue of those that wait.
#[derive(Debug, Default)]
pub(super) struct Keys {
    claims: BTreeMap<ReservationKey, Claim>,
    queue: BTreeMap<u64, ReservationKey>,
    reserved: u32,
    last_number: u64,
}

impl Keys {
    pub(super) fn get(&self, key: &ReservationKey) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// Puts a claim into a state; the one it was in before.
    pub(super) fn set(&mut self, key: &ReservationKey, claim: Claim) -> Option<Claim> {
        self.count(key, &claim);
        let before = self.claims.insert(key.clone(), claim);
        if let Some(before) = &before {
            self.discount(key, before);
        }
        before
    }

    pub(super) fn remove(&mut self, key: &ReservationKey) -> Option<Claim> {
        let claim = self.claims.remove(key)?;
        self.discount(key, &claim);
        Some(claim)
    }

    /// The claim that has waited longest.
    pub(super) fn first_pending(&self) -> Option<&ReservationKey> {
        self.queue.values().next()
    }

    /// A number behind all that wait.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn reserved(&self) -> u32 {
        self.reserved
    }

    pub(super) fn pending(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ReservationKey, &Claim)> {
        self.claims.iter()
    }

    fn count(&mut self, key: &ReservationKey, claim: &Claim) {
        match claim {
            Claim::Reserved => self.reserved += 1,
            Claim::Pending(waiting) => drop(self.queue.insert(waiting.number, key.clone())),
            Claim::Candidate { .. } | Claim::Acquired(_) | Claim::Lost => {}
        }
    }

    /// The claim itself may by now be another one with the same number: a queue entry goes only where no
    /// pending claim holds it.
    fn discount(&mut self, key: &ReservationKey, before: &Claim) {
        match before {
            Claim::Reserved => self.reserved -= 1,
            Claim::Pending(waiting) => {
                let held = matches!(self.claims.get(key), Some(Claim::Pending(now)) if now.number == waiting.number);
                if !held {
                    self.queue.remove(&waiting.number);
                }
            }
            Claim::Candidate { .. } | Claim::Acquired(_) | Claim::Lost => {}
        }
    }
}
