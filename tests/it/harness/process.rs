//! The real binary as a process: started on a config, signalled, waited for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{eventually, within};

/// How long a manager may take to end when it is told to.
const END_LIMIT: Duration = Duration::from_secs(15);

/// A `flotilla run` of this build, in a folder of its own. Dropping it ends it as an operator does, so that it
/// leaves nothing on its instances.
#[derive(Debug)]
pub(crate) struct Manager {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    descriptors: Option<u64>,
    child: Child,
}

impl Manager {
    /// Starts a manager on this `config.toml`.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, Vec::new())
    }

    /// With variables of its own.
    pub(crate) fn start_with(config: &str, environment: Vec<(String, String)>) -> Self {
        Self::start_limited(config, environment, None)
    }

    /// With variables of its own, and at most so many open descriptors.
    pub(crate) fn start_limited(config: &str, environment: Vec<(String, String)>, descriptors: Option<u64>) -> Self {
        let folder = tempfile::Builder::new().prefix("flotilla-manager-").tempdir().expect("a folder");
        fs::write(folder.path().join("config.toml"), config).expect("the config");
        let child = spawn(folder.path(), &environment, descriptors);
        Self { folder, environment, descriptors, child }
    }

    /// Starts it again in the same folder, after it has ended.
    pub(crate) fn start_again(&mut self) {
        assert!(self.has_ended(), "two managers in one folder");
        self.child = spawn(self.folder.path(), &self.environment, self.descriptors);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Puts another config in the place of the one before, as editors do: at once.
    pub(crate) fn write_config(&self, config: &str) {
        let path = self.config_path();
        let fresh = path.with_extension("new");
        fs::write(&fresh, config).expect("the config");
        fs::rename(fresh, path).expect("the config");
    }

    /// `QUIT`, `TERM`, `KILL`, …
    pub(crate) fn signal(&self, name: &str) {
        super::run("kill", &[&format!("-{name}"), &self.pid().to_string()]);
    }

    /// Ends it without a warning, as the kernel does when memory is short.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// How it ended, within `limit`.
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        assert!(within(limit, || self.has_ended()), "still running after {limit:?}");
        self.child.wait().expect("a child of ours")
    }

    /// The most memory that it has had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the manager runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel's figure");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Its open descriptors, as the kernel names them: paths, `socket:[…]`, `pipe:[…]`.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the manager runs").flatten();
        // One that is closed meanwhile has no name any more.
        let mut names: Vec<_> = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
        names.sort();
        names.iter().map(|name| name.display().to_string()).collect()
    }

    /// Lets the running process open no further descriptor while more than `most` are open.
    pub(crate) fn limit_descriptors(&self, most: u64) {
        super::run("prlimit", &[&format!("--nofile={most}:"), "--pid", &self.pid().to_string()]);
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log has this text.
    pub(crate) fn wait_log(&self, text: &str) {
        self.wait_log_after(0, text);
    }

    /// Waits until the log has this text after so many bytes.
    pub(crate) fn wait_log_after(&self, start: usize, text: &str) {
        eventually(&format!("the log says {text:?}"), || {
            self.log().get(start..).is_some_and(|rest| rest.contains(text))
        });
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::tell("the manager's log", &self.log());
        }
        if !self.has_ended() {
            self.signal("TERM");
            within(END_LIMIT, || self.has_ended());
        }
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a command of the binary to its end: its exit code and what it wrote.
pub(crate) fn flotilla(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary of this build");
    (output.status.code(), format!("{}{}", super::text(&output.stdout), super::text(&output.stderr)))
}

fn spawn(folder: &Path, environment: &[(String, String)], descriptors: Option<u64>) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("the log");
    // What a manager logs has a cost, which measurements leave out.
    let level = std::env::var_os("FLOTILLA_TEST_LOG_LEVEL").unwrap_or_else(|| "debug".into());
    let binary = env!("CARGO_BIN_EXE_flotilla");
    let mut command = match descriptors {
        Some(most) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={most}:{most}")).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    command
        .arg("--log-level")
        .arg(level)
        .args(["--log-format", "text", "run", "--config"])
        .arg(folder.join("config.toml"))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the binary of this build")
}
