//! The clock of a simulation, and who tells the core what.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::group::Group;
use super::ledger::Ledger;
use super::polling::{PollEnd, Polling};
use super::{Job, Outcome, Provider, Setup};
use crate::ids::{InstanceId, ReservationKey};
use crate::taskscaler::core::failure::Cause;
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::{Command, Core, CreationId, Decision, Event, Failure, Place, Release, Ticket, Victim};
use crate::time::Now;

/// How long a request to GitLab takes.
const REQUEST: Duration = Duration::from_millis(50);
/// How long it takes to see that an instance answers.
const CHECK: Duration = Duration::from_millis(10);
/// After this long without any job beginning or ending the rest will never be served.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Everything outside of the core.
#[derive(Debug)]
pub(super) struct World<'a> {
    now: Now,
    core: Core,
    group: Group,
    polling: Polling,
    ledger: Ledger,
    provider: Provider,
    long_poll: Option<Duration>,
    jobs: &'a [Job],
    /// Jobs that have arrived.
    arrived: usize,
    queue: VecDeque<usize>,
    start: Instant,
    /// Jobs that are at their end, however they got there.
    ended: usize,
    last_progress: Instant,
    claims: BTreeMap<ReservationKey, Claim>,
    tickets: BTreeMap<Ticket, ReservationKey>,
    /// Polls that GitLab holds.
    held: VecDeque<ReservationKey>,
    /// Somebody was refused capacity since capacity was last announced.
    refused: bool,
    future: BTreeMap<(Instant, u64), Due>,
    last_number: u64,
}

/// What a key of the manager stands for.
#[derive(Debug)]
enum Claim {
    Polling { asked: Instant, long: bool },
    Waiting { job: usize },
    Running { job: usize, on: InstanceId },
}

/// Something in the future.
#[derive(Debug)]
enum Due {
    Event(Box<Event>),
    /// GitLab has a poll before it.
    PollArrives(ReservationKey),
    /// GitLab holds a poll no longer.
    PollEnds(ReservationKey),
    JobEnds(ReservationKey),
}

impl<'a> World<'a> {
    pub(super) fn new(setup: Setup, jobs: &'a [Job]) -> Self {
        let Setup { fleet, polling, long_poll, provider, start, seed } = setup;
        let mut core = Core::new(fleet, start);
        core.handle(Event::Started { group_max: provider.max_size, restored: Restored::default() }, start);
        Self {
            now: start,
            core,
            group: Group::new(provider, seed),
            polling: Polling::new(polling, start.instant),
            ledger: Ledger::new(start),
            provider,
            long_poll,
            jobs,
            arrived: 0,
            queue: VecDeque::new(),
            start: start.instant,
            ended: 0,
            last_progress: start.instant,
            claims: BTreeMap::new(),
            tickets: BTreeMap::new(),
            held: VecDeque::new(),
            refused: false,
            future: BTreeMap::new(),
            last_number: 0,
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        while self.ended < self.jobs.len() {
            self.obey();
            self.poll();
            let Some(next) = self.next_time() else { break };
            if self.arrived == self.jobs.len() && next > self.last_progress + PATIENCE {
                break;
            }
            self.now = self.now.after(next.saturating_duration_since(self.now.instant));
            self.step();
        }
        self.ledger.close(self.now.instant)
    }

    /// The earliest of all that can happen.
    fn next_time(&self) -> Option<Instant> {
        let future = self.future.first_key_value().map(|((at, _), _)| *at);
        let timers = [future, self.next_arrival(), self.core.poll_timeout(), self.polling.poll_timeout()];
        timers.into_iter().flatten().min()
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.jobs.get(self.arrived).map(|job| self.start + job.arrival)
    }

    /// One thing that is due now.
    fn step(&mut self) {
        let now = self.now.instant;
        if self.next_arrival().is_some_and(|at| at <= now) {
            self.arrive();
        } else if let Some(entry) = self.future.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Due::Event(event) => self.core.handle(*event, self.now),
                Due::PollArrives(key) => self.answer(key),
                Due::PollEnds(key) => self.end_held(&key),
                Due::JobEnds(key) => self.end_job(&key),
            }
        } else if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(self.now);
        }
    }

    /// A job can be picked up; held polls are told so.
    fn arrive(&mut self) {
        self.queue.push_back(self.arrived);
        self.arrived += 1;
        self.last_progress = self.now.instant;
        self.ledger.arrived(self.now.instant);
        for key in std::mem::take(&mut self.held) {
            self.plan(REQUEST, Due::PollEnds(key));
        }
    }

    /// Begins what polls are due. Each reserves before it asks.
    fn poll(&mut self) {
        while let Some(long) = self.polling.begin(self.now.instant) {
            let key = ReservationKey::new(format!("job-{}", self.number()));
            self.claims.insert(key.clone(), Claim::Polling { asked: self.now.instant, long });
            let ticket = self.ticket(&key);
            self.tell(Event::ReservationRequested { ticket, key });
        }
    }

    /// GitLab answers a poll, or holds it.
    fn answer(&mut self, key: ReservationKey) {
        let Some(Claim::Polling { asked, long }) = self.claims.get(&key) else { return };
        let (asked, long) = (*asked, *long);
        if let Some(job) = self.queue.pop_front() {
            self.polling.end(PollEnd::Job, self.now.instant);
            self.claims.insert(key.clone(), Claim::Waiting { job });
            let ticket = self.ticket(&key);
            self.tell(Event::AcquisitionRequested { ticket, key });
        } else if let Some(longest) = self.long_poll.filter(|_| long) {
            self.held.push_back(key.clone());
            self.plan(longest.saturating_sub(self.now.instant.saturating_duration_since(asked)), Due::PollEnds(key));
        } else {
            self.end_held(&key);
        }
    }

    fn end_held(&mut self, key: &ReservationKey) {
        let Some(Claim::Polling { asked, long }) = self.claims.get(key) else { return };
        self.polling.end(PollEnd::NoJob { asked: *asked, long: *long }, self.now.instant);
        self.claims.remove(key);
        self.held.retain(|held| held != key);
        self.tell(Event::Unreserved { key: key.clone() });
    }

    fn begin_job(&mut self, key: &ReservationKey, place: &Place) {
        let Some(Claim::Waiting { job }) = self.claims.get(key) else { return };
        let Some((number, job)) = self.jobs.get(*job).map(|it| (*job, *it)) else { return };
        self.last_progress = self.now.instant;
        self.ledger.started(self.start + job.arrival, &place.instance, self.now.instant);
        self.claims.insert(key.clone(), Claim::Running { job: number, on: place.instance.clone() });
        self.plan(job.duration, Due::JobEnds(key.clone()));
    }

    fn end_job(&mut self, key: &ReservationKey) {
        let Some(Claim::Running { job, on }) = self.claims.remove(key) else { return };
        let Some(job) = self.jobs.get(job) else { return };
        self.ledger.finished(self.start + job.arrival, &on, self.now.instant);
        self.leave(Event::Released { key: key.clone(), release: Release::Finished });
    }

    /// There is no capacity to promise: GitLab is not asked.
    fn refuse(&mut self, ticket: Ticket) {
        let Some(key) = self.tickets.remove(&ticket) else { return };
        self.claims.remove(&key);
        self.refused = true;
        self.polling.end(PollEnd::NoCapacity, self.now.instant);
    }

    /// A job got no slot in time and fails.
    fn reject(&mut self, ticket: Ticket) {
        let Some(key) = self.tickets.remove(&ticket) else { return };
        if let Some(Claim::Waiting { .. }) = self.claims.remove(&key) {
            self.ledger.failed();
            self.leave(Event::Unreserved { key });
        }
    }

    fn leave(&mut self, event: Event) {
        self.ended += 1;
        self.last_progress = self.now.instant;
        self.polling.job_ended();
        self.tell(event);
    }

    fn tell(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.obey();
    }

    /// Carries out what the core wants.
    fn obey(&mut self) {
        while let Some(command) = self.core.next_command() {
            self.carry_out(command);
        }
        if self.refused && self.core.would_admit(self.now) {
            self.refused = false;
            self.polling.capacity_changed(self.now.instant);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::ListGroup => {
                let listing = self.group.list(self.now.instant);
                self.later(self.provider.call, Event::GroupListed(listing));
            }
            Command::Increase { creation, count, reason: _ } => self.increase(creation, count),
            Command::Decrease { victims } => self.decrease(&victims),
            Command::Prepare { instance } => {
                self.later(self.provider.ready, Event::InstancePrepared { instance, result: Ok(()) });
            }
            Command::Check { instance } => self.later(CHECK, Event::InstanceChecked { instance, result: Ok(()) }),
            Command::Examine { instance, slot, key: _ } => {
                self.later(CHECK, Event::SlotExamined { instance, slot, result: Ok(()) });
            }
            Command::GrantReservation { ticket, key } => {
                self.tickets.remove(&ticket);
                self.plan(REQUEST, Due::PollArrives(key));
            }
            Command::RefuseReservation { ticket, refusal: _ } => self.refuse(ticket),
            Command::GrantAcquisition { ticket, key, place, uses: _ } => {
                self.tickets.remove(&ticket);
                self.begin_job(&key, &place);
            }
            Command::RejectAcquisition { ticket, error: _ } => self.reject(ticket),
            Command::Report(Decision::Ready { instance, took: _ }) => {
                self.ledger.became_ready(&instance, self.now.instant);
            }
            Command::Record(_)
            | Command::Report(_)
            | Command::Disconnect { .. }
            | Command::RevokeAcquisition { .. }
            | Command::Stop { .. } => {}
        }
    }

    fn increase(&mut self, creation: CreationId, count: u32) {
        let coming = self.group.increase(count, self.now.instant);
        self.ledger.increased(count, &coming, self.now.instant);
        let succeeded = u32::try_from(coming.len()).unwrap_or(count);
        let shortage = || Failure::new(Cause::NoCapacity { what: None }, "the group has no more");
        let failure = (succeeded < count).then(shortage);
        self.later(self.provider.call, Event::IncreaseFinished { creation, succeeded, uncertain: 0, failure });
    }

    fn decrease(&mut self, victims: &[Victim]) {
        for victim in victims {
            self.ledger.decreased(&victim.instance, &victim.reason, self.now.instant);
        }
        let asked: Vec<InstanceId> = victims.iter().map(|victim| victim.instance.clone()).collect();
        self.group.decrease(asked.iter(), self.now.instant);
        self.later(self.provider.call, Event::DecreaseFinished { accepted: asked.clone(), asked, failure: None });
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.plan(after, Due::Event(Box::new(event)));
    }

    fn plan(&mut self, after: Duration, due: Due) {
        let number = self.number();
        self.future.insert((self.now.instant + after, number), due);
    }

    fn ticket(&mut self, key: &ReservationKey) -> Ticket {
        let ticket = Ticket(self.number());
        self.tickets.insert(ticket, key.clone());
        ticket
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
