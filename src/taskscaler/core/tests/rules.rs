//! Rules that take an exact order of events to be broken.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::direct::{Direct, deletes};
use super::scenarios::{policy, settings};
use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::decision::Decision;
use crate::taskscaler::core::policy::{Periods, Policy};
use crate::taskscaler::core::reasons::RemovalReason;
use crate::taskscaler::core::records::Record;
use crate::taskscaler::core::settings::{Settings, UnknownInstances};
use crate::taskscaler::core::{Command, Event, Release};

fn removed_for(commands: &[Command]) -> Vec<RemovalReason> {
    let reason = |command: &Command| {
        let Command::Report(Decision::MarkedForRemoval { reason, .. }) = command else { return None };
        Some(reason.clone())
    };
    commands.iter().filter_map(reason).collect()
}

/// A group of ours in which one instance is given up because neither the group nor the instance shows it any more.
fn hidden(with_job: bool) -> Direct {
    let settings = Settings { unknown: UnknownInstances::Remove, ..settings(1, 1, 0, 3600) };
    let patient = NonZeroU32::new(10).unwrap();
    let mut direct = Direct::with(Settings { failure_threshold: patient, ..settings }, None, &[]);
    // What appears after the first listing is used.
    direct.list(None, &["i-1"]);
    direct.tell(Event::InstancePrepared { instance: InstanceId::new("i-1"), result: Ok(()) });
    if with_job {
        direct.acquire("a");
    }
    while !direct.core.snapshot(direct.now).fleet.is_empty() {
        direct.list(None, &[]);
        direct.tell(Event::InstanceChecked { instance: InstanceId::new("i-1"), result: Err("no answer".to_owned()) });
    }
    direct
}

#[test]
fn an_instance_that_was_given_up_with_its_job_gets_no_other_when_it_is_listed_again() {
    let mut direct = hidden(true);
    let commands = direct.list(None, &["i-1"]);
    assert_eq!(removed_for(&commands), [RemovalReason::Reappeared]);
    assert!(!deletes(&commands), "what the job left is ended first");
    let examined = Event::SlotExamined { instance: InstanceId::new("i-1"), slot: 0, result: Ok(()) };
    assert!(deletes(&direct.tell(examined)));
}

#[test]
fn an_instance_that_was_only_hidden_serves_again() {
    let mut direct = hidden(false);
    let commands = direct.list(None, &["i-1"]);
    assert_eq!(removed_for(&commands), []);
    direct.tell(Event::InstancePrepared { instance: InstanceId::new("i-1"), result: Ok(()) });
    direct.acquire("a");
}

#[test]
fn a_listing_that_is_older_than_a_deletion_invents_no_instance() {
    let settings = Settings { max_use_count: NonZeroU32::new(1), ..settings(1, 3, 3, 3600) };
    let settings = Settings { unknown: UnknownInstances::Remove, ..settings };
    let mut direct = Direct::with(settings, Some(0), &[]);
    let members = ["i-1", "i-2", "i-3"];
    direct.tell(Event::IncreaseFinished {
        creation: crate::taskscaler::core::CreationId(1),
        succeeded: 3,
        uncertain: 0,
        failure: None,
    });
    direct.list(Some(3), &members);
    for member in members {
        direct.tell(Event::InstancePrepared { instance: InstanceId::new(member), result: Ok(()) });
    }
    direct.acquire("a");
    let released = direct.tell(Event::Released { key: ReservationKey::new("a"), release: Release::Finished });
    assert!(deletes(&released));
    // Nobody has answered yet, and the group works towards three as before.
    let commands = direct.list(Some(3), &members);
    let expects = |command: &Command| matches!(command, Command::Record(Record::Creation(_)));
    assert!(!commands.iter().any(expects), "{commands:?}");
}

#[test]
fn a_slot_on_which_nothing_ran_was_not_used() {
    let settings = Settings { max_use_count: NonZeroU32::new(1), ..settings(1, 1, 0, 3600) };
    let mut direct = Direct::with(Settings { unknown: UnknownInstances::Adopt, ..settings }, None, &["i-1"]);
    direct.acquire("a");
    let commands = direct.tell(Event::Released { key: ReservationKey::new("a"), release: Release::Unused });
    assert_eq!(removed_for(&commands), []);
    direct.acquire("b");
    let commands = direct.tell(Event::Released { key: ReservationKey::new("b"), release: Release::Finished });
    assert_eq!(removed_for(&commands), [RemovalReason::MaxUses { uses: 1 }]);
}

#[test]
fn what_is_above_the_maximum_goes_for_that_however_long_it_was_idle() {
    let settings = |max, idle_count| Settings { unknown: UnknownInstances::Adopt, ..settings(1, max, idle_count, 60) };
    let mut direct = Direct::with(settings(3, 3), None, &["i-1", "i-2", "i-3"]);
    direct.pass(Duration::from_secs(600));
    let commands = direct.tell(Event::SettingsChanged(Box::new(settings(1, 3))));
    assert_eq!(removed_for(&commands), vec![RemovalReason::AboveMaximum { max: 1 }; 2]);
}

/// A period that begins a minute after the start.
#[derive(Debug)]
struct Soon(SystemTime);

impl Periods for Soon {
    fn contains(&self, at: SystemTime) -> bool {
        at >= self.0
    }

    fn next_change(&self, at: SystemTime) -> Option<SystemTime> {
        (at < self.0).then_some(self.0)
    }
}

#[test]
fn a_policys_edge_that_passes_while_the_fleet_is_given_up_wakes_nobody() {
    let soon = Policy { periods: Arc::new(Soon(crate::time::now().utc + Duration::from_secs(60))), ..policy(1, 3600) };
    let settings = Settings { policies: vec![policy(0, 3600), soon], ..settings(1, 1, 0, 3600) };
    let mut direct = Direct::with(Settings { unknown: UnknownInstances::Adopt, ..settings }, None, &["i-1"]);
    direct.acquire("a");
    direct.tell(Event::DrainRequested);
    direct.pass(Duration::from_secs(120));
    direct.list(None, &["i-1"]);
    direct.core.handle_timeout(direct.now);
    assert!(direct.core.poll_timeout().is_none_or(|due| due > direct.now.instant));
}
