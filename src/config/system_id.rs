//! `.runner_system_id`: the name of this manager among those that share a runner at GitLab.
//!
//! It lies beside the config file and is kept for ever. A new one is derived from the machine's id, so that it is
//! the same after a reinstallation, or drawn where the machine has none.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::save;

/// The file's name, beside the config file.
pub const FILE: &str = ".runner_system_id";

/// Where Linux keeps the machine's id, in the order of the reference.
pub const MACHINE_ID_FILES: [&str; 2] = ["/var/lib/dbus/machine-id", "/etc/machine-id"];

/// Letters after the prefix.
const LENGTH: usize = 12;

/// What is signed with the machine's id; GitLab Runner's own word, so that both derive the same.
const MESSAGE: &[u8] = b"gitlab-runner";

/// `s_` and twelve letters where it is derived from the machine, `r_` where it was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemId(String);

impl SystemId {
    /// The id in a file's text, where it is a valid one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let letters = text.strip_prefix("s_").or_else(|| text.strip_prefix("r_"))?;
        let valid = letters.len() == LENGTH && letters.bytes().all(|byte| byte.is_ascii_alphanumeric());
        valid.then(|| Self(text.to_owned()))
    }

    /// The id that a machine's id gives.
    pub fn derive(machine_id: &str) -> Option<Self> {
        let mut mac = Hmac::<Sha256>::new_from_slice(machine_id.trim().as_bytes()).ok()?;
        mac.update(MESSAGE);
        let hex = hex::encode(mac.finalize().into_bytes());
        Some(Self(format!("s_{}", hex.get(..LENGTH)?)))
    }

    /// A drawn one.
    pub fn random() -> Self {
        const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let letter = || LETTERS.get(rand::random_range(0..LETTERS.len())).map_or('0', |letter| char::from(*letter));
        Self(format!("r_{}", std::iter::repeat_with(letter).take(LENGTH).collect::<String>()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id to use, and whether it could be kept.
#[derive(Debug)]
pub struct Kept {
    pub id: SystemId,
    /// Why it could not be written: the next start will have another one, unless it is derived.
    pub unsaved: Option<save::SaveError>,
}

/// The id in the folder of the config file; a new one is made and written where there is none or an invalid one.
/// An existing file that cannot be read is an error.
pub fn load_or_create(folder: &Path, machine_id_files: &[&Path]) -> Result<Kept, SystemIdError> {
    if let Some(id) = kept(folder)? {
        return Ok(Kept { id, unsaved: None });
    }
    let id = derived(machine_id_files).unwrap_or_else(SystemId::random);
    let unsaved = save::write(&folder.join(FILE), id.as_str()).err();
    Ok(Kept { id, unsaved })
}

/// The id that [`load_or_create`] would give, with nothing written; `None` where it would be drawn.
/// An existing file that cannot be read is an error.
pub fn look(folder: &Path, machine_id_files: &[&Path]) -> Result<Option<SystemId>, SystemIdError> {
    Ok(kept(folder)?.or_else(|| derived(machine_id_files)))
}

fn kept(folder: &Path) -> Result<Option<SystemId>, SystemIdError> {
    let path = folder.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(SystemId::parse(&text)),
        // A text that is no UTF-8 is as invalid as any other.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(source) => Err(SystemIdError { path, source }),
    }
}

fn derived(machine_id_files: &[&Path]) -> Option<SystemId> {
    let machine_ids = machine_id_files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let machine_id = machine_ids.map(|id| id.trim().to_owned()).find(|id| !id.is_empty());
    machine_id.and_then(|id| SystemId::derive(&id))
}

/// The file exists and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct SystemIdError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_two_forms_are_ids() {
        for text in ["s_0123456789ab", "r_aBcDeFgHiJkL", "  s_0123456789ab\n"] {
            assert_eq!(SystemId::parse(text).unwrap().as_str(), text.trim());
        }
        for text in ["", "s_", "x_0123456789ab", "s_0123456789abc", "s_0123456789a", "s_0123456789a-", "0123456789abcd"]
        {
            assert_eq!(SystemId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_machine_decides_the_derived_id() {
        // echo -n gitlab-runner | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let id = SystemId::derive("0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(id.as_str(), "s_ee3af03959fe");
        assert_eq!(SystemId::parse(id.as_str()), Some(id));
    }

    #[test]
    fn drawn_ids_are_valid_and_differ() {
        let (one, other) = (SystemId::random(), SystemId::random());
        assert!(SystemId::parse(one.as_str()).is_some());
        assert_ne!(one, other);
    }

    #[test]
    fn an_id_is_kept_and_an_invalid_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let machine = folder.path().join("machine-id");
        std::fs::write(&machine, "0123456789abcdef0123456789abcdef").unwrap();
        let file = folder.path().join("new").join(FILE);
        let load = || load_or_create(file.parent().unwrap(), &[Path::new("/nonexistent"), &machine]).unwrap();
        let looked = look(file.parent().unwrap(), &[&machine]).unwrap();
        assert!(!file.parent().unwrap().exists(), "who only looks writes nothing");
        let created = load();
        assert_eq!(looked.as_ref(), Some(&created.id));
        assert!(created.unsaved.is_none() && created.id.as_str().starts_with("s_"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), created.id.as_str(), "no line break");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "r_keptkeptkept\n").unwrap();
        assert_eq!(load().id.as_str(), "r_keptkeptkept");
        assert_eq!(look(file.parent().unwrap(), &[&machine]).unwrap(), Some(load().id));
        std::fs::write(&file, b"\xff").unwrap();
        assert_eq!(load().id, created.id);
    }

    #[test]
    fn without_a_machine_id_one_is_drawn_and_without_a_place_it_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let not_a_folder = folder.path().join("file");
        std::fs::write(&not_a_folder, "").unwrap();
        assert_eq!(look(folder.path(), &[]).unwrap(), None);
        let kept = load_or_create(folder.path(), &[]).unwrap();
        assert!(kept.id.as_str().starts_with("r_") && kept.unsaved.is_none());
        assert!(load_or_create(&not_a_folder, &[]).is_err(), "what cannot be read is an error");
    }
}
