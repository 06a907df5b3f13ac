//! `[runners.machine]`: the older way to describe a fleet, as it was for docker+machine.

use std::time::{Duration, SystemTime};

use crate::config::types::period::Period;
use crate::config::types::timezone::Timezone;

/// `[runners.machine]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Machines in creation at once; 0 is no limit.
    pub max_growth_rate: u32,
    /// Outside of every period.
    pub idle: Idle,
    /// Jobs before a machine is removed; 0 is no limit.
    pub max_builds: u32,
    pub driver: Option<String>,
    /// Contains `%s`; `None` only where the runner is refused.
    pub name: Option<String>,
    /// Without the leading `--`; some have no value.
    pub options: Vec<String>,
    /// Each contains `%s` for the machine's name.
    pub options_with_name: Vec<String>,
    pub max_removal_attempts: u32,
    /// The last entry that matches counts. Off-peak settings are the first one here.
    pub autoscaling: Vec<MachinePeriod>,
}

impl Machine {
    /// What holds at this time: the last matching entry's values, all of them, else those of the section.
    pub fn idle_at(&self, utc: SystemTime) -> Idle {
        let matching = self.autoscaling.iter().rev().find(|entry| entry.contains(utc));
        matching.map_or(self.idle, |entry| entry.idle)
    }
}

/// How many machines wait for jobs, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Idle {
    pub count: u32,
    /// Idle machines per machine in use; 0 switches it off.
    pub scale_factor: f64,
    /// At least 1 where `scale_factor` is on.
    pub count_min: u32,
    pub time: Duration,
}

/// One `[[runners.machine.autoscaling]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MachinePeriod {
    pub periods: Vec<Period>,
    pub timezone: Timezone,
    pub idle: Idle,
}

impl MachinePeriod {
    /// Whether any of the periods contains this time in the entry's zone. No period, no time.
    pub fn contains(&self, utc: SystemTime) -> bool {
        let local = self.timezone.local(utc);
        self.periods.iter().any(|period| period.contains(local))
    }
}
