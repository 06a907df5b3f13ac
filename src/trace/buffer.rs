//! The trace as GitLab shall have it: every byte with its position, from 0 on.
//!
//! The newest bytes are in memory; when they become many they move to an unnamed temporary file, which
//! small traces never need. So an uploader that keeps up seldom reads the file, and memory does not grow
//! with the trace. Size and checksum are those of all bytes that were taken, and a byte that was taken
//! never changes. After the limit, or when the disk refuses, nothing more is taken.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// So many bytes stay in memory; more move to the file.
const IN_MEMORY: usize = 32 * 1024;

/// Space that is kept after such a move, for the bytes to come.
const KEPT_SPACE: usize = 8 * 1024;

/// Whether more output is taken.
#[derive(Debug)]
enum State {
    Taking,
    /// The limit is reached, the storage has failed, or the job has ended.
    Closed,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Buffer {
    folder: PathBuf,
    limit: u64,
    state: State,
    file: Option<Arc<File>>,
    /// Bytes in the file; the first byte of `recent` has this position.
    in_file: u64,
    recent: Vec<u8>,
    checksum: crc32fast::Hasher,
    failure: Option<io::Error>,
}

/// Some consecutive bytes of the trace; the part that is on disk is read when wanted, without the lock.
#[derive(Debug)]
pub(super) struct Window {
    file: Option<(Arc<File>, u64, usize)>,
    recent: Bytes,
}

impl Buffer {
    /// A trace of at most `limit` bytes, whose file, if one is needed, goes to `folder`.
    pub(super) fn new(folder: PathBuf, limit: u64) -> Self {
        Self {
            folder,
            limit,
            state: State::Taking,
            file: None,
            in_file: 0,
            recent: Vec::new(),
            checksum: crc32fast::Hasher::new(),
            failure: None,
        }
    }

    /// Bytes taken so far.
    pub(super) fn len(&self) -> u64 {
        self.in_file + self.recent.len() as u64
    }

    /// CRC-32 (IEEE) of them.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum.clone().finalize()
    }

    /// Takes valid UTF-8. The write that reaches the limit is cut before a character, and a note says so.
    pub(super) fn append(&mut self, text: &[u8]) {
        if matches!(self.state, State::Closed) || text.is_empty() {
            return;
        }
        let room = usize::try_from(self.limit.saturating_sub(self.len())).unwrap_or(usize::MAX);
        if text.len() < room {
            return self.take(text);
        }
        let mut end = room;
        while end > 0 && text.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
        self.take(text.get(..end).unwrap_or(text));
        let limit = self.limit;
        self.close_with(&format!("Job's log exceeded limit of {limit} bytes."));
    }

    /// The job has ended: the trace is complete.
    pub(super) fn close(&mut self) {
        self.state = State::Closed;
    }

    /// Why output is no longer taken, once.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// At most `most` bytes from `start` on.
    pub(super) fn window(&self, start: u64, most: usize) -> Window {
        let stored = clamped(self.in_file.saturating_sub(start)).min(most);
        let file = self.file.as_ref().filter(|_| stored > 0).map(|file| (Arc::clone(file), start, stored));
        let from = clamped(start.saturating_sub(self.in_file)).min(self.recent.len());
        let to = (from + most - stored).min(self.recent.len());
        Window { file, recent: Bytes::copy_from_slice(self.recent.get(from..to).unwrap_or_default()) }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.recent.capacity()
    }

    fn take(&mut self, text: &[u8]) {
        self.checksum.update(text);
        self.recent.extend_from_slice(text);
        if self.recent.len() > IN_MEMORY
            && let Err(error) = self.spill()
        {
            let note = format!("The log of this job could not be stored: {error}.");
            self.failure = Some(error);
            self.close_with(&note);
        }
    }

    /// Moves what is in memory to the file. On an error it stays where it is: nothing that was taken is lost.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(Arc::new(tempfile::tempfile_in(&self.folder)?)),
        };
        file.write_all_at(&self.recent, self.in_file)?;
        self.in_file += self.recent.len() as u64;
        self.recent.clear();
        self.recent.shrink_to(KEPT_SPACE);
        Ok(())
    }

    /// The last words of a trace that ends early. They stay in memory, whatever the disk does.
    fn close_with(&mut self, reason: &str) {
        let note = format!(
            "\n\x1b[33;1m{reason}\nJob execution will continue but no more output will be collected.\x1b[0;m\n"
        );
        self.checksum.update(note.as_bytes());
        self.recent.extend_from_slice(note.as_bytes());
        self.close();
    }
}

impl Window {
    /// The bytes. Reads the file where they are no longer in memory, mostly from the system's page cache.
    pub(super) fn read(self) -> io::Result<Bytes> {
        let Some((file, start, length)) = self.file else { return Ok(self.recent) };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start)?;
        bytes.extend_from_slice(&self.recent);
        Ok(bytes.into())
    }
}

/// A length in memory; what is larger than memory is cut by other limits.
fn clamped(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(limit: u64) -> Buffer {
        Buffer::new(std::env::temp_dir(), limit)
    }

    fn read(buffer: &Buffer, start: u64, most: usize) -> Vec<u8> {
        buffer.window(start, most).read().unwrap().to_vec()
    }

    /// Bytes that differ from place to place.
    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|at| b'!' + u8::try_from(at % 91).unwrap()).collect()
    }

    #[test]
    fn any_window_shows_the_bytes_that_were_taken() {
        let whole = sample(100_000);
        let mut taken = buffer(1 << 20);
        whole.chunks(977).for_each(|chunk| taken.append(chunk));
        assert_eq!(taken.len(), 100_000);
        assert!(taken.file.is_some() && !taken.recent.is_empty(), "the trace is partly on disk, partly in memory");
        assert_eq!(taken.checksum(), crc32fast::hash(&whole));
        let border = usize::try_from(taken.in_file).unwrap();
        for (start, most) in [
            (0, 100_000),
            (0, 10),
            (border - 5, 10),
            (border - 5, 5),
            (border, 7),
            (99_999, 10),
            (100_000, 10),
            (200_000, 1),
        ] {
            let expected = whole.get(start..(start + most).min(whole.len())).unwrap_or_default();
            assert_eq!(read(&taken, start as u64, most), expected, "{start} {most}");
        }
    }

    #[test]
    fn a_small_trace_needs_no_file() {
        let mut taken = Buffer::new(PathBuf::from("/nonexistent"), 1 << 20);
        taken.append(&sample(IN_MEMORY));
        assert!(taken.file.is_none() && taken.take_failure().is_none());
        assert_eq!(read(&taken, 0, 1 << 20), sample(IN_MEMORY));
    }

    #[test]
    fn the_write_that_reaches_the_limit_is_cut_before_a_character_and_later_ones_are_dropped() {
        let mut taken = buffer(5);
        taken.append(b"abc");
        taken.append("dé".as_bytes());
        taken.append(b"dropped");
        let note = "\n\x1b[33;1mJob's log exceeded limit of 5 bytes.\nJob execution will continue but no more output will be collected.\x1b[0;m\n";
        let expected = format!("abcd{note}");
        assert_eq!(read(&taken, 0, 1 << 20), expected.as_bytes());
        assert_eq!((taken.len(), taken.checksum()), (expected.len() as u64, crc32fast::hash(expected.as_bytes())));
    }

    #[test]
    fn a_disk_that_refuses_is_told_once_and_loses_no_byte_that_was_taken() {
        let mut taken = Buffer::new(PathBuf::from("/nonexistent"), 1 << 20);
        let whole = sample(IN_MEMORY + 1);
        whole.chunks(1000).for_each(|chunk| taken.append(chunk));
        taken.append(b"dropped");
        assert!(taken.take_failure().is_some());
        assert!(taken.take_failure().is_none());
        let trace = read(&taken, 0, 1 << 20);
        assert!(trace.starts_with(&whole));
        assert!(!trace.ends_with(b"dropped"));
        assert_eq!((taken.len(), taken.checksum()), (trace.len() as u64, crc32fast::hash(&trace)));
    }
}
