//! Decides how many instances there are, which job gets which slot, and when an instance goes.
//!
//! A pure state machine: it does no I/O, reads no clock, spawns nothing and keeps no channel. Whoever drives
//! it (the actor, or the simulator) calls [`Core::handle`] with what has happened and [`Core::handle_timeout`]
//! when [`Core::poll_timeout`] has come, and after either takes [`Core::next_command`] until there is none.
//! Equal inputs give equal commands.
//!
//! | file | what it knows |
//! |---|---|
//! | [`event`], [`command`], [`decision`] | what comes in, what goes out, what is told about it |
//! | [`failure`] | why a call to the group failed |
//! | [`outbox`] | what must be kept before what may be done |
//! | [`instance`], [`slots`], [`keys`] | the three state machines: an instance, its slots, a claim |
//! | `fleet`, `creations`, `tombstones` | all instances with their counts; those asked for and not yet listed; those gone |
//! | [`scaling`], [`policy`], [`reservation`] | the rules: how many, when, and what a poll may count on |
//! | `throttle`, `backoff`, `timers`, `notices` | how fast, how often after failures, when next, how often said |
//! | `claims`, `survey`, `upkeep`, `growth`, `closing` | the core's moves: jobs, listings, health, size, end |
//! | [`records`], [`reasons`], [`snapshot`] | what survives, why, and what can be seen |
//!
//! Every event, and every timeout, ends in the same pass ([`Core::reconcile`]): compare what should be with what
//! is known, and order the difference. A restart is no special case: what was kept is put back, and the first
//! listing and the same pass do the rest.
//!
//! What always holds is checked by `invariants` after each step of the simulator. The most important absences:
//! no instance with a job in a slot is ever in a [`Command::Decrease`], none that is not ours either, and nothing
//! is created or handed out before the [`Command::Record`] that remembers it.

mod backoff;
mod claims;
mod closing;
pub mod command;
mod creations;
pub mod decision;
pub mod event;
pub mod failure;
mod fleet;
mod growth;
pub mod instance;
mod invariants;
pub mod keys;
mod mutations;
mod notices;
pub mod outbox;
pub mod policy;
pub mod reasons;
pub mod records;
pub mod reservation;
pub mod scaling;
pub mod settings;
pub mod slots;
pub mod snapshot;
mod survey;
mod throttle;
mod timers;
mod tombstones;
mod upkeep;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub use command::{Command, Victim};
pub use creations::CreationId;
pub use decision::Decision;
pub use event::{Event, GroupState, Listing, Release, Ticket};
pub use failure::Failure;
pub use keys::Place;
pub use settings::Settings;

use crate::backoff::Backoff;
use crate::ids::InstanceId;
use crate::time::Now;

use backoff::Breaker;
use closing::Closing;
use creations::Creations;
use decision::Ring;
use fleet::Fleet;
use instance::Shape;
use keys::Keys;
use notices::Notices;
use policy::Schedule;
use reasons::CreationReason;
use records::{Record, Restored};
use snapshot::Totals;
use throttle::Throttle;
use timers::{Timer, Timers};
use tombstones::Tombstones;

/// The longest wait between listings while they fail.
const LISTING_CAP: Duration = Duration::from_secs(60);

/// The state of one runner's fleet.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    phase: Phase,
    /// The group's own limit.
    group_max: Option<u32>,
    writer: Writer,
    schedule: Schedule,
    fleet: Fleet,
    creations: Creations,
    keys: Keys,
    tombstones: Tombstones,
    /// Instances that are given up and may only be hidden, with the time until which they count.
    ghosts: BTreeMap<InstanceId, Instant>,
    throttle: Throttle,
    breaker: Breaker,
    /// When a poll last brought a job.
    last_job: Option<Instant>,
    calls: Calls,
    timers: Timers,
    commands: VecDeque<Command>,
    ring: Ring,
    totals: Totals,
    /// What was last reported as missing or too much.
    reported_required: i64,
    /// What was last reported as missing and not to be had; nothing while nothing is held back.
    reported_held_back: Option<CreationReason>,
    notices: Notices,
}

/// How far the core is in its life.
#[derive(Debug)]
enum Phase {
    /// Nothing is known of the group.
    Starting,
    /// What was kept is known; the group is being listed for the first time.
    Surveying,
    Serving,
    Closing(Closing),
    Stopped,
}

/// Whether the group is ours to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Sole,
    /// Another manager may be at it.
    Unclaimed,
    /// It is ours again since then, and another may have changed it: it is to be listed first.
    Returned(Instant),
}

/// Calls to the group that have not been answered. Each kind is made one at a time: many providers set an
/// absolute size, and what gathers meanwhile goes into the next call.
#[derive(Debug)]
struct Calls {
    /// The listing under way was asked for at this time.
    listing: Option<Instant>,
    /// When the last listing ended.
    listed: Option<Instant>,
    /// The group has been listed since the start.
    surveyed: bool,
    /// The group says what size it works towards.
    has_target: bool,
    /// The largest size that the group may work towards without anybody else having a hand in it.
    target_allowed: Option<u32>,
    /// By how many instances somebody else has made the group larger, as far as they have not appeared.
    raised_by_others: u32,
    /// The wait after a listing that failed.
    listing_wait: Option<Duration>,
    /// The provider wants no listing before this time.
    listing_not_before: Option<Instant>,
    listing_backoff: Backoff,
    /// The group was asked for instances a short while ago.
    news: Option<News>,
    increasing: bool,
    decreasing: bool,
    /// The provider wants no decrease before this time.
    decrease_not_before: Option<Instant>,
}

/// Listings that are worth making sooner than usual.
#[derive(Clone, Copy, Debug)]
struct News {
    since: Instant,
    wait: Duration,
}

impl Core {
    /// A core that waits for [`Event::Started`].
    pub fn new(settings: Settings, now: Now) -> Self {
        let backoff = Backoff::new(settings.update_interval_when_expecting, LISTING_CAP);
        Self {
            fleet: Fleet::new(shape(&settings), settings.failure_threshold),
            throttle: Throttle::new(settings.scale_throttle, now.instant),
            settings,
            phase: Phase::Starting,
            group_max: None,
            writer: Writer::Sole,
            schedule: Schedule::default(),
            creations: Creations::default(),
            keys: Keys::default(),
            tombstones: Tombstones::default(),
            ghosts: BTreeMap::new(),
            breaker: Breaker::new(),
            last_job: None,
            calls: Calls {
                listing: None,
                listed: None,
                surveyed: false,
                has_target: false,
                target_allowed: None,
                raised_by_others: 0,
                listing_wait: None,
                listing_not_before: None,
                listing_backoff: backoff,
                news: None,
                increasing: false,
                decreasing: false,
                decrease_not_before: None,
            },
            timers: Timers::default(),
            commands: VecDeque::new(),
            ring: Ring::default(),
            totals: Totals::default(),
            reported_required: 0,
            reported_held_back: None,
            notices: Notices::default(),
        }
    }

    /// Takes in what has happened. Afterwards take the commands.
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Started { group_max, restored } => self.start(group_max, restored, now),
            Event::ReservationRequested { ticket, key } => self.reserve(ticket, key, now),
            Event::Unreserved { key } => self.unreserve(&key, now),
            Event::AcquisitionRequested { ticket, key } => self.acquire(ticket, &key, now),
            Event::AcquisitionCancelled { key } => self.cancel(&key, now),
            Event::Released { key, release } => self.release(&key, release, now),
            Event::GroupListed(listing) => self.survey(listing, now),
            Event::ListingFailed { failure } => self.listing_failed(failure, now),
            Event::IncreaseFinished { creation, succeeded, uncertain, failure } => {
                self.increase_finished(creation, succeeded, uncertain, failure, now);
            }
            Event::DecreaseFinished { asked, accepted, failure } => {
                self.decrease_finished(&asked, &accepted, failure, now);
            }
            Event::InstancePrepared { instance, result } => self.prepared(&instance, result, now),
            Event::InstanceChecked { instance, result } => self.checked(&instance, result, now),
            Event::SlotExamined { instance, slot, result } => self.examined(&instance, slot, result, now),
            Event::SettingsChanged(settings) => self.change_settings(*settings, now),
            Event::GroupLookedUp { group_max } => self.looked_up(group_max, now),
            Event::LeaseChanged { held } => self.claim_changed(held, now),
            Event::DrainRequested => self.drain(now),
            Event::ShutdownRequested => self.shut_down(now),
        }
        self.reconcile(now);
    }

    /// The next thing to do. To be called until there is none, after every `handle` and `handle_timeout`.
    #[must_use]
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Core::handle_timeout`] wants to be called, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Lets pass what is due. Too early a call does no harm. Afterwards take the commands.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.instant) {
            match timer {
                Timer::Liveness(id) => self.check(&id),
                Timer::ComingUp(id) => self.stuck(&id, now),
                Timer::Acquire(key) => self.acquire_timed_out(&key, now),
                Timer::Listing | Timer::Ghost | Timer::Launch => self.list(now),
                Timer::Tombstone => self.clear_tombstones(now),
                Timer::Shutdown => self.shutdown_round(now),
                // The pass that follows looks at the clock itself.
                Timer::Policy | Timer::Growth | Timer::Idle | Timer::Deletion => {}
            }
        }
        self.reconcile(now);
    }

    /// Whether a call that changes the group has not been answered.
    pub fn is_changing_group(&self) -> bool {
        self.calls.increasing || self.calls.decreasing
    }

    /// The settings that hold.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Compares what should be with what is known, and orders the difference.
    fn reconcile(&mut self, now: Now) {
        match self.phase {
            Phase::Starting | Phase::Stopped => return,
            Phase::Surveying => {}
            Phase::Serving => {
                self.apply_policy(now);
                self.assign(now);
                self.resize(now);
            }
            Phase::Closing(_) => self.close(now),
        }
        // Before the first listing nothing is known for sure, and nothing is deleted.
        if self.calls.surveyed {
            self.delete_due(now);
        }
        self.forget_closed_creations(now);
        self.arrange_timers(now);
    }

    fn start(&mut self, group_max: Option<u32>, restored: Restored, now: Now) {
        if !matches!(self.phase, Phase::Starting) {
            return;
        }
        self.group_max = group_max;
        self.phase = Phase::Surveying;
        self.restore(restored, now);
        self.list(now);
    }

    fn change_settings(&mut self, settings: Settings, now: Now) {
        self.fleet.reshape(shape(&settings), settings.failure_threshold);
        self.throttle.reconfigure(settings.scale_throttle, now.instant);
        self.schedule.forget();
        self.settings = settings;
        self.report(Decision::SettingsChanged, now);
        let ids: Vec<InstanceId> = self.fleet.iter().map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.retire_if_done(&id, now);
        }
    }

    /// Its settings have changed, so its members may have.
    fn looked_up(&mut self, group_max: Option<u32>, now: Now) {
        self.group_max = group_max;
        if matches!(self.phase, Phase::Serving) {
            self.list(now);
        }
    }

    fn claim_changed(&mut self, held: bool, now: Now) {
        self.writer = match (self.writer, held) {
            (Writer::Sole | Writer::Returned(_), true) | (Writer::Unclaimed, false) => return,
            (Writer::Sole | Writer::Returned(_), false) => Writer::Unclaimed,
            (Writer::Unclaimed, true) => Writer::Returned(now.instant),
        };
        self.list(now);
    }

    fn is_sole_writer(&self) -> bool {
        self.writer == Writer::Sole
    }

    fn apply_policy(&mut self, now: Now) {
        if self.schedule.evaluate(&self.settings.policies, now.utc) {
            let active = *self.schedule.active();
            let target = active.target;
            let decision = Decision::PolicyChanged {
                index: active.index,
                idle_count: target.idle_count,
                idle_time: target.idle_time,
            };
            self.report(decision, now);
        }
    }

    fn arrange_timers(&mut self, now: Now) {
        if matches!(self.phase, Phase::Stopped) {
            self.timers = Timers::default();
            return;
        }
        let listing = if self.calls.listing.is_none() { Some(self.next_listing(now)) } else { None };
        self.timers.arrange(Timer::Listing, listing);
        // Nothing else asks the policy.
        let until = self.schedule.next_change().filter(|_| matches!(self.phase, Phase::Serving));
        let edge = until.map(|until| now.instant + until.duration_since(now.utc).unwrap_or_default());
        self.timers.arrange(Timer::Policy, edge);
        let deletion = self.fleet.deletions().next().map(|(at, _)| at);
        let may_delete = self.calls.surveyed && self.is_sole_writer() && !self.calls.decreasing;
        let deletion = deletion.max(self.calls.decrease_not_before.filter(|_| deletion.is_some()));
        self.timers.arrange(Timer::Deletion, deletion.filter(|_| may_delete));
        self.timers.arrange(Timer::Tombstone, self.tombstones.next_deadline());
        let ghost = self.ghosts.values().min().copied();
        let may_list = self.calls.listing.is_none() && self.calls.listing_wait.is_none();
        self.timers.arrange(Timer::Ghost, ghost.filter(|_| may_list));
        self.timers.arrange(Timer::Launch, self.creations.next_deadline().filter(|_| may_list));
    }

    fn report(&mut self, decision: Decision, now: Now) {
        self.ring.push(now.utc, decision.clone());
        self.commands.push_back(Command::Report(decision));
    }

    fn record(&mut self, record: Record) {
        self.commands.push_back(Command::Record(record));
    }

    /// Members that are given up and may yet be there.
    fn ghosts(&self) -> u32 {
        u32::try_from(self.ghosts.len()).unwrap_or(u32::MAX)
    }

    /// The most instances there may be.
    fn max_instances(&self) -> u32 {
        let ours = self.settings.max_instances.map_or(u32::MAX, std::num::NonZeroU32::get);
        ours.min(self.group_max.unwrap_or(u32::MAX))
    }
}

fn shape(settings: &Settings) -> Shape {
    Shape { capacity: settings.slots_per_instance(), max_uses: settings.max_use_count }
}
