//! What was asked, for assertions.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::route::Route;
use crate::ids::JobId;

/// So many of the latest requests are kept.
const LIMIT: usize = 20_000;
/// So much of a body is kept.
pub(super) const BODY_LIMIT: usize = 4 << 10;
/// Headers that matter.
const HEADERS: [&str; 11] = [
    "user-agent",
    "x-request-id",
    "runner-token",
    "job-token",
    "private-token",
    "authorization",
    "content-type",
    "content-range",
    "content-length",
    "accept",
    "host",
];

/// One request and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Since the start of the sandbox.
    pub at: Duration,
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// The headers that matter, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The first 4 KiB; nothing of artifacts.
    pub body: String,
    /// The job that it is about.
    pub job: Option<JobId>,
    /// Absent while it is being answered, and where the connection was lost instead.
    pub status: Option<u16>,
    /// How long it took to answer; a held request, nearly a minute.
    pub took: Option<Duration>,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The latest requests, oldest first.
#[derive(Debug, Default)]
pub struct RequestLog {
    kept: VecDeque<Recorded>,
    forgotten: u64,
}

impl RequestLog {
    /// Notes a request that has come; the number finds it again when it is answered.
    pub(super) fn begin(&mut self, at: Duration, head: &http::request::Parts, route: Route, body: &[u8]) -> u64 {
        if self.kept.len() == LIMIT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        let header = |name: &str| {
            let value = head.headers.get(name)?;
            Some((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        };
        self.kept.push_back(Recorded {
            at,
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            headers: HEADERS.into_iter().filter_map(header).collect(),
            body: String::from_utf8_lossy(body.get(..BODY_LIMIT).unwrap_or(body)).into_owned(),
            job: route.job(),
            status: None,
            took: None,
        });
        self.forgotten + self.kept.len() as u64 - 1
    }

    pub(super) fn end(&mut self, number: u64, at: Duration, status: Option<u16>) {
        let index = number.checked_sub(self.forgotten).and_then(|index| usize::try_from(index).ok());
        if let Some(request) = index.and_then(|index| self.kept.get_mut(index)) {
            request.status = status;
            request.took = Some(at.saturating_sub(request.at));
        }
    }

    /// A copy of what is kept.
    pub fn all(&self) -> Vec<Recorded> {
        self.kept.iter().cloned().collect()
    }
}
