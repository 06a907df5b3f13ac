//! An image for the demo's Docker jobs, made of the busybox of this machine.

use std::io;
use std::path::Path;

use bytes::Bytes;
use tar::{Builder, EntryType, Header};
use tokio::process::Command;

/// What the image is called; it stays for the next demo.
pub(super) const NAME: &str = "flotilla-demo/busybox";

/// The program that the image is made of, where this machine has it.
pub(super) const BUSYBOX: &str = "/bin/busybox";

/// The file tree of the image: busybox under all its names, and what a shell expects of a system.
pub(super) async fn tree(busybox: &Path) -> io::Result<Bytes> {
    let program = tokio::fs::read(busybox).await?;
    let listed = Command::new(busybox).arg("--list").env_clear().output().await?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    archive(&program, names.split_whitespace()).map(Bytes::from)
}

fn archive<'a>(program: &[u8], names: impl Iterator<Item = &'a str>) -> io::Result<Vec<u8>> {
    let mut tree = Builder::new(Vec::new());
    for (path, mode) in [("bin/", 0o755), ("etc/", 0o755), ("root/", 0o700), ("tmp/", 0o1777)] {
        let mut header = header(EntryType::Directory, mode, 0);
        tree.append_data(&mut header, path, io::empty())?;
    }
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin/busybox", 0o755, program),
        ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", 0o644, b"root:x:0:\n"),
    ];
    for (path, mode, content) in files {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        tree.append_data(&mut header, path, content)?;
    }
    for name in names.filter(|name| *name != "busybox" && !name.contains('/')) {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tree.append_link(&mut header, format!("bin/{name}"), "busybox")?;
    }
    tree.into_inner()
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// Whether a program needs nothing of the system that it runs on: a 64-bit ELF file that names no loader.
pub(super) fn is_static(program: &[u8]) -> bool {
    needs_loader(program) == Some(false)
}

/// `None` where it is no such file.
fn needs_loader(program: &[u8]) -> Option<bool> {
    const LOADER: u32 = 3;
    program.strip_prefix(b"\x7fELF\x02\x01")?;
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(program.get(at..at + 2)?.try_into().ok()?)));
    let table = usize::try_from(u64::from_le_bytes(program.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (short(54)?, short(56)?);
    for index in 0..count {
        let at = table.checked_add(size * index)?;
        if u32::from_le_bytes(program.get(at..at.checked_add(4)?)?.try_into().ok()?) == LOADER {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_the_program_and_its_names() {
        let tree = archive(b"program", ["busybox", "sh", "sleep"].into_iter()).unwrap();
        let mut archive = tar::Archive::new(tree.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            (entry.path().unwrap().display().to_string(), link)
        });
        let entries: Vec<_> = entries.collect();
        let link = |path: &str| (path.to_owned(), Some("busybox".to_owned()));
        assert_eq!(entries.get(4), Some(&("bin/busybox".to_owned(), None)));
        assert_eq!(&entries[7..], [link("bin/sh"), link("bin/sleep")]);
    }

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needs_loader(&own), Some(true), "tests are linked dynamically");
        let mut program = b"\x7fELF\x02\x01".to_vec();
        program.resize(120, 0);
        program[32] = 64;
        program[54] = 56;
        program[56] = 1;
        program[64] = 1;
        assert!(is_static(&program));
        program[64] = 3;
        assert!(!is_static(&program));
        for broken in [&b"#!/bin/sh\n"[..], b"", &program[..100][..40]] {
            assert!(!is_static(broken));
        }
    }
}
