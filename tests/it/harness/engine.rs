//! A Docker Engine of a test's own, which can be restarted while others use this machine's. It has a network namespace
//! of its own, as it makes and removes the bridge that is named like the other engine's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{eventually, run};

/// Dropping it ends it, with its containers.
pub(crate) struct Engine {
    folder: tempfile::TempDir,
    namespace: String,
    live_restore: bool,
    process: Child,
}

impl Engine {
    /// One that has `image` of this machine's engine. With `live_restore` its
    /// containers run on while it is down.
    pub(crate) fn start(image: &str, live_restore: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("flotilla-engine-").tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the account of jobs goes in");
        let namespace = format!("flotilla-engine-{:08x}", rand::random::<u32>());
        run("ip", &["netns", "add", &namespace]);
        let process = spawn(folder.path(), &namespace, live_restore);
        let engine = Self { folder, namespace, live_restore, process };
        engine.wait();
        let archive = engine.folder.path().join("image.tar");
        run("docker", &["save", "-o", archive.to_str().expect("text"), image]);
        engine.docker(&["load", "-q", "-i", archive.to_str().expect("text")]);
        engine
    }

    /// As `host` of a runner.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", socket(self.folder.path()).display())
    }

    /// Runs the client against this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        run("docker", &[&["-H", &self.host()], arguments].concat())
    }

    /// Ends the daemon as a package's upgrade does; its containers by its own rules.
    pub(crate) fn stop(&mut self) {
        run("kill", &["-TERM", &self.process.id().to_string()]);
        self.process.wait().expect("a child of ours");
    }

    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.folder.path(), &self.namespace, self.live_restore);
        self.wait();
    }

    fn wait(&self) {
        let host = self.host();
        eventually("the engine answers", || {
            let asked = Command::new("docker").args(["-H", &host, "version"]).output();
            asked.is_ok_and(|output| output.status.success())
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What is left would run on with live_restore.
        let containers = Command::new("docker").args(["-H", &self.host(), "ps", "-aq"]).output();
        let containers = containers.map(|output| super::text(&output.stdout)).unwrap_or_default();
        for container in containers.split_whitespace() {
            Command::new("docker").args(["-H", &self.host(), "rm", "-f", container]).output().ok();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            super::tell("the engine's log", &log);
        }
        Command::new("kill").arg(self.process.id().to_string()).status().ok();
        self.process.wait().ok();
        Command::new("ip").args(["netns", "delete", &self.namespace]).status().ok();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("docker.sock")
}

fn spawn(folder: &Path, namespace: &str, live_restore: bool) -> Child {
    let log = fs::File::options().append(true).create(true).open(folder.join("log")).expect("a log");
    let path = |name: &str| folder.join(name).display().to_string();
    // Not by `ip netns exec`, which hides the control groups.
    Command::new("nsenter")
        .args([&format!("--net=/run/netns/{namespace}"), "dockerd"])
        .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
        .args(["--host", &format!("unix://{}", socket(folder).display()), "--group", "docker"])
        .args(["--iptables=false", &format!("--live-restore={live_restore}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("dockerd")
}
