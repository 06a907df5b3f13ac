//! The TCP stream under an SSH connection: no delays on either side, and an end that can be forced.
//!
//! * Nagle is off, and `TCP_QUICKACK` is set again after each read (the kernel clears it): against OpenSSH each
//!   new channel costs 46 ms otherwise.
//! * `TCP_USER_TIMEOUT` ends a write to a peer that has vanished; SSH's keepalive is not looked at meanwhile.
//! * A cancelled token makes the next read or write fail, so that a handshake that hangs can be ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A TCP stream as described above.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    abort: CancellationToken,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    /// Wraps a connected stream. Bytes that the peer does not take for `stall` end it.
    pub(crate) fn new(tcp: TcpStream, stall: Duration, abort: CancellationToken) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_tcp_user_timeout(Some(stall))?;
        let aborted = Box::pin(abort.clone().cancelled_owned());
        Ok(Self { tcp, abort, aborted })
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
        if buffer.filled().len() > before {
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
