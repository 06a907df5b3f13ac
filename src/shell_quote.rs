//! Quoting of words for POSIX shells.
//!
//! One form for all shells: bare where every byte is harmless, else single quotes, which take every
//! byte but the quote itself literally, in dash as in bash. So it does not matter which shell an image
//! turns out to have.

use std::borrow::Cow;

/// `word` as one word of a POSIX shell, meaning itself. A NUL, which no shell can hold, is left out.
pub fn quote(word: &str) -> Cow<'_, str> {
    if !word.is_empty() && word.bytes().all(is_harmless) {
        return Cow::Borrowed(word);
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('\'');
    for (index, part) in word.split('\'').enumerate() {
        if index > 0 {
            quoted.push_str(r"'\''");
        }
        quoted.extend(part.chars().filter(|c| *c != '\0'));
    }
    quoted.push('\'');
    Cow::Owned(quoted)
}

/// Bytes without a meaning to any shell in an argument.
fn is_harmless(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'%' | b'_' | b',' | b'.' | b'/' | b':' | b'+' | b'=' | b'-')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn harmless_words_stay_bare_and_others_are_quoted() {
        for (word, quoted) in [
            ("", "''"),
            ("a/b,c@d_e-f.g:h=i", "a/b,c@d_e-f.g:h=i"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("'", r"''\'''"),
            ("a;b", "'a;b'"),
            ("~", "'~'"),
            ("{a,b}", "'{a,b}'"),
            ("é", "'é'"),
            ("a\nb", "'a\nb'"),
            ("a\0b", "'ab'"),
        ] {
            assert_eq!(quote(word), quoted, "{word:?}");
        }
    }

    fn read_by(shell: &str, word: &str) -> String {
        let script = format!("printf %s {}", quote(word));
        let output = Command::new(shell).arg("-c").arg(script).output().expect("a shell");
        assert!(output.status.success(), "{shell}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn each_shell_reads_back_what_was_quoted(word in "([ -~]|[\\n\\t\\r]|\\PC|['\"\\\\$`!~;]){0,40}") {
            for shell in ["bash", "dash"] {
                prop_assert_eq!(read_by(shell, &word), word.as_str());
            }
        }
    }
}
