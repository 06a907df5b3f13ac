//! Instances that are gone, remembered for a while: a listing that is late, or one that had hidden them, may have them
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::ids::InstanceId;

use super::records::InstanceRecord;

/// How long a member that is gone is remembered.
const THEY_STAND: Duration = Duration::from_secs(3600);

/// The records of instances that are gone.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    records: BTreeMap<InstanceId, (Instant, InstanceRecord)>,
    by_age: BTreeSet<(Instant, InstanceId)>,
}

impl Tombstones {
    /// The instance went at this time.
    pub(super) fn put(&mut self, gone_at: Instant, record: InstanceRecord) {
        let id = record.id.clone();
        if let Some((before, _)) = self.records.insert(id.clone(), (gone_at, record)) {
            self.by_age.remove(&(before, id.clone()));
        }
        self.by_age.insert((gone_at, id));
    }

    /// What is remembered of an instance, not to be remembered any more.
    pub(super) fn take(&mut self, id: &InstanceId) -> Option<InstanceRecord> {
        let (gone_at, record) = self.records.remove(id)?;
        self.by_age.remove(&(gone_at, id.clone()));
        Some(record)
    }

    /// One that has been gone for long enough, not to be remembered any more.
    pub(super) fn take_old(&mut self, now: Instant) -> Option<InstanceId> {
        let id = self.by_age.first().filter(|(gone_at, _)| *gone_at + THEY_STAND <= now)?.1.clone();
        self.take(&id).map(|record| record.id)
    }

    /// When the next one is to be forgotten.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_age.first().map(|(gone_at, _)| *gone_at + THEY_STAND)
    }
}
