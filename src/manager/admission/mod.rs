//! Which runner may ask GitLab for a job now, and whether its request may be a long poll.
//!
//! Pure: events in, polls out, `now` an argument. A *permit* is one of `concurrent`. Each request that
//! may still bring a job holds one, and the job that it brings keeps it, so that jobs and requests
//! together never exceed `concurrent`, nor a runner's own `limit`.
//!
//! ```text
//!            due, permit free            no job, refused, failed
//!   waiting ─────────────────▶ polling ─────────────────────────▶ waiting (due again later)
//!      ▲                          │ job
//!      └── due at once ───────────┴──────▶ the permit goes over to the job ── JobFinished ──▶ free
//! ```
//!
//! A long poll can hold its permit for as long as the server likes, so it is only allowed while every
//! other runner could ask as well and one permit would still be left, or where there is no other runner.
//! Otherwise requests go out
//! without `last_update`, which the server answers at once, longest wait first. A poll in flight is
//! never dropped to free its permit: it may already have been given a job.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::adaptive::{Feedback, RequestConcurrency};
use super::health::Health;
use crate::ids::RunnerKey;

#[cfg(test)]
mod tests;

/// A long poll that took at least this long was held by the server, and has ended because something
/// changed or its time was up: the job, if there is one, comes with the next request.
const HELD: Duration = Duration::from_millis(500);

/// What admission needs to know of the process's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs at once over all runners.
    pub concurrent: u32,
    /// How often a runner without news asks.
    pub check_interval: Duration,
}

/// What admission needs to know of one `[[runners]]` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Jobs at once of this runner; 0 is no limit.
    pub limit: u32,
    pub request_concurrency: u32,
    pub adaptive: bool,
    pub strict_check_interval: bool,
    pub unhealthy_requests_limit: u32,
}

/// A request to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    pub runner: RunnerKey,
    /// Whether to send `last_update`, so that the server may hold the request.
    pub long: bool,
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollOutcome {
    /// No request was sent: the taskscaler, `asked` then, has no capacity to promise.
    NoCapacity { asked: Instant },
    /// The server has no job. `asked` is when the request went out, `held` whether the server was asked to
    /// hold it and does that.
    NoJob { asked: Instant, held: bool, pushed_back: bool },
    /// A job was received; it holds the permit until [`Admission::job_finished`].
    Job { pushed_back: bool },
    /// The server refused this runner (403) or the runner cannot ask at all.
    Refused,
    /// The server could not be reached or answered with an error.
    Failed { retry_after: Option<Duration>, pushed_back: bool },
}

#[derive(Debug)]
struct RunnerState {
    limits: RunnerLimits,
    requests: RequestConcurrency,
    health: Health,
    polls: u32,
    jobs: u32,
    /// When it may ask again; with nothing else in the way this is also since when it has waited.
    due: Instant,
    /// The last answer was a job: as many requests as the adaptive limit allows may be under way.
    busy: bool,
    /// The last try found no capacity: a change of capacity makes it due at once.
    starved: bool,
    /// When there was capacity again: a refusal of before can be heard after it.
    capacity_came: Option<Instant>,
    /// No longer in the configuration; it is forgotten when its last job has ended.
    removed: bool,
}

/// What one runner holds, for metrics and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLoad {
    pub jobs: u32,
    pub polls: u32,
    pub request_limit: u32,
    pub healthy: bool,
}

/// The decider. See the module's text.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    runners: BTreeMap<RunnerKey, RunnerState>,
    draining: bool,
}

impl Admission {
    pub fn new(limits: Limits) -> Self {
        Self { limits, runners: BTreeMap::new(), draining: false }
    }

    /// Takes over a new configuration. New runners ask within one `check_interval`, spread over it;
    /// runners that are gone ask no more.
    pub fn configure(&mut self, limits: Limits, runners: &[(RunnerKey, RunnerLimits)], now: Instant) {
        self.limits = limits;
        for (key, state) in &mut self.runners {
            state.removed = !runners.iter().any(|(wanted, _)| wanted == key);
        }
        let step = limits.check_interval / u32::try_from(runners.len()).unwrap_or(u32::MAX).max(1);
        for (place, (key, wanted)) in (0..).zip(runners) {
            if let Some(state) = self.runners.get_mut(key) {
                state.limits = *wanted;
                state.requests.reconfigure(wanted.request_concurrency, wanted.adaptive);
            } else {
                let state = RunnerState::new(*wanted, limits.check_interval, now + step * place);
                self.runners.insert(key.clone(), state);
            }
        }
        self.forget_removed();
    }

    /// No new request from now on; jobs go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The next request to send, if one may be sent now. Call it until it answers `None`.
    pub fn next_poll(&mut self, now: Instant) -> Option<Poll> {
        let free = self.free_permits();
        if self.draining || free == 0 {
            return None;
        }
        let able = self.runners.values().filter(|state| state.has_room()).count();
        // One whose request is under way will want its permit again, perhaps for a job.
        let is_alone = self.runners.values().filter(|state| state.may_ask()).count() <= 1;
        let (key, state) = self
            .runners
            .iter_mut()
            .filter(|(_, state)| state.has_room() && state.ready_at() <= now)
            .min_by_key(|(_, state)| state.due)?;
        let others = u32::try_from(able - 1).unwrap_or(u32::MAX);
        let long = !state.busy && (is_alone || free - 1 > others);
        state.polls += 1;
        if !(state.busy && state.has_room()) {
            state.due = now + self.limits.check_interval;
        }
        Some(Poll { runner: key.clone(), long })
    }

    /// When [`Admission::next_poll`] is worth asking again, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.draining || self.free_permits() == 0 {
            return None;
        }
        self.runners.values().filter(|state| state.has_room()).map(RunnerState::ready_at).min()
    }

    /// A poll has ended.
    pub fn poll_finished(&mut self, runner: &RunnerKey, outcome: PollOutcome, now: Instant) {
        let Some(state) = self.runners.get_mut(runner) else { return };
        state.polls = state.polls.saturating_sub(1);
        state.finish_poll(outcome, self.limits.check_interval, now);
        self.forget_removed();
    }

    /// A job has ended and gives its permit back.
    pub fn job_finished(&mut self, runner: &RunnerKey) {
        if let Some(state) = self.runners.get_mut(runner) {
            state.jobs = state.jobs.saturating_sub(1);
        }
        self.forget_removed();
    }

    /// A job of before this process's start goes on: it counts as any other.
    pub fn job_resumed(&mut self, runner: &RunnerKey) {
        if let Some(state) = self.runners.get_mut(runner) {
            state.jobs += 1;
        }
    }

    /// The runner's taskscaler has capacity again: who found none may ask at once.
    pub fn capacity_changed(&mut self, runner: &RunnerKey, now: Instant) {
        let Some(state) = self.runners.get_mut(runner) else { return };
        state.capacity_came = Some(now);
        if std::mem::take(&mut state.starved) {
            state.due = state.due.min(now);
        }
    }

    /// What a runner holds now.
    pub fn load(&self, runner: &RunnerKey) -> Option<RunnerLoad> {
        self.runners.get(runner).map(|state| RunnerLoad {
            jobs: state.jobs,
            polls: state.polls,
            request_limit: state.requests.limit(),
            healthy: !state.health.is_unhealthy(),
        })
    }

    /// Jobs over all runners.
    pub fn jobs(&self) -> u32 {
        self.runners.values().map(|state| state.jobs).sum()
    }

    fn free_permits(&self) -> u32 {
        let held = self.runners.values().map(|state| state.jobs + state.polls).sum();
        self.limits.concurrent.saturating_sub(held)
    }

    fn forget_removed(&mut self) {
        self.runners.retain(|_, state| !state.removed || state.jobs + state.polls > 0);
    }
}

impl RunnerState {
    fn new(limits: RunnerLimits, check_interval: Duration, due: Instant) -> Self {
        Self {
            limits,
            requests: RequestConcurrency::new(limits.request_concurrency, limits.adaptive),
            health: Health::new(check_interval, limits.unhealthy_requests_limit),
            polls: 0,
            jobs: 0,
            due,
            busy: false,
            starved: false,
            capacity_came: None,
            removed: false,
        }
    }

    /// Whether the runner's own limits leave room for one more request.
    fn has_room(&self) -> bool {
        let requests = if self.busy { self.requests.limit() } else { 1 };
        let within_limit = self.limits.limit == 0 || self.jobs + self.polls < self.limits.limit;
        self.may_ask() && self.polls < requests && within_limit
    }

    /// Whether it wants permits at all, now or when its requests have ended.
    fn may_ask(&self) -> bool {
        !self.removed && (self.limits.limit == 0 || self.jobs < self.limits.limit)
    }

    fn ready_at(&self) -> Instant {
        self.health.quiet_until().map_or(self.due, |quiet| quiet.max(self.due))
    }

    fn finish_poll(&mut self, outcome: PollOutcome, check_interval: Duration, now: Instant) {
        self.starved = false;
        match outcome {
            PollOutcome::NoCapacity { asked } => {
                self.busy = false;
                self.starved = self.capacity_came.is_none_or(|came| came < asked);
                self.due = if self.starved { now + check_interval } else { now };
            }
            PollOutcome::NoJob { asked, held, pushed_back } => {
                self.health.succeeded();
                self.busy = false;
                let was_held = held && now.saturating_duration_since(asked) >= HELD;
                self.due = if was_held { now } else { (asked + check_interval).max(now) };
                self.learn(if pushed_back { Feedback::PushedBack } else { Feedback::NoJob });
            }
            PollOutcome::Job { pushed_back } => {
                self.health.succeeded();
                self.jobs += 1;
                self.busy = !self.limits.strict_check_interval;
                self.due = if self.busy { now } else { now + check_interval };
                self.learn(if pushed_back { Feedback::PushedBack } else { Feedback::Job });
            }
            PollOutcome::Refused => {
                self.busy = false;
                self.health.refused(now);
            }
            PollOutcome::Failed { retry_after, pushed_back } => {
                self.busy = false;
                self.health.failed(retry_after, now);
                if pushed_back {
                    self.learn(Feedback::PushedBack);
                }
            }
        }
    }

    fn learn(&mut self, feedback: Feedback) {
        self.requests.learn(feedback);
    }
}
