//! The size of the group: growing it, shrinking it, and the calls that do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::ids::InstanceId;
use crate::time::Now;

use super::backoff::Allowance;
use super::command::Victim;
use super::creations::CreationId;
use super::failure::{Cause, Failure};
use super::instance::{Deletion, State};
use super::mutations::{self, Mutation};
use super::reasons::{CreationReason, Limit, RemovalReason};
use super::records::Record;
use super::scaling::{self, Capacity};
use super::timers::Timer;
use super::{Command, Core, Decision};

/// Under a throttle permits are gathered for this long at most, so that the group is asked for instances in few
/// calls.
const PERMITS_GATHER: Duration = Duration::from_secs(1);
/// How many instances one call deletes.
const DELETED_AT_ONCE: usize = 100;

impl Core {
    /// Grows or shrinks the group to what the formula says.
    pub(super) fn resize(&mut self, now: Now) {
        let idle_target = self.idle_target();
        let mut capacity = self.capacity();
        let target = self.schedule.active().target;
        let spare = scaling::spare(&capacity, idle_target);
        let aged = |since: Instant| since + target.idle_time <= now.instant;
        let old = self.fleet.idle().take_while(|(since, _)| aged(*since)).take(spare as usize).count();
        capacity.aged = u32::try_from(old).unwrap_or(u32::MAX);

        let required = scaling::required(&capacity, idle_target);
        if required != self.reported_required {
            self.reported_required = required;
            if required != 0 {
                self.report(Decision::RequiredChanged { capacity, target, idle_target, required }, now);
            }
        }
        self.timers.stop(&Timer::Growth);
        let missing = scaling::missing(&capacity, idle_target);
        let count = u32::try_from(required).unwrap_or(0);
        let limit = Limit::MaxInstances { max: capacity.max, others: capacity.others };
        let wish = CreationReason {
            required: missing,
            count,
            pending: capacity.pending,
            idle_target,
            have: capacity.instances,
            limited_by: (count < missing).then_some(limit),
        };
        if count > 0 {
            self.grow(wish, now);
        } else {
            if missing > 0 {
                self.hold_back(wish, now)
            } else {
                self.reported_held_back = None
            }
            let removable = usize::try_from(-required).unwrap_or(0);
            self.shrink(removable, spare, target.idle_time, now);
        }
        let spare = scaling::spare(&self.capacity(), idle_target);
        let idle = if spare > 0 { self.fleet.idle().find(|(since, _)| !aged(*since)) } else { None };
        let next = idle.map(|(since, _)| since + target.idle_time);
        self.timers.arrange(Timer::Idle, next);
    }

    /// Asks the group to delete what is to go, in one call.
    pub(super) fn delete_due(&mut self, now: Now) {
        let is_asked_to_wait = self.calls.decrease_not_before.is_some_and(|until| now.instant < until);
        if self.calls.decreasing || is_asked_to_wait || !self.is_sole_writer() {
            return;
        }
        let due = self.fleet.deletions().take_while(|(at, _)| *at <= now.instant).take(DELETED_AT_ONCE);
        let ids: Vec<InstanceId> = due.map(|(_, id)| id.clone()).collect();
        let mut victims = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(State::Leaving(leaving)) = self.fleet.get(&id).map(|it| &it.state) else { continue };
            victims.push(Victim { instance: id.clone(), reason: leaving.reason.clone() });
            if !mutations::on(Mutation::DoubleDecrement) {
                self.set_deletion(&id, Deletion::InFlight);
            }
        }
        if !victims.is_empty() {
            self.calls.decreasing = !mutations::on(Mutation::DoubleDecrement);
            self.totals.scale_down += 1;
            self.report(Decision::Decreasing { count: u32::try_from(victims.len()).unwrap_or(u32::MAX) }, now);
            self.commands.push_back(Command::Decrease { victims });
        }
    }

    pub(super) fn decrease_finished(
        &mut self,
        asked: &[InstanceId],
        accepted: &[InstanceId],
        failure: Option<Failure>,
        now: Now,
    ) {
        self.calls.decreasing = false;
        let retry = now.instant + self.settings.deletion_retry_interval;
        let wish = failure.as_ref().and_then(|failure| failure.cause.retry_after());
        self.calls.decrease_not_before = wish.map(|wait| now.instant + wait);
        let agreed: BTreeSet<&InstanceId> = accepted.iter().collect();
        for id in asked {
            let in_flight = self.fleet.get(id).is_some_and(|it| match &it.state {
                State::Leaving(leaving) => leaving.deletion == Deletion::InFlight,
                State::Creating | State::Preparing { .. } | State::Ready | State::Foreign => false,
            });
            if in_flight && !mutations::on(Mutation::DeletionNotRetried) {
                let deletion = if agreed.contains(id) {
                    Deletion::Accepted { since: now.instant, retry_at: retry }
                } else {
                    Deletion::Due(retry)
                };
                self.set_deletion(id, deletion);
            }
        }
        if let Some(failure) = failure {
            self.totals.decrease_failed += 1;
            let count = |ids: &[InstanceId]| u32::try_from(ids.len()).unwrap_or(u32::MAX);
            self.report(Decision::DecreaseFailed { asked: count(asked), accepted: count(accepted), failure }, now);
        }
    }

    pub(super) fn increase_finished(
        &mut self,
        id: CreationId,
        succeeded: u32,
        uncertain: u32,
        failure: Option<Failure>,
        now: Now,
    ) {
        self.calls.increasing = false;
        let asked = self.creations.asked(id).unwrap_or(succeeded);
        self.creations.answered(id, succeeded, uncertain, now.instant);
        self.totals.created += u64::from(succeeded);
        if succeeded > 0 {
            self.expect_news(now);
        }
        match failure {
            None => {
                self.breaker.request_succeeded();
                self.report(Decision::Increased { count: succeeded }, now);
            }
            Some(failure) => {
                self.totals.increase_failed += 1;
                if succeeded > 0 {
                    self.breaker.request_succeeded();
                }
                self.breaker.request_failed(&failure.cause, now.instant);
                self.report(Decision::IncreaseFailed { asked, succeeded, failure }, now);
                self.report_backing_off(now);
            }
        }
    }

    /// Promised instances did not come.
    pub(super) fn launch_overdue(&mut self, began: Instant, now: Now) {
        let count = self.creations.waive_overdue(began);
        if count > 0 {
            self.breaker.request_failed(&Cause::Other, now.instant);
            self.report(Decision::LaunchOverdue { count }, now);
            self.report_backing_off(now);
        }
    }

    pub(super) fn forget_closed_creations(&mut self, now: Now) {
        for id in self.creations.close_finished(now.instant) {
            self.record(Record::CreationClosed(id));
        }
    }

    /// The counts that the formula reads, without those that depend on the time.
    pub(super) fn capacity(&self) -> Capacity {
        let tally = self.fleet.tally();
        let expected = if mutations::on(Mutation::ExpectedForgotten) { 0 } else { self.creations.expected() };
        let leaving = if mutations::on(Mutation::LeavingForgotten) { 0 } else { tally.leaving };
        Capacity {
            instances: tally.serving() + expected,
            others: leaving + tally.foreign + self.ghosts(),
            aged: 0,
            acquired: tally.acquired,
            unavailable: tally.unavailable + tally.unhealthy,
            pending: self.keys.pending(),
            reserved: self.keys.reserved(),
            capacity_per_instance: self.settings.slots_per_instance().get(),
            max: self.max_instances(),
        }
    }

    pub(super) fn idle_target(&self) -> u32 {
        scaling::idle_target(&self.schedule.active().target, self.fleet.tally().acquired)
    }

    pub(super) fn report_backing_off(&mut self, now: Now) {
        if let Allowance::NotBefore(until) = self.breaker.allowance(now.instant) {
            let wait = until.saturating_duration_since(now.instant);
            self.report(Decision::BackingOff { failures: self.breaker.failures(), wait }, now);
        }
    }

    /// Asks for what is wished for, as far as throttle and breaker let it.
    fn grow(&mut self, wish: CreationReason, now: Now) {
        if self.calls.increasing || !self.is_sole_writer() {
            return;
        }
        let tally = self.fleet.tally();
        let unproven = tally.creating + tally.preparing + self.creations.expected();
        let allowed = match self.breaker.allowance(now.instant) {
            Allowance::Full => wish.count,
            Allowance::Probe => wish.count.min(1_u32.saturating_sub(unproven)),
            Allowance::NotBefore(until) => return self.timers.set(Timer::Growth, until),
        };
        let count = allowed.min(self.throttle.available(now.instant));
        if count < allowed {
            let all = self.throttle.ready_at(allowed - count, now.instant).min(now.instant + PERMITS_GATHER);
            self.timers.set(Timer::Growth, all.max(self.throttle.ready_at(1, now.instant)));
        }
        let limited_by = if count < allowed {
            Some(Limit::ScaleThrottle)
        } else if allowed < wish.count {
            Some(Limit::Probe)
        } else {
            wish.limited_by
        };
        let reason = CreationReason { count, limited_by, ..wish };
        if count == 0 {
            return self.hold_back(reason, now);
        }
        self.reported_held_back = None;
        self.throttle.take(count, now.instant);
        let creation = self.creations.begin(count, now);
        self.calls.increasing = true;
        self.calls.target_allowed = self.calls.target_allowed.map(|allowed| allowed + count);
        self.totals.scale_up += 1;
        self.report(Decision::Increasing { reason: reason.clone() }, now);
        let record = self.creations.record(creation).map(Record::Creation).map(Command::Record);
        let increase = Command::Increase { creation, count, reason };
        self.commands.extend(record.filter(|_| !mutations::on(Mutation::IncreaseUnrecorded)));
        self.commands.push_back(increase);
    }

    /// Instances are missing, and none may be asked for.
    fn hold_back(&mut self, reason: CreationReason, now: Now) {
        let Some(limit) = reason.limited_by else { return };
        let said = self.reported_held_back.as_ref() == Some(&reason);
        if !said && self.notices.count(limit.as_str(), now.instant).is_some() {
            self.reported_held_back = Some(reason.clone());
            self.report(Decision::HeldBack { reason }, now);
        }
    }

    /// Removes up to `removable` idle instances, the longest idle first: those that have been idle for their
    /// time, and whatever is listed above the maximum.
    fn shrink(&mut self, removable: usize, spare: u32, idle_time: Duration, now: Now) {
        let max = self.max_instances();
        let tally = self.fleet.tally();
        let above_max = (tally.serving() + tally.foreign - tally.missing).saturating_sub(max) as usize;
        let why = |(place, (since, id)): (usize, (Instant, &InstanceId))| {
            let idle = now.instant.saturating_duration_since(since);
            let reason = if place < spare as usize && idle >= idle_time {
                RemovalReason::Idle { idle, idle_time }
            } else if place < above_max {
                RemovalReason::AboveMaximum { max }
            } else {
                return None;
            };
            Some((id.clone(), reason))
        };
        // The longest idle come first, so whoever follows one that may stay may stay too.
        let due: Vec<_> = self.fleet.idle().take(removable).enumerate().map_while(why).collect();
        for (id, reason) in due {
            self.mark(&id, reason, now);
        }
    }
}
