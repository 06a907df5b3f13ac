//! The order between remembering and acting: what is to be kept is kept before anything else is done.
//!
//! The core's commands go in, one [`Step`] at a time comes out. While records are being kept everything waits; what
//! gathers meanwhile goes into the next step. Records may overtake acts: a memory of more than was done does no harm,
//! one of less would.

use super::Command;
use super::mutations::{self, Mutation};
use super::records::Record;

/// Commands on their way.
#[derive(Debug, Default)]
pub struct Outbox {
    records: Vec<Record>,
    acts: Vec<Command>,
    /// Records are being kept; these acts wait for it.
    waiting: Option<Vec<Command>>,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Keep these, all or none, synced; then call [`Outbox::kept`].
    Keep(Vec<Record>),
    /// Carry these out in their order.
    Act(Vec<Command>),
}

impl Outbox {
    /// Takes in a command of the core.
    pub fn put(&mut self, command: Command) {
        if let Command::Record(record) = command {
            self.records.push(record);
        } else {
            self.acts.push(command);
        }
    }

    /// The next step, or `None` where there is nothing to do or records are being kept.
    pub fn next_step(&mut self) -> Option<Step> {
        if self.waiting.is_some() {
            return None;
        }
        if mutations::on(Mutation::ActsDoNotWait) && !self.acts.is_empty() {
            return Some(Step::Act(std::mem::take(&mut self.acts)));
        }
        if !self.records.is_empty() {
            self.waiting = Some(std::mem::take(&mut self.acts));
            return Some(Step::Keep(std::mem::take(&mut self.records)));
        }
        (!self.acts.is_empty()).then(|| Step::Act(std::mem::take(&mut self.acts)))
    }

    /// The records are kept: these acts waited for that.
    pub fn kept(&mut self) -> Vec<Command> {
        self.waiting.take().unwrap_or_default()
    }

    /// Whether everything that is to be kept is kept.
    pub fn is_kept(&self) -> bool {
        self.waiting.is_none() && self.records.is_empty()
    }
}
