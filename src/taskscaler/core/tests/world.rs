//! A simulated world around one core: a group of instances with its faults, GitLab's queue with its pollers, a
//! virtual clock that jumps to whatever comes next, and an auditor who knows the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::{Duration, Instant, SystemTime};

use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::failure::{Cause, Failure};
use crate::taskscaler::core::outbox::{Outbox, Step};
use crate::taskscaler::core::records::{Record, Restored};
use crate::taskscaler::core::settings::Settings;
use crate::taskscaler::core::{Command, Core, Decision, Event, GroupState, Listing, Place, Release, Ticket, Victim};
use crate::time::Now;

/// The wall clock at the beginning.
pub(super) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

/// Deterministic pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(pub u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.next() % of.len() as u64).unwrap()]
    }

    pub(super) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

/// Steps without any time passing; a burst has some hundred.
const MOST_STEPS_AT_ONCE: u32 = 5000;

/// Until the first failure is known more may be asked for, and after it the waits are short at first.
const MOST_INSTANCES_LOST_AT_FIRST: u64 = 15;

/// A call to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    List,
    Increase,
    Decrease,
}

/// Failures that only an operator can mend.
#[derive(Clone, Copy, Debug)]
enum Denial {
    Credentials,
    Settings,
}

impl Denial {
    fn failure(self) -> Failure {
        match self {
            Self::Credentials => Failure::new(Cause::Denied, "403"),
            Self::Settings => Failure::new(Cause::Misconfigured, "no such template"),
        }
    }
}

/// How the simulated group behaves when nothing is wrong.
#[derive(Clone, Debug)]
pub(super) struct GroupStyle {
    /// It says what size it works towards, and replaces what vanishes.
    pub keeps_size: bool,
    pub boot: (u64, u64),
    pub ready: (u64, u64),
    pub delete: (u64, u64),
    /// Milliseconds until a new instance is listed.
    pub listed: (u64, u64),
    /// Milliseconds until a call that changes the group is answered.
    pub answers: (u64, u64),
    /// Milliseconds until records are synced.
    pub syncs: (u64, u64),
    pub max: Option<u32>,
}

impl Default for GroupStyle {
    fn default() -> Self {
        Self {
            keeps_size: true,
            boot: (6000, 6000),
            ready: (100, 100),
            delete: (2000, 2000),
            listed: (0, 0),
            answers: (50, 1500),
            syncs: (1, 5),
            max: None,
        }
    }
}

/// What is wrong now; each until its time.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub api_down: Option<Instant>,
    pub lost_responses: Option<Instant>,
    pub partial: Option<Instant>,
    pub no_capacity: Option<Instant>,
    pub throttled: Option<Instant>,
    /// Changes of the group are not allowed, or its settings cannot work.
    pub denied: Option<Instant>,
    pub broken_image: Option<Instant>,
    pub deletes_ignored: Option<Instant>,
    pub duplicates: Option<Instant>,
    pub stuck_launches: u32,
}

/// An instance as it really is.
#[derive(Clone, Debug)]
pub(super) struct SimInstance {
    pub state: GroupState,
    /// A change of its state that is under way: what will be, and when.
    pub becomes: Option<(Instant, Option<GroupState>)>,
    pub listed_from: Instant,
    pub hidden_until: Option<Instant>,
    pub foreign: bool,
    /// Its preparation fails.
    pub broken: bool,
    /// It answers nothing any more; what ran on it has ended.
    pub dead: bool,
    /// Jobs whose scripts run on it.
    pub jobs: BTreeSet<ReservationKey>,
    /// Jobs whose scripts ever ran on it.
    pub started: u32,
    pub created_at: Instant,
    pub deleting_by_us: bool,
    /// Until then it is not deleted whoever asks.
    pub protected_until: Option<Instant>,
    /// The group may leave it out of a listing by mistake.
    pub may_hide: bool,
    /// It answers, and no job can be prepared on it.
    pub refuses_jobs: bool,
}

/// One job at GitLab.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub arrives: Instant,
    pub runs: Duration,
    pub state: JobState,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum JobState {
    Queued,
    /// A manager has it and waits for a slot.
    Taken,
    Running,
    Finished {
        at: Instant,
    },
    /// Its instance went away, or its manager, after the script began.
    Lost,
}

/// What a key of the manager stands for.
#[derive(Clone, Debug)]
enum Claim {
    Polling,
    Waiting { job: usize },
    Running { job: usize, place: Place },
}

/// Something in the future.
#[derive(Clone, Debug)]
enum Due {
    /// For the manager of this epoch.
    Event {
        epoch: u32,
        event: Event,
    },
    /// Records are synced, unless the manager dies before.
    Synced {
        epoch: u32,
        records: Vec<Record>,
    },
    Poll {
        epoch: u32,
    },
    PollEnds {
        epoch: u32,
        key: ReservationKey,
    },
    JobEnds {
        epoch: u32,
        key: ReservationKey,
    },
    Group,
    Injected(usize),
    Start {
        epoch: u32,
    },
}

/// What came out of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    pub created: u32,
    pub deleted: u32,
    pub finished: u32,
    pub lost: u32,
    pub crashes: u32,
    pub faults: u32,
    pub steps: u64,
    pub commands: u64,
    pub instance_time: Duration,
    pub most: u32,
    /// From arrival to the end of each job.
    pub waits: Vec<Duration>,
    pub removal_reasons: BTreeMap<&'static str, u32>,
    /// Jobs that could not be prepared on their instance.
    pub refused: u32,
}

impl Stats {
    /// Adds what happened in another world; waits and reasons are not summed up.
    pub(super) fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.finished += other.finished;
        self.lost += other.lost;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.steps += other.steps;
    }
}

/// The world.
pub(super) struct World {
    pub now: Now,
    pub start: Now,
    pub dice: Dice,
    pub settings: Settings,
    pub style: GroupStyle,
    pub faults: Faults,
    pub core: Core,
    outbox: Outbox,
    pub store: Restored,
    pub instances: BTreeMap<InstanceId, SimInstance>,
    pub jobs: Vec<Job>,
    pub stats: Stats,
    pub pollers: u32,
    pub poll_every: Duration,
    pub long_poll: Duration,
    /// Crash before the command with this number is carried out, counted over the whole run.
    pub crash_at_command: Option<u64>,
    /// One command in so many finds the manager dead.
    pub crash_chance: Option<u64>,
    pub violation: Option<String>,
    pub log: Option<Vec<String>>,
    desired: u32,
    epoch: u32,
    claims: BTreeMap<ReservationKey, Claim>,
    /// Nobody waits for these any more, and their slot may be on its way.
    cancelled: BTreeSet<ReservationKey>,
    tickets: BTreeMap<Ticket, ReservationKey>,
    last_ticket: u64,
    last_key: u64,
    last_instance: u64,
    future: BTreeMap<(Instant, u64), Due>,
    last_due: u64,
    marked: BTreeSet<InstanceId>,
    explained_growth: u32,
    decreasing: BTreeSet<InstanceId>,
    injections: Vec<super::script::Injection>,
    /// The next tries of pollers that were refused.
    refused: std::collections::VecDeque<(Instant, u64)>,
    down_until: Option<Instant>,
    /// By call: when the provider wants the next one at the earliest.
    left_alone_until: BTreeMap<Call, Instant>,
    max_ever: u32,
    /// When instances vanished that the group replaced by itself.
    vanished: Vec<Instant>,
    claim_lost_until: Option<Instant>,
    /// Since when no new instance has become ready, and how many were created since.
    failing: Option<(Instant, u32)>,
    manager_started: Instant,
    last_step: Option<Instant>,
    standing: u32,
}

impl World {
    pub(super) fn new(settings: Settings, style: GroupStyle, seed: u64) -> Self {
        let now = crate::time::now();
        // A fixed date, so that policies and records are the same in each run.
        let now = Now { utc: start(), ..now };
        let core = Core::new(settings.clone(), now);
        let mut world = Self {
            now,
            start: now,
            dice: Dice(seed),
            vanished: Vec::new(),
            max_ever: settings.max_instances.map_or(u32::MAX, NonZeroU32::get),
            claim_lost_until: None,
            settings,
            style,
            faults: Faults::default(),
            core,
            outbox: Outbox::default(),
            store: Restored::default(),
            instances: BTreeMap::new(),
            jobs: Vec::new(),
            stats: Stats::default(),
            pollers: 10,
            poll_every: Duration::from_secs(3),
            long_poll: Duration::from_secs(50),
            crash_at_command: None,
            crash_chance: None,
            violation: None,
            log: None,
            desired: 0,
            epoch: 0,
            claims: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            tickets: BTreeMap::new(),
            last_ticket: 0,
            last_key: 0,
            last_instance: 0,
            future: BTreeMap::new(),
            last_due: 0,
            marked: BTreeSet::new(),
            explained_growth: 0,
            decreasing: BTreeSet::new(),
            injections: Vec::new(),
            refused: std::collections::VecDeque::new(),
            down_until: None,
            left_alone_until: BTreeMap::new(),
            failing: None,
            manager_started: now.instant,
            last_step: None,
            standing: 0,
        };
        world.plan(Duration::ZERO, Due::Start { epoch: 0 });
        world
    }

    /// A job arrives at GitLab.
    pub(super) fn job(&mut self, after: Duration, runs: Duration) {
        let arrives = self.now.instant + after;
        self.jobs.push(Job { arrives, runs, state: JobState::Queued });
        // A held poll is answered when a job arrives.
        self.plan(after, Due::Group);
    }

    /// Members of the group that are not ours.
    pub(super) fn add_foreign(&mut self, count: u32) {
        for _ in 0..count {
            let id = self.launch(GroupState::Running, None);
            let instance = self.instances.get_mut(&id).unwrap();
            instance.foreign = true;
            instance.listed_from = self.now.instant;
        }
        self.desired += count;
    }

    /// An instance that somebody left behind.
    pub(super) fn add_running(&mut self) -> InstanceId {
        self.desired += 1;
        let id = self.launch(GroupState::Running, None);
        self.instances.get_mut(&id).unwrap().listed_from = self.now.instant;
        id
    }

    pub(super) fn inject(&mut self, script: &[(Duration, super::script::Injection)]) {
        for (after, injection) in script {
            self.injections.push(injection.clone());
            self.plan(*after, Due::Injected(self.injections.len() - 1));
        }
    }

    /// Lets time pass until then, or until something is wrong.
    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while self.violation.is_none() && self.step(end) {}
    }

    /// Runs until then and insists that nothing was wrong.
    pub(super) fn run_well(&mut self, duration: Duration) {
        self.run_for(duration);
        assert_eq!(self.violation, None, "after {:?}", self.now.instant - self.start.instant);
    }

    /// Jobs that are not at their end.
    pub(super) fn unfinished(&self) -> usize {
        self.jobs.iter().filter(|job| !matches!(job.state, JobState::Finished { .. } | JobState::Lost)).count()
    }

    /// What the manager holds for a job, for messages.
    pub(super) fn claim_of(&self, number: usize) -> String {
        let of_job = |claim: &&Claim| match claim {
            Claim::Polling => false,
            Claim::Waiting { job } | Claim::Running { job, .. } => *job == number,
        };
        format!("{:?}", self.claims.iter().find(|(_, claim)| of_job(claim)))
    }

    pub(super) fn seconds(&self) -> f64 {
        self.now.instant.duration_since(self.start.instant).as_secs_f64()
    }

    /// Instances of ours that really exist.
    pub(super) fn owned(&self) -> u32 {
        u32::try_from(self.instances.values().filter(|it| !it.foreign).count()).unwrap()
    }

    /// Instances that are not ours.
    pub(super) fn foreign(&self) -> u32 {
        u32::try_from(self.instances.values().filter(|it| it.foreign).count()).unwrap()
    }

    pub(super) fn serving(&self) -> u32 {
        let tally = self.core.snapshot(self.now).instances;
        tally.requested + tally.creating + tally.preparing + tally.ready
    }

    /// Delivers an event, as a caller of the handle would cause it.
    pub(super) fn tell(&mut self, event: Event) {
        if self.down_until.is_some() {
            return;
        }
        self.note(|| format!("event {event:?}"));
        self.core.handle(event, self.now);
        self.obey();
    }

    pub(super) fn ticket(&mut self, key: &ReservationKey) -> Ticket {
        self.last_ticket += 1;
        self.tickets.insert(Ticket(self.last_ticket), key.clone());
        Ticket(self.last_ticket)
    }

    pub(super) fn violate(&mut self, what: String) {
        let at = self.seconds();
        self.violation.get_or_insert_with(|| format!("at {at:.3} s: {what}"));
    }

    /// The manager dies now: what it knew is gone, what was kept is not.
    pub(super) fn crash(&mut self, down: Duration) {
        self.stats.crashes += 1;
        self.note(|| "crash".to_owned());
        self.epoch += 1;
        self.tickets.clear();
        self.decreasing.clear();
        for (_, claim) in std::mem::take(&mut self.claims) {
            match claim {
                Claim::Polling => {}
                // GitLab gives a job that nobody began to somebody else.
                Claim::Waiting { job } => self.jobs[job].state = JobState::Queued,
                Claim::Running { job, .. } => {
                    self.jobs[job].state = JobState::Lost;
                    self.stats.lost += 1;
                }
            }
        }
        self.core = Core::new(self.settings.clone(), self.now);
        self.outbox = Outbox::default();
        self.down_until = Some(self.now.instant + down);
        self.plan(down, Due::Start { epoch: self.epoch });
    }

    /// The n-th instance of ours that runs, if there are any.
    pub(super) fn nth_running(&self, nth: u32) -> Option<InstanceId> {
        self.nth(nth, |it| !it.foreign)
    }

    /// The n-th instance that runs and may be hidden, whoever it belongs to.
    pub(super) fn nth_to_hide(&self, nth: u32) -> Option<InstanceId> {
        self.nth(nth, |it| it.may_hide)
    }

    fn nth(&self, nth: u32, is_meant: impl Fn(&SimInstance) -> bool) -> Option<InstanceId> {
        let meant = |it: &SimInstance| is_meant(it) && it.state == GroupState::Running && !it.deleting_by_us;
        let running: Vec<&InstanceId> = self.instances.iter().filter(|(_, it)| meant(it)).map(|(id, _)| id).collect();
        let place = usize::try_from(nth).unwrap().checked_rem(running.len())?;
        Some(running[place].clone())
    }

    /// An instance is gone, and nobody asked for that.
    pub(super) fn vanish(&mut self, id: &InstanceId) {
        self.end_instance(id);
        if self.style.keeps_size {
            self.vanished.push(self.now.instant);
        } else {
            self.desired = self.desired.saturating_sub(1);
        }
        self.heal();
    }

    /// Somebody else deletes an instance.
    pub(super) fn take_away(&mut self, id: &InstanceId) {
        let until = self.now.instant + Duration::from_secs(30);
        if let Some(instance) = self.instances.get_mut(id) {
            instance.state = GroupState::Deleting;
            instance.becomes = Some((until, None));
        }
        if !self.style.keeps_size {
            self.desired = self.desired.saturating_sub(1);
        }
        self.plan(Duration::from_secs(30), Due::Group);
    }

    /// The claim on the group cannot be renewed for a while. Nothing is asked of the group meanwhile.
    pub(super) fn lose_claim(&mut self, lasts: Duration) {
        self.claim_lost_until = Some(self.now.instant + lasts);
        self.tell(Event::LeaseChanged { held: false });
        let epoch = self.epoch;
        self.plan(lasts, Due::Event { epoch, event: Event::LeaseChanged { held: true } });
    }

    /// The operator changes the file.
    pub(super) fn reload(&mut self, max_instances: u32, idle_count: u32) {
        self.settings.max_instances = NonZeroU32::new(max_instances);
        self.settings.policies[0].target.idle_count = idle_count;
        // What was right under the limits of before is no violation now.
        self.max_ever = self.max_ever.max(max_instances);
        if self.down_until.is_some() {
            // The next manager reads the file as it is now.
            self.core = Core::new(self.settings.clone(), self.now);
        }
        self.tell(Event::SettingsChanged(Box::new(self.settings.clone())));
    }

    pub(super) fn limit_group(&mut self, max: u32) {
        self.style.max = Some(max);
        if self.down_until.is_none() {
            self.tell(Event::GroupLookedUp { group_max: self.style.max });
        }
    }

    pub(super) fn schedule_group(&mut self, after: Duration) {
        self.plan(after, Due::Group);
    }

    fn plan(&mut self, after: Duration, due: Due) -> (Instant, u64) {
        self.last_due += 1;
        let at = (self.now.instant + after, self.last_due);
        self.future.insert(at, due);
        at
    }

    /// The handle tells one poller that was refused when another try is worth it.
    fn announce_capacity(&mut self) {
        if self.refused.is_empty() || self.down_until.is_some() || !self.core.would_admit(self.now) {
            return;
        }
        while let Some(at) = self.refused.pop_front() {
            if let Some(due) = self.future.remove(&at) {
                self.plan(Duration::from_millis(1), due);
                return;
            }
        }
    }

    fn later(&mut self, low: u64, high: u64, event: Event) {
        let after = self.dice.millis(low, high);
        let epoch = self.epoch;
        self.plan(after, Due::Event { epoch, event });
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        let at = self.seconds();
        if let Some(log) = &mut self.log {
            log.push(format!("{at:>10.3} {}", line()));
        }
    }

    /// Jumps to the next thing; false where there is none before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timeout = self.core.poll_timeout().filter(|_| self.down_until.is_none());
        let next = self.future.first_key_value().map(|((at, _), _)| *at);
        let at = [timeout, next].into_iter().flatten().min().unwrap_or(end);
        let passed = at.min(end).saturating_duration_since(self.now.instant);
        self.stats.instance_time += passed * self.owned();
        self.now = self.now.after(passed);
        if at > end {
            return false;
        }
        self.stats.steps += 1;
        if next.is_some_and(|next| next <= self.now.instant) {
            let (_, due) = self.future.pop_first().unwrap();
            self.happen(due);
        } else {
            self.core.handle_timeout(self.now);
            self.obey();
        }
        self.announce_capacity();
        self.audit();
        true
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Start { epoch } => self.start_manager(epoch),
            Due::Event { epoch, event } => {
                if epoch == self.epoch {
                    if let Event::DecreaseFinished { asked, .. } = &event {
                        for id in asked {
                            self.decreasing.remove(id);
                        }
                    }
                    self.note_wish(&event);
                    self.tell(event);
                }
            }
            Due::Synced { epoch, records } => {
                if epoch == self.epoch {
                    self.sync(&records);
                }
            }
            Due::Poll { epoch } => {
                if epoch == self.epoch {
                    self.last_key += 1;
                    let key = ReservationKey::new(format!("key-{}", self.last_key));
                    let ticket = self.ticket(&key);
                    self.tell(Event::ReservationRequested { ticket, key });
                }
            }
            Due::PollEnds { epoch, key } => {
                if epoch == self.epoch {
                    self.end_poll(&key);
                }
            }
            Due::JobEnds { epoch, key } => {
                if epoch == self.epoch {
                    self.end_job(&key);
                }
            }
            Due::Group => self.progress(),
            Due::Injected(which) => {
                self.stats.faults += 1;
                let injection = self.injections[which].clone();
                self.note(|| format!("inject {injection:?}"));
                super::script::apply(self, &injection);
            }
        }
    }

    /// A wish counts from the moment at which the core knows it, and for one manager.
    fn note_wish(&mut self, event: &Event) {
        let (call, failure) = if let Event::ListingFailed { failure } = event {
            (Call::List, Some(failure))
        } else if let Event::IncreaseFinished { failure, .. } = event {
            (Call::Increase, failure.as_ref())
        } else if let Event::DecreaseFinished { failure, .. } = event {
            (Call::Decrease, failure.as_ref())
        } else {
            return;
        };
        if let Some(Cause::Throttled { retry_after: Some(wait) }) = failure.map(|failure| &failure.cause) {
            self.left_alone_until.insert(call, self.now.instant + *wait);
        }
    }

    fn start_manager(&mut self, epoch: u32) {
        if epoch != self.epoch {
            return;
        }
        self.down_until = None;
        self.left_alone_until.clear();
        self.failing = None;
        self.manager_started = self.now.instant;
        self.marked = self.store.instances.iter().filter(|it| it.removal.is_some()).map(|it| it.id.clone()).collect();
        let event = Event::Started { group_max: self.style.max, restored: self.store.clone() };
        self.tell(event);
        for poller in 0..self.pollers {
            let epoch = self.epoch;
            self.plan(Duration::from_millis(u64::from(poller)), Due::Poll { epoch });
        }
    }

    /// Carries out what the core wants as the actor does: what must be kept first, and each as the last thing that
    /// the manager may ever do.
    fn obey(&mut self) {
        loop {
            while let Some(command) = self.core.next_command() {
                self.outbox.put(command);
            }
            match self.outbox.next_step() {
                None => break,
                Some(Step::Act(acts)) => {
                    if self.act(acts) {
                        return;
                    }
                }
                Some(Step::Keep(records)) => {
                    let (low, high) = self.style.syncs;
                    let (epoch, after) = (self.epoch, self.dice.millis(low, high));
                    self.plan(after, Due::Synced { epoch, records });
                }
            }
        }
        if let Err(contradiction) = self.core.verify() {
            self.violate(contradiction);
        }
    }

    /// Records reach the disk, all or none, and what waited for them is done.
    fn sync(&mut self, records: &[Record]) {
        if self.dies() {
            return;
        }
        for record in records {
            self.note(|| format!("  keeps {record:?}"));
            self.store.apply(record);
        }
        let acts = self.outbox.kept();
        if !self.act(acts) {
            self.obey();
        }
    }

    /// Whether the manager died over it.
    fn act(&mut self, acts: Vec<Command>) -> bool {
        for command in acts {
            if self.dies() {
                return true;
            }
            self.note(|| format!("  does {command:?}"));
            self.carry_out(command);
        }
        false
    }

    /// Whether the manager dies at this point.
    fn dies(&mut self) -> bool {
        self.stats.commands += 1;
        let dies = self.crash_at_command == Some(self.stats.commands)
            || self.crash_chance.is_some_and(|chance| self.dice.one_in(chance));
        if dies {
            let down = self.dice.millis(100, 20_000);
            self.crash(down);
        }
        dies
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Record(record) => self.violate(format!("{record:?} is done and not kept")),
            Command::ListGroup => self.list(),
            Command::Increase { creation, count, .. } => self.increase(creation, count),
            Command::Decrease { victims } => self.decrease(&victims),
            Command::Prepare { instance } => self.prepare(instance),
            Command::Check { instance } => {
                let alive = self.instances.get(&instance).is_some_and(|it| !it.dead);
                let result = if alive { Ok(()) } else { Err("no answer".to_owned()) };
                let (low, high) = if alive { (1, 50) } else { (500, 5000) };
                self.later(low, high, Event::InstanceChecked { instance, result });
            }
            Command::Examine { instance, slot, key } => {
                let alive = self.instances.get(&instance).is_some_and(|it| !it.dead);
                if let Some(it) = self.instances.get_mut(&instance).filter(|_| alive) {
                    it.jobs.remove(&key);
                }
                let result = if alive { Ok(()) } else { Err("no answer".to_owned()) };
                self.later(10, 2000, Event::SlotExamined { instance, slot, result });
            }
            Command::Disconnect { .. } => {}
            Command::GrantReservation { ticket, key } => {
                if self.tickets.remove(&ticket).is_some() {
                    self.claims.insert(key.clone(), Claim::Polling);
                    let epoch = self.epoch;
                    let after = if self.queued().is_some() { self.dice.millis(20, 200) } else { self.long_poll };
                    self.plan(after, Due::PollEnds { epoch, key });
                }
            }
            Command::RefuseReservation { ticket, .. } => {
                self.tickets.remove(&ticket);
                let (epoch, every) = (self.epoch, self.poll_every);
                let at = self.plan(every, Due::Poll { epoch });
                self.refused.push_back(at);
            }
            Command::GrantAcquisition { ticket, key, place, uses } => self.begin_job(ticket, &key, place, uses),
            Command::RejectAcquisition { ticket, error } => self.rejected(ticket, &error),
            Command::RevokeAcquisition { key, .. } => self.revoked(&key),
            Command::Report(decision) => self.hear(&decision),
            Command::Stop { .. } => {}
        }
    }

    fn hear(&mut self, decision: &Decision) {
        if let Decision::MarkedForRemoval { instance, reason } = decision {
            self.marked.insert(instance.clone());
            *self.stats.removal_reasons.entry(reason.as_str()).or_default() += 1;
        } else if let Decision::Increasing { reason } = decision {
            self.explained_growth = reason.count;
        }
    }

    fn queued(&self) -> Option<usize> {
        self.jobs.iter().position(|job| job.state == JobState::Queued && job.arrives <= self.now.instant)
    }

    /// A poll is answered: with a job where there is one.
    fn end_poll(&mut self, key: &ReservationKey) {
        if !matches!(self.claims.get(key), Some(Claim::Polling)) {
            return;
        }
        let epoch = self.epoch;
        match self.queued() {
            Some(job) => {
                self.jobs[job].state = JobState::Taken;
                self.claims.insert(key.clone(), Claim::Waiting { job });
                let ticket = self.ticket(key);
                self.tell(Event::AcquisitionRequested { ticket, key: key.clone() });
                // After a job the runner asks again at once.
                self.plan(Duration::from_millis(1), Due::Poll { epoch });
            }
            None => {
                self.claims.remove(key);
                self.tell(Event::Unreserved { key: key.clone() });
                let every = self.poll_every;
                self.plan(every, Due::Poll { epoch });
            }
        }
    }

    fn begin_job(&mut self, ticket: Ticket, key: &ReservationKey, place: Place, uses: u32) {
        self.tickets.remove(&ticket);
        if self.cancelled.contains(key) {
            return self.tell(Event::Released { key: key.clone(), release: Release::Unused });
        }
        let Some(Claim::Waiting { job }) = self.claims.get(key).cloned() else {
            return self.violate(format!("{key} was granted a slot and does not wait for one"));
        };
        let capacity = self.settings.slots_per_instance().get();
        let max_uses = self.settings.max_use_count.map_or(u32::MAX, NonZeroU32::get);
        let recorded = self.store.instances.iter().find(|it| it.id == place.instance);
        if recorded.and_then(|it| it.slots.get(&place.slot)) != Some(key) {
            self.violate(format!("{key} was granted slot {} of {} before that was kept", place.slot, place.instance));
        }
        self.claims.insert(key.clone(), Claim::Running { job, place: place.clone() });
        self.jobs[job].state = JobState::Running;
        let epoch = self.epoch;
        let Some(instance) = self.instances.get_mut(&place.instance).filter(|it| !it.dead) else {
            // It dies before its script begins, and the job moves on.
            self.plan(Duration::from_secs(1), Due::JobEnds { epoch, key: key.clone() });
            return;
        };
        if instance.refuses_jobs {
            return self.refuse_job(job, key);
        }
        instance.jobs.insert(key.clone());
        instance.started += 1;
        let (jobs, started) = (u32::try_from(instance.jobs.len()).unwrap(), instance.started);
        if jobs > capacity {
            self.violate(format!("G4: {} runs {jobs} jobs in {capacity} slots", place.instance));
        }
        if started > max_uses || uses > max_uses {
            self.violate(format!("G4: {} has run {started} jobs (use {uses}) of {max_uses}", place.instance));
        }
        let runs = self.jobs[job].runs;
        self.plan(runs, Due::JobEnds { epoch, key: key.clone() });
    }

    /// The job could not be prepared there: it gives the slot back and asks for another.
    fn refuse_job(&mut self, job: usize, key: &ReservationKey) {
        self.stats.refused += 1;
        self.jobs[job].state = JobState::Taken;
        self.claims.insert(key.clone(), Claim::Waiting { job });
        let (epoch, ticket) = (self.epoch, self.ticket(key));
        let after = Duration::from_millis(500);
        let event = Event::Released { key: key.clone(), release: Release::Broken };
        self.plan(after, Due::Event { epoch, event });
        self.plan(after, Due::Event { epoch, event: Event::AcquisitionRequested { ticket, key: key.clone() } });
    }

    fn end_job(&mut self, key: &ReservationKey) {
        let Some(Claim::Running { job, place }) = self.claims.remove(key) else { return };
        let instance = self.instances.get_mut(&place.instance);
        let ran = instance.is_some_and(|it| it.jobs.remove(key));
        if ran {
            self.jobs[job].state = JobState::Finished { at: self.now.instant };
            self.stats.finished += 1;
            self.stats.waits.push(self.now.instant - self.jobs[job].arrives);
            self.tell(Event::Released { key: key.clone(), release: Release::Finished });
        } else {
            // The instance went under it, or could not prepare it.
            self.jobs[job].state = JobState::Lost;
            self.stats.lost += 1;
            self.tell(Event::Released { key: key.clone(), release: Release::Broken });
        }
    }

    fn rejected(&mut self, ticket: Ticket, error: &crate::taskscaler::core::reasons::AcquireError) {
        let Some(key) = self.tickets.remove(&ticket) else { return };
        if let Some(Claim::Waiting { job }) = self.claims.get(&key).cloned() {
            self.note(|| format!("{key} got no slot: {error}"));
            self.jobs[job].state = JobState::Queued;
            self.claims.remove(&key);
            let epoch = self.epoch;
            self.plan(Duration::ZERO, Due::Event { epoch, event: Event::Released { key, release: Release::Unused } });
        }
    }

    pub(super) fn cancel_waiting(&mut self) {
        let waits = |claim: &Claim| matches!(claim, Claim::Waiting { .. });
        let Some(key) = self.claims.iter().find(|(_, claim)| waits(claim)).map(|(key, _)| key.clone()) else { return };
        if let Some(Claim::Waiting { job }) = self.claims.remove(&key) {
            self.jobs[job].state = JobState::Lost;
            self.cancelled.insert(key.clone());
            // Whoever waited has gone, and gives back what was reserved.
            self.tell(Event::AcquisitionCancelled { key: key.clone() });
            self.tell(Event::Unreserved { key });
        }
    }

    fn revoked(&mut self, key: &ReservationKey) {
        if let Some(Claim::Running { job, .. }) = self.claims.remove(key) {
            if self.jobs[job].state == JobState::Running {
                self.jobs[job].state = JobState::Lost;
                self.stats.lost += 1;
            }
            let event = Event::Released { key: key.clone(), release: Release::Finished };
            self.later(10, 1000, event);
        }
    }

    fn is(&self, fault: Option<Instant>) -> bool {
        fault.is_some_and(|until| self.now.instant < until)
    }

    /// Why the group refuses a call now. A provider that asks to be left alone notices who does not.
    fn refusal(&mut self, call: Call) -> Option<Failure> {
        let now = self.now.instant;
        if self.left_alone_until.get(&call).is_some_and(|until| now < *until) {
            self.violate(format!("{call:?} is called before the time that the provider asked for"));
        }
        // Without the claim the actor sends nothing, also where that was decided before.
        if call != Call::List && self.is(self.claim_lost_until) {
            return Some(Failure::other("no claim"));
        }
        if self.is(self.faults.api_down) {
            return Some(Failure::other("503"));
        }
        if self.is(self.faults.throttled) {
            let retry_after = self.dice.pick(&[None, Some(Duration::from_secs(5)), Some(Duration::from_secs(90))]);
            return Some(Failure::new(Cause::Throttled { retry_after }, "429"));
        }
        if call != Call::List && self.is(self.faults.denied) {
            let cause = self.dice.pick(&[Denial::Credentials, Denial::Settings]);
            return Some(cause.failure());
        }
        None
    }

    fn list(&mut self) {
        if let Some(failure) = self.refusal(Call::List) {
            return self.later(100, 3000, Event::ListingFailed { failure });
        }
        let now = self.now.instant;
        let visible = |it: &&SimInstance| it.listed_from <= now && it.hidden_until.is_none_or(|until| until <= now);
        let mut instances: Vec<(InstanceId, GroupState)> =
            self.instances.iter().filter(|(_, it)| visible(it)).map(|(id, it)| (id.clone(), it.state)).collect();
        if self.is(self.faults.duplicates) {
            instances.extend(instances.clone());
        }
        let target = self.style.keeps_size.then_some(self.desired);
        self.later(10, 300, Event::GroupListed(Listing { target, instances }));
    }

    fn increase(&mut self, creation: crate::taskscaler::core::CreationId, count: u32) {
        if std::mem::take(&mut self.explained_growth) != count {
            self.violate("I13: instances are asked for without a reason".to_owned());
        }
        if !self.store.creations.iter().any(|it| it.id == creation) {
            self.violate("instances are asked for before that was kept".to_owned());
        }
        let finished =
            |succeeded, uncertain, failure| Event::IncreaseFinished { creation, succeeded, uncertain, failure };
        if let Some(failure) = self.refusal(Call::Increase) {
            return self.later(100, 3000, finished(0, 0, Some(failure)));
        }
        let shortage = |what: &str| Failure::new(Cause::NoCapacity { what: Some(what.to_owned()) }, what);
        if self.is(self.faults.no_capacity) && !self.style.keeps_size {
            return self.later(100, 3000, finished(0, 0, Some(shortage("zone a"))));
        }
        let partial = self.is(self.faults.partial);
        let done = if partial { count / 2 } else { count };
        self.audit_growth(done);
        self.desired += done;
        self.heal();
        if !self.style.keeps_size {
            for _ in 0..done {
                self.launch_new();
            }
        }
        if self.is(self.faults.lost_responses) {
            let failure = Failure::new(Cause::InDoubt, "connection reset");
            return self.later(1000, 20_000, finished(0, count, Some(failure)));
        }
        let (low, high) = self.style.answers;
        self.later(low, high, finished(done, 0, partial.then(|| shortage("quota"))));
    }

    /// G9: what breaks at its start costs a bounded number of instances.
    fn audit_growth(&mut self, count: u32) {
        let Some((since, created)) = self.failing.as_mut().filter(|(since, _)| *since <= self.now.instant) else {
            return;
        };
        *created += count;
        let seconds = self.now.instant.saturating_duration_since(*since).as_secs();
        let allowed = MOST_INSTANCES_LOST_AT_FIRST + seconds / 100;
        if u64::from(*created) > allowed {
            let created = *created;
            self.violate(format!("G9: {created} instances created in {seconds} s of failures"));
        }
    }

    fn decrease(&mut self, victims: &[Victim]) {
        let asked: Vec<InstanceId> = victims.iter().map(|victim| victim.instance.clone()).collect();
        for id in &asked {
            if !self.marked.contains(id) {
                self.violate(format!("I13: {id} is deleted without a reason"));
            }
            if !self.decreasing.insert(id.clone()) {
                self.violate(format!("I8: {id} is deleted twice at once"));
            }
            let Some(instance) = self.instances.get(id).cloned() else { continue };
            if instance.foreign {
                self.violate(format!("G8: {id} is not ours and is deleted"));
            }
            if !instance.jobs.is_empty() && !instance.dead {
                self.violate(format!("G5: {id} is deleted with {:?} running", instance.jobs));
            }
        }
        let finished = |accepted, failure| Event::DecreaseFinished { asked: asked.clone(), accepted, failure };
        if let Some(failure) = self.refusal(Call::Decrease) {
            return self.later(100, 3000, finished(Vec::new(), Some(failure)));
        }
        let done = if self.is(self.faults.partial) { asked.len().div_ceil(2) } else { asked.len() };
        let accepted: Vec<InstanceId> = asked[..done].to_vec();
        for id in &accepted {
            // An instance that the group agreed to delete and lists no more is gone for all that anybody can tell.
            if let Some(instance) = self.instances.get_mut(id) {
                instance.may_hide = false;
                instance.hidden_until = None;
            }
            if !self.is(self.faults.deletes_ignored) {
                self.begin_deletion(id);
            }
        }
        if self.is(self.faults.lost_responses) {
            let failure = Failure::new(Cause::InDoubt, "connection reset");
            return self.later(1000, 20_000, finished(Vec::new(), Some(failure)));
        }
        let throttled = || Failure::new(Cause::Throttled { retry_after: None }, "throttled");
        let failure = (done < asked.len()).then(throttled);
        let (low, high) = self.style.answers;
        self.later(low, high, finished(accepted, failure));
    }

    fn begin_deletion(&mut self, id: &InstanceId) {
        let takes = self.dice.millis(self.style.delete.0, self.style.delete.1);
        let until = self.now.instant + takes;
        let now = self.now.instant;
        let goes = |it: &&mut SimInstance| !it.deleting_by_us && it.protected_until.is_none_or(|until| until <= now);
        let Some(instance) = self.instances.get_mut(id).filter(goes) else { return };
        // What somebody else deletes already has left the size of the group, or is being replaced.
        if instance.state == GroupState::Deleting {
            return;
        }
        self.desired = self.desired.saturating_sub(1);
        instance.state = GroupState::Deleting;
        instance.deleting_by_us = true;
        instance.becomes = Some((until, None));
        self.plan(takes, Due::Group);
    }

    fn prepare(&mut self, id: InstanceId) {
        let broken = self.instances.get(&id).is_none_or(|it| it.broken || it.dead);
        let fresh = self.instances.get(&id).is_some_and(|it| it.created_at > self.manager_started);
        if !broken {
            self.failing = None;
        } else if fresh && self.failing.is_none() {
            self.failing = Some((self.now.instant + self.style_ready_max(), 0));
        }
        let result = if broken { Err("ready command failed".to_owned()) } else { Ok(()) };
        let (low, high) = self.style.ready;
        self.later(low, high, Event::InstancePrepared { instance: id, result });
    }

    fn style_ready_max(&self) -> Duration {
        Duration::from_millis(self.style.ready.1)
    }

    /// What the group does on its own by now.
    fn progress(&mut self) {
        let now = self.now.instant;
        let due = |it: &SimInstance| it.becomes.filter(|(at, _)| *at <= now).map(|(_, state)| state);
        let changes: Vec<(InstanceId, Option<GroupState>)> =
            self.instances.iter().filter_map(|(id, it)| due(it).map(|state| (id.clone(), state))).collect();
        for (id, state) in changes {
            match state {
                Some(state) => {
                    let instance = self.instances.get_mut(&id).unwrap();
                    instance.state = state;
                    instance.becomes = None;
                }
                None => self.end_instance(&id),
            }
        }
        self.heal();
        // Held polls are answered as soon as there is a job.
        let polling: Vec<ReservationKey> = self
            .claims
            .iter()
            .filter(|(_, claim)| matches!(claim, Claim::Polling))
            .map(|(key, _)| key.clone())
            .collect();
        let waiting = self.jobs.iter().filter(|job| job.state == JobState::Queued && job.arrives <= now).count();
        for key in polling.into_iter().take(waiting) {
            let epoch = self.epoch;
            let after = self.dice.millis(5, 100);
            self.plan(after, Due::PollEnds { epoch, key });
        }
    }

    /// A group that keeps its size launches what is missing, where it can.
    fn heal(&mut self) {
        if !self.style.keeps_size || self.is(self.faults.no_capacity) {
            return;
        }
        let there = |it: &&SimInstance| it.state != GroupState::Deleting;
        let have = u32::try_from(self.instances.values().filter(there).count()).unwrap();
        for _ in have..self.desired {
            self.launch_new();
        }
    }

    fn launch_new(&mut self) {
        self.stats.created += 1;
        let stuck = self.faults.stuck_launches > 0;
        self.faults.stuck_launches = self.faults.stuck_launches.saturating_sub(1);
        let boot = self.dice.millis(self.style.boot.0, self.style.boot.1);
        let running = self.now.instant + boot;
        let becomes = (!stuck).then_some((running, Some(GroupState::Running)));
        self.launch(GroupState::Creating, becomes);
        self.plan(boot, Due::Group);
        // What others delete, a group that keeps its size replaces at once; that is nobody's creation.
        let taken = |it: &&SimInstance| it.state == GroupState::Deleting && !it.deleting_by_us && !it.foreign;
        let taken = u32::try_from(self.instances.values().filter(taken).count()).unwrap();
        // Nor is what replaces an instance that vanished, until a listing has shown the one and the other for sure: it
        // may pass for one that was asked for at the same time.
        let lately = |at: &&Instant| self.now.instant < **at + Duration::from_secs(60);
        let replaced = u32::try_from(self.vanished.iter().rev().take_while(lately).count()).unwrap();
        let owned = (self.owned() - taken).saturating_sub(replaced);
        self.stats.most = self.stats.most.max(owned);
        if owned > self.max_ever {
            self.violate(format!("I4: {owned} instances, and {} are allowed", self.max_ever));
        }
    }

    fn launch(&mut self, state: GroupState, becomes: Option<(Instant, Option<GroupState>)>) -> InstanceId {
        self.last_instance += 1;
        let id = InstanceId::new(format!("i-{:04}", self.last_instance));
        let lag = self.dice.millis(self.style.listed.0, self.style.listed.1);
        let instance = SimInstance {
            state,
            becomes,
            listed_from: self.now.instant + lag,
            hidden_until: None,
            foreign: false,
            broken: self.is(self.faults.broken_image),
            dead: false,
            jobs: BTreeSet::new(),
            started: 0,
            created_at: self.now.instant,
            deleting_by_us: false,
            protected_until: None,
            may_hide: true,
            refuses_jobs: false,
        };
        self.instances.insert(id.clone(), instance);
        id
    }

    fn end_instance(&mut self, id: &InstanceId) {
        if let Some(instance) = self.instances.remove(id) {
            let lived = self.now.instant.duration_since(instance.created_at);
            self.note(|| format!("{id} is gone after {lived:?}"));
            self.stats.deleted += 1;
            // Jobs on it notice in their own way: their connection ends.
            for key in instance.jobs {
                let epoch = self.epoch;
                let after = self.dice.millis(5000, 30_000);
                self.plan(after, Due::JobEnds { epoch, key });
            }
        }
    }

    fn audit(&mut self) {
        let stood = self.last_step == Some(self.now.instant);
        self.last_step = Some(self.now.instant);
        self.standing = if stood { self.standing + 1 } else { 0 };
        if self.standing > MOST_STEPS_AT_ONCE {
            self.violate("the core is busy without end".to_owned());
        }
        if self.now.instant.duration_since(self.start.instant) > Duration::from_secs(100 * 3600) {
            self.violate("the world runs for ever".to_owned());
        }
    }
}
