//! Extracting a zip archive into a folder.
//!
//! Every entry has to lie within the folder, by its name and by the links that are there already. Links of
//! the archive are made after all files, so none of its entries goes through another; times of folders
//! are set last, since each new file changes them. What is in a file's place is removed before, not
//! written into. Owners are restored where that is allowed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid};
use thiserror::Error;
use zip::ZipArchive;
use zip::extra_fields::ExtraField;
use zip::read::ZipFile;
use zip::result::ZipError;

use crate::helper::calendar::{unix_from_civil, unix_seconds};

/// A link's target is a path, and paths end here.
const MAX_LINK: u64 = 4_096;

const UNIX_OWNER: u16 = 0x7875;
const TYPE_BITS: u32 = 0o170_000;
const PERMISSION_BITS: u32 = 0o7_777;
const READ_BUFFER: usize = 64 << 10;

/// Why an archive was not, or not wholly, extracted.
#[derive(Debug, Error)]
pub(in crate::helper) enum ExtractError {
    #[error("\"{0}\" format: unsupported archive format")]
    Unsupported(&'static str),
    #[error("reading the archive")]
    Read(#[source] io::Error),
    #[error("reading the archive")]
    Zip(#[source] ZipError),
    #[error("{name}")]
    Entry {
        name: String,
        #[source]
        source: ZipError,
    },
    #[error("{name}: leads outside of the target folder")]
    Escapes { name: String },
    #[error("extracting {path}", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What an entry has beside its data.
#[derive(Clone, Copy, Debug)]
struct Attributes {
    /// Permissions; `None` where the archive was made by a system without them.
    mode: Option<u32>,
    modified: Option<SystemTime>,
    owner: Option<(u32, u32)>,
}

/// Extracts all of an archive into `folder`, which exists.
///
/// # Errors
/// The archive is broken or of a form that is not served, an entry leads out of the folder, or a file
/// cannot be made. What was extracted before stays.
pub(in crate::helper) fn extract(mut archive: File, folder: &Path) -> Result<(), ExtractError> {
    let mut magic = [0; 4];
    let known = read_start(&mut archive, &mut magic).map_err(ExtractError::Read)?;
    match magic.get(..known) {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => return Err(ExtractError::Unsupported("tarzstd")),
        Some([0x1f, 0x8b, ..]) => return Err(ExtractError::Unsupported("gzip")),
        Some(_) | None => {}
    }
    let mut archive = ZipArchive::new(BufReader::with_capacity(READ_BUFFER, archive)).map_err(ExtractError::Zip)?;
    let root = folder.canonicalize().map_err(|source| ExtractError::Write { path: folder.to_owned(), source })?;
    let mut target = Target { root, safe: BTreeSet::new() };
    let (mut links, mut folders) = (Vec::new(), Vec::new());
    for index in 0..archive.len() {
        let mut entry =
            archive.by_index(index).map_err(|source| ExtractError::Entry { name: format!("entry {index}"), source })?;
        let path = target.path_of(entry.name_raw())?;
        let attributes = attributes(&entry);
        let kind = entry.unix_mode().map_or(0, |mode| mode & TYPE_BITS);
        if entry.is_dir() || kind == 0o040_000 {
            target.make_folder(&path)?;
            folders.push((path, attributes));
        } else if kind == 0o120_000 {
            links.push((path, read_link(&mut entry)?, attributes));
        } else if kind == 0 || kind == 0o100_000 {
            target.make_file(&path, &mut entry, attributes)?;
        }
    }
    for (path, link, attributes) in &links {
        target.make_link(path, link, *attributes)?;
    }
    // The innermost first: setting one's times leaves those above as they are, but changing permissions
    // may close the way down.
    for (path, attributes) in folders.iter().rev() {
        attributes.apply(path).map_err(|source| ExtractError::Write { path: path.clone(), source })?;
    }
    Ok(())
}

fn read_start(archive: &mut File, start: &mut [u8]) -> io::Result<usize> {
    let mut known = 0;
    while let Some(rest) = start.get_mut(known..).filter(|rest| !rest.is_empty()) {
        match archive.read(rest)? {
            0 => break,
            count => known += count,
        }
    }
    archive.seek(SeekFrom::Start(0))?;
    Ok(known)
}

fn read_link<R: Read>(entry: &mut ZipFile<'_, R>) -> Result<PathBuf, ExtractError> {
    let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
    let mut target = Vec::new();
    entry
        .take(MAX_LINK)
        .read_to_end(&mut target)
        .map_err(|source| ExtractError::Entry { name, source: source.into() })?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target)))
}

fn attributes<R: Read>(entry: &ZipFile<'_, R>) -> Attributes {
    let (mut modified, mut owner) = (None, None);
    for field in entry.extra_data_fields() {
        if let ExtraField::ExtendedTimestamp(times) = field {
            // The field is signed; the reader takes it for unsigned.
            modified = times.mod_time().map(|seconds| from_unix(i64::from(seconds.cast_signed())));
        } else if let ExtraField::Custom(field) = field
            && field.header_id == UNIX_OWNER
        {
            owner = parse_owner(&field.data);
        }
    }
    let modified = modified.or_else(|| {
        let at = entry.last_modified()?;
        let day = unix_from_civil(at.year().into(), at.month().into(), at.day().into());
        Some(from_unix(day + i64::from(at.hour()) * 3_600 + i64::from(at.minute()) * 60 + i64::from(at.second())))
    });
    let mode = entry.unix_mode().map(|mode| mode & PERMISSION_BITS);
    Attributes { mode, modified, owner }
}

/// Version 1: the length of each number before it, lowest byte first.
fn parse_owner(data: &[u8]) -> Option<(u32, u32)> {
    let rest = data.strip_prefix(&[1])?;
    let number = |data: &[u8]| -> Option<(u32, usize)> {
        let length = usize::from(*data.first()?);
        let digits = data.get(1..=length).filter(|digits| digits.len() <= 4)?;
        Some((digits.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)), length + 1))
    };
    let (uid, used) = number(rest)?;
    let (gid, _) = number(rest.get(used..)?)?;
    Some((uid, gid))
}

fn from_unix(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// The folder that is extracted into.
struct Target {
    /// Without links.
    root: PathBuf,
    /// Folders that are known to lie within the root. Nothing of ours makes a link before all files are
    /// there, so what is known stays true.
    safe: BTreeSet<PathBuf>,
}

impl Target {
    /// Where an entry goes. By its name alone it has to stay below the root.
    fn path_of(&self, name: &[u8]) -> Result<PathBuf, ExtractError> {
        let escapes = || ExtractError::Escapes { name: String::from_utf8_lossy(name).into_owned() };
        let mut segments = Vec::new();
        for segment in name.split(|byte| *byte == b'/') {
            match segment {
                b"" | b"." => {}
                b".." => drop(segments.pop().ok_or_else(escapes)?),
                segment if segment.contains(&0) => return Err(escapes()),
                segment => segments.push(segment),
            }
        }
        let mut path = self.root.clone();
        path.extend(segments.into_iter().map(std::ffi::OsStr::from_bytes));
        Ok(path)
    }

    /// Makes a folder with those above it, unless a link that is there leads out.
    fn make_folder(&mut self, path: &Path) -> Result<(), ExtractError> {
        if self.safe.contains(path) {
            return Ok(());
        }
        let existing = path.ancestors().find(|above| fs::symlink_metadata(above).is_ok()).unwrap_or(&self.root);
        let written = |source| ExtractError::Write { path: path.to_owned(), source };
        if !existing.canonicalize().map_err(written)?.starts_with(&self.root) {
            return Err(ExtractError::Escapes { name: path.display().to_string() });
        }
        fs::create_dir_all(path).map_err(written)?;
        self.safe.insert(path.to_owned());
        Ok(())
    }

    /// Makes room for an entry that is no folder.
    fn clear(&mut self, path: &Path) -> Result<(), ExtractError> {
        let parent = path.parent().filter(|parent| parent.starts_with(&self.root));
        let parent = parent.ok_or_else(|| ExtractError::Escapes { name: path.display().to_string() })?.to_owned();
        self.make_folder(&parent)?;
        match fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ExtractError::Write { path: path.to_owned(), source }),
        }
    }

    fn make_file<R: Read>(
        &mut self,
        path: &Path,
        entry: &mut ZipFile<'_, R>,
        attributes: Attributes,
    ) -> Result<(), ExtractError> {
        self.clear(path)?;
        let written = |source| ExtractError::Write { path: path.to_owned(), source };
        let mode = attributes.mode.unwrap_or(0o644) & 0o777;
        // For the time of writing it is the owner's; then it gets its own mode.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode | 0o600).open(path).map_err(written)?;
        io::copy(entry, &mut file).map_err(written)?;
        drop(file);
        attributes.apply(path).map_err(written)
    }

    fn make_link(&mut self, path: &Path, target: &Path, attributes: Attributes) -> Result<(), ExtractError> {
        self.clear(path)?;
        let written = |source| ExtractError::Write { path: path.to_owned(), source };
        std::os::unix::fs::symlink(target, path).map_err(written)?;
        attributes.apply_owner(path);
        attributes.apply_times(path).map_err(written)
    }
}

impl Attributes {
    fn apply(self, path: &Path) -> io::Result<()> {
        // The owner first: changing it takes setuid bits away.
        self.apply_owner(path);
        if let Some(mode) = self.mode {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        self.apply_times(path)
    }

    /// Only root may give files away, so a refusal is expected.
    fn apply_owner(self, path: &Path) {
        if let Some((uid, gid)) = self.owner
            && uid != u32::MAX
            && gid != u32::MAX
        {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).ok();
        }
    }

    fn apply_times(self, path: &Path) -> io::Result<()> {
        let Some(modified) = self.modified else { return Ok(()) };
        let at = Timespec { tv_sec: unix_seconds(modified), tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
    }
}
