//! One gzip member for each file, one after the other; how reports are sent.
//!
//! A member's header has the file's base name, its path as the comment, and its time.

use std::ffi::OsStr;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::GzBuilder;

use super::source::Source;
use super::{ArchiveError, Compression, copy};
use crate::helper::calendar::unix_seconds;
use crate::helper::console::Console;
use crate::helper::selection::{Kind, Selection};

pub(super) fn write(
    selection: &Selection,
    compression: Compression,
    out: impl Write,
    console: &Console,
) -> Result<(), ArchiveError> {
    let mut out = BufWriter::new(out);
    let mut source = Source::new(selection, console)?;
    for (name, entry) in selection.entries().filter(|(_, entry)| entry.kind == Kind::File) {
        let Some((mut file, size)) = source.file(name)? else { continue };
        let base = Path::new(name).file_name().unwrap_or(name);
        let mut member = GzBuilder::new()
            .filename(header_text(base))
            .comment(header_text(name))
            .mtime(u32::try_from(unix_seconds(entry.modified)).unwrap_or(0))
            .write(out, level(compression));
        copy(name, &mut file, size, &mut member)?;
        out = member.finish().map_err(ArchiveError::Write)?;
    }
    out.flush().map_err(ArchiveError::Write)
}

fn level(compression: Compression) -> flate2::Compression {
    flate2::Compression::new(match compression {
        Compression::Fastest | Compression::Fast => 1,
        Compression::Default => 6,
        Compression::Slow => 7,
        Compression::Slowest => 9,
    })
}

/// The header's texts are Latin-1: what is more than ASCII goes percent-encoded, marked with `e:`.
fn header_text(name: &OsStr) -> Vec<u8> {
    let bytes = name.as_encoded_bytes();
    let plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'%';
    if bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    let encoded =
        bytes.iter().map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") });
    format!("e:{}", encoded.collect::<String>()).into_bytes()
}
