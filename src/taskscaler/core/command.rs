//! Everything that the core can want done. The caller carries commands out in their order, each at once
//! unless it says otherwise, and reports the result as an [`super::Event`] where there is one.

use crate::ids::{InstanceId, ReservationKey};

use super::creations::CreationId;
use super::decision::Decision;
use super::event::Ticket;
use super::keys::Place;
use super::reasons::{AcquireError, CreationReason, LossCause, Refusal, RemovalReason};
use super::records::Record;

/// An order to the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Keep this, durably, before any later command is carried out.
    Record(Record),

    /// List the group; answer with `GroupListed` or `ListingFailed`. One at a time.
    ListGroup,
    /// Ask the group for `count` more instances; answer with `IncreaseFinished`. One at a time.
    Increase { creation: CreationId, count: u32, reason: CreationReason },
    /// Have the group delete these instances and no others; answer with `DecreaseFinished`. One at a time.
    Decrease { victims: Vec<Victim> },

    /// Find out whether a running instance can take jobs, as long as that may take; answer with
    /// `InstancePrepared`.
    Prepare { instance: InstanceId },
    /// See whether an instance still answers, within seconds; answer with `InstanceChecked`.
    Check { instance: InstanceId },
    /// End what the job of an earlier manager left in this slot; answer with `SlotExamined`.
    Examine { instance: InstanceId, slot: u32, key: ReservationKey },
    /// The instance is gone: close what is open to it.
    Disconnect { instance: InstanceId },

    /// Answer a poll: it may ask for a job.
    GrantReservation { ticket: Ticket, key: ReservationKey },
    /// Answer a poll: it may not.
    RefuseReservation { ticket: Ticket, refusal: Refusal },
    /// Answer a job: this is its slot, the `uses`-th use of the instance. Where nobody waits for the answer any
    /// more, report `Released`.
    GrantAcquisition { ticket: Ticket, key: ReservationKey, place: Place, uses: u32 },
    /// Answer a job: it gets no slot. Its reservation stays.
    RejectAcquisition { ticket: Ticket, error: AcquireError },
    /// Tell a job that its instance is gone.
    RevokeAcquisition { key: ReservationKey, cause: LossCause },

    /// Log it, show it, count it.
    Report(Decision),
    /// Nothing more will come: the fleet is as the shutdown wanted it, or the tries are used up. So many
    /// instances remain.
    Stop { remaining: u32 },
}

/// An instance that is deleted, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Victim {
    pub instance: InstanceId,
    pub reason: RemovalReason,
}
