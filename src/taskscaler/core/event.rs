//! Everything that can happen to the core.

use crate::ids::{InstanceId, ReservationKey};

use super::creations::CreationId;
use super::failure::Failure;
use super::records::Restored;
use super::settings::Settings;

/// Names a request that waits for an answer; the caller maps it to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The group is known and what was kept has been read: work may begin.
    Started {
        group_max: Option<u32>,
        restored: Restored,
    },

    /// A poll wants capacity for a job it may bring.
    ReservationRequested {
        ticket: Ticket,
        key: ReservationKey,
    },
    /// A poll brought no job. An unknown key is fine.
    Unreserved {
        key: ReservationKey,
    },
    /// A job wants a slot. May be asked again after a failure; without a reservation too.
    AcquisitionRequested {
        ticket: Ticket,
        key: ReservationKey,
    },
    /// The one who waited for a slot has gone. The reservation stays.
    AcquisitionCancelled {
        key: ReservationKey,
    },
    /// A job is done with its slot, or never wanted one after all. An unknown key is fine.
    Released {
        key: ReservationKey,
        release: Release,
    },

    GroupListed(Listing),
    ListingFailed {
        failure: Failure,
    },
    /// `succeeded` instances come; another `uncertain` may, because it is not known whether the rest of the
    /// request arrived.
    IncreaseFinished {
        creation: CreationId,
        succeeded: u32,
        uncertain: u32,
        failure: Option<Failure>,
    },
    /// These instances are going or gone; the others of the call are not.
    DecreaseFinished {
        asked: Vec<InstanceId>,
        accepted: Vec<InstanceId>,
        failure: Option<Failure>,
    },

    InstancePrepared {
        instance: InstanceId,
        result: Result<(), String>,
    },
    InstanceChecked {
        instance: InstanceId,
        result: Result<(), String>,
    },
    /// What the job of an earlier manager left in this slot is ended, or could not be.
    SlotExamined {
        instance: InstanceId,
        slot: u32,
        result: Result<(), String>,
    },

    SettingsChanged(Box<Settings>),
    /// The group has been looked up again.
    GroupLookedUp {
        group_max: Option<u32>,
    },
    /// We are (or are no longer) the one writer of this group: without that it is neither grown nor shrunk.
    LeaseChanged {
        held: bool,
    },
    /// The runner is gone from the configuration: no more jobs, and instances go when theirs are done.
    DrainRequested,
    /// The manager ends: instances are kept or deleted as the settings say.
    ShutdownRequested,
}

/// How a job left its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It ran, whatever its outcome.
    Finished,
    /// It never started here: the use does not count.
    Unused,
    /// The instance could not prepare it, or stopped answering: nothing more is started there.
    Broken,
}

/// One listing of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The size that the group works towards, where it has one.
    pub target: Option<u32>,
    /// Every member, each as its provider sees it. The same one twice counts once.
    pub instances: Vec<(InstanceId, GroupState)>,
}

/// A member as its provider sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    Creating,
    Running,
    Deleting,
    Deleted,
    /// It will not come up, or was taken away: it must be deleted.
    TimedOut,
}
