//! Jobs: reserving capacity for them, giving them slots, and taking slots back.

use std::time::Duration;

use crate::ids::{InstanceId, ReservationKey};
use crate::time::Now;

use super::backoff::Allowance;
use super::event::{Release, Ticket};
use super::instance::{Instance, Standing};
use super::keys::{Claim, Place, Waiting};
use super::mutations::{self, Mutation};
use super::reasons::{AcquireError, Refusal, SlotCounts};
use super::reservation::{self, Mode, Supply};
use super::scaling;
use super::slots::Occupant;
use super::timers::Timer;
use super::{Command, Core, Decision, Phase};

/// For so long after a job it counts as likely that another comes. One empty answer between two jobs says little:
/// at one job a second every other poll has none, and whoever stopped at it would fall behind. Longer than the
/// polls of a quiet runner are apart, shorter than an instance boots in a cloud.
const JOBS_COME_FOR: Duration = Duration::from_secs(10);

impl Core {
    /// A poll wants to know whether it may ask for a job.
    pub(super) fn reserve(&mut self, ticket: Ticket, key: ReservationKey, now: Now) {
        let answer = match self.phase {
            Phase::Starting | Phase::Surveying => Err(Refusal::Starting),
            Phase::Closing(_) | Phase::Stopped => Err(Refusal::Stopping),
            Phase::Serving => {
                self.apply_policy(now);
                self.assign(now);
                reservation::admit(self.mode(), &self.supply(now))
            }
        };
        match answer {
            Ok(()) => {
                self.totals.reserve += 1;
                if self.keys.get(&key).is_none() {
                    self.keys.set(&key, Claim::Reserved);
                }
                self.pin_for_mutation(now);
                self.commands.push_back(Command::GrantReservation { ticket, key });
            }
            Err(refusal) => {
                self.totals.refusal(&refusal);
                if let Some(count) = self.notices.count(refusal.as_str(), now.instant) {
                    self.report(Decision::Refused { refusal: refusal.clone(), count }, now);
                }
                self.commands.push_back(Command::RefuseReservation { ticket, refusal });
            }
        }
    }

    /// A poll came back without a job; or the job is not to be run after all.
    pub(super) fn unreserve(&mut self, key: &ReservationKey, now: Now) {
        self.totals.unreserve += 1;
        self.give_up(key, Release::Unused, now);
    }

    /// A job wants a slot.
    pub(super) fn acquire(&mut self, ticket: Ticket, key: &ReservationKey, now: Now) {
        self.totals.acquire += 1;
        if matches!(self.phase, Phase::Closing(_) | Phase::Stopped) {
            return self.reject(ticket, AcquireError::Stopping);
        }
        let claim = self.keys.get(key).cloned();
        if matches!(claim, None | Some(Claim::Reserved)) {
            self.last_job = Some(now.instant);
        }
        match claim {
            None | Some(Claim::Reserved) => {
                let number = self.keys.next_number();
                self.keys.set(key, Claim::Pending(Waiting { ticket, since: now.instant, number }));
                self.timers.set(Timer::Acquire(key.clone()), now.instant + self.settings.acquire_timeout);
            }
            Some(Claim::Pending(waiting)) => {
                self.reject(waiting.ticket, AcquireError::Superseded);
                self.keys.set(key, Claim::Pending(Waiting { ticket, ..waiting }));
            }
            Some(Claim::Candidate { waiting, place }) => {
                self.reject(waiting.ticket, AcquireError::Superseded);
                self.keys.set(key, Claim::Candidate { waiting: Waiting { ticket, ..waiting }, place });
            }
            Some(Claim::Acquired(place)) => self.grant(ticket, key, place),
            Some(Claim::Lost) => self.reject(ticket, AcquireError::Lost),
        }
    }

    /// The one who waited for a slot has gone; the reservation stays.
    pub(super) fn cancel(&mut self, key: &ReservationKey, now: Now) {
        let waiting = match self.keys.get(key) {
            Some(Claim::Pending(waiting)) => waiting.clone(),
            Some(Claim::Candidate { waiting, place }) => {
                let (waiting, place) = (waiting.clone(), place.clone());
                self.free_candidate(&place);
                self.retire_if_done(&place.instance, now);
                waiting
            }
            None | Some(Claim::Reserved | Claim::Acquired(_) | Claim::Lost) => return,
        };
        self.keys.set(key, Claim::Reserved);
        self.timers.stop(&Timer::Acquire(key.clone()));
        self.reject(waiting.ticket, AcquireError::Cancelled);
    }

    /// No slot came in time; the reservation stays, and the job may ask again.
    pub(super) fn acquire_timed_out(&mut self, key: &ReservationKey, now: Now) {
        let Some(Claim::Pending(waiting)) = self.keys.get(key).cloned() else {
            // A check is under way, and its answer is seconds off.
            return;
        };
        self.keys.set(key, Claim::Reserved);
        let waited = now.instant.saturating_duration_since(waiting.since);
        self.report(Decision::AcquireTimedOut { key: key.clone(), waited }, now);
        self.reject(waiting.ticket, AcquireError::TimedOut { waited });
    }

    /// A job is done with its slot.
    pub(super) fn release(&mut self, key: &ReservationKey, release: Release, now: Now) {
        self.totals.release += 1;
        self.give_up(key, release, now);
    }

    /// Gives waiting jobs the slots that are free, the longest wait first. A slot is taken at once and the job
    /// told when the instance has shown that it is alive.
    pub(super) fn assign(&mut self, now: Now) {
        while let Some(key) = self.keys.first_pending().cloned()
            && let Some(instance) = self.fleet.first_open().cloned()
        {
            let Some(Claim::Pending(waiting)) = self.keys.get(&key).cloned() else { return };
            let taken = self.fleet.edit(&instance, |it| {
                it.uses += u32::from(!mutations::on(Mutation::UsesForgotten));
                (it.slots.take(Occupant::Candidate(key.clone())), it.health.is_fresh(now.instant))
            });
            let Some((slot, fresh)) = taken else { return };
            self.keys.set(&key, Claim::Candidate { waiting, place: Place { instance: instance.clone(), slot } });
            if fresh { self.confirm(&instance, now) } else { self.check(&instance) }
        }
    }

    /// The instance is alive: whoever waits for that has the slot, unless it has turned out to be no good meanwhile.
    pub(super) fn confirm(&mut self, instance: &InstanceId, now: Now) {
        let standing = self.fleet.get(instance).map(|it| it.standing(self.settings.failure_threshold));
        if standing == Some(Standing::Unhealthy) {
            self.send_back(instance, now);
            return self.retire_if_done(instance, now);
        }
        let candidates = self.candidates(instance);
        if candidates.is_empty() {
            return;
        }
        self.fleet.edit(instance, |it| {
            for (slot, key) in &candidates {
                it.slots.replace(*slot, Occupant::Job(key.clone()));
            }
        });
        if !mutations::on(Mutation::GrantUnrecorded) {
            self.record_instance(instance);
        }
        for (slot, key) in candidates {
            let place = Place { instance: instance.clone(), slot };
            self.timers.stop(&Timer::Acquire(key.clone()));
            if let Some(Claim::Candidate { waiting, .. }) = self.keys.set(&key, Claim::Acquired(place.clone())) {
                self.grant(waiting.ticket, &key, place);
            }
        }
    }

    /// The instance is no good: whoever waits for it goes back to the place in the queue that was theirs.
    pub(super) fn send_back(&mut self, instance: &InstanceId, now: Now) {
        for (slot, key) in self.candidates(instance) {
            let Some(Claim::Candidate { waiting, .. }) = self.keys.get(&key).cloned() else { continue };
            self.free_candidate(&Place { instance: instance.clone(), slot });
            let deadline = waiting.since + self.settings.acquire_timeout;
            self.keys.set(&key, Claim::Pending(waiting));
            self.timers.set(Timer::Acquire(key.clone()), deadline.max(now.instant));
            self.report(Decision::Moved { key, from: instance.clone() }, now);
        }
    }

    /// The instance is gone: its jobs are told, and those that had not begun wait for another.
    pub(super) fn evict(&mut self, id: &InstanceId, instance: &Instance, now: Now) {
        for (_, occupant) in instance.slots.iter() {
            let key = occupant.key();
            match (occupant, self.keys.get(key).cloned()) {
                (Occupant::Job(_), Some(Claim::Acquired(_))) if !mutations::on(Mutation::LossUntold) => {
                    self.keys.set(key, Claim::Lost);
                    let cause = super::reasons::LossCause::UnexpectedlyRemoved(id.clone());
                    self.commands.push_back(Command::RevokeAcquisition { key: key.clone(), cause });
                }
                (Occupant::Candidate(_), Some(Claim::Candidate { waiting, .. })) => {
                    let deadline = waiting.since + self.settings.acquire_timeout;
                    self.keys.set(key, Claim::Pending(waiting));
                    self.timers.set(Timer::Acquire(key.clone()), deadline.max(now.instant));
                    self.report(Decision::Moved { key: key.clone(), from: id.clone() }, now);
                }
                (Occupant::Job(_) | Occupant::Candidate(_) | Occupant::Former(_), _) => {}
            }
        }
    }

    /// Tells everybody who waits that there will be no slot.
    pub(super) fn reject_all_waiting(&mut self) {
        while let Some(key) = self.keys.first_pending().cloned() {
            let Some(Claim::Pending(waiting)) = self.keys.remove(&key) else { return };
            self.timers.stop(&Timer::Acquire(key));
            self.reject(waiting.ticket, AcquireError::Stopping);
        }
    }

    /// Whether a poll would be granted capacity now.
    pub fn would_admit(&self, now: Now) -> bool {
        matches!(self.phase, Phase::Serving) && reservation::admit(self.mode(), &self.supply(now)).is_ok()
    }

    /// How reservations are treated now.
    pub(super) fn mode(&self) -> Mode {
        Mode::new(self.schedule.active(), self.settings.reservation_throttling)
    }

    /// What there is to promise to a poll.
    fn supply(&self, now: Now) -> Supply {
        let tally = self.fleet.tally();
        let expected = self.creations.expected();
        let fresh = self.fleet.shape().capacity.get();
        let room = self.max_instances().saturating_sub(tally.all() + expected + self.ghosts());
        let allowed = match self.breaker.allowance(now.instant) {
            _ if !self.is_sole_writer() => 0,
            Allowance::Full => u32::MAX,
            Allowance::Probe => 1,
            Allowance::NotBefore(_) => 0,
        };
        let instances = room.min(self.throttle.available(now.instant)).min(allowed);
        Supply {
            slots: SlotCounts {
                idle: tally.idle,
                reserved: self.keys.reserved(),
                acquired: tally.acquired + tally.doomed,
                unavailable: tally.unavailable,
                unhealthy: tally.unhealthy,
                unready: tally.unready.saturating_add(expected.saturating_mul(fresh)),
            },
            pending: self.keys.pending(),
            bootable: instances.saturating_mul(fresh),
            capacity_per_instance: self.settings.slots_per_instance().get(),
            idle_target: scaling::idle_target(&self.schedule.active().target, tally.acquired),
            creations_fail: !self.is_sole_writer() || self.breaker.is_failing() || self.creations.is_slow(now.instant),
            jobs_come: self.last_job.is_some_and(|at| now.instant < at + JOBS_COME_FOR),
        }
    }

    /// Ends a claim, whatever state it is in.
    fn give_up(&mut self, key: &ReservationKey, release: Release, now: Now) {
        let Some(claim) = self.keys.remove(key) else { return };
        self.timers.stop(&Timer::Acquire(key.clone()));
        match claim {
            Claim::Reserved | Claim::Lost => {}
            Claim::Pending(waiting) => self.reject(waiting.ticket, AcquireError::Cancelled),
            Claim::Candidate { waiting, place } => {
                self.free_candidate(&place);
                self.retire_if_done(&place.instance, now);
                self.reject(waiting.ticket, AcquireError::Cancelled);
            }
            Claim::Acquired(place) => self.free_slot(&place, release, now),
        }
    }

    fn free_slot(&mut self, place: &Place, release: Release, now: Now) {
        self.fleet.edit(&place.instance, |it| {
            it.slots.free(place.slot);
            it.idle_since = now.instant;
            match release {
                Release::Finished => it.health.last_alive = Some(now.instant),
                Release::Unused => it.uses = it.uses.saturating_sub(1),
                Release::Broken => it.health.broken = Some("a job could not be prepared there".to_owned()),
            }
        });
        self.retire_if_done(&place.instance, now);
        self.record_instance(&place.instance);
    }

    /// The slot was never handed out, so the use does not count.
    fn free_candidate(&mut self, place: &Place) {
        self.fleet.edit(&place.instance, |it| {
            it.slots.free(place.slot);
            it.uses = it.uses.saturating_sub(1);
        });
    }

    fn candidates(&self, instance: &InstanceId) -> Vec<(u32, ReservationKey)> {
        let Some(instance) = self.fleet.get(instance) else { return Vec::new() };
        let candidate = |(slot, occupant): (u32, &Occupant)| match occupant {
            Occupant::Candidate(key) => Some((slot, key.clone())),
            Occupant::Job(_) | Occupant::Former(_) => None,
        };
        instance.slots.iter().filter_map(candidate).collect()
    }

    fn grant(&mut self, ticket: Ticket, key: &ReservationKey, place: Place) {
        let uses = self.fleet.get(&place.instance).map_or(0, |instance| instance.uses);
        self.commands.push_back(Command::GrantAcquisition { ticket, key: key.clone(), place, uses });
    }

    fn reject(&mut self, ticket: Ticket, error: AcquireError) {
        self.commands.push_back(Command::RejectAcquisition { ticket, error });
    }

    fn pin_for_mutation(&mut self, now: Now) {
        if !mutations::on(Mutation::PollPinsInstance) {
            return;
        }
        let oldest = self.fleet.idle().next().map(|(_, id)| id.clone());
        if let Some(id) = oldest {
            self.fleet.edit(&id, |it| it.idle_since = now.instant);
        }
    }
}
