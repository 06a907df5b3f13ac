//! Patterns of paths with the meaning that artifacts and caches have at GitLab (doublestar, version 4).
//!
//! | pattern | matches |
//! |---|---|
//! | `*` | any run of characters but `/`, a leading dot too |
//! | `?` | one character but `/` |
//! | `**` | as a whole segment: any number of folders; at the end also the folder itself, so `a/**` matches `a`; elsewhere as `*` |
//! | `{x,y}` | one of them; nested, empty and with `/` as they come |
//! | `[a-z]`, `[!x]`, `[^x]` | one character of the class, or none of it |
//! | `\x` | `x` itself |
//!
//! No crate has these rules (`a/**` as `a` is where most differ), so this is our own. A pattern becomes a
//! list of tokens whose positions are the states of an automaton; all states that are possible are kept
//! while a path is read, so no pattern is slow, and a walk through folders can carry the states along and
//! leave out folders where nothing can match.
//!
//! What it must not do: look at files.

use std::collections::BTreeMap;

use thiserror::Error;

/// Most alternatives that the braces of one pattern may amount to: each group multiplies them.
const MAX_ALTERNATIVES: usize = 1_000;

/// A pattern that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum PatternError {
    #[error("syntax error in pattern: '[' without an end, or an empty class")]
    Class,
    #[error("syntax error in pattern: '{{' without '}}'")]
    Brace,
    #[error("syntax error in pattern: it ends with '\\'")]
    Escape,
    #[error("the pattern has more than {MAX_ALTERNATIVES} alternatives")]
    TooManyAlternatives,
}

/// A pattern, ready to match.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// The tokens of all alternatives, each closed by [`Token::End`].
    tokens: Vec<Token>,
    starts: Vec<State>,
}

/// How far a pattern has come in a path: the states that are possible.
#[derive(Clone, Debug)]
pub(super) struct Progress(Vec<State>);

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Run,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `**/`: any number of folders, each with its slash.
    Folders,
    /// `/**` at the end: nothing, or a slash and anything.
    Below,
    /// `**` alone.
    All,
    End,
}

/// A position in the tokens; `inside` is set in the middle of a folder's name ([`Token::Folders`]) and
/// after the slash of [`Token::Below`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    token: usize,
    inside: bool,
}

impl Pattern {
    /// Reads a pattern.
    pub(super) fn new(text: &str) -> Result<Self, PatternError> {
        Self::of_alternatives(&alternatives(text)?)
    }

    /// The alternatives of a pattern by the folder in which their matches lie as far as it is written out, that is
    /// before the first character with a meaning; empty for the root.
    pub(super) fn by_folder(text: &str) -> Result<BTreeMap<String, Self>, PatternError> {
        let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for alternative in alternatives(text)? {
            folders.entry(literal_folder(&alternative).to_owned()).or_default().push(alternative);
        }
        folders.into_iter().map(|(folder, alternatives)| Ok((folder, Self::of_alternatives(&alternatives)?))).collect()
    }

    fn of_alternatives(alternatives: &[String]) -> Result<Self, PatternError> {
        let (mut tokens, mut starts) = (Vec::new(), Vec::new());
        for alternative in alternatives {
            starts.push(State { token: tokens.len(), inside: false });
            compile(alternative, &mut tokens)?;
            tokens.push(Token::End);
        }
        Ok(Self { tokens, starts })
    }

    /// Whether the whole of `path` matches. Paths have no leading or trailing slash.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.is_match(&self.advance(&self.start(), path))
    }

    /// Before the first character.
    pub(super) fn start(&self) -> Progress {
        Progress(self.closure(self.starts.clone()))
    }

    /// After `text` was read as well.
    pub(super) fn advance(&self, from: &Progress, text: &str) -> Progress {
        let mut states = from.0.clone();
        for c in text.chars() {
            if states.is_empty() {
                break;
            }
            let next = states.iter().filter_map(|state| self.step(*state, c)).collect();
            states = self.closure(next);
        }
        Progress(states)
    }

    /// Whether what was read so far is a match.
    pub(super) fn is_match(&self, progress: &Progress) -> bool {
        progress
            .0
            .iter()
            .any(|state| matches!(self.tokens.get(state.token), Some(Token::End | Token::Below | Token::All)))
    }

    /// Where `c` leads from a state, if anywhere.
    fn step(&self, state: State, c: char) -> Option<State> {
        let next = State { token: state.token + 1, inside: false };
        match self.tokens.get(state.token)? {
            Token::Char(wanted) => (*wanted == c).then_some(next),
            Token::One => (c != '/').then_some(next),
            Token::Run => (c != '/').then_some(state),
            Token::Class { negated, ranges } => {
                let within = ranges.iter().any(|(first, last)| (*first..=*last).contains(&c));
                (within != *negated).then_some(next)
            }
            Token::Folders if c == '/' => state.inside.then_some(State { inside: false, ..state }),
            Token::Folders => Some(State { inside: true, ..state }),
            Token::Below => (state.inside || c == '/').then_some(State { inside: true, ..state }),
            Token::All => Some(state),
            Token::End => None,
        }
    }

    /// Adds what can be reached without a character, in order and each once.
    fn closure(&self, mut states: Vec<State>) -> Vec<State> {
        let mut at = 0;
        while let Some(state) = states.get(at).copied() {
            let skippable = matches!(self.tokens.get(state.token), Some(Token::Run | Token::Folders));
            if skippable && !state.inside {
                states.push(State { token: state.token + 1, inside: false });
            }
            at += 1;
        }
        states.sort_unstable();
        states.dedup();
        states
    }
}

impl Progress {
    /// Whether anything that follows can still make a match.
    pub(super) fn can_match(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Whether a text is a pattern rather than a name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// What stands before the last slash before the first character with a meaning.
fn literal_folder(pattern: &str) -> &str {
    let first_meta = pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len());
    pattern.get(..first_meta).and_then(|literal| literal.rsplit_once('/')).map_or("", |(folder, _)| folder)
}

fn alternatives(text: &str) -> Result<Vec<String>, PatternError> {
    let mut alternatives = Vec::new();
    expand_braces(text, &mut alternatives)?;
    Ok(alternatives)
}

/// Appends all texts that the braces stand for.
fn expand_braces(text: &str, alternatives: &mut Vec<String>) -> Result<(), PatternError> {
    let Some(Group { before, choices, after }) = first_group(text)? else {
        if alternatives.len() == MAX_ALTERNATIVES {
            return Err(PatternError::TooManyAlternatives);
        }
        alternatives.push(text.to_owned());
        return Ok(());
    };
    for choice in choices {
        expand_braces(&format!("{before}{choice}{after}"), alternatives)?;
    }
    Ok(())
}

/// A group of braces, with what stands around it.
struct Group<'a> {
    before: &'a str,
    choices: Vec<&'a str>,
    after: &'a str,
}

/// The first group of braces.
fn first_group(text: &str) -> Result<Option<Group<'_>>, PatternError> {
    let mut chars = text.char_indices();
    let (mut in_class, mut open) = (false, None);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            ']' => in_class = false,
            '[' => in_class = true,
            '{' if !in_class => {
                open = Some(at);
                break;
            }
            _ => {}
        }
    }
    let Some(open) = open else { return Ok(None) };
    let (before, inside) = (text.get(..open).unwrap_or_default(), text.get(open + 1..).unwrap_or_default());
    let (mut depth, mut choices, mut choice_start) = (0_usize, Vec::new(), 0);
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                choices.push(inside.get(choice_start..at).unwrap_or_default());
                choice_start = at + 1;
                if c == '}' {
                    let after = inside.get(choice_start..).unwrap_or_default();
                    return Ok(Some(Group { before, choices, after }));
                }
            }
            _ => {}
        }
    }
    Err(PatternError::Brace)
}

/// Appends the tokens of a pattern without braces.
fn compile(pattern: &str, tokens: &mut Vec<Token>) -> Result<(), PatternError> {
    let first = tokens.len();
    let mut chars = pattern.chars().peekable();
    let mut segment_start = true;
    while let Some(c) = chars.next() {
        let at_segment_start = std::mem::replace(&mut segment_start, c == '/');
        match c {
            '*' => {
                let mut stars = 1;
                while chars.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                let whole_segment = stars == 2 && at_segment_start && matches!(chars.peek(), None | Some('/'));
                if !whole_segment {
                    tokens.push(Token::Run);
                } else if chars.next().is_some() {
                    segment_start = true;
                    if tokens.get(first..).and_then(<[Token]>::last) != Some(&Token::Folders) {
                        tokens.push(Token::Folders);
                    }
                } else {
                    end_with_any_folders(tokens, first);
                }
            }
            '?' => tokens.push(Token::One),
            '[' => tokens.push(class(&mut chars)?),
            '\\' => tokens.push(Token::Char(chars.next().ok_or(PatternError::Escape)?)),
            _ => tokens.push(Token::Char(c)),
        }
    }
    Ok(())
}

/// `**` at the end: takes the slash before it, which the folder itself does not have.
fn end_with_any_folders(tokens: &mut Vec<Token>, first: usize) {
    if tokens.get(first..).and_then(<[Token]>::last) == Some(&Token::Folders) {
        tokens.pop();
    }
    if tokens.len() == first {
        tokens.push(Token::All);
    } else {
        // The segment starts here, so the last token is its slash.
        tokens.pop();
        tokens.push(Token::Below);
    }
}

/// The rest of a class, whose `[` has been read. A `-` first, last or after a range is itself.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, PatternError> {
    let negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut ranges: Vec<(char, char)> = Vec::new();
    let mut range_may_follow = false;
    loop {
        let c = chars.next().ok_or(PatternError::Class)?;
        match c {
            ']' if ranges.is_empty() => return Err(PatternError::Class),
            ']' => return Ok(Token::Class { negated, ranges }),
            '-' if range_may_follow && chars.peek() != Some(&']') => {
                let last = escaped(chars.next(), chars)?;
                if let Some(range) = ranges.last_mut() {
                    range.1 = last;
                }
                range_may_follow = false;
            }
            _ => {
                let c = escaped(Some(c), chars)?;
                ranges.push((c, c));
                range_may_follow = true;
            }
        }
    }
}

fn escaped(c: Option<char>, chars: &mut impl Iterator<Item = char>) -> Result<char, PatternError> {
    match c {
        Some('\\') => chars.next().ok_or(PatternError::Class),
        Some(c) => Ok(c),
        None => Err(PatternError::Class),
    }
}

#[cfg(test)]
mod tests;
