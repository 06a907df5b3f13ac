//! Instances that were asked for and have not been listed yet.
//!
//! Each request to the group is remembered from before it is sent until its last instance has been listed.
//! How many of them still come is the group's own word where it has one: the size it works towards, less what
//! it lists. Where it has none, a request that brings nothing for long enough is no longer counted on. Either
//! way the instances may yet appear, so for a while longer they are taken for ours when they do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::records::CreationRecord;

/// After the answer to a request the group's own target may lag behind for as long as this.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// Without a target: how long instances that were promised are counted on.
const PROMISE_HOLDS: Duration = Duration::from_secs(600);
/// Without a target: how long instances are counted on where it is not even known whether the request arrived.
const DOUBT_HOLDS: Duration = Duration::from_secs(60);
/// How long an instance that turns up after all is known for ours.
const ADOPTED_WITHIN: Duration = Duration::from_secs(3600);
/// A group that has shown nothing for this long is not going to boot more at once.
const SLOW_AFTER: Duration = Duration::from_secs(300);

/// Names a request for instances, across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CreationId(pub u64);

/// One request for instances.
#[derive(Clone, Debug)]
struct Creation {
    asked_at: Instant,
    asked_at_utc: SystemTime,
    asked: u32,
    /// Instances that it may bring in all, as far as its answer tells.
    possible: u32,
    /// Those of them that have been listed.
    seen: u32,
    /// Those that are no longer counted on.
    waived: u32,
    /// When it was answered, and until when it is counted on without a target.
    answered: Option<Answered>,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    /// From then on the group's target knows of it; `None` where it always has.
    settled_at: Option<Instant>,
    counts_until: Instant,
}

impl Creation {
    fn outstanding(&self) -> u32 {
        self.possible.saturating_sub(self.seen)
    }

    fn expected(&self) -> u32 {
        self.outstanding().saturating_sub(self.waived)
    }

    fn settled_before(&self, instant: Instant) -> bool {
        self.answered.is_some_and(|answered| answered.settled_at.is_none_or(|settled_at| settled_at <= instant))
    }
}

/// All requests that may yet bring instances.
#[derive(Debug, Default)]
pub(super) struct Creations {
    open: BTreeMap<CreationId, Creation>,
    last: u64,
    /// The group says what size it works towards.
    has_target: bool,
}

/// What the group says about its size, compared with what it lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeReport {
    /// The size that the group works towards.
    pub target: u32,
    /// Members that it lists and that nobody has asked it to delete.
    pub listed: u32,
    /// Those that it was asked to delete: they may be part of its target or not.
    pub in_doubt: u32,
    /// When the listing was asked for.
    pub began: Instant,
}

impl Creations {
    /// Remembers a request that is about to be sent.
    pub(super) fn begin(&mut self, asked: u32, now: crate::time::Now) -> CreationId {
        let id = self.next_id();
        let creation = Creation {
            asked_at: now.instant,
            asked_at_utc: now.utc,
            asked,
            possible: asked,
            seen: 0,
            waived: 0,
            answered: None,
        };
        self.open.insert(id, creation);
        id
    }

    /// A group that keeps its size by itself replaces what is gone: those instances are ours too. They are counted
    /// on where the group's target says so.
    pub(super) fn expect_replacements(&mut self, count: u32, now: crate::time::Now) -> CreationId {
        let id = self.begin(count, now);
        if let Some(creation) = self.open.get_mut(&id) {
            creation.waived = count;
            creation.answered = Some(Answered { settled_at: None, counts_until: now.instant });
        }
        id
    }

    /// The group has answered: `certain` instances come, and another `uncertain` may.
    pub(super) fn answered(&mut self, id: CreationId, certain: u32, uncertain: u32, now: Instant) {
        let Some(creation) = self.open.get_mut(&id) else { return };
        let holds = if certain > 0 { PROMISE_HOLDS } else { DOUBT_HOLDS };
        creation.possible = (certain + uncertain).max(creation.seen).min(creation.asked.max(creation.seen));
        creation.answered = Some(Answered { settled_at: Some(now + SETTLES_WITHIN), counts_until: now + holds });
    }

    /// Brings back a request of an earlier run: whether it arrived is not known.
    pub(super) fn restore(&mut self, record: &CreationRecord, seen: u32, now: crate::time::Now) {
        let id = record.id;
        self.last = self.last.max(id.0);
        let passed = now.utc.duration_since(record.asked_at).unwrap_or_default();
        let creation = Creation {
            asked_at: now.instant.checked_sub(passed).unwrap_or(now.instant),
            asked_at_utc: record.asked_at,
            asked: record.count,
            possible: record.count,
            seen,
            waived: 0,
            answered: Some(Answered {
                settled_at: Some(now.instant + SETTLES_WITHIN),
                counts_until: now.instant + DOUBT_HOLDS,
            }),
        };
        self.open.insert(id, creation);
    }

    /// An instance has appeared that nobody knew: the request that it fits, and when that was made. Requests
    /// that are counted on come first.
    pub(super) fn adopt(&mut self) -> Option<(CreationId, Instant)> {
        let expecting = self.open.iter().find(|(_, creation)| creation.expected() > 0);
        let id = *expecting.or_else(|| self.open.iter().find(|(_, creation)| creation.outstanding() > 0))?.0;
        let creation = self.open.get_mut(&id)?;
        creation.seen += 1;
        creation.waived = creation.waived.min(creation.outstanding());
        Some((id, creation.asked_at))
    }

    /// Takes the group's word for how many instances still come. Requests too young for it to know are left alone.
    /// Returns how many come that nobody here has asked for.
    #[must_use]
    pub(super) fn reconcile(&mut self, report: SizeReport) -> u32 {
        self.has_target = true;
        let mut coming = report.target.saturating_sub(report.listed);
        let young: u32 = self.unsettled(report.began).map(Creation::expected).sum();
        for creation in self.open.values_mut().filter(|creation| creation.settled_before(report.began)) {
            let counted_on = creation.outstanding().min(coming);
            creation.waived = creation.outstanding() - counted_on;
            coming -= counted_on;
        }
        coming.saturating_sub(young)
    }

    /// Instances asked for in requests that the group's target may not include yet.
    pub(super) fn asked_since(&self, began: Instant) -> u32 {
        self.unsettled(began).map(|creation| creation.possible).sum()
    }

    /// Stops counting on requests whose time was over when a listing began that lacks their instances; how many that
    /// concerns. An earlier listing would not do: they may have come since.
    pub(super) fn waive_overdue(&mut self, began: Instant) -> u32 {
        if self.has_target {
            return 0;
        }
        let overdue =
            |creation: &&mut Creation| creation.answered.is_some_and(|answered| answered.counts_until <= began);
        let mut waived = 0;
        for creation in self.open.values_mut().filter(overdue) {
            waived += creation.expected();
            creation.waived = creation.outstanding();
        }
        waived
    }

    /// Requests of which nothing more can come, to be forgotten.
    pub(super) fn close_finished(&mut self, now: Instant) -> Vec<CreationId> {
        let finished = |creation: &Creation| {
            let given_up = creation.asked_at + ADOPTED_WITHIN <= now && creation.expected() == 0;
            creation.answered.is_some() && (creation.outstanding() == 0 || given_up)
        };
        let closed: Vec<CreationId> =
            self.open.iter().filter(|(_, creation)| finished(creation)).map(|(id, _)| *id).collect();
        for id in &closed {
            self.open.remove(id);
        }
        closed
    }

    /// How many a request asked for.
    pub(super) fn asked(&self, id: CreationId) -> Option<u32> {
        self.open.get(&id).map(|creation| creation.asked)
    }

    /// Instances that are counted on and not yet listed.
    pub(super) fn expected(&self) -> u32 {
        self.open.values().map(Creation::expected).sum()
    }

    /// Whether the group has owed instances for longer than a boot should take.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        self.open.values().any(|creation| creation.expected() > 0 && creation.asked_at + SLOW_AFTER <= now)
    }

    /// When [`Creations::waive_overdue`] or [`Creations::close_finished`] have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |creation: &Creation| {
            let counts_until = creation.answered?.counts_until;
            let counted_on = creation.expected() > 0;
            match (counted_on, self.has_target) {
                (true, true) => None,
                (true, false) => Some(counts_until),
                (false, _) => Some(creation.asked_at + ADOPTED_WITHIN),
            }
        };
        self.open.values().filter_map(deadline).min()
    }

    /// What must survive of a request.
    pub(super) fn record(&self, id: CreationId) -> Option<CreationRecord> {
        let creation = self.open.get(&id)?;
        Some(CreationRecord { id, count: creation.asked, asked_at: creation.asked_at_utc })
    }

    /// A request of an earlier run whose instances have all been seen still owns its name.
    pub(super) fn skip_to(&mut self, id: CreationId) {
        self.last = self.last.max(id.0);
    }

    fn unsettled(&self, began: Instant) -> impl Iterator<Item = &Creation> {
        self.open.values().filter(move |creation| !creation.settled_before(began))
    }

    fn next_id(&mut self) -> CreationId {
        self.last += 1;
        CreationId(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Now;

    fn report(target: u32, listed: u32, began: Instant) -> SizeReport {
        SizeReport { target, listed, in_doubt: 0, began }
    }

    fn after(start: Now, seconds: u64) -> Instant {
        start.instant + Duration::from_secs(seconds)
    }

    #[test]
    fn instances_are_expected_from_before_the_call_until_they_are_listed() {
        let start = crate::time::now();
        let mut creations = Creations::default();
        let id = creations.begin(3, start);
        assert_eq!(creations.expected(), 3);
        assert_eq!(creations.adopt().map(|(id, _)| id), Some(id), "an instance may be listed before the call returns");
        creations.answered(id, 2, 0, after(start, 1));
        assert_eq!(creations.expected(), 1);
        creations.adopt();
        assert_eq!(creations.close_finished(after(start, 1)), [id]);
        assert_eq!(creations.adopt(), None);
    }

    #[test]
    fn the_groups_own_target_decides_what_still_comes() {
        let start = crate::time::now();
        let mut creations = Creations::default();
        let id = creations.begin(5, start);
        creations.answered(id, 5, 0, start.instant);
        let _unasked = creations.reconcile(report(2, 2, after(start, 5)));
        assert_eq!(creations.expected(), 5, "a listing may not know of a request this young");
        let _unasked = creations.reconcile(report(4, 2, after(start, 20)));
        assert_eq!(creations.expected(), 2);
        let _unasked = creations.reconcile(report(2, 2, after(start, 30)));
        assert_eq!(creations.expected(), 0);
        assert!(creations.adopt().is_some(), "what turns up after all is still ours");
        assert_eq!(creations.close_finished(after(start, 3600)), [id]);
    }

    #[test]
    fn without_a_target_a_request_in_doubt_is_counted_on_for_a_while() {
        let start = crate::time::now();
        let mut creations = Creations::default();
        let id = creations.begin(4, start);
        creations.answered(id, 0, 4, start.instant);
        assert_eq!(creations.next_deadline(), Some(after(start, 60)));
        assert_eq!(creations.waive_overdue(after(start, 59)), 0);
        assert_eq!(creations.waive_overdue(after(start, 60)), 4);
        assert_eq!(creations.expected(), 0);
        assert_eq!(creations.next_deadline(), Some(after(start, 3600)));
        assert!(creations.adopt().is_some());
    }

    #[test]
    fn a_request_that_was_refused_brings_nothing() {
        let start = crate::time::now();
        let mut creations = Creations::default();
        let id = creations.begin(4, start);
        creations.answered(id, 0, 0, start.instant);
        assert_eq!(creations.expected(), 0);
        assert_eq!(creations.close_finished(start.instant), [id]);
    }
}
