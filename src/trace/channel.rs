//! One stream of the trace: masking, UTF-8 and times, with what each of them holds back.

use std::cell::RefCell;
use std::time::SystemTime;

use super::buffer::Buffer;
use super::masker::joined::Tail;
use super::masker::{CompiledMasks, Masker};
use super::sink::Stream;
use super::timestamps::Timestamps;
use super::utf8::Utf8;

/// Longer writes are taken in parts: what is between the steps stays small, and in the processor's cache.
const PART: usize = 32 * 1024;

/// Space between the steps that a thread keeps for its next write; more is given back.
const KEPT_SCRATCH: usize = 2 * PART;

/// Space between the steps, empty between two writes.
#[derive(Debug)]
struct Scratch {
    masked: Vec<u8>,
    valid: Vec<u8>,
    stamped: Vec<u8>,
}

thread_local! {
    /// One a thread and not one a job: there are hundreds of jobs, and few threads.
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { masked: Vec::new(), valid: Vec::new(), stamped: Vec::new() }) };
}

/// What may follow a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The text may go on: its end may be the beginning of a secret.
    Anywhere,
    /// The text is complete, as the manager's lines are.
    Complete,
    /// The stream ends.
    End,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) stream: Stream,
    masker: Masker,
    utf8: Utf8,
    timestamps: Option<Timestamps>,
}

impl Channel {
    pub(super) fn new(stream: Stream, masks: CompiledMasks, timestamps: bool) -> Self {
        Self {
            stream,
            masker: Masker::new(masks),
            utf8: Utf8::default(),
            timestamps: timestamps.then(|| Timestamps::new(stream)),
        }
    }

    pub(super) fn replace_masks(&mut self, masks: CompiledMasks) {
        self.masker.replace_masks(masks);
    }

    /// Where the masker stands.
    pub(super) fn tail(&self) -> Tail {
        self.masker.tail()
    }

    /// Masks bytes that are held back, counted backwards from the last.
    pub(super) fn cover(&mut self, start: usize, end: usize) {
        self.masker.cover(start, end);
    }

    /// Takes bytes that arrived at `now` and passes on what is decided, but not the last `hold` bytes.
    pub(super) fn write(&mut self, bytes: &[u8], hold: usize, cut: Cut, now: SystemTime, buffer: &mut Buffer) {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut parts = bytes.chunks(PART);
            let last = parts.next_back().unwrap_or_default();
            for part in parts {
                self.write_part(part, hold, Cut::Anywhere, now, scratch, buffer);
            }
            self.write_part(last, hold, cut, now, scratch, buffer);
        });
    }

    fn write_part(
        &mut self,
        part: &[u8],
        hold: usize,
        cut: Cut,
        now: SystemTime,
        scratch: &mut Scratch,
        buffer: &mut Buffer,
    ) {
        let Scratch { masked, valid, stamped } = scratch;
        self.masker.feed_holding(part, hold, masked);
        if cut != Cut::Anywhere {
            self.masker.flush(masked);
        }
        // Nearly all text is valid as it is, and needs no copy.
        let text = if self.utf8.passes(masked) {
            masked.as_slice()
        } else {
            self.utf8.feed(masked, valid);
            if cut != Cut::Anywhere {
                self.utf8.flush(valid);
            }
            valid.as_slice()
        };
        match &mut self.timestamps {
            None => buffer.append(text),
            Some(timestamps) => {
                timestamps.feed(text, now, stamped);
                if cut == Cut::End {
                    timestamps.flush(stamped);
                }
                buffer.append(stamped);
            }
        }
        for space in [masked, valid, stamped] {
            space.clear();
            space.shrink_to(KEPT_SCRATCH);
        }
    }
}
