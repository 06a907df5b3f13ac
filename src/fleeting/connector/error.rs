//! Why an instance could not be reached, a command not run, or a socket not forwarded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::fleeting::group::{GroupError, KeyError};
use crate::ids::InstanceId;

/// Why there is no connection to an instance. Cheap to clone: all who waited for one dial get its error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The group says that the instance is gone.
    #[error("instance {id} is gone")]
    Gone { id: InstanceId },
    /// The provider could not say how to reach it.
    #[error("asking how to reach the instance")]
    ConnectInfo(#[source] Arc<GroupError>),
    /// It has no address yet.
    #[error("instance {id} has no address")]
    NoAddress { id: InstanceId },
    /// Its protocol is not spoken here.
    #[error("instance {id} wants {protocol}, which is not supported")]
    Protocol { id: InstanceId, protocol: &'static str },
    /// The configured private key cannot be used.
    #[error("the private key for the instance")]
    Key(#[source] Arc<KeyError>),
    /// The machine answers, but nothing listens there (yet).
    #[error("{address} refused the connection")]
    Refused { address: String },
    /// No route, or no such name.
    #[error("{address} cannot be reached")]
    Unreachable {
        address: String,
        #[source]
        source: Arc<io::Error>,
    },
    /// This machine is short of descriptors, ports or memory.
    #[error("opening a connection on this machine")]
    Local {
        #[source]
        source: Arc<io::Error>,
    },
    /// Silence, while connecting or in the handshake.
    #[error("{address} did not answer within {}", seconds(after))]
    TimedOut { address: String, after: Duration },
    /// It hung up before the login was done: it is starting, or has too many handshakes at once.
    #[error("{address} closed the connection during the handshake")]
    Closed {
        address: String,
        #[source]
        source: Option<Arc<russh::Error>>,
    },
    /// The two sides have no common algorithm, or the peer does not speak SSH.
    #[error("handshake with {address}")]
    Handshake {
        address: String,
        #[source]
        source: Arc<russh::Error>,
    },
    /// It is not the machine that was met before under this id.
    #[error("the host key of instance {id} at {address} has changed: {expected} was recorded, {found} was presented")]
    HostKeyChanged { id: InstanceId, address: String, expected: String, found: String },
    /// It is not the machine whose key the config or the provider names.
    #[error("instance {id} at {address} presented the host key {found}, but its host_key is {expected}")]
    HostKeyUnexpected { id: InstanceId, address: String, expected: String, found: String },
    /// It sends on and on and does not let us log in.
    #[error("{address} sent more than {limit} bytes before the login: no SSH server does that")]
    Flood { address: String, limit: usize },
    /// The login was refused.
    #[error("{address} refused the login of {username} (tried: {tried})")]
    LoginRefused { address: String, username: String, tried: String },
    /// By a fault of this program.
    #[error("the attempt to dial was abandoned")]
    Abandoned,
    /// All tries failed; this was the last.
    #[error("after {attempts} attempts in {}", seconds(during))]
    GaveUp {
        attempts: u32,
        during: Duration,
        #[source]
        last: Box<Self>,
    },
}

impl DialError {
    /// Whether another try may succeed with nothing changed by an operator.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ConnectInfo(error) => error.is_retryable(),
            Self::NoAddress { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Local { .. }
            | Self::TimedOut { .. }
            | Self::Closed { .. }
            | Self::Abandoned
            | Self::LoginRefused { .. } => true,
            Self::GaveUp { last, .. } => last.is_retryable(),
            Self::Gone { .. }
            | Self::Protocol { .. }
            | Self::Key(_)
            | Self::Handshake { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyUnexpected { .. }
            | Self::Flood { .. } => false,
        }
    }

    /// Whether nothing at all answers: the machine is off, cut off or gone.
    pub fn is_dead(&self) -> bool {
        match self {
            Self::Gone { .. } | Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::GaveUp { last, .. } => last.is_dead(),
            Self::ConnectInfo(_)
            | Self::NoAddress { .. }
            | Self::Abandoned
            | Self::Protocol { .. }
            | Self::Key(_)
            | Self::Local { .. }
            | Self::Refused { .. }
            | Self::Closed { .. }
            | Self::Handshake { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyUnexpected { .. }
            | Self::Flood { .. }
            | Self::LoginRefused { .. } => false,
        }
    }

    /// Whether the machine is there, and its SSH server turned us away.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Closed { .. } | Self::LoginRefused { .. } => true,
            Self::GaveUp { last, .. } => last.is_refused(),
            Self::Gone { .. }
            | Self::ConnectInfo(_)
            | Self::NoAddress { .. }
            | Self::Abandoned
            | Self::Protocol { .. }
            | Self::Key(_)
            | Self::Local { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Handshake { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyUnexpected { .. }
            | Self::Flood { .. } => false,
        }
    }
}

/// Why a command has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExecError {
    #[error("dialing the instance")]
    Dial(#[from] DialError),
    /// The server refused a session or the command.
    #[error("the instance refused to run a command")]
    Refused,
    /// The connection ended first. Whether the command goes on is unknown.
    #[error("the connection to the instance was lost: {reason}")]
    Lost { reason: String },
    /// The channel was closed without an exit status.
    #[error("the command ended without an exit status")]
    NoStatus,
    /// The reader was too slow for longer than is kept for it.
    #[error("more than {limit} bytes of output were not read")]
    Overrun { limit: u64 },
    /// A one-off command took too long.
    #[error("the command did not end within {}", seconds(after))]
    TimedOut { after: Duration },
    /// A one-off command wrote too much.
    #[error("the command wrote more than {limit} bytes")]
    TooLong { limit: usize },
    /// A one-off command that had to succeed did not.
    #[error("the command ended with {status}{}", quoted(stderr))]
    Failed { status: super::channel::ExitStatus, stderr: String },
    /// Unread output could not be kept on disk.
    #[error("keeping unread output")]
    Spill(#[source] Arc<io::Error>),
}

impl ExecError {
    /// Whether the connection is to blame: dial again and look how the command fared.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Overrun { .. } | Self::Spill(_) => true,
            Self::Dial(error) => error.is_retryable(),
            Self::Refused | Self::NoStatus | Self::TimedOut { .. } | Self::TooLong { .. } | Self::Failed { .. } => {
                false
            }
        }
    }
}

impl From<ExecError> for io::Error {
    fn from(error: ExecError) -> Self {
        let kind = if error.is_lost() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other };
        Self::new(kind, error)
    }
}

/// Why there is no stream to a socket of the instance.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("dialing the instance")]
    Dial(#[from] DialError),
    #[error("the connection to the instance was lost: {reason}")]
    Lost { reason: String },
    /// Neither way works; `diagnosis` is what the instance itself says about it.
    #[error("no way to the socket {path}: {diagnosis}")]
    NoWay { path: String, diagnosis: String },
    /// The configured host is neither a unix socket nor TCP.
    #[error("cannot forward {host}: only unix:// and tcp:// can be")]
    Host { host: String },
}

/// Why an instance is not ready for jobs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadyError {
    #[error("dialing the instance")]
    Dial(#[from] DialError),
    #[error("ready command")]
    Command(#[source] ExecError),
    #[error("the Docker Engine of the instance")]
    Docker(#[source] ForwardError),
    #[error("the Docker Engine of the instance answered {answer:?} to a ping")]
    DockerPing { answer: String },
}

fn seconds(duration: &Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn quoted(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {}", stderr.trim_end()) }
}
