//! The attached streams of a container as one stream of bytes.
//!
//! The engine wraps what a container prints: a stream byte, three zeros, a length, the bytes. Reading
//! gives standard output; writing goes to standard input as it is. Standard error is mixed in until the
//! agent has introduced itself: till then all of it are words of the image's entrypoint, which the
//! session passes on. After that it is dropped, so that nothing can fall between frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::detached::wire::MAGIC;

const HEADER: usize = 8;
const STDERR: u8 = 2;

/// A stream of the engine's frames, unwrapped.
#[derive(Debug)]
pub(crate) struct Multiplexed<S> {
    stream: S,
    header: [u8; HEADER],
    /// Bytes of the header seen so far.
    seen: usize,
    /// Bytes of the body that are still to come.
    missing: usize,
    introduced: bool,
    /// The last bytes of standard output, among which the magic bytes may begin.
    tail: Vec<u8>,
}

impl<S> Multiplexed<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, header: [0; HEADER], seen: 0, missing: 0, introduced: false, tail: Vec::new() }
    }

    fn look_for_magic(&mut self, stdout: &[u8]) {
        if self.introduced {
            return;
        }
        self.tail.extend_from_slice(stdout);
        self.introduced = memchr::memmem::find(&self.tail, MAGIC).is_some();
        let excess = self.tail.len().saturating_sub(MAGIC.len() - 1);
        self.tail.drain(..excess);
    }
}

impl<S: AsyncRead + Unpin> Multiplexed<S> {
    /// Reads a header. False at the end of the stream.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.seen < HEADER {
            let mut rest = ReadBuf::new(self.header.get_mut(self.seen..).unwrap_or_default());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest))?;
            let read = rest.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            self.seen += read;
        }
        let [_, _, _, _, a, b, c, d] = self.header;
        self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
        self.seen = 0;
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Multiplexed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.missing == 0 {
                if !ready!(this.poll_header(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let [kind, ..] = this.header;
            let dropped = kind == STDERR && this.introduced;
            let mut nowhere = [0; 4096];
            let read = if dropped {
                let mut part = ReadBuf::new(nowhere.get_mut(..this.missing.min(4096)).unwrap_or_default());
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                part.filled().len()
            } else {
                let part = buffer.initialize_unfilled_to(this.missing.min(buffer.remaining()));
                let mut part = ReadBuf::new(part);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                part.filled().len()
            };
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            this.missing -= read;
            if dropped {
                continue;
            }
            if kind != STDERR {
                let start = buffer.filled().len();
                buffer.advance(read);
                this.look_for_magic(buffer.filled().get(start..).unwrap_or_default());
            } else {
                buffer.advance(read);
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Multiplexed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, 0, 0];
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    #[tokio::test]
    async fn errors_are_words_before_the_agent_and_nothing_after() {
        let (first, rest) = MAGIC.split_at(5);
        let sent = [
            frame(2, b"warn "),
            frame(1, b"out "),
            frame(1, first),
            frame(1, rest),
            frame(2, &[7; 9000]),
            frame(1, b"\0frames"),
        ]
        .concat();
        for piece in [1, 3, 8, 4096] {
            let stream = tokio_test_stream(&sent, piece);
            let mut read = Vec::new();
            Multiplexed::new(stream).read_to_end(&mut read).await.unwrap();
            assert_eq!(read, [b"warn out ".as_slice(), MAGIC, b"\0frames"].concat(), "in pieces of {piece}");
        }
    }

    proptest! {
        /// Whatever the engine sends, reading ends, gives nothing that was not sent, and keeps nothing of it.
        #[test]
        fn any_bytes_of_an_engine_are_read_to_their_end(
            bytes in prop::collection::vec(prop_oneof![3 => 0_u8..4, 1 => any::<u8>()], 0..400),
            piece in 1_usize..50,
        ) {
            let mut unwrapped = Multiplexed::new(tokio_test_stream(&bytes, piece));
            let mut read = Vec::new();
            futures_util::FutureExt::now_or_never(unwrapped.read_to_end(&mut read)).unwrap().unwrap();
            prop_assert!(read.len() <= bytes.len().saturating_sub(HEADER));
            prop_assert!(unwrapped.tail.len() < MAGIC.len());
        }

        #[test]
        fn frames_of_an_engine_come_out_in_order_from_any_pieces(
            frames in prop::collection::vec((1_u8..3, prop::collection::vec(any::<u8>(), 0..60)), 0..12),
            piece in 1_usize..50,
        ) {
            let sent: Vec<u8> = frames.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
            let mut read = Vec::new();
            let mut unwrapped = Multiplexed::new(tokio_test_stream(&sent, piece));
            futures_util::FutureExt::now_or_never(unwrapped.read_to_end(&mut read)).unwrap().unwrap();
            prop_assert_eq!(read, frames.into_iter().flat_map(|(_, body)| body).collect::<Vec<u8>>());
        }
    }

    #[tokio::test]
    async fn length_of_gigabytes_takes_no_memory_before_the_bytes_come() {
        for kind in [1, 2] {
            let mut sent = [frame(1, MAGIC), frame(kind, b"few")].concat();
            let at = sent.len() - 7;
            sent[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
            let mut unwrapped = Multiplexed::new(tokio_test_stream(&sent, 4096));
            let mut read = Vec::new();
            unwrapped.read_to_end(&mut read).await.unwrap();
            assert!(read.starts_with(MAGIC) && read.capacity() < 64 * 1024, "{}", read.capacity());
        }
    }

    /// A reader that gives at most `piece` bytes at once.
    fn tokio_test_stream(bytes: &[u8], piece: usize) -> impl AsyncRead + Unpin + use<> {
        struct Pieces(Vec<u8>, usize);
        impl AsyncRead for Pieces {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let length = self.1.min(self.0.len()).min(buffer.remaining());
                let piece: Vec<u8> = self.0.drain(..length).collect();
                buffer.put_slice(&piece);
                Poll::Ready(Ok(()))
            }
        }
        Pieces(bytes.to_vec(), piece)
    }
}
