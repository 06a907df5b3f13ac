use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode};

use super::folder::Folder;
use crate::detached::{Ending, Exit, StageFolder};

#[test]
fn fence_stands_after_the_first_start() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path(), &StageFolder::new("job", "step_script", 0));
    assert!(folder.raise_fence().unwrap());
    assert!(!folder.raise_fence().unwrap());
    let next = Folder::new(root.path(), &StageFolder::new("job", "step_script", 1));
    assert!(next.raise_fence().unwrap(), "another attempt has a fence of its own");
}

#[test]
fn stage_is_kept_for_as_long_as_its_lock_is_open() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path().join("stage"));
    assert!(folder.raise_fence().unwrap());
    assert!(!folder.is_kept().unwrap());
    let lock = folder.fill("true").unwrap().lock;
    let inherited = lock.try_clone().unwrap();
    drop(lock);
    assert!(folder.is_kept().unwrap());
    drop(inherited);
    assert!(!folder.is_kept().unwrap());
}

#[test]
fn ending_is_there_whole_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path());
    assert_eq!(folder.read_ending().unwrap(), None);
    for ending in
        [Ending::Exited(Exit::Code(7)), Ending::Exited(Exit::Signal(9)), Ending::Failed("no shell".to_owned())]
    {
        folder.write_ending(&ending).unwrap();
        assert_eq!(folder.read_ending().unwrap(), Some(ending));
        fs::remove_file(root.path().join("exit")).unwrap();
    }
}

#[test]
fn released_output_leaves_its_place_and_is_known_to_be_gone() {
    use io::Write as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path().join("stage"));
    assert!(folder.raise_fence().unwrap());
    let _inherited = folder.fill("true").unwrap();
    let mut output = folder.append_output().unwrap();
    output.write_all(&[7; 1 << 20]).unwrap();
    let room = || folder.open_output().unwrap().metadata().unwrap().blocks() * 512;
    assert_eq!(folder.released().unwrap(), 0);
    for (release, released) in [(1_000_000, 1_000_000), (10, 1_000_000), (9 << 20, 1 << 20)] {
        folder.release_output(release).unwrap();
        assert_eq!(folder.released().unwrap(), released);
        assert!(room() < 128 << 10, "{}", room());
    }
    output.write_all(b"more").unwrap();
    let mut more = [0; 4];
    folder.open_output().unwrap().read_exact_at(&mut more, 1 << 20).unwrap();
    assert_eq!(&more, b"more");
}

#[test]
fn stop_without_a_keeper_is_no_error() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path().join("stage"));
    folder.request_stop(Duration::ZERO).unwrap();
    assert!(folder.raise_fence().unwrap());
    drop(folder.fill("true").unwrap());
    folder.request_stop(Duration::ZERO).unwrap();
}

#[test]
fn stop_waits_for_a_keeper_that_is_still_starting() {
    use io::Read as _;
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path().join("stage"));
    assert!(folder.raise_fence().unwrap());
    let _inherited = folder.fill("true").unwrap();
    folder.request_stop(Duration::ZERO).unwrap();
    let mut request = [0; 7];
    folder.open_control().unwrap().read_exact(&mut request).unwrap();
    assert_eq!(&request, b"stop 0\n");
}

#[test]
fn secrets_of_a_stage_are_for_its_user_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path(), &StageFolder::new("job", "step_script", 0));
    assert!(folder.raise_fence().unwrap());
    let _inherited = folder.fill("export TOKEN=x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    for file in ["script", "output", "control", "lock"] {
        assert_eq!(mode(&folder.path().join(file)), 0o600, "{file}");
    }
}

/// What a job may put in the place of a file of ours.
#[derive(Clone, Copy, Debug)]
enum Replacement {
    Pipe,
    Link(&'static str),
    Folder,
    Sparse,
}

impl Replacement {
    fn make(self, path: &Path) {
        match self {
            Self::Pipe => rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap(),
            Self::Link(target) => symlink(target, path).unwrap(),
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::Sparse => fs::File::create(path).unwrap().set_len(1 << 30).unwrap(),
        }
    }
}

/// A folder before its shell starts, whose file `name` is made by `make` instead.
fn with_replaced(name: &str, make: impl Fn(&Path)) -> (tempfile::TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path().join("stage"));
    assert!(folder.raise_fence().unwrap());
    drop(folder.fill("true").unwrap());
    let path = folder.path().join(name);
    fs::remove_file(&path).unwrap_or_default();
    make(&path);
    (root, folder)
}

/// Whether it hangs instead shows by itself.
fn refused(name: &str, replacement: Replacement, attempt: impl FnOnce(&Folder) -> io::Result<()>) {
    let (_root, folder) = with_replaced(name, |path| replacement.make(path));
    attempt(&folder).expect_err(&format!("{name}: {replacement:?}"));
}

#[test]
fn replaced_file_is_refused_and_never_waited_for() {
    use Replacement::{Folder, Link, Pipe, Sparse};
    for replacement in [Pipe, Link("/dev/zero"), Link("/dev/full"), Link("output"), Folder] {
        refused("output", replacement, |folder| folder.open_output().map(drop));
        refused("output", replacement, |folder| folder.append_output().map(drop));
        refused("output", replacement, |folder| folder.release_output(7));
        refused("script", replacement, |folder| folder.open_script().map(drop));
        refused("lock", replacement, |folder| folder.is_kept().map(drop));
    }
    for replacement in [Pipe, Link("/dev/zero"), Link("/dev/full"), Link("output"), Folder, Sparse] {
        refused("exit", replacement, |folder| folder.read_ending().map(drop));
        refused("released", replacement, |folder| folder.released().map(drop));
        refused("released", replacement, |folder| folder.release_output(7));
    }
    for replacement in [Link("/dev/zero"), Link("/dev/full"), Link("output"), Folder, Sparse] {
        refused("control", replacement, |folder| folder.open_control().map(drop));
        refused("control", replacement, |folder| folder.request_stop(Duration::ZERO));
    }
    for replacement in [Pipe, Link("/dev/zero"), Link("/dev/full"), Folder, Sparse] {
        with_replaced("process", |path| replacement.make(path)).1.kill_orphans();
    }
}

#[test]
fn nothing_is_written_through_what_a_job_has_prepared() {
    let (root, folder) = with_replaced("released.part", |path| symlink("../kept", path).unwrap());
    let kept = root.path().join("kept");
    fs::write(&kept, "kept").unwrap();
    symlink("../kept", folder.path().join("exit.part")).unwrap();
    fs::write(folder.path().join("output"), [7; 100]).unwrap();
    // The file system may have no holes; what counts is what was written where.
    folder.release_output(50).unwrap_or_default();
    folder.write_ending(&Ending::Exited(Exit::Code(3))).unwrap();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    assert_eq!(folder.released().unwrap(), 50);
    assert_eq!(folder.read_ending().unwrap(), Some(Ending::Exited(Exit::Code(3))));
    let (_root, folder) = with_replaced("output", |path| symlink("../kept", path).unwrap());
    fs::write(folder.path().join("../kept"), [7; 100]).unwrap();
    folder.release_output(50).unwrap_err();
    assert_eq!(fs::read(folder.path().join("../kept")).unwrap(), [7; 100]);
}

#[test]
fn words_of_a_forged_ending_are_not_repeated() {
    let (_root, folder) = with_replaced("exit", |path| fs::write(path, r#"{"exited":{"code":"hunter2"}}"#).unwrap());
    let error = folder.read_ending().unwrap_err().to_string();
    assert!(error.contains("another type than expected") && !error.contains("hunter2"), "{error}");
    let (_root, folder) = with_replaced("released", |path| fs::write(path, "hunter2").unwrap());
    assert!(!folder.released().unwrap_err().to_string().contains("hunter2"));
}
