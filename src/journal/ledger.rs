//! The store: one redb file with a table of records.
//!
//! A record's place is (section, kind, key), its value is JSON. A second table says which format the file has
//! and proves that the key of its secrets is the right one.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use tracing::warn;

use super::change::What;
use super::seal::Sealer;
use super::{Change, JournalError, folder};

/// Goes up when an older version could not serve the file without harm. New fields and kinds do not count.
const FORMAT: u64 = 1;
/// The records of a large fleet have room in it.
const CACHE: usize = 4 << 20;

type Place = (&'static str, &'static str, &'static str);

const RECORDS: TableDefinition<'static, Place, &'static [u8]> = TableDefinition::new("records");
/// What is true of the file as a whole.
const ABOUT: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("about");
const FORMAT_KEY: &str = "format";
const VERSION_KEY: &str = "written_by";
const SEAL_KEY: &str = "seal";
/// What is sealed under [`SEAL_KEY`].
const SEALED: &str = "flotilla";

/// A record's key, and the record.
pub(super) type Keyed = (String, Value);

/// An open file.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    database: Database,
}

impl Ledger {
    /// Makes the file beside its place first: one that is there is whole, so that an empty one is a loss and no
    /// beginning.
    pub(super) fn create(path: &Path, sealer: &Sealer) -> Result<(), JournalError> {
        let failed = |source: io::Error| JournalError::Folder { path: path.to_owned(), source: Arc::new(source) };
        let part = path.with_extension("redb.part");
        let mut options = File::options();
        options.create(true).truncate(true).read(true).write(true).mode(folder::FILE_MODE);
        let file = options.open(&part).map_err(failed)?;
        let seal = sealer.seal(SEAL_KEY, SEALED)?;
        guarded(path, || {
            let database = Builder::new().set_cache_size(CACHE).create_file(file)?;
            let transaction = database.begin_write()?;
            {
                let mut about = transaction.open_table(ABOUT)?;
                about.insert(FORMAT_KEY, FORMAT.to_string().as_bytes())?;
                about.insert(VERSION_KEY, env!("CARGO_PKG_VERSION").as_bytes())?;
                about.insert(SEAL_KEY, seal.as_bytes())?;
                transaction.open_table(RECORDS)?;
            }
            Ok(transaction.commit()?)
        })?;
        fs::rename(&part, path).and_then(|()| folder::sync(path)).map_err(failed)
    }

    /// Opens a file that is there. After a crash the store repairs what was being written.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source: io::Error| JournalError::Folder { path: path.to_owned(), source: Arc::new(source) };
        if fs::metadata(path).map_err(failed)?.len() == 0 {
            return Err(damaged(path, "it is empty"));
        }
        let database = guarded(path, || Ok(Builder::new().set_cache_size(CACHE).open(path)?))?;
        Ok(Self { path: path.to_owned(), database })
    }

    #[cfg(test)]
    pub(super) fn over(path: &Path, database: Database) -> Self {
        Self { path: path.to_owned(), database }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at every page and every record, once at a start.
    pub(super) fn check(&mut self, sealer: &Sealer) -> Result<(), JournalError> {
        let Self { path, database } = self;
        if !guarded(path, || Ok(database.check_integrity()?))? {
            warn!(path = %path.display(), "the journal was damaged and has been repaired");
        }
        let (format, seal) = guarded(path, || {
            let table = database.begin_read()?.open_table(ABOUT)?;
            let text = |key| -> Result<Option<String>, redb::Error> {
                Ok(table.get(key)?.map(|value| String::from_utf8_lossy(value.value()).into_owned()))
            };
            Ok((text(FORMAT_KEY)?, text(SEAL_KEY)?))
        })?;
        let found = format.and_then(|format| format.parse().ok());
        let found: u64 = found.ok_or_else(|| damaged(path, "it does not say which format it has"))?;
        if found > FORMAT {
            return Err(JournalError::Future { path: path.clone(), found, known: FORMAT });
        }
        let opened = seal.and_then(|sealed| sealer.open(SEAL_KEY, &sealed));
        if opened.is_none_or(|text| text.expose() != SEALED) {
            let key = path.with_extension(folder::KEY);
            return Err(JournalError::KeyWrong { key, journal: path.clone() });
        }
        self.walk(("", "", ""), (LAST, LAST, LAST), |_, _| ())
    }

    /// Makes changes in their order, all or none, and syncs them.
    pub(super) fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = (&'a str, &'a Change)>,
    ) -> Result<(), JournalError> {
        guarded(&self.path, || {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(RECORDS)?;
                for (section, Change { kind, key, what }) in changes {
                    let place = (section, *kind, key.as_str());
                    let before = table.get(place)?.and_then(|value| serde_json::from_slice(value.value()).ok());
                    match after(before, what) {
                        Some(record) => drop(table.insert(place, record.to_string().as_bytes())?),
                        None => drop(table.remove(place)?),
                    }
                }
            }
            Ok(transaction.commit()?)
        })
    }

    pub(super) fn load(&self, section: &str, kind: &str) -> Result<Vec<Keyed>, JournalError> {
        let mut found = Vec::new();
        self.walk((section, kind, ""), (section, kind, LAST), |(_, _, key), record| {
            found.push((key.to_owned(), record));
        })?;
        Ok(found)
    }

    pub(super) fn sections(&self) -> Result<BTreeMap<String, usize>, JournalError> {
        let mut found = BTreeMap::new();
        self.walk(("", "", ""), (LAST, LAST, LAST), |(section, _, _), _| {
            *found.entry(section.to_owned()).or_default() += 1;
        })?;
        Ok(found)
    }

    fn walk(
        &self,
        first: (&str, &str, &str),
        last: (&str, &str, &str),
        mut see: impl FnMut((&str, &str, &str), Value),
    ) -> Result<(), JournalError> {
        let unread = guarded(&self.path, || {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            for entry in table.range(first..=last)? {
                let (place, value) = entry?;
                match serde_json::from_slice(value.value()) {
                    Ok(record) => see(place.value(), record),
                    Err(source) => {
                        let (_, kind, key) = place.value();
                        return Ok(Some((kind.to_owned(), key.to_owned(), source)));
                    }
                }
            }
            Ok(None)
        })?;
        let Some((kind, key, source)) = unread else { return Ok(()) };
        Err(JournalError::Record { path: self.path.clone(), kind, key, source: Arc::new(source) })
    }
}

/// Sorts behind every text that a name begins with.
const LAST: &str = "\u{10ffff}";

/// What a record is after a change; `None` where there is none.
fn after(before: Option<Value>, what: &What) -> Option<Value> {
    match (before, what) {
        (_, What::Remove) | (None, What::Amend(_)) => None,
        (Some(Value::Object(mut record)), What::Put(Value::Object(fields)) | What::Amend(fields)) => {
            record.extend(fields.clone());
            Some(Value::Object(record))
        }
        (_, What::Put(record)) => Some(record.clone()),
        (Some(record), What::Amend(_)) => Some(record),
    }
}

/// Runs work on the store. Some damage makes it panic, which is an error like any other.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, JournalError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|source| broken(path, source)),
        Err(panic) => Err(damaged(path, &panic_text(panic.as_ref()))),
    }
}

fn broken(path: &Path, source: redb::Error) -> JournalError {
    if let redb::Error::Corrupted(detail) = &source {
        return damaged(path, detail);
    }
    if let redb::Error::UpgradeRequired(version) = &source {
        return damaged(path, &format!("its store has the old version {version}"));
    }
    let is_nonsense = if let redb::Error::Io(error) = &source {
        matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
    } else {
        matches!(
            source,
            redb::Error::RepairAborted
                | redb::Error::TableDoesNotExist(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TypeDefinitionChanged { .. }
        )
    };
    if is_nonsense {
        return damaged(path, &source.to_string());
    }
    JournalError::Store { path: path.to_owned(), source: Arc::new(source) }
}

fn damaged(path: &Path, detail: &str) -> JournalError {
    JournalError::Damaged { path: path.to_owned(), detail: detail.to_owned() }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "the store gave up".to_owned())
}
