//! The few calls to this machine's Docker Engine that the demo needs before it starts: whether one answers,
//! and an image for the jobs. Jobs themselves reach the engine through their instances, as always.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Where engines listen, and what `local` instances forward.
pub(super) const SOCKET: &str = "/var/run/docker.sock";

/// An engine that does not answer a simple question in this time is not used.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pulling takes as long as the network does; nobody waits longer for a demo.
const PULL_LIMIT: Duration = Duration::from_secs(180);
/// The progress of a pull is some hundred kilobytes.
const BODY_LIMIT: usize = 8 << 20;

/// An engine by its socket. Each call has a connection of its own.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    socket: PathBuf,
}

/// Why the engine does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("connecting")]
    Connect(#[source] io::Error),
    #[error("asking the engine")]
    Http(#[from] hyper::Error),
    #[error("asking the engine")]
    Request(#[from] http::Error),
    #[error("reading the engine's answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the engine answers {status}: {message}")]
    Status { status: StatusCode, message: String },
}

/// What an engine says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    #[serde(rename = "Version")]
    pub(super) version: String,
    /// As Go names it.
    #[serde(rename = "Arch")]
    pub(super) architecture: String,
}

impl Engine {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(super) async fn version(&self) -> Result<Version, EngineError> {
        let body = self.call(Method::GET, "/version", Bytes::new(), ANSWER_LIMIT).await?;
        serde_json::from_slice(&body).map_err(|error| EngineError::Body(Box::new(error)))
    }

    pub(super) async fn has_image(&self, name: &str) -> Result<bool, EngineError> {
        match self.call(Method::GET, &format!("/images/{name}/json"), Bytes::new(), ANSWER_LIMIT).await {
            Ok(_) => Ok(true),
            Err(EngineError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes an image of a file tree.
    pub(super) async fn import(&self, repository: &str, tree: Bytes) -> Result<(), EngineError> {
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag=latest");
        finished(&self.call(Method::POST, &path, tree, ANSWER_LIMIT).await?)
    }

    pub(super) async fn pull(&self, repository: &str, tag: &str) -> Result<(), EngineError> {
        let path = format!("/images/create?fromImage={repository}&tag={tag}");
        finished(&self.call(Method::POST, &path, Bytes::new(), PULL_LIMIT).await?)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes, limit: Duration) -> Result<Bytes, EngineError> {
        let answer = tokio::time::timeout(limit, self.exchange(method, path, body)).await;
        answer.unwrap_or(Err(EngineError::Late(limit)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, EngineError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(EngineError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection moves while the answer is read, and ends with this call.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "docker")
            .header(header::CONTENT_TYPE, "application/x-tar")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(EngineError::Body)?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(EngineError::Status { status, message: message(&body) }) }
    }
}

/// An image that could not be made or fetched is told in the last lines of a 200.
fn finished(progress: &[u8]) -> Result<(), EngineError> {
    #[derive(Deserialize)]
    struct Step {
        error: Option<String>,
    }
    let steps = serde_json::Deserializer::from_slice(progress).into_iter::<Step>();
    match steps.filter_map(Result::ok).find_map(|step| step.error) {
        Some(error) => Err(EngineError::Refused(error)),
        None => Ok(()),
    }
}

fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).trim().to_owned(), |refusal| refusal.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_among_the_progress_is_a_failure() {
        assert!(finished(b"{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n").is_ok());
        let failed = finished(b"{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{},\"error\":\"no such host\"}\r\n");
        assert_eq!(failed.unwrap_err().to_string(), "no such host");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_no_engine() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(&folder.path().join("docker.sock"));
        assert!(matches!(engine.version().await, Err(EngineError::Connect(_))));
    }
}
