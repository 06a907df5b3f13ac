//! `pull_policy`: when an image is fetched.

use std::fmt;
use std::str::FromStr;

/// One attempt's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The words of the file and of the job's payload.
    pub const NAMES: [&'static str; 3] = ["always", "if-not-present", "never"];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfNotPresent => "if-not-present",
            Self::Never => "never",
        }
    }
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PullPolicy {
    type Err = PullPolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "if-not-present" => Ok(Self::IfNotPresent),
            "never" => Ok(Self::Never),
            _ => Err(PullPolicyError),
        }
    }
}

/// The word is no pull policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pull policy is always, if-not-present or never")]
pub struct PullPolicyError;

#[cfg(test)]
mod tests {
    use super::PullPolicy;

    #[test]
    fn the_words_are_exact() {
        for name in PullPolicy::NAMES {
            assert_eq!(name.parse::<PullPolicy>().unwrap().to_string(), name);
        }
        for text in ["", "Always", "ifnotpresent", "if_not_present", "missing"] {
            assert!(text.parse::<PullPolicy>().is_err(), "{text}");
        }
    }
}
