//! A connection for one job's Docker traffic, and the way to the engine's socket through it.
//!
//! The socket is forwarded by `direct-streamlocal`, which costs a fraction of a millisecond and counts towards no
//! limit. Where sshd does not do that, `docker system dial-stdio` runs for each stream, a few at once. The
//! way that works is kept for the connection only: an engine that was still starting refuses a forward too, and the
//! next job must not pay for it. sshd gives one and the same answer to a missing socket, a missing right
//! and a forbidden forward, so when nothing works the instance is asked what is the matter.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::channel::ByteStream;
use super::error::{ExecError, ForwardError};
use super::exec::{Command, Process, collect, quote, read_some};
use super::pool::SESSIONS_PER_CONNECTION;
use super::ssh::{Connection, Open, OpenError};
use crate::fleeting::access::{DockerEndpoint, Transport};

/// Where the engine listens unless the configuration says otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// An engine that does not answer a ping in this time is not ready.
const PING: Duration = Duration::from_secs(10);

/// How long a failing `docker system dial-stdio` gets to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The answer to a ping is a few hundred bytes.
const PING_ANSWER: u64 = 4096;

impl DockerEndpoint {
    fn target(&self) -> Result<Open, ForwardError> {
        let Some(host) = &self.host else { return Ok(Open::Unix(DEFAULT_SOCKET.to_owned())) };
        let unknown = || ForwardError::Host { host: host.clone() };
        if let Some(path) = host.strip_prefix("unix://") {
            return Ok(Open::Unix(path.to_owned()));
        }
        let address = host.strip_prefix("tcp://").ok_or_else(unknown)?;
        let (name, port) = address.trim_end_matches('/').rsplit_once(':').ok_or_else(unknown)?;
        Ok(Open::Tcp(name.trim_matches(['[', ']']).to_owned(), port.parse().map_err(|_| unknown())?))
    }

    fn shown(&self) -> String {
        self.host.clone().unwrap_or_else(|| DEFAULT_SOCKET.to_owned())
    }

    fn dial_stdio(&self) -> String {
        match &self.host {
            None => "docker system dial-stdio".to_owned(),
            Some(host) => format!("docker -H {} system dial-stdio", quote(host)),
        }
    }
}

/// The way that was found to work on an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    DialStdio,
}

/// The way that the last connection to an instance found: what it takes to find it again, and what is worth telling.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWay(Arc<Mutex<Option<Way>>>);

impl LastWay {
    fn get(&self) -> Option<Way> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is news.
    fn set(&self, way: Way) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(way) != Some(way)
    }
}

/// An SSH connection for one job's Docker traffic. Clones share it; it ends when the last is dropped.
#[derive(Clone, Debug)]
pub struct DockerConnection {
    connection: Arc<Connection>,
    endpoint: Arc<DockerEndpoint>,
    /// Of this connection.
    way: Arc<OnceLock<Way>>,
    last: LastWay,
    stdio: Arc<Semaphore>,
}

impl DockerConnection {
    pub(super) fn new(connection: Arc<Connection>, endpoint: DockerEndpoint, last: LastWay) -> Self {
        let stdio = Arc::new(Semaphore::new(SESSIONS_PER_CONNECTION));
        Self { connection, endpoint: Arc::new(endpoint), way: Arc::default(), last, stdio }
    }

    /// A stream to the engine.
    ///
    /// # Errors
    /// [`ForwardError::Lost`] where the connection has gone: dial a new one. [`ForwardError::NoWay`] where the
    /// engine cannot be reached, with what the instance says about it.
    pub async fn open(&self) -> Result<ByteStream, ForwardError> {
        match (self.endpoint.transport, self.way.get()) {
            (Transport::Forward, _) | (Transport::Auto, Some(Way::Forward)) => match self.forward().await? {
                Ok(stream) => Ok(stream),
                Err(()) => self.no_way(None).await,
            },
            (Transport::DialStdio, _) | (Transport::Auto, Some(Way::DialStdio)) => self.dial_stdio().await,
            (Transport::Auto, None) => self.find_way().await,
        }
    }

    /// A stream to any unix socket of the instance.
    ///
    /// # Errors
    /// As [`DockerConnection::open`].
    pub async fn forward_unix(&self, path: &str) -> Result<ByteStream, ForwardError> {
        match self.connection.open(Open::Unix(path.to_owned()), ()).await {
            Ok(stream) => Ok(stream),
            Err((OpenError::Lost { reason }, _)) => Err(ForwardError::Lost { reason }),
            Err((OpenError::Refused, _)) => {
                Err(ForwardError::NoWay { path: path.to_owned(), diagnosis: self.diagnosis(path, None).await })
            }
        }
    }

    /// Asks the engine whether it is well.
    ///
    /// # Errors
    /// As [`DockerConnection::open`]; the inner result is the engine's answer where it was not "OK".
    pub async fn ping(&self) -> Result<Result<(), String>, ForwardError> {
        let mut stream = self.open().await?;
        Ok(ping(&mut stream).await)
    }

    /// Whether the connection has ended.
    pub fn is_lost(&self) -> bool {
        self.connection.is_lost()
    }

    /// Resolves with the reason when the connection has ended.
    pub async fn lost(&self) -> String {
        self.connection.lost().await
    }

    async fn forward(&self) -> Result<Result<ByteStream, ()>, ForwardError> {
        match self.connection.open(self.endpoint.target()?, ()).await {
            Ok(stream) => Ok(Ok(stream)),
            Err((OpenError::Refused, _)) => Ok(Err(())),
            Err((OpenError::Lost { reason }, _)) => Err(ForwardError::Lost { reason }),
        }
    }

    async fn dial_stdio(&self) -> Result<ByteStream, ForwardError> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.stdio).acquire_owned().await.ok();
        match self.connection.open(Open::Exec(self.endpoint.dial_stdio()), permit).await {
            Ok(stream) => Ok(stream),
            Err((OpenError::Lost { reason }, _)) => Err(ForwardError::Lost { reason }),
            Err((OpenError::Refused, _)) => self.no_way(Some("sshd refused a session".to_owned())).await,
        }
    }

    async fn find_way(&self) -> Result<ByteStream, ForwardError> {
        if let Ok(stream) = self.forward().await? {
            self.found(Way::Forward);
            return Ok(stream);
        }
        let mut stream = self.dial_stdio().await?;
        if self.last.get() == Some(Way::DialStdio) {
            self.found(Way::DialStdio);
            return Ok(stream);
        }
        match ping(&mut stream).await {
            Ok(()) => {
                self.found(Way::DialStdio);
                self.dial_stdio().await
            }
            Err(answer) => {
                // What it said is complete when it has ended, which a command that failed does by itself.
                drop(timeout(LAST_WORDS, stream.exit()).await);
                let said = stream.stderr_tail();
                self.no_way(Some(if said.trim().is_empty() { answer } else { said.trim().to_owned() })).await
            }
        }
    }

    fn found(&self, way: Way) {
        // Another stream of the connection may have found one at the same time.
        let way = *self.way.get_or_init(|| way);
        if self.last.set(way) && way == Way::DialStdio {
            tracing::info!(
                socket = self.endpoint.shown(),
                "the instance's sshd does not forward the Docker socket, using docker system dial-stdio"
            );
        }
    }

    async fn no_way(&self, stdio: Option<String>) -> Result<ByteStream, ForwardError> {
        let path = match self.endpoint.target()? {
            Open::Unix(path) => path,
            Open::Tcp(..) | Open::Exec(_) => {
                let diagnosis = "nothing listens there, or sshd does not forward TCP (AllowTcpForwarding)".to_owned();
                return Err(ForwardError::NoWay { path: self.endpoint.shown(), diagnosis });
            }
        };
        let diagnosis = self.diagnosis(&path, stdio).await;
        Err(ForwardError::NoWay { path, diagnosis })
    }

    /// What the instance says about the socket, in words for an operator.
    async fn diagnosis(&self, path: &str, stdio: Option<String>) -> String {
        let probe = Command::new(probe_line(path)).timeout(PING);
        let facts = match self.connection.open(Open::Exec(probe.line.clone()), ()).await {
            Ok(stream) => collect(Process::new(stream), &probe).await.and_then(super::exec::Output::into_stdout),
            Err((error, _)) => Err(ExecError::from(error)),
        };
        match facts {
            Ok(facts) => explain(&String::from_utf8_lossy(&facts), stdio.as_deref()),
            Err(error) => format!("and the instance cannot be asked why: {error}"),
        }
    }
}

/// Prints what the socket is (`missing`, `file`, `denied` or `usable`), the user, and the socket's group.
fn probe_line(path: &str) -> String {
    let path = quote(path);
    format!(
        "p={path}; if test ! -e \"$p\"; then echo missing; elif test ! -S \"$p\"; then echo file; \
         elif test ! -w \"$p\"; then echo denied; else echo usable; fi; id -un; \
         ls -ldL \"$p\" 2>/dev/null | awk '{{print $4}}'"
    )
}

fn explain(facts: &str, stdio: Option<&str>) -> String {
    let mut lines = facts.lines();
    let (what, user) = (lines.next().unwrap_or_default(), lines.next().unwrap_or("the user"));
    let group = lines.next().filter(|group| !group.is_empty()).unwrap_or("docker");
    match what {
        "missing" => "it does not exist; is the Docker Engine installed and running?".to_owned(),
        "file" => "it is not a socket".to_owned(),
        "denied" => format!("{user} may not use it; add {user} to the group {group} on the instance"),
        _ => {
            let forward = "sshd does not forward to it (AllowStreamLocalForwarding and AllowTcpForwarding must allow it), or nothing listens on it";
            match stdio {
                Some(said) => format!("{forward}; docker system dial-stdio does not work either: {said}"),
                None => forward.to_owned(),
            }
        }
    }
}

/// One `/_ping` on a fresh stream; the stream is used up.
pub(super) async fn ping(stream: &mut ByteStream) -> Result<(), String> {
    let exchange = async {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").await?;
        read_some(stream, PING_ANSWER).await
    };
    let answer = match timeout(PING, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("nothing within {} s", PING.as_secs())),
    };
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.starts_with("HTTP/1.") && status.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(status.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_sockets_or_tcp_addresses() {
        let target = |host: &str| DockerEndpoint { host: Some(host.to_owned()), ..DockerEndpoint::default() }.target();
        assert!(matches!(DockerEndpoint::default().target(), Ok(Open::Unix(path)) if path == DEFAULT_SOCKET));
        assert!(matches!(target("unix:///run/d.sock"), Ok(Open::Unix(path)) if path == "/run/d.sock"));
        assert!(matches!(target("tcp://127.0.0.1:2375"), Ok(Open::Tcp(host, 2375)) if host == "127.0.0.1"));
        assert!(matches!(target("tcp://[::1]:2375/"), Ok(Open::Tcp(host, 2375)) if host == "::1"));
        for wrong in ["npipe:////./pipe/docker_engine", "tcp://docker", "ssh://host", "tcp://host:x"] {
            assert!(matches!(target(wrong), Err(ForwardError::Host { host }) if host == wrong));
        }
    }

    #[test]
    fn the_diagnosis_names_what_to_change() {
        assert!(explain("missing\nci\n", None).contains("installed and running"));
        assert_eq!(
            explain("denied\nci\ndocker-users\n", Some("permission denied")),
            "ci may not use it; add ci to the group docker-users on the instance"
        );
        let explained = explain("usable\nci\ndocker\n", Some("sh: docker: not found"));
        assert!(explained.contains("AllowStreamLocalForwarding") && explained.ends_with("sh: docker: not found"));
    }

    #[test]
    fn an_explicit_feature_flag_decides_the_transport() {
        assert_eq!(Transport::from_flag(None), Transport::Auto);
        assert_eq!(Transport::from_flag(Some(true)), Transport::DialStdio);
        assert_eq!(Transport::from_flag(Some(false)), Transport::Forward);
    }
}
