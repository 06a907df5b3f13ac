//! Two managers on one group, in every order of events: G6 (never more instances than the maximum) and G16 (what one
//! of them has sent never arrives while the other has the claim).
//!
//! The managers use the real [`Claim`]. Around it: answers that are late or lost, calls that arrive at any moment
//! before their time is over, crashes, and pauses, which are nothing but other events coming first.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::fleeting::group::Lease;
use crate::taskscaler::claim::{Claim, LEASE, RETRY};

/// `max_instances`.
const MAX: u8 = 1;
/// Time passes in steps of this length.
const STEP: Duration = RETRY;
/// The claim changes hands more than once in this time.
const STEPS: u8 = 15;
/// For how many steps a manager counts on what it asked for before it crashed.
const INTENT_COUNTS: u8 = 12;

/// What is made worse on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Calls may arrive this many steps after their time is over.
    LateCalls(u8),
    /// A manager whose claim came back trusts what it knew before.
    StaleListing,
    /// What was asked for before a crash is forgotten.
    NoJournal,
}

#[derive(Clone, Copy, Debug)]
struct TwoManagers {
    start: Instant,
    flaw: Flaw,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    step: u8,
    /// Who has claimed the group, and until when.
    holder: Option<(usize, u8)>,
    instances: u8,
    calls: Vec<Call>,
    managers: [Manager; 2],
}

/// A request for instances on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Call {
    by: usize,
    count: u8,
    arrives_before: u8,
    /// The sender has crashed since, and nobody waits for the answer.
    orphan: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Manager {
    claim: Claim,
    /// A question for the claim is on its way since then.
    asked: Option<u8>,
    /// Instances as listed, with what has been asked for since.
    knows: Option<u8>,
    calling: bool,
    /// Instances asked for before a crash; they count until a listing from then on lacks them.
    intent: Option<(u8, u8)>,
    crashed: bool,
    left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    TimePasses,
    Ask(usize),
    /// The group answers, and the answer arrives, or does not.
    Answer {
        manager: usize,
        arrives: bool,
    },
    AskInVain(usize),
    List(usize),
    Increase(usize),
    Arrive(usize),
    GetLost(usize),
    Crash(usize),
    /// It ends in good order and gives its claim back.
    Leave(usize),
}

impl TwoManagers {
    fn at(&self, step: u8) -> Instant {
        self.start + STEP * u32::from(step)
    }

    /// The step in which this time from now on is over.
    fn step_after(&self, step: u8, time: Duration) -> u8 {
        step + u8::try_from(time.as_secs() / STEP.as_secs()).unwrap()
    }

    fn may_increase(&self, world: &World, manager: &Manager) -> Option<(u8, Duration)> {
        let time = manager.claim.time_for_a_call(self.at(world.step))?;
        let missing = MAX.saturating_sub(manager.knows? + manager.intent.map_or(0, |(count, _)| count));
        (missing > 0 && !manager.calling).then_some((missing, time))
    }

    /// What the core does when the claim is no longer sure.
    fn tell(&self, world: &mut World, manager: usize) {
        let now = self.at(world.step);
        let manager = &mut world.managers[manager];
        if manager.claim.time_for_a_call(now).is_none() && self.flaw != Flaw::StaleListing {
            manager.knows = None;
        }
    }

    fn pass(&self, world: &mut World) -> Option<()> {
        // A question is given up after a while, so its answer cannot be later than that.
        if world.managers.iter().any(|manager| manager.asked.is_some_and(|asked| asked < world.step)) {
            return None;
        }
        world.step += 1;
        let late = if let Flaw::LateCalls(steps) = self.flaw { steps } else { 0 };
        world.calls.retain(|call| world.step < call.arrives_before + late);
        for manager in 0..2 {
            // The actor's timer tells the core in time.
            self.tell(world, manager);
            world.managers[manager].calling = world.calls.iter().any(|call| call.by == manager && !call.orphan);
        }
        Some(())
    }

    fn answer(&self, world: &mut World, number: usize, arrives: bool) -> Option<()> {
        let asked = world.managers[number].asked.take()?;
        let free = world.holder.is_none_or(|(holder, until)| holder == number || until <= world.step);
        if free {
            world.holder = Some((number, self.step_after(world.step, LEASE)));
        }
        if free && arrives {
            let until = Some(self.at(asked) + LEASE);
            world.managers[number].claim.granted(Lease { holder: number.to_string(), until }, self.at(world.step));
            self.tell(world, number);
        } else {
            self.failed(world, number);
        }
        Some(())
    }

    fn failed(&self, world: &mut World, number: usize) {
        if world.managers[number].claim.exists() {
            world.managers[number].claim.renewal_failed(self.at(world.step));
        }
        self.tell(world, number);
    }

    fn crash(&self, world: &mut World, number: usize) {
        let mut intent = 0;
        for call in world.calls.iter_mut().filter(|call| call.by == number && !call.orphan) {
            call.orphan = true;
            intent += call.count;
        }
        world.calls.sort_unstable();
        let kept = self.flaw != Flaw::NoJournal;
        let intent = (kept && intent > 0).then_some((intent, world.step + INTENT_COUNTS));
        world.managers[number] = Manager { intent, crashed: true, ..Manager::default() };
    }
}

impl World {
    fn end_call(&mut self, call: usize) {
        let call = self.calls.remove(call);
        if !call.orphan {
            // Answered: the next listing tells the rest.
            let manager = &mut self.managers[call.by];
            manager.calling = false;
            manager.knows = None;
        }
    }
}

impl Model for TwoManagers {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let managers = [Manager::default(), Manager::default()];
        vec![World { step: 0, holder: None, instances: 0, calls: Vec::new(), managers }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.step < STEPS {
            actions.push(Action::TimePasses);
        }
        for call in 0..world.calls.len() {
            actions.extend([Action::Arrive(call), Action::GetLost(call)]);
        }
        for (number, manager) in world.managers.iter().enumerate().filter(|(_, manager)| !manager.left) {
            let due = !manager.claim.exists() || manager.claim.clone().begin_renewal(self.at(world.step)).is_some();
            match manager.asked {
                None if due => actions.push(Action::Ask(number)),
                None => {}
                Some(_) => actions.extend([
                    Action::Answer { manager: number, arrives: true },
                    Action::Answer { manager: number, arrives: false },
                    Action::AskInVain(number),
                ]),
            }
            let overdue = manager.intent.is_some_and(|(_, until)| until <= world.step);
            if (manager.knows.is_none() || overdue) && manager.claim.time_for_a_call(self.at(world.step)).is_some() {
                actions.push(Action::List(number));
            }
            if self.may_increase(world, manager).is_some() {
                actions.push(Action::Increase(number));
            }
            // The one may crash and the other leave; which of them it is makes no difference.
            if number == 0 && !manager.crashed && manager.claim.exists() {
                actions.push(Action::Crash(number));
            }
            if number == 1 && manager.asked.is_none() && !manager.calling && manager.claim.exists() {
                actions.push(Action::Leave(number));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::TimePasses => self.pass(&mut world)?,
            Action::Ask(number) => {
                let now = self.at(world.step);
                let manager = &mut world.managers[number];
                if manager.claim.exists() {
                    manager.claim.begin_renewal(now)?;
                }
                manager.asked = Some(world.step);
            }
            Action::Answer { manager, arrives } => self.answer(&mut world, manager, arrives)?,
            Action::AskInVain(number) => {
                world.managers[number].asked = None;
                self.failed(&mut world, number);
            }
            Action::List(number) => {
                let manager = &mut world.managers[number];
                manager.knows = Some(world.instances);
                manager.intent = manager.intent.filter(|(_, until)| world.step < *until);
            }
            Action::Increase(number) => {
                let (count, time) = self.may_increase(&world, &world.managers[number])?;
                // What the claim allows, and the time that a sent call has to arrive: the claim's own end.
                let arrives_before = self.step_after(world.step, time + STEP);
                world.calls.push(Call { by: number, count, arrives_before, orphan: false });
                world.calls.sort_unstable();
                let manager = &mut world.managers[number];
                manager.calling = true;
                manager.knows = Some(MAX);
            }
            Action::Arrive(call) => {
                world.instances += world.calls[call].count;
                world.end_call(call);
            }
            Action::GetLost(call) => world.end_call(call),
            Action::Crash(number) => self.crash(&mut world, number),
            Action::Leave(number) => {
                world.holder = world.holder.filter(|(holder, _)| *holder != number);
                let claim = world.managers[number].claim.clone();
                world.managers[number] = Manager { claim, left: true, ..Manager::default() };
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("G6: no more instances than the maximum", |_, world: &World| world.instances <= MAX),
            Property::always("G16: nothing arrives from one while the other has the claim", |_, world: &World| {
                let Some((holder, _)) = world.holder.filter(|(_, until)| world.step < *until) else { return true };
                world.calls.iter().all(|call| call.by == holder)
            }),
            Property::sometimes("both managers have had the claim", |_, world: &World| {
                world.managers.iter().all(|manager| manager.claim.exists())
            }),
            Property::sometimes("the group is full", |_, world: &World| world.instances == MAX),
        ]
    }
}

/// The names of the properties that do not hold.
fn broken(flaw: Flaw) -> Vec<&'static str> {
    super::in_background();
    let model = TwoManagers { start: crate::time::now().instant, flaw };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{flaw:?}: {} states", checker.unique_state_count());
    let mut found: Vec<&str> = checker.discoveries().into_keys().filter(|name| name.starts_with('G')).collect();
    found.sort_unstable();
    if flaw == Flaw::None {
        checker.assert_properties();
    }
    found
}

#[test]
fn two_managers_never_write_at_once_nor_exceed_the_maximum() {
    assert_eq!(broken(Flaw::None), Vec::<&str>::new());
}

#[test]
fn the_model_would_notice_late_calls_stale_listings_and_lost_intents() {
    let starts_with = |found: Vec<&str>, names: &[&str]| {
        let found: Vec<&str> = found.iter().map(|name| name.split(':').next().unwrap()).collect();
        assert_eq!(found, names);
    };
    starts_with(broken(Flaw::LateCalls(1)), &["G16"]);
    starts_with(broken(Flaw::StaleListing), &["G6"]);
    starts_with(broken(Flaw::NoJournal), &["G6"]);
}
