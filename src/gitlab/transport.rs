//! How a server is reached: its address, its connections, and what every exchange with it needs.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;

use super::connections::{CurrentClient, Pool};
use super::error::{CallError, ClientError};
use super::{retry, url};
use crate::excerpt::excerpt;
use crate::secret::Secret;
use crate::time;

pub(super) const REQUEST_ID: &str = "x-request-id";
const RATE_LIMIT_RESET: &str = "ratelimit-resettime";

/// How a server is reached: the root of its API and the connections.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    pub(super) root: Url,
    pool: Arc<Pool>,
}

impl Transport {
    pub(super) fn new(url: &str, pool: Arc<Pool>) -> Result<Self, ClientError> {
        Ok(Self { root: url::api_root(url)?, pool })
    }

    pub(super) fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = url::join(&self.root, path);
        url.set_query(query);
        url
    }

    /// The same server, reached under the scheme, host and port of another URL: the host is the same, or one of
    /// `hosts`. None where tokens and files must not go there.
    pub(super) fn moved_to(&self, target: &Url, hosts: &[String]) -> Option<Self> {
        let downgrade = self.root.scheme() == "https" && target.scheme() == "http";
        let is_known = target.host_str() == self.root.host_str()
            || target.host_str().is_some_and(|host| hosts.iter().any(|known| known.eq_ignore_ascii_case(host)));
        let mut root = self.root.clone();
        let moved = !downgrade
            && is_known
            && matches!(target.scheme(), "http" | "https")
            && root.set_scheme(target.scheme()).is_ok()
            && root.set_host(target.host_str()).is_ok()
            && root.set_port(target.port()).is_ok();
        moved.then(|| Self { root, pool: Arc::clone(&self.pool) })
    }

    /// The HTTP client for the next request.
    pub(super) fn http(&self) -> Result<CurrentClient, ClientError> {
        self.pool.current()
    }
}

/// A token as a header that libraries do not print.
pub(super) fn token_value(token: &Secret) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(token.expose()).map_err(|_| ClientError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Waits for the head of an answer.
pub(super) async fn within(
    limit: Duration,
    answer: impl Future<Output = reqwest::Result<Response>>,
) -> Result<Response, CallError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| CallError::Transport { source: error.without_url() }),
        Err(_) => Err(CallError::Timeout { limit }),
    }
}

/// A header's value, where it has one that is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// How long an answer asks us to wait.
pub(super) fn wish(headers: &HeaderMap) -> Option<Duration> {
    retry::wish(text(headers, RATE_LIMIT_RESET), text(headers, RETRY_AFTER.as_str()), time::now().utc)
}

/// A fresh id in the form of a random UUID without dashes.
pub(super) fn request_id() -> String {
    let random: u128 = rand::random();
    let version = random & !(0xf << 76) | 0x4 << 76;
    format!("{:032x}", version & !(0x3 << 62) | 0x2 << 62)
}

/// What an answer with an error says: GitLab's `message`, a text or a map of lists, or object storage's in XML.
pub(super) fn message(status: StatusCode, body: &[u8]) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let json = serde_json::from_slice::<Value>(body).ok();
    let said = excerpt(json.as_ref().and_then(|body| body.get("message")).map_or_else(|| xml_message(body), flatten));
    if said.is_empty() {
        format!("{} {reason}", status.as_u16())
    } else {
        format!("{} {reason} ({said})", status.as_u16())
    }
}

fn flatten(message: &Value) -> String {
    match message {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(flatten).collect::<Vec<_>>().join("; "),
        Value::Object(fields) => {
            fields.iter().map(|(field, text)| format!("{field}: {}", flatten(text))).collect::<Vec<_>>().join(", ")
        }
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => message.to_string(),
    }
}

fn xml_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(said, _)| said.to_owned())
    };
    [element("Code"), element("Message")].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_every_form_they_come_in() {
        let status = StatusCode::BAD_REQUEST;
        for (body, expected) in [
            ("", "400 Bad Request"),
            ("<html>", "400 Bad Request"),
            (r#"{"message":"no"}"#, "400 Bad Request (no)"),
            (r#"{"message":{"token":["a","b"],"tag":["c"]}}"#, "400 Bad Request (tag: c, token: a; b)"),
            ("<Error><Code>Denied</Code><Message>late</Message></Error>", "400 Bad Request (Denied: late)"),
        ] {
            assert_eq!(message(status, body.as_bytes()), expected);
        }
    }

    #[test]
    fn long_messages_of_a_server_are_cut() {
        let long = "no ".repeat(1 << 20);
        for body in [format!(r#"{{"message":"{long}"}}"#), format!("<Message>{long}</Message>")] {
            let shown = message(StatusCode::BAD_REQUEST, body.as_bytes());
            assert!(shown.len() < 3_000 && shown.starts_with("400 Bad Request (no no"), "{}", shown.len());
        }
    }

    #[test]
    fn request_ids_are_random_uuids_without_dashes() {
        let id = request_id();
        assert_eq!(id.len(), 32);
        assert_eq!(id.as_bytes()[12], b'4', "{id}");
        assert!(matches!(id.as_bytes()[16], b'8' | b'9' | b'a' | b'b'), "{id}");
        assert_ne!(id, request_id());
    }

    #[test]
    fn an_upload_moves_to_the_same_host_or_one_that_the_operator_lists_and_never_off_tls() {
        let pool = super::super::tests::connections().pool(&super::super::tls::TlsFiles::default()).unwrap();
        let from = Transport::new("https://gitlab.example", pool).unwrap();
        let listed = ["uploads.example".to_owned()];
        for (target, moves) in [
            ("https://gitlab.example/x", true),
            ("https://gitlab.example:8443/x", true),
            ("https://UPLOADS.example/x", true),
            ("http://gitlab.example/x", false),
            ("https://evil.example/x", false),
            ("https://gitlab.example.evil.example/x", false),
            ("https://gitlab.example@evil.example/x", false),
            ("ftp://gitlab.example/x", false),
        ] {
            assert_eq!(from.moved_to(&Url::parse(target).unwrap(), &listed).is_some(), moves, "{target}");
        }
    }
}
