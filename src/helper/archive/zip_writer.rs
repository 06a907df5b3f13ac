//! Zip archives with what a file system knows: modes, links, times to the second, owners.
//!
//! Entries stand in the order of their names. The sizes follow each entry's data, since the archive is a
//! stream that cannot be gone back in; the directory at the end has them all.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

use zip::write::{ExtendedFileOptions, FileOptions, FullFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::source::Source;
use super::{ArchiveError, Compression, copy};
use crate::helper::calendar::{Civil, unix_seconds};
use crate::helper::console::Console;
use crate::helper::selection::{Entry, Kind, Selection};

/// Files from here on get 64-bit sizes: below, the compressed data cannot pass 4 GiB either, as deflate
/// adds less than a thousandth.
const LARGE_FILE: u64 = 0xff00_0000;

const WRITE_BUFFER: usize = 64 << 10;

/// Extra fields: time of modification in UTC (Info-ZIP extended timestamp), owner and group (Info-ZIP new Unix).
const EXTENDED_TIMESTAMP: u16 = 0x5455;
const UNIX_OWNER: u16 = 0x7875;

pub(super) fn write(
    selection: &Selection,
    compression: Compression,
    out: impl Write,
    console: &Console,
) -> Result<(), ArchiveError> {
    let mut failed = false;
    let guarded = Guarded { inner: BufWriter::with_capacity(WRITE_BUFFER, out), failed: &mut failed };
    let mut archive = ZipWriter::new_stream(guarded);
    let mut source = Source::new(selection, console)?;
    for (name, entry) in selection.entries() {
        add(&mut archive, &mut source, name, entry, compression)?;
    }
    let mut out = archive.finish().map_err(ArchiveError::Zip)?.into_inner();
    out.flush().map_err(ArchiveError::Write)
}

type Archive<'a, W> = ZipWriter<StreamWriter<Guarded<'a, W>>>;

fn add<W: Write>(
    archive: &mut Archive<'_, W>,
    source: &mut Source<'_>,
    name: &OsStr,
    entry: &Entry,
    compression: Compression,
) -> Result<(), ArchiveError> {
    let options = options(entry).map_err(ArchiveError::Zip)?;
    match entry.kind {
        Kind::Folder => match name.to_str() {
            Some(name) => archive
                .add_directory(name, options.compression_method(CompressionMethod::Stored))
                .map_err(ArchiveError::Zip),
            // The writer takes folders by text only; what lies in this one brings its name along.
            None => Ok(()),
        },
        Kind::Symlink => {
            let Some(target) = source.link(name)? else { return Ok(()) };
            let options = options.compression_method(CompressionMethod::Stored).name(name.as_bytes());
            archive.start_file_with_options(options).map_err(ArchiveError::Zip)?;
            archive.write_all(target.as_bytes()).map_err(ArchiveError::Write)
        }
        Kind::File => {
            let Some((mut file, size)) = source.file(name)? else { return Ok(()) };
            let (method, level) = method(compression);
            let options = options
                .compression_method(method)
                .compression_level(level)
                .large_file(size >= LARGE_FILE)
                .name(name.as_bytes());
            archive.start_file_with_options(options).map_err(ArchiveError::Zip)?;
            copy(name, &mut file, size, archive)
        }
        Kind::Special => Ok(()),
    }
}

fn method(compression: Compression) -> (CompressionMethod, Option<i64>) {
    match compression {
        Compression::Fastest => (CompressionMethod::Stored, None),
        Compression::Fast => (CompressionMethod::Deflated, Some(1)),
        Compression::Default => (CompressionMethod::Deflated, Some(5)),
        Compression::Slow => (CompressionMethod::Deflated, Some(7)),
        Compression::Slowest => (CompressionMethod::Deflated, Some(9)),
    }
}

fn options(entry: &Entry) -> zip::result::ZipResult<FullFileOptions<'static, 'static>> {
    let seconds = unix_seconds(entry.modified);
    let mut options: FileOptions<'_, '_, ExtendedFileOptions> =
        FileOptions::default().external_attributes(entry.mode << 16).last_modified_time(dos_time(seconds));
    if let Ok(seconds) = i32::try_from(seconds) {
        let mut timestamp = vec![1];
        timestamp.extend(seconds.to_le_bytes());
        options.add_extra_field(EXTENDED_TIMESTAMP, timestamp, false)?;
    }
    let mut owner = vec![1, 4];
    owner.extend(entry.uid.to_le_bytes());
    owner.push(4);
    owner.extend(entry.gid.to_le_bytes());
    options.add_extra_field(UNIX_OWNER, owner, false)?;
    Ok(options)
}

/// The archive's own time, 1980 to 2107; beyond these the nearest.
fn dos_time(seconds: i64) -> DateTime {
    let at = Civil::from_unix(seconds);
    let year = u16::try_from(at.year).unwrap_or(1980).clamp(1980, 2107);
    DateTime::from_date_and_time(year, at.month, at.day, at.hour, at.minute, at.second).unwrap_or(DateTime::DEFAULT)
}

/// After the first error it takes everything in silence: a zip writer that is dropped closes its archive,
/// which would only add a second complaint on stderr.
struct Guarded<'a, W> {
    inner: W,
    failed: &'a mut bool,
}

impl<W: Write> Write for Guarded<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if *self.failed {
            return Ok(bytes.len());
        }
        self.inner.write(bytes).inspect_err(|error| *self.failed = error.kind() != io::ErrorKind::Interrupted)
    }

    fn flush(&mut self) -> io::Result<()> {
        if *self.failed {
            return Ok(());
        }
        self.inner.flush().inspect_err(|_| *self.failed = true)
    }
}
