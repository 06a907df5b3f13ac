use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use zip::write::SimpleFileOptions;

use super::*;
use crate::helper::cli::FileArgs;
use crate::helper::console::tests::Written;
use crate::helper::environment::Environment;
use crate::helper::selection::select;

fn selection(root: &Path, paths: &[&str]) -> Selection {
    let (console, _) = Written::console();
    let files = FileArgs { paths: paths.iter().map(|path| (*path).to_owned()).collect(), ..FileArgs::default() };
    select(&files, &Environment::new([], root.to_owned()), &console)
}

fn archived(root: &Path, paths: &[&str], format: Format, compression: Compression) -> Vec<u8> {
    let (console, _) = Written::console();
    let mut out = Vec::new();
    write(&selection(root, paths), format, compression, &mut out, &console).unwrap();
    out
}

fn file_with(bytes: &[u8]) -> File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// A tree with each kind of entry, and times in the past.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir_all(path("dir/sub/empty")).unwrap();
    fs::write(path("dir/a.txt"), "hello\n".repeat(1_000)).unwrap();
    fs::write(path("dir/sub/run.sh"), "#!/bin/sh\n").unwrap();
    fs::write(path("dir/empty.txt"), "").unwrap();
    fs::write(path("dir/ünïcode"), "ü").unwrap();
    let noise: Vec<u8> = (0..300_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(path("dir/noise.bin"), noise).unwrap();
    symlink("a.txt", path("dir/link")).unwrap();
    symlink("nowhere/at/all", path("dir/dangling")).unwrap();
    for (name, mode) in [
        ("dir/a.txt", 0o644),
        ("dir/sub/run.sh", 0o755),
        ("dir/empty.txt", 0o600),
        ("dir/sub/empty", 0o700),
        ("dir/sub", 0o555),
    ] {
        fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
    }
    for (seconds, name) in [(1, "dir/a.txt"), (2, "dir/sub/run.sh"), (3, "dir/sub/empty"), (4, "dir/sub"), (5, "dir")] {
        let file = File::open(path(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_500_000_000 + seconds)).unwrap();
    }
    root
}

/// Everything below a folder: kind and permissions, whole seconds, contents or target.
fn described(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for child in fs::read_dir(&folder).unwrap() {
            let path = child.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let contents = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else if metadata.is_file() {
                fs::read(&path).unwrap()
            } else {
                pending.push(path.clone());
                Vec::new()
            };
            let name = path.strip_prefix(root).unwrap();
            lines.push(format!(
                "{name:?} {:o} {} {}",
                metadata.mode(),
                metadata.mtime(),
                flate2::Crc::from_bytes(&contents)
            ));
        }
    }
    lines.sort();
    lines
}

trait FromBytes {
    fn from_bytes(bytes: &[u8]) -> String;
}

impl FromBytes for flate2::Crc {
    fn from_bytes(bytes: &[u8]) -> String {
        let mut crc = Self::new();
        crc.update(bytes);
        format!("{} {:08x}", bytes.len(), crc.sum())
    }
}

#[test]
fn what_is_archived_is_extracted_alike() {
    let root = tree();
    for compression in
        [Compression::Fastest, Compression::Fast, Compression::Default, Compression::Slow, Compression::Slowest]
    {
        let bytes = archived(root.path(), &["dir"], Format::Zip, compression);
        let target = tempfile::tempdir().unwrap();
        extract(file_with(&bytes), target.path(), None).unwrap();
        assert_eq!(described(target.path()), described(root.path()), "{compression:?}");
    }
}

#[test]
fn other_programs_read_our_archives() {
    let root = tree();
    for compression in [Compression::Fastest, Compression::Default] {
        let bytes = archived(root.path(), &["dir"], Format::Zip, compression);
        let outer = tempfile::tempdir().unwrap();
        let zip = outer.path().join("a.zip");
        fs::write(&zip, bytes).unwrap();
        let python = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\nfor i in z.infolist(): print(i.filename, oct(i.external_attr >> 16), i.file_size, i.date_time)";
        let listed =
            Command::new("python3").args(["-c", python]).arg(&zip).env("PYTHONIOENCODING", "utf-8").output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        let names: Vec<_> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "dir/",
                "dir/a.txt",
                "dir/dangling",
                "dir/empty.txt",
                "dir/link",
                "dir/noise.bin",
                "dir/sub/",
                "dir/sub/empty/",
                "dir/sub/run.sh",
                "dir/ünïcode"
            ]
        );
        assert!(listed.contains("dir/a.txt 0o100644 6000 (2017, 7, 14, 2, 40, "), "{listed}");
        assert!(listed.contains("dir/link 0o120777 5 "), "{listed}");
        let target = outer.path().join("out");
        let unzip = Command::new("unzip")
            .args(["-q", "-X"])
            .arg(&zip)
            .arg("-d")
            .arg(&target)
            .env("TZ", "UTC")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(unzip.status.success(), "{}", String::from_utf8_lossy(&unzip.stdout));
        assert_eq!(described(&target), without_link_times(described(root.path()), &described(&target)));
    }
}

/// unzip leaves the times of links as they are made.
fn without_link_times(expected: Vec<String>, found: &[String]) -> Vec<String> {
    let is_link = |line: &String| line.contains(" 120777 ");
    expected
        .into_iter()
        .zip(found)
        .map(|(expected, found)| if is_link(&expected) && is_link(found) { found.clone() } else { expected })
        .collect()
}

#[test]
fn we_read_archives_of_other_programs() {
    let root = tree();
    let outer = tempfile::tempdir().unwrap();
    let zip = outer.path().join("a.zip");
    let status =
        Command::new("zip").args(["-q", "-r", "-y"]).arg(&zip).arg("dir").current_dir(root.path()).status().unwrap();
    assert!(status.success());
    let target = tempfile::tempdir().unwrap();
    extract(File::open(&zip).unwrap(), target.path(), None).unwrap();
    assert_eq!(described(target.path()), described(root.path()));
}

#[test]
fn names_that_are_no_utf8_survive() {
    let root = tempfile::tempdir().unwrap();
    let name = OsString::from_vec(b"dir/\xff\xfe".to_vec());
    fs::create_dir(root.path().join("dir")).unwrap();
    fs::write(root.path().join(&name), "x").unwrap();
    let target = tempfile::tempdir().unwrap();
    extract(file_with(&archived(root.path(), &["dir"], Format::Zip, Compression::Default)), target.path(), None)
        .unwrap();
    assert_eq!(fs::read(target.path().join(&name)).unwrap(), b"x");
}

#[test]
fn an_empty_selection_is_an_empty_archive() {
    let root = tempfile::tempdir().unwrap();
    let target = tempfile::tempdir().unwrap();
    extract(file_with(&archived(root.path(), &["none"], Format::Zip, Compression::Default)), target.path(), None)
        .unwrap();
    assert!(described(target.path()).is_empty());
}

#[test]
fn pipes_are_left_out_of_archives() {
    let root = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.path().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    fs::write(root.path().join("a"), "x").unwrap();
    let target = tempfile::tempdir().unwrap();
    extract(file_with(&archived(root.path(), &["*"], Format::Zip, Compression::Default)), target.path(), None).unwrap();
    assert_eq!(described(target.path()).len(), 1);
}

#[test]
fn a_file_that_goes_away_meanwhile_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(root.path().join(name), name).unwrap();
    }
    let selection = selection(root.path(), &["*"]);
    fs::remove_file(root.path().join("b")).unwrap();
    fs::remove_file(root.path().join("c")).unwrap();
    symlink("/etc/passwd", root.path().join("c")).unwrap();
    let (console, written) = Written::console();
    let mut out = Vec::new();
    let outcome = write(&selection, Format::Zip, Compression::Default, &mut out, &console);
    assert!(written.lines().contains(&"WARNING: b: is gone, left out".to_owned()));
    // A link in the place of a file is not followed.
    assert!(matches!(outcome, Err(ArchiveError::Read { path, .. }) if path == Path::new("c")));
}

#[test]
fn existing_files_and_links_are_replaced_and_not_written_into() {
    let outer = tempfile::tempdir().unwrap();
    let (root, target) = (tempfile::tempdir().unwrap(), outer.path().join("project"));
    fs::create_dir(&target).unwrap();
    fs::write(outer.path().join("outside"), "old").unwrap();
    symlink("../outside", target.join("file")).unwrap();
    fs::write(target.join("link"), "was a file").unwrap();
    fs::write(root.path().join("file"), "new").unwrap();
    symlink("file", root.path().join("link")).unwrap();
    extract(file_with(&archived(root.path(), &["*"], Format::Zip, Compression::Default)), &target, None).unwrap();
    assert_eq!(fs::read_to_string(outer.path().join("outside")).unwrap(), "old");
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
    assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("file"));
}

#[test]
fn nothing_is_extracted_outside_of_the_folder() {
    for name in ["../evil", "a/../../evil", "..", "a/..", "x/../../project2/evil"] {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("project");
        fs::create_dir(&target).unwrap();
        let error = extract(file_with(&zip_of(&[(name, 0o100_644, "evil")])), &target, None).unwrap_err();
        assert!(error.to_string().contains("leads outside of the target folder"), "{name}: {error}");
        assert_eq!(described(outer.path()).len(), 1, "{name}");
    }
}

#[test]
fn absolute_names_begin_at_the_folder() {
    let target = tempfile::tempdir().unwrap();
    extract(file_with(&zip_of(&[("/etc/x", 0o100_644, "1"), ("./a//b/../c", 0o100_644, "2")])), target.path(), None)
        .unwrap();
    assert_eq!(fs::read_to_string(target.path().join("etc/x")).unwrap(), "1");
    assert_eq!(fs::read_to_string(target.path().join("a/c")).unwrap(), "2");
}

#[test]
fn entries_do_not_go_through_links() {
    // A link of the same archive, before or after what would go through it.
    for entries in [
        [("d", 0o120_777, "/tmp"), ("d/evil-of-the-test", 0o100_644, "evil")],
        [("d/evil-of-the-test", 0o100_644, "evil"), ("d", 0o120_777, "/tmp")],
    ] {
        let target = tempfile::tempdir().unwrap();
        assert!(extract(file_with(&zip_of(&entries)), target.path(), None).is_err());
        assert!(!Path::new("/tmp/evil-of-the-test").exists());
    }
    // A link that was there before.
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("project");
    fs::create_dir(&target).unwrap();
    symlink("..", target.join("up")).unwrap();
    symlink(".", target.join("here")).unwrap();
    for name in ["up/evil", "up/new/evil", "up/new/"] {
        let error = extract(file_with(&zip_of(&[(name, 0o100_644, "")])), &target, None).unwrap_err();
        assert!(error.to_string().contains("leads outside"), "{error}");
    }
    extract(file_with(&zip_of(&[("here/fine", 0o100_644, "")])), &target, None).unwrap();
    assert!(target.join("fine").exists() && !outer.path().join("evil").exists() && !outer.path().join("new").exists());
}

#[test]
fn broken_and_foreign_archives_are_refused() {
    let target = tempfile::tempdir().unwrap();
    let whole = zip_of(&[("a", 0o100_644, "some text, some text, some text")]);
    let refused = |bytes: &[u8]| {
        let error = extract(file_with(bytes), target.path(), None).unwrap_err();
        crate::error_chain::Chain(&error).to_string()
    };
    assert_eq!(refused(b"\x1f\x8b\x08\x00"), "\"gzip\" format: unsupported archive format");
    assert_eq!(refused(b"\x28\xb5\x2f\xfd\x00"), "\"tarzstd\" format: unsupported archive format");
    for bytes in [&b""[..], b"PK", b"no archive at all", &whole[..whole.len() - 10], &whole[..40]] {
        assert!(refused(bytes).starts_with("reading the archive: "), "{bytes:?}");
    }
    let mut flipped = whole;
    let at = flipped.windows(4).position(|bytes| bytes == b"some").unwrap();
    flipped[at] ^= 1;
    assert!(refused(&flipped).to_lowercase().contains("checksum"), "{}", refused(&flipped));
}

#[test]
fn a_gzip_has_one_member_a_file() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("r")).unwrap();
    fs::write(root.path().join("r/a.xml"), "first\n").unwrap();
    fs::write(root.path().join("r/ü%.xml"), "second\n").unwrap();
    let bytes = archived(root.path(), &["r"], Format::Gzip, Compression::Default);
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(Cursor::new(&bytes)).read_to_string(&mut text).unwrap();
    assert_eq!(text, "first\nsecond\n");
    let mut members = flate2::bufread::GzDecoder::new(&bytes[..]);
    members.read_to_string(&mut String::new()).unwrap();
    let header = members.header().unwrap().clone();
    assert_eq!((header.filename(), header.comment()), (Some(&b"a.xml"[..]), Some(&b"r/a.xml"[..])));
    let second = flate2::bufread::GzDecoder::new(members.into_inner());
    assert_eq!(second.header().unwrap().comment(), Some(&b"e:r/%C3%BC%25.xml"[..]));
}

#[test]
fn raw_takes_exactly_one_file() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("r")).unwrap();
    fs::write(root.path().join("r/a.json"), "{}").unwrap();
    assert_eq!(archived(root.path(), &["r"], Format::Raw, Compression::Default), b"{}");
    fs::write(root.path().join("b.json"), "[]").unwrap();
    let (console, _) = Written::console();
    for paths in [&["*"][..], &["none"]] {
        let outcome = write(&selection(root.path(), paths), Format::Raw, Compression::Default, Vec::new(), &console);
        assert!(matches!(outcome, Err(ArchiveError::NotOneFile)));
    }
}

#[test]
fn a_writer_that_fails_ends_the_archive_at_once() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let root = tree();
    let (console, _) = Written::console();
    for format in [Format::Zip, Format::Gzip] {
        let outcome = write(&selection(root.path(), &["dir"]), format, Compression::Fastest, Full(100_000), &console);
        assert!(matches!(outcome, Err(ArchiveError::Write(_) | ArchiveError::Zip(_))), "{format:?} {outcome:?}");
    }
}

#[test]
fn formats_are_known_by_name() {
    for (name, file) in [("", "n.zip"), ("zip", "n.zip"), ("gzip", "n.gz"), ("raw", "n")] {
        assert_eq!(Format::parse(name).unwrap().file_name("n"), file);
    }
    assert!(Format::parse("tarzstd").unwrap_err().contains("not supported yet"));
    assert!(Format::parse("rar").unwrap_err().contains("unsupported archive format"));
    let (console, written) = Written::console();
    assert_eq!(Compression::parse(Some("best"), &console), Compression::Default);
    assert_eq!(written.lines(), ["WARNING: compression level \"best\" is invalid, falling back to default"]);
}

/// An archive with entries as they are given.
fn zip_of(entries: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, contents) in entries {
        let options = SimpleFileOptions::DEFAULT
            .compression_method(zip::CompressionMethod::Stored)
            .external_attributes(mode << 16);
        archive.start_file(*name, options).unwrap();
        archive.write_all(contents.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

mod hostile;
