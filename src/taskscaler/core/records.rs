//! What must survive the manager: written and synced before the act that follows it.
//!
//! The core says what to keep and is given it back at the next start; it knows no store.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, ReservationKey};

use super::creations::CreationId;
use super::instance::Cause;
use super::reasons::RemovalReason;

/// A change to what is kept. Writing the same change twice is harmless.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// This is how the instance stands.
    Instance(InstanceRecord),
    /// Nothing needs to be known about the instance any more.
    InstanceForgotten(InstanceId),
    /// The instance is gone from a fixed list and may come back as the same machine: how it proves itself is kept.
    InstancePutAside(InstanceId),
    /// Instances are about to be asked for.
    Creation(CreationRecord),
    /// Nothing more can come of that request.
    CreationClosed(CreationId),
}

/// One instance as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub cause: Cause,
    /// It is a member of the group and not ours.
    #[serde(default)]
    pub foreign: bool,
    /// The request that it came from.
    pub creation: Option<CreationId>,
    pub uses: u32,
    /// Slots with a job.
    pub slots: BTreeMap<u32, ReservationKey>,
    pub listed_at: SystemTime,
    /// When its last job ended or, before the first, when it became ready.
    pub idle_since: SystemTime,
    /// It is to be deleted.
    pub removal: Option<RemovalReason>,
    /// It was deleted; a listing that still has it is late.
    pub gone_at: Option<SystemTime>,
}

/// One request for instances as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreationRecord {
    pub id: CreationId,
    pub count: u32,
    pub asked_at: SystemTime,
}

/// Everything that was kept, as it is given back at a start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restored {
    pub instances: Vec<InstanceRecord>,
    pub creations: Vec<CreationRecord>,
}

impl Restored {
    /// Applies a change, as a store does. For stores in memory and for tests.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Instance(instance) => {
                self.instances.retain(|kept| kept.id != instance.id);
                self.instances.push(instance.clone());
            }
            Record::InstanceForgotten(id) | Record::InstancePutAside(id) => {
                self.instances.retain(|kept| kept.id != *id);
            }
            Record::Creation(creation) => {
                self.creations.retain(|kept| kept.id != creation.id);
                self.creations.push(creation.clone());
            }
            Record::CreationClosed(id) => self.creations.retain(|kept| kept.id != *id),
        }
    }
}
