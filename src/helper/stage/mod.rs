//! The far side of [`crate::detached`]: what runs a job's stages on an instance or in a container.
//!
//! - [`agent`]: speaks frames on its standard input and output, starts stages, follows their output.
//! - [`keep`]: the detached process that owns one stage from its start to its exit status.
//! - [`folder`]: the files of a stage, by which the two know of each other.
//! - [`keepers`]: what an agent knows of the keepers that it started, and ending what they leave.
//! - [`processes`]: who descends from whom, and ending them.
//! - `removal`: deleting a job's folder, whatever the job has made of it.
//!
//! Neither knows the manager, GitLab or the shell's language. Plain threads and `poll`: these
//! processes exist once a job or once a stage, so they must start at once and cost nothing.

pub mod agent;
pub mod folder;
pub mod keep;
pub mod keepers;
pub mod processes;
mod removal;

pub use agent::AgentArgs;
pub use keep::KeepArgs;

#[cfg(test)]
mod tests;
