//! The way to an instance, whatever it is made of: commands as streams, files, its engine, and whether it answers.
//!
//! The executors see an [`InstanceAccess`], the taskscaler an [`InstanceConnector`], and nobody what is behind; SSH ([`super::connector`]) is one
//! implementation. Executors run as well over a child process and a local socket, where their tests have real agents
//! and a real engine without SSH.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::byte_stream::BoxStream;
use crate::config::resolved::ConnectorConfig;
use crate::ids::InstanceId;

/// Silence after which the peer is asked whether it lives (issue: losing an instance).
const KEEPALIVE: Duration = Duration::from_secs(5);

/// An instance. Cheap calls share connections; each returned stream is its own.
pub trait InstanceAccess: fmt::Debug + Send + Sync {
    fn id(&self) -> &InstanceId;

    /// The group has it no more.
    fn is_gone(&self) -> bool;

    /// What the provider says of it.
    fn about(&self) -> BoxFuture<'_, Result<About, AccessError>>;

    /// Starts a command in the login shell of the instance's user. The stream is its standard input and
    /// output; a command that ends without having spoken frames has what it said to standard error at the end.
    fn exec<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<BoxStream, AccessError>>;

    /// Writes a program, whole or not at all, into a folder of the user's home that is made if need be.
    fn upload<'a>(&'a self, folder: &'a str, name: &'a str, content: Bytes) -> BoxFuture<'a, Result<(), AccessError>>;

    /// A connection for the engine's API, of one job alone.
    fn engine(&self, endpoint: DockerEndpoint) -> BoxFuture<'_, Result<Arc<dyn EngineDialer>, AccessError>>;
}

/// What the taskscaler needs of an instance beside.
pub trait InstanceConnector: InstanceAccess {
    /// Checks that it can take jobs, waiting for it up to the connector's timeout.
    ///
    /// # Errors
    /// The last thing that was wrong.
    fn ready<'a>(&'a self, readiness: &'a Readiness) -> BoxFuture<'a, Result<(), NotReady>>;

    /// Whether it answers: one round trip.
    ///
    /// # Errors
    /// It does not within seconds.
    fn liveness(&self) -> BoxFuture<'_, Result<(), AccessError>>;

    /// Takes up changed settings. Connections that are open stay; the next one is dialed by these.
    fn reconfigure(&self, settings: Settings);

    /// The settings in force.
    fn settings(&self) -> Settings;

    /// The group has it no more: what is under way ends at once, and nothing is dialed again.
    fn mark_gone(&self);
}

/// What was wrong last with an instance that did not become ready in time.
pub type NotReady = Box<dyn std::error::Error + Send + Sync>;

/// `connector_config`, as far as the connector itself needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence before a keepalive is sent; the peer is dead after a few unanswered ones.
    pub keepalive: Duration,
    /// How long [`InstanceConnector::ready`] keeps trying.
    pub timeout: Duration,
    pub use_external_addr: bool,
}

impl From<&ConnectorConfig> for Settings {
    fn from(config: &ConnectorConfig) -> Self {
        let keepalive = config.keepalive.filter(|keepalive| !keepalive.is_zero()).unwrap_or(KEEPALIVE);
        Self { keepalive, timeout: config.timeout, use_external_addr: config.use_external_addr }
    }
}

/// What an instance has to show before it gets jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// `instance_ready_command`: has to end with 0. It is run once; only a lost connection repeats it.
    pub command: Option<String>,
    /// Set where jobs will use the engine: it has to answer a ping.
    pub docker: Option<DockerEndpoint>,
}

/// How to get to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Forward the socket; where that does not work, `docker system dial-stdio`.
    #[default]
    Auto,
    Forward,
    DialStdio,
}

impl Transport {
    /// By `FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO`, where it is set explicitly.
    pub fn from_flag(dial_stdio: Option<bool>) -> Self {
        match dial_stdio {
            None => Self::Auto,
            Some(true) => Self::DialStdio,
            Some(false) => Self::Forward,
        }
    }
}

/// The engine of an instance, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerEndpoint {
    /// `[runners.docker] host`: `unix://…` or `tcp://host:port`; `None` is the usual socket.
    pub host: Option<String>,
    pub transport: Transport,
}

/// What is known of an instance without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// As Go names it, such as `amd64`.
    pub architecture: String,
    pub internal_address: Option<String>,
    pub external_address: Option<String>,
}

/// Opens streams to an engine.
pub trait EngineDialer: fmt::Debug + Send + Sync {
    fn open(&self) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// Why an instance does not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It will not come back.
    #[error("instance {0} is gone")]
    Gone(InstanceId),
    /// Another try may succeed.
    #[error("reaching instance {id}")]
    Unreachable {
        id: InstanceId,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answers, but does not do this.
    #[error("instance {id} refuses")]
    Refused {
        id: InstanceId,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl AccessError {
    /// Whether another try may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Gone(_) | Self::Refused { .. } => false,
        }
    }
}
