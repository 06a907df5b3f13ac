//! Folders beneath a root, whatever links lie in between.
//!
//! A path is resolved by the kernel (`openat2` with `RESOLVE_BENEATH`), so nobody can swap a folder for a link
//! between a check and its use. Links that stay beneath the root are followed. Where the kernel or an engine's
//! seccomp profile has no `openat2`, and for absolute links, a walk by descriptors applies the same rule: an
//! absolute link is followed if it begins with the root's own path, and then starts again at the root.
//!
//! Callers work relative to the descriptor that they get, with `O_NOFOLLOW` for the last name.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Links that one path may lead through, as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Tries of one resolution: the kernel asks for another one when a folder is renamed meanwhile.
const MAX_TRIES: u32 = 32;

/// Who resolves paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::helper) enum Resolver {
    /// `openat2`.
    Kernel,
    /// One component after the other.
    Walk,
}

/// A root folder, and the last folder that was opened beneath it.
#[derive(Debug)]
pub(in crate::helper) struct Beneath {
    root: Rc<OwnedFd>,
    /// The root's path without links.
    path: PathBuf,
    resolver: Cell<Resolver>,
    /// Neighbours in an archive mostly share their folder.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
}

impl Beneath {
    /// Opens a root, which may itself be reached through links.
    ///
    /// # Errors
    /// `root` is not a folder that can be opened.
    pub(in crate::helper) fn open(root: &Path, resolver: Resolver) -> io::Result<Self> {
        let path = root.canonicalize()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = Rc::new(rustix::fs::openat(CWD, &path, flags, Mode::empty())?);
        Ok(Self { root, path, resolver: Cell::new(resolver), last: None })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A folder that exists. The descriptor is good for calls relative to it only (`O_PATH`).
    ///
    /// # Errors
    /// `XDEV` where the path leads out of the root, and what else `openat` reports.
    pub(in crate::helper) fn folder(&mut self, path: &Path) -> Result<Rc<OwnedFd>, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((_, folder)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(Rc::clone(folder));
        }
        let folder = Rc::new(self.resolve(path)?);
        self.last = Some((path.to_owned(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// A folder, made with those above it where it is missing.
    ///
    /// # Errors
    /// As [`Self::folder`], and what `mkdirat` reports.
    pub(super) fn make_folder(&mut self, path: &Path) -> Result<Rc<OwnedFd>, Errno> {
        let mut missing: Vec<&OsStr> = Vec::new();
        let mut above = path;
        let mut folder = loop {
            match self.folder(above) {
                Err(Errno::NOENT) => {}
                found => break found?,
            }
            let (Some(parent), Some(name)) = (above.parent(), above.file_name()) else { return Err(Errno::NOENT) };
            missing.push(name);
            above = parent;
        };
        if missing.is_empty() {
            return Ok(folder);
        }
        while let Some(name) = missing.pop() {
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
                // A folder that another process has just made is as good; a link in its place is refused below.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = Rc::new(rustix::fs::openat(&folder, name, flags, Mode::empty())?);
        }
        self.last = Some((path.to_owned(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// Forgets what was opened at or below a path, whose name stands for something else from now on.
    pub(super) fn forget(&mut self, path: &Path) {
        self.last.take_if(|(last, _)| last.starts_with(path));
    }

    fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        if self.resolver.get() == Resolver::Walk {
            return self.walk(path);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_TRIES {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // An old kernel, or an engine whose seccomp profile does not know the call.
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.resolver.set(Resolver::Walk);
                    return self.walk(path);
                }
                // An absolute link may lead back into the root.
                Err(Errno::XDEV) => return self.walk(path),
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    fn walk(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut pending = VecDeque::new();
        prepend(&mut pending, path);
        // The folders from the root on, so `..` leads back the way it came and never above the root.
        let mut opened: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                opened.pop().ok_or(Errno::XDEV)?;
                continue;
            }
            let folder = opened.last().map_or_else(|| self.root.as_fd(), AsFd::as_fd);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat(folder, &name, flags, Mode::empty())?;
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
            if kind == FileType::Directory {
                opened.push(found);
                continue;
            }
            if kind != FileType::Symlink {
                return Err(Errno::NOTDIR);
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target =
                PathBuf::from(OsString::from_vec(rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes()));
            if target.is_absolute() {
                let inside = target.strip_prefix(&self.path).map_err(|_| Errno::XDEV)?;
                opened.clear();
                prepend(&mut pending, inside);
            } else {
                prepend(&mut pending, &target);
            }
        }
        match opened.pop() {
            Some(folder) => Ok(folder),
            None => rustix::io::fcntl_dupfd_cloexec(&self.root, 0),
        }
    }
}

fn prepend(pending: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => pending.push_front(name.to_owned()),
            Component::ParentDir => pending.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}
