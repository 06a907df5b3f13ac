//! The TCP stream under an SSH connection: no delays on either side, and an end that can be forced.
//!
//! * Nagle is off, and `TCP_QUICKACK` is set again after each read (the kernel clears it): against OpenSSH each
//!   new channel costs 46 ms otherwise.
//! * `TCP_USER_TIMEOUT` ends a write to a peer that has vanished; SSH's keepalive is not looked at meanwhile.
//! * A peer that sends too much before the login is done ends the connection: nothing of what a client reads until then
//!   is long, and decoding it costs time.
//! * A cancelled token makes the next read or write fail, so that a handshake that hangs can be ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What a server may send until the login is done. Its lines before the version have at most 8 KiB each with OpenSSH,
/// a packet of the key exchange at most 35,000 bytes (RFC 4253), and a banner is a page of text.
pub(super) const HANDSHAKE_LIMIT: usize = 256 << 10;

/// Whether the limit still counts. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct HandshakeLimit(Arc<AtomicU8>);

const COUNTS: u8 = 0;
const LIFTED: u8 = 1;
const EXCEEDED: u8 = 2;

impl HandshakeLimit {
    /// The login is done: from now on the peer may send what it wants.
    pub(super) fn lift(&self) {
        self.0.store(LIFTED, Ordering::Relaxed);
    }

    /// Whether the connection ended for this reason.
    pub(super) fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Relaxed) == EXCEEDED
    }

    fn counts(&self) -> bool {
        self.0.load(Ordering::Relaxed) == COUNTS
    }
}

/// A TCP stream as described above.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    handshake: Option<HandshakeLimit>,
    received: usize,
    abort: CancellationToken,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    /// Wraps a connected stream. Bytes that the peer does not take for `stall` end it.
    pub(crate) fn new(tcp: TcpStream, stall: Duration, abort: CancellationToken) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_tcp_user_timeout(Some(stall))?;
        let aborted = Box::pin(abort.clone().cancelled_owned());
        Ok(Self { tcp, handshake: None, received: 0, abort, aborted })
    }

    /// Ends the connection when the peer sends more than [`HANDSHAKE_LIMIT`] bytes before the limit is lifted.
    pub(super) fn limit_handshake(&mut self) -> HandshakeLimit {
        self.handshake.insert(HandshakeLimit(Arc::new(AtomicU8::new(COUNTS)))).clone()
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        let Some(limit) = self.handshake.as_ref().filter(|limit| limit.counts()) else { return Ok(()) };
        self.received = self.received.saturating_add(bytes);
        if self.received <= HANDSHAKE_LIMIT {
            return Ok(());
        }
        limit.0.store(EXCEEDED, Ordering::Relaxed);
        Err(io::Error::new(io::ErrorKind::InvalidData, "too many bytes before the login"))
    }
}

fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed on our side")
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.aborted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(aborted()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        let received = buffer.filled().len() - before;
        if received > 0 {
            self.count(received)?;
            SockRef::from(&self.tcp).set_tcp_quickack(true)?;
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.abort.is_cancelled() {
            return Poll::Ready(Err(aborted()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
