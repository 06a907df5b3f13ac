//! `allowed_images` and its kin: patterns over image names, with the meaning of the doublestar library.
//!
//! `*` and `?` stop at `/`; `**` crosses it where it is a whole segment and is a `*` elsewhere; `[a-z]`, `[!a]`,
//! `{a,b}` and `\` are as usual. A leading `!`, which the reference's documents show but its code does not know,
//! denies here.

use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

/// One pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matchers: Vec<GlobMatcher>,
}

impl Pattern {
    /// As in the file.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        self.matchers.iter().any(|matcher| matcher.is_match(name))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A trailing `/**` matches no segment too: `my/**` is also `my`.
        let folder = text.strip_suffix("/**").filter(|folder| !folder.is_empty());
        let matchers = std::iter::once(text).chain(folder).map(compile).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), matchers })
    }
}

fn compile(pattern: &str) -> Result<GlobMatcher, PatternError> {
    let mut builder = GlobBuilder::new(pattern);
    builder.literal_separator(true).backslash_escape(true).empty_alternates(true);
    let glob = builder.build().map_err(|error| PatternError { detail: error.kind().to_string() })?;
    Ok(glob.compile_matcher())
}

/// A list of patterns, some of which may deny.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllowList {
    allowed: Vec<Pattern>,
    denied: Vec<Pattern>,
    texts: Vec<String>,
}

impl AllowList {
    /// Adds one entry of the file; a leading `!` makes it deny.
    pub fn push(&mut self, text: &str) -> Result<(), PatternError> {
        match text.strip_prefix('!') {
            Some(rest) => self.denied.push(rest.parse()?),
            None => self.allowed.push(text.parse()?),
        }
        self.texts.push(text.to_owned());
        Ok(())
    }

    /// The patterns as in the file, for messages.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// An empty list allows everything.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether the name matches a pattern and none that denies; an empty list allows everything.
    pub fn allows(&self, name: &str) -> bool {
        self.is_empty()
            || (self.allowed.iter().any(|pattern| pattern.matches(name))
                && !self.denied.iter().any(|pattern| pattern.matches(name)))
    }
}

/// The pattern is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct PatternError {
    detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> AllowList {
        let mut list = AllowList::default();
        for pattern in patterns {
            list.push(pattern).unwrap();
        }
        list
    }

    #[test]
    fn patterns_match_as_doublestar_does() {
        for (pattern, name, matches) in [
            ("*", "alpine:3", true),
            ("*", "a/b", false),
            ("**", "a/b/c:1", true),
            ("**", "", true),
            ("*", "", true),
            ("ruby:*", "ruby:2.6", true),
            ("ruby:*", "x/ruby:2.6", false),
            ("a**", "a/b", false),
            ("a**", "abc", true),
            ("**:latest", "a/b:latest", false),
            ("**:latest", "b:latest", true),
            ("my/**", "my/a/b", true),
            ("my/**", "my", true),
            ("my/**", "myx", false),
            ("**/b", "b", true),
            ("**/b", "x/y/b", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "axb", false),
            ("?", "/", false),
            ("a[b-d]e", "ace", true),
            ("a[!b]e", "abe", false),
            ("a[^b]e", "ace", true),
            ("{ruby,python}:*", "python:3", true),
            ("{ruby,python}:*", "perl:5", false),
            ("{a,{b,c}}", "c", true),
            ("x{,y}", "x", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("Ruby", "ruby", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(name), matches, "{pattern} on {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[a", "{a", "a}", "[z-a]"] {
            assert!(pattern.parse::<Pattern>().is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_empty_list_allows_all_and_a_denial_wins() {
        assert!(list(&[]).allows("anything/at:all"));
        let no_kali = list(&["**", "!*/kali*"]);
        assert!(no_kali.allows("library/alpine"));
        assert!(!no_kali.allows("library/kali-linux"));
        assert!(!list(&["!*/kali*"]).allows("alpine"), "a denial alone allows nothing");
    }
}
