//! The trace: a job's log on its way to GitLab.
//!
//! ```text
//! Sink::write ─ per stream: masker → utf8 → timestamps ─┐
//! Sink::info, section_start, … (stream 00, same way)  ──┴→ buffer ─→ Uploader ─→ GitLab
//!  masker::joined: what is cut over streams          offsets, limit,   PATCH, PUT
//!                                                    checksum, spill
//! ```
//!
//! [`Sink`] is the cheap, synchronous side: a write never waits for GitLab. [`Uploader`] is one task a job
//! that does what two deciders say: [`pacing`] while the job runs, [`finishing`] after it. What GitLab
//! gets is an exact copy of the buffer, whatever is lost or repeated on the way.
//!
//! What it must not do: know stages, scripts or executors, or decide a job's result.

pub mod api;
mod buffer;
mod channel;
pub mod finishing;
pub mod masker;
pub mod pacing;
mod sections;
mod sink;
mod timestamps;
mod uploader;
mod utf8;

pub use api::{FinalOutcome, FinalUpdate, GitlabTrace, JobReport, TraceApi};
pub use masker::{CompiledMasks, Masker, Masks};
pub use sink::{Sink, Stream, TraceSettings};
pub use uploader::{CancelState, PatchBudget, Uploader, UploaderHandle, UploaderSettings};

#[cfg(test)]
mod tests;
