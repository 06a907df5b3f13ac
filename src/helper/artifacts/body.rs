//! An archive as the body of a request: written on a thread of its own while the request sends it, a few
//! pieces ahead at most.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::helper::meter::Meter;

/// Pieces that may wait to be sent.
const PIECES_AHEAD: usize = 4;
/// A piece is sent once it is this long.
const PIECE: usize = 256 << 10;

/// Where the archive is written. It blocks, so it belongs to a thread without a runtime.
pub(super) struct BodyWriter {
    buffer: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    stopped: CancellationToken,
    meter: Meter,
}

/// A writer and the stream of what is written. Once `stopped` is cancelled, nothing more is taken: the
/// request may have its answer long before its body has an end, and keep the stream all the same.
pub(super) fn body(
    runtime: &Handle,
    stopped: CancellationToken,
    meter: Meter,
) -> (BodyWriter, impl Stream<Item = io::Result<Bytes>> + Send + 'static) {
    let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
    let writer = BodyWriter { buffer: Vec::with_capacity(PIECE), pieces, runtime: runtime.clone(), stopped, meter };
    let stream =
        futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    (writer, stream)
}

impl BodyWriter {
    /// The archive is whole: sends what is left, and the body ends.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    /// The archive has failed: the body breaks off, so that no server takes it for whole.
    pub(super) fn fail(self, reason: &str) {
        // Where nobody listens any more, there is nobody to warn.
        self.send(Err(io::Error::other(reason.to_owned()))).ok();
    }

    fn send(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        let sent = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stopped.cancelled() => false,
                sent = self.pieces.send(piece) => sent.is_ok(),
            }
        });
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.meter.add(piece.len());
        self.send(Ok(piece))
    }
}
