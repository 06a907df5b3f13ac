//! How much an archive may expand to: bytes and entries that are really made, whatever its headers claim.
//!
//! Without a limit of the operator the free space of the target counts. Files that are replaced free their space,
//! so the free space is asked for again before an archive is refused.

use std::io;
use std::os::fd::BorrowedFd;

/// What an archive may still use.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    entries: u64,
    /// The operator's limit; `None` is the free space.
    limit: Option<u64>,
}

/// Why an archive may not expand further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::helper) enum Exceeded {
    #[error("the archive expands to more than the limit of {0} bytes (--max-extracted-size)")]
    Limit(u64),
    #[error("the archive expands to more than the free disk space of the target folder")]
    Disk,
    #[error("the archive has more entries than the target folder has free inodes")]
    Inodes,
}

impl Budget {
    /// For a target folder; a limit of 0 is none.
    pub(super) fn new(limit: Option<u64>, target: BorrowedFd<'_>) -> io::Result<Self> {
        let limit = limit.filter(|limit| *limit > 0);
        let (free, entries) = free(target)?;
        Ok(Self { bytes: limit.unwrap_or(free), entries, limit })
    }

    /// Takes one file, folder or link.
    pub(super) fn take_entry(&mut self, target: BorrowedFd<'_>) -> Result<(), Exceeded> {
        if self.entries == 0 {
            self.entries = free(target).map_or(0, |(_, entries)| entries);
        }
        self.entries = self.entries.checked_sub(1).ok_or(Exceeded::Inodes)?;
        Ok(())
    }

    /// Takes the bytes that are about to be written.
    pub(super) fn take_bytes(&mut self, count: u64, target: BorrowedFd<'_>) -> Result<(), Exceeded> {
        if self.bytes < count && self.limit.is_none() {
            self.bytes = free(target).map_or(0, |(bytes, _)| bytes);
        }
        let exceeded = self.limit.map_or(Exceeded::Disk, Exceeded::Limit);
        self.bytes = self.bytes.checked_sub(count).ok_or(exceeded)?;
        Ok(())
    }
}

/// Free bytes and inodes. A file system that does not count them has no limit.
fn free(target: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstatvfs(target)?;
    let bytes = if found.f_blocks == 0 { u64::MAX } else { found.f_bavail.saturating_mul(found.f_frsize) };
    let entries = if found.f_files == 0 { u64::MAX } else { found.f_favail };
    Ok((bytes, entries))
}
