//! The engine's API over streams of any kind.
//!
//! `bollard` speaks the API; where it needs a connection we open a stream through the instance. Streams
//! that the engine hands over (attach, exec) are ours from the first byte: each has a stream of its own
//! and is decoded by [`super::multiplexed`], so that nothing between the agent and us interprets bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::{BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::about::About;
use super::errors;
use super::multiplexed::Multiplexed;
use crate::byte_stream::BoxStream;
use crate::error_chain::Chain;
use crate::excerpt::{excerpt, excerpt_of_bytes};
use crate::fleeting::access::{AccessError, DockerEndpoint, EngineDialer, InstanceAccess};
use crate::job::failure::Fault;

/// What URLs say in place of the instance, as in the reference.
const HOST: &str = "http://internal.tunnel.invalid";

/// How long the engine may take to begin its answer. Starting a container on a busy machine takes
/// seconds; more than this is a hang.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// The most that is read of an engine's refusal, which is a sentence.
const REFUSAL_LIMIT: usize = 64 * 1024;

/// How long the engine may take to hand a stream over. It does so before it starts anything.
const HIJACK_LIMIT: Duration = Duration::from_secs(30);

/// The oldest API that these requests are made for (Docker 19.03).
pub(super) const API_VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 40 };

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(10);

/// The engine of one instance, for one job.
#[derive(Clone)]
pub(crate) struct Engine {
    /// The API's calls.
    pub(crate) api: Docker,
    streams: Streams,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// Why the engine handed over no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HijackError {
    #[error("reaching the engine")]
    Access(#[from] AccessError),
    #[error("reaching the engine")]
    Stream(#[from] io::Error),
    #[error("asking the engine for a stream")]
    Http(#[from] hyper::Error),
    #[error("making a request to the engine")]
    Request(#[from] http::Error),
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error("the engine did not hand over a stream within {} s", HIJACK_LIMIT.as_secs())]
    Silent,
}

impl Engine {
    pub(crate) fn new(
        access: Arc<dyn InstanceAccess>,
        endpoint: DockerEndpoint,
    ) -> Result<Self, bollard::errors::Error> {
        let streams = Streams(Arc::new(Opener { access, endpoint, current: Mutex::default() }));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(streams.clone());
        let transport = move |request: BollardRequest| {
            let answer = client.request(request);
            Box::pin(async move { answer.await.map_err(bollard::errors::Error::from) }) as BoxFuture<'static, _>
        };
        let api = Docker::connect_with_custom_transport(transport, Some(HOST), ANSWER_LIMIT.as_secs(), &API_VERSION)?;
        Ok(Self { api, streams })
    }

    /// Makes sure of a connection to the instance.
    pub(crate) async fn connect(&self) -> Result<(), HijackError> {
        self.streams.0.dialer().await.map(drop)
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// It does not answer, or these requests are not for it.
    pub(crate) async fn about(&self) -> Result<About, Fault> {
        let said = self.api.version().await.map_err(|error| errors::fault(&error))?;
        About::of(&said)
    }

    /// The instance is gone, and nothing will be answered any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.streams.0.access.is_gone()
    }

    /// The streams of a container's main process; to be asked for before it is started.
    pub(crate) async fn attach(&self, container: &str) -> Result<BoxStream, HijackError> {
        let path = format!("/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        self.hijack(&path, Bytes::new()).await
    }

    /// Starts a prepared exec and takes its streams.
    pub(crate) async fn start_exec(&self, exec: &str) -> Result<BoxStream, HijackError> {
        self.hijack(&format!("/exec/{exec}/start"), Bytes::from_static(br#"{"Detach":false,"Tty":false}"#)).await
    }

    async fn hijack(&self, path: &str, body: Bytes) -> Result<BoxStream, HijackError> {
        timeout(HIJACK_LIMIT, self.ask_for_stream(path, body)).await.unwrap_or(Err(HijackError::Silent))
    }

    async fn ask_for_stream(&self, path: &str, body: Bytes) -> Result<BoxStream, HijackError> {
        let stream = self.streams.0.open().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "internal.tunnel.invalid")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::OK {
                return Ok(hyper::upgrade::on(response).await?);
            }
            let body = Limited::new(response.into_body(), REFUSAL_LIMIT).collect().await;
            let message =
                body.map_or_else(|_| format!("the engine answered {status}"), |body| message_of(&body.to_bytes()));
            Err(HijackError::Refused { status, message })
        };
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let mut exchange = std::pin::pin!(exchange);
        // The connection only moves while it is polled, and ends when the stream is handed over.
        let upgraded = tokio::select! {
            upgraded = &mut exchange => upgraded?,
            ended = &mut connection => {
                ended?;
                exchange.await?
            }
        };
        Ok(Box::pin(Multiplexed::new(TokioIo::new(upgraded))))
    }
}

fn message_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice::<Refusal>(body).map_or_else(|_| excerpt_of_bytes(body), |refusal| excerpt(refusal.message))
}

/// Opens streams to the engine, over a new connection to the instance where the last one is lost.
#[derive(Clone, Debug)]
struct Streams(Arc<Opener>);

#[derive(Debug)]
struct Opener {
    access: Arc<dyn InstanceAccess>,
    endpoint: DockerEndpoint,
    current: Mutex<Option<Arc<dyn EngineDialer>>>,
}

impl Opener {
    async fn open(&self) -> Result<BoxStream, HijackError> {
        let known = self.current.lock().await.clone();
        if let Some(dialer) = known {
            match dialer.open().await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.forget(&dialer).await,
                result => return Ok(result?),
            }
        }
        Ok(self.dialer().await?.open().await?)
    }

    async fn dialer(&self) -> Result<Arc<dyn EngineDialer>, HijackError> {
        let mut current = self.current.lock().await;
        if let Some(dialer) = &*current {
            return Ok(Arc::clone(dialer));
        }
        Ok(Arc::clone(current.insert(self.access.engine(self.endpoint.clone()).await?)))
    }

    /// Another task may have replaced it already.
    async fn forget(&self, lost: &Arc<dyn EngineDialer>) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|dialer| Arc::ptr_eq(dialer, lost)) {
            *current = None;
        }
    }
}

impl tower_service::Service<Uri> for Streams {
    type Response = Plain;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Plain>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let opener = Arc::clone(&self.0);
        Box::pin(async move {
            match opener.open().await {
                Ok(stream) => Ok(Plain(TokioIo::new(stream))),
                Err(HijackError::Access(AccessError::Gone(id))) => {
                    Err(io::Error::new(io::ErrorKind::NotFound, format!("instance {id} is gone")))
                }
                Err(error) => Err(io::Error::other(Chain(&error).to_string())),
            }
        })
    }
}

/// A stream as hyper's client takes it.
struct Plain(TokioIo<BoxStream>);

impl Connection for Plain {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    #[tokio::test(start_paused = true)]
    async fn engine_that_hands_over_nothing_is_not_waited_for_forever() {
        let engine = FakeEngine::start(|_| Reply::Silence);
        assert!(matches!(engine.attach("c").await, Err(HijackError::Silent)));
    }
}
