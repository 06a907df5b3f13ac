//! Why bytes from outside could not be decoded, without what they contain.
//!
//! A decoder quotes the value that it did not expect, and the value may be a secret: `invalid type: string "hunter2",
//! expected u32`. Where bytes come from outside, only the kind of the problem and its place are shown.

use serde_json::error::Category;

/// A problem in JSON from outside, and where it stands. Holds nothing of the JSON itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", words(*.category), place(*.line, *.column))]
pub struct DecodeError {
    category: Category,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&serde_json::Error> for DecodeError {
    fn from(error: &serde_json::Error) -> Self {
        Self { category: error.classify(), line: error.line(), column: error.column() }
    }
}

fn words(category: Category) -> &'static str {
    match category {
        Category::Io => "JSON that cannot be read",
        Category::Syntax => "invalid JSON",
        Category::Data => "a missing field, or a value of another type than expected",
        Category::Eof => "JSON that breaks off",
    }
}

/// Empty where the decoder had put the value aside first and does not know its place any more.
fn place(line: usize, column: usize) -> String {
    if line == 0 { String::new() } else { format!(" (line {line}, column {column})") }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Wanted {
        number: u32,
        kind: Kind,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Known,
    }

    fn check(json: &str, expected: &str) {
        let error = serde_json::from_str::<Wanted>(json).unwrap_err();
        let shown = DecodeError::from(error);
        assert_eq!(shown.to_string(), expected, "{json}");
        assert!(!format!("{shown:?}").contains("hunter2"));
    }

    #[test]
    fn value_that_was_not_expected_is_not_quoted() {
        let data = "a missing field, or a value of another type than expected";
        check(r#"{"number":"hunter2"}"#, &format!("{data} (line 1, column 19)"));
        check("{\"number\":1,\n\"kind\":\"hunter2\"}", &format!("{data} (line 2, column 16)"));
        check(r#"{"number":1}"#, &format!("{data} (line 1, column 12)"));
        check("hunter2", "invalid JSON (line 1, column 1)");
        check(r#"{"number":"hun"#, "JSON that breaks off (line 1, column 14)");
    }

    #[test]
    fn serde_itself_would_quote_it() {
        let error = serde_json::from_str::<Wanted>(r#"{"number":"hunter2"}"#).unwrap_err();
        assert!(error.to_string().contains("hunter2"), "the reason for this type is gone: {error}");
        assert!(matches!(serde_json::from_str::<Kind>("\"Known\""), Ok(Kind::Known)));
    }
}
