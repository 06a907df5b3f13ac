//! An instance over SSH, as the rest of the program sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::channel::ByteStream;
use super::docker::DockerConnection;
use super::error::{DialError, ExecError, ForwardError};
use super::exec::Command;
use super::instance::Instance;
use crate::byte_stream::BoxStream;
use crate::error_chain::Chain;
use crate::fleeting::access::{
    About, AccessError, DockerEndpoint, EngineDialer, InstanceAccess, InstanceConnector, NotReady, Readiness, Settings,
};
use crate::ids::InstanceId;

/// Mode of a program on an instance.
const PROGRAM_MODE: u32 = 0o755;

impl InstanceAccess for Instance {
    fn id(&self) -> &InstanceId {
        Self::id(self)
    }

    fn is_gone(&self) -> bool {
        Self::is_gone(self)
    }

    fn about(&self) -> BoxFuture<'_, Result<About, AccessError>> {
        Box::pin(async {
            let info = self.info().await.map_err(|error| dial_failed(self, error))?;
            Ok(About {
                architecture: info.arch.clone(),
                internal_address: info.internal_addr.clone(),
                external_address: info.external_addr.clone(),
            })
        })
    }

    fn exec<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<BoxStream, AccessError>> {
        Box::pin(async move {
            let stream = self.stream(command).await.map_err(|error| exec_failed(self, error))?;
            Ok(Box::pin(WithLastWords::new(stream, ByteStream::stderr_tail)) as BoxStream)
        })
    }

    fn upload<'a>(&'a self, folder: &'a str, name: &'a str, content: Bytes) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(async move {
            let made =
                self.run(Command::new(format!("mkdir -p ~/{folder}"))).await.and_then(|output| output.into_stdout());
            made.map_err(|error| exec_failed(self, error))?;
            let path = format!("~/{folder}/{name}");
            Self::upload(self, &path, PROGRAM_MODE, content).await.map_err(|error| exec_failed(self, error))
        })
    }

    fn engine(&self, endpoint: DockerEndpoint) -> BoxFuture<'_, Result<Arc<dyn EngineDialer>, AccessError>> {
        Box::pin(async move {
            let connection = self.docker(endpoint).await.map_err(|error| dial_failed(self, error))?;
            Ok(Arc::new(connection) as Arc<dyn EngineDialer>)
        })
    }
}

impl InstanceConnector for Instance {
    fn ready<'a>(&'a self, readiness: &'a Readiness) -> BoxFuture<'a, Result<(), NotReady>> {
        Box::pin(async move { Self::ready(self, readiness).await.map_err(NotReady::from) })
    }

    fn liveness(&self) -> BoxFuture<'_, Result<(), AccessError>> {
        Box::pin(async { Self::liveness(self).await.map_err(|error| exec_failed(self, error)) })
    }

    fn reconfigure(&self, settings: Settings) {
        Self::reconfigure(self, settings);
    }

    fn mark_gone(&self) {
        Self::mark_gone(self);
    }

    fn settings(&self) -> Settings {
        Self::settings(self)
    }
}

impl EngineDialer for DockerConnection {
    fn open(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async {
            match Self::open(self).await {
                Ok(stream) => Ok(Box::pin(stream) as BoxStream),
                Err(error) => Err(io::Error::new(forward_kind(&error), Chain(&error).to_string())),
            }
        })
    }
}

fn forward_kind(error: &ForwardError) -> io::ErrorKind {
    if matches!(error, ForwardError::Lost { .. }) { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other }
}

fn dial_failed(instance: &Instance, error: DialError) -> AccessError {
    let id = Instance::id(instance).clone();
    if instance.is_gone() || matches!(error, DialError::Gone { .. }) {
        AccessError::Gone(id)
    } else if error.is_retryable() {
        AccessError::Unreachable { id, source: Box::new(error) }
    } else {
        AccessError::Refused { id, source: Box::new(error) }
    }
}

fn exec_failed(instance: &Instance, error: ExecError) -> AccessError {
    if let ExecError::Dial(error) = error {
        return dial_failed(instance, error);
    }
    let id = Instance::id(instance).clone();
    if instance.is_gone() {
        AccessError::Gone(id)
    } else if error.is_lost() {
        AccessError::Unreachable { id, source: Box::new(error) }
    } else {
        AccessError::Refused { id, source: Box::new(error) }
    }
}

/// A command's stream that ends with what the command said to standard error, as long as it has said nothing but
/// text: frames begin with a NUL, which text does not contain.
struct WithLastWords<S> {
    stream: S,
    stderr: fn(&S) -> String,
    words: Words,
}

enum Words {
    /// Nothing but text so far.
    Wanted,
    Left(Bytes),
    Unwanted,
}

impl<S> WithLastWords<S> {
    fn new(stream: S, stderr: fn(&S) -> String) -> Self {
        Self { stream, stderr, words: Words::Wanted }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithLastWords<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Words::Left(left) = &mut this.words {
                buffer.put_slice(&left.split_to(left.len().min(buffer.remaining())));
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            let Words::Wanted = this.words else { return Poll::Ready(Ok(())) };
            let read = buffer.filled().get(before..).unwrap_or_default();
            if read.is_empty() && buffer.remaining() > 0 {
                this.words = Words::Left((this.stderr)(&this.stream).into());
                continue;
            }
            if read.contains(&0) {
                this.words = Words::Unwanted;
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithLastWords<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn read(stdout: &'static [u8]) -> Vec<u8> {
        let mut stream = WithLastWords::new(stdout, |_| "sh: helper: not found".to_owned());
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        read
    }

    #[tokio::test]
    async fn standard_error_is_the_last_word_of_what_spoke_no_frames() {
        assert_eq!(read(b"").await, b"sh: helper: not found");
        assert_eq!(read(b"Welcome!\n").await, b"Welcome!\nsh: helper: not found");
        assert_eq!(read(b"Welcome!\n\0flotilla agent\n").await, b"Welcome!\n\0flotilla agent\n");
    }
}
