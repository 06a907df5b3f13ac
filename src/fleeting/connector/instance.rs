//! The handle of one instance.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dialer::Dialer;
use super::docker::{DockerConnection, LastWay};
use super::error::{DialError, ExecError, ReadyError};
use super::exec::{Command, Lane, Output, Process, collect, upload_line};
use super::pool::Pool;
use super::ready;
use super::ssh::Open;
use crate::fleeting::access::{DockerEndpoint, Readiness, Settings};
use crate::fleeting::group::{ConnectInfo, InstanceGroup};
use crate::fleeting::host_keys::HostKeys;
use crate::ids::InstanceId;

/// How long a ready instance is dialed again before the caller hears that it does not answer. The caller has a
/// budget of its own, in which it may ask again.
const REDIAL: Duration = Duration::from_secs(5);

/// Connections for commands to one instance: 2,048 at once. More would be a leak.
const MAX_CONNECTIONS: usize = 256;

/// A live peer answers a ping in a round trip.
const PING: Duration = Duration::from_secs(5);

impl Settings {
    /// The address to dial: the wanted one, else the one there is.
    pub(super) fn address_of(self, info: &ConnectInfo) -> Option<&str> {
        let (first, second) = if self.use_external_addr {
            (&info.external_addr, &info.internal_addr)
        } else {
            (&info.internal_addr, &info.external_addr)
        };
        first.as_deref().or(second.as_deref()).filter(|address| !address.is_empty())
    }
}

/// One instance, as seen through SSH. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Instance(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: InstanceId,
    dialer: Arc<Dialer>,
    control: Pool,
    pool: Pool,
    docker: LastWay,
    gone: CancellationToken,
    /// Dials end with the last handle; Docker connections may outlive it.
    _dials: DropGuard,
}

impl Instance {
    /// A handle; nothing is dialed yet.
    pub fn new(id: InstanceId, group: Arc<dyn InstanceGroup>, settings: Settings, host_keys: HostKeys) -> Self {
        let gone = CancellationToken::new();
        let unused = CancellationToken::new();
        let dialer = Arc::new(Dialer::new(id.clone(), group, settings, host_keys, gone.clone(), unused.clone()));
        Self(Arc::new(Inner {
            id,
            control: Pool::new(Arc::clone(&dialer), 1),
            pool: Pool::new(Arc::clone(&dialer), MAX_CONNECTIONS),
            dialer,
            docker: LastWay::default(),
            gone,
            _dials: unused.drop_guard(),
        }))
    }

    pub fn id(&self) -> &InstanceId {
        &self.0.id
    }

    pub fn settings(&self) -> Settings {
        self.0.dialer.settings()
    }

    /// Takes up changed settings, for all handles. Connections that are open stay; the next one is dialed by these.
    pub fn reconfigure(&self, settings: Settings) {
        self.0.dialer.reconfigure(settings);
    }

    /// How the instance is reached, for the job's log and its variables.
    ///
    /// # Errors
    /// Where the provider cannot say.
    pub async fn info(&self) -> Result<Arc<ConnectInfo>, DialError> {
        self.0.dialer.info().await
    }

    /// Checks that the instance can take jobs, waiting for it up to the connector's timeout.
    ///
    /// # Errors
    /// The last thing that was wrong.
    pub async fn ready(&self, readiness: &Readiness) -> Result<(), ReadyError> {
        ready::ready(self, readiness).await
    }

    /// Whether the instance answers: one round trip over the control connection, which is dialed where there is none
    /// or the old one does not answer.
    ///
    /// # Errors
    /// Where it does not answer within seconds.
    pub async fn liveness(&self) -> Result<(), ExecError> {
        self.0.pool.sweep();
        match self.ping().await {
            Err(ExecError::Lost { .. }) => self.ping().await,
            answered => answered,
        }
    }

    async fn ping(&self) -> Result<(), ExecError> {
        self.0.control.connection(REDIAL).await?.ping(PING).await
    }

    /// Starts a command in the user's shell on the instance, over the pool.
    ///
    /// # Errors
    /// Where there is no connection, or the server refuses.
    pub async fn exec(&self, line: &str) -> Result<Process, ExecError> {
        self.exec_on(Lane::Pool, line).await
    }

    /// As [`Instance::exec`], over a connection of choice.
    ///
    /// # Errors
    /// As [`Instance::exec`].
    pub async fn exec_on(&self, lane: Lane, line: &str) -> Result<Process, ExecError> {
        Ok(Process::new(self.stream_on(lane, line).await?))
    }

    /// Starts a command and gives its standard input and output as one stream of bytes.
    ///
    /// # Errors
    /// As [`Instance::exec`].
    pub async fn stream(&self, line: &str) -> Result<super::channel::ByteStream, ExecError> {
        self.stream_on(Lane::Pool, line).await
    }

    /// Runs a command to its end and returns what it wrote. A status other than 0 is no error here.
    ///
    /// # Errors
    /// Where it could not be run, was lost, took too long or wrote too much.
    pub async fn run(&self, command: Command) -> Result<Output, ExecError> {
        let process = self.exec_on(command.lane, &command.line).await?;
        collect(process, &command).await
    }

    /// Writes a file on the instance, whole or not at all: into a temporary file beside it, then renamed. A path that
    /// begins with `~/` is in the user's home; the folder has to be there.
    ///
    /// # Errors
    /// As [`Instance::run`], and where the instance could not write it.
    pub async fn upload(&self, path: &str, mode: u32, content: Bytes) -> Result<(), ExecError> {
        self.run(Command::new(upload_line(path, mode)).stdin(content)).await?.into_stdout().map(drop)
    }

    /// Dials a connection of its own for the Docker traffic of one job.
    ///
    /// # Errors
    /// Where the instance does not answer within seconds.
    pub async fn docker(&self, endpoint: DockerEndpoint) -> Result<DockerConnection, DialError> {
        let connection = self.0.dialer.dial(REDIAL).await?;
        Ok(DockerConnection::new(connection, endpoint, self.0.docker.clone()))
    }

    /// Tells the handle that the group does not have the instance any more: what is under way ends at once, and
    /// nothing is dialed again.
    pub fn mark_gone(&self) {
        self.0.gone.cancel();
    }

    /// Resolves when [`Instance::mark_gone`] was called.
    pub async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    /// Whether [`Instance::mark_gone`] was called.
    pub fn is_gone(&self) -> bool {
        self.0.gone.is_cancelled()
    }

    /// How many connections for commands are open.
    pub fn pooled_connections(&self) -> usize {
        self.0.pool.connections()
    }

    /// How many commands are under way in the pool.
    pub fn commands_under_way(&self) -> usize {
        self.0.pool.busy()
    }

    /// Makes the pool's connections as old as they may get.
    #[cfg(test)]
    pub(super) fn wear_out(&self) {
        self.0.pool.wear_out();
    }

    pub(super) async fn dial_control(&self, patience: Duration) -> Result<(), DialError> {
        self.0.control.connection(patience).await.map(drop)
    }

    pub(super) async fn docker_over_control(
        &self,
        endpoint: DockerEndpoint,
        patience: Duration,
    ) -> Result<DockerConnection, DialError> {
        let connection = self.0.control.connection(patience).await?;
        Ok(DockerConnection::new(connection, endpoint, self.0.docker.clone()))
    }

    async fn stream_on(&self, lane: Lane, line: &str) -> Result<super::channel::ByteStream, ExecError> {
        let pool = match lane {
            Lane::Pool => &self.0.pool,
            Lane::Control => &self.0.control,
        };
        pool.open(Open::Exec(line.to_owned()), REDIAL).await
    }
}
