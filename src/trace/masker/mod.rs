//! Masking: no secret gets past here, however it is cut into writes.
//!
//! Three rules in one pass over the bytes of a stream:
//! - a *phrase*, the value of a masked variable, becomes `[MASKED]`; where phrases overlap, everything
//!   that any of them covers does;
//! - after a *token prefix* such as `glpat-` the run of token characters becomes `[MASKED]`;
//! - in a query string the value of certain keys becomes `[MASKED]` ([`url`]).
//!
//! A byte is held back only while it could still become part of a phrase or a token prefix. What comes out
//! does not depend on how the input was cut. Pure: no clock, no I/O, no lock.
//!
//! A secret is masked where its bytes follow each other in one stream, and where they do so in the order in which the
//! bytes of a program's streams arrive ([`joined`]). Two limits: what a stage's end has brought out of a secret stays
//! visible, and only the rest that comes in a later stage is masked; and lines of the manager between two parts of a
//! secret do not make it another secret, but bytes of the job do.

mod automaton;
pub(super) mod joined;
mod spans;
mod url;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use self::automaton::{Automaton, NodeId, ROOT};
use self::joined::Tail;
use self::spans::{MARK, Piece, Span, Spans};
use self::url::Url;

/// Always masked.
const PERSONAL_ACCESS_TOKEN: &str = "glpat-";

/// Masked as well, unless `FF_MASK_ALL_DEFAULT_TOKENS` is off.
const DEFAULT_PREFIXES: [&str; 13] = [
    "gloas-",
    "gldt-",
    "glrt-",
    "glcbt-",
    "glrtr-",
    "glptt-",
    "glft-",
    "glimt-",
    "glagent-",
    "glsoat-",
    "glffct-",
    "_gitlab_session=",
    "gltok-",
];

/// So many intervals may wait before what is decided is written out.
const WAITING_SPANS: usize = 256;

/// What to mask: values and token prefixes of one job. Prints no value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Masks {
    phrases: BTreeSet<Vec<u8>>,
    prefixes: BTreeSet<Vec<u8>>,
}

impl Masks {
    /// The token prefixes that GitLab uses by itself: all, or only personal access tokens where
    /// `FF_MASK_ALL_DEFAULT_TOKENS` is off.
    pub fn with_default_prefixes(all_default_tokens: bool) -> Self {
        let mut masks = Self::default();
        masks.add_prefix(PERSONAL_ACCESS_TOKEN);
        if all_default_tokens {
            DEFAULT_PREFIXES.iter().for_each(|prefix| masks.add_prefix(prefix));
        }
        masks
    }

    /// A masked variable's value after expansion. White space around it is no part of the secret; an
    /// empty one masks nothing. It is masked as messages quote it, too: with escaped quotes and backslashes.
    pub fn add_phrase(&mut self, value: &str) {
        let value = value.trim();
        if !value.is_empty() {
            self.phrases.insert(value.as_bytes().to_vec());
            let quoted = format!("{value:?}");
            let escaped = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
            self.phrases.insert(escaped.as_bytes().to_vec());
        }
    }

    /// A prefix of tokens, such as the payload's `features.token_mask_prefixes` names.
    pub fn add_prefix(&mut self, prefix: &str) {
        let prefix = prefix.trim();
        if !prefix.is_empty() {
            self.prefixes.insert(prefix.as_bytes().to_vec());
        }
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks").field("phrases", &self.phrases.len()).field("prefixes", &self.prefixes.len()).finish()
    }
}

/// [`Masks`] made ready for searching; cheap to clone, shared by the streams of a job.
#[derive(Clone)]
pub struct CompiledMasks(Arc<Automaton>);

impl CompiledMasks {
    pub fn new(masks: &Masks) -> Self {
        let phrases = masks.phrases.iter().map(Vec::as_slice);
        Self(Arc::new(Automaton::new(phrases, masks.prefixes.iter().map(Vec::as_slice))))
    }
}

impl fmt::Debug for CompiledMasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompiledMasks")
    }
}

/// Where the last byte stands with regard to a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Token {
    #[default]
    Outside,
    /// A prefix ended with the last byte; whether a token follows is not known yet.
    Prefix,
    Inside,
}

/// Masks one stream of bytes.
pub struct Masker {
    masks: CompiledMasks,
    /// What the automaton has matched so far.
    node: NodeId,
    token: Token,
    url: Url,
    /// Bytes that are not decided yet. Positions in `spans` count from the first of them.
    held: Vec<u8>,
    spans: Spans,
}

impl Masker {
    pub fn new(masks: CompiledMasks) -> Self {
        Self {
            masks,
            node: ROOT,
            token: Token::default(),
            url: Url::default(),
            held: Vec::new(),
            spans: Spans::default(),
        }
    }

    /// Takes the next bytes and appends to `out` all that is decided.
    pub fn feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        self.feed_holding(chunk, 0, out);
    }

    /// As [`Masker::feed`], but at least the last `hold` bytes stay undecided: they could be part of a secret that is
    /// cut over several streams.
    pub(super) fn feed_holding(&mut self, chunk: &[u8], hold: usize, out: &mut Vec<u8>) {
        let masks = self.masks.clone();
        let automaton = &*masks.0;
        let held = self.held.len();
        let mut written = 0;
        let mut at = 0;
        let mut stops = Stops::default();
        while at < chunk.len() {
            if self.is_calm() {
                at = stops.next(automaton, chunk, at);
            }
            let Some(&byte) = chunk.get(at) else { break };
            self.step(automaton, byte, held + at);
            at += 1;
            if self.spans.len() > WAITING_SPANS {
                self.write(hold.max(automaton.hold(self.node)), chunk, &mut written, held + at, out);
            }
        }
        self.write(hold.max(automaton.hold(self.node)), chunk, &mut written, held + chunk.len(), out);
        self.keep(chunk, written);
    }

    /// The end of the stream: what was held back comes out, and the next byte begins anew.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        // An empty value at the very end is an interval that begins where the text ends.
        let (end, held) = (self.held.len(), &self.held);
        self.spans.write(0, end + 1, |piece| match piece {
            Piece::Mark => out.extend_from_slice(MARK),
            Piece::Text(Span { start, end }) => {
                out.extend_from_slice(held.get(start..end.min(held.len())).unwrap_or_default())
            }
        });
        *self = Self::new(self.masks.clone());
    }

    /// Masks more phrases from here on, those bytes included that are still held back. `masks` must
    /// have the phrases of the former ones.
    pub fn replace_masks(&mut self, masks: CompiledMasks) {
        let automaton = &*masks.0;
        let mut node = ROOT;
        let mut found = Vec::new();
        for (at, &byte) in self.held.iter().enumerate() {
            node = automaton.step(node, byte);
            if let Some(length) = automaton.phrase(node) {
                found.push(Span { start: at + 1 - length, end: at + 1 });
            }
        }
        self.spans.merge(found);
        self.node = node;
        self.masks = masks;
    }

    /// Masks bytes that are held back: from `start` up to, not including, `end`, both counted backwards from the last.
    pub(super) fn cover(&mut self, start: usize, end: usize) {
        let held = self.held.len();
        self.spans.merge(vec![Span { start: held.saturating_sub(start), end: held.saturating_sub(end) }]);
    }

    /// Where the last byte stands.
    pub(super) fn tail(&self) -> Tail {
        Tail { node: self.node, token: self.token, url: self.url }
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Nothing has begun: the text up to the next place of interest can be taken as it is.
    fn is_calm(&self) -> bool {
        self.node == ROOT && self.token == Token::Outside && self.url == Url::Outside
    }

    fn step(&mut self, automaton: &Automaton, byte: u8, position: usize) {
        let end = position + 1;
        let was_value = self.url == Url::Value;
        self.url = self.url.step(byte);
        let is_value = self.url == Url::Value;
        if was_value && is_value {
            self.spans.extend(end);
        }
        self.token = match self.token {
            Token::Prefix if is_token_byte(byte) => {
                self.spans.add(Span { start: position, end });
                Token::Inside
            }
            Token::Inside if is_token_byte(byte) => {
                self.spans.extend(end);
                Token::Inside
            }
            Token::Outside | Token::Prefix | Token::Inside => Token::Outside,
        };
        self.node = automaton.step(self.node, byte);
        if let Some(length) = automaton.phrase(self.node) {
            self.spans.add(Span { start: end - length, end });
        }
        if self.token == Token::Outside && automaton.prefix(self.node) {
            self.token = Token::Prefix;
        }
        if is_value && !was_value {
            self.spans.add(Span { start: end, end });
        }
    }

    /// Writes what is decided of the first `seen` bytes: all but the last `hold`.
    fn write(&mut self, hold: usize, chunk: &[u8], written: &mut usize, seen: usize, out: &mut Vec<u8>) {
        let held = &self.held;
        let decided = seen.saturating_sub(hold);
        self.spans.write(*written, decided, |piece| match piece {
            Piece::Mark => out.extend_from_slice(MARK),
            Piece::Text(Span { start, end }) => {
                let border = held.len();
                out.extend_from_slice(held.get(start.min(border)..end.min(border)).unwrap_or_default());
                let (start, end) = (start.max(border) - border, end.max(border) - border);
                out.extend_from_slice(chunk.get(start..end).unwrap_or_default());
            }
        });
        *written = decided;
    }

    /// Keeps what comes after the first `written` bytes, and counts positions from there.
    fn keep(&mut self, chunk: &[u8], written: usize) {
        let from_held = written.min(self.held.len());
        let from_chunk = written - from_held;
        self.held.drain(..from_held);
        self.held.extend_from_slice(chunk.get(from_chunk..).unwrap_or_default());
        self.spans.shift(written);
    }
}

impl fmt::Debug for Masker {
    /// What is held back may be most of a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

/// The next places of interest in a chunk, remembered so that neither search runs twice over a byte.
#[derive(Default)]
struct Stops {
    pattern: Option<usize>,
    query: Option<usize>,
}

impl Stops {
    fn next(&mut self, automaton: &Automaton, chunk: &[u8], from: usize) -> usize {
        let pattern = match self.pattern {
            Some(at) if at >= from => at,
            Some(_) | None => automaton.skip(chunk, from),
        };
        let query = match self.query {
            Some(at) if at >= from => at,
            Some(_) | None => {
                let rest = chunk.get(from..).unwrap_or_default();
                memchr::memchr2(b'?', b'&', rest).map_or(chunk.len(), |at| from + at)
            }
        };
        (self.pattern, self.query) = (Some(pattern), Some(query));
        pattern.min(query)
    }
}

/// What a token consists of after its prefix.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'=' | b'-')
}

#[cfg(test)]
mod tests;
