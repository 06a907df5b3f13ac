//! A single file as it is.

use std::io::Write;

use super::source::Source;
use super::{ArchiveError, copy};
use crate::helper::console::Console;
use crate::helper::selection::{Kind, Selection};

pub(super) fn write(selection: &Selection, mut out: impl Write, console: &Console) -> Result<(), ArchiveError> {
    let mut files = selection.entries().filter(|(_, entry)| entry.kind == Kind::File);
    let (Some((name, _)), None) = (files.next(), files.next()) else { return Err(ArchiveError::NotOneFile) };
    let (mut file, size) = Source::new(selection, console)?.file(name)?.ok_or(ArchiveError::NotOneFile)?;
    copy(name, &mut file, size, &mut out)?;
    out.flush().map_err(ArchiveError::Write)
}
