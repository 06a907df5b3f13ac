//! An engine for tests: each request, by its body, gets the reply that the test chose, over streams in memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::client::Engine;
use crate::byte_stream::BoxStream;
use crate::fleeting::access::{About, AccessError, DockerEndpoint, EngineDialer, InstanceAccess};
use crate::ids::InstanceId;

/// What becomes of a request.
pub(crate) enum Reply {
    /// A status and a JSON body.
    Status(u16, String),
    /// 200, then each piece after its wait, then the end.
    Slow(Vec<(Duration, String)>),
    /// No answer, and the connection stays.
    Silence,
    /// The connection ends instead.
    Cut,
}

/// By the request's first line and its body.
type Replies = Arc<dyn Fn(String, String) -> Reply + Send + Sync>;

/// The engine and the instance that it runs on.
pub(crate) struct FakeEngine {
    id: InstanceId,
    replies: Replies,
}

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeEngine").finish_non_exhaustive()
    }
}

impl FakeEngine {
    pub(crate) fn start(replies: impl Fn(String) -> Reply + Send + Sync + 'static) -> Engine {
        Self::start_by_line(move |_, body| replies(body))
    }

    /// For tests that tell requests apart by what they ask for.
    pub(crate) fn start_by_line(replies: impl Fn(String, String) -> Reply + Send + Sync + 'static) -> Engine {
        let access = Self { id: InstanceId::new("i-1"), replies: Arc::new(replies) };
        Engine::new(Arc::new(access), DockerEndpoint::default()).expect("a client")
    }
}

impl InstanceAccess for FakeEngine {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn about(&self) -> BoxFuture<'_, Result<About, AccessError>> {
        Box::pin(async { Err(AccessError::Gone(self.id.clone())) })
    }

    fn exec<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<BoxStream, AccessError>> {
        Box::pin(async { Err(AccessError::Gone(self.id.clone())) })
    }

    fn upload<'a>(&'a self, _: &'a str, _: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(async { Err(AccessError::Gone(self.id.clone())) })
    }

    fn engine(&self, _: DockerEndpoint) -> BoxFuture<'_, Result<Arc<dyn EngineDialer>, AccessError>> {
        Box::pin(async { Ok(Arc::new(Dialer(Arc::clone(&self.replies))) as Arc<dyn EngineDialer>) })
    }
}

struct Dialer(Replies);

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl EngineDialer for Dialer {
    fn open(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            // It ends with the client's side of the stream.
            #[expect(clippy::disallowed_methods, reason = "a test's engine has no parent")]
            tokio::spawn(serve(far, Arc::clone(&self.0)));
            Ok(Box::pin(near) as BoxStream)
        })
    }
}

/// One request a connection.
async fn serve(mut stream: DuplexStream, replies: Replies) -> io::Result<()> {
    let (line, body) = read_request(&mut stream).await?;
    match replies(line, body) {
        Reply::Cut => {}
        Reply::Silence => drop(stream.read_u8().await),
        Reply::Status(status, body) => {
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
        }
        Reply::Slow(pieces) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
            for (wait, piece) in pieces {
                tokio::time::sleep(wait).await;
                stream.write_all(piece.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

/// The request's first line and its body.
async fn read_request(stream: &mut DuplexStream) -> io::Result<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((line, String::from_utf8_lossy(&body).into_owned()))
}
