//! `flotilla demo`, as somebody types it: it ends well, says so, and leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{eventually, within};

/// A demo takes ten seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A running demo whose instances live in a folder of the test's.
struct Demo {
    folder: tempfile::TempDir,
    child: Child,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let output = |name: &str| fs::File::create(folder.path().join(name)).expect("a file for the output");
        let child = Command::new(env!("CARGO_BIN_EXE_flotilla"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"))
            .spawn()
            .expect("the binary of this build");
        Self { folder, child }
    }

    fn output(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// Its exit code.
    fn end(&mut self) -> Option<i32> {
        let has_ended = within(LIMIT, || self.child.try_wait().expect("a child of ours").is_some());
        assert!(has_ended, "the demo goes on and on\n{}", self.output());
        self.child.wait().expect("a child of ours").code()
    }

    /// Neither processes nor files but the two of this test.
    fn assert_nothing_is_left(&self) {
        assert_eq!(processes_of(self.folder.path()), Vec::<String>::new(), "{}", self.output());
        let files = fs::read_dir(self.folder.path()).expect("the folder").count();
        assert_eq!(files, 2, "{}", self.output());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The command lines that name this folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(folder.as_ref())).collect()
}

#[test]
fn the_demo_ends_with_every_job_as_it_should_be() {
    let mut demo = Demo::start(&["--jobs", "8"]);
    let code = demo.end();
    let output = demo.output();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("ended as they should, and the fleet is back at 0 instances."), "{output}");
    assert!(output.contains("| the secret is [MASKED]"), "{output}");
    assert!(!output.contains(flotilla::sandbox::samples::SECRET), "{output}");
    // The tests have an engine, and the helper for its containers.
    assert!(!output.contains("docker-autoscaler: skipped"), "{output}");
    let has_line = |is_it: fn(&str) -> bool| output.lines().any(is_it);
    assert!(has_line(|line| line.starts_with("docker-autoscaler: ") && line.contains("instances created")), "{output}");
    assert!(has_line(|line| line.starts_with("+ ") && line.contains(" docker-autoscaler ")), "{output}");
    demo.assert_nothing_is_left();
}

#[test]
fn an_interrupted_demo_leaves_nothing_and_fails() {
    let mut demo = Demo::start(&[]);
    eventually("a job runs in an instance", || demo.output().contains("parallel-1, step 1"));
    assert!(!processes_of(demo.folder.path()).is_empty(), "instances are processes that name their folder");
    for _ in 0..2 {
        crate::harness::run("kill", &["-INT", &demo.child.id().to_string()]);
    }
    assert_eq!(demo.end(), Some(1), "{}", demo.output());
    assert!(demo.output().contains("problem: it was interrupted"), "{}", demo.output());
    demo.assert_nothing_is_left();
}
