//! Listings of the group: what they add, confirm, change and lack.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::InstanceId;
use crate::time::Now;

use super::creations::{CreationId, SizeReport};
use super::event::{GroupState, Listing};
use super::failure::Failure;
use super::instance::{Cause, Deletion, Instance, Leaving, State};
use super::mutations::{self, Mutation};
use super::reasons::RemovalReason;
use super::records::{InstanceRecord, Record, Restored};
use super::settings::UnknownInstances;
use super::slots::{Occupant, Slots};
use super::timers::Timer;
use super::{Command, Core, Decision, News, Phase, Writer};

/// An instance that is still coming up after this long is stuck. Bare-metal hosts take a quarter of an hour.
const COMES_UP_WITHIN: Duration = Duration::from_secs(1800);
/// A ready instance is given up at the second listing that lacks it, unless it answers.
const READY_MAY_MISS: u32 = 2;
/// One that cannot be asked is given up later.
const OTHERS_MAY_MISS: u32 = 5;
/// Even one that answers is given up when this many listings in a row lack it.
const ANSWERING_MAY_MISS: u32 = 30;
/// A deletion that the group has agreed to and does not show after this long has no effect: something protects the
/// instance.
const DELETION_SHOWS_WITHIN: Duration = Duration::from_secs(300);

/// How soon the group is looked at after it has agreed to grow. A container is there by then.
const NEWS_WITHIN: Duration = Duration::from_millis(500);
/// An instance that has gone missing counts towards the maximum for this long: it may only be hidden.
const GHOSTS_COUNT: Duration = Duration::from_secs(60);

impl Core {
    /// Asks for a listing, unless one is under way or the provider wants to be left alone.
    pub(super) fn list(&mut self, now: Now) {
        let is_asked_to_wait = self.calls.listing_not_before.is_some_and(|until| now.instant < until);
        if self.calls.listing.is_none() && !is_asked_to_wait {
            self.calls.listing = Some(now.instant);
            self.totals.listings += 1;
            self.commands.push_back(Command::ListGroup);
        }
    }

    /// When the group is to be listed again.
    pub(super) fn next_listing(&self, now: Now) -> Instant {
        let Some(listed) = self.calls.listed else { return now.instant };
        if let Some(wait) = self.calls.listing_wait {
            return listed + wait;
        }
        if !self.is_expecting() {
            return listed + self.settings.update_interval;
        }
        let interval = self.settings.update_interval_when_expecting;
        match self.calls.news {
            Some(News { since, wait }) => listed.max(since) + wait.min(interval),
            None => listed + interval,
        }
    }

    /// The group has agreed to grow: it is looked at soon, and then at growing intervals.
    pub(super) fn expect_news(&mut self, now: Now) {
        self.calls.news = Some(News { since: now.instant, wait: NEWS_WITHIN });
    }

    pub(super) fn listing_failed(&mut self, failure: Failure, now: Now) {
        self.totals.listings_failed += 1;
        if !mutations::on(Mutation::ListingNotRetried) {
            self.calls.listing = None;
        }
        self.calls.listed = Some(now.instant);
        let wait = self.calls.listing_backoff.next_wait_at(1.0);
        let wish = failure.cause.retry_after();
        self.calls.listing_wait = Some(wait.max(wish.unwrap_or_default()));
        self.calls.listing_not_before = wish.map(|wait| now.instant + wait);
        self.report(Decision::ListingFailed { failure }, now);
    }

    /// Takes in a listing.
    pub(super) fn survey(&mut self, listing: Listing, now: Now) {
        let Some(began) = self.calls.listing else { return };
        self.calls.listed = Some(now.instant);
        self.calls.listing_wait = None;
        self.calls.listing_backoff.reset();
        let interval = self.settings.update_interval_when_expecting;
        let next = self.calls.news.map(|news| News { wait: news.wait * 2, ..news });
        self.calls.news = next.filter(|news| news.wait < interval);

        let members: BTreeMap<InstanceId, GroupState> = listing.instances.into_iter().collect();
        self.calls.has_target = listing.target.is_some();
        let Differences { known, new } = self.differences(&members);
        // What is gone comes before what is new: the one may be there in place of the other.
        for (id, state) in known {
            match state {
                Some(state) => self.seen(&id, state, now),
                None => self.absent(&id, now),
            }
        }
        self.notice_raise(listing.target);
        for (id, state) in new {
            self.appeared(&id, state, now);
        }
        if let Some(target) = listing.target {
            let stays = |state: &&GroupState| !matches!(state, GroupState::Deleting | GroupState::Deleted);
            let asked_to_go = self.fleet.iter().filter(|(_, instance)| is_asked_to_go(instance, began));
            let in_doubt = count(asked_to_go.filter_map(|(id, _)| members.get(id)).filter(stays));
            let listed = count(members.values().filter(stays)) - in_doubt;
            self.take_size(SizeReport { target, listed, in_doubt, began }, now);
        }
        self.launch_overdue(began, now);
        if matches!(self.phase, Phase::Surveying) {
            self.phase = Phase::Serving;
        }
        // What a listing lacks that began late enough is gone for certain.
        self.ghosts.retain(|_, until| *until > began);
        self.calls.surveyed = true;
        self.calls.listing = None;
        match self.writer {
            Writer::Returned(since) if since <= began => self.writer = Writer::Sole,
            Writer::Returned(_) => self.list(now),
            Writer::Sole | Writer::Unclaimed => {}
        }
    }

    /// What there is to do about these members. Of a large fleet that is little, and one walk finds it: both sides
    /// are sorted.
    fn differences(&self, members: &BTreeMap<InstanceId, GroupState>) -> Differences {
        let mut differences = Differences::default();
        let mut members = members.iter().peekable();
        for (id, instance) in self.fleet.iter() {
            while let Some((new, state)) = members.next_if(|(listed, _)| *listed < id) {
                differences.new.push((new.clone(), *state));
            }
            let state = members.next_if(|(listed, _)| *listed == id).map(|(_, state)| *state);
            let as_it_was = instance.is_ready() && instance.health.missing == 0 && state == Some(GroupState::Running);
            if !as_it_was {
                differences.known.push((id.clone(), state));
            }
        }
        differences.new.extend(members.map(|(id, state)| (id.clone(), *state)));
        differences
    }

    /// Puts back what was kept. Whether it is still true, the first listing tells.
    pub(super) fn restore(&mut self, restored: Restored, now: Now) {
        let mut seen: BTreeMap<CreationId, u32> = BTreeMap::new();
        for record in restored.instances {
            if let Some(creation) = record.creation {
                *seen.entry(creation).or_default() += 1;
                self.creations.skip_to(creation);
            }
            match record.gone_at {
                Some(gone_at) => {
                    let at = earlier(now, gone_at);
                    self.tombstones.put(at, record);
                }
                None => self.restore_instance(record, now),
            }
        }
        for record in restored.creations {
            self.creations.restore(&record, seen.get(&record.id).copied().unwrap_or(0), now);
        }
    }

    /// Forgets instances that have been gone for long enough.
    pub(super) fn clear_tombstones(&mut self, now: Now) {
        while let Some(id) = self.tombstones.take_old(now.instant) {
            self.record(Record::InstanceForgotten(id));
        }
    }

    /// The instance is no longer in the group.
    pub(super) fn gone(&mut self, id: &InstanceId, now: Now) {
        let Some(instance) = self.fleet.remove(id) else { return };
        self.timers.stop(&Timer::Liveness(id.clone()));
        self.timers.stop(&Timer::ComingUp(id.clone()));
        self.commands.push_back(Command::Disconnect { instance: id.clone() });
        if !is_certain_end(&instance) {
            self.ghosts.insert(id.clone(), now.instant + GHOSTS_COUNT);
        }
        if instance.state != State::Foreign {
            self.tell_end(id, &instance, now);
            self.evict(id, &instance, now);
        }
        self.bury(id, &instance, now);
    }

    /// Whether the group is to be listed often.
    pub(super) fn is_expecting(&self) -> bool {
        let tally = self.fleet.tally();
        let changing = tally.creating + tally.going + tally.missing + self.creations.expected();
        changing > 0 || matches!(self.phase, Phase::Surveying | Phase::Closing(_))
    }

    /// Notices where somebody else has made the group larger: as many new members are not ours.
    fn notice_raise(&mut self, target: Option<u32>) {
        let allowed = self.calls.target_allowed;
        let raised = target.zip(allowed).map_or(0, |(target, allowed)| target.saturating_sub(allowed));
        self.calls.raised_by_others += raised;
    }

    /// Takes the group's word for what still comes.
    fn take_size(&mut self, report: SizeReport, now: Now) {
        let unasked = self.creations.reconcile(report);
        let replacements = unasked.saturating_sub(self.calls.raised_by_others + report.in_doubt);
        if replacements > 0 && self.calls.surveyed {
            self.expect_replacements(replacements, now);
            // They are known now, so nothing unasked remains.
            let _unasked = self.creations.reconcile(report);
        }
        self.calls.target_allowed = Some(report.target + self.creations.asked_since(report.began));
    }

    fn expect_replacements(&mut self, count: u32, now: Now) -> CreationId {
        let creation = self.creations.expect_replacements(count, now);
        let record = self.creations.record(creation).map(Record::Creation);
        self.commands.extend(record.map(Command::Record));
        creation
    }

    /// The record of an instance as it stands.
    pub(super) fn record_instance(&mut self, id: &InstanceId) {
        let Some(instance) = self.fleet.get(id) else { return };
        let record = self.instance_record(id, instance);
        self.record(Record::Instance(record));
    }

    fn restore_instance(&mut self, record: InstanceRecord, now: Now) {
        let mut slots = Slots::default();
        let forgotten = mutations::on(Mutation::FormerJobsForgotten);
        for (slot, key) in record.slots.iter().filter(|_| !forgotten) {
            slots.restore(*slot, Occupant::Former(key.clone()));
        }
        let state = match record.removal {
            _ if record.foreign => State::Foreign,
            Some(reason) => {
                let deletion = Deletion::Due(now.instant);
                State::Leaving(Leaving {
                    reason,
                    since: now.instant,
                    deletion,
                    asked: true,
                    lingers: Some(now.instant),
                })
            }
            None => State::Creating,
        };
        let instance = Instance {
            slots,
            uses: record.uses,
            creation: record.creation,
            listed_at: earlier(now, record.listed_at),
            listed_at_utc: record.listed_at,
            idle_since: earlier(now, record.idle_since),
            restored: true,
            ..Instance::listed(record.cause, state, now)
        };
        let leaving = matches!(instance.state, State::Leaving(_));
        self.fleet.insert(record.id.clone(), instance);
        if leaving {
            self.examine(&record.id);
        }
    }

    /// A listing has an instance that is known.
    fn seen(&mut self, id: &InstanceId, group: GroupState, now: Now) {
        let retry = now.instant + self.settings.deletion_retry_interval;
        let Some(instance) = self.fleet.get(id) else { return };
        let state = instance.state.clone();
        if instance.health.missing > 0 {
            self.found_again(id, now);
        }
        match (state, group) {
            (_, GroupState::Deleted) => self.gone(id, now),
            (State::Foreign, _) => {}
            (State::Creating, GroupState::Running) => self.prepare(id, now),
            (State::Creating | State::Preparing { .. } | State::Ready, GroupState::Deleting) => {
                self.taken_away(id, now);
            }
            (State::Creating | State::Preparing { .. } | State::Ready, GroupState::TimedOut) => {
                self.instance_failed(id, now);
                self.mark(id, RemovalReason::TimedOut, now);
            }
            (State::Creating, GroupState::Creating) => {
                // However often the manager was restarted meanwhile.
                let listed_at = self.fleet.get(id).map_or(now.instant, |it| it.listed_at);
                self.timers.arrange(Timer::ComingUp(id.clone()), Some(listed_at + COMES_UP_WITHIN));
            }
            (State::Preparing { .. } | State::Ready, GroupState::Creating | GroupState::Running) => {}
            (State::Leaving(_), GroupState::Deleting) => self.set_deletion(id, Deletion::Confirmed),
            (State::Leaving(leaving), GroupState::Creating | GroupState::Running | GroupState::TimedOut) => {
                // It was going and is not after all, or not yet.
                if leaving.deletion == Deletion::Confirmed {
                    self.set_deletion(id, Deletion::Due(retry));
                }
                let began = self.calls.listing.unwrap_or(now.instant);
                self.fleet.edit(id, |it| {
                    if let State::Leaving(leaving) = &mut it.state {
                        let settled = match leaving.deletion {
                            Deletion::Accepted { since, .. } => since <= began,
                            // It was refused, or nobody knows: the next try is due later.
                            Deletion::Due(_) => leaving.asked,
                            Deletion::InFlight | Deletion::Confirmed => false,
                        };
                        let lingers = leaving.lingers.unwrap_or(began);
                        leaving.lingers = (settled || leaving.lingers.is_some()).then_some(lingers);
                    }
                });
            }
        }
    }

    /// A listing has an instance that nobody knew.
    fn appeared(&mut self, id: &InstanceId, group: GroupState, now: Now) {
        if group == GroupState::Deleted {
            return;
        }
        self.ghosts.remove(id);
        if let Some(record) = self.tombstones.take(id) {
            self.reappeared(record, group, now);
            return;
        }
        let surveyed = self.calls.surveyed;
        let adopted = self.creations.adopt();
        // A group that keeps its size grows by itself only as far as it was asked to.
        let replacement = surveyed && self.calls.has_target && self.calls.raised_by_others == 0;
        let cause = match (adopted, self.settings.unknown) {
            (Some(_), _) => Cause::Requested,
            (None, UnknownInstances::Report) if !replacement && !mutations::on(Mutation::ForeignAdopted) => {
                self.calls.raised_by_others = self.calls.raised_by_others.saturating_sub(1);
                return self.found_foreign(id, now);
            }
            (None, _) if surveyed => Cause::Unexpected,
            (None, _) => Cause::Preexisted,
        };
        let requested_at = adopted.map(|(_, asked_at)| asked_at);
        let creation = adopted.map(|(creation, _)| creation);
        let instance = Instance { creation, requested_at, ..Instance::listed(cause, State::Creating, now) };
        self.fleet.insert(id.clone(), instance);
        let took = requested_at.map(|asked_at| now.instant.saturating_duration_since(asked_at));
        self.report(Decision::Discovered { instance: id.clone(), cause, restored: false, took }, now);
        self.record_instance(id);
        let removed = cause == Cause::Preexisted && self.settings.unknown == UnknownInstances::Remove;
        if removed {
            self.mark(id, RemovalReason::Unknown, now);
        }
        self.seen(id, group, now);
    }

    /// What was gone is listed again. If it was deleted, that did not work, or the listing is late; if it was given
    /// up, it was only hidden, and serves again, unless it had jobs: they were told that they are lost, and may run
    /// there still.
    fn reappeared(&mut self, record: InstanceRecord, group: GroupState, now: Now) {
        let id = record.id.clone();
        let serves = record.removal.is_none() && record.slots.is_empty();
        self.restore_instance(InstanceRecord { gone_at: None, removal: None, ..record }, now);
        if serves {
            self.record_instance(&id);
        } else {
            self.mark(&id, RemovalReason::Reappeared, now);
        }
        self.seen(&id, group, now);
    }

    fn found_foreign(&mut self, id: &InstanceId, now: Now) {
        self.fleet.insert(id.clone(), Instance::listed(Cause::Preexisted, State::Foreign, now));
        self.report(Decision::ForeignFound { instance: id.clone() }, now);
        self.record_instance(id);
    }

    /// A listing lacks an instance that is known.
    fn absent(&mut self, id: &InstanceId, now: Now) {
        let Some(instance) = self.fleet.get(id) else { return };
        let expected_to_go = match &instance.state {
            State::Foreign => true,
            State::Leaving(leaving) => match leaving.deletion {
                Deletion::InFlight | Deletion::Accepted { .. } | Deletion::Confirmed => true,
                Deletion::Due(_) => false,
            },
            State::Creating | State::Preparing { .. } | State::Ready => false,
        };
        if expected_to_go {
            return self.gone(id, now);
        }
        let ready = instance.is_ready();
        let listings = self.fleet.edit(id, |it| it.health.lacked()).unwrap_or(0);
        if listings == 1 {
            self.report(Decision::Missing { instance: id.clone() }, now);
            self.expect_replacement(id, now);
        }
        let Some(health) = self.fleet.get(id).map(|it| it.health.clone()) else { return };
        let may_miss = if ready { READY_MAY_MISS } else { OTHERS_MAY_MISS };
        let unanswered = listings >= may_miss && !health.checking && !health.answered_while_missing;
        if unanswered || listings >= ANSWERING_MAY_MISS {
            return self.gone(id, now);
        }
        if ready {
            // The next listing that lacks it wants a fresh answer.
            self.fleet.edit(id, |it| it.health.answered_while_missing = false);
            self.check(id);
        }
    }

    /// Somebody else deletes an instance of ours. Its jobs go on for as long as it lets them.
    fn taken_away(&mut self, id: &InstanceId, now: Now) {
        self.mark(id, RemovalReason::TakenAway, now);
        self.set_deletion(id, Deletion::Confirmed);
        self.expect_replacement(id, now);
    }

    /// A group that keeps its size by itself puts another instance in the place of one that is gone: that one is
    /// ours, though nobody asked for it.
    fn expect_replacement(&mut self, id: &InstanceId, now: Now) {
        if !self.calls.has_target || self.fleet.get(id).is_none_or(|it| it.replacement.is_some()) {
            return;
        }
        let creation = self.expect_replacements(1, now);
        self.fleet.edit(id, |it| it.replacement = Some(creation));
    }

    /// A listing has an instance again that an earlier one lacked: nothing comes in its place.
    fn found_again(&mut self, id: &InstanceId, now: Now) {
        let replacement = self.fleet.edit(id, |it| {
            it.health.missing = 0;
            it.replacement.take()
        });
        if let Some(creation) = replacement.flatten() {
            self.creations.answered(creation, 0, 0, now.instant);
        }
    }

    fn tell_end(&mut self, id: &InstanceId, instance: &Instance, now: Now) {
        let lived = now.utc.duration_since(instance.listed_at_utc).unwrap_or_default();
        let by_us = match &instance.state {
            State::Leaving(leaving) => (leaving.reason != RemovalReason::TakenAway).then_some(leaving.since),
            State::Creating | State::Preparing { .. } | State::Ready | State::Foreign => None,
        };
        if let Some(since) = by_us {
            self.totals.deleted += 1;
            let took = now.instant.saturating_duration_since(since);
            self.report(Decision::Deleted { instance: id.clone(), took, lived }, now);
            return;
        }
        self.totals.unexpectedly_removed += 1;
        let never_ready = matches!(instance.state, State::Creating | State::Preparing { .. });
        if never_ready && !instance.restored {
            self.strike(instance.listed_at, now);
        }
        let slots = instance.slots.iter().map(|(slot, occupant)| (slot, occupant.key().clone())).collect();
        let max_uses = self.fleet.shape().max_uses.map(std::num::NonZeroU32::get);
        let uses = instance.uses;
        self.report(Decision::UnexpectedlyRemoved { instance: id.clone(), uses, max_uses, slots }, now);
    }

    /// Remembers an instance that is gone, unless the group's members come and go by name.
    fn bury(&mut self, id: &InstanceId, instance: &Instance, now: Now) {
        if self.settings.unknown == UnknownInstances::Adopt {
            return self.record(Record::InstancePutAside(id.clone()));
        }
        if mutations::on(Mutation::NoTombstones) {
            return self.record(Record::InstanceForgotten(id.clone()));
        }
        let record = InstanceRecord { gone_at: Some(now.utc), ..self.instance_record(id, instance) };
        self.tombstones.put(now.instant, record.clone());
        self.record(Record::Instance(record));
    }

    /// Slots that wait for a check are not kept, nor are their uses: nobody was told of them.
    fn instance_record(&self, id: &InstanceId, instance: &Instance) -> InstanceRecord {
        let told = |(slot, occupant): (u32, &Occupant)| match occupant {
            Occupant::Job(key) | Occupant::Former(key) => Some((slot, key.clone())),
            Occupant::Candidate(_) => None,
        };
        let slots: BTreeMap<_, _> = instance.slots.iter().filter_map(told).collect();
        let untold = instance.slots.taken().saturating_sub(u32::try_from(slots.len()).unwrap_or(u32::MAX));
        let removal = match &instance.state {
            State::Leaving(leaving) => Some(leaving.reason.clone()),
            State::Creating | State::Preparing { .. } | State::Ready | State::Foreign => None,
        };
        let since_listed = instance.idle_since.saturating_duration_since(instance.listed_at);
        InstanceRecord {
            id: id.clone(),
            cause: instance.cause,
            foreign: instance.state == State::Foreign,
            creation: instance.creation,
            uses: instance.uses.saturating_sub(untold),
            slots,
            listed_at: instance.listed_at_utc,
            idle_since: instance.listed_at_utc + since_listed,
            removal,
            gone_at: None,
        }
    }
}

/// In what a listing is other than what is known.
#[derive(Debug, Default)]
struct Differences {
    /// Known members that are not as they were; `None` where they are not listed.
    known: Vec<(InstanceId, Option<GroupState>)>,
    /// Listed ones that nobody knew.
    new: Vec<(InstanceId, GroupState)>,
}

fn count<T>(members: impl Iterator<Item = T>) -> u32 {
    u32::try_from(members.count()).unwrap_or(u32::MAX)
}

/// Whether the group was asked to delete this member, as far as it is not clear that it will do nothing of the kind.
/// Whether it is still part of the size that the group works towards, nobody knows.
fn is_asked_to_go(instance: &Instance, began: Instant) -> bool {
    match &instance.state {
        State::Leaving(leaving) => {
            leaving.asked && leaving.lingers.is_none_or(|since| began < since + DELETION_SHOWS_WITHIN)
        }
        State::Creating | State::Preparing { .. } | State::Ready | State::Foreign => false,
    }
}

/// Whether an instance that is no longer listed is known to be gone: its deletion was under way, and it was
/// listed until then.
fn is_certain_end(instance: &Instance) -> bool {
    match &instance.state {
        State::Leaving(leaving) => match leaving.deletion {
            Deletion::Confirmed => true,
            Deletion::InFlight | Deletion::Accepted { .. } => instance.health.missing == 0 && leaving.lingers.is_none(),
            Deletion::Due(_) => false,
        },
        State::Creating | State::Preparing { .. } | State::Ready | State::Foreign => false,
    }
}

/// The moment of the monotonic clock that this one of the wall clock was, as well as can be known.
fn earlier(now: Now, utc: std::time::SystemTime) -> Instant {
    let passed = now.utc.duration_since(utc).unwrap_or_default();
    now.instant.checked_sub(passed).unwrap_or(now.instant)
}
