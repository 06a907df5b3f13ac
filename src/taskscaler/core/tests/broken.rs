//! An instance that turns out to be no good while a job waits for its answer.

use std::time::Duration;

use super::scenarios::settings;
use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::settings::{Settings, UnknownInstances};
use crate::taskscaler::core::{Command, Core, Event, GroupState, Listing, Release, Ticket};
use crate::time::Now;

/// One instance of two slots: the job `a` has one and says that it cannot be prepared there, `b` waits for the other.
struct Scene {
    core: Core,
    now: Now,
    instance: InstanceId,
    b: ReservationKey,
}

impl Scene {
    fn new() -> Self {
        let now = crate::time::now();
        let settings = Settings { unknown: UnknownInstances::Adopt, ..settings(2, 1, 0, 3600) };
        let (instance, a) = (InstanceId::new("i-1"), ReservationKey::new("a"));
        let mut scene = Self { core: Core::new(settings, now), now, instance, b: ReservationKey::new("b") };
        scene.tell(Event::Started { group_max: None, restored: Restored::default() });
        let instances = vec![(scene.instance.clone(), GroupState::Running)];
        scene.tell(Event::GroupListed(Listing { target: None, instances }));
        scene.tell(Event::InstancePrepared { instance: scene.instance.clone(), result: Ok(()) });
        let granted = scene.tell(Event::AcquisitionRequested { ticket: Ticket(1), key: a.clone() });
        assert!(granted.iter().any(|it| matches!(it, Command::GrantAcquisition { .. })), "{granted:?}");
        // So much later that the instance is asked first.
        scene.now = scene.now.after(Duration::from_secs(10));
        let asked = scene.tell(Event::AcquisitionRequested { ticket: Ticket(2), key: scene.b.clone() });
        assert!(asked.iter().any(|it| matches!(it, Command::Check { .. })), "{asked:?}");
        scene.tell(Event::Released { key: a, release: Release::Broken });
        scene
    }

    fn tell(&mut self, event: Event) -> Vec<Command> {
        self.core.handle(event, self.now);
        std::iter::from_fn(|| self.core.next_command()).collect()
    }
}

fn deletes(commands: &[Command]) -> bool {
    commands.iter().any(|command| matches!(command, Command::Decrease { .. }))
}

#[test]
fn a_job_that_waits_for_its_answer_gets_another_instance() {
    let mut scene = Scene::new();
    let commands = scene.tell(Event::InstanceChecked { instance: scene.instance.clone(), result: Ok(()) });
    assert!(!commands.iter().any(|command| matches!(command, Command::GrantAcquisition { .. })), "{commands:?}");
    assert!(deletes(&commands), "{commands:?}");
}

#[test]
fn it_goes_when_nobody_waits_for_its_answer_any_more() {
    let mut scene = Scene::new();
    let commands = scene.tell(Event::AcquisitionCancelled { key: scene.b.clone() });
    assert!(deletes(&commands), "{commands:?}");
}
