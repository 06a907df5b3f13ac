//! Secrets on their way to the file: AES-256-GCM under a key that lies beside it.
//!
//! The key is a file of its own, so that a copy of the journal gives nothing away, and so that who may read the
//! journal and who may read its secrets can be two questions.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::{JournalError, folder};
use crate::secret::Secret;

const KEY_LENGTH: usize = 32;

/// Seals and opens texts. A sealed text is the nonce, the cipher text and its tag, in base64.
pub(super) struct Sealer(RandomizedNonceKey);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// Reads the key, or makes one where the journal is new too.
    pub(super) fn load(path: &Path, journal: &Path, journal_is_new: bool) -> Result<Self, JournalError> {
        let failed = |source: io::Error| JournalError::Folder { path: path.to_owned(), source: Arc::new(source) };
        let key = match fs::read(path) {
            Ok(key) => key,
            Err(error) if error.kind() == io::ErrorKind::NotFound && journal_is_new => {
                let mut key = vec![0; KEY_LENGTH];
                rand::fill(&mut key).map_err(|_| JournalError::Cipher)?;
                write(path, &key).map_err(failed)?;
                key
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JournalError::KeyMissing { key: path.to_owned(), journal: journal.to_owned() });
            }
            Err(error) => return Err(failed(error)),
        };
        let wrong = |_| JournalError::KeyWrong { key: path.to_owned(), journal: journal.to_owned() };
        Ok(Self(RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(wrong)?))
    }

    /// What opens only with the same `context`.
    pub(super) fn seal(&self, context: &str, text: &str) -> Result<String, JournalError> {
        let mut sealed = text.as_bytes().to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut sealed)
            .map_err(|_| JournalError::Cipher)?;
        Ok(BASE64.encode([&nonce.as_ref()[..], &sealed].concat()))
    }

    /// `None` where it was sealed with another key or context, or was changed.
    pub(super) fn open(&self, context: &str, sealed: &str) -> Option<Secret> {
        let bytes = BASE64.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let text = self.0.open_in_place(nonce, Aad::from(context.as_bytes()), &mut sealed).ok()?;
        Some(Secret::new(std::str::from_utf8(text).ok()?))
    }
}

/// Whole or not at all: a journal without the key of its secrets is of no use.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let part = path.with_extension("key.part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().create_new(true).write(true).mode(folder::FILE_MODE).open(&part)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    folder::sync(path)
}
