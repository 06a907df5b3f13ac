//! What survives the manager: one file of durable records for each state folder.
//!
//! A record is written and synced before the act that it stands for, so that a manager that is killed at any
//! instruction can go on. Records are JSON under a section, a kind and a key: each part of the program keeps
//! its own and none reads another's. Sections are named by a runner's key and the system id, never by a token, so
//! that a rotated token keeps its fleet.
//!
//! | file | what it knows |
//! |---|---|
//! | `change` | what can be done to a record |
//! | `ledger` | the store itself: its tables, its transactions, what can be wrong with a file |
//! | `writer` | the one thread that has the store; changes that meet share one sync |
//! | `seal` | secrets, which are never in the file in clear |
//! | `folder` | the state folder: its modes, and the lock that lets one manager in |
//!
//! Fields that this version does not know are kept when it writes a record again, and so are records that it does
//! not know: a later version's file, as long as that calls its format the same, is served without a loss. A file of
//! another format, or a damaged one, is an error that says what to do; nothing is ever forgotten in silence.
//!
//! What it must not do: know what a record means. It alone knows the format of the store.

mod change;
mod error;
mod folder;
mod ledger;
mod seal;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;

use crate::pulse::Pulses;
use crate::secret::Secret;

pub use change::Change;
pub use error::JournalError;

use ledger::Ledger;
use seal::Sealer;
use writer::Writer;

/// The file in a state folder.
const FILE: &str = "journal.redb";

/// The journals of this process, one for each state folder, opened at the first need.
#[derive(Debug)]
pub struct Journals {
    default: PathBuf,
    pulses: Pulses,
    open: Mutex<BTreeMap<PathBuf, Journal>>,
}

impl Journals {
    /// `default` is the folder of runners that name none; the threads that write have a pulse.
    pub fn new(default: PathBuf, pulses: Pulses) -> Self {
        Self { default, pulses, open: Mutex::default() }
    }

    /// The journal in this folder, or in the default one. May block.
    ///
    /// # Errors
    /// Another manager has it, or it cannot be used; the message says what to do.
    pub fn open(&self, folder: Option<&Path>) -> Result<Journal, JournalError> {
        let folder = folder::make(folder.unwrap_or(&self.default))?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = open.get(&folder) {
            return Ok(journal.clone());
        }
        let journal = Journal::open_watched(&folder.join(FILE), &self.pulses)?;
        open.insert(folder, journal.clone());
        Ok(journal)
    }
}

/// One state folder's records. Clones share it; it is closed, with everything written, when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

/// In the order in which they end: the writer before the lock.
#[derive(Debug)]
struct Inner {
    writer: Writer,
    sealer: Sealer,
    path: PathBuf,
    _ground: Ground,
}

/// What the file stands on.
#[derive(Debug)]
enum Ground {
    Held { _lock: folder::Lock },
    Copied { _folder: tempfile::TempDir },
}

impl Journal {
    /// Takes the lock beside the file and opens it, or makes it where there is none. May block.
    ///
    /// # Errors
    /// As [`Journals::open`].
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_watched(path, &Pulses::default())
    }

    fn open_watched(path: &Path, pulses: &Pulses) -> Result<Self, JournalError> {
        let lock = folder::lock(path)?;
        let is_new = !path.exists();
        let sealer = Sealer::load(&path.with_extension(folder::KEY), path, is_new)?;
        if is_new {
            Ledger::create(path, &sealer)?;
        }
        Self::start(path, sealer, Ground::Held { _lock: lock }, pulses)
    }

    /// A copy of a journal as it is now, to look into while its manager may run; it goes when the last clone is
    /// dropped. One that is being written may be damaged in the copy. May block.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn copy_of(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Folder { path: path.to_owned(), source: Arc::new(source) };
        let folder = tempfile::tempdir().map_err(failed)?;
        let copy = folder.path().join(FILE);
        std::fs::copy(path, &copy).map_err(failed)?;
        let sealer = Sealer::load(&path.with_extension(folder::KEY), path, false)?;
        Self::start(&copy, sealer, Ground::Copied { _folder: folder }, &Pulses::default())
    }

    fn start(path: &Path, sealer: Sealer, ground: Ground, pulses: &Pulses) -> Result<Self, JournalError> {
        let mut ledger = Ledger::open(path)?;
        ledger.check(&sealer)?;
        let writer = Writer::start(ledger, pulses.of(format!("the journal {}", path.display())))?;
        Ok(Self(Arc::new(Inner { writer, sealer, path: path.to_owned(), _ground: ground })))
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The records of one part of the program.
    pub fn section(&self, name: &str) -> Section {
        Section { journal: self.clone(), name: name.into() }
    }

    /// The sections that have records, with their numbers. May block.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn sections(&self) -> Result<BTreeMap<String, usize>, JournalError> {
        self.0.writer.sections()
    }
}

/// The records of one part of the program.
#[derive(Clone, Debug)]
pub struct Section {
    journal: Journal,
    name: Arc<str>,
}

impl Section {
    /// All records of a kind, in the order of their keys. May block.
    ///
    /// # Errors
    /// The file cannot be read, or a record is none of its kind.
    pub fn load<T: DeserializeOwned>(&self, kind: &'static str) -> Result<Vec<T>, JournalError> {
        let decode = |(key, record)| {
            serde_json::from_value(record).map_err(|source| JournalError::Record {
                path: self.journal.path().to_owned(),
                kind: kind.to_owned(),
                key,
                source: Arc::new(source),
            })
        };
        self.journal.0.writer.load(&self.name, kind)?.into_iter().map(decode).collect()
    }

    /// Makes changes, all or none, synced when it returns. May block; not to be called where that is not allowed.
    ///
    /// # Errors
    /// None of them was made. Another try may succeed.
    pub fn commit(&self, changes: &[Change]) -> Result<(), JournalError> {
        self.journal.0.writer.commit_blocking(&self.name, changes.to_vec())
    }

    /// As [`Section::commit`], without blocking.
    ///
    /// # Errors
    /// As [`Section::commit`].
    pub async fn write(&self, changes: Vec<Change>) -> Result<(), JournalError> {
        self.journal.0.writer.commit(&self.name, changes).await
    }

    /// Makes a change within a moment, with others if there are any. For what a crash may lose.
    pub fn write_soon(&self, change: Change) {
        self.journal.0.writer.commit_soon(&self.name, change);
    }

    /// A secret as it may stand in a record of this section; `key` is the record's.
    ///
    /// # Errors
    /// The cipher fails.
    pub fn seal(&self, key: &str, secret: &Secret) -> Result<String, JournalError> {
        self.journal.0.sealer.seal(&self.context(key), secret.expose())
    }

    /// A sealed secret again.
    ///
    /// # Errors
    /// It was sealed with another key, or for another record, or was changed.
    pub fn unseal(&self, key: &str, sealed: &str) -> Result<Secret, JournalError> {
        let opened = self.journal.0.sealer.open(&self.context(key), sealed);
        opened.ok_or_else(|| JournalError::Unsealable { path: self.journal.path().to_owned(), key: key.to_owned() })
    }

    fn context(&self, key: &str) -> String {
        format!("{}\n{key}", self.name)
    }
}
