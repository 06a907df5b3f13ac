//! Everything that is wrong with a file, said at once: where, what was found, what to write instead.
//!
//! A diagnostic is data. It prints as text with the lines of the file under it, or as JSON. Secrets of the file
//! are covered with asterisks before any line of it is shown.

mod render;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::secrecy;

pub use render::Style;

/// Bytes of the file's text.
pub type Span = Range<usize>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The config is refused.
    Error,
    /// The config is used; a part of it may not do what was meant.
    Warning,
}

impl Severity {
    /// The word in both forms of output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A key's place in the file, in two forms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath {
    shown: Arc<str>,
    plain: Arc<str>,
}

impl KeyPath {
    /// The file itself.
    pub fn root() -> Self {
        Self { shown: "".into(), plain: "".into() }
    }

    /// A key of this table.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let under = |parent: &str| if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        Self { shown: under(&self.shown).into(), plain: under(&self.plain).into() }
    }

    /// An element of this list, by its name or number.
    #[must_use]
    pub fn element(&self, label: &str) -> Self {
        Self { shown: format!("{}[{label}]", self.shown).into(), plain: Arc::clone(&self.plain) }
    }

    /// `runners[gitlab].docker.image`: for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// `image` of `runners.docker.image`.
    pub fn key_name(&self) -> &str {
        self.plain.rsplit('.').next().unwrap_or(&self.plain)
    }

    /// `runners.docker.image`: the same for all elements of a list.
    pub fn plain(&self) -> &str {
        &self.plain
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.shown.is_empty() { "the file" } else { &self.shown })
    }
}

/// Where something stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub span: Span,
    pub path: KeyPath,
}

impl Spot {
    /// The beginning of the file, for what is missing as a whole.
    pub fn file() -> Self {
        Self { span: 0..0, path: KeyPath::root() }
    }

    /// A key that this section does not have: reported at the section.
    #[must_use]
    pub fn missing(&self, key: &str) -> Self {
        Self { span: self.span.clone(), path: self.path.key(key) }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub spot: Spot,
    /// What is wrong and what was found; no full stop.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// The problems of one file.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
    secrets: Vec<Span>,
}

impl Diagnostics {
    /// Adds an error. Returns it so that a help may follow.
    pub fn error(&mut self, spot: &Spot, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Error, spot, message.into())
    }

    /// Adds a warning. Returns it so that a help may follow.
    pub fn warning(&mut self, spot: &Spot, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Warning, spot, message.into())
    }

    fn add(&mut self, severity: Severity, spot: &Spot, message: String) -> &mut Diagnostic {
        // Messages quote values, and a URL's login is a secret under any key.
        let message = secrecy::without_logins(&message);
        self.items.push_mut(Diagnostic { severity, spot: spot.clone(), message, help: None })
    }

    /// Marks bytes of the file that must never be shown.
    pub fn hide(&mut self, span: Span) {
        self.secrets.push(span);
    }

    /// Whether any of these bytes must not be shown.
    pub fn hides(&self, span: &Span) -> bool {
        self.secrets.iter().any(|secret| secret.start < span.end && span.start < secret.end)
    }

    /// Drops what does not satisfy the condition.
    pub fn retain(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.items.retain(keep);
    }

    /// Adds those of another part of the work on the same file.
    pub fn extend(&mut self, other: Self) {
        self.items.extend(other.items);
        self.secrets.extend(other.secrets);
    }

    /// Puts them into the order of the file.
    pub fn sort(&mut self) {
        self.items.sort_by_key(|item| (item.spot.span.start, item.severity));
    }

    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    pub fn errors(&self) -> usize {
        self.items.iter().filter(|item| item.is_error()).count()
    }

    pub fn warnings(&self) -> usize {
        self.items.len() - self.errors()
    }

    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }
}

impl Diagnostic {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Says what to write instead.
    pub fn help(&mut self, help: impl Into<String>) {
        self.help = Some(secrecy::without_logins(&help.into()));
    }
}

/// The file that diagnostics are about.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).map_or(0, |line| line.chars().count());
        (before.matches('\n').count() + 1, column + 1)
    }

    /// The text with these bytes covered, and with what the text alone shows to be secret. Line breaks and length stay, so that spans still fit.
    fn covered(&self, secrets: &[Span]) -> String {
        let found = secrecy::secrets(&self.text);
        let hidden = |at: usize| secrets.iter().chain(&found).any(|span| span.contains(&at));
        let mut text = String::with_capacity(self.text.len());
        for (at, letter) in self.text.char_indices() {
            if hidden(at) && letter != '\n' && letter != '"' && letter != '\'' {
                text.extend(std::iter::repeat_n('*', letter.len_utf8()));
            } else {
                text.push(letter);
            }
        }
        text
    }
}
