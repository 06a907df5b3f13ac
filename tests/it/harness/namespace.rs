//! An instance that is no fake: OpenSSH's sshd in network, process and mount namespaces of its own, on
//! a link of its own, with this machine's Docker Engine behind it. Killing it takes every process in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{eventually, run};

/// The account that jobs get on the instance: an empty home, member of the group docker.
pub(crate) const USER: &str = "flotilla-ci";

/// This machine as instances see it: where the servers of a test listen that jobs speak to.
pub(crate) const HOST: &str = "10.231.255.1";
/// All instances are in here. What is for none of them leaves this machine by no route.
const NETWORK: &str = "10.231.0.0/16";
/// Links of four addresses each, below the host's.
const LINKS: u32 = 255 * 64;

static NEXT_LINK: AtomicU32 = AtomicU32::new(0);

/// A running instance. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Where sshd listens, port 22.
    pub(crate) address: String,
    pub(crate) key: PathBuf,
    link: Link,
    folder: tempfile::TempDir,
    process: Child,
}

impl Namespace {
    /// Boots an instance whose sshd has Debian's defaults and what `sshd_config` adds.
    pub(crate) fn boot(sshd_config: &str) -> Self {
        make_user();
        make_network();
        let folder =
            tempfile::Builder::new().prefix("flotilla-instance-").tempdir().expect("a folder for the instance");
        let path = folder.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("sshd reads the keys as the user");
        for key in ["host", "id"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &text(&path.join(key))]);
        }
        let config = format!(
            "Port 22\nHostKey {0}/host\nAuthorizedKeysFile {0}/id.pub\nStrictModes no\nUsePAM no\nPidFile none\n{sshd_config}\n",
            path.display()
        );
        fs::write(path.join("sshd_config"), config).expect("sshd's configuration");
        let process = start(path);
        let link = Link::next();
        let instance = Self { address: link.address(2), key: path.join("id"), link, folder, process };
        instance.connect_link();
        instance.wait_for_sshd();
        instance
    }

    fn connect_link(&self) {
        let pid = self.process.id().to_string();
        eventually("the namespace is made", || {
            let own = fs::read_link("/proc/self/ns/net").ok();
            let its = fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            its.is_some() && own != its
        });
        let Link { name, .. } = &self.link;
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        self.link.take_up();
        for inside in [
            vec!["ip", "addr", "add", &format!("{}/30", self.address), "dev", "eth0"],
            vec!["ip", "link", "set", "eth0", "up"],
            vec!["ip", "route", "add", "default", "via", &self.link.address(1)],
        ] {
            let mut arguments = vec!["-t", &pid, "-n"];
            arguments.extend(inside);
            run("nsenter", &arguments);
        }
    }

    fn wait_for_sshd(&self) {
        let address = format!("{}:22", self.address).parse().expect("an address");
        eventually("sshd answers", || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        });
    }

    /// Ends the instance as a cloud does: no warning, nothing left of it, and no answer to what is sent to it.
    pub(crate) fn kill(&mut self) {
        self.end();
        self.link.make_dead();
    }

    fn end(&mut self) {
        // Already gone is as good.
        self.process.kill().ok();
        self.process.wait().ok();
        self.link.remove();
    }

    /// Ends every SSH connection that stands, and nothing else: jobs on the instance go on.
    pub(crate) fn drop_connections(&self) {
        for child in children(self.inside_pid()) {
            Command::new("kill").args(["-9", &child.to_string()]).status().ok();
        }
    }

    /// Cuts the network or mends it, without a word to either side.
    pub(crate) fn set_link(&self, up: bool) {
        run("ip", &["link", "set", &self.link.name, if up { "up" } else { "down" }]);
    }

    /// The command lines of all processes on the instance but sshd's.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect_processes(self.inside_pid(), &mut found);
        found
    }

    /// The process that is number 1 inside: sshd's listener.
    fn inside_pid(&self) -> u32 {
        *children(self.process.id()).first().expect("the instance runs")
    }

    /// sshd's log, for a failing test.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::tell("sshd's log", &self.log());
        }
        self.end();
    }
}

/// The network between this machine and one instance.
#[derive(Debug)]
struct Link {
    name: String,
    number: u32,
}

impl Link {
    fn next() -> Self {
        // The process id keeps test processes that run at once apart.
        let number = (std::process::id() * 61 + NEXT_LINK.fetch_add(1, Ordering::Relaxed)) % LINKS;
        Self { name: format!("flotilla{number}"), number }
    }

    fn address(&self, host: u32) -> String {
        format!("10.231.{}.{}", self.number / 64, self.number % 64 * 4 + host)
    }

    fn take_up(&self) {
        run("ip", &["addr", "add", &format!("{}/30", self.address(1)), "dev", &self.name]);
        run("ip", &["link", "set", &self.name, "up"]);
    }

    /// Whatever is sent on it vanishes: its other end is nobody's.
    fn make_dead(&self) {
        let other = format!("{}x", self.name);
        run("ip", &["link", "add", &self.name, "type", "veth", "peer", "name", &other]);
        run("ip", &["link", "set", &other, "arp", "off", "up"]);
        run("ip", &["link", "set", &self.name, "arp", "off"]);
        self.take_up();
    }

    fn remove(&self) {
        // The namespace takes its end of the link along, at a time of its own.
        Command::new("ip").args(["link", "del", &self.name]).stderr(Stdio::null()).status().ok();
        let there = Path::new("/sys/class/net").join(&self.name);
        super::within(Duration::from_secs(5), || !there.exists());
    }
}

fn start(folder: &Path) -> Child {
    fs::create_dir_all("/run/sshd").expect("sshd's folder");
    let log = fs::File::create(folder.join("log")).expect("sshd's log");
    run("install", &["--directory", "--owner", USER, &text(&folder.join("home"))]);
    // Instances share this machine's files, but not the account's home.
    let command = format!(
        "ip link set lo up && mount --bind {0}/home ~{USER} && exec /usr/sbin/sshd -D -e -f {0}/sshd_config",
        folder.display()
    );
    Command::new("unshare")
        .args(["--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "sh", "-c", &command])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("sshd's log"))
        .stderr(log)
        .spawn()
        .expect("util-linux's unshare")
}

fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn collect_processes(pid: u32, found: &mut Vec<String>) {
    for child in children(pid) {
        let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let line = super::text(&line).replace('\0', " ").trim_end().to_owned();
        if !line.is_empty() && !line.starts_with("sshd") {
            found.push(line);
        }
        collect_processes(child, found);
    }
}

fn make_user() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let known = Command::new("id").arg(USER).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            run("useradd", &["--create-home", "--skel", "/var/empty", "--password", "*", "--shell", "/bin/bash", USER]);
        }
        run("usermod", &["--append", "--groups", "docker", USER]);
    });
}

/// Makes the host's address, and the end of all that is sent to an instance that is no more.
pub(crate) fn make_network() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        run("ip", &["route", "replace", "unreachable", NETWORK]);
        run("ip", &["addr", "replace", &format!("{HOST}/32"), "dev", "lo"]);
    });
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
