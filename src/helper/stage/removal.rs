//! Deleting a job's folder, whatever the job has made of it.
//!
//! Its processes have ended. Folders that are closed even to their owner are opened first, and folders are not
//! entered one below the other, so neither `chmod` nor a depth beyond all limits keeps anything here.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Deletes a folder with all that is in it. One that is gone is as wanted; what another user owns may stay.
///
/// # Errors
/// Something could not be deleted.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    if ignore_missing(fs::remove_dir_all(folder)).is_ok() {
        return Ok(());
    }
    if !fs::symlink_metadata(folder)?.is_dir() {
        return fs::remove_file(folder);
    }
    open(folder)?;
    let mut moved = 0_u64;
    loop {
        let mut is_empty = true;
        for entry in fs::read_dir(folder)? {
            is_empty = false;
            empty_one(folder, &entry?.path(), &mut moved)?;
        }
        if is_empty {
            return ignore_missing(fs::remove_dir(folder));
        }
    }
}

/// Deletes an entry of `top`. What is in a folder below it moves up, so that nothing is deep any more.
fn empty_one(top: &Path, path: &Path, moved: &mut u64) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    open(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
            continue;
        }
        // To move a folder its own `..` is written.
        open(&entry.path())?;
        loop {
            *moved += 1;
            match fs::rename(entry.path(), top.join(format!("moved-{moved}"))) {
                // A name of the job's, by chance or by intent.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory) => {}
                result => break result?,
            }
        }
    }
    fs::remove_dir(path)
}

fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
