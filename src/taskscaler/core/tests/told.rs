//! What the core tells of what it does not do: refused polls, and growth that is held back.

use std::time::Duration;

use super::scenarios::settings;
use crate::ids::ReservationKey;
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::{Command, Core, Decision, Event, Listing, Ticket};
use crate::time::Now;

/// A core that may have one instance, and what it tells.
struct Scene {
    core: Core,
    now: Now,
    asked: u64,
}

impl Scene {
    fn new() -> Self {
        let now = crate::time::now();
        let mut scene = Self { core: Core::new(settings(1, 1, 0, 3600), now), now, asked: 0 };
        scene.tell(Event::Started { group_max: None, restored: Restored::default() });
        scene
    }

    fn listed() -> Self {
        let mut scene = Self::new();
        scene.tell(Event::GroupListed(Listing { target: None, instances: Vec::new() }));
        scene
    }

    fn tell(&mut self, event: Event) -> Vec<Decision> {
        self.core.handle(event, self.now);
        self.told()
    }

    fn told(&mut self) -> Vec<Decision> {
        let commands = std::iter::from_fn(|| self.core.next_command());
        commands
            .filter_map(|command| if let Command::Report(decision) = command { Some(decision) } else { None })
            .collect()
    }

    fn ticket(&mut self) -> (Ticket, ReservationKey) {
        self.asked += 1;
        (Ticket(self.asked), ReservationKey::new(format!("{}", self.asked)))
    }

    /// A poll asks for capacity: what is told about its refusal.
    fn poll(&mut self) -> Vec<String> {
        let (ticket, key) = self.ticket();
        let told = self.tell(Event::ReservationRequested { ticket, key });
        told.iter().filter(|it| it.kind() == "refused").map(ToString::to_string).collect()
    }

    /// A job asks for a slot: what is told about growth.
    fn job(&mut self) -> Vec<String> {
        let (ticket, key) = self.ticket();
        growth(&self.tell(Event::AcquisitionRequested { ticket, key }))
    }

    /// Time passes: what is told about growth.
    fn pass(&mut self, passed: Duration) -> Vec<String> {
        self.now = self.now.after(passed);
        self.core.handle_timeout(self.now);
        growth(&self.told())
    }
}

fn growth(told: &[Decision]) -> Vec<String> {
    let growth = told.iter().filter(|it| matches!(it.kind(), "increasing" | "held_back"));
    growth.map(|it| format!("{} {it}", it.kind())).collect()
}

#[test]
fn a_refusal_is_told_when_its_reason_is_new_and_then_once_a_minute_with_a_count() {
    let mut scene = Scene::new();
    assert_eq!(scene.poll(), ["no capacity: the group has not been listed yet, polls 1"]);
    assert_eq!(scene.poll(), [""; 0]);
    scene.tell(Event::GroupListed(Listing { target: None, instances: Vec::new() }));
    scene.job();
    let none = "no capacity: no immediately available or potential capacity \
                (idle:0,acquired:0,unavailable:0,unhealthy:0,unready:1)";
    let mut told = Vec::new();
    for _ in 0..=25 {
        told.push(scene.poll());
        scene.now = scene.now.after(Duration::from_secs(3));
    }
    assert_eq!(told.iter().flatten().collect::<Vec<_>>(), [&format!("{none}, polls 1"), &format!("{none}, polls 20")]);
    let totals = scene.core.snapshot(scene.now).totals;
    assert_eq!(totals.refusals.into_iter().collect::<Vec<_>>(), [("no_potential", 26), ("starting", 2)]);
}

#[test]
fn growth_that_max_instances_cuts_or_forbids_says_so() {
    let mut scene = Scene::listed();
    assert_eq!(scene.job(), ["increasing +1: pending 1, idle target 0, have 0"]);
    let held = |pending| {
        let missing = pending - 1;
        format!(
            "held_back +0: pending {pending}, idle target 0, have 1 (of {missing}, max_instances 1 with 0 that do not \
             serve)"
        )
    };
    assert_eq!(scene.job(), [held(2)]);
    assert_eq!(scene.job(), [""; 0], "other numbers are told a minute later");
    assert_eq!(scene.pass(Duration::from_secs(60)), [held(3)]);
    assert_eq!(scene.pass(Duration::from_secs(60)), [""; 0], "the same is told once");
}
