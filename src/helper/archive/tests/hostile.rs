//! Archives that try to reach what lies outside of the folder that they are extracted into, and archives that try
//! to fill the disk.

use proptest::prelude::*;

use super::super::budget::Exceeded;
use super::super::extract::{ExtractError, extract_with};
use super::*;

/// A folder to extract into, beside what must stay as it is.
struct Place {
    outer: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let path = |name: &str| outer.path().join(name);
        fs::create_dir_all(path("root/inner/old/deep")).unwrap();
        fs::create_dir_all(path("root/victims")).unwrap();
        fs::write(path("root/victim"), "victim").unwrap();
        fs::write(path("root/victims/ls"), "program").unwrap();
        fs::write(path("root/inner/old/file"), "old").unwrap();
        symlink("old", path("root/inner/within")).unwrap();
        symlink("..", path("root/inner/up")).unwrap();
        symlink("../../victims", path("root/inner/old/far")).unwrap();
        symlink(path("root/victims"), path("root/inner/absolute")).unwrap();
        symlink(path("root/inner/old"), path("root/inner/absolute_within")).unwrap();
        symlink("/proc/self/cwd", path("root/inner/magic")).unwrap();
        symlink("../victim", path("root/inner/to_victim")).unwrap();
        fs::hard_link(path("root/victim"), path("root/inner/hard")).unwrap();
        fs::set_permissions(path("root/victim"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(path("root/victims"), Permissions::from_mode(0o750)).unwrap();
        for name in ["root/victim", "root/victims/ls", "root/victims"] {
            let at = UNIX_EPOCH + Duration::from_secs(1_400_000_000);
            File::open(path(name)).unwrap().set_modified(at).unwrap();
        }
        Self { outer }
    }

    fn inner(&self) -> PathBuf {
        self.outer.path().join("root/inner")
    }

    /// Everything but the folder itself, and the owners with it.
    fn outside(&self) -> Vec<String> {
        let mut lines = described(self.outer.path());
        lines.retain(|line| !line.starts_with("\"root/inner") && !line.starts_with("\"root\" "));
        for name in ["root/victim", "root/victims", "root/victims/ls", "root"] {
            let metadata = fs::symlink_metadata(self.outer.path().join(name)).unwrap();
            lines.push(format!("{name} {:o} {} {}", metadata.mode(), metadata.uid(), metadata.gid()));
        }
        lines
    }

    fn extract(&self, archive: &[u8], resolver: Resolver) -> Result<(), ExtractError> {
        extract_with(file_with(archive), &self.inner(), None, resolver)
    }
}

const RESOLVERS: [Resolver; 2] = [Resolver::Kernel, Resolver::Walk];

/// Extracts with each resolver; returns whether the archive was refused.
fn check(entries: &[(&str, u32, &str)]) -> bool {
    let archive = zip_of(entries);
    let refused = RESOLVERS.map(|resolver| {
        let place = Place::new();
        let before = place.outside();
        let outcome = place.extract(&archive, resolver);
        assert_eq!(place.outside(), before, "{resolver:?} {entries:?}: {outcome:?}");
        outcome.is_err()
    });
    assert_eq!(refused[0], refused[1], "{entries:?}");
    refused[0]
}

const FILE: u32 = 0o100_777;
const LINK: u32 = 0o120_777;
const FOLDER: u32 = 0o040_777;

#[test]
fn a_link_in_the_place_of_a_known_folder_is_not_gone_through() {
    // `within` is known to be inside, then the archive replaces it by a link that leads out.
    assert!(check(&[("within/x", FILE, "1"), ("within", LINK, "../victims"), ("within/ls", LINK, "evil")]));
    assert!(check(&[("within/x", FILE, "1"), ("within", LINK, ".."), ("within/victim", LINK, "evil")]));
    assert!(check(&[("l", LINK, "../victims"), ("l/ls", LINK, "evil")]));
}

#[test]
fn a_path_with_two_spellings_keeps_its_kind() {
    for (first, second) in [("h", "./h"), ("./h", "h"), ("h", "a/../h"), ("h", "/h"), ("h", "h//."), ("h", "h/")] {
        for kinds in [(FILE, LINK), (LINK, FILE), (FOLDER, LINK), (LINK, FOLDER), (FILE, FOLDER)] {
            let refused = check(&[(first, kinds.0, "../victim"), (second, kinds.1, "../victim")]);
            // A name that ends in a slash is a folder's, whatever the mode.
            assert!(refused || second == "h/" && kinds.0 == FOLDER, "{first} {second} {kinds:?}");
        }
    }
    let error = Place::new().extract(&zip_of(&[("h", FILE, "1"), ("./h", LINK, "x")]), Resolver::Kernel).unwrap_err();
    assert_eq!(error.to_string(), "./h: a link in the place of the file h: the archive has the same path twice");
}

#[test]
fn the_very_same_name_with_two_kinds_changes_nothing_outside() {
    for (first, second) in [(FILE, LINK), (LINK, FILE), (LINK, LINK)] {
        for resolver in RESOLVERS {
            let place = Place::new();
            let before = place.outside();
            let mut archive = zip_of(&[("Q", first, "../victim"), ("Z", second, "../victim"), ("Q/x", FILE, "evil")]);
            archive.iter_mut().filter(|byte| **byte == b'Z').for_each(|byte| *byte = b'Q');
            place.extract(&archive, resolver).unwrap_err();
            assert_eq!(place.outside(), before);
        }
    }
}

#[test]
fn of_a_path_with_one_kind_the_last_entry_wins() {
    let place = Place::new();
    let entries = [("h", FILE, "first"), ("./h", FILE, "last"), ("l", LINK, "first"), ("a/../l", LINK, "last")];
    place.extract(&zip_of(&entries), Resolver::Kernel).unwrap();
    assert_eq!(fs::read_to_string(place.inner().join("h")).unwrap(), "last");
    assert_eq!(fs::read_link(place.inner().join("l")).unwrap(), Path::new("last"));
}

#[test]
fn attributes_are_not_set_through_a_link() {
    // The folder's entry stands for a link that is there already.
    for name in ["absolute/", "old/far/", "up/", "magic/", "to_victim/", "up/victims/", "within/"] {
        check(&[(name, FOLDER, "")]);
    }
    let place = Place::new();
    fs::set_permissions(place.inner().join("old"), Permissions::from_mode(0o711)).unwrap();
    place.extract(&zip_of(&[("within/", FOLDER, ""), ("within/x", FILE, "1")]), Resolver::Kernel).unwrap();
    assert_eq!(fs::metadata(place.inner().join("old")).unwrap().mode() & 0o7777, 0o711);
    assert!(place.inner().join("old/x").exists() && place.inner().join("within").is_symlink());
    // A file's attributes, where links and hard links were.
    assert!(!check(&[("to_victim", FILE, "new"), ("hard", FILE, "new")]));
}

#[test]
fn links_that_stay_within_are_followed() {
    for resolver in RESOLVERS {
        let place = Place::new();
        let entries = [("within/a", FILE, "1"), ("absolute_within/new/b", FILE, "2"), ("up/inner/c", FILE, "3")];
        place.extract(&zip_of(&entries[..2]), resolver).unwrap();
        assert!(place.inner().join("old/a").exists() && place.inner().join("old/new/b").exists());
        let error = place.extract(&zip_of(&entries[2..]), resolver).unwrap_err();
        assert!(error.to_string().contains("leads outside of the target folder"), "{error}");
    }
}

#[test]
fn an_archive_expands_to_no_more_than_the_limit() {
    let place = Place::new();
    let zeros = "\0".repeat(100_000);
    let archive = zip_of(&[("a", FILE, &zeros), ("b", FILE, &zeros)]);
    let error = extract(file_with(&archive), &place.inner(), Some(150_000)).unwrap_err();
    assert!(matches!(error, ExtractError::TooLarge { source: Exceeded::Limit(150_000), .. }), "{error:?}");
    assert_eq!(
        crate::error_chain::Chain(&error).to_string(),
        "b: the archive expands to more than the limit of 150000 bytes (--max-extracted-size)"
    );
    assert!(place.inner().join("a").exists() && !place.inner().join("b").exists());
    extract(file_with(&archive), &place.inner(), Some(200_000)).unwrap();
    extract(file_with(&archive), &place.inner(), Some(0)).unwrap();
}

#[test]
fn a_folder_that_becomes_a_link_after_it_was_selected_is_not_read_by_root() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("project");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::create_dir(outer.path().join("outside")).unwrap();
    for folder in ["project/d", "outside"] {
        fs::write(outer.path().join(folder).join("f"), folder).unwrap();
        symlink(folder, outer.path().join(folder).join("l")).unwrap();
    }
    let selection = selection(&root, &["d"]);
    if selection.reach() == crate::helper::selection::Reach::Anywhere {
        return;
    }
    fs::rename(root.join("d"), root.join("moved")).unwrap();
    symlink("../outside", root.join("d")).unwrap();
    let (console, _) = Written::console();
    for format in [Format::Zip, Format::Gzip] {
        let mut out = Vec::new();
        let outcome = write(&selection, format, Compression::Fastest, &mut out, &console);
        assert!(matches!(outcome, Err(ArchiveError::Read { .. })), "{format:?} {outcome:?}");
        assert!(!out.windows(7).any(|bytes| bytes == b"outside"), "{format:?}");
    }
}

/// A folder of its own file system, 1 MiB with 64 inodes; `None` where this user may not mount.
fn small_disk(run: &str) -> bool {
    let script = format!("mount -t tmpfs -o size=1m,nr_inodes=64 none /mnt && {run}");
    Command::new("unshare").args(["--mount", "sh", "-c", &script]).status().unwrap().success()
}

#[test]
fn without_a_limit_the_free_disk_space_counts() {
    let outer = tempfile::tempdir().unwrap();
    if !small_disk("true") {
        return;
    }
    let entries: Vec<String> = (0..100).map(|index| format!("f{index}")).collect();
    let many: Vec<_> = entries.iter().map(|name| (name.as_str(), FILE, "")).collect();
    let zeros = "\0".repeat(2 << 20);
    for (archive, expected) in [
        (zip_of(&[("bomb", FILE, &zeros)]), "bomb: the archive expands to more than the free disk space"),
        (zip_of(&many), "the archive has more entries than the target folder has free inodes"),
    ] {
        let path = outer.path().join("a.zip");
        fs::write(&path, archive).unwrap();
        let test = std::env::current_exe().unwrap();
        let run = format!(
            "EXTRACT_ARCHIVE={} exec {} --exact helper::archive::tests::hostile::extracts_into_mnt --nocapture --ignored \
             2>&1 | grep -q '{expected}'",
            path.display(),
            test.display()
        );
        assert!(small_disk(&run), "{expected}");
    }
}

#[test]
#[ignore = "a part of `without_a_limit_the_free_disk_space_counts`, which runs it on a small disk"]
fn extracts_into_mnt() {
    let archive = File::open(std::env::var_os("EXTRACT_ARCHIVE").unwrap()).unwrap();
    let error = extract(archive, Path::new("/mnt"), None).unwrap_err();
    eprintln!("{}", crate::error_chain::Chain(&error));
}

fn names() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "h"]),
        2 => prop::sample::select(vec![
            "old", "within", "up", "far", "absolute", "absolute_within", "magic", "to_victim", "hard", "deep", "file",
            "victim", "victims", "ls", "inner",
        ]),
        1 => prop::sample::select(vec!["..", ".", "", "proc", "self", "cwd", "\0"]),
    ];
    (prop::collection::vec(segment, 1..5), any::<bool>())
        .prop_map(|(segments, slash)| segments.join("/") + if slash { "/" } else { "" })
}

fn entries() -> impl Strategy<Value = Vec<(String, u32, String)>> {
    let mode = prop::sample::select(vec![FILE, FILE, LINK, LINK, FOLDER, 0o106_755, 0o040_000, 0o010_644, 0o060_666]);
    let target = prop_oneof![
        prop::sample::select(vec![
            "..",
            "../victims",
            "../victim",
            "/",
            "/proc/self/fd",
            "old",
            ".",
            "../inner",
            "",
            "a"
        ])
        .prop_map(str::to_owned),
        names(),
    ];
    prop::collection::vec((names(), mode, target), 1..8).prop_map(|mut entries| {
        // The writer of these tests refuses the very same name; other spellings remain.
        let mut seen = std::collections::BTreeSet::new();
        entries.retain(|(name, ..): &(String, u32, String)| seen.insert(name.clone()));
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_archive_changes_anything_outside(entries in entries()) {
        let borrowed: Vec<_> = entries.iter().map(|(name, mode, text)| (name.as_str(), *mode, text.as_str())).collect();
        check(&borrowed);
    }

    #[test]
    fn no_damaged_archive_changes_anything_outside(
        entries in entries(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        resolver in prop::sample::select(RESOLVERS.to_vec()),
    ) {
        let borrowed: Vec<_> = entries.iter().map(|(name, mode, text)| (name.as_str(), *mode, text.as_str())).collect();
        let mut archive = zip_of(&borrowed);
        for (at, byte) in damage {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        let place = Place::new();
        let before = place.outside();
        // Most are refused; what counts is that nothing outside changes and nothing panics.
        let _refused = place.extract(&archive, resolver).is_err();
        prop_assert_eq!(place.outside(), before);
    }
}
