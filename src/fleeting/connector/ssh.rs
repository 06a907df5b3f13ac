//! One SSH connection: connect, check the host key, log in, open channels.
//!
//! [`Connection::connect`] is one attempt; who dials again and when is [`super::dialer`]'s. A connection notices
//! the loss of its peer by keepalive; its channels then end with [`ExecError::Lost`].

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use russh::client::{self, AuthResult, DisconnectReason, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{Algorithm, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{MethodKind, MethodSet, Preferred, cipher};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::channel::{self, ByteStream, ClosedBy, EVENTS, Writer};
use super::error::{DialError, ExecError};
use super::wire::{HANDSHAKE_LIMIT, HandshakeLimit, Wire};
use crate::excerpt::excerpt;
use crate::fleeting::group::{ConnectInfo, KeyMaterial};
use crate::fleeting::host_keys::{HostKey, HostKeys, Verdict};
use crate::ids::InstanceId;

/// One attempt: TCP, key exchange and login.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A connection that is not there in this time is tried anew: the kernel repeats its request at ever longer waits, in
/// which an instance that has come back would not be noticed.
const CONNECT: Duration = Duration::from_secs(2);

/// A server that lives but never answers a request for a channel is given up.
const OPEN: Duration = Duration::from_secs(30);

/// So many keepalive intervals of silence make a connection dead (issue: losing an instance). With the time
/// to reconnect that is 25 s, so that a job on a lost instance has failed within 30 s.
pub(super) const KEEPALIVE_MISSES: u32 = 2;

/// Rounds of questions in a keyboard-interactive login; a server that asks on and on is refused.
const QUESTION_ROUNDS: usize = 5;

/// AES-GCM first: it runs in hardware. The rest is for servers that do not have it.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// Why and that a connection has ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    token: CancellationToken,
    reason: OnceLock<String>,
}

impl Ended {
    pub(super) fn is_set(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(super) fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_else(|| "closed".to_owned())
    }
}

/// What a channel is to be.
#[derive(Clone, Debug)]
pub(super) enum Open {
    Exec(String),
    Unix(String),
    Tcp(String, u16),
}

/// Why a channel did not open.
#[derive(Debug)]
pub(super) enum OpenError {
    /// By the server; the connection is fine.
    Refused,
    /// The connection is not.
    Lost { reason: String },
}

/// A connection that is logged in. It ends when the last of its users drops it.
pub(super) struct Connection {
    handle: Handle<Handler>,
    address: String,
    ended: Arc<Ended>,
    abort: CancellationToken,
    channels: TaskTracker,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).field("ended", &self.ended.is_set()).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.abort.cancel();
    }
}

impl Connection {
    /// One attempt to connect and log in. Cancelling `gone` ends the connection, whoever uses it.
    pub(super) async fn connect(
        info: &ConnectInfo,
        address: &str,
        keepalive: Duration,
        host_keys: &HostKeys,
        gone: &CancellationToken,
    ) -> Result<Arc<Self>, DialError> {
        let abort = gone.child_token();
        let guard = abort.clone().drop_guard();
        let attempt = Self::attempt(info, address, keepalive, host_keys, abort);
        let connection = timeout(ATTEMPT, attempt)
            .await
            .unwrap_or_else(|_| Err(DialError::TimedOut { address: address.to_owned(), after: ATTEMPT }))?;
        guard.disarm();
        Ok(Arc::new(connection))
    }

    async fn attempt(
        info: &ConnectInfo,
        address: &str,
        keepalive: Duration,
        host_keys: &HostKeys,
        abort: CancellationToken,
    ) -> Result<Self, DialError> {
        let tcp = timeout(CONNECT, tcp_connect(address, info.port)).await;
        let tcp = tcp.map_err(|_| DialError::TimedOut { address: address.to_owned(), after: CONNECT })?;
        let tcp = tcp.map_err(|error| connect_error(address, error))?;
        // A peer that takes no bytes is given up like one that answers no keepalive.
        let stall = keepalive * KEEPALIVE_MISSES;
        let mut wire = Wire::new(tcp, stall, abort.clone()).map_err(|error| connect_error(address, error))?;
        let limit = wire.limit_handshake();
        let ended = Arc::new(Ended::default());
        let refused = Arc::new(Mutex::new(None));
        let handler = Handler {
            id: info.id.clone(),
            pinned: info.host_key.as_deref().map(HostKey::new),
            address: address.to_owned(),
            host_keys: host_keys.clone(),
            refused: Arc::clone(&refused),
            ended: Arc::clone(&ended),
            _end: ended.token.clone().drop_guard(),
        };
        let config = config(keepalive, handler.expected().as_ref());
        let handle = client::connect_stream(Arc::new(config), wire, handler).await.map_err(|error| {
            let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            refused.or_else(|| flood(address, &limit)).unwrap_or_else(|| handshake_error(address, error))
        })?;
        let mut connection = Self { handle, address: address.to_owned(), ended, abort, channels: TaskTracker::new() };
        connection.log_in(info).await.map_err(|error| flood(address, &limit).unwrap_or(error))?;
        limit.lift();
        Ok(connection)
    }

    async fn log_in(&mut self, info: &ConnectInfo) -> Result<(), DialError> {
        let mut tried = Vec::new();
        let failed = |error| handshake_error(&self.address, error);
        let mut offered = None;
        if let Some(key) = &info.key {
            tried.push("key");
            match log_in_by_key(&mut self.handle, &info.username, key).await.map_err(failed)? {
                AuthResult::Success => return Ok(()),
                AuthResult::Failure { remaining_methods, .. } => offered = Some(remaining_methods),
            }
        }
        if let Some(password) = &info.password {
            if accepts(offered.as_ref(), MethodKind::Password) {
                tried.push("password");
                let answer = self.handle.authenticate_password(&info.username, password.expose()).await;
                match answer.map_err(failed)? {
                    AuthResult::Success => return Ok(()),
                    AuthResult::Failure { remaining_methods, .. } => offered = Some(remaining_methods),
                }
            }
            if accepts(offered.as_ref(), MethodKind::KeyboardInteractive) {
                tried.push("keyboard-interactive");
                if answer_questions(&mut self.handle, info).await.map_err(failed)? {
                    return Ok(());
                }
            }
        }
        if info.key.is_none() && info.password.is_none() {
            tried.push("none");
            if self.handle.authenticate_none(&info.username).await.map_err(failed)?.success() {
                return Ok(());
            }
        }
        if self.ended.is_set() && offered.as_ref().is_none_or(|methods| methods.is_empty()) {
            return Err(DialError::Closed { address: self.address.clone(), source: None });
        }
        Err(DialError::LoginRefused {
            address: self.address.clone(),
            username: info.username.clone(),
            tried: tried.join(", "),
        })
    }

    pub(super) fn is_lost(&self) -> bool {
        self.ended.is_set()
    }

    /// Resolves when the connection has ended.
    pub(super) async fn lost(&self) -> String {
        self.ended.token.cancelled().await;
        self.ended.reason()
    }

    /// One round trip to the server.
    pub(super) async fn ping(&self, patience: Duration) -> Result<(), ExecError> {
        let answered = timeout(patience, self.handle.send_ping()).await;
        // The wait also ends, without an answer, with the connection.
        if matches!(answered, Ok(Ok(()))) && !self.is_lost() {
            return Ok(());
        }
        self.abort();
        Err(ExecError::Lost {
            reason: self.ended.reason.get().cloned().unwrap_or_else(|| "no answer to a ping".to_owned()),
        })
    }

    /// Ends the connection and all its channels at once.
    pub(super) fn abort(&self) {
        self.abort.cancel();
    }

    /// Opens a channel. `held` is dropped when the server has closed it, or the connection has ended; it comes back
    /// with a refusal.
    pub(super) async fn open<H: Send + 'static>(
        self: &Arc<Self>,
        open: Open,
        held: H,
    ) -> Result<ByteStream, (OpenError, Option<H>)> {
        let (opened, opening) = oneshot::channel();
        let connection = Arc::clone(self);
        // A task of its own: a caller that goes away must not leave a half-opened channel behind.
        self.channels.spawn(async move {
            let answer = timeout(OPEN, connection.request(open)).await.unwrap_or_else(|_| {
                connection.abort();
                Err(OpenError::Lost { reason: "no answer to the request for a channel".to_owned() })
            });
            let (read, write) = match answer {
                Ok(channel) => channel.split(),
                Err(error) => {
                    drop(opened.send(Err((error, Some(held)))));
                    return;
                }
            };
            let (events, inbound) = mpsc::channel(EVENTS);
            let closed = CancellationToken::new();
            let writer = Writer::new(write.make_writer(), closed.clone());
            // Where the caller has gone, `drive` finds nobody to read for and closes the channel.
            drop(opened.send(Ok(ByteStream::new(inbound, writer))));
            let ended = Arc::clone(&connection.ended);
            if channel::drive(read, write, events, ended, closed).await == ClosedBy::Us {
                // The server has dealt with the end of the channel before it answers this.
                drop(timeout(OPEN, connection.handle.send_ping()).await);
            }
            drop(held);
        });
        opening.await.unwrap_or_else(|_| Err((OpenError::Lost { reason: self.ended.reason() }, None)))
    }

    async fn request(&self, open: Open) -> Result<russh::Channel<client::Msg>, OpenError> {
        let channel = match &open {
            Open::Exec(_) => self.handle.channel_open_session().await,
            Open::Unix(path) => self.handle.channel_open_direct_streamlocal(path).await,
            Open::Tcp(host, port) => {
                self.handle.channel_open_direct_tcpip(host, u32::from(*port), "127.0.0.1", 0_u32).await
            }
        };
        let channel = channel.map_err(|error| self.open_error(error))?;
        if let Open::Exec(command) = open {
            // Its refusal arrives as a message of the channel.
            channel.exec(true, command).await.map_err(|error| self.open_error(error))?;
        }
        Ok(channel)
    }

    fn open_error(&self, error: russh::Error) -> OpenError {
        if let russh::Error::ChannelOpenFailure(_) = error {
            return OpenError::Refused;
        }
        OpenError::Lost { reason: self.ended.reason.get().cloned().unwrap_or_else(|| error.to_string()) }
    }
}

impl From<OpenError> for ExecError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused => Self::Refused,
            OpenError::Lost { reason } => Self::Lost { reason },
        }
    }
}

fn flood(address: &str, limit: &HandshakeLimit) -> Option<DialError> {
    limit.is_exceeded().then(|| DialError::Flood { address: address.to_owned(), limit: HANDSHAKE_LIMIT })
}

/// A server with several keys presents one of the expected kind, where it has one.
fn host_key_kinds(expected: Option<&HostKey>) -> Vec<Algorithm> {
    let mut kinds = Preferred::DEFAULT.key.to_vec();
    let is_expected = |kind: &Algorithm| {
        let name = if matches!(kind, Algorithm::Rsa { .. }) { "ssh-rsa" } else { kind.as_str() };
        expected.is_some_and(|key| key.kind() == name)
    };
    kinds.sort_by_key(|kind| !is_expected(kind));
    kinds
}

fn config(keepalive: Duration, expected: Option<&HostKey>) -> client::Config {
    let (cipher, key) = (Cow::Borrowed(CIPHERS), Cow::Owned(host_key_kinds(expected)));
    client::Config {
        preferred: Preferred { cipher, key, ..Preferred::DEFAULT },
        keepalive_interval: Some(keepalive),
        // russh counts the question that it has just sent as unanswered too.
        keepalive_max: (KEEPALIVE_MISSES - 1) as usize,
        // Packets between the connection and a channel's task, which takes them at once.
        channel_buffer_size: 16,
        nodelay: true,
        ..client::Config::default()
    }
}

async fn tcp_connect(address: &str, default_port: u16) -> io::Result<TcpStream> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return TcpStream::connect(SocketAddr::new(ip, default_port)).await;
    }
    if has_port(address) {
        TcpStream::connect(address).await
    } else {
        TcpStream::connect((address, default_port)).await
    }
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'))
    })
}

fn connect_error(address: &str, error: io::Error) -> DialError {
    let address = address.to_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused { address },
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            DialError::Closed { address, source: Some(Arc::new(russh::Error::IO(error))) }
        }
        _ if is_local(&error) => DialError::Local { source: Arc::new(error) },
        _ => DialError::Unreachable { address, source: Arc::new(error) },
    }
}

/// Whether this machine is short of something, and the instance may be well.
fn is_local(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| short.iter().any(|errno| errno.raw_os_error() == code))
}

fn handshake_error(address: &str, error: russh::Error) -> DialError {
    let address = address.to_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "russh::Error is open")]
    match error {
        russh::Error::NoCommonAlgo { .. }
        | russh::Error::UnknownAlgo
        | russh::Error::Version
        | russh::Error::WrongServerSig
        | russh::Error::StrictKeyExchangeViolation { .. } => DialError::Handshake { address, source: Arc::new(error) },
        _ => DialError::Closed { address, source: Some(Arc::new(error)) },
    }
}

async fn log_in_by_key(
    handle: &mut Handle<Handler>,
    username: &str,
    key: &KeyMaterial,
) -> Result<AuthResult, russh::Error> {
    let private = key.private_key();
    let hash = if private.algorithm().is_rsa() {
        // A server that does not say what it takes is new enough for SHA-256.
        handle.best_supported_rsa_hash().await?.unwrap_or(Some(russh::keys::HashAlg::Sha256))
    } else {
        None
    };
    handle.authenticate_publickey(username, PrivateKeyWithHashAlg::new(Arc::clone(private), hash)).await
}

/// Answers each question of a keyboard-interactive login with the password.
async fn answer_questions(handle: &mut Handle<Handler>, info: &ConnectInfo) -> Result<bool, russh::Error> {
    let mut reply = handle.authenticate_keyboard_interactive_start(&info.username, None).await?;
    for _ in 0..QUESTION_ROUNDS {
        let prompts = match reply {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
        };
        let password = info.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
        reply = handle.authenticate_keyboard_interactive_respond(vec![password; prompts.len()]).await?;
    }
    Ok(matches!(reply, KeyboardInteractiveAuthResponse::Success))
}

/// Whether a method is worth trying: the server offers it, or has not said what it offers.
fn accepts(offered: Option<&MethodSet>, method: MethodKind) -> bool {
    offered.is_none_or(|methods| methods.contains(&method))
}

struct Handler {
    id: InstanceId,
    /// What the provider says the key is.
    pinned: Option<HostKey>,
    address: String,
    host_keys: HostKeys,
    refused: Arc<Mutex<Option<DialError>>>,
    ended: Arc<Ended>,
    /// The handler lives as long as the connection.
    _end: DropGuard,
}

impl Handler {
    /// The key that the instance must present; `None` at the first contact.
    fn expected(&self) -> Option<HostKey> {
        self.pinned.clone().or_else(|| self.host_keys.get(&self.id))
    }

    /// Why this key ends the connection.
    fn refuse(&self, found: &HostKey) -> Option<DialError> {
        let (id, address, shown) = (self.id.clone(), self.address.clone(), found.fingerprint());
        match &self.pinned {
            Some(pinned) if pinned == found => {
                self.host_keys.trust(&self.id, found);
                None
            }
            Some(pinned) => {
                let expected = pinned.fingerprint();
                Some(DialError::HostKeyUnexpected { id, address, expected, found: shown })
            }
            None => match self.host_keys.check(&self.id, found) {
                Verdict::Known | Verdict::Recorded => None,
                Verdict::Changed { expected } => {
                    let expected = expected.fingerprint();
                    Some(DialError::HostKeyChanged { id, address, expected, found: shown })
                }
            },
        }
    }
}

impl client::Handler for Handler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let found = HostKey::new(&presented.public_key().to_openssh()?);
        let refused = self.refuse(&found);
        let is_accepted = refused.is_none();
        if refused.is_some() {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        }
        Ok(is_accepted)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let reason = match reason {
            DisconnectReason::ReceivedDisconnect(info) => excerpt(format!("closed by the instance: {}", info.message)),
            DisconnectReason::Error(russh::Error::KeepaliveTimeout) => "no answer to keepalives".to_owned(),
            DisconnectReason::Error(error) => error.to_string(),
        };
        // The first reason is the one.
        self.ended.reason.get_or_init(|| reason);
        Ok(())
    }
}
