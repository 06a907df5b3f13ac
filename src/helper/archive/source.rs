//! Opening what an archive is made of, and archives themselves: regular files only, which never wait and are never
//! a link to something else.
//!
//! A job's processes may still be at work, so a file is checked after it was opened. Where links that lead out of
//! the project are not followed ([`Reach::Project`]) its folder is resolved beneath the project too, whatever has
//! been put into its place since it was selected.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{CWD, OFlags};

use super::ArchiveError;
use super::beneath::{Beneath, Resolver};
use crate::helper::console::Console;
use crate::helper::regular::open_at;
use crate::helper::selection::{Reach, Selection};

/// Opens the entries of a selection.
pub(super) struct Source<'a> {
    selection: &'a Selection,
    console: &'a Console,
    /// The project, where nothing outside of it may be read.
    project: Option<Beneath>,
}

impl<'a> Source<'a> {
    /// # Errors
    /// The project's folder cannot be opened.
    pub(super) fn new(selection: &'a Selection, console: &'a Console) -> Result<Self, ArchiveError> {
        let project = match selection.reach() {
            Reach::Anywhere => None,
            Reach::Project => Some(
                Beneath::open(selection.root(), Resolver::Kernel)
                    .map_err(|source| ArchiveError::Read { path: selection.root().to_owned(), source })?,
            ),
        };
        Ok(Self { selection, console, project })
    }

    /// A selected file, opened, with its size now. `None` where it has gone since, which is logged.
    pub(super) fn file(&mut self, name: &OsStr) -> Result<Option<(File, u64)>, ArchiveError> {
        let opened = match self.folder(name) {
            Ok((Some(folder), base)) => open_at(folder.as_fd(), Path::new(base), OFlags::RDONLY),
            Ok((None, _)) => open_at(CWD, &self.selection.root().join(name), OFlags::RDONLY),
            Err(error) => Err(error),
        };
        match opened {
            Ok(Some(opened)) => Ok(Some(opened)),
            Ok(None) => {
                self.console.warning(&format!("{}: is no regular file any more, left out", name.display()));
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.console.warning(&format!("{}: is gone, left out", name.display()));
                Ok(None)
            }
            Err(source) => Err(ArchiveError::Read { path: name.into(), source }),
        }
    }

    /// Where a selected link leads; `None` where it has gone since.
    pub(super) fn link(&mut self, name: &OsStr) -> Result<Option<OsString>, ArchiveError> {
        let read = match self.folder(name) {
            Ok((Some(folder), base)) => rustix::fs::readlinkat(&folder, base, Vec::new()),
            Ok((None, _)) => rustix::fs::readlinkat(CWD, self.selection.root().join(name), Vec::new()),
            Err(error) => return Err(ArchiveError::Read { path: name.into(), source: error }),
        };
        match read {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(ArchiveError::Read { path: name.into(), source: error.into() }),
        }
    }

    fn folder<'b>(&mut self, name: &'b OsStr) -> io::Result<(Option<Rc<OwnedFd>>, &'b OsStr)> {
        let path = Path::new(name);
        let (parent, base) = (path.parent().unwrap_or(path), path.file_name().unwrap_or(name));
        match &mut self.project {
            None => Ok((None, base)),
            Some(project) => Ok((Some(project.folder(parent)?), base)),
        }
    }
}
