//! Archives of caches and artifacts, which other jobs have made.

use std::fs::{self, File};
use std::io::{Seek, Write};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::extract::extract;
use crate::fuzz::run;

fn archive() -> zip::result::ZipResult<Vec<u8>> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    writer.add_directory("folder", options)?;
    writer.start_file("folder/file", options.unix_permissions(0o755))?;
    writer.write_all(b"content of a file")?;
    writer.add_symlink("link", "../outside", options)?;
    writer.start_file("../outside/evil", options)?;
    writer.start_file("link/evil", options)?;
    Ok(writer.finish()?.into_inner())
}

/// Nothing beside the target folder is made, changed or removed.
#[test]
fn no_archive_makes_extracting_panic_or_leave_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    let whole = archive().unwrap();
    run("zip", &[&whole, b"PK\x05\x06", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"], |input| {
        let target = root.path().join("target");
        fs::create_dir(&target).unwrap();
        let mut file: File = tempfile::tempfile_in(root.path()).unwrap();
        file.write_all(input).unwrap();
        file.rewind().unwrap();
        drop(extract(file, &target, None));
        let entries = |folder: &std::path::Path| {
            fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        assert_eq!(entries(&outside), ["kept"]);
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        assert_eq!(entries(root.path()).len(), 2);
        fs::remove_dir_all(&target).unwrap();
    });
}
