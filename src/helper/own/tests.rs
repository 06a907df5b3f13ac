use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// Runs the command for a folder of a volume, or of storage that others share.
fn own(root: &Path, path: &str, parents: Parents) -> ExitCode {
    let place = Place::parse(&format!("{}:{path}", root.display())).unwrap();
    let (volumes, binds) = match parents {
        Parents::Owned => (vec![place], vec![]),
        Parents::Kept => (vec![], vec![place]),
    };
    let args = OwnArgs { uid: 4711, gid: 4712, volumes, binds };
    main(&args)
}

fn owner(path: &Path) -> (u32, u32) {
    let status = fs::symlink_metadata(path).unwrap();
    (status.uid(), status.gid())
}

const JOB: (u32, u32) = (4711, 4712);

/// Only root gives files away.
fn may_not_run() -> bool {
    !rustix::process::geteuid().is_root()
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for text in ["/builds", "/builds:../x", "/builds:a/../../x", "/builds:/etc"] {
        assert!(Place::parse(text).is_err(), "{text}");
    }
    assert_eq!(Place::parse("/builds:a/b:c").unwrap().names, ["a", "b:c"]);
    assert_eq!(Place::parse("/builds:").unwrap().names, [""; 0]);
}

#[test]
fn whole_folder_becomes_the_jobs_and_a_second_time_nothing_changes() {
    if may_not_run() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let project = root.path().join("g/p");
    fs::create_dir_all(project.join("closed")).unwrap();
    fs::write(project.join("closed/file"), "x").unwrap();
    fs::set_permissions(project.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(own(root.path(), "g/p", Parents::Owned), ExitCode::from(OWNER_CHANGED));
    for path in ["g", "g/p", "g/p/closed", "g/p/closed/file"] {
        assert_eq!(owner(&root.path().join(path)), JOB, "{path}");
    }
    assert_ne!(owner(root.path()), JOB);
    assert_eq!(own(root.path(), "g/p", Parents::Owned), ExitCode::SUCCESS);
}

#[test]
fn folders_above_are_made_and_those_of_others_stay_theirs() {
    if may_not_run() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("g/other")).unwrap();
    assert_eq!(own(root.path(), "g/sub/p", Parents::Kept), ExitCode::from(OWNER_CHANGED));
    for (path, expected) in [("g", false), ("g/other", false), ("g/sub", true), ("g/sub/p", true)] {
        assert_eq!(owner(&root.path().join(path)) == JOB, expected, "{path}");
    }
}

#[test]
fn links_lead_nowhere() {
    if may_not_run() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "x").unwrap();
    fs::create_dir_all(root.path().join("g/p")).unwrap();
    symlink(outside.path(), root.path().join("g/p/folder")).unwrap();
    symlink(outside.path().join("file"), root.path().join("g/p/file")).unwrap();
    symlink(outside.path(), root.path().join("g/q")).unwrap();
    symlink(outside.path(), root.path().join("h")).unwrap();
    assert_eq!(own(root.path(), "g/p", Parents::Owned), ExitCode::from(OWNER_CHANGED));
    assert_eq!(owner(&root.path().join("g/p/file")), JOB);
    assert_eq!(own(root.path(), "g/q", Parents::Owned), ExitCode::FAILURE);
    assert_eq!(own(root.path(), "h/p", Parents::Owned), ExitCode::FAILURE);
    assert_ne!(owner(outside.path()), JOB);
    assert_ne!(owner(&outside.path().join("file")), JOB);
    assert!(!outside.path().join("p").exists());
}

#[test]
fn file_with_a_name_outside_stays_as_it_is() {
    if may_not_run() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let project = root.path().join("p");
    fs::create_dir_all(project.join("below")).unwrap();
    fs::write(root.path().join("outside"), "x").unwrap();
    fs::hard_link(root.path().join("outside"), project.join("shared")).unwrap();
    fs::write(project.join("one"), "x").unwrap();
    fs::hard_link(project.join("one"), project.join("below/other")).unwrap();
    own(root.path(), "p", Parents::Owned);
    assert_ne!(owner(&project.join("shared")), JOB);
    assert_eq!(owner(&project.join("one")), JOB);
}

#[test]
fn deep_tree_needs_no_stack() {
    if may_not_run() {
        return;
    }
    const DEPTH: usize = 2_000;
    let root = tempfile::tempdir().unwrap();
    let mut folder = rustix::fs::openat(CWD, root.path(), folder_flags(), Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&folder, "d", NEW_FOLDER).unwrap();
        folder = rustix::fs::openat(&folder, "d", folder_flags(), Mode::empty()).unwrap();
    }
    assert_eq!(own(root.path(), "", Parents::Owned), ExitCode::from(OWNER_CHANGED));
    assert_eq!(rustix::fs::fstat(&folder).unwrap().st_uid, JOB.0);
}
