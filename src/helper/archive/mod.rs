//! Archives of artifacts and caches: written as a stream, so that an upload needs no file and no memory,
//! and extracted without ever leaving the target folder.
//!
//! Formats: zip for archives and caches, gzip and raw for reports. Those of Zstandard are known by name and
//! refused.

mod beneath;
mod budget;
mod extract;
#[cfg(feature = "manager")]
#[cfg(test)]
mod fuzz;
mod gzip;
mod raw;
mod source;
mod target;
mod zip_writer;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use thiserror::Error;

use super::console::Console;
use super::selection::Selection;

pub(super) use beneath::{Beneath, Resolver};
pub(super) use extract::extract;

/// How much of a file is read at once.
const COPY_BUFFER: usize = 128 << 10;

/// An archive's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Zip,
    Gzip,
    Raw,
}

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Fastest,
    Fast,
    Default,
    Slow,
    Slowest,
}

/// Why there is no archive.
#[derive(Debug, Error)]
pub(super) enum ArchiveError {
    #[error("{path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("writing the archive")]
    Write(#[source] io::Error),
    #[error("writing the archive")]
    Zip(#[source] zip::result::ZipError),
    #[error("only one file can be sent as raw")]
    NotOneFile,
}

impl Format {
    /// By the name that jobs give it; empty is zip.
    ///
    /// # Errors
    /// What to tell the user.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "" | "zip" => Ok(Self::Zip),
            "gzip" => Ok(Self::Gzip),
            "raw" => Ok(Self::Raw),
            "tarzstd" | "zipzstd" => Err(format!("archive format \"{name}\" is not supported yet: use zip")),
            _ => Err(format!("\"{name}\" format: unsupported archive format")),
        }
    }

    /// The archive's file name.
    pub(super) fn file_name(self, name: &str) -> String {
        match self {
            Self::Zip => format!("{name}.zip"),
            Self::Gzip => format!("{name}.gz"),
            Self::Raw => name.to_owned(),
        }
    }
}

impl Compression {
    /// By name; an unknown one is said so and is the default.
    pub(super) fn parse(name: Option<&str>, console: &Console) -> Self {
        match name {
            Some("fastest") => Self::Fastest,
            Some("fast") => Self::Fast,
            None | Some("" | "default") => Self::Default,
            Some("slow") => Self::Slow,
            Some("slowest") => Self::Slowest,
            Some(other) => {
                console.warning(&format!("compression level \"{other}\" is invalid, falling back to default"));
                Self::Default
            }
        }
    }
}

/// Writes an archive of the selected files.
///
/// # Errors
/// A file cannot be read or the archive cannot be written. What was written so far is no whole archive.
pub(super) fn write(
    selection: &Selection,
    format: Format,
    compression: Compression,
    out: impl Write,
    console: &Console,
) -> Result<(), ArchiveError> {
    match format {
        Format::Zip => zip_writer::write(selection, compression, out, console),
        Format::Gzip => gzip::write(selection, compression, out, console),
        Format::Raw => raw::write(selection, out, console),
    }
}

/// Copies at most `limit` bytes, so that a file that grows meanwhile ends; a read and a write error are
/// told apart.
fn copy(name: &std::ffi::OsStr, from: &mut File, limit: u64, to: &mut impl Write) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; usize::try_from(limit).unwrap_or(COPY_BUFFER).clamp(1, COPY_BUFFER)];
    let mut from = from.take(limit);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(buffer.get(..count).unwrap_or_default()).map_err(ArchiveError::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ArchiveError::Read { path: name.into(), source }),
        }
    }
}

#[cfg(test)]
mod tests;
