//! The claim on a group: one manager at a time changes it, also when one of them has been paused or cut off.
//!
//! ```text
//!   granted                       renewed again and again            nothing is begun   nothing arrives   it ends
//!      │◀────────── a third ──────────▶│ … fails, tried again … │          │                │               │
//!      └───────────────────────────────┴────────────────────────┴──────────┴── IN_FLIGHT ───┴── ARRIVES ────┘
//! ```
//!
//! A pure decider: `now` is an argument, and the actor makes the calls. `tests/claims.rs` lets two managers with
//! this code loose on one group and looks at every order of events.

use std::time::{Duration, Instant};

use crate::fleeting::group::Lease;

/// How long a claim on a group holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(60);
/// Between tries to renew a claim, and the longest that one may take.
pub const RETRY: Duration = Duration::from_secs(5);
/// What a call to the group needs at least: none is begun with less time left.
const IN_FLIGHT: Duration = Duration::from_secs(10);
/// A call that has been sent reaches the group in this time, or never.
const ARRIVES: Duration = Duration::from_secs(5);

/// What this manager knows of its claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claim {
    lease: Option<Lease>,
    renew_at: Option<Instant>,
}

impl Claim {
    /// The group has granted or extended it.
    pub fn granted(&mut self, lease: Lease, now: Instant) {
        self.renew_at = lease.until.map(|until| now + until.saturating_duration_since(now) / 3);
        self.lease = Some(lease);
    }

    /// A try to extend it has failed, or its fate is not known.
    pub fn renewal_failed(&mut self, now: Instant) {
        self.renew_at = Some(now + RETRY);
    }

    /// What to extend, if it is time for that; [`Claim::granted`] or [`Claim::renewal_failed`] follows.
    pub fn begin_renewal(&mut self, now: Instant) -> Option<Lease> {
        self.renew_at.take_if(|at| *at <= now)?;
        self.lease.clone()
    }

    /// How long a call that changes the group may take if it is begun now; `None` where it must not be.
    pub fn time_for_a_call(&self, now: Instant) -> Option<Duration> {
        let Some(until) = self.lease.as_ref()?.until else { return Some(Duration::MAX) };
        let left = until.saturating_duration_since(now).saturating_sub(ARRIVES);
        (left >= IN_FLIGHT).then_some(left)
    }

    /// When to look again: a renewal is due, or the claim is about to end.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let ends = self.lease.as_ref().and_then(|lease| lease.until).map(|until| until - IN_FLIGHT - ARRIVES);
        [self.renew_at, ends.filter(|ends| *ends > now)].into_iter().flatten().min()
    }

    /// Whether the group was ever claimed.
    pub fn exists(&self) -> bool {
        self.lease.is_some()
    }

    /// The claim, to be given back.
    pub fn take(&mut self) -> Option<Lease> {
        std::mem::take(self).lease
    }
}
