//! OpenSSH's `sshd` on a port of loopback, with its own keys and configuration, for one test.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use tempfile::TempDir;

use crate::config::resolved::{ConnectorConfig, StaticHost, StaticHosts};
use crate::fleeting::access::Settings;
use crate::fleeting::connector::Instance;
use crate::fleeting::host_keys::HostKeys;
use crate::fleeting::static_hosts::StaticGroup;
use crate::ids::InstanceId;

const SSHD: &str = "/usr/sbin/sshd";

/// A running sshd; ends with the value.
#[derive(Debug)]
pub(super) struct Sshd {
    pub folder: TempDir,
    pub port: u16,
    pub username: String,
    pub settings: Settings,
    process: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // It may have ended in the test already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Sshd {
    /// Starts one with these lines added to its configuration, and waits until it listens.
    pub(super) fn start(options: &str) -> Self {
        Self::start_with("", options)
    }

    /// The same with these variables for the commands, `NAME=VALUE` with blanks between.
    pub(super) fn start_with(variables: &str, options: &str) -> Self {
        assert!(fs::exists(SSHD).unwrap(), "{SSHD} is missing: install openssh-server");
        let folder = tempfile::tempdir().unwrap();
        let public = write_key(&folder, "user_key");
        write_key(&folder, "host_key");
        fs::write(folder.path().join("authorized_keys"), public).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = folder.path().display();
        let mut config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host_key\nAuthorizedKeysFile {path}/authorized_keys\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        );
        // A shell that is not the first reads no start-up files, which are this account's and not the test's.
        writeln!(config, "SetEnv SHLVL=2 {variables}\n{options}").unwrap();
        let config_file = folder.path().join("sshd_config");
        fs::write(&config_file, config).unwrap();
        let process = spawn(&config_file, &folder);
        let settings =
            Settings { keepalive: Duration::from_secs(5), timeout: Duration::from_secs(20), use_external_addr: false };
        let sshd = Self { folder, port, username: username(), settings, process };
        sshd.wait_until_it_listens();
        sshd
    }

    fn wait_until_it_listens(&self) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        for _ in 0..500 {
            if TcpStream::connect(address).is_ok() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        panic!("sshd does not listen: {}", fs::read_to_string(self.folder.path().join("log")).unwrap());
    }

    /// The host as an operator would list it.
    pub(super) fn host(&self) -> StaticHost {
        StaticHost {
            external_addr: None,
            internal_addr: Some(format!("127.0.0.1:{}", self.port)),
            username: Some(self.username.clone()),
            password: None,
            key_path: Some(self.folder.path().join("user_key")),
            protocol: None,
            port: None,
            os: None,
            arch: None,
            timeout: None,
            host_key: None,
        }
    }

    /// A handle with the settings of `self` and these known keys.
    pub(super) fn instance_with(&self, host_keys: HostKeys) -> Instance {
        instance(self.host(), self.settings, host_keys)
    }

    /// A handle that knows nothing yet.
    pub(super) fn instance(&self) -> Instance {
        self.instance_with(HostKeys::default())
    }

    /// What it has logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Writes another key and returns its public half.
    pub(super) fn other_key(&self, name: &str) -> String {
        write_key(&self.folder, name)
    }
}

/// A handle of a host.
pub(super) fn instance(host: StaticHost, settings: Settings, host_keys: HostKeys) -> Instance {
    let hosts = StaticHosts { instances: [("host".to_owned(), host)].into() };
    let group = Arc::new(StaticGroup::new(&hosts, &ConnectorConfig::default()));
    Instance::new(InstanceId::new("host"), group, settings, host_keys)
}

fn write_key(folder: &TempDir, name: &str) -> String {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let path = folder.path().join(name);
    fs::write(&path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    key.public_key().to_openssh().unwrap()
}

fn spawn(config: &std::path::Path, folder: &TempDir) -> Child {
    // Where root has never run sshd, the folder that it locks itself into is missing.
    drop(fs::create_dir_all("/run/sshd"));
    let log = fs::File::create(folder.path().join("log")).unwrap();
    Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn username() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
