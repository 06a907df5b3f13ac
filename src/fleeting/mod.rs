//! Groups of instances, compiled in, and the way to each instance.
//!
//! [`group::InstanceGroup`] is what a provider is to the rest of the program: list, increase,
//! decrease, and tell how to reach an instance. [`registry`] makes one from the configuration.
//! [`access::InstanceAccess`] is an instance to the rest; [`connector`] is the way over SSH: it dials, runs commands and
//! forwards the Docker socket.
//! A provider never sees a job, and nothing here decides how many instances there should be.

pub mod access;
#[cfg(feature = "aws")]
pub mod aws;
pub mod connector;
pub mod group;
pub mod host_keys;
pub mod local;
pub mod registry;
pub mod static_hosts;
