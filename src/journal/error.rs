//! What can be wrong with a journal, and what an operator can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a journal cannot be used, read or written. Everyone whose changes shared a failed sync gets a clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("another flotilla uses {} ({holder}); stop it, or give this one a config folder or state_storage.dir of \
             its own", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("the state in {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the journal {} is damaged ({detail}); put a copy back, or move it away to begin without it, which makes \
             its instances unknown", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the journal {} has format {found}, and this flotilla reads up to {known}; run the version that wrote it, \
             or move it away to begin without it, which makes its instances unknown", path.display())]
    Future { path: PathBuf, found: u64, known: u64 },
    #[error("the key {} of the journal {} is missing; put it back, or move the journal away to begin without it, \
             which makes its instances unknown", key.display(), journal.display())]
    KeyMissing { key: PathBuf, journal: PathBuf },
    #[error("{} is not the key of the journal {}; put the right one back, or move both away to begin without them, \
             which makes the instances unknown", key.display(), journal.display())]
    KeyWrong { key: PathBuf, journal: PathBuf },
    #[error("the journal {}: the record {key:?} of {kind} is not understood; run the version that wrote it, or move \
             the journal away to begin without it", path.display())]
    Record {
        path: PathBuf,
        kind: String,
        key: String,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("the journal {}: the secret of {key:?} cannot be opened", path.display())]
    Unsealable { path: PathBuf, key: String },
    #[error("the record {key:?} of {kind} cannot be written down")]
    Unwritable {
        kind: &'static str,
        key: String,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("no secret can be sealed")]
    Cipher,
    #[error("the journal {}", path.display())]
    Store {
        path: PathBuf,
        #[source]
        source: Arc<redb::Error>,
    },
    #[error("the journal's thread")]
    Thread(#[source] Arc<io::Error>),
    #[error("the journal is closed")]
    Closed,
}
