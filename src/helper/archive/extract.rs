//! Extracting a zip archive into a folder.
//!
//! Every entry has to lie within the folder, by its name and by the links that are there ([`Target`]). Links of
//! the archive are made after all files, so none of its files goes through one of its links; times of folders
//! are set last, since each new file changes them. What is in a file's place is removed before, not
//! written into. Owners are restored where that is allowed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use zip::ZipArchive;
use zip::extra_fields::ExtraField;
use zip::read::ZipFile;
use zip::result::ZipError;

use super::beneath::Resolver;
use super::budget::Exceeded;
use super::target::{Attributes, Kind, Target};
use crate::helper::calendar::unix_from_civil;

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
    #[error("{name}: a {kind} in the place of the {first_kind} {first}: the archive has the same path twice")]
    KindChanges { name: String, kind: &'static str, first: String, first_kind: &'static str },
    #[error("{path}", path = path.display())]
    TooLarge {
        path: PathBuf,
        #[source]
        source: Exceeded,
    },
    #[error("extracting {path}", path = path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Extracts all of an archive into `folder`, which exists. `limit` is the most bytes that it may expand to; the free
/// disk space where there is none.
///
/// # Errors
/// The archive is broken or of a form that is not served, an entry leads out of the folder, the archive expands to
/// too much, or a file cannot be made. What was extracted before stays.
pub(in crate::helper) fn extract(archive: File, folder: &Path, limit: Option<u64>) -> Result<(), ExtractError> {
    extract_with(archive, folder, limit, Resolver::Kernel)
}

pub(super) fn extract_with(
    mut archive: File,
    folder: &Path,
    limit: Option<u64>,
    resolver: Resolver,
) -> Result<(), ExtractError> {
    let mut magic = [0; 4];
    let known = read_start(&mut archive, &mut magic).map_err(ExtractError::Read)?;
    match magic.get(..known) {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => return Err(ExtractError::Unsupported("tarzstd")),
        Some([0x1f, 0x8b, ..]) => return Err(ExtractError::Unsupported("gzip")),
        Some(_) | None => {}
    }
    let mut archive = ZipArchive::new(BufReader::with_capacity(READ_BUFFER, archive)).map_err(ExtractError::Zip)?;
    let target = Target::open(folder, limit, resolver);
    let mut target = target.map_err(|source| ExtractError::Write { path: folder.to_owned(), source })?;
    // Entries of links are read when they are made: many targets would be much memory.
    let (mut links, mut folders) = (Vec::new(), BTreeMap::new());
    for index in 0..archive.len() {
        let mut entry = by_index(&mut archive, index)?;
        let attributes = attributes(&entry);
        let Some(kind) = kind(&entry) else { continue };
        let path = target.admit(entry.name_raw(), kind)?;
        match kind {
            Kind::Folder => {
                target.make_folder(&path)?;
                folders.insert(path, attributes);
            }
            Kind::Link => links.push((index, path)),
            Kind::File => target.make_file(&path, &mut entry, attributes)?,
        }
    }
    for (index, path) in &links {
        let mut entry = by_index(&mut archive, *index)?;
        let attributes = attributes(&entry);
        target.make_link(path, &read_link(&mut entry)?, attributes)?;
    }
    // The innermost first: setting one's times leaves those above as they are, but changing permissions
    // may close the way down.
    for (path, attributes) in folders.iter().rev() {
        target.finish_folder(path, *attributes)?;
    }
    Ok(())
}

fn by_index<R: Read + Seek>(archive: &mut ZipArchive<R>, index: usize) -> Result<ZipFile<'_, R>, ExtractError> {
    archive.by_index(index).map_err(|source| ExtractError::Entry { name: format!("entry {index}"), source })
}

/// `None` for devices, pipes and sockets, which are left out.
fn kind<R: Read>(entry: &ZipFile<'_, R>) -> Option<Kind> {
    match entry.unix_mode().map_or(0, |mode| mode & TYPE_BITS) {
        0o040_000 => Some(Kind::Folder),
        _ if entry.is_dir() => Some(Kind::Folder),
        0o120_000 => Some(Kind::Link),
        0 | 0o100_000 => Some(Kind::File),
        _ => None,
    }
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
