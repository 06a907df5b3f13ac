//! Claims and slots against a slow, obvious model: lists that are searched from the start each time.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::scenarios::{policy, settings};
use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::keys::Claim;
use crate::taskscaler::core::policy::Policy;
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::settings::{Settings, UnknownInstances};
use crate::taskscaler::core::{Command, Core, Event, Failure, GroupState, Listing, Release, Ticket};
use crate::time::Now;

/// What happens, a second apart.
#[derive(Clone, Debug)]
enum Step {
    Reserve(u8),
    Unreserve(u8),
    Acquire(u8),
    Cancel(u8),
    Release(u8),
    InstanceComes,
    /// The n-th of those that are there, counted round.
    InstanceGoes(usize),
}

#[derive(Clone, Debug, PartialEq)]
enum ReferenceClaim {
    Reserved,
    Pending,
    Acquired { instance: u32, slot: usize },
    Lost,
}

#[derive(Clone, Debug)]
struct ReferenceInstance {
    number: u32,
    slots: Vec<Option<u8>>,
    uses: u32,
    last_used: u32,
}

#[derive(Clone, Debug)]
struct ReferencePool {
    capacity: u32,
    max_use_count: u32,
    now: u32,
    last_number: u32,
    instances: Vec<ReferenceInstance>,
    claims: BTreeMap<u8, ReferenceClaim>,
    queue: Vec<u8>,
}

impl ReferenceInstance {
    fn taken(&self) -> u32 {
        u32::try_from(self.slots.iter().flatten().count()).unwrap()
    }
}

impl ReferencePool {
    fn free(&self, instance: &ReferenceInstance) -> u32 {
        let uses_left = if self.max_use_count == 0 { u32::MAX } else { self.max_use_count - instance.uses };
        (self.capacity - instance.taken()).min(uses_left)
    }

    fn may_reserve(&self) -> bool {
        let idle: u32 = self.instances.iter().map(|instance| self.free(instance)).sum();
        let reserved = self.claims.values().filter(|claim| **claim == ReferenceClaim::Reserved).count();
        idle > u32::try_from(reserved).unwrap()
    }

    /// A slot on which nothing ran was not used.
    fn give_up(&mut self, key: u8, ran: bool) {
        self.queue.retain(|waiting| *waiting != key);
        if let Some(ReferenceClaim::Acquired { instance: number, slot }) = self.claims.remove(&key) {
            let instance = self.instances.iter_mut().find(|it| it.number == number).unwrap();
            instance.slots[slot] = None;
            instance.last_used = self.now;
            instance.uses -= u32::from(!ran);
            let spent = self.max_use_count > 0 && instance.uses >= self.max_use_count;
            if spent && instance.taken() == 0 {
                self.instances.retain(|it| it.number != number);
            }
        }
    }

    /// The longest wait gets a slot on the fullest instance, of equals on the one that was used last.
    fn assign(&mut self) {
        while let Some(key) = self.queue.first().copied() {
            let open = self.instances.iter().enumerate().filter(|(_, it)| self.free(it) > 0);
            let best = open.max_by_key(|(_, it)| (it.taken(), it.last_used, u32::MAX - it.number));
            let Some((place, _)) = best else { return };
            let instance = &mut self.instances[place];
            let slot = instance.slots.iter().position(Option::is_none).unwrap();
            instance.slots[slot] = Some(key);
            instance.uses += 1;
            self.queue.remove(0);
            self.claims.insert(key, ReferenceClaim::Acquired { instance: instance.number, slot });
        }
    }
}

impl ReferenceStateMachine for ReferencePool {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let pool = |(capacity, max_use_count)| Self {
            capacity,
            max_use_count,
            now: 0,
            last_number: 0,
            instances: Vec::new(),
            claims: BTreeMap::new(),
            queue: Vec::new(),
        };
        (1_u32..4, 0_u32..5).prop_map(pool).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let key = || 0_u8..10;
        prop_oneof![
            2 => key().prop_map(Step::Reserve),
            1 => key().prop_map(Step::Unreserve),
            5 => key().prop_map(Step::Acquire),
            1 => key().prop_map(Step::Cancel),
            3 => key().prop_map(Step::Release),
            2 => Just(Step::InstanceComes),
            1 => any::<usize>().prop_map(Step::InstanceGoes),
        ]
        .boxed()
    }

    fn apply(mut pool: Self, step: &Step) -> Self {
        pool.now += 1;
        match *step {
            Step::Reserve(key) => {
                if pool.may_reserve() {
                    pool.claims.entry(key).or_insert(ReferenceClaim::Reserved);
                }
            }
            Step::Unreserve(key) => pool.give_up(key, false),
            Step::Release(key) => pool.give_up(key, true),
            Step::Acquire(key) => {
                if matches!(pool.claims.get(&key), None | Some(ReferenceClaim::Reserved)) {
                    pool.claims.insert(key, ReferenceClaim::Pending);
                    pool.queue.push(key);
                }
            }
            Step::Cancel(key) => {
                if pool.claims.get(&key) == Some(&ReferenceClaim::Pending) {
                    pool.queue.retain(|waiting| *waiting != key);
                    pool.claims.insert(key, ReferenceClaim::Reserved);
                }
            }
            Step::InstanceComes => {
                pool.last_number += 1;
                let slots = vec![None; usize::try_from(pool.capacity).unwrap()];
                pool.instances.push(ReferenceInstance {
                    number: pool.last_number,
                    slots,
                    uses: 0,
                    last_used: pool.now,
                });
            }
            Step::InstanceGoes(nth) => {
                if let Some(place) = nth.checked_rem(pool.instances.len()) {
                    for key in pool.instances.remove(place).slots.into_iter().flatten() {
                        pool.claims.insert(key, ReferenceClaim::Lost);
                    }
                }
            }
        }
        pool.assign();
        pool
    }
}

/// The core with a group that answers at once.
struct RealPool {
    core: Core,
    now: Now,
    members: BTreeMap<InstanceId, GroupState>,
    last_ticket: u64,
}

impl RealPool {
    fn new(reference: &ReferencePool) -> Self {
        let settings = Settings {
            max_use_count: NonZeroU32::new(reference.max_use_count),
            // Only what is idle now is promised, so that what is granted can be said without knowing the future.
            policies: vec![Policy { preemptive_mode: Some(true), ..policy(0, 1_000_000) }],
            acquire_timeout: Duration::from_secs(1_000_000),
            update_interval: Duration::from_secs(1),
            update_interval_when_expecting: Duration::from_secs(1),
            unknown: UnknownInstances::Adopt,
            ..settings(reference.capacity, 1000, 0, 0)
        };
        let now = crate::time::now();
        let core = Core::new(settings, now);
        let mut pool = Self { core, now, members: BTreeMap::new(), last_ticket: 0 };
        pool.tell(Event::Started { group_max: None, restored: Restored::default() });
        pool
    }

    /// A second passes, and the group is listed.
    fn pass(&mut self) {
        self.now = self.now.after(Duration::from_secs(1));
        self.core.handle_timeout(self.now);
        self.obey();
    }

    fn tell(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.obey();
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn obey(&mut self) {
        while let Some(command) = self.core.next_command() {
            let answer = match command {
                Command::ListGroup => {
                    let instances = self.members.iter().map(|(id, state)| (id.clone(), *state)).collect();
                    Event::GroupListed(Listing { target: None, instances })
                }
                Command::Prepare { instance } => Event::InstancePrepared { instance, result: Ok(()) },
                Command::Check { instance } => Event::InstanceChecked { instance, result: Ok(()) },
                Command::Increase { creation, .. } => Event::IncreaseFinished {
                    creation,
                    succeeded: 0,
                    uncertain: 0,
                    failure: Some(Failure::other("this group is full")),
                },
                Command::Decrease { victims } => {
                    let asked: Vec<InstanceId> = victims.into_iter().map(|victim| victim.instance).collect();
                    self.members.retain(|id, _| !asked.contains(id));
                    Event::DecreaseFinished { accepted: asked.clone(), asked, failure: None }
                }
                Command::Record(_)
                | Command::Examine { .. }
                | Command::Disconnect { .. }
                | Command::GrantReservation { .. }
                | Command::RefuseReservation { .. }
                | Command::GrantAcquisition { .. }
                | Command::RejectAcquisition { .. }
                | Command::RevokeAcquisition { .. }
                | Command::Report(_)
                | Command::Stop { .. } => continue,
            };
            self.core.handle(answer, self.now);
        }
    }

    fn claims(&self) -> BTreeMap<u8, ReferenceClaim> {
        let number = |text: &str| text.rsplit_once('-').unwrap().1.parse::<u32>().unwrap();
        let claim = |claim: &Claim| match claim {
            Claim::Reserved => ReferenceClaim::Reserved,
            Claim::Pending(_) | Claim::Candidate { .. } => ReferenceClaim::Pending,
            Claim::Acquired(place) => ReferenceClaim::Acquired {
                instance: number(place.instance.as_str()),
                slot: usize::try_from(place.slot).unwrap(),
            },
            Claim::Lost => ReferenceClaim::Lost,
        };
        self.core.keys.iter().map(|(key, it)| (u8::try_from(number(key.as_str())).unwrap(), claim(it))).collect()
    }
}

fn key(number: u8) -> ReservationKey {
    ReservationKey::new(format!("key-{number}"))
}

fn instance(number: u32) -> InstanceId {
    InstanceId::new(format!("i-{number:04}"))
}

/// A reference and the core that has to agree with it.
struct Agreement;

impl StateMachineTest for Agreement {
    type SystemUnderTest = RealPool;
    type Reference = ReferencePool;

    fn init_test(reference: &ReferencePool) -> RealPool {
        RealPool::new(reference)
    }

    fn apply(mut pool: RealPool, after: &ReferencePool, step: Step) -> RealPool {
        if matches!(step, Step::InstanceComes) {
            pool.members.insert(instance(after.last_number), GroupState::Running);
        } else if matches!(step, Step::InstanceGoes(_)) {
            // Whoever the reference has no more was the one that went.
            for (id, state) in &mut pool.members {
                if !after.instances.iter().any(|it| instance(it.number) == *id) {
                    *state = GroupState::Deleted;
                }
            }
        }
        pool.pass();
        let ticket = pool.ticket();
        match step {
            Step::Reserve(number) => pool.tell(Event::ReservationRequested { ticket, key: key(number) }),
            Step::Unreserve(number) => pool.tell(Event::Unreserved { key: key(number) }),
            Step::Acquire(number) => pool.tell(Event::AcquisitionRequested { ticket, key: key(number) }),
            Step::Cancel(number) => pool.tell(Event::AcquisitionCancelled { key: key(number) }),
            Step::Release(number) => pool.tell(Event::Released { key: key(number), release: Release::Finished }),
            Step::InstanceComes | Step::InstanceGoes(_) => {}
        }
        pool
    }

    fn check_invariants(pool: &RealPool, reference: &ReferencePool) {
        assert_eq!(pool.claims(), reference.claims);
        assert_eq!(pool.core.verify(), Ok(()));
    }
}

prop_state_machine! {
    // A case that fails becomes a test of its own here, not a file beside the sources.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn claims_and_slots_are_what_the_obvious_model_says(sequential 1..120 => Agreement);
}
