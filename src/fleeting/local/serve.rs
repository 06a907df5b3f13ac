//! The process that is a local instance: an SSH server on loopback until it is told to end.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server;
use rustix::process::{getpid, getuid, setsid};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inside;
use super::process::ProcessIdentity;
use super::record::{Folder, Record};
use super::session::{Environment, Session};
use crate::fleeting::connector::wire::Wire;
use crate::ids::InstanceId;

/// Between looks whether the folder is still there and wanted.
const LOOK: Duration = Duration::from_secs(2);

/// What processes inside get to end by themselves.
const GRACE: Duration = Duration::from_secs(1);

/// A manager that is silent for this long and answers no question is gone.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A peer on loopback that takes no bytes is stopped; nobody waits for it.
const STALL: Duration = Duration::from_secs(120);

/// The command line of an instance.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ServeArgs {
    /// Folder of this instance.
    #[arg(long)]
    pub state: PathBuf,
    /// Name of this instance.
    #[arg(long)]
    pub id: String,
    /// Public key that may log in.
    #[arg(long)]
    pub authorized_key: String,
    /// How long to wait before listening, to stand for a boot.
    #[arg(long, default_value_t = 0)]
    pub boot_time_ms: u64,
    /// The only socket that is forwarded.
    #[arg(long)]
    pub docker_socket: Option<PathBuf>,
}

/// Why an instance could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the folder of the instance")]
    Folder(#[source] io::Error),
    #[error("a key of the instance")]
    Key(#[from] russh::keys::ssh_key::Error),
    #[error("listening on loopback")]
    Listen(#[source] io::Error),
    #[error("waiting for signals")]
    Signals(#[source] io::Error),
}

/// Is an instance until SIGTERM, or until its folder is gone; then ends what runs inside and removes the folder.
///
/// # Errors
/// Where it could not begin.
pub async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    // Out of the manager's session, so that its terminal and its end do not reach us.
    if setsid().is_err() {
        tracing::debug!("this process leads a session already");
    }
    let mut ending = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let folder = Folder::new(args.state.clone());
    tokio::select! {
        served = listen(&args, &folder) => served?,
        _ = ending.recv() => {}
        () = unwanted(&folder) => {}
    }
    inside::end_all(folder.path(), GRACE).await;
    folder.remove().map_err(ServeError::Folder)
}

/// Resolves when the folder is marked or gone. The first look is late enough for the record to be there.
async fn unwanted(folder: &Folder) {
    loop {
        sleep(LOOK).await;
        if !folder.is_wanted() {
            return;
        }
    }
}

async fn listen(args: &ServeArgs, folder: &Folder) -> Result<(), ServeError> {
    let host_key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?;
    let user = User::current();
    let mut record = Record {
        id: InstanceId::new(args.id.as_str()),
        process: ProcessIdentity::of(getpid().as_raw_nonzero().get()).map_err(ServeError::Folder)?,
        username: user.name.clone(),
        address: None,
        host_key: host_key.public_key().to_openssh()?,
    };
    folder.write_record(&record).map_err(ServeError::Folder)?;
    sleep(Duration::from_millis(args.boot_time_ms)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(ServeError::Listen)?;
    record.address = Some(listener.local_addr().map_err(ServeError::Listen)?.to_string());
    folder.write_record(&record).map_err(ServeError::Folder)?;

    let environment = Arc::new(Environment {
        authorized_key: PublicKey::from_openssh(&args.authorized_key)?,
        folder: args.state.clone(),
        home: folder.home(),
        username: user.name,
        shell: user.shell,
        docker_socket: args.docker_socket.clone(),
    });
    let config = Arc::new(config(host_key));
    let connections = TaskTracker::new();
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => drop(connections.spawn(connection(Arc::clone(&config), tcp, Arc::clone(&environment)))),
            // Out of descriptors, or a peer that left: others may be served yet.
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn config(host_key: PrivateKey) -> server::Config {
    server::Config {
        methods: (&[russh::MethodKind::PublicKey][..]).into(),
        auth_rejection_time: Duration::from_millis(100),
        keys: vec![host_key],
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        channel_buffer_size: 16,
        nodelay: true,
        ..server::Config::default()
    }
}

async fn connection(config: Arc<server::Config>, tcp: TcpStream, environment: Arc<Environment>) {
    let served = async {
        let wire = Wire::new(tcp, STALL, CancellationToken::new())?;
        server::run_stream(config, wire, Session::new(environment)).await?.await
    };
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended");
    }
}

/// The account that this process runs as.
struct User {
    name: String,
    shell: String,
}

impl User {
    /// From `/etc/passwd`; an account that is not there, or may not log in, gets a plain shell.
    fn current() -> Self {
        let uid = getuid().as_raw();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find(&passwd, uid).unwrap_or_else(|| Self { name: uid.to_string(), shell: "/bin/sh".to_owned() })
    }

    fn find(passwd: &str, uid: u32) -> Option<Self> {
        let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = entry.into_iter().find(|fields| fields.get(2).is_some_and(|field| *field == uid.to_string()))?;
        let shell = entry.get(6).copied().filter(|shell| is_shell(shell)).unwrap_or("/bin/sh");
        Some(Self { name: (*entry.first()?).to_owned(), shell: shell.to_owned() })
    }
}

fn is_shell(path: &str) -> bool {
    let usable = fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
    usable && !path.ends_with("/nologin") && !path.ends_with("/false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_the_accounts_own_unless_it_cannot_be_used() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nci:x:7:7::/home/ci:/usr/sbin/nologin\nold:x:8:8::/:/no/such/shell\n";
        for (uid, name) in [(0, "root"), (7, "ci"), (8, "old")] {
            let user = User::find(passwd, uid).unwrap();
            assert_eq!((user.name.as_str(), user.shell.as_str()), (name, "/bin/sh"));
        }
        assert!(User::find(passwd, 9).is_none());
    }
}
