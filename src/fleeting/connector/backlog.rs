//! What a consumer has not taken yet: a little in memory, more in a temporary file, in order.
//!
//! It holds the bytes of one channel, so its memory is bounded by [`MEMORY`] and two blocks of [`BLOCK`], and
//! its file by [`DISK`]. A full backlog refuses; what that means is the channel's decision. The file has no
//! name and goes with the process.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::task::spawn_blocking;

/// Kept in memory before anything goes to disk. A consumer that keeps up never needs more.
const MEMORY: usize = 256 * 1024;

/// Written and read at once. Larger than the largest frame.
const BLOCK: usize = 256 * 1024;

/// The largest piece stored as one frame; SSH packets are half as large.
const FRAME: usize = 64 * 1024;

/// Source and length before each frame.
const HEADER: usize = 5;

/// Kept on disk. A consumer that is further behind has to attach again by position.
pub(crate) const DISK: u64 = 64 * 1024 * 1024;

/// Which of a command's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// Why bytes could not be kept.
#[derive(Debug)]
pub(crate) enum BacklogError {
    /// [`DISK`] is reached.
    Full,
    Io(io::Error),
}

/// A queue of bytes by source. The oldest are in `front`, then come the file's, then `tail`.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    front: VecDeque<(Source, Bytes)>,
    front_bytes: usize,
    file: Option<Arc<File>>,
    /// The file holds frames from `read_at` to `written`.
    read_at: u64,
    written: u64,
    /// Frames that are not in the file yet.
    tail: BytesMut,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty() && !self.is_spilling()
    }

    fn is_spilling(&self) -> bool {
        self.read_at < self.written || !self.tail.is_empty()
    }

    /// Adds bytes at the end.
    pub(crate) async fn push(&mut self, source: Source, mut bytes: Bytes) -> Result<(), BacklogError> {
        if !self.is_spilling() && self.front_bytes < MEMORY {
            self.front_bytes += bytes.len();
            self.front.push_back((source, bytes));
            return Ok(());
        }
        if self.written - self.read_at + (self.tail.len() + bytes.len()) as u64 > DISK {
            return Err(BacklogError::Full);
        }
        while !bytes.is_empty() {
            let frame = bytes.split_to(bytes.len().min(FRAME));
            self.tail.put_u8(matches!(source, Source::Stderr).into());
            self.tail.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
            self.tail.put(frame);
        }
        if self.tail.len() >= BLOCK { self.write_tail().await.map_err(BacklogError::Io) } else { Ok(()) }
    }

    /// Takes the oldest bytes.
    pub(crate) async fn pop(&mut self) -> io::Result<Option<(Source, Bytes)>> {
        if self.front.is_empty() && self.is_spilling() {
            self.refill().await?;
        }
        let popped = self.front.pop_front();
        if let Some((_, bytes)) = &popped {
            self.front_bytes -= bytes.len();
        }
        Ok(popped)
    }

    async fn write_tail(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(Arc::new(blocking(tempfile::tempfile).await?))),
        };
        let (tail, at) = (self.tail.split().freeze(), self.written);
        self.written += tail.len() as u64;
        blocking(move || file.write_all_at(&tail, at)).await
    }

    async fn refill(&mut self) -> io::Result<()> {
        let mut block = match &self.file {
            Some(file) if self.read_at < self.written => {
                let length = usize::try_from(self.written - self.read_at).unwrap_or(BLOCK).min(BLOCK);
                let (file, at) = (Arc::clone(file), self.read_at);
                blocking(move || {
                    let mut block = vec![0; length];
                    file.read_exact_at(&mut block, at).map(|()| Bytes::from(block))
                })
                .await?
            }
            _ => self.tail.split().freeze(),
        };
        let from_file = self.read_at < self.written;
        while let Some((source, frame)) = next_frame(&mut block) {
            self.front_bytes += frame.len();
            if from_file {
                self.read_at += (HEADER + frame.len()) as u64;
            }
            self.front.push_back((source, frame));
        }
        if from_file && self.read_at == self.written {
            self.rewind().await?;
        }
        Ok(())
    }

    /// Starts the file anew once all of it was read, so that its size follows what is unread.
    async fn rewind(&mut self) -> io::Result<()> {
        (self.read_at, self.written) = (0, 0);
        match &self.file {
            Some(file) => {
                let file = Arc::clone(file);
                blocking(move || file.set_len(0)).await
            }
            None => Ok(()),
        }
    }
}

fn next_frame(block: &mut Bytes) -> Option<(Source, Bytes)> {
    let mut header = block.get(..HEADER)?;
    let source = if header.get_u8() == 0 { Source::Stdout } else { Source::Stderr };
    let length = usize::try_from(header.get_u32()).ok()?;
    if block.len() < HEADER + length {
        return None;
    }
    block.advance(HEADER);
    Some((source, block.split_to(length)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` pieces of `size` bytes, alternating between the sources, each with its own content.
    async fn fill(backlog: &mut Backlog, count: usize, size: usize) -> Vec<(Source, Bytes)> {
        let mut pushed = Vec::new();
        for n in 0..count {
            let source = if n % 3 == 0 { Source::Stderr } else { Source::Stdout };
            let bytes = Bytes::from(vec![u8::try_from(n % 251).unwrap(); size]);
            backlog.push(source, bytes.clone()).await.unwrap();
            pushed.push((source, bytes));
        }
        pushed
    }

    fn joined(pieces: &[(Source, Bytes)], of: Source) -> Vec<u8> {
        pieces.iter().filter(|(source, _)| *source == of).flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    #[tokio::test]
    async fn order_and_content_survive_the_way_through_the_file() {
        let mut backlog = Backlog::default();
        let mut pushed = fill(&mut backlog, 40, 32 * 1024).await;
        let mut popped = Vec::new();
        for _ in 0..20 {
            popped.extend(backlog.pop().await.unwrap());
        }
        pushed.extend(fill(&mut backlog, 70, 30_001).await);
        while let Some(piece) = backlog.pop().await.unwrap() {
            popped.push(piece);
        }
        assert_eq!(popped, pushed);
        assert!(backlog.is_empty());
        assert_eq!(backlog.file.as_ref().unwrap().metadata().unwrap().len(), 0, "the file shrinks when all was read");
    }

    #[tokio::test]
    async fn pieces_larger_than_a_frame_are_kept_whole() {
        let mut backlog = Backlog::default();
        let pushed = fill(&mut backlog, 7, 3 * FRAME + 17).await;
        let mut popped = Vec::new();
        while let Some(piece) = backlog.pop().await.unwrap() {
            popped.push(piece);
        }
        for source in [Source::Stdout, Source::Stderr] {
            assert!(joined(&popped, source) == joined(&pushed, source));
        }
    }

    #[tokio::test]
    async fn memory_and_disk_are_bounded() {
        let mut backlog = Backlog::default();
        let piece = Bytes::from(vec![7; 32 * 1024]);
        let mut kept = 0_u64;
        let refused = loop {
            match backlog.push(Source::Stdout, piece.clone()).await {
                Ok(()) => kept += piece.len() as u64,
                Err(error) => break error,
            }
            assert!(backlog.front_bytes + backlog.tail.len() <= MEMORY + BLOCK + 2 * FRAME);
        };
        assert!(matches!(refused, BacklogError::Full));
        assert!(kept > DISK - 1024 * 1024 && kept <= DISK + MEMORY as u64 + FRAME as u64, "{kept}");
    }
}
