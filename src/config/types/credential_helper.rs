//! The name of a Docker credential helper: what follows `docker-credential-` in its program's name.

use std::fmt;
use std::str::FromStr;

/// No program's name is longer on any file system, with its prefix.
const LONGEST: usize = 128;

/// A name without a path in it, such as `ecr-login`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialHelper(String);

impl CredentialHelper {
    /// The helpers of large clouds: a job may name them where the operator has written no list.
    pub const OF_CLOUDS: [&'static str; 3] = ["ecr-login", "gcloud", "gcr"];

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the program, to be found on the search path.
    pub fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }
}

impl fmt::Display for CredentialHelper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CredentialHelper {
    type Err = CredentialHelperError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(CredentialHelperError::Empty);
        }
        if text.contains(['/', '\\']) || text.contains("..") {
            return Err(CredentialHelperError::Path);
        }
        if text.len() > LONGEST || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(CredentialHelperError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Why a text is no helper's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialHelperError {
    #[error("a credential helper's name is empty")]
    Empty,
    #[error("path traversal is not allowed in a credential helper's name")]
    Path,
    #[error("a credential helper's name has at most {LONGEST} characters and no blanks")]
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_helpers() {
        for name in CredentialHelper::OF_CLOUDS.into_iter().chain(["pass", "acr-env", "corp_2.0"]) {
            let helper: CredentialHelper = name.parse().unwrap();
            assert_eq!((helper.as_str(), helper.program()), (name, format!("docker-credential-{name}")));
        }
        for (text, error) in [
            ("", CredentialHelperError::Empty),
            ("../sh", CredentialHelperError::Path),
            ("..", CredentialHelperError::Path),
            ("x/../../bin/sh", CredentialHelperError::Path),
            ("x\\y", CredentialHelperError::Path),
            ("a b", CredentialHelperError::Name),
            ("a\0", CredentialHelperError::Name),
            (&"a".repeat(LONGEST + 1), CredentialHelperError::Name),
        ] {
            assert_eq!(text.parse::<CredentialHelper>(), Err(error), "{text:?}");
        }
    }
}
