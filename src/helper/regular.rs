//! Opening files that a job may have replaced: regular files only, and no more of them than expected.
//!
//! A link is not followed, a pipe is not waited for, a device is not read, and a file without end is refused at its
//! limit.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

/// Opens a file that a job may have replaced for reading.
///
/// # Errors
/// The file cannot be opened, or is not a regular file.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDONLY)
}

/// The same with an access of the caller's choice, such as `WRONLY | APPEND`. The file is never created.
///
/// # Errors
/// As [`open_regular`].
pub(super) fn open_with(path: &Path, access: OFlags) -> io::Result<File> {
    match open_at(CWD, path, access)? {
        Some((file, _)) => Ok(file),
        None => Err(io::Error::other("not a regular file")),
    }
}

/// Opens a file below `folder` and returns it with its size; `None` where it is not a regular file.
///
/// # Errors
/// The file cannot be opened. A link is among these (`ELOOP`).
pub(super) fn open_at(folder: BorrowedFd<'_>, path: &Path, access: OFlags) -> io::Result<Option<(File, u64)>> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = match rustix::fs::openat(folder, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A pipe without a reader, opened for writing.
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata.len())))
}

/// The content of a file that a job may have replaced.
///
/// # Errors
/// As [`open_regular`], and where the file has more than `limit` bytes.
pub(super) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_regular(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("a file of more than {limit} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What a job may put in the place of a file of ours.
    fn replacements(folder: &Path) -> Vec<std::path::PathBuf> {
        let path = |name| folder.join(name);
        rustix::fs::mkfifoat(CWD, path("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        symlink("fifo", path("link")).unwrap();
        fs::write(path("file"), "content").unwrap();
        symlink("file", path("link to a file")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        ["fifo", "zero", "link", "link to a file", "folder"].map(path).into()
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        for path in replacements(folder.path()) {
            for access in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::APPEND] {
                open_with(&path, access).unwrap_err();
            }
            read_regular(&path, 64).unwrap_err();
        }
        assert_eq!(read_regular(&folder.path().join("file"), 7).unwrap(), b"content");
    }

    #[test]
    fn file_beyond_its_limit_is_refused_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(read_regular(&path, 64).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
