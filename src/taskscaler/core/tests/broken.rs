//! An instance that turns out to be no good while a job waits for its answer.

use std::time::Duration;

use super::direct::{Direct, deletes};
use super::scenarios::settings;
use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::settings::{Settings, UnknownInstances};
use crate::taskscaler::core::{Command, Event, Release, Ticket};

/// One instance of two slots: the job `a` has one and says that it cannot be prepared there, `b` waits for the other.
fn scene() -> Direct {
    let settings = Settings { unknown: UnknownInstances::Adopt, ..settings(2, 1, 0, 3600) };
    let mut scene = Direct::with(settings, None, &["i-1"]);
    scene.acquire("a");
    // So much later that the instance is asked first.
    scene.pass(Duration::from_secs(10));
    let asked = scene.tell(Event::AcquisitionRequested { ticket: Ticket(2), key: ReservationKey::new("b") });
    assert!(asked.iter().any(|it| matches!(it, Command::Check { .. })), "{asked:?}");
    scene.tell(Event::Released { key: ReservationKey::new("a"), release: Release::Broken });
    scene
}

#[test]
fn a_job_that_waits_for_its_answer_gets_another_instance() {
    let commands = scene().tell(Event::InstanceChecked { instance: InstanceId::new("i-1"), result: Ok(()) });
    assert!(!commands.iter().any(|command| matches!(command, Command::GrantAcquisition { .. })), "{commands:?}");
    assert!(deletes(&commands), "{commands:?}");
}

#[test]
fn it_goes_when_nobody_waits_for_its_answer_any_more() {
    let commands = scene().tell(Event::AcquisitionCancelled { key: ReservationKey::new("b") });
    assert!(deletes(&commands), "{commands:?}");
}
