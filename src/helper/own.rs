//! `own`: what earlier jobs of other users left in a job's folders becomes the job's user's.
//!
//! The manager runs this as root, in a container that has nothing but our program and the job's volumes. What lies
//! in these volumes is other jobs' doing, so links are never followed: each path is opened one name after the other
//! with `O_NOFOLLOW`, and an owner is changed by the descriptor of what was looked at. Another file system that is
//! mounted below a folder, and a file with a further name outside of the folder, stay as they are.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::cli::OwnArgs;
use crate::detached::OWNER_CHANGED;
use crate::error_chain::Chain;

/// New folders are open to all, as those that the runner's own stages make with their umask.
const NEW_FOLDER: Mode = Mode::from_raw_mode(0o777);

/// A folder below a mounted one, as the command line has it: `/builds:group/project`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the volume is mounted.
    root: PathBuf,
    /// The names from there on; none for the root itself.
    names: Vec<OsString>,
}

impl Place {
    /// # Errors
    /// The text has no `:`, or a part of it would lead elsewhere.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (root, path) = text.split_once(':').filter(|(root, _)| root.starts_with('/')).ok_or("write /ROOT:PATH")?;
        let name = |component| match component {
            Component::Normal(name) => Ok(name.to_owned()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
                Err("PATH must be relative and without `..`".to_owned())
            }
        };
        let names = Path::new(path).components().map(name).collect::<Result<_, String>>()?;
        Ok(Self { root: root.into(), names })
    }
}

/// Which owner to set where; what was done so far.
struct Owning {
    uid: Uid,
    gid: Gid,
    changed: bool,
    /// The first failure; the others are mostly of the same kind.
    failure: Option<OwnError>,
    /// Files with several names, by device and number; the count of names is of those that were not met yet.
    names: HashMap<(u64, u64), Stat>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot give {path} to the job's user")]
struct OwnError {
    path: String,
    #[source]
    source: io::Error,
}

/// Whether a folder above the job's own changes its owner too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parents {
    /// The volume is this job's place alone.
    Owned,
    /// Others share the storage: only folders that are made here are the job's.
    Kept,
}

/// The command. It ends with [`OWNER_CHANGED`] where something had another owner.
pub(super) fn main(args: &OwnArgs) -> ExitCode {
    raise_descriptor_limit();
    let mut owning = Owning {
        uid: Uid::from_raw(args.uid),
        gid: Gid::from_raw(args.gid),
        changed: false,
        failure: None,
        names: HashMap::new(),
    };
    let volumes = args.volumes.iter().map(|place| (place, Parents::Owned));
    for (place, parents) in volumes.chain(args.binds.iter().map(|place| (place, Parents::Kept))) {
        owning.place(place, parents);
    }
    match owning.failure {
        Some(failure) => {
            // The manager shows it as its own words. Without stderr the status alone has to do.
            writeln!(io::stderr(), "{}", Chain(&failure)).ok();
            ExitCode::FAILURE
        }
        None if owning.changed => ExitCode::from(OWNER_CHANGED),
        None => ExitCode::SUCCESS,
    }
}

/// A descriptor is held for each level of a tree, and trees are as deep as jobs make them.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A tree that is too deep for the old limit is reported as any other failure.
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).ok();
}

impl Owning {
    fn place(&mut self, place: &Place, parents: Parents) {
        if let Err((path, error)) = self.descend(place, parents) {
            self.failed(&path, error);
        }
    }

    /// Opens the folder, made with those above it where it is missing, and gives it and its content away.
    fn descend(&mut self, place: &Place, parents: Parents) -> Result<(), (PathBuf, Errno)> {
        let mut path = place.root.clone();
        let open = |parent: &OwnedFd, name: &OsStr| rustix::fs::openat(parent, name, folder_flags(), Mode::empty());
        let mut folder = open_root(&place.root).map_err(|error| (path.clone(), error))?;
        for (index, name) in place.names.iter().enumerate() {
            path.push(name);
            let failed = |error| (path.clone(), error);
            let (opened, is_new) = match open(&folder, name) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, name, NEW_FOLDER).map_err(failed)?;
                    (open(&folder, name).map_err(failed)?, true)
                }
                opened => (opened.map_err(failed)?, false),
            };
            folder = opened;
            let is_last = index + 1 == place.names.len();
            if !is_last && (is_new || parents == Parents::Owned) {
                self.give(&folder).map_err(failed)?;
            }
        }
        let status = self.give(&folder).map_err(|error| (path.clone(), error))?;
        self.content(folder, path, status.st_dev);
        Ok(())
    }

    /// Gives everything below a folder away, as far as it is on the same device.
    fn content(&mut self, folder: OwnedFd, path: PathBuf, device: u64) {
        let mut pending = vec![(Rc::new(folder), OsString::from("."), path)];
        while let Some((parent, name, path)) = pending.pop() {
            let opened = open_to_read(&parent, &name).and_then(|folder| Ok((Dir::read_from(&folder)?, folder)));
            let (entries, folder) = match opened {
                Ok((entries, folder)) => (entries, Rc::new(folder)),
                Err(error) => {
                    self.failed(&path, error);
                    continue;
                }
            };
            for entry in entries {
                let name = match entry {
                    Ok(entry) => OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
                    Err(error) => {
                        self.failed(&path, error);
                        break;
                    }
                };
                if name == "." || name == ".." {
                    continue;
                }
                match self.entry(&folder, &name, device) {
                    Ok(true) => {
                        let path = path.join(&name);
                        pending.push((Rc::clone(&folder), name, path));
                    }
                    // What is gone meanwhile needs no owner.
                    Ok(false) | Err(Errno::NOENT) => {}
                    Err(error) => self.failed(&path.join(&name), error),
                }
            }
        }
    }

    /// Gives one entry away. Whether it is a folder to go into.
    fn entry(&mut self, folder: &OwnedFd, name: &OsStr, device: u64) -> Result<bool, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&entry)?;
        if status.st_dev != device {
            return Ok(false);
        }
        let is_folder = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        if is_folder || status.st_nlink == 1 || self.is_last_name(&status) {
            self.give_with(&entry, &status)?;
        }
        Ok(is_folder)
    }

    /// Whether all names of a file have been met: then none of them is outside.
    fn is_last_name(&mut self, status: &Stat) -> bool {
        let left = self.names.entry((status.st_dev, status.st_ino)).or_insert(*status);
        left.st_nlink = left.st_nlink.saturating_sub(1);
        left.st_nlink == 0
    }

    fn give(&mut self, file: &OwnedFd) -> Result<Stat, Errno> {
        let status = rustix::fs::fstat(file)?;
        self.give_with(file, &status)?;
        Ok(status)
    }

    fn give_with(&mut self, file: &OwnedFd, status: &Stat) -> Result<(), Errno> {
        if status.st_uid == self.uid.as_raw() && status.st_gid == self.gid.as_raw() {
            return Ok(());
        }
        rustix::fs::chownat(file, "", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH)?;
        self.changed = true;
        Ok(())
    }

    fn failed(&mut self, path: &Path, error: Errno) {
        let failure = || OwnError { path: path.display().to_string(), source: error.into() };
        self.failure.get_or_insert_with(failure);
    }
}

fn folder_flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens an absolute path without links in it.
fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let mut folder = rustix::fs::openat(CWD, "/", folder_flags(), Mode::empty())?;
    for component in path.components().skip(1) {
        folder = rustix::fs::openat(&folder, component.as_os_str(), folder_flags(), Mode::empty())?;
    }
    Ok(folder)
}

fn open_to_read(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests;
