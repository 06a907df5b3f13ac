//! flotilla: a GitLab runner manager. One daemon takes CI jobs from GitLab, keeps a fleet of instances
//! of the right size, and runs each job on a slot of an instance.
//!
//! # The path of a job
//!
//! `manager::admission` says which runner may ask → `manager::poller` reserves capacity
//! (`taskscaler`) and asks GitLab (`gitlab`) → `manager::accept` tells GitLab `pending` until there is a
//! slot, then `running` → `manager::worker` performs what `job::lifecycle` decides: `executors` prepare
//! the place, `shells` write each stage's script, `detached` runs it on the instance and follows its
//! output into `trace`, which brings it to GitLab → the final update → clean-up → the slot is free.
//!
//! # The map
//!
//! | module | what it is for | it alone knows |
//! |---|---|---|
//! | `time`, `ids`, `secret`, `backoff`, `byte_stream`, `go_duration`, `error_chain`, `decode_error`, `excerpt`, `pulse`, `shell_quote`, `logging` | leaves, used by all | `time`: reading a clock |
//! | `config` | config.toml: the file as it is, and as the program uses it | TOML |
//! | `gitlab` | the runner API | its paths, headers, status codes, retry rules |
//! | `job` | one job as data, and the decider of its life | stages, variables, failure reasons |
//! | `shells` | the text of each stage's script | shell syntax |
//! | `detached` | stages that run without a connection | the frames and the record file |
//! | `trace` | a job's log on its way to GitLab | masking, sections, offsets |
//! | `journal` | what survives the process: instances, slots, jobs, host keys | the store's format |
//! | `fleeting` | groups of instances, and the way to an instance | SSH, clouds |
//! | `taskscaler` | capacity: reservations, slots, how many instances | the scaling rules |
//! | `executors` | how and where scripts run | the Docker Engine's API |
//! | `manager` | when to ask for jobs, and running them | polling, admission |
//! | `admin` | the HTTP server for operators | its paths |
//! | `helper` | what runs beside the job | archives |
//! | `sandbox` | an embedded GitLab for the demo and tests | nothing of the manager |
//! | `cli`, `commands` | the command line, and wiring | the environment, the process's end |
//!
//! # What must stay true
//!
//! Nothing below `commands` reads the environment or ends the process. Only `time` reads a clock. The
//! deciders (`taskscaler::core`, `manager::admission`, `job::lifecycle`, `config::resolve`,
//! `trace::masker`) contain no `async`: a function that chooses does not wait. An executor never sees a
//! cloud's type, a provider never sees a job. `tests/it/tidy.rs` checks these rules.

pub mod backoff;
#[cfg(feature = "manager")]
pub mod byte_stream;
pub mod decode_error;
pub mod error_chain;
pub mod excerpt;
pub mod go_duration;
pub mod ids;
#[cfg(feature = "manager")]
pub mod pulse;
pub mod secret;
#[cfg(feature = "manager")]
pub mod shell_quote;
pub mod time;

pub mod detached;
pub mod gitlab;
#[cfg(feature = "helper")]
pub mod helper;

#[cfg(feature = "manager")]
pub mod admin;
#[cfg(feature = "manager")]
pub mod cli;
#[cfg(feature = "manager")]
pub mod commands;
#[cfg(feature = "manager")]
pub mod config;
#[cfg(feature = "manager")]
pub mod executors;
#[cfg(feature = "manager")]
pub mod fleeting;
#[cfg(feature = "manager")]
#[cfg(test)]
mod fuzz;
#[cfg(feature = "manager")]
pub mod job;
#[cfg(feature = "manager")]
pub mod journal;
#[cfg(feature = "manager")]
pub mod logging;
#[cfg(feature = "manager")]
pub mod manager;
#[cfg(feature = "manager")]
pub mod sandbox;
#[cfg(feature = "manager")]
pub mod shells;
#[cfg(feature = "manager")]
pub mod taskscaler;
#[cfg(feature = "manager")]
pub mod trace;
