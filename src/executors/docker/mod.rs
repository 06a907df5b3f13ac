//! A job in a container of an instance's engine.
//!
//! One container does it all where it can: the job's image, with our helper as its command. The helper
//! is the agent of [`crate::detached`]; every stage, the runner's own and the job's, is a process that
//! it starts, so a job costs one container start. A second container, from a helper image, runs the
//! runner's own stages where the configuration names such an image or the job's image has no git.
//!
//! ```text
//!  image ──► create ──► attach ──► start ──► agent says hello ──► stages … ──► remove
//!  (inspect, pull)       └ frames ┘                 └ no git, sources wanted? helper container
//! ```
//!
//! The container's log driver is `none`: its output is frames, and the stages' own output lies in their
//! record files inside the container, byte for byte, where no rotation and no character set touches it.
//! It can be read there until the container is removed, also when it has stopped.
//!
//! - [`client`]: the engine's API over any stream, and hijacked streams.
//! - [`about`]: whether we can work with this engine.
//! - [`image`], [`auth`], [`pull`]: which image, with which credentials, fetched when.
//! - [`credential_helper`]: a program on the manager's host that has credentials.
//! - [`container`], [`volumes`], [`names`]: what is asked of the engine.
//! - [`helper_volume`]: our program as a read-only volume.
//! - [`environment`]: a job's containers and its stages in them.
//! - [`ownership`]: folders that the job's user may not write to become its own.
//! - [`agents`]: the agent of a container, and others after it.
//! - [`container_file`], [`engine_id`]: what an engine answers with, taken with care.
//! - [`salvage`]: the output of a stage whose container has stopped.
//! - [`leftovers`]: what has to be taken away, whatever happens.
//! - [`former`]: what a job of an earlier manager left.
//! - [`errors`]: what an engine's refusal means for the job.
//!
//! `bollard` and the engine's words stay in this folder.

pub(crate) mod about;
pub(crate) mod agents;
pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod container;
pub(crate) mod container_file;
pub(crate) mod credential_helper;
pub(crate) mod engine_id;
pub mod environment;
pub(crate) mod errors;
#[cfg(test)]
pub(crate) mod fake_engine;
pub(crate) mod former;
#[cfg(test)]
mod fuzz;
pub(crate) mod helper_volume;
pub(crate) mod image;
pub(crate) mod leftovers;
pub(crate) mod multiplexed;
pub(crate) mod names;
pub(crate) mod ownership;
pub(crate) mod pull;
pub(crate) mod salvage;
pub(crate) mod volumes;
