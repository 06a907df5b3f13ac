//! Keeps account while a simulation runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::outcome::{Hour, Jobs, Outcome, Percentiles};
use crate::ids::InstanceId;
use crate::taskscaler::core::reasons::RemovalReason;
use crate::time::Now;

/// One line of the table.
const HOUR: Duration = Duration::from_secs(3600);

/// What has happened so far.
#[derive(Debug)]
pub(super) struct Ledger {
    start: Now,
    lives: BTreeMap<InstanceId, Life>,
    /// Of instances that are given back.
    past: Spent,
    running: u32,
    hours: Vec<Tally>,
    waits: Vec<Duration>,
    totals: Vec<Duration>,
    jobs: Jobs,
    created: u32,
    refused: u32,
    deletions: BTreeMap<&'static str, u32>,
}

/// An instance that is paid for.
#[derive(Debug)]
struct Life {
    asked_at: Instant,
    ready_at: Option<Instant>,
    jobs: u32,
    idle_since: Option<Instant>,
    idle: Duration,
}

/// Instance time, by what it was used for.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    all: Duration,
    booting: Duration,
    idle: Duration,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    arrivals: u32,
    running_max: u32,
    instances_max: u32,
    waits: Vec<Duration>,
}

impl Life {
    fn spent(&self, end: Instant) -> Spent {
        let until = |from: Instant| end.saturating_duration_since(from);
        let booting = self.ready_at.unwrap_or(end).saturating_duration_since(self.asked_at);
        Spent { all: until(self.asked_at), booting, idle: self.idle + self.idle_since.map_or(Duration::ZERO, until) }
    }
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.all += other.all;
        self.booting += other.booting;
        self.idle += other.idle;
    }
}

impl Ledger {
    pub(super) fn new(start: Now) -> Self {
        Self {
            start,
            lives: BTreeMap::new(),
            past: Spent::default(),
            running: 0,
            hours: Vec::new(),
            waits: Vec::new(),
            totals: Vec::new(),
            jobs: Jobs::default(),
            created: 0,
            refused: 0,
            deletions: BTreeMap::new(),
        }
    }

    pub(super) fn arrived(&mut self, now: Instant) {
        self.jobs.arrived += 1;
        self.edit_hour(now, |hour| hour.arrivals += 1);
    }

    /// A job that arrived then has a slot now.
    pub(super) fn started(&mut self, arrived: Instant, on: &InstanceId, now: Instant) {
        let wait = now.saturating_duration_since(arrived);
        self.waits.push(wait);
        self.edit_hour(arrived, |hour| hour.waits.push(wait));
        if let Some(life) = self.lives.get_mut(on) {
            life.jobs += 1;
            if let Some(since) = life.idle_since.take() {
                life.idle += now.saturating_duration_since(since);
            }
        }
        self.running += 1;
        self.note_peaks(now);
    }

    pub(super) fn finished(&mut self, arrived: Instant, on: &InstanceId, now: Instant) {
        self.note_peaks(now);
        self.jobs.finished += 1;
        self.totals.push(now.saturating_duration_since(arrived));
        self.running -= 1;
        if let Some(life) = self.lives.get_mut(on) {
            life.jobs -= 1;
            if life.jobs == 0 {
                life.idle_since = Some(now);
            }
        }
    }

    /// A job was given up, because no instance had a slot for it in time.
    pub(super) fn failed(&mut self) {
        self.jobs.without_instance += 1;
    }

    /// `asked` instances were asked for, and these are coming.
    pub(super) fn increased(&mut self, asked: u32, coming: &[InstanceId], now: Instant) {
        let came = u32::try_from(coming.len()).unwrap_or(asked);
        self.created += came;
        self.refused += asked.saturating_sub(came);
        for id in coming {
            let life = Life { asked_at: now, ready_at: None, jobs: 0, idle_since: None, idle: Duration::ZERO };
            self.lives.insert(id.clone(), life);
        }
        self.note_peaks(now);
    }

    pub(super) fn became_ready(&mut self, id: &InstanceId, now: Instant) {
        if let Some(life) = self.lives.get_mut(id) {
            life.ready_at = Some(now);
            life.idle_since = Some(now);
        }
    }

    /// An instance is asked to go; from now on it costs nothing here.
    pub(super) fn decreased(&mut self, id: &InstanceId, reason: &RemovalReason, now: Instant) {
        self.note_peaks(now);
        if let Some(life) = self.lives.remove(id) {
            self.past.add(life.spent(now));
            *self.deletions.entry(reason.as_str()).or_default() += 1;
        }
    }

    /// Closes the account.
    pub(super) fn close(mut self, now: Instant) -> Outcome {
        self.note_peaks(now);
        let mut spent = self.past;
        for life in self.lives.values() {
            spent.add(life.spent(now));
        }
        let peak = |count: fn(&Tally) -> u32| self.hours.iter().map(count).max().unwrap_or(0);
        let (peak_instances, peak_running) = (peak(|hour| hour.instances_max), peak(|hour| hour.running_max));
        let hour = |(number, tally): (u32, Tally)| Hour {
            from: self.start.utc + HOUR * number,
            arrivals: tally.arrivals,
            running_max: tally.running_max,
            instances_max: tally.instances_max,
            wait: Percentiles::of(tally.waits),
        };
        let served = self.jobs.finished + self.jobs.without_instance;
        Outcome {
            jobs: Jobs { unserved: self.jobs.arrived - served, ..self.jobs },
            length: now.saturating_duration_since(self.start.instant),
            wait: Percentiles::of(self.waits),
            total: Percentiles::of(self.totals),
            instance_time: spent.all,
            booting_time: spent.booting,
            idle_time: spent.idle,
            created: self.created,
            refused: self.refused,
            deletions: self.deletions,
            peak_instances,
            peak_running,
            hours: (0..).zip(self.hours).map(hour).collect(),
        }
    }

    fn note_peaks(&mut self, now: Instant) {
        let instances = u32::try_from(self.lives.len()).unwrap_or(u32::MAX);
        let running = self.running;
        self.edit_hour(now, |hour| {
            hour.running_max = hour.running_max.max(running);
            hour.instances_max = hour.instances_max.max(instances);
        });
    }

    /// Hours in which nothing changed begin with what there was.
    fn edit_hour(&mut self, at: Instant, change: impl FnOnce(&mut Tally)) {
        let number = at.saturating_duration_since(self.start.instant).as_secs() / HOUR.as_secs();
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let instances_max = u32::try_from(self.lives.len()).unwrap_or(u32::MAX);
        while self.hours.len() <= number {
            self.hours.push(Tally { running_max: self.running, instances_max, ..Tally::default() });
        }
        if let Some(hour) = self.hours.get_mut(number) {
            change(hour);
        }
    }
}
