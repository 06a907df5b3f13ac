//! Variables in paths: `$NAME`, `${NAME}` and `${NAME:-default}`, as the text of a here-document in a shell
//! would have them.
//!
//! Quotes are ordinary characters, and a backslash keeps its place but before `$`, a backquote, another
//! backslash or, in a default, a closing brace. What would run a command is refused, as is anything that a name, a default, an alternative
//! or a demand does not cover: the caller says so and takes the text as it is.

use thiserror::Error;

/// Defaults may hold expansions, up to this depth.
const MAX_DEPTH: usize = 16;

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ExpandError {
    #[error("commands are not run in paths")]
    Command,
    #[error("'${{' without '}}'")]
    Unclosed,
    #[error("'${{{0}}}' is not understood")]
    Unknown(String),
    #[error("{name}: {message}")]
    Unset { name: String, message: String },
}

/// Replaces the variables of a text; one that is not set is empty.
pub(super) fn expand<'a>(text: &str, lookup: &dyn Fn(&str) -> Option<&'a str>) -> Result<String, ExpandError> {
    expand_at(text, lookup, 0)
}

fn expand_at<'a>(text: &str, lookup: &dyn Fn(&str) -> Option<&'a str>, depth: usize) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\', '`']) {
        let (literal, special) = rest.split_at(at);
        expanded.push_str(literal);
        let mut chars = special.chars();
        let kind = chars.next();
        let after = chars.as_str();
        rest = match (kind, chars.next()) {
            (Some('`'), _) | (Some('$'), Some('(')) => return Err(ExpandError::Command),
            (Some('\\'), Some(escaped)) if matches!(escaped, '$' | '\\' | '`') || depth > 0 && escaped == '}' => {
                expanded.push(escaped);
                chars.as_str()
            }
            (Some('\\'), Some('\n')) => chars.as_str(),
            (Some('$'), Some('{')) => {
                let (inside, behind) = braced(chars.as_str()).ok_or(ExpandError::Unclosed)?;
                expanded.push_str(&parameter(inside, lookup, depth)?);
                behind
            }
            (Some('$'), Some(first)) if is_name_start(first) => {
                let end = after.find(|c| !is_name_part(c)).unwrap_or(after.len());
                let (name, behind) = after.split_at(end);
                expanded.push_str(lookup(name).unwrap_or_default());
                behind
            }
            // Positional and special parameters are empty: there is no shell that has them.
            (Some('$'), Some('0'..='9' | '@' | '*' | '#' | '?' | '-' | '!' | '$')) => chars.as_str(),
            (kind, _) => {
                expanded.extend(kind);
                after
            }
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// The inside of `${…}`, whose opening has been read, and what stands behind it.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut before = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {}
            '{' if before == Some('$') => depth += 1,
            '}' if depth == 0 => return Some((text.get(..at)?, text.get(at + 1..)?)),
            '}' => depth -= 1,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        before = Some(c);
    }
    None
}

fn parameter<'a>(inside: &str, lookup: &dyn Fn(&str) -> Option<&'a str>, depth: usize) -> Result<String, ExpandError> {
    let unknown = || ExpandError::Unknown(inside.to_owned());
    let name_end = inside.find(|c| !is_name_part(c)).unwrap_or(inside.len());
    let (name, operation) = inside.split_at(name_end);
    if !name.starts_with(is_name_start) || depth >= MAX_DEPTH {
        return Err(unknown());
    }
    let value = lookup(name);
    // With a colon, an empty value is as good as none.
    let (value, operation) = match operation.strip_prefix(':') {
        Some(operation) => (value.filter(|value| !value.is_empty()), operation),
        None => (value, operation),
    };
    let mut chars = operation.chars();
    let operator = chars.next();
    let word = || expand_at(chars.as_str(), lookup, depth + 1);
    match (operator, value) {
        (None, value) if inside == name => Ok(value.unwrap_or_default().to_owned()),
        (Some('-' | '=' | '?'), Some(value)) => Ok(value.to_owned()),
        (Some('-' | '='), None) | (Some('+'), Some(_)) => word(),
        (Some('+'), None) => Ok(String::new()),
        (Some('?'), None) => {
            let message = word()?;
            let message = if message.is_empty() { "parameter null or not set".to_owned() } else { message };
            Err(ExpandError::Unset { name: name.to_owned(), message })
        }
        (None | Some(_), _) => Err(unknown()),
    }
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, ExpandError> {
        let variables = [("A", "x"), ("EMPTY", ""), ("LONG_1", "y z"), ("DOLLAR", "$A")];
        expand(text, &|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
    }

    #[test]
    fn variables_are_replaced_once() {
        for (text, expected) in [
            ("", ""),
            ("plain/*.txt", "plain/*.txt"),
            ("$A/b", "x/b"),
            ("${A}b", "xb"),
            ("$A$A", "xx"),
            ("a$LONG_1-b", "ay z-b"),
            ("$NONE/b", "/b"),
            ("${NONE}", ""),
            ("$DOLLAR", "$A"),
            ("$ $% 5$", "$ $% 5$"),
            ("$1$@x", "x"),
            ("ä$A€", "äx€"),
            (r#""$A" '$A'"#, r#""x" 'x'"#),
        ] {
            assert_eq!(expanded(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn defaults_and_alternatives_follow_the_shell() {
        for (text, expected) in [
            ("${A:-d}", "x"),
            ("${NONE:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NONE-d}", "d"),
            ("${NONE:=d}", "d"),
            ("${A:+alt}", "alt"),
            ("${EMPTY:+alt}", ""),
            ("${EMPTY+alt}", "alt"),
            ("${NONE:+alt}", ""),
            ("${NONE:-${A}/$A}", "x/x"),
            ("${NONE:-${NONE:-deep}}!", "deep!"),
            (r"${NONE:-a\}b}", "a}b"),
            ("${NONE:-}", ""),
            ("${A:?needed}", "x"),
        ] {
            assert_eq!(expanded(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn backslashes_only_guard_what_would_be_special() {
        for (text, expected) in [
            (r"\$A", "$A"),
            (r"\\$A", r"\x"),
            (r"we\[i\]rd", r"we\[i\]rd"),
            (r"\`x", "`x"),
            (r#"\""#, r#"\""#),
            (r"a\", r"a\"),
        ] {
            assert_eq!(expanded(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let unknown = |text: &str| Err(ExpandError::Unknown(text.to_owned()));
        for (text, expected) in [
            ("$(id)", Err(ExpandError::Command)),
            ("`id`", Err(ExpandError::Command)),
            ("$((1+2))", Err(ExpandError::Command)),
            ("${A", Err(ExpandError::Unclosed)),
            ("${}", unknown("")),
            ("${A%x}", unknown("A%x")),
            ("${#A}", unknown("#A")),
            ("${A:}", unknown("A:")),
            ("${1}", unknown("1")),
            ("${NONE:?where is it}", Err(ExpandError::Unset { name: "NONE".into(), message: "where is it".into() })),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
    }

    #[test]
    fn endless_nesting_ends() {
        assert!(expanded(&format!("{}x{}", "${N:-".repeat(1_000), "}".repeat(1_000))).is_err());
    }
}
