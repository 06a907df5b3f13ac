use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::helper::console::tests::Written;

/// A project with the given entries: `a/` a folder, `a -> b` a link, `a|` a pipe, else a file.
struct Project {
    _outer: tempfile::TempDir,
    root: PathBuf,
}

impl Project {
    fn new(entries: &[&str]) -> Self {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("group/project");
        fs::create_dir_all(&root).unwrap();
        fs::write(outer.path().join("group/outside.txt"), "secret").unwrap();
        for entry in entries {
            if let Some((link, target)) = entry.split_once(" -> ") {
                symlink(target, root.join(link)).unwrap();
            } else if let Some(folder) = entry.strip_suffix('/') {
                fs::create_dir_all(root.join(folder)).unwrap();
            } else if let Some(pipe) = entry.strip_suffix('|') {
                rustix::fs::mknodat(rustix::fs::CWD, root.join(pipe), rustix::fs::FileType::Fifo, 0o600.into(), 0)
                    .unwrap();
            } else {
                fs::create_dir_all(root.join(entry).parent().unwrap()).unwrap();
                fs::write(root.join(entry), *entry).unwrap();
            }
        }
        Self { _outer: outer, root }
    }

    fn select(&self, paths: &[&str], exclude: &[&str]) -> (String, Vec<String>) {
        self.select_with(&FileArgs { paths: owned(paths), exclude: owned(exclude), ..FileArgs::default() })
    }

    fn select_with(&self, files: &FileArgs) -> (String, Vec<String>) {
        self.select_within(files, Reach::of_process())
    }

    fn select_within(&self, files: &FileArgs, reach: Reach) -> (String, Vec<String>) {
        let variables = [("DIR".into(), "dir".into()), ("CI_PROJECT_DIR".into(), self.root.clone().into_os_string())];
        let environment = Environment::new(variables, self.root.clone());
        let (console, written) = Written::console();
        let selection = select_within(files, &environment, &console, reach);
        let names: Vec<_> = selection.entries().map(|(name, _)| name.to_str().unwrap().to_owned()).collect();
        let root = self.root.to_str().unwrap();
        (names.join(" "), written.lines().iter().map(|line| line.replace(root, "ROOT")).collect())
    }

    /// What is selected, and the number of visits in the message.
    fn check(&self, path: &str, names: &str, visits: u64) {
        let (selected, lines) = self.select(&[path], &[]);
        assert_eq!(selected, names, "{path}");
        assert_eq!(lines, [format!("{path}: found {visits} matching artifact files and directories")]);
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_folder_is_taken_with_all_below_it() {
    let project = Project::new(&["dir/a.txt", "dir/.hidden", "dir/sub/b.txt", "dir/empty/", "other"]);
    for path in ["dir", "dir/", "./dir", "dir/.", "x/../dir", "$DIR", "${NONE:-dir}"] {
        let (names, lines) = project.select(&[path], &[]);
        assert_eq!(names, "dir dir/.hidden dir/a.txt dir/empty dir/sub dir/sub/b.txt", "{path}");
        let found = path.replace("$DIR", "dir").replace("${NONE:-dir}", "dir");
        assert_eq!(lines, [format!("{found}: found 6 matching artifact files and directories")]);
    }
}

#[test]
fn patterns_take_children_but_not_their_folder() {
    let project = Project::new(&["dir/a.txt", "dir/sub/b.txt", ".dot/c.txt", "d.txt"]);
    project.check("dir/*", "dir/a.txt dir/sub dir/sub/b.txt", 3);
    project.check("dir/**/*", "dir/a.txt dir/sub dir/sub/b.txt", 4);
    project.check("**/*.txt", ".dot/c.txt d.txt dir/a.txt dir/sub/b.txt", 4);
    project.check("dir/{a,x}.txt", "dir/a.txt", 1);
    project.check("*/sub", "dir/sub dir/sub/b.txt", 2);
    project.check("d?r/[a-b].txt", "dir/a.txt", 1);
}

#[test]
fn visits_are_counted_as_the_reference_does() {
    let project = Project::new(&["a/x.txt", "a/b/y.txt", "a/b/z.txt"]);
    project.check("a/**", "a a/b a/b/y.txt a/b/z.txt a/x.txt", 11);
}

#[test]
fn the_watched_job_has_its_messages() {
    let project = Project::new(&["out/one.txt", "out/sub/two.txt", "out/skip.log"]);
    let (names, lines) = project.select(&["out/**/*"], &["out/*.log"]);
    assert_eq!(names, "out/one.txt out/sub out/sub/two.txt");
    assert_eq!(lines, ["out/**/*: found 4 matching artifact files and directories", "out/*.log: excluded 1 files"]);
}

#[test]
fn everything_includes_what_is_hidden() {
    let project = Project::new(&[".git/config", "a"]);
    project.check("*", ".git .git/config a", 3);
    project.check(".", ".git .git/config a", 4);
    let (names, _) = project.select(&["**"], &[]);
    assert_eq!(names, ".git .git/config a");
}

#[test]
fn links_are_taken_as_links() {
    let project = Project::new(&["target/a.txt", "target/b/c.txt", "linkdir -> target", "dangling -> nowhere"]);
    project.check("linkdir", "linkdir", 1);
    project.check("linkdir/", "linkdir", 1);
    project.check("l*", "linkdir", 1);
    project.check("linkdir/*", "linkdir/a.txt linkdir/b linkdir/b/c.txt", 3);
    project.check("d*", "dangling", 1);
    let (names, lines) = project.select(&["dangling"], &[]);
    assert_eq!(names, "");
    assert!(lines[0].starts_with("WARNING: dangling: no matching files."), "{lines:?}");
}

#[test]
fn contents_of_a_link_go_without_the_link_itself() {
    let project = Project::new(&["target/a.txt", "linkdir -> target"]);
    assert_eq!(project.select(&["linkdir/**"], &[]).0, "linkdir/a.txt");
    assert_eq!(project.select(&["linkdir", "linkdir/*", "target"], &[]).0, "linkdir/a.txt target target/a.txt");
}

#[test]
fn nothing_outside_of_the_project_is_taken() {
    let project = Project::new(&["a"]);
    for path in ["../outside.txt", "/etc/passwd", "a/../../outside.txt", "../*", "/"] {
        let (names, lines) = project.select(&[path], &[]);
        assert_eq!(names, "", "{path}");
        assert_eq!(
            lines,
            [format!("WARNING: processPath: artifact path is not a subpath of project directory: {path}")]
        );
    }
}

#[test]
fn links_are_followed_where_they_are_written_out_and_nowhere_else() {
    let project = Project::new(&[
        "real/f.txt",
        "real/dist/a.js",
        "link -> real",
        "in -> .",
        "packages/two/dist/b.js",
        "packages/one -> ../real",
    ]);
    for (path, names) in [
        ("in/a/../link/f.txt", "in/link/f.txt"),
        ("link/**/*.js", "link/dist/a.js"),
        ("packages/one/*/*.js", "packages/one/dist/a.js"),
        ("packages/{one,two}/dist/*.js", "packages/one/dist/a.js packages/two/dist/b.js"),
        ("{link,nope}/f.txt", "link/f.txt"),
        ("packages/*/dist/*.js", "packages/two/dist/b.js"),
        ("packages/**/*.js", "packages/two/dist/b.js"),
        ("l*/f.txt", ""),
        ("in/**/a.js", "in/real/dist/a.js"),
    ] {
        assert_eq!(project.select(&[path], &[]).0, names, "{path}");
    }
    let (names, lines) = project.select(&["packages/{one,two}/**"], &["packages/one/dist/**"]);
    assert_eq!(names, "packages/one/f.txt packages/two packages/two/dist packages/two/dist/b.js");
    assert_eq!(lines.last().unwrap(), "packages/one/dist/**: excluded 3 files");
}

#[test]
fn a_link_of_the_project_that_leads_out_is_followed_where_it_is_written_out() {
    let project = Project::new(&["a", "bazel-testlogs -> ../testlogs"]);
    let outside = project.root.parent().unwrap().join("testlogs/x");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("test.xml"), "<x/>").unwrap();
    for (path, names) in [
        ("bazel-testlogs/**/test.xml", "bazel-testlogs/x/test.xml"),
        ("bazel-testlogs/x", "bazel-testlogs/x bazel-testlogs/x/test.xml"),
        ("**/test.xml", ""),
        ("bazel-testlogs", "bazel-testlogs"),
    ] {
        let files = FileArgs { paths: owned(&[path]), ..FileArgs::default() };
        assert_eq!(project.select_within(&files, Reach::Anywhere).0, names, "{path}");
    }
}

#[test]
fn root_does_not_follow_a_link_out_of_the_project() {
    let project = Project::new(&["real/f.txt", "up -> ..", "real/abs -> /", "in -> real", "back -> ../project/real"]);
    let outside = project.root.parent().unwrap();
    symlink(project.root.join("real"), project.root.join("whole")).unwrap();
    let absolute = format!("real/abs{}/outside.txt", outside.display());
    for path in ["up/outside.txt", "up/*.txt", "in/../up/**", "{up,none}/*.txt", &absolute, "back/*", "in/abs/etc/*"] {
        let files = FileArgs { paths: owned(&[path]), ..FileArgs::default() };
        let (names, lines) = project.select_within(&files, Reach::Project);
        assert_eq!(names, "", "{path}");
        assert!(lines.iter().any(|line| line.contains("leads out of the project through a link")), "{path}: {lines:?}");
    }
    for (path, names) in [("in/*.txt", "in/f.txt"), ("whole/f.txt", "whole/f.txt"), ("up", "up")] {
        let files = FileArgs { paths: owned(&[path]), ..FileArgs::default() };
        assert_eq!(project.select_within(&files, Reach::Project).0, names, "{path}");
    }
}

#[test]
fn a_name_that_begins_with_two_dots_is_a_name() {
    let project = Project::new(&["..data/x"]);
    project.check("..data", "..data ..data/x", 2);
}

#[test]
fn absolute_paths_within_the_project_are_fine() {
    let project = Project::new(&["dir/a.txt"]);
    let root = project.root.to_str().unwrap();
    for path in [format!("{root}/dir/*"), "$CI_PROJECT_DIR/dir/*".to_owned(), format!("{root}//dir/./*")] {
        assert_eq!(project.select(&[&path], &[]).0, "dir/a.txt", "{path}");
    }
    assert_eq!(project.select(&[&format!("{root}x/dir")], &[]).0, "");
}

#[test]
fn absolute_paths_through_a_link_to_the_project_are_fine() {
    let project = Project::new(&["dir/a.txt"]);
    let link = project.root.parent().unwrap().join("builds");
    symlink(&project.root, &link).unwrap();
    let path = format!("{}/dir", link.display());
    for (folder, variables) in [(project.root.clone(), vec![("PWD".into(), link.clone().into())]), (link, Vec::new())] {
        let (console, _) = Written::console();
        let files = FileArgs {
            paths: vec![path.clone(), format!("{}/dir/a.txt", project.root.display())],
            ..FileArgs::default()
        };
        let selection = select(&files, &Environment::new(variables, folder), &console);
        assert_eq!(selection.entries().count(), 2);
    }
}

#[test]
fn excludes_are_asked_about_each_entry() {
    let project = Project::new(&["a/b/c.txt", "a/b/d/e.txt", "a/x.log"]);
    for (exclude, left, message) in [
        ("a/b/**", "a a/x.log", "a/b/**: excluded 4 files"),
        ("a/b/*", "a a/b a/b/d/e.txt a/x.log", "a/b/*: excluded 2 files"),
        ("a/b", "a a/b/c.txt a/b/d a/b/d/e.txt a/x.log", "a/b: excluded 1 files"),
        ("**/*.txt", "a a/b a/b/d a/x.log", "**/*.txt: excluded 2 files"),
        ("./a/*.log", "a a/b a/b/c.txt a/b/d a/b/d/e.txt", "./a/*.log: excluded 1 files"),
    ] {
        let (names, lines) = project.select(&["a"], &[exclude]);
        assert_eq!(names, left, "{exclude}");
        assert_eq!(lines.last().unwrap(), message);
    }
}

#[test]
fn an_exclude_that_cannot_be_used_leaves_the_others_at_work() {
    let project = Project::new(&["a.txt", "b.txt"]);
    let (names, lines) = project.select(&["*.txt"], &["[", "../x", "b.*"]);
    assert_eq!(names, "a.txt");
    assert!(lines[0].starts_with("WARNING: [: syntax error in pattern"), "{lines:?}");
    assert_eq!(lines[1], "WARNING: isExcluded: artifact path is not a subpath of project directory: ../x");
    assert_eq!(lines[3], "b.*: excluded 1 files");
}

#[test]
fn paths_without_a_match_say_where_they_were_looked_for() {
    let project = Project::new(&["a"]);
    let (_, lines) = project.select(&["none/*", "", "[", "$(id)"], &[]);
    assert_eq!(
        lines[0],
        "WARNING: none/*: no matching files. Ensure that the artifact path is relative to the working directory (ROOT)"
    );
    assert_eq!(lines[1], "WARNING: No matching files. Path is empty.");
    assert!(lines[2].starts_with("WARNING: [: syntax error in pattern"), "{lines:?}");
    assert!(lines[3].starts_with("WARNING: invalid path \"$(id)\""), "{lines:?}");
    assert!(lines[4].starts_with("WARNING: $(id): no matching files."), "{lines:?}");
}

#[test]
fn names_with_pattern_characters_need_a_backslash() {
    let project = Project::new(&["we[i]rd.txt", "weird.txt"]);
    project.check("we[i]rd.txt", "weird.txt", 1);
    project.check(r"we\[i\]rd.txt", "we[i]rd.txt", 1);
}

#[test]
fn pipes_are_listed() {
    let project = Project::new(&["dir/", "dir/pipe|"]);
    let selection = {
        let (console, _) = Written::console();
        select(
            &FileArgs { paths: owned(&["dir"]), ..FileArgs::default() },
            &Environment::new([], project.root),
            &console,
        )
    };
    let kinds: Vec<_> = selection.entries().map(|(_, entry)| entry.kind).collect();
    assert_eq!(kinds, [Kind::Folder, Kind::Special]);
}

#[test]
fn what_git_does_not_track_is_found_with_what_it_ignores() {
    let project = Project::new(&["tracked.txt", "new.txt", "ignored.o", ".gitignore", "a b/ü.txt"]);
    let git = |arguments: &[&str]| {
        let status = Command::new("git").args(arguments).current_dir(&project.root).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    fs::write(project.root.join(".gitignore"), "*.o\n").unwrap();
    git(&["init", "-q"]);
    git(&["add", "tracked.txt", ".gitignore"]);
    let untracked = |exclude: &[&str]| {
        project.select_with(&FileArgs { untracked: Some(true), exclude: owned(exclude), ..FileArgs::default() })
    };
    let (names, lines) = untracked(&[]);
    assert_eq!(names, "a b/ü.txt ignored.o new.txt");
    assert_eq!(lines, ["untracked: found 3 files"]);
    assert_eq!(untracked(&["**"]).1, ["WARNING: untracked: no files", "**: excluded 3 files"]);
}

#[test]
fn a_folder_without_a_repository_has_nothing_untracked() {
    let project = Project::new(&["a"]);
    let (names, lines) = project.select_with(&FileArgs { untracked: Some(true), ..FileArgs::default() });
    assert_eq!(names, "");
    assert!(lines[0].starts_with("WARNING: untracked: git ls-files"), "{lines:?}");
}
