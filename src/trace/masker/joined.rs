//! Secrets that are cut over the streams of one program: `sec` on standard output, `ret` on standard error.
//!
//! Each stream has a [`Masker`](super::Masker) of its own, which sees the stream's bytes alone. This sees the bytes of
//! all streams of the program in the order in which they arrived, across the ends of stages too. What it finds is in no
//! single stream, so it has work only after one stream follows another in the middle of what could be a secret; until
//! then it only counts bytes.
//!
//! ```text
//! idle: the last stream's own masker knows all ──another stream writes, something is half matched──► carrying
//!   ▲                                                                                                   │
//!   └──────────────────────── nothing of the former streams can be part of a secret any more ───────────┘
//! ```
//!
//! While it carries, each stream holds back those of its bytes that could still be part of a secret; they come out as
//! soon as they cannot, before the bytes that decided it, unless the stream's own masker waits for more. What a stage's end has brought out is gone: only the rest of
//! such a secret is masked.

use std::collections::VecDeque;

use super::automaton::{Automaton, NodeId};
use super::url::Url;
use super::{CompiledMasks, Token, is_token_byte};

/// A stream's place among the streams of a job.
pub(in crate::trace) type StreamIndex = usize;

/// The bytes of several streams in the order of their arrival.
#[derive(Debug, Default)]
pub(in crate::trace) struct Joined {
    /// Whose bytes came last. None where its stage has ended.
    last: Option<StreamIndex>,
    /// How many bytes came from it since another stream's.
    run: usize,
    carry: Option<Carry>,
}

/// Where a stream's own masker stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::trace) struct Tail {
    pub(super) node: NodeId,
    pub(super) token: Token,
    pub(super) url: Url,
}

/// What began in a former stream.
#[derive(Debug)]
struct Carry {
    node: NodeId,
    token: Token,
    url: Url,
    /// The key or value of `url` began in a former stream.
    url_is_carried: bool,
    /// Whose the bytes are that could still be part of a secret, the oldest first.
    parts: VecDeque<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    stream: StreamIndex,
    length: usize,
    /// The end of the stage has brought them out.
    is_out: bool,
}

/// Bytes of a stream that are part of a secret: from `start` up to, not including, `end`, both counted backwards from
/// the stream's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trace) struct Cover {
    pub(in crate::trace) stream: StreamIndex,
    pub(in crate::trace) start: usize,
    pub(in crate::trace) end: usize,
}

/// What was found in the first bytes of a write.
#[derive(Debug, Default)]
pub(in crate::trace) struct Scan {
    /// So many bytes of the write are decided by what came before in other streams. They have to be held back until
    /// `covers` are masked.
    pub(in crate::trace) taken: usize,
    pub(in crate::trace) covers: Vec<Cover>,
}

impl Joined {
    /// Whose bytes came last.
    pub(in crate::trace) fn last(&self) -> Option<StreamIndex> {
        self.last
    }

    /// Another stream writes next; `tail` is where the last one stands.
    pub(in crate::trace) fn switch(&mut self, to: StreamIndex, tail: Option<Tail>, masks: &CompiledMasks) {
        if let Some(tail) = tail {
            self.leave(tail, &masks.0);
        }
        self.last = Some(to);
        self.run = 0;
    }

    /// A stream's stage has ended, and what was held back of it comes out. `tail` is where it stands before that.
    pub(in crate::trace) fn end(&mut self, stream: StreamIndex, tail: Tail, masks: &CompiledMasks) {
        if self.last == Some(stream) {
            self.leave(tail, &masks.0);
            self.run = 0;
        }
        if let Some(carry) = &mut self.carry {
            // What follows a token or an address on the next stage's line is another's.
            (carry.token, carry.url, carry.url_is_carried) = (Token::Outside, Url::Outside, false);
            carry.parts.iter_mut().filter(|part| part.stream == stream).for_each(|part| part.is_out = true);
        }
    }

    /// Takes a write of the stream that [`Joined::last`] names.
    pub(in crate::trace) fn scan(&mut self, bytes: &[u8], masks: &CompiledMasks) -> Scan {
        let mut scan = Scan::default();
        if let (Some(stream), Some(carry)) = (self.last, &mut self.carry) {
            scan = carry.scan(stream, bytes, &mut self.run, &masks.0);
            if carry.is_dry(self.run, &masks.0) {
                self.carry = None;
            }
        }
        self.run += bytes.len() - scan.taken;
        scan
    }

    /// How many of a stream's last bytes could still be part of a secret that began in another one.
    pub(in crate::trace) fn hold(&self, stream: StreamIndex) -> usize {
        let parts = self.carry.iter().flat_map(|carry| &carry.parts);
        parts.filter(|part| part.stream == stream && !part.is_out).map(|part| part.length).sum()
    }

    /// Keeps what the last stream leaves unfinished.
    fn leave(&mut self, tail: Tail, automaton: &Automaton) {
        let Some(stream) = self.last.take() else { return };
        if let Some(carry) = &mut self.carry {
            carry.url_is_carried = carry.url != Url::Outside;
            return;
        }
        // Of what its masker has matched, what began before its run is in this stream alone.
        let node = automaton.within(tail.node, self.run);
        let part = Part { stream, length: automaton.hold(node), is_out: false };
        let Tail { token, url, .. } = tail;
        let carry = Carry { node, token, url, url_is_carried: url != Url::Outside, parts: VecDeque::from([part]) };
        if !carry.is_dry(0, automaton) {
            self.carry = Some(carry);
        }
    }
}

impl Carry {
    /// Nothing that began before the last `run` bytes can go on.
    fn is_dry(&self, run: usize, automaton: &Automaton) -> bool {
        automaton.hold(self.node) <= run && self.token == Token::Outside && !self.url_is_carried
    }

    fn scan(&mut self, stream: StreamIndex, bytes: &[u8], run: &mut usize, automaton: &Automaton) -> Scan {
        let mut taken = 0;
        // Distances from the end of the stream at the byte after which each was found.
        let mut found: Vec<(usize, Cover)> = Vec::new();
        // Bytes of a token or a query's value, without a gap up to here.
        let mut open = 0;
        for &byte in bytes {
            if self.is_dry(*run, automaton) {
                break;
            }
            self.push(stream);
            (taken, *run) = (taken + 1, *run + 1);
            if self.is_in_value(byte) | self.is_in_token(byte) {
                open += 1;
                if open > 1 {
                    found.pop_if(|(at, cover)| *at + 1 == taken && cover.start == open - 1 && cover.stream == stream);
                }
                found.push((taken, Cover { stream, start: open, end: 0 }));
            } else {
                open = 0;
            }
            self.node = automaton.step(self.node, byte);
            if let Some(length) = automaton.phrase(self.node).filter(|length| *length > *run) {
                self.cover(length, taken, &mut found);
            }
            if self.token == Token::Outside && automaton.prefix(self.node) {
                self.token = Token::Prefix;
            }
            self.trim(automaton.hold(self.node));
        }
        let moved = |(at, cover): (usize, Cover)| {
            let by = if cover.stream == stream { taken - at } else { 0 };
            Cover { start: cover.start + by, end: cover.end + by, ..cover }
        };
        Scan { taken, covers: found.into_iter().map(moved).collect() }
    }

    /// Whether the next byte belongs to a query's value that began in a former stream.
    fn is_in_value(&mut self, byte: u8) -> bool {
        let was_value = self.url == Url::Value;
        self.url = self.url.step(byte);
        // A key that begins here is the stream's own masker's.
        self.url_is_carried &= self.url != Url::Outside && !matches!(byte, b'?' | b'&');
        self.url_is_carried && was_value && self.url == Url::Value
    }

    fn is_in_token(&mut self, byte: u8) -> bool {
        self.token = match self.token {
            Token::Prefix | Token::Inside if is_token_byte(byte) => Token::Inside,
            Token::Outside | Token::Prefix | Token::Inside => Token::Outside,
        };
        self.token == Token::Inside
    }

    fn push(&mut self, stream: StreamIndex) {
        match self.parts.back_mut() {
            Some(part) if part.stream == stream && !part.is_out => part.length += 1,
            Some(_) | None => self.parts.push_back(Part { stream, length: 1, is_out: false }),
        }
    }

    /// Keeps the parts of the last `length` bytes.
    fn trim(&mut self, length: usize) {
        let mut excess = self.parts.iter().map(|part| part.length).sum::<usize>().saturating_sub(length);
        while let Some(part) = self.parts.front_mut().filter(|_| excess > 0) {
            let by = part.length.min(excess);
            (part.length, excess) = (part.length - by, excess - by);
            if part.length == 0 {
                self.parts.pop_front();
            }
        }
    }

    /// The last `length` bytes, whosever they are, are a secret.
    fn cover(&self, length: usize, at: usize, found: &mut Vec<(usize, Cover)>) {
        let mut rest = length;
        let mut lengths: Vec<(StreamIndex, usize)> = Vec::new();
        for part in self.parts.iter().rev() {
            let here = part.length.min(rest);
            rest -= here;
            if part.is_out || here == 0 {
                continue;
            }
            match lengths.iter_mut().find(|(stream, _)| *stream == part.stream) {
                Some((_, length)) => *length += here,
                None => lengths.push((part.stream, here)),
            }
        }
        found.extend(lengths.into_iter().map(|(stream, start)| (at, Cover { stream, start, end: 0 })));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Masker, Masks};
    use super::*;

    /// Two streams as a trace has them; each write's output is noted in the order in which it comes out.
    struct Streams {
        masks: CompiledMasks,
        maskers: [Masker; 2],
        joined: Joined,
        out: [String; 2],
        all: String,
    }

    impl Streams {
        fn new(phrases: &[&str]) -> Self {
            let mut masks = Masks::with_default_prefixes(true);
            phrases.iter().for_each(|phrase| masks.add_phrase(phrase));
            let masks = CompiledMasks::new(&masks);
            let maskers = [Masker::new(masks.clone()), Masker::new(masks.clone())];
            Self { masks, maskers, joined: Joined::default(), out: Default::default(), all: String::new() }
        }

        fn feed(&mut self, stream: usize, bytes: &[u8], hold: usize) {
            let mut out = Vec::new();
            self.maskers[stream].feed_holding(bytes, hold, &mut out);
            self.note(stream, &out);
        }

        fn note(&mut self, stream: usize, out: &[u8]) {
            self.out[stream].push_str(str::from_utf8(out).unwrap());
            self.all.push_str(str::from_utf8(out).unwrap());
        }

        fn write(&mut self, stream: usize, text: &str) {
            if self.joined.last() != Some(stream) {
                let tail = self.joined.last().map(|last| self.maskers[last].tail());
                self.joined.switch(stream, tail, &self.masks);
            }
            let scan = self.joined.scan(text.as_bytes(), &self.masks);
            let (carried, rest) = text.as_bytes().split_at(scan.taken);
            if !carried.is_empty() {
                self.feed(stream, carried, usize::MAX);
                for cover in scan.covers {
                    self.maskers[cover.stream].cover(cover.start, cover.end);
                }
                self.feed(1 - stream, &[], self.joined.hold(1 - stream));
            }
            self.feed(stream, rest, self.joined.hold(stream));
        }

        fn end(&mut self, stream: usize) {
            let tail = self.maskers[stream].tail();
            self.joined.end(stream, tail, &self.masks);
            let mut out = Vec::new();
            self.maskers[stream].flush(&mut out);
            self.note(stream, &out);
        }
    }

    /// Writes are `1:text` and `2:text`; an end of both streams is `end`.
    fn check(phrases: &[&str], writes: &[&str], stdout: &str, stderr: &str) {
        let mut streams = Streams::new(phrases);
        for write in writes {
            match write.split_once(':') {
                Some(("1", text)) => streams.write(0, text),
                Some(("2", text)) => streams.write(1, text),
                _ => (0..2).for_each(|stream| streams.end(stream)),
            }
        }
        (0..2).for_each(|stream| streams.end(stream));
        assert_eq!([streams.out[0].as_str(), streams.out[1].as_str()], [stdout, stderr], "{writes:?}");
    }

    #[test]
    fn secret_cut_over_two_streams_is_masked_in_both() {
        check(&["secret"], &["1:a sec", "2:ret b"], "a [MASKED]", "[MASKED] b");
        check(&["secret"], &["2:sec", "1:ret\n", "2:\n"], "[MASKED]\n", "[MASKED]\n");
        check(&["secret"], &["1:s", "2:e", "1:c", "2:r", "1:e", "2:t"], "[MASKED]", "[MASKED]");
        check(&["secret"], &["1:xs", "2:e", "1:cr", "2:etx", "1:y"], "x[MASKED]y", "[MASKED]x");
        check(&["secret"], &["1:se", "2:c", "2:r", "2:et secret", "1:!"], "[MASKED]!", "[MASKED] [MASKED]");
        check(&["aab"], &["1:a", "2:a", "1:a", "2:b"], "a[MASKED]", "[MASKED]");
        check(&["ab", "bc"], &["1:a", "2:b", "1:c"], "[MASKED][MASKED]", "[MASKED]");
        check(&["secret"], &["1:secret", "2:secret"], "[MASKED]", "[MASKED]");
    }

    #[test]
    fn text_that_only_begins_like_a_secret_stays() {
        check(&["secret"], &["1:sec", "2:rot"], "sec", "rot");
        check(&["secret"], &["1:s", "2:e", "1:c", "2:r", "1:e", "2:x", "1:t"], "scet", "erx");
        check(&["secret"], &["2:ret", "1:sec"], "sec", "ret");
        check(&["secret"], &["1:sec", "2:r", "1:X", "2:et"], "secX", "ret");
    }

    #[test]
    fn secret_of_one_stream_is_masked_whatever_another_prints_between() {
        check(&["secret"], &["1:sec", "2:err\n", "1:ret"], "[MASKED]", "err\n");
        check(&["secret", "err"], &["1:sec", "2:err", "1:ret"], "[MASKED]", "[MASKED]");
    }

    #[test]
    fn tokens_and_values_of_queries_go_on_in_another_stream() {
        check(&[], &["1:glpat-", "2:abc d"], "glpat-", "[MASKED] d");
        check(&[], &["1:glpat-ab", "2:cd e"], "glpat-[MASKED]", "[MASKED] e");
        check(&[], &["1:gl", "2:pat-abc\n"], "gl", "pat-[MASKED]\n");
        check(&[], &["1:?private_", "2:token=abc x"], "?private_", "token=[MASKED] x");
        check(&[], &["1:?sig=a", "2:b&x=c"], "?sig=[MASKED]", "[MASKED]&x=c");
    }

    /// The limit: what a stage's end brings out stands in the trace before the rest of the secret is known.
    #[test]
    fn of_a_secret_that_is_cut_by_a_stages_end_the_rest_is_masked() {
        check(&["secret"], &["1:sec", "end", "1:ret\n"], "sec[MASKED]\n", "");
        check(&["secret"], &["1:sec", "end", "2:re", "1:t\n"], "sec[MASKED]\n", "[MASKED]");
        check(&["secret"], &["1:sec", "end", "1:X ret\n"], "secX ret\n", "");
        check(&[], &["1:glpat-abc", "end", "1:Done\n"], "glpat-[MASKED]Done\n", "");
    }

    #[test]
    fn bytes_come_out_as_soon_as_they_cannot_be_part_of_a_secret() {
        let mut streams = Streams::new(&["secret"]);
        streams.write(0, "a sec");
        assert_eq!(streams.all, "a ");
        streams.write(1, "re");
        assert_eq!(streams.all, "a ");
        streams.write(1, "X");
        assert_eq!((streams.all.as_str(), streams.joined.hold(0)), ("a reX", 0));
        streams.write(0, "tent\n");
        assert_eq!(streams.all, "a reXsectent\n");
        streams.write(1, &"plain text\n".repeat(1000));
        assert!(streams.joined.carry.is_none());
    }

    fn piece() -> impl Strategy<Value = (usize, &'static str)> {
        let text =
            prop::sample::select(vec!["a", "b", "c", "ab", "ca", "aab", "abcab", " ", "x\n", "glpat-", "gl", "pat-"]);
        (0_usize..2, text)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// In the order of arrival no visible bytes without a gap are a phrase, whosever they are; where there is
        /// nothing to mask, each stream comes out as it is.
        #[test]
        fn no_phrase_is_left_whatever_streams_it_is_cut_over(
            pieces in prop::collection::vec(piece(), 0..40),
            phrases in prop::collection::vec("[abc]{2,6}", 1..4),
        ) {
            let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
            let mut streams = Streams::new(&phrases);
            let (mut whole, mut owners) = (String::new(), Vec::new());
            for (stream, text) in &pieces {
                streams.write(*stream, text);
                whole.push_str(text);
                owners.extend(text.bytes().map(|_| *stream));
            }
            (0..2).for_each(|stream| streams.end(stream));
            // A phrase is found in the order of arrival, and in each stream alone.
            let mut is_secret = vec![false; whole.len()];
            let orders = [vec![0, 1], vec![0], vec![1]];
            for order in &orders {
                let places: Vec<usize> = (0..whole.len()).filter(|at| order.contains(&owners[*at])).collect();
                let text: Vec<u8> = places.iter().map(|at| whole.as_bytes()[*at]).collect();
                for phrase in &phrases {
                    for start in (0..text.len()).filter(|start| text[*start..].starts_with(phrase.as_bytes())) {
                        places[start..start + phrase.len()].iter().for_each(|at| is_secret[*at] = true);
                    }
                }
            }
            for stream in 0..2 {
                let own = (0..whole.len()).filter(|at| owners[*at] == stream);
                let mut expected = String::new();
                let mut was_secret = false;
                for at in own {
                    if !is_secret[at] {
                        expected.push(char::from(whole.as_bytes()[at]));
                    } else if !was_secret {
                        expected.push('#');
                    }
                    was_secret = is_secret[at];
                }
                let mut shown = streams.out[stream].replace("[MASKED]", "#");
                while shown.contains("##") {
                    shown = shown.replace("##", "#");
                }
                // Tokens are masked on top of it; the streams without one must agree exactly.
                if !whole.contains("glpat-") && !whole.contains("pat-") {
                    prop_assert_eq!(shown, expected, "{:?} {:?}", &pieces, &phrases);
                }
            }
        }
    }
}
