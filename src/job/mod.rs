//! One job as data: what it asks for, what its variables mean, and how it lives.
//!
//! The wire's [`JobPayload`](crate::gitlab::wire::JobPayload) becomes a [`Job`](payload::Job)
//! (`payload`); together with what the runner and its executor add ([`resolved::Facts`]) it becomes a
//! [`ResolvedJob`](resolved::ResolvedJob): variables in order and expanded (`variables`), feature flags
//! (`feature_flags`), settings with their warnings (`settings`), names and directories (`dirs`).
//! [`Lifecycle`](lifecycle::Lifecycle) decides what happens when; [`Stage`](stage::Stage) and
//! [`FailureReason`](failure::FailureReason) are the words it uses.
//!
//! Nothing here does I/O, waits or reads a clock.

pub mod dirs;
pub mod failure;
pub mod feature_flags;
pub mod lifecycle;
pub mod payload;
pub mod resolved;
pub mod settings;
pub mod stage;
pub mod variables;
