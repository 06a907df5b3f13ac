//! The state folder: who may look into it, and which process may use it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::JournalError;

/// The extension of the file with the key of the journal's secrets.
pub(super) const KEY: &str = "key";
/// The extension of the file that is locked by the process that uses the journal, and names it.
const LOCK: &str = "lock";

pub(super) const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Held open for as long as the journal is ours: the lock ends with this process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Makes the folder where it is missing, and gives its one true name. One that is there keeps its mode: it may be
/// somebody else's too.
pub(super) fn make(path: &Path) -> Result<PathBuf, JournalError> {
    let made = fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
    let failed = |source: io::Error| JournalError::Folder { path: path.to_owned(), source: Arc::new(source) };
    made.and_then(|()| path.canonicalize()).map_err(failed)
}

/// Takes a journal for this process.
pub(super) fn lock(journal: &Path) -> Result<Lock, JournalError> {
    let path = journal.with_extension(LOCK);
    let failed = |source: io::Error| JournalError::Folder { path: path.clone(), source: Arc::new(source) };
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(FILE_MODE);
    let mut file = options.open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed)?;
            return Err(JournalError::InUse { path: journal.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(error) => return Err(failed(error.into())),
    }
    let holder = format!("process {}", std::process::id());
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{holder}"));
    written.map_err(failed)?;
    Ok(Lock { _file: file })
}

/// Makes the creation or renaming of a file survive a loss of power.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
