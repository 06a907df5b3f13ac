//! An error with all its causes in one line: `reading the key: permission denied`.

use std::error::Error;
use std::fmt;

use crate::decode_error::DecodeError;

/// Shows an error and its sources, joined by `: `. Errors of this project name only their own step,
/// so that nothing is said twice. What a JSON decoder says is shown without the value that it quotes.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, f)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            f.write_str(": ")?;
            show(error, f)?;
            cause = error.source();
        }
        Ok(())
    }
}

fn show(error: &(dyn Error + 'static), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error.downcast_ref::<serde_json::Error>() {
        Some(json) => write!(f, "{}", DecodeError::from(json)),
        None => write!(f, "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading the answer")]
    struct Reading(#[source] serde_json::Error);

    #[test]
    fn values_that_a_decoder_quotes_are_left_out() {
        let error = Reading(serde_json::from_str::<u32>("\"hunter2\"").unwrap_err());
        assert!(error.source().unwrap().to_string().contains("hunter2"));
        assert_eq!(
            Chain(&error).to_string(),
            "reading the answer: a missing field, or a value of another type than expected (line 1, column 9)"
        );
    }
}
