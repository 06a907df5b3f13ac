//! How a server is reached: its address, its connections, and what every exchange with it needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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

/// Between two pieces of a body.
pub(super) const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// The whole of an answer in JSON. The largest known payloads are a few megabytes.
const BODY_WITHIN: Duration = Duration::from_secs(120);
/// The body of an answer whose status says it all. It mostly arrives with the head; nothing waits for more of it.
const REST_WITHIN: Duration = Duration::from_secs(1);

/// Reads a body in JSON up to a limit of bytes and of time; what was read stays of use where it breaks off.
pub(super) async fn read_body(mut response: Response, limit: usize) -> (Bytes, Option<CallError>) {
    let mut body = BytesMut::new();
    let whole = tokio::time::sleep(BODY_WITHIN);
    let mut whole = std::pin::pin!(whole);
    let broken_off = loop {
        let piece = tokio::select! {
            piece = tokio::time::timeout(PIECE_WITHIN, response.chunk()) => piece,
            () = &mut whole => break CallError::Timeout { limit: BODY_WITHIN },
        };
        match piece {
            Ok(Ok(Some(piece))) if body.len() + piece.len() > limit => break CallError::TooLarge { limit },
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return (body.freeze(), None),
            Ok(Err(error)) => break CallError::Body { source: error.without_url() },
            Err(_) => break CallError::Timeout { limit: PIECE_WITHIN },
        }
    };
    (body.freeze(), Some(broken_off))
}

/// Reads as much of a body as has arrived, up to `limit` bytes: the answer counts by its status, and a server must not
/// hold up whoever asked with the rest. A connection whose body is not read to its end serves no further request.
pub(super) async fn read_arrived(mut response: Response, limit: usize) -> Bytes {
    let mut body = BytesMut::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            let room = limit - body.len();
            body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
            if body.len() == limit {
                break;
            }
        }
    };
    // What arrived in time is what there is.
    tokio::time::timeout(REST_WITHIN, reading).await.unwrap_or_default();
    body.freeze()
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
    use futures_util::{StreamExt as _, stream};

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

    fn response(pieces: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Response {
        http::Response::new(reqwest::Body::wrap_stream(pieces)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_and_dripping_bodies_are_given_up() {
        let stalled = || response(stream::once(async { Ok(Bytes::from_static(b"{\"a\"")) }).chain(stream::pending()));
        let (body, error) = read_body(stalled(), 1024).await;
        assert!(matches!(error, Some(CallError::Timeout { limit: PIECE_WITHIN })), "{error:?}");
        assert_eq!(body, "{\"a\"");
        let drips = stream::repeat(()).then(|()| async {
            tokio::time::sleep(PIECE_WITHIN / 2).await;
            Ok(Bytes::from_static(b" "))
        });
        let (_, error) = read_body(response(drips), 1024).await;
        assert!(matches!(error, Some(CallError::Timeout { limit: BODY_WITHIN })), "{error:?}");
        let began = time::now().instant;
        assert_eq!(read_arrived(stalled(), 1024).await, "{\"a\"");
        assert_eq!(time::now().instant - began, REST_WITHIN);
    }

    #[tokio::test]
    async fn no_more_of_a_body_is_kept_than_its_limit() {
        let endless = || response(stream::repeat(()).map(|()| Ok(Bytes::from_static(b"0123456789"))));
        let (body, error) = read_body(endless(), 95).await;
        assert!(matches!(error, Some(CallError::TooLarge { limit: 95 })) && body.len() == 90, "{error:?}");
        assert_eq!(read_arrived(endless(), 95).await.len(), 95);
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
