//! Words from outside (an agent, an engine, a registry, a server) as far as they are worth keeping.
//!
//! Who sends them chooses their length. They are cut where they enter, so that no error, record or log line carries
//! megabytes of them.

/// Longest text that is kept of one message from outside: an engine's or registry's errors are shorter, and a reader
/// needs no more to know what failed.
pub const LONGEST: usize = 2 * 1024;

/// The text, or its beginning with a note of how long it was.
pub fn excerpt(text: impl Into<String>) -> String {
    cut(text.into(), LONGEST)
}

/// As [`excerpt`], of bytes that need not be text.
pub fn excerpt_of_bytes(bytes: &[u8]) -> String {
    // Three bytes more keep a character whole that begins within the limit.
    let seen = bytes.get(..LONGEST + 3).unwrap_or(bytes);
    let text = String::from_utf8_lossy(seen).trim().to_owned();
    if seen.len() == bytes.len() { excerpt(text) } else { cut_of(text, LONGEST, bytes.len()) }
}

/// The text, or its first `longest` bytes with a note of how long it was.
pub fn cut(text: String, longest: usize) -> String {
    let length = text.len();
    if length <= longest { text } else { cut_of(text, longest, length) }
}

fn cut_of(mut text: String, longest: usize, length: usize) -> String {
    text.truncate(text.floor_char_boundary(longest));
    // What was cut is given back: the text may have had megabytes.
    text.shrink_to_fit();
    text.extend(["… (cut: it has ", &length.to_string(), " bytes)"]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_stays_as_it_is() {
        for text in ["", "no such image", &"é".repeat(LONGEST / 2)] {
            assert_eq!(excerpt(text), text);
            assert_eq!(excerpt_of_bytes(text.as_bytes()), text);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters_and_says_so() {
        let text = format!("a{}", "é".repeat(1 << 20));
        let expected = format!("a{}… (cut: it has 2097153 bytes)", "é".repeat((LONGEST - 1) / 2));
        let shown = excerpt(text.clone());
        assert_eq!(shown, expected);
        assert!(shown.capacity() < 2 * LONGEST, "{}", shown.capacity());
        assert_eq!(excerpt_of_bytes(text.as_bytes()), expected);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_far_as_they_are() {
        assert_eq!(excerpt_of_bytes(b" a\xffb\n"), "a\u{fffd}b");
        assert!(excerpt_of_bytes(&[0xff; 1 << 20]).len() < 2 * LONGEST);
    }
}
