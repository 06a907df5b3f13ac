//! Names of things as types, so that one cannot be taken for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A job's number at GitLab, unique on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instance's name at its provider, such as `i-0abc`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One `[[runners]]` entry for as long as its configuration stands: `url|id`, or `url|short token`
/// for old entries without an id, so that a rotated token keeps its fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunnerKey(Arc<str>);

impl RunnerKey {
    pub fn new(url: &str, id: i64, token: &str) -> Self {
        let url = url.trim_end_matches('/');
        if id == 0 { Self(format!("{url}|{}", short_token(token)).into()) } else { Self(format!("{url}|{id}").into()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A claim on capacity, from the reservation before a poll to the release after the job:
/// the runner's short token and 16 hex digits, as the reference logs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReservationKey(Arc<str>);

impl ReservationKey {
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// A fresh key for a runner with this token.
    pub fn random(token: &str) -> Self {
        Self(format!("{}{:016x}", short_token(token), rand::random::<u64>()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a runner or job token that may be shown: known prefixes cut off, then at most nine
/// characters. It names runners in logs, metrics and container names.
pub fn short_token(token: &str) -> &str {
    let rest = strip_prefixes(token);
    let end = rest.char_indices().nth(9).map_or(rest.len(), |(at, _)| at);
    rest.get(..end).unwrap_or(rest)
}

fn strip_prefixes(token: &str) -> &str {
    if let Some(rest) = token.strip_prefix("glrt-") {
        return strip_partition(rest).unwrap_or(rest);
    }
    if let Some(rest) =
        strip_partition(token).or_else(|| token.strip_prefix("glrtr-")).or_else(|| token.strip_prefix("glcbt-"))
    {
        return rest;
    }
    match (token.strip_prefix("GR"), token.get(9..)) {
        (Some(hex), Some(rest)) if hex.bytes().take(7).all(|byte| byte.is_ascii_hexdigit()) => rest,
        _ => token,
    }
}

fn strip_partition(token: &str) -> Option<&str> {
    ["t1_", "t2_", "t3_"].iter().find_map(|prefix| token.strip_prefix(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_token_cuts_prefix_and_length() {
        for (token, short) in [
            ("glrt-t1_abcdefghijK", "abcdefghi"),
            ("glrt-abcdefghijK", "abcdefghi"),
            ("glcbt-64_abcdefghijk", "64_abcdef"),
            ("glrtr-xyz", "xyz"),
            ("GR1348941abcdefghijk", "abcdefghi"),
            ("GR134894gabcdefghijk", "GR134894g"),
            ("t2_short", "short"),
            ("", ""),
        ] {
            assert_eq!(short_token(token), short, "{token}");
        }
    }

    #[test]
    fn runner_key_outlives_a_rotated_token() {
        assert_eq!(
            RunnerKey::new("https://gitlab.example/", 7, "glrt-a"),
            RunnerKey::new("https://gitlab.example", 7, "glrt-b")
        );
        assert_ne!(
            RunnerKey::new("https://gitlab.example", 0, "glrt-a"),
            RunnerKey::new("https://gitlab.example", 0, "glrt-b")
        );
    }
}
