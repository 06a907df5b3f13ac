//! The listening end and its connections, which can be refused and cut.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::faults::Faults;

/// Before another try at the listening socket.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens on an address, except while connections are refused.
#[derive(Debug)]
pub(super) struct Listening {
    addr: SocketAddr,
    socket: Option<TcpListener>,
    faults: Faults,
}

impl Listening {
    pub(super) async fn bind(addr: SocketAddr, faults: Faults) -> io::Result<Self> {
        let socket = TcpListener::bind(addr).await?;
        Ok(Self { addr: socket.local_addr()?, socket: Some(socket), faults })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// One connection, or none where the state of refusing changed first.
    async fn next(&mut self) -> Option<(Line, SocketAddr)> {
        let mut refusing = self.faults.refusing();
        if *refusing.borrow_and_update() {
            // Without a listening socket the kernel itself refuses, as with a server that is down.
            self.socket = None;
            refusing.changed().await.ok()?;
            return None;
        }
        let accepted = tokio::select! {
            _ = refusing.changed() => return None,
            accepted = self.accept_next() => accepted,
        };
        match accepted {
            Ok((stream, from)) => Some((Line::new(stream, self.faults.connection_end()), from)),
            Err(_) => {
                // No descriptors left, or the port not yet free: both pass.
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }

    async fn accept_next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let socket = match self.socket.take() {
            Some(socket) => self.socket.insert(socket),
            None => self.socket.insert(TcpListener::bind(self.addr).await?),
        };
        let (stream, from) = TcpListener::accept(socket).await?;
        // Small answers are not to wait for the peer's acknowledgement of earlier ones.
        stream.set_nodelay(true)?;
        Ok((stream, from))
    }
}

impl Listener for Listening {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        loop {
            if let Some(accepted) = self.next().await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// One connection. When it is cut, the peer sees a reset.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    cutter: Cutter,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Cuts the connection that a request came on.
#[derive(Clone, Debug)]
pub(super) struct Cutter(CancellationToken);

impl Cutter {
    pub(super) fn cut(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Listening>> for Cutter {
    fn connect_info(stream: IncomingStream<'_, Listening>) -> Self {
        stream.io().cutter.clone()
    }
}

impl Line {
    fn new(stream: TcpStream, end: CancellationToken) -> Self {
        Self { stream, cut: Box::pin(end.clone().cancelled_owned()), cutter: Cutter(end) }
    }

    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        // Closing without lingering sends a reset instead of an orderly end.
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
