//! Makes a stream valid UTF-8: each byte that belongs to no character becomes U+FFFD.

/// What stands for one bad byte.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// The longest unfinished character.
const LONGEST_START: usize = 3;

/// Holds back a character whose end has not come yet, so that the result does not depend on how the
/// input was cut.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    started: [u8; LONGEST_START],
    started_len: usize,
}

impl Utf8 {
    /// Whether these bytes, if they are the next ones, come out as they are.
    pub(super) fn passes(&self, chunk: &[u8]) -> bool {
        self.started_len == 0 && str::from_utf8(chunk).is_ok()
    }

    /// Takes the next bytes and appends valid text to `out`.
    pub(super) fn feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let mut rest = chunk;
        while self.started_len > 0 && !rest.is_empty() {
            // At most one byte more than the character's start is looked at, so four are enough.
            let mut bytes = [0; LONGEST_START + 1];
            let len = self.started_len + 1;
            bytes[..self.started_len].copy_from_slice(&self.started[..self.started_len]);
            bytes[len - 1] = rest[0];
            rest = &rest[1..];
            self.started_len = 0;
            self.convert(&bytes[..len], out);
        }
        self.convert(rest, out);
    }

    /// The end of the stream: an unfinished character will not be finished.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        for _ in 0..std::mem::take(&mut self.started_len) {
            out.extend_from_slice(REPLACEMENT);
        }
    }

    fn convert(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        loop {
            let error = match str::from_utf8(bytes) {
                Ok(text) => return out.extend_from_slice(text.as_bytes()),
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            out.extend_from_slice(valid);
            let Some(bad) = error.error_len() else {
                self.started_len = rest.len().min(LONGEST_START);
                return self.started[..self.started_len].copy_from_slice(&rest[..self.started_len]);
            };
            // Only the first byte is known to be bad; those after it may begin a character.
            debug_assert!(bad >= 1, "an error covers at least one byte");
            out.extend_from_slice(REPLACEMENT);
            bytes = &rest[1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each byte that begins no character is replaced: stated without regard to chunks.
    fn reference(mut bytes: &[u8]) -> String {
        let mut text = String::new();
        while !bytes.is_empty() {
            let whole = (1..=bytes.len().min(4)).find_map(|len| str::from_utf8(&bytes[..len]).ok());
            text.push_str(whole.unwrap_or("\u{fffd}"));
            bytes = &bytes[whole.map_or(1, str::len)..];
        }
        text
    }

    fn sanitised<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> String {
        let (mut utf8, mut out) = (Utf8::default(), Vec::new());
        for chunk in chunks {
            utf8.feed(chunk, &mut out);
        }
        utf8.flush(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_bad_byte_becomes_one_replacement_and_characters_survive_cuts() {
        for (chunks, expected) in [
            (&[&b"caf\xc3"[..], b"\xa9!"][..], "café!"),
            (&[b"\xf0", b"\x9f", b"\x98", b"\x80"], "😀"),
            (&[b"a\xffb"], "a\u{fffd}b"),
            (&[b"\xe2\x82", b"x"], "\u{fffd}\u{fffd}x"),
            (&[b"\xe2", b"\xe2\x82\xac"], "\u{fffd}€"),
            (&[b"end\xf0\x9f"], "end\u{fffd}\u{fffd}"),
            (&[b"\xed\xa0\x80"], "\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(sanitised(chunks.iter().copied()), expected, "{chunks:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_what_the_whole_gives(
            bytes in prop::collection::vec(prop::sample::select(vec![b'a', 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xff, 0xed, 0xa0]), 0..40),
            cuts in prop::collection::vec(1usize..5, 1..40),
        ) {
            let mut chunks = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(sanitised(chunks), reference(&bytes));
        }
    }
}
