//! What runs beside the job: the commands that its scripts call, and the agent that runs its stages.
//!
//! The same code is reached in two ways: `flotilla-helper COMMAND`, the small binary that travels to
//! instances and into containers (there often under the name `gitlab-runner` or `gitlab-runner-helper`,
//! which scripts look for), and `flotilla COMMAND`. Flags, messages and exit codes are those that users of
//! GitLab Runner know, because scripts written for one have to work with the other.
//!
//! A command's way: [`cli`] (flags as they are typed) → the command's settings (defaults from the
//! [`Environment`]) → the command, which speaks to the user through [`console`].
//!
//! What it must not do: know the manager, its config or the clouds; read the environment or end the
//! process (its `main` does); leave the project folder through a symlink or an archive's path. A runtime
//! for async code is built by the commands that need one, since the agent has to start within
//! milliseconds.

pub mod cli;

mod archive;
mod artifacts;
mod cache;
mod calendar;
mod console;
mod duration;
mod environment;
mod expand;
mod glob;
mod health_check;
#[cfg(test)]
mod http_server;
mod meter;
mod own;
mod regular;
mod run;
mod selection;
pub mod stage;
mod version;

pub use console::Console;
pub use environment::Environment;
pub use run::{main, run};
pub use version::version_text;
