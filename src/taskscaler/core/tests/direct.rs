//! A core that a test tells each event itself.

use std::time::Duration;

use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::settings::Settings;
use crate::taskscaler::core::{Command, Core, Event, GroupState, Listing, Ticket};
use crate::time::Now;

pub(super) struct Direct {
    pub(super) core: Core,
    pub(super) now: Now,
}

impl Direct {
    /// It has been started and has listed these members, which run and are ready.
    pub(super) fn with(settings: Settings, target: Option<u32>, members: &[&str]) -> Self {
        let now = crate::time::now();
        let mut direct = Self { core: Core::new(settings, now), now };
        direct.tell(Event::Started { group_max: None, restored: Restored::default() });
        let listing = Event::GroupListed(listing(target, members));
        direct.tell(listing);
        for member in members {
            direct.tell(Event::InstancePrepared { instance: InstanceId::new(*member), result: Ok(()) });
        }
        direct
    }

    /// What it orders upon this.
    pub(super) fn tell(&mut self, event: Event) -> Vec<Command> {
        self.core.handle(event, self.now);
        self.commands()
    }

    /// The job has a slot at once.
    pub(super) fn acquire(&mut self, key: &str) -> Vec<Command> {
        let acquired = self.tell(Event::AcquisitionRequested { ticket: Ticket(0), key: ReservationKey::new(key) });
        assert!(acquired.iter().any(|it| matches!(it, Command::GrantAcquisition { .. })), "{acquired:?}");
        acquired
    }

    /// Time passes until the group is to be listed, and the listing has these members, which run.
    pub(super) fn list(&mut self, target: Option<u32>, members: &[&str]) -> Vec<Command> {
        let mut commands = Vec::new();
        while !commands.iter().any(|command| matches!(command, Command::ListGroup)) {
            let due = self.core.poll_timeout().expect("a listing is to come");
            self.pass(due.saturating_duration_since(self.now.instant));
            self.core.handle_timeout(self.now);
            commands.extend(self.commands());
        }
        commands.extend(self.tell(Event::GroupListed(listing(target, members))));
        commands
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.core.next_command()).collect()
    }
}

fn listing(target: Option<u32>, members: &[&str]) -> Listing {
    Listing { target, instances: members.iter().map(|id| (InstanceId::new(*id), GroupState::Running)).collect() }
}

pub(super) fn deletes(commands: &[Command]) -> bool {
    commands.iter().any(|command| matches!(command, Command::Decrease { .. }))
}
