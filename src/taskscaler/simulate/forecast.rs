//! What the core would do with a group as it is now: one listing, one pass, and nothing carried out.
//!
//! Instances that run are taken for ready, as a manager finds them if they answer. Slots with a job of a manager
//! count as busy: nobody looks at what is in them.

use std::fmt;

use crate::ids::InstanceId;
use crate::taskscaler::core::reasons::{CreationReason, RemovalReason};
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::settings::Settings;
use crate::taskscaler::core::snapshot::Snapshot;
use crate::taskscaler::core::{Command, Core, Decision, Event, Listing};
use crate::time::Now;

/// What is known of the group.
#[derive(Clone, Debug)]
pub struct Situation {
    pub settings: Settings,
    /// The group's own limit.
    pub group_max: Option<u32>,
    /// What an earlier manager kept, where it can be read.
    pub restored: Restored,
    pub listing: Listing,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// In the order in which they would be taken.
    pub steps: Vec<Step>,
    /// The fleet with its running instances ready, and nothing carried out.
    pub fleet: Snapshot,
}

/// One thing that would be done, or is noticed on the way.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The group is asked for more instances.
    Increase(CreationReason),
    /// The group is asked to delete this instance.
    Delete { instance: InstanceId, reason: RemovalReason },
    /// The instance is reached, and takes jobs if `instance_ready_command` and the like are content.
    Prepare { instance: InstanceId },
    /// A job of an earlier manager has this slot; it is ended, unless that manager still runs.
    Examine { instance: InstanceId, slot: u32 },
    /// A member that is not ours: counted, neither used nor deleted.
    LeaveAlone { instance: InstanceId },
    /// A known instance that the group does not list.
    LookFor { instance: InstanceId },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Increase(reason) => write!(f, "increase the group: {reason}"),
            Self::Delete { instance, reason } => write!(f, "delete {instance}: {}", reason.explained()),
            Self::Prepare { instance } => write!(f, "make {instance} ready: it runs"),
            Self::Examine { instance, slot } => write!(f, "look at slot {slot} of {instance}: it has a job"),
            Self::LeaveAlone { instance } => {
                write!(f, "leave {instance} alone: it is not ours, and counts towards max_instances")
            }
            Self::LookFor { instance } => write!(f, "look for {instance}: it is known, and the group does not list it"),
        }
    }
}

/// Looks at the situation as a manager does that starts now.
pub fn forecast(situation: Situation, now: Now) -> Forecast {
    let Situation { settings, group_max, restored, listing } = situation;
    let mut core = Core::new(settings, now);
    let mut steps = Vec::new();
    core.handle(Event::Started { group_max, restored }, now);
    core.handle(Event::GroupListed(listing), now);
    let running = take_steps(&mut core, &mut steps);
    for instance in running {
        core.handle(Event::InstancePrepared { instance, result: Ok(()) }, now);
        take_steps(&mut core, &mut steps);
    }
    Forecast { steps, fleet: core.snapshot(now) }
}

/// Takes the core's commands without doing them; the instances that are to be made ready.
fn take_steps(core: &mut Core, steps: &mut Vec<Step>) -> Vec<InstanceId> {
    let mut running = Vec::new();
    while let Some(command) = core.next_command() {
        if let Command::Prepare { instance } = &command {
            running.push(instance.clone());
        }
        steps.extend(step(command));
    }
    running
}

fn step(command: Command) -> Option<Step> {
    match command {
        Command::Increase { creation: _, count: _, reason } => Some(Step::Increase(reason)),
        Command::Prepare { instance } => Some(Step::Prepare { instance }),
        Command::Examine { instance, slot, key: _ } => Some(Step::Examine { instance, slot }),
        // What is marked is deleted in one call after the other, so the mark is what tells.
        Command::Report(Decision::MarkedForRemoval { instance, reason }) => Some(Step::Delete { instance, reason }),
        Command::Report(Decision::ForeignFound { instance }) => Some(Step::LeaveAlone { instance }),
        Command::Report(Decision::Missing { instance }) => Some(Step::LookFor { instance }),
        Command::Report(_)
        | Command::Record(_)
        | Command::ListGroup
        | Command::Decrease { .. }
        | Command::Check { .. }
        | Command::Disconnect { .. }
        | Command::GrantReservation { .. }
        | Command::RefuseReservation { .. }
        | Command::GrantAcquisition { .. }
        | Command::RejectAcquisition { .. }
        | Command::RevokeAcquisition { .. }
        | Command::Stop { .. } => None,
    }
}
