//! The name of an image, by the grammar of the distribution project's references.
//!
//! ```text
//! reference = name [":" tag] ["@" digest]  |  64 hexadecimal digits (an image's id)
//! name      = [domain "/"] path {"/" path}
//! ```
//!
//! Image names become parts of an engine's URLs and are compared with allow-lists, so nothing else is accepted: no
//! empty or dotted path segment, no backslash, no character that means something in a URL.

use std::fmt;
use std::str::FromStr;

/// The longest name without tag and digest, as the grammar has it.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
/// The longest digest that any algorithm has, with its name before it.
const LONGEST_DIGEST: usize = 255;
const ID_DIGITS: usize = 64;
/// Fewer digits are no digest.
const SHORTEST_DIGEST: usize = 32;
/// The algorithm that image ids are written with.
const ID_ALGORITHM: &str = "sha256:";

/// A parsed name. It prints exactly as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    text: String,
    /// Where the name ends.
    name_ends: usize,
    /// Where the digest begins, after its `@`.
    digest_begins: Option<usize>,
}

/// The text is not an image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name {text:?}: {wrong}")]
pub struct InvalidReference {
    text: String,
    wrong: &'static str,
}

impl ImageReference {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Without tag and digest.
    pub fn name(&self) -> &str {
        self.text.get(..self.name_ends).unwrap_or_default()
    }

    /// The tag, where one is written.
    pub fn tag(&self) -> Option<&str> {
        let end = self.digest_begins.map_or(self.text.len(), |begin| begin - 1);
        self.text.get(self.name_ends..end)?.strip_prefix(':')
    }

    /// The digest, such as `sha256:…`, where one is written.
    pub fn digest(&self) -> Option<&str> {
        self.text.get(self.digest_begins?..)
    }

    /// Whether it is an image's id, with or without its algorithm: there is nothing to pull.
    pub fn is_id(&self) -> bool {
        is_id(self.text.strip_prefix(ID_ALGORITHM).unwrap_or(&self.text))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |wrong| InvalidReference { text: text.to_owned(), wrong };
        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let (name, tag) = match tagged.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            Some(_) | None => (tagged, None),
        };
        if let Some(wrong) = wrong_name(name) {
            return Err(invalid(wrong));
        }
        if !tag.is_none_or(is_tag) {
            return Err(invalid("a tag is up to 128 letters, digits, \"_\", \".\" and \"-\""));
        }
        if !digest.is_none_or(is_digest) {
            return Err(invalid("a digest is an algorithm, a colon and hexadecimal digits"));
        }
        let digest_begins = digest.map(|digest| text.len() - digest.len());
        Ok(Self { text: text.to_owned(), name_ends: name.len(), digest_begins })
    }
}

fn wrong_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("the name is empty");
    }
    if name.len() > LONGEST_NAME {
        return Some("a name has at most 255 characters");
    }
    let (first, rest) = match name.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    let path_is_right = rest.is_none_or(|rest| rest.split('/').all(is_path));
    let first_is_right = is_path(first) || (rest.is_some() && is_domain(first));
    (!path_is_right || !first_is_right)
        .then_some("a name is lower-case letters and digits, with single \".\", \"_\" or \"-\" between them and \"/\" between its parts; a registry's host and port may come first")
}

/// Letters and digits with separators between them: `.`, `_`, `__` or any number of `-`.
fn is_path(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = part;
    loop {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let Some((_, after)) = rest.split_at_checked(word).filter(|_| word > 0) else { return false };
        if after.is_empty() {
            return true;
        }
        let separator = after.find(is_word).unwrap_or(after.len());
        let Some((separator, next)) = after.split_at_checked(separator) else { return false };
        if !matches!(separator, "." | "_" | "__") && !separator.bytes().all(|byte| byte == b'-') {
            return false;
        }
        rest = next;
    }
}

/// A host's name or address, and a port.
fn is_domain(text: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_address = !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
        return is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port.is_none_or(is_port) && host.split('.').all(is_label)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, digits)) = digest.split_once(':') else { return false };
    let is_component = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    digest.len() <= LONGEST_DIGEST
        && algorithm.split(['+', '.', '-', '_']).all(is_component)
        && digits.len() >= SHORTEST_DIGEST
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:7173b809ca12ec5dee4506cd86be934c4596dd234ee82c0662eac04a8c2c71dc";

    fn check(text: &str, name: &str, tag: Option<&str>, digest: Option<&str>) {
        let parsed: ImageReference = text.parse().unwrap();
        assert_eq!((parsed.name(), parsed.tag(), parsed.digest(), parsed.as_str()), (name, tag, digest, text));
    }

    #[test]
    fn names_that_registries_know_have_their_parts() {
        check("alpine", "alpine", None, None);
        check("alpine:3.20", "alpine", Some("3.20"), None);
        check("localhost:5000/a/b", "localhost:5000/a/b", None, None);
        check("localhost:5000/a/b:1", "localhost:5000/a/b", Some("1"), None);
        check("Registry.Example/a_b/c--d/e__f.g:T", "Registry.Example/a_b/c--d/e__f.g", Some("T"), None);
        check("[fd00::1]:5000/a", "[fd00::1]:5000/a", None, None);
        check(&format!("a/b@{DIGEST}"), "a/b", None, Some(DIGEST));
        check(&format!("a/b:1@{DIGEST}"), "a/b", Some("1"), Some(DIGEST));
        let id = DIGEST.trim_start_matches(ID_ALGORITHM);
        for id in [id, DIGEST] {
            assert!(id.parse::<ImageReference>().unwrap().is_id(), "{id}");
        }
        assert!(!"alpine".parse::<ImageReference>().unwrap().is_id());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in [
            "",
            "ok.example/team/../../../images/other:latest",
            "ruby:x\\..\\..\\images\\other:latest",
            "a/%2e%2e/b",
            "a/./b",
            "a//b",
            "/a",
            "a/",
            "a?fromImage=b",
            "a#b",
            "a b",
            "a\nb",
            "a\u{0}b",
            "ä",
            "Alpine",
            "a/B",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:",
            "a:-x",
            "a:b c",
            "a@",
            "a@sha256",
            "a@sha256:00",
            "a@sha256:..",
            "host:port/a",
            "[::1/a",
            "[::1]5000/a",
            "../a",
            "..",
        ] {
            let error = text.parse::<ImageReference>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("invalid image name {text:?}: ")), "{error}");
        }
        assert!("a".repeat(LONGEST_NAME + 1).parse::<ImageReference>().is_err());
        assert!(format!("a:{}", "b".repeat(LONGEST_TAG + 1)).parse::<ImageReference>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_plain_path_of_a_url(text in "[a-zA-Z0-9./:@_%?#\\\\\\[\\] -]{0,40}|\\PC{0,20}") {
            if let Ok(parsed) = text.parse::<ImageReference>() {
                prop_assert_eq!(parsed.as_str(), text.as_str());
                prop_assert!(!text.contains(['\\', '%', '?', '#', ' ']) && text.is_ascii());
                prop_assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
