//! What a fleet's rules would do with a load: the same core, a virtual clock, and jobs that are only numbers.
//!
//! [`run`] lets jobs arrive at a GitLab that has nothing but a queue, polls it as the manager would, and gives
//! every command of the core to a group that boots instances in a fixed time. The clock jumps from one event to
//! the next, so a week costs as much as what happens in it. Equal inputs give equal outcomes.
//!
//! [`forecast`] is the smaller question: one listing of the real group, and what the core would do with it.
//!
//! | file | what it knows |
//! |---|---|
//! | [`workload`], `chance` | jobs from a file, or made up from a load |
//! | [`polling`] | when the manager asks for a job |
//! | `group` | how instances boot, fail and go |
//! | `world` | the clock, and who tells the core what |
//! | `ledger`, [`outcome`] | what it came to, in waits and in instance-hours |
//!
//! Nothing here reads a clock, a file or the network.

mod chance;
pub mod forecast;
mod group;
mod ledger;
pub mod outcome;
pub mod polling;
pub mod workload;
mod world;

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::core::settings::Settings;
use crate::time::Now;

pub use group::Provider;
pub use outcome::Outcome;
pub use polling::PollingRules;
pub use workload::Job;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The rules of the fleet.
    pub fleet: Settings,
    pub polling: PollingRules,
    /// How long GitLab holds a poll while it has no job; `None`: it answers at once.
    pub long_poll: Option<Duration>,
    pub provider: Provider,
    /// The manager starts then.
    pub start: Now,
    pub seed: u64,
}

/// Runs these jobs, in the order of their arrival, until the last one is final. Jobs that nothing happens to for a
/// day after the last arrival are given up as unserved.
pub fn run(setup: Setup, jobs: &[Job]) -> Outcome {
    world::World::new(setup, jobs).run()
}
