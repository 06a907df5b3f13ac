//! The provider of `plugin = "local"`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use rustix::fs::{FlockOperation, flock};
use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::inside::MARK;
use super::record::Folder;
use crate::config::resolved::{ConnectorConfig, LocalGroup as Settings, PluginConfig, Protocol};
use crate::fleeting::group::{
    ConnectInfo, Decreased, GroupError, GroupFacts, GroupListing, Increased, InstanceGroup, InstanceState, KeyMaterial,
    Lease, Operation, Ownership, ProviderInfo,
};
use crate::ids::InstanceId;
use crate::secret::Secret;

/// Folders of instances are named so; anything else in the root is left alone.
const PREFIX: &str = "local-";

const KEY: &str = "key";
const LEASE: &str = "lease";

/// Where instances find their programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the instances of a group live and what runs them.
#[derive(Clone, Debug)]
pub struct Place {
    pub root: PathBuf,
    /// The program whose hidden subcommand is an instance.
    pub executable: PathBuf,
}

/// A group of instances on this machine.
pub struct LocalGroup {
    place: Place,
    settings: Mutex<Settings>,
    docker_socket: PathBuf,
    /// Held open for as long as the lease is ours.
    lease: Mutex<Option<File>>,
}

impl fmt::Debug for LocalGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalGroup").field("place", &self.place).finish_non_exhaustive()
    }
}

impl LocalGroup {
    pub fn new(settings: &Settings, place: Place) -> Self {
        Self {
            place,
            settings: Mutex::new(settings.clone()),
            docker_socket: PathBuf::from("/var/run/docker.sock"),
            lease: Mutex::new(None),
        }
    }

    /// Processes of this machine, with folders of their own. The engine is this machine's.
    pub(crate) fn facts(settings: &Settings) -> GroupFacts {
        GroupFacts {
            instances_are_destroyed: true,
            engine_survives_instance: true,
            runs_this_binary: true,
            max_size: settings.max_size,
        }
    }

    /// Lets the instances forward this socket in place of the usual one.
    #[must_use]
    pub fn with_docker_socket(self, docker_socket: PathBuf) -> Self {
        Self { docker_socket, ..self }
    }

    fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn folder(&self, id: &InstanceId) -> Folder {
        Folder::new(self.place.root.join(id.as_str()))
    }

    async fn list(&self, operation: Operation) -> Result<GroupListing, GroupError> {
        let root = self.place.root.clone();
        let reconcile = |(id, folder): (InstanceId, Folder)| Ok((id, folder.reconcile()?));
        let list = move || folders(&root)?.into_iter().map(reconcile).collect::<io::Result<Vec<_>>>();
        Ok(listing(blocking(operation, list).await?))
    }

    /// A group whose folder is not there yet has no instances.
    async fn seen(&self) -> Result<(ProviderInfo, GroupListing), GroupError> {
        let root = self.place.root.clone();
        let list = move || match folders(&root) {
            Ok(found) => Ok(found.into_iter().map(|(id, folder)| (id, folder.state())).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        Ok((self.info(), listing(blocking(Operation::Update, list).await?)))
    }

    fn info(&self) -> ProviderInfo {
        ProviderInfo { id: format!("local/{}", self.place.root.display()), max_size: self.settings().max_size }
    }

    async fn increase_by(&self, count: u32) -> Increased {
        let mut increased = Increased::default();
        let room = match self.room().await {
            Ok(room) => room,
            Err(error) => return Increased { error: Some(error), ..increased },
        };
        for _ in 0..count.min(room) {
            if let Err(error) = self.start().await {
                increased.error = Some(GroupError::failed(Operation::Increase, error));
                return increased;
            }
            increased.succeeded += 1;
        }
        increased.error = self.settings().max_size.filter(|_| count > room).map(|max| GroupError::Full { max });
        increased
    }

    /// How many more instances the group takes.
    async fn room(&self) -> Result<u32, GroupError> {
        let Some(max) = self.settings().max_size else { return Ok(u32::MAX) };
        let listing = self.list(Operation::Increase).await?;
        let there = listing.instances.iter().filter(|(_, state)| *state != InstanceState::Deleted).count();
        Ok(max.saturating_sub(u32::try_from(there).unwrap_or(u32::MAX)))
    }

    /// Starts one instance and does not wait for it.
    async fn start(&self) -> Result<(), StartError> {
        let id = InstanceId::new(format!("{PREFIX}{:08x}", rand::random::<u32>()));
        let key = self.key().await?;
        let folder = self.folder(&id);
        folder.create().map_err(StartError::Folder)?;
        let started = self.spawn(&id, &folder, &key);
        if started.is_err() {
            folder.remove().map_err(StartError::Folder)?;
        }
        started
    }

    fn spawn(&self, id: &InstanceId, folder: &Folder, key: &KeyMaterial) -> Result<(), StartError> {
        let log = File::create(folder.path().join("log")).map_err(StartError::Folder)?;
        let public = key.private_key().public_key().to_openssh().map_err(StartError::Key)?;
        let child = Command::new(&self.place.executable)
            .arg("local-instance")
            .arg("--state")
            .arg(folder.path())
            .args(["--id", id.as_str(), "--authorized-key", &public])
            .args(["--boot-time-ms", &self.settings().boot_time.as_millis().to_string()])
            .arg("--docker-socket")
            .arg(&self.docker_socket)
            .env_clear()
            .env("PATH", PATH)
            .env(MARK, folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| StartError::Spawn { executable: self.place.executable.clone(), source })?;
        // It is to outlive us; tokio reaps it where it does not.
        drop(child);
        Ok(())
    }

    /// The key that the instances of this root let in; made at the first need.
    async fn key(&self) -> Result<KeyMaterial, StartError> {
        let path = self.place.root.join(KEY);
        spawn_blocking(move || {
            if !path.exists() {
                make_key(&path)?;
            }
            let pem = Secret::new(fs::read_to_string(&path).map_err(StartError::Folder)?);
            KeyMaterial::decode(&pem).map_err(StartError::Decode)
        })
        .await
        .unwrap_or_else(|panic| Err(StartError::Folder(io::Error::other(panic))))
    }

    async fn decrease_by(&self, ids: &[InstanceId]) -> Decreased {
        let mut decreased = Decreased::default();
        for id in ids {
            let folder = self.folder(id);
            match blocking(Operation::Decrease, move || folder.delete()).await {
                Ok(()) => decreased.succeeded.push(id.clone()),
                Err(error) => decreased.error = Some(error),
            }
        }
        decreased
    }

    async fn info_of(&self, id: &InstanceId) -> Result<ConnectInfo, GroupError> {
        let folder = self.folder(id);
        let record = blocking(Operation::ConnectInfo, move || Ok(folder.record())).await?;
        let record = record.ok_or_else(|| GroupError::UnknownInstance { id: id.clone() })?;
        let key = self.key().await.map_err(|error| GroupError::failed(Operation::ConnectInfo, error))?;
        Ok(ConnectInfo {
            id: id.clone(),
            os: std::env::consts::OS.to_owned(),
            arch: go_arch().to_owned(),
            protocol: Protocol::Ssh,
            username: record.username,
            password: None,
            key: Some(key),
            external_addr: None,
            internal_addr: record.address,
            port: Protocol::Ssh.default_port(),
            host_key: Some(record.host_key),
            expires: None,
            timeout: None,
        })
    }

    async fn check(&self, id: &InstanceId) -> Result<(), GroupError> {
        let folder = self.folder(id);
        match blocking(Operation::Heartbeat, move || Ok(folder.record())).await? {
            Some(record) if record.process.is_alive() => Ok(()),
            Some(_) => Err(GroupError::Unhealthy { id: id.clone(), detail: "its process has ended".to_owned() }),
            None => Err(GroupError::UnknownInstance { id: id.clone() }),
        }
    }

    /// A lock on a file: it ends with this process, however that ends.
    fn take_lease(&self, holder: &str) -> Result<Lease, GroupError> {
        let failed = |error: io::Error| GroupError::failed(Operation::Lease, error);
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.is_none() {
            let path = self.place.root.join(LEASE);
            let options = || File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
            let mut file = options().map_err(failed)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                return Err(GroupError::LeaseHeld { holder });
            }
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(holder.as_bytes()))
                .map_err(failed)?;
            *lease = Some(file);
        }
        Ok(Lease { holder: holder.to_owned(), until: None })
    }
}

/// Why an instance could not be started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the folder of local instances")]
    Folder(#[source] io::Error),
    #[error("the key of local instances")]
    Key(#[source] russh::keys::ssh_key::Error),
    #[error("the key of local instances")]
    Decode(#[source] crate::fleeting::group::KeyError),
    #[error("starting {}", executable.display())]
    Spawn {
        executable: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes a new key as a whole: where two are made at once, both sides read the one that came first.
fn make_key(path: &Path) -> Result<(), StartError> {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(StartError::Key)?;
    let pem = key.to_openssh(LineEnding::LF).map_err(StartError::Key)?;
    let part = path.with_extension(format!("{:08x}.part", rand::random::<u32>()));
    let write = || {
        File::options().create_new(true).write(true).mode(0o600).open(&part)?.write_all(pem.as_bytes())?;
        let linked = fs::hard_link(&part, path);
        fs::remove_file(&part)?;
        linked
    };
    match write() {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StartError::Folder(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn folders(root: &Path) -> io::Result<Vec<(InstanceId, Folder)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(PREFIX)) {
            found.push((InstanceId::new(name), Folder::new(entry.path())));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn listing(instances: Vec<(InstanceId, InstanceState)>) -> GroupListing {
    let staying = instances.iter().filter(|(_, state)| is_staying(*state)).count();
    GroupListing { target_size: Some(u32::try_from(staying).unwrap_or(u32::MAX)), instances }
}

fn is_staying(state: InstanceState) -> bool {
    match state {
        InstanceState::Creating | InstanceState::Running => true,
        InstanceState::Deleting | InstanceState::Deleted | InstanceState::Timeout => false,
    }
}

/// This machine's architecture as Go names it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn blocking<T: Send + 'static>(
    operation: Operation,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, GroupError> {
    match spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(GroupError::failed(operation, error)),
        Err(panic) => Err(GroupError::failed(operation, panic)),
    }
}

impl InstanceGroup for LocalGroup {
    fn init(&self) -> BoxFuture<'_, Result<ProviderInfo, GroupError>> {
        async {
            let root = self.place.root.clone();
            blocking(Operation::Init, move || fs::DirBuilder::new().recursive(true).mode(0o700).create(root)).await?;
            Ok(self.info())
        }
        .boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(ProviderInfo, GroupListing), GroupError>> {
        self.seen().boxed()
    }

    fn update(&self) -> BoxFuture<'_, Result<GroupListing, GroupError>> {
        self.list(Operation::Update).boxed()
    }

    fn increase(&self, count: u32) -> BoxFuture<'_, Increased> {
        self.increase_by(count).boxed()
    }

    fn decrease<'a>(&'a self, ids: &'a [InstanceId]) -> BoxFuture<'a, Decreased> {
        self.decrease_by(ids).boxed()
    }

    fn connect_info<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<ConnectInfo, GroupError>> {
        self.info_of(id).boxed()
    }

    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), GroupError>> {
        self.check(id).boxed()
    }

    fn reconfigure(&self, plugin: &PluginConfig, _: &ConnectorConfig) -> Result<(), GroupError> {
        let PluginConfig::Local(new) = plugin else {
            return Err(GroupError::AnotherGroup { change: "another plugin" });
        };
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if new.root != settings.root {
            return Err(GroupError::AnotherGroup { change: "another root" });
        }
        settings.clone_from(new);
        Ok(())
    }

    fn ownership(&self) -> BoxFuture<'_, Result<Ownership, GroupError>> {
        // Nobody else puts instances into this folder.
        ready(Ok(Ownership::Ours)).boxed()
    }

    fn acquire_lease<'a>(&'a self, holder: &'a str, _: Duration) -> BoxFuture<'a, Result<Lease, GroupError>> {
        ready(self.take_lease(holder)).boxed()
    }

    fn renew_lease<'a>(&'a self, lease: &'a Lease, _: Duration) -> BoxFuture<'a, Result<Lease, GroupError>> {
        ready(self.take_lease(&lease.holder)).boxed()
    }

    fn release_lease(&self, _: Lease) -> BoxFuture<'_, Result<(), GroupError>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready(Ok(())).boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
