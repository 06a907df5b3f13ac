//! What `packaging/install` puts where.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn the_installation_has_programs_unit_and_a_folder_for_the_account_alone() {
    let package = tempfile::tempdir().expect("a folder");
    let binaries = Path::new(env!("CARGO_BIN_EXE_flotilla")).parent().expect("a folder");
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/install"))
        .env("DESTDIR", package.path())
        .env("FLOTILLA_BINARIES", binaries)
        .output()
        .expect("the script");
    assert!(output.status.success(), "{}", crate::harness::text(&output.stderr));
    for (path, mode) in [
        ("usr/bin/flotilla", 0o755),
        ("usr/bin/flotilla-helper", 0o755),
        ("etc/flotilla", 0o700),
        ("lib/systemd/system/flotilla.service", 0o644),
        ("etc/systemd/system/flotilla.service.d/account.conf", 0o644),
    ] {
        let found = std::fs::metadata(package.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(found.permissions().mode() & 0o777, mode, "{path}");
    }
}
