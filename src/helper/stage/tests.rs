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
        std::fs::remove_file(root.path().join("exit")).unwrap();
    }
}

#[test]
fn released_output_leaves_its_place_and_is_known_to_be_gone() {
    use std::io::Write as _;
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
    folder.request_stop(std::time::Duration::ZERO).unwrap();
    assert!(folder.raise_fence().unwrap());
    drop(folder.fill("true").unwrap());
    folder.request_stop(std::time::Duration::ZERO).unwrap();
}

#[test]
fn stop_waits_for_a_keeper_that_is_still_starting() {
    use std::io::Read as _;
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::at(root.path().join("stage"));
    assert!(folder.raise_fence().unwrap());
    let _inherited = folder.fill("true").unwrap();
    folder.request_stop(std::time::Duration::ZERO).unwrap();
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
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    for file in ["script", "output", "control", "lock"] {
        assert_eq!(mode(&folder.path().join(file)), 0o600, "{file}");
    }
}
