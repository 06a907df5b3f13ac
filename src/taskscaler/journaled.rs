//! A fleet's memory in the journal.

use crate::fleeting::host_keys::HostKey;
use crate::ids::{InstanceId, RunnerKey};
use crate::journal::{Change, Journal, JournalError, Section};

use super::core::records::{Record, Restored};
use super::store::{Store, StoreError};

const INSTANCES: &str = "instance";
const CREATIONS: &str = "creation";
const HOST_KEYS: &str = "host_key";

/// One runner's part of the journal.
#[derive(Clone, Debug)]
pub struct Journaled(Section);

impl Journaled {
    /// The memory of a runner of this manager. A rotated token changes neither name, and keeps the fleet.
    pub fn new(journal: &Journal, runner: &RunnerKey, system_id: &str) -> Self {
        Self(journal.section(&format!("fleet/{system_id}/{runner}")))
    }

    /// The keys by which instances proved themselves to an earlier manager. May block.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn host_keys(&self) -> Result<Vec<(InstanceId, HostKey)>, StoreError> {
        self.0.load(HOST_KEYS).map_err(|error| StoreError(Box::new(error)))
    }

    fn restored(&self) -> Result<Restored, JournalError> {
        Ok(Restored { instances: self.0.load(INSTANCES)?, creations: self.0.load(CREATIONS)? })
    }

    fn keep(&self, records: &[Record]) -> Result<(), JournalError> {
        let mut changes = Vec::with_capacity(records.len());
        for record in records {
            changes.push(change(record)?);
            if let Record::InstanceForgotten(id) = record {
                changes.push(Change::remove(HOST_KEYS, id.as_str()));
            }
        }
        self.0.commit(&changes)
    }
}

impl Store for Journaled {
    fn load(&self) -> Result<Restored, StoreError> {
        self.restored().map_err(|error| StoreError(Box::new(error)))
    }

    fn commit(&self, records: &[Record]) -> Result<(), StoreError> {
        self.keep(records).map_err(|error| StoreError(Box::new(error)))
    }

    fn keep_host_keys(&self, keys: &[(InstanceId, HostKey)]) -> Result<(), StoreError> {
        let put = |entry: &(InstanceId, HostKey)| Change::put(HOST_KEYS, entry.0.as_str(), entry);
        let changes: Result<Vec<Change>, JournalError> = keys.iter().map(put).collect();
        changes.and_then(|changes| self.0.commit(&changes)).map_err(|error| StoreError(Box::new(error)))
    }
}

fn change(record: &Record) -> Result<Change, JournalError> {
    match record {
        Record::Instance(instance) => Change::put(INSTANCES, instance.id.as_str(), instance),
        Record::InstanceForgotten(id) | Record::InstancePutAside(id) => Ok(Change::remove(INSTANCES, id.as_str())),
        Record::Creation(creation) => Change::put(CREATIONS, creation_key(creation.id.0), creation),
        Record::CreationClosed(id) => Ok(Change::remove(CREATIONS, creation_key(id.0))),
    }
}

fn creation_key(id: u64) -> String {
    format!("{id:020}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ids::{InstanceId, ReservationKey};
    use crate::taskscaler::core::CreationId;
    use crate::taskscaler::core::instance::Cause;
    use crate::taskscaler::core::reasons::RemovalReason;
    use crate::taskscaler::core::records::{CreationRecord, InstanceRecord};

    #[test]
    fn records_come_back_as_a_store_in_memory_would_give_them() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_780_000_000_123);
        let instance = InstanceRecord {
            id: InstanceId::new("i-1"),
            cause: Cause::Requested,
            foreign: false,
            creation: Some(CreationId(7)),
            uses: 3,
            slots: BTreeMap::from([(1, ReservationKey::new("key"))]),
            listed_at: at,
            idle_since: at,
            removal: None,
            gone_at: None,
        };
        let reason = RemovalReason::Idle { idle: Duration::from_secs(61), idle_time: Duration::from_secs(60) };
        let leaving = InstanceRecord { id: InstanceId::new("i-2"), removal: Some(reason), ..instance.clone() };
        let gone = InstanceRecord { id: InstanceId::new("i-3"), gone_at: Some(at), ..instance.clone() };
        let creation = |id| CreationRecord { id: CreationId(id), count: 2, asked_at: at };
        let records = [
            Record::Creation(creation(7)),
            Record::Creation(creation(10)),
            Record::Instance(instance.clone()),
            Record::Instance(leaving),
            Record::Instance(gone.clone()),
            Record::Instance(InstanceRecord { uses: 4, ..instance }),
            Record::InstanceForgotten(gone.id),
            Record::InstancePutAside(InstanceId::new("i-2")),
            Record::CreationClosed(CreationId(7)),
        ];
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("journal.redb")).unwrap();
        let store = Journaled::new(&journal, &RunnerKey::new("https://gitlab.example", 1, "t"), "s_1");
        let mut expected = Restored::default();
        for record in &records {
            store.commit(std::slice::from_ref(record)).unwrap();
            expected.apply(record);
        }
        expected.instances.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(store.load().unwrap(), expected);
        // A deleted instance's key goes with it, while a host that may come back has to prove itself again.
        let key = HostKey::new("ssh-ed25519 AAAA");
        store.keep_host_keys(&["i-4", "i-5"].map(|id| (InstanceId::new(id), key.clone()))).unwrap();
        let last = [("i-4", Record::InstanceForgotten as fn(_) -> _), ("i-5", Record::InstancePutAside)];
        store.commit(&last.map(|(id, record)| record(InstanceId::new(id)))).unwrap();
        assert_eq!(store.host_keys().unwrap(), [(InstanceId::new("i-5"), key)]);
        let other = Journaled::new(&journal, &RunnerKey::new("https://gitlab.example", 2, "t"), "s_1");
        assert_eq!(other.load().unwrap(), Restored::default());
    }
}
