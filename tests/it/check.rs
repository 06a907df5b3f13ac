//! `flotilla check` by its exit code, on every config of the documentation and on broken ones. The messages are
//! tests of the library.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::process::flotilla;

/// Whole files, some without url or token: `run` could start.
const GOOD: [&str; 14] = [
    "001-01", "001-02", "001-03", "002-01", "002-02", "002-03", "003-01", "003-02", "003-06", "004-01", "004-02",
    "004-03", "004-06", "004-08",
];
/// Parts of a runner, which say where they belong, and what is no TOML.
const BAD: [&str; 8] = ["000-01", "003-03", "003-04", "003-05", "003-07", "004-04", "004-05", "004-07"];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn check(path: &Path) -> (Option<i32>, String) {
    flotilla(&["check", "--config", &path.display().to_string()])
}

fn configs(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(data().join(folder)).expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
    found.sort();
    found
}

#[test]
fn check_tells_good_configs_from_bad_ones() {
    let seeds = configs("seeds");
    assert_eq!(seeds.len(), GOOD.len() + BAD.len(), "each is told of here");
    for path in seeds {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let (code, said) = check(&path);
        let expected = if GOOD.contains(&name.as_str()) { 0 } else { 1 };
        assert_eq!(code, Some(expected), "{name}:\n{said}");
    }
    let broken = configs("broken");
    assert!(broken.len() >= 20, "{broken:?}");
    for path in broken {
        let (code, said) = check(&path);
        assert_eq!(code, Some(1), "{}:\n{said}", path.display());
        assert!(said.contains("error"), "{said}");
    }
}

#[test]
fn check_of_no_file_fails_and_names_it() {
    let (code, said) = check(Path::new("/nonexistent/config.toml"));
    assert_eq!(code, Some(1));
    assert!(said.contains("/nonexistent/config.toml"), "{said}");
}

/// The configs that the README begins with; what they name (a token, a key) need not be there.
#[test]
fn check_finds_no_error_in_the_first_configs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let first = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "toml");
    let mut found: Vec<_> =
        fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path()).filter(first).collect();
    found.sort();
    assert_eq!(found, ["aws.toml", "local.toml", "static.toml"].map(|name| folder.join(name)));
    for path in found {
        let (code, said) = check(&path);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(" 0 errors, "), "{said}");
    }
}
