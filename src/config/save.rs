//! Writing a small file so that it is there whole or not at all: it holds tokens, and a full disk must not cost one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

/// Only the owner may read the file.
const FOLDER_MODE: u32 = 0o700;

/// Writes a new file beside the old one, syncs it, and puts it in its place with the owner and the mode of the old
/// one. A missing folder is made for the owner alone, and so is a missing file. A link is followed. Where a file
/// cannot be replaced, as one that is mounted by itself, or cannot be given its owner, it is written over.
pub fn write(path: &Path, text: &str) -> Result<(), SaveError> {
    let failed = |source| SaveError { path: path.to_owned(), source };
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder).map_err(failed)?;
    replace(&target, &folder, text).map_err(failed)
}

fn replace(target: &Path, folder: &Path, text: &str) -> io::Result<()> {
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    if let Err(error) = resemble(file.as_file(), target) {
        return if error.kind() == io::ErrorKind::PermissionDenied { write_over(target, text) } else { Err(error) };
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist(target) {
        Ok(_) => File::open(folder)?.sync_all(),
        Err(error) if matches!(error.error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {
            write_over(target, text)
        }
        Err(error) => Err(error.error),
    }
}

/// Gives a file the owner, the group and the mode of another one, where that exists: who could read the config
/// before must be able to afterwards.
fn resemble(file: &File, other: &Path) -> io::Result<()> {
    let other = match fs::metadata(other) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        fchown(file, Some(other.uid()), Some(other.gid()))?;
    }
    file.set_permissions(other.permissions())
}

fn write_over(target: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).truncate(true).open(target)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The file was not written; the old one stands.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct SaveError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_and_its_folder_belong_to_the_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/config.toml");
        write(&path, "one").unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn an_existing_file_keeps_its_owner_and_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("config.toml");
        fs::write(&path, "one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let owner = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
        // Only root may give a file away.
        std::os::unix::fs::chown(&path, Some(4711), Some(4712)).ok();
        let before = owner(&path);
        write(&path, "two").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("two", 0o640));
        assert_eq!(owner(&path), before);
    }

    #[test]
    fn a_link_stays_and_its_file_changes() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("real.toml"), root.path().join("config.toml"));
        write(&file, "one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "two").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    }

    #[test]
    fn nothing_is_left_behind_when_it_fails() {
        let root = tempfile::tempdir().unwrap();
        let folder_in_the_way = root.path().join("config.toml");
        fs::create_dir(&folder_in_the_way).unwrap();
        assert!(write(&folder_in_the_way, "x").is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
