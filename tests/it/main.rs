//! The one integration binary: a file a subject.

mod harness;

mod admin;
mod admission;
#[cfg(feature = "aws")]
mod aws;
mod check;
mod demo;
mod descriptors;
mod disk_full;
mod engine_restart;
mod executors;
mod golden;
mod hostile_jobs;
mod jobs;
mod list;
mod local_instances;
mod losses;
mod packaging;
mod reloading;
mod restart;
mod secrets;
mod sources;
mod stalls;
mod stopping;
mod tidy;
mod traces;
mod transfers;
mod unreadable;
mod upstream;
mod users;
mod watched;
