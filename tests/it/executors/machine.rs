//! This machine as an instance: its shell, its engine, and streams that can be cut.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use flotilla::byte_stream::BoxStream;
use flotilla::fleeting::access::{About, AccessError, DockerEndpoint, EngineDialer, InstanceAccess};
use flotilla::ids::InstanceId;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Debug)]
pub(crate) struct ThisMachine {
    id: InstanceId,
    home: PathBuf,
    line: Arc<Mutex<CancellationToken>>,
}

impl ThisMachine {
    pub(crate) fn new(home: PathBuf) -> Arc<Self> {
        let id = InstanceId::new(format!("this-{}", std::process::id()));
        Arc::new(Self { id, home, line: Arc::default() })
    }

    /// Ends every stream that is open now.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.line.lock().expect("works")).cancel();
    }

    /// Whether anything was cut or not, streams opened from here on live.
    fn cuttable(&self, stream: impl AsyncRead + AsyncWrite + Send + 'static) -> BoxStream {
        cuttable(&self.line, stream)
    }
}

fn cuttable(line: &Mutex<CancellationToken>, stream: impl AsyncRead + AsyncWrite + Send + 'static) -> BoxStream {
    let cut = Box::pin(line.lock().expect("works").clone().cancelled_owned());
    Box::pin(Cuttable { stream: Box::pin(stream), cut })
}

struct Cuttable {
    stream: BoxStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.stream.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct Socket(Arc<Mutex<CancellationToken>>);

impl EngineDialer for Socket {
    fn open(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Ok(cuttable(&self.0, tokio::net::UnixStream::connect("/var/run/docker.sock").await?)) })
    }
}

impl InstanceAccess for ThisMachine {
    fn id(&self) -> &InstanceId {
        &self.id
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn about(&self) -> BoxFuture<'_, Result<About, AccessError>> {
        Box::pin(async {
            // Wrong, as what is assumed of a static host may be: whoever sends a helper asks the machine.
            Ok(About { architecture: "riscv64".to_owned(), internal_address: None, external_address: None })
        })
    }

    fn exec<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<BoxStream, AccessError>> {
        Box::pin(async move {
            let mut child = tokio::process::Command::new("/bin/sh")
                .args(["-c", command])
                .env("HOME", &self.home)
                .current_dir(&self.home)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("works");
            Ok(self.cuttable(tokio::io::join(child.stdout.take().expect("works"), child.stdin.take().expect("works"))))
        })
    }

    fn upload<'a>(&'a self, folder: &'a str, name: &'a str, content: Bytes) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(async move {
            use std::os::unix::fs::PermissionsExt as _;
            let folder = self.home.join(folder);
            std::fs::create_dir_all(&folder).expect("works");
            std::fs::write(folder.join(name), content).expect("works");
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).expect("works");
            Ok(())
        })
    }

    fn engine(&self, _: DockerEndpoint) -> BoxFuture<'_, Result<Arc<dyn EngineDialer>, AccessError>> {
        Box::pin(async { Ok(Arc::new(Socket(Arc::clone(&self.line))) as Arc<dyn EngineDialer>) })
    }
}
