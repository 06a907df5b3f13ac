//! Instances on this machine, for the demo and for tests.
//!
//! Each instance is a process of its own, in its own session: an SSH server on loopback with a home folder, which
//! runs commands for this user and forwards the Docker socket. It outlives the manager, is found again by its
//! folder, and ends when the group is decreased, when it is told to (SIGTERM), or when its folder goes. No
//! instance is isolated from another or from this machine.
//!
//! A root folder holds `key` (the manager's private key), `lease` and one folder for each instance; see [`record`].

mod group;
mod inside;
mod process;
mod record;
mod serve;
mod session;

pub use group::{LocalGroup, Place};
pub use serve::{ServeArgs, ServeError, serve};

#[cfg(test)]
mod tests;
