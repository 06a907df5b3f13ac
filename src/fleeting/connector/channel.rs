//! One SSH channel: a task that always reads, and the stream that its consumer holds.
//!
//! The task ([`drive`]) takes every message of its channel at once, hands it on while the consumer keeps
//! up and puts the rest into a [`Backlog`]. It is the only reader, so no channel stops another. A consumer
//! that goes away ends the input, and closes the channel where the peer does not do so soon.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::backlog::{Backlog, BacklogError, DISK, Source};
use super::error::ExecError;
use super::ssh::Ended;

/// Messages on their way to the consumer; with packets of 32 KiB this is 256 KiB at most.
pub(super) const EVENTS: usize = 8;

/// How long a command may take to end by itself when its input has, before its channel is closed for it.
const EOF_PATIENCE: Duration = Duration::from_millis(200);

/// The end of standard error that a [`ByteStream`] keeps for diagnosis.
const STDERR_TAIL: usize = 4 * 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(u32),
    /// The signal's name without `SIG`.
    Signal(String),
}

impl ExitStatus {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// What the consumer of a channel is told, in order. The last is always [`Event::End`].
#[derive(Debug)]
pub(super) enum Event {
    Data(Source, Bytes),
    /// The peer sends nothing more.
    Eof,
    End(Result<ExitStatus, ExecError>),
}

/// Who closed a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClosedBy {
    /// Or it went with its connection.
    Peer,
    Us,
}

/// Reads the channel to its end. `closed` is cancelled then, which also ends writers that wait for window.
pub(super) async fn drive(
    mut read: ChannelReadHalf,
    write: ChannelWriteHalf<client::Msg>,
    events: mpsc::Sender<Event>,
    ended: Arc<Ended>,
    closed: CancellationToken,
) -> ClosedBy {
    let _closed = closed.drop_guard();
    let mut state = Reading { backlog: Backlog::default(), status: None, eof_owed: false };
    loop {
        let step = tokio::select! {
            biased;
            message = read.wait() => state.take(message, &events).await,
            permit = events.reserve(), if state.owes() => match permit {
                Ok(permit) => state.give(permit).await,
                Err(_) => Step::ConsumerGone,
            },
            () = events.closed() => Step::ConsumerGone,
        };
        match step {
            Step::Continue => {}
            Step::Closed => {
                state.finish(&events, ExecError::NoStatus).await;
                return ClosedBy::Peer;
            }
            Step::Lost => {
                state.finish(&events, ExecError::Lost { reason: ended.reason() }).await;
                return ClosedBy::Peer;
            }
            Step::ConsumerGone => return close(&mut read, &write).await,
            Step::Fail(error) => {
                // The consumer learns it in its own time; the channel goes now.
                let told = events.send(Event::End(Err(error)));
                return tokio::join!(close(&mut read, &write), told).0;
            }
        }
    }
}

enum Step {
    Continue,
    /// By the server.
    Closed,
    /// With the whole connection.
    Lost,
    ConsumerGone,
    Fail(ExecError),
}

struct Reading {
    backlog: Backlog,
    status: Option<Result<ExitStatus, ExecError>>,
    eof_owed: bool,
}

impl Reading {
    fn owes(&self) -> bool {
        !self.backlog.is_empty() || self.eof_owed
    }

    async fn take(&mut self, message: Option<ChannelMsg>, events: &mpsc::Sender<Event>) -> Step {
        match message {
            Some(ChannelMsg::Data { data }) => self.keep(Source::Stdout, data, events).await,
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => self.keep(Source::Stderr, data, events).await,
            Some(ChannelMsg::Eof) => {
                self.eof_owed = self.owes() || events.try_send(Event::Eof).is_err();
                Step::Continue
            }
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                self.status = Some(Ok(ExitStatus::Code(exit_status)));
                Step::Continue
            }
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                self.status = Some(Ok(ExitStatus::Signal(name_of(signal_name))));
                Step::Continue
            }
            Some(ChannelMsg::Failure) => {
                self.status = Some(Err(ExecError::Refused));
                Step::Closed
            }
            Some(ChannelMsg::Close) => Step::Closed,
            Some(_) => Step::Continue,
            None => Step::Lost,
        }
    }

    async fn keep(&mut self, source: Source, data: Bytes, events: &mpsc::Sender<Event>) -> Step {
        let data = if self.owes() {
            data
        } else {
            match events.try_send(Event::Data(source, data)) {
                Ok(()) => return Step::Continue,
                Err(mpsc::error::TrySendError::Full(Event::Data(_, data))) => data,
                Err(_) => return Step::ConsumerGone,
            }
        };
        match self.backlog.push(source, data).await {
            Ok(()) => Step::Continue,
            Err(BacklogError::Full) => Step::Fail(ExecError::Overrun { limit: DISK }),
            Err(BacklogError::Io(error)) => Step::Fail(ExecError::Spill(Arc::new(error))),
        }
    }

    async fn give(&mut self, permit: mpsc::Permit<'_, Event>) -> Step {
        match self.backlog.pop().await {
            Ok(Some((source, data))) => permit.send(Event::Data(source, data)),
            Ok(None) => {
                self.eof_owed = false;
                permit.send(Event::Eof);
            }
            Err(error) => return Step::Fail(ExecError::Spill(Arc::new(error))),
        }
        Step::Continue
    }

    /// The channel is closed: hands out what is left and how it ended, which is `otherwise` where nobody said.
    async fn finish(mut self, events: &mpsc::Sender<Event>, otherwise: ExecError) {
        while self.owes() {
            let Ok(permit) = events.reserve().await else { return };
            if let Step::Fail(error) = self.give(permit).await {
                self.status = Some(Err(error));
                break;
            }
        }
        drop(events.send(Event::End(self.status.unwrap_or(Err(otherwise)))).await);
    }
}

/// The signal's name as SSH writes it.
fn name_of(signal: Sig) -> String {
    if let Sig::Custom(name) = signal { name } else { format!("{signal:?}") }
}

/// Ends the channel for want of a consumer. Mostly the end of input is enough: a helper that reads it ends, and the
/// server closes the channel. What does not is closed by us; russh says nothing of the server's answer then.
///
/// Meanwhile the channel is read on: the session that takes our words is the one that waits for us to take the peer's.
async fn close(read: &mut ChannelReadHalf, write: &ChannelWriteHalf<client::Msg>) -> ClosedBy {
    let drained = async { while !matches!(read.wait().await, None | Some(ChannelMsg::Close)) {} };
    let ended = async {
        write.eof().await?;
        tokio::time::sleep(EOF_PATIENCE).await;
        write.close().await
    };
    tokio::select! {
        biased;
        () = drained => ClosedBy::Peer,
        ended = ended => if ended.is_ok() { ClosedBy::Us } else { ClosedBy::Peer },
    }
}

/// The writing side of a channel. Shutting it down sends the end of input.
pub(super) struct Writer {
    inner: Box<dyn AsyncWrite + Send + Unpin>,
    /// russh does not wake a writer that waits for window when its channel goes.
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Writer {
    pub(super) fn new(inner: impl AsyncWrite + Send + Unpin + 'static, closed: CancellationToken) -> Self {
        Self { inner: Box::new(inner), closed: Box::pin(closed.cancelled_owned()) }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.closed.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::BrokenPipe, "the channel is closed"))
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // russh takes an empty write for an error.
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is left to end where the channel is closed.
        if self.poll_closed(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream of bytes in both directions: to a socket of the instance, or to a command's standard input and output.
///
/// The end of the stream is an end of file only where the peer sent one: a lost connection is an error of kind
/// [`io::ErrorKind::ConnectionReset`]. Dropping it closes the channel.
#[derive(Debug)]
pub struct ByteStream {
    events: mpsc::Receiver<Event>,
    writer: Writer,
    unread: Bytes,
    stderr: Vec<u8>,
    end: Option<Result<ExitStatus, ExecError>>,
}

impl ByteStream {
    pub(super) fn new(events: mpsc::Receiver<Event>, writer: Writer) -> Self {
        Self { events, writer, unread: Bytes::new(), stderr: Vec::new(), end: None }
    }

    pub(super) fn into_parts(self) -> (mpsc::Receiver<Event>, Writer) {
        (self.events, self.writer)
    }

    /// The last few kilobytes that the command wrote to standard error, for a message.
    pub fn stderr_tail(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Waits until the command has ended, dropping what it still writes.
    ///
    /// # Errors
    /// Where the connection was lost first, or there was no status.
    pub async fn exit(&mut self) -> Result<ExitStatus, ExecError> {
        while self.end.is_none() {
            let event = self.events.recv().await;
            self.note(event);
        }
        self.end.clone().unwrap_or(Err(ExecError::NoStatus))
    }

    /// Takes note of an event and says whether reading goes on.
    fn note(&mut self, event: Option<Event>) -> Noted {
        match event {
            Some(Event::Data(Source::Stdout, data)) => {
                self.unread = data;
                Noted::Data
            }
            Some(Event::Data(Source::Stderr, data)) => {
                self.stderr.extend_from_slice(&data);
                let excess = self.stderr.len().saturating_sub(STDERR_TAIL);
                self.stderr.drain(..excess);
                Noted::Nothing
            }
            Some(Event::Eof) => Noted::Eof,
            Some(Event::End(end)) => {
                self.end = Some(end);
                Noted::Nothing
            }
            None => {
                self.end = Some(Err(ExecError::Lost { reason: "its task has ended".to_owned() }));
                Noted::Nothing
            }
        }
    }
}

enum Noted {
    Data,
    Nothing,
    Eof,
}

impl AsyncRead for ByteStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.unread.has_remaining() {
                let length = self.unread.len().min(buffer.remaining());
                buffer.put_slice(&self.unread.split_to(length));
                return Poll::Ready(Ok(()));
            }
            match &self.end {
                // A forwarded socket never has a status.
                Some(Ok(_) | Err(ExecError::NoStatus)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error.clone().into())),
                None => {}
            }
            let event = ready!(self.events.poll_recv(cx));
            if let Noted::Eof = self.note(event) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
