//! Instances: making them ready, seeing whether they live, and giving them up.

use std::time::{Duration, Instant};

use crate::ids::InstanceId;
use crate::time::Now;

use super::instance::{Deletion, Instance, Leaving, Standing, State};
use super::mutations::{self, Mutation};
use super::reasons::RemovalReason;
use super::slots::Occupant;
use super::timers::Timer;
use super::{Command, Core, Decision};

/// The first wait before an instance that did not answer is asked again; it doubles.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest such wait.
const ASK_AGAIN_CAP: Duration = Duration::from_secs(30);

impl Core {
    /// The group says that an instance runs: find out whether it can take jobs.
    pub(super) fn prepare(&mut self, id: &InstanceId, now: Now) {
        let requested_at = self.fleet.edit(id, |it| {
            it.state = State::Preparing { since: now.instant };
            it.requested_at
        });
        self.timers.stop(&Timer::ComingUp(id.clone()));
        let took = requested_at.flatten().map(|asked_at| now.instant.saturating_duration_since(asked_at));
        self.report(Decision::Running { instance: id.clone(), took }, now);
        self.commands.push_back(Command::Prepare { instance: id.clone() });
    }

    /// The preparation of an instance has ended.
    pub(super) fn prepared(&mut self, id: &InstanceId, result: Result<(), String>, now: Now) {
        let Some(instance) = self.fleet.get(id) else { return };
        let State::Preparing { since } = instance.state else { return };
        let took = now.instant.saturating_duration_since(since);
        match result {
            Ok(()) => self.became_ready(id, took, now),
            Err(error) => {
                self.totals.ready_up_failed += 1;
                self.report(Decision::ReadyUpFailed { instance: id.clone(), error: error.clone(), took }, now);
                self.instance_failed(id, now);
                self.drop_former_jobs(id);
                self.mark(id, RemovalReason::ReadyUpFailed { error }, now);
            }
        }
    }

    /// An instance takes too long to come up.
    pub(super) fn stuck(&mut self, id: &InstanceId, now: Now) {
        let Some(instance) = self.fleet.get(id) else { return };
        if instance.state == State::Creating {
            let waited = now.instant.saturating_duration_since(instance.listed_at);
            self.instance_failed(id, now);
            self.drop_former_jobs(id);
            self.mark(id, RemovalReason::StuckCreating { waited }, now);
        }
    }

    /// Asks a ready instance whether it still answers, unless somebody has.
    pub(super) fn check(&mut self, id: &InstanceId) {
        let ask = self.fleet.edit(id, |it| it.is_ready() && !std::mem::replace(&mut it.health.checking, true));
        if ask == Some(true) {
            self.commands.push_back(Command::Check { instance: id.clone() });
        }
    }

    /// An instance has answered, or not.
    pub(super) fn checked(&mut self, id: &InstanceId, result: Result<(), String>, now: Now) {
        let asked = self.fleet.edit(id, |it| std::mem::take(&mut it.health.checking) && it.is_ready());
        if asked != Some(true) {
            return;
        }
        match result {
            Ok(()) => {
                self.fleet.edit(id, |it| it.health.alive(now.instant));
                self.confirm(id, now);
                self.timers.set(Timer::Liveness(id.clone()), now.instant + self.settings.liveness_interval);
            }
            Err(error) => {
                let failures = self.fleet.edit(id, |it| {
                    it.health.failures = it.health.failures.saturating_add(1);
                    it.health.failures
                });
                let failures = failures.unwrap_or(0);
                self.report(Decision::CheckFailed { instance: id.clone(), error, failures }, now);
                self.send_back(id, now);
                let doubled = ASK_AGAIN_AFTER.saturating_mul(1 << failures.saturating_sub(1).min(5));
                self.timers.set(Timer::Liveness(id.clone()), now.instant + doubled.min(ASK_AGAIN_CAP));
                self.retire_if_done(id, now);
            }
        }
    }

    /// What an earlier manager's job left in a slot is ended, or could not be.
    pub(super) fn examined(&mut self, id: &InstanceId, slot: u32, result: Result<(), String>, now: Now) {
        let Some(Occupant::Former(key)) = self.fleet.get(id).and_then(|it| it.slots.get(slot)).cloned() else { return };
        self.fleet.edit(id, |it| {
            it.slots.free(slot);
            it.idle_since = now.instant;
            if let Err(detail) = &result {
                it.health.broken = Some(format!("an earlier job's remains: {detail}"));
            }
        });
        if result.is_ok() {
            self.report(Decision::FormerJobEnded { instance: id.clone(), slot, key }, now);
        }
        self.retire_if_done(id, now);
        self.record_instance(id);
    }

    /// Removes a ready instance without a job that may have no further one.
    pub(super) fn retire_if_done(&mut self, id: &InstanceId, now: Now) {
        let Some(instance) = self.fleet.get(id) else { return };
        if !instance.is_ready() || !instance.slots.is_empty() {
            return;
        }
        let reason = if instance.standing(self.settings.failure_threshold) == Standing::Unhealthy {
            match &instance.health.broken {
                Some(detail) => RemovalReason::Broken { detail: detail.clone() },
                None => RemovalReason::Unhealthy { failures: instance.health.failures },
            }
        } else if instance.is_spent(self.fleet.shape()) {
            RemovalReason::MaxUses { uses: instance.uses }
        } else {
            return;
        };
        self.mark(id, reason, now);
    }

    /// Decides that an instance goes. The deletion itself is asked for by the pass that follows, and never while
    /// a job has a slot.
    pub(super) fn mark(&mut self, id: &InstanceId, reason: RemovalReason, now: Now) {
        self.send_back(id, now);
        if self.fleet.get(id).is_some_and(|it| !it.is_ready()) {
            self.examine(id);
        }
        self.fleet.edit(id, |it| {
            it.state = State::Leaving(Leaving {
                reason: reason.clone(),
                since: now.instant,
                deletion: Deletion::Due(now.instant),
                asked: false,
                lingers: None,
            });
        });
        self.timers.stop(&Timer::Liveness(id.clone()));
        self.timers.stop(&Timer::ComingUp(id.clone()));
        self.totals.removal(&reason);
        self.report(Decision::MarkedForRemoval { instance: id.clone(), reason }, now);
        self.record_instance(id);
    }

    pub(super) fn set_deletion(&mut self, id: &InstanceId, deletion: Deletion) {
        self.fleet.edit(id, |it| {
            if let State::Leaving(leaving) = &mut it.state {
                leaving.deletion = deletion;
                leaving.asked |= deletion == Deletion::InFlight;
            }
        });
    }

    /// An instance did not become ready. Failures of those that an earlier manager asked for say nothing about
    /// what is created now.
    pub(super) fn instance_failed(&mut self, id: &InstanceId, now: Now) {
        let Some(instance) = self.fleet.get(id) else { return };
        if !instance.restored && !instance.is_ready() {
            self.strike(instance.listed_at, now);
        }
    }

    /// Counts a failure of an instance that appeared at `born`.
    pub(super) fn strike(&mut self, born: Instant, now: Now) {
        if !mutations::on(Mutation::BreakerIgnored) {
            self.breaker.instance_failed(born, now.instant);
            self.report_backing_off(now);
        }
    }

    fn became_ready(&mut self, id: &InstanceId, took: Duration, now: Now) {
        self.fleet.edit(id, |it| {
            it.state = State::Ready;
            it.health.alive(now.instant);
            if !it.restored {
                it.idle_since = now.instant;
            }
        });
        if self.fleet.get(id).is_some_and(|it| !it.restored) {
            self.breaker.instance_succeeded();
        }
        self.report(Decision::Ready { instance: id.clone(), took }, now);
        self.timers.set(Timer::Liveness(id.clone()), now.instant + self.settings.liveness_interval);
        self.examine(id);
        self.record_instance(id);
        self.retire_if_done(id, now);
    }

    /// Looks at what the jobs of an earlier manager left on an instance. Their slots are taken until that is known.
    pub(super) fn examine(&mut self, id: &InstanceId) {
        for (slot, key) in self.fleet.get(id).map(former_jobs).unwrap_or_default() {
            self.commands.push_back(Command::Examine { instance: id.clone(), slot, key });
        }
    }

    /// The instance goes, and with it whatever an earlier manager's jobs left there.
    fn drop_former_jobs(&mut self, id: &InstanceId) {
        self.fleet.edit(id, |it| {
            for (slot, _) in former_jobs(it) {
                it.slots.free(slot);
            }
        });
    }
}

fn former_jobs(instance: &Instance) -> Vec<(u32, crate::ids::ReservationKey)> {
    let former = |(slot, occupant): (u32, &Occupant)| match occupant {
        Occupant::Former(key) => Some((slot, key.clone())),
        Occupant::Candidate(_) | Occupant::Job(_) => None,
    };
    instance.slots.iter().filter_map(former).collect()
}
