//! What of a text is to be masked: intervals in order, merged where they overlap.
//!
//! Intervals that only touch stay two, as in the reference: each gets its own mark.

/// The mark that stands for whatever was masked.
pub(super) const MARK: &[u8] = b"[MASKED]";

/// Bytes from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Intervals that are not yet written, and the end of the one that was written last. Positions count from
/// the first byte that is held back.
#[derive(Debug, Default)]
pub(super) struct Spans {
    waiting: Vec<Span>,
    /// Up to here bytes belong to a mark that already stands in the output.
    swallowed_to: usize,
}

impl Spans {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds an interval whose end is not before the end of any other.
    pub(super) fn add(&mut self, mut span: Span) {
        while let Some(last) = self.waiting.last().filter(|last| last.end > span.start) {
            span.start = span.start.min(last.start);
            self.waiting.pop();
        }
        if span.start < self.swallowed_to {
            self.swallowed_to = self.swallowed_to.max(span.end);
        } else {
            self.waiting.push(span);
        }
    }

    /// Moves the end of the newest interval.
    pub(super) fn extend(&mut self, end: usize) {
        match self.waiting.last_mut() {
            Some(last) => last.end = last.end.max(end),
            None => self.swallowed_to = self.swallowed_to.max(end),
        }
    }

    /// Adds intervals at any place.
    pub(super) fn merge(&mut self, more: Vec<Span>) {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(more);
        all.sort_unstable();
        for span in all {
            match self.waiting.last_mut() {
                Some(last) if span.start < last.end => last.end = last.end.max(span.end),
                Some(_) => self.waiting.push(span),
                None if span.start < self.swallowed_to => self.swallowed_to = self.swallowed_to.max(span.end),
                None => self.waiting.push(span),
            }
        }
    }

    /// Writes the text from `from` to `to`: what is visible of it through `literal`, marks for the rest.
    /// Intervals that begin at `to` or later wait.
    pub(super) fn write(&mut self, from: usize, to: usize, mut emit: impl FnMut(Piece)) {
        let mut at = from.max(self.swallowed_to);
        let ready = self.waiting.partition_point(|span| span.start < to);
        for span in self.waiting.drain(..ready) {
            if at < span.start {
                emit(Piece::Text(Span { start: at, end: span.start }));
            }
            emit(Piece::Mark);
            self.swallowed_to = span.end;
            at = span.end;
        }
        if at < to {
            emit(Piece::Text(Span { start: at, end: to }));
        }
    }

    /// Moves the origin of positions forward.
    pub(super) fn shift(&mut self, by: usize) {
        self.swallowed_to = self.swallowed_to.saturating_sub(by);
        for span in &mut self.waiting {
            span.start -= by;
            span.end -= by;
        }
    }
}

/// A part of the output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    /// These bytes of the text.
    Text(Span),
    Mark,
}
