//! Capacity: reservations for polls, slots for jobs, and the instances that they are on.
//!
//! [`core`] decides and does nothing else; [`actor`] carries out what it decided and tells it what happened;
//! [`Handle`] is the way in for everybody else. A poll reserves, a job acquires, and what it has acquired is
//! released in every case: an [`Acquisition`] that is dropped releases itself.
//!
//! There is one taskscaler for each runner. It alone knows slots and reservations, and it alone has its group
//! grow and shrink. It knows no jobs but by their key.
//!
//! [`simulate`] gives the same core a virtual clock and jobs that are only numbers, to try a policy before paying
//! for it.

pub mod actor;
pub mod calls;
pub mod claim;
pub mod core;
mod handle;
mod journaled;
mod log;
mod opening;
pub mod settings;
pub mod simulate;
pub mod store;
pub mod timings;

#[cfg(test)]
mod tests;

pub use actor::{Actor, Parts};
pub use calls::{FormerJobs, NoFormerJobs};
pub use core::Release;
pub use core::reasons::{AcquireError, LossCause, Refusal};
pub use handle::{Acquisition, Handle, Snapshot};
pub use journaled::Journaled;
pub use settings::Settings;
pub use store::{Forgetful, Store, StoreError};
