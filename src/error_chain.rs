//! An error with all its causes in one line: `reading the key: permission denied`.

use std::error::Error;
use std::fmt;

/// Shows an error and its sources, joined by `: `. Errors of this project name only their own step,
/// so that nothing is said twice.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
