//! The folder that an archive is extracted into, whatever the archive's format.
//!
//! Each file, folder and link is made relative to a descriptor of its folder, which lies beneath the target
//! ([`Beneath`]). Nothing is opened, and no attribute is set, through a link in the place of the last name. Formats
//! make their links after all files and set the attributes of folders last.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::beneath::{Beneath, Resolver};
use super::budget::{Budget, Exceeded};
use super::extract::ExtractError;
use crate::helper::calendar::unix_seconds;

/// How much of an entry is decompressed at once.
const COPY_BUFFER: usize = 32 << 10;

/// What an entry has beside its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// Permissions; `None` where the archive was made by a system without them.
    pub mode: Option<u32>,
    pub modified: Option<SystemTime>,
    pub owner: Option<(u32, u32)>,
}

/// What an entry becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::Link => "link",
        }
    }
}

/// A target folder while it is extracted into.
pub(super) struct Target {
    beneath: Beneath,
    budget: Budget,
    /// The entries so far by their normalised path.
    seen: HashMap<PathBuf, Seen>,
    buffer: Vec<u8>,
}

struct Seen {
    kind: Kind,
    /// The name as the archive spells it, where that is not the path.
    spelled: Option<Box<[u8]>>,
}

impl Target {
    /// # Errors
    /// The folder cannot be opened.
    pub(super) fn open(folder: &Path, limit: Option<u64>, resolver: Resolver) -> io::Result<Self> {
        let beneath = Beneath::open(folder, resolver)?;
        let budget = Budget::new(limit, beneath.root())?;
        Ok(Self { beneath, budget, seen: HashMap::new(), buffer: vec![0; COPY_BUFFER] })
    }

    /// The path of an entry, relative to the target. Its name alone must not lead out of the target, and a path
    /// keeps the kind that it has first.
    pub(super) fn admit(&mut self, name: &[u8], kind: Kind) -> Result<PathBuf, ExtractError> {
        let path = normalised(name)?;
        if path.as_os_str().is_empty() && kind != Kind::Folder {
            return Err(escapes(name));
        }
        let spelled = (path.as_os_str().as_bytes() != name).then(|| name.into());
        if let Some(first) = self.seen.get(&path) {
            if first.kind == kind {
                return Ok(path);
            }
            let first_name = first.spelled.as_deref().unwrap_or_else(|| path.as_os_str().as_bytes());
            return Err(ExtractError::KindChanges {
                name: lossy(name),
                kind: kind.text(),
                first: lossy(first_name),
                first_kind: first.kind.text(),
            });
        }
        self.budget.take_entry(self.beneath.root()).map_err(|source| exceeded(&path, source))?;
        self.seen.insert(path.clone(), Seen { kind, spelled });
        Ok(path)
    }

    /// Makes a folder with those above it.
    pub(super) fn make_folder(&mut self, path: &Path) -> Result<(), ExtractError> {
        self.beneath.make_folder(path).map_err(|error| failed(path, error))?;
        Ok(())
    }

    /// Makes a file in the place of any other.
    pub(super) fn make_file(
        &mut self,
        path: &Path,
        contents: &mut impl Read,
        attributes: Attributes,
    ) -> Result<(), ExtractError> {
        let (folder, name) = self.clear(path)?;
        // While it is written it is the owner's; then it gets its own mode.
        let mode = Mode::from_raw_mode(attributes.mode.unwrap_or(0o644) & 0o777 | 0o600);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, mode).map_err(|error| failed(path, error))?;
        let mut file = File::from(file);
        if let Err(error) = self.copy(path, contents, &mut file) {
            // Half a file helps nobody, and it may be what fills the disk.
            rustix::fs::unlinkat(&folder, name, AtFlags::empty()).ok();
            return Err(error);
        }
        attributes.apply(file.as_fd()).map_err(|error| failed(path, error))
    }

    fn copy(&mut self, path: &Path, from: &mut impl Read, to: &mut File) -> Result<(), ExtractError> {
        let written = |source| ExtractError::Write { path: path.to_owned(), source };
        loop {
            let count = match from.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(written(error)),
            };
            let taken = self.budget.take_bytes(count as u64, self.beneath.root());
            taken.map_err(|source| exceeded(path, source))?;
            to.write_all(self.buffer.get(..count).unwrap_or_default()).map_err(written)?;
        }
    }

    /// Makes a link in the place of any file or other link.
    pub(super) fn make_link(&mut self, path: &Path, to: &Path, attributes: Attributes) -> Result<(), ExtractError> {
        let (folder, name) = self.clear(path)?;
        rustix::fs::symlinkat(to, &folder, name).map_err(|error| failed(path, error))?;
        if let Some((uid, gid)) = attributes.owner() {
            // The job's processes may put something else in the link's place; only a link is given away.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let link = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(|error| failed(path, error))?;
            let status = rustix::fs::fstat(&link).map_err(|error| failed(path, error))?;
            if FileType::from_raw_mode(status.st_mode) == FileType::Symlink {
                let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&link, "", Some(uid), Some(gid), flags).ok();
            }
        }
        let Some(times) = attributes.times() else { return Ok(()) };
        rustix::fs::utimensat(&folder, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(path, error))
    }

    /// Sets what a folder has beside its contents. Where a link is in the folder's place it stays as it is, and so
    /// does the link's target.
    pub(super) fn finish_folder(&mut self, path: &Path, attributes: Attributes) -> Result<(), ExtractError> {
        let opened = self.open_folder(path);
        match opened {
            Ok(folder) => attributes.apply(folder.as_fd()).map_err(|error| failed(path, error)),
            Err(Errno::LOOP | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(failed(path, error)),
        }
    }

    fn open_folder(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        let folder = self.beneath.folder(path.parent().unwrap_or(path))?;
        let name = path.file_name().unwrap_or_else(|| OsStr::new("."));
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder, name, OFlags::RDONLY | flags, Mode::empty()) {
            // Its owner may set the attributes of a folder that it may not list.
            Err(Errno::ACCESS) => rustix::fs::openat(&folder, name, OFlags::PATH | flags, Mode::empty()),
            opened => opened,
        }
    }

    /// Removes a file or link in the place of an entry that is not a folder; returns its folder and its name there.
    fn clear<'a>(&mut self, path: &'a Path) -> Result<(Rc<OwnedFd>, &'a OsStr), ExtractError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(escapes(path.as_os_str().as_bytes()));
        };
        let folder = self.beneath.make_folder(parent).map_err(|error| failed(path, error))?;
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => self.beneath.forget(path),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(path, error)),
        }
        Ok((folder, name))
    }
}

impl Attributes {
    /// Sets them on what a descriptor stands for.
    fn apply(self, file: std::os::fd::BorrowedFd<'_>) -> Result<(), Errno> {
        // The owner first: changing it takes setuid bits away. Only root may give files away, so a refusal is
        // expected.
        if let Some((uid, gid)) = self.owner() {
            rustix::fs::chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).ok();
        }
        if let Some(mode) = self.mode {
            let mode = Mode::from_raw_mode(mode);
            match rustix::fs::fchmod(file, mode) {
                // A descriptor that only names a folder; its own link in /proc leads to that folder and no other.
                Err(Errno::BADF) => {
                    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                    rustix::fs::chmod(own, mode)?;
                }
                set => set?,
            }
        }
        let Some(times) = self.times() else { return Ok(()) };
        match rustix::fs::futimens(file, &times) {
            Err(Errno::BADF) => rustix::fs::utimensat(file, "", &times, AtFlags::EMPTY_PATH),
            set => set,
        }
    }

    fn owner(self) -> Option<(Uid, Gid)> {
        let (uid, gid) = self.owner.filter(|(uid, gid)| *uid != u32::MAX && *gid != u32::MAX)?;
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    fn times(self) -> Option<Timestamps> {
        let at = Timespec { tv_sec: unix_seconds(self.modified?), tv_nsec: 0 };
        Some(Timestamps { last_access: at, last_modification: at })
    }
}

/// A name's path by its letters alone.
fn normalised(name: &[u8]) -> Result<PathBuf, ExtractError> {
    let mut segments = Vec::new();
    for segment in name.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop().ok_or_else(|| escapes(name))?),
            segment if segment.contains(&0) => return Err(escapes(name)),
            segment => segments.push(segment),
        }
    }
    Ok(segments.into_iter().map(OsStr::from_bytes).collect())
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn escapes(name: &[u8]) -> ExtractError {
    ExtractError::Escapes { name: lossy(name) }
}

fn failed(path: &Path, error: Errno) -> ExtractError {
    match error {
        Errno::XDEV => escapes(path.as_os_str().as_bytes()),
        error => ExtractError::Write { path: path.to_owned(), source: error.into() },
    }
}

fn exceeded(path: &Path, source: Exceeded) -> ExtractError {
    ExtractError::TooLarge { path: path.to_owned(), source }
}
