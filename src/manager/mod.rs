//! When to ask GitLab for jobs, and running them.
//!
//! - [`admission`] decides which runner may ask now; [`adaptive`] and [`health`] are its parts.
//! - [`poller`] sends one request, with capacity reserved before it.
//! - [`accept`], [`beginning`] and [`worker`] take a received job to its final state; [`offer`] decides whether it is
//!   ours, [`slot`] is its claim on capacity, [`scripts`] joins what its scripts are made of. [`telling`] tells GitLab
//!   what it could not be told when it was time.
//! - [`actor`] is the loop that owns all of these as tasks; [`served`] is one runner with everything that acts
//!   on it; [`shutdown`] says how the process stops.
//! - [`memory`] is what a runner knows of its earlier life; [`job_records`] keeps accepted jobs in it, and
//!   [`former_jobs`] ends those that an earlier manager left. [`remains`] remembers jobs of which something may run on
//!   where instances stay, and ends that before they are used again. [`scaler`] runs all that beside the taskscaler.
//! - [`registry`], [`metrics`] and [`observe`] show it to others; [`watchdog`] says what stands still.

pub mod accept;
pub mod actor;
pub mod adaptive;
pub mod admission;
pub mod beginning;
pub mod former_jobs;
pub mod health;
pub mod job_records;
#[cfg(test)]
mod kept_states_tests;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod offer;
pub mod poller;
pub mod registry;
pub mod remains;
pub mod scaler;
pub mod scripts;
pub mod served;
pub mod shutdown;
pub mod slot;
pub mod telling;
pub mod watchdog;
pub mod worker;

pub use actor::{Ended, Manager};
pub use observe::Observer;
pub use served::{Assembly, InUse};
pub use shutdown::Control;
