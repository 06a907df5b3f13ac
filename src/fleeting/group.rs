//! What a group of instances is to the rest of the program, whoever provides it.
//!
//! A provider reports facts and carries out orders. It keeps no desired state of its own beyond what
//! its cloud needs, never retries on its own account (the taskscaler does, with its back-off), and
//! reports partial success as what it is: a number or a list of what was done, and the error of the rest.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use russh::keys::{Algorithm, PrivateKey};

use crate::config::resolved::{ConnectorConfig, PluginConfig, Protocol};
use crate::ids::InstanceId;
use crate::secret::Secret;

/// A group of instances at a provider. Calls may run at the same time; a provider puts those in order
/// that must not.
///
/// How often each is called, so that a provider can budget its own calls to a cloud:
///
/// | call | when |
/// |---|---|
/// | `init` | once before all others, again after each failure and after each change of the settings |
/// | `look` | by an operator's command |
/// | `update` | on the taskscaler's schedule: every `update_interval`, every `update_interval_when_expecting` while something is expected to change |
/// | `increase`, `decrease` | as the fleet needs it, with back-off after failures; never two increases at once |
/// | `connect_info` | at each dial: from what the last listing brought, unless that is older than [`KNOWN_FOR`] or does not have the instance |
/// | `heartbeat` | for each idle instance every few minutes: from what the last listing brought, as above |
/// | `acquire_lease`, `renew_lease` | where the provider has leases: at the start, and well before each end |
pub trait InstanceGroup: fmt::Debug + Send + Sync {
    /// Looks the group up, once, before any other call.
    fn init(&self) -> BoxFuture<'_, Result<ProviderInfo, GroupError>>;

    /// The group and its instances as they are now, for somebody who only looks: nothing is made, changed or carried
    /// on with, neither here nor at the provider. No other call has to come before it.
    fn look(&self) -> BoxFuture<'_, Result<(ProviderInfo, GroupListing), GroupError>>;

    /// Every instance of the group, as it is now. An instance that is missing here is gone.
    fn update(&self) -> BoxFuture<'_, Result<GroupListing, GroupError>>;

    /// Asks for `count` more instances. They show up in a later [`InstanceGroup::update`].
    fn increase(&self, count: u32) -> BoxFuture<'_, Increased>;

    /// Deletes these instances and no others, and makes the group smaller by as many. An instance that
    /// is already gone counts as deleted.
    fn decrease<'a>(&'a self, ids: &'a [InstanceId]) -> BoxFuture<'a, Decreased>;

    /// How to reach an instance. May be called again when the answer has expired.
    fn connect_info<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<ConnectInfo, GroupError>>;

    /// What the provider knows about the health of one instance; an error means it is not healthy.
    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), GroupError>>;

    /// Whether the group is marked as this program's own, so that a member nobody knows may be removed.
    fn ownership(&self) -> BoxFuture<'_, Result<Ownership, GroupError>>;

    /// Claims the group for one manager for at least `duration`.
    ///
    /// # Errors
    /// [`GroupError::LeaseHeld`] where another manager has it.
    fn acquire_lease<'a>(&'a self, holder: &'a str, duration: Duration) -> BoxFuture<'a, Result<Lease, GroupError>>;

    /// Extends a claim. An error means it may be lost: stop before [`Lease::until`].
    fn renew_lease<'a>(&'a self, lease: &'a Lease, duration: Duration) -> BoxFuture<'a, Result<Lease, GroupError>>;

    /// Gives a claim back.
    fn release_lease(&self, lease: Lease) -> BoxFuture<'_, Result<(), GroupError>>;

    /// Takes up the settings of a changed configuration. They count from the next call on; members that they no
    /// longer have are listed as [`InstanceState::Timeout`] until they are deleted, so that their jobs end in peace.
    ///
    /// # Errors
    /// [`GroupError::AnotherGroup`] where these are the settings of another group. Nothing has changed then.
    fn reconfigure(&self, plugin: &PluginConfig, connector: &ConnectorConfig) -> Result<(), GroupError>;

    /// Ends what the provider itself holds open. Instances stay.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// So old may the listing be that answers `connect_info` and `heartbeat`. An outage of the provider then costs no
/// instance that runs.
pub const KNOWN_FOR: Duration = Duration::from_secs(5 * 60);

/// What holds for every instance of a group, whatever is asked of the group: each provider states it once, from the
/// settings alone. Whoever wants to know what kind of group it is asks for what follows from that here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// A deleted instance is destroyed, with its processes and files. Otherwise it is put aside and comes back as it was.
    pub instances_are_destroyed: bool,
    /// The engine that jobs use on an instance is shared with others, and goes on without the instance.
    pub engine_survives_instance: bool,
    /// Instances run the program that runs here: nothing of it has to be sent to them.
    pub runs_this_binary: bool,
    /// The largest size that the settings allow; `None` where only the provider knows.
    pub max_size: Option<u32>,
}

/// What [`InstanceGroup::init`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderInfo {
    /// The group's name for logs, such as `aws/eu-central-1/runners`.
    pub id: String,
    /// The largest size the provider allows; `None` is no limit of its own.
    pub max_size: Option<u32>,
}

/// One listing of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupListing {
    /// The size the provider itself works towards, where it has one. The truth about outstanding requests.
    pub target_size: Option<u32>,
    pub instances: Vec<(InstanceId, InstanceState)>,
}

/// An instance as its provider sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstanceState {
    Creating,
    /// The provider calls it up; whether it answers is the connector's to find out.
    Running,
    Deleting,
    Deleted,
    /// It will not come up, or was taken away: it must be deleted.
    Timeout,
}

/// The answer to [`InstanceGroup::increase`].
#[derive(Debug, Default)]
pub struct Increased {
    /// How many of the instances were accepted.
    pub succeeded: u32,
    /// Why it is not all of them.
    pub error: Option<GroupError>,
}

/// The answer to [`InstanceGroup::decrease`].
#[derive(Debug, Default)]
pub struct Decreased {
    /// The instances that are going or gone.
    pub succeeded: Vec<InstanceId>,
    /// Why it is not all of them.
    pub error: Option<GroupError>,
}

/// Whether unknown members of a group may be removed (issue: unknown instances at start).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Each member is an operator's own and is taken into use as it is.
    Fixed,
    /// The group carries our mark: members nobody knows are ours to remove.
    Ours,
    /// Nothing says whose the members are.
    Unmarked,
}

/// A claim on a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub holder: String,
    /// Counted from before the group was asked. `None`: holds for as long as this process lives.
    pub until: Option<Instant>,
}

/// How to reach one instance. Everything is filled in: what the configuration says, else what the provider knows.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    pub id: InstanceId,
    /// As Go names it, such as `linux`.
    pub os: String,
    /// As Go names it, such as `amd64`.
    pub arch: String,
    pub protocol: Protocol,
    pub username: String,
    pub password: Option<Secret>,
    pub key: Option<KeyMaterial>,
    /// `host` or `host:port`.
    pub external_addr: Option<String>,
    /// `host` or `host:port`.
    pub internal_addr: Option<String>,
    /// For addresses without a port.
    pub port: u16,
    /// The key the instance must prove, where the provider knows it (`ssh-ed25519 AAAA…`).
    pub host_key: Option<String>,
    /// When these credentials end.
    pub expires: Option<SystemTime>,
    /// How long to keep trying to connect, where it differs from the connector's own.
    pub timeout: Option<Duration>,
}

/// A private key for authentication, decoded. It prints as its fingerprint.
#[derive(Clone)]
pub struct KeyMaterial(std::sync::Arc<PrivateKey>);

impl KeyMaterial {
    /// Decodes an OpenSSH, PKCS#1, PKCS#8 or SEC1 private key in PEM.
    ///
    /// # Errors
    /// Where the text is no such key, or is locked with a passphrase.
    pub fn decode(pem: &Secret) -> Result<Self, KeyError> {
        russh::keys::decode_secret_key(pem.expose(), None).map(Self::from).map_err(KeyError)
    }

    /// A new key, known to nobody else.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519);
        key.map(Self::from).map_err(|error| KeyError(error.into()))
    }

    /// The public half as a line of `authorized_keys`.
    ///
    /// # Errors
    /// Where the key has no such form.
    pub fn public_line(&self) -> Result<String, KeyError> {
        self.0.public_key().to_openssh().map_err(|error| KeyError(error.into()))
    }

    /// The key itself.
    pub fn private_key(&self) -> &std::sync::Arc<PrivateKey> {
        &self.0
    }
}

impl From<PrivateKey> for KeyMaterial {
    fn from(key: PrivateKey) -> Self {
        Self(std::sync::Arc::new(key))
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.public_key().fingerprint(russh::keys::HashAlg::Sha256))
    }
}

/// A private key that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the private key")]
pub struct KeyError(#[source] russh::keys::Error);

/// What was asked of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Init,
    Update,
    Increase,
    Decrease,
    ConnectInfo,
    Heartbeat,
    Lease,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "looking the group up",
            Self::Update => "listing the group",
            Self::Increase => "increasing the group",
            Self::Decrease => "decreasing the group",
            Self::ConnectInfo => "asking how to reach an instance",
            Self::Heartbeat => "asking for an instance's health",
            Self::Lease => "claiming the group",
        })
    }
}

/// Why a group did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The provider has no instances of this kind to give now.
    #[error("no capacity while {operation}: {detail}")]
    NoCapacity { operation: Operation, detail: String },
    /// The group may not grow further.
    #[error("the group holds at most {max} instances")]
    Full { max: u32 },
    /// The provider asks us to call less often.
    #[error("throttled while {operation}")]
    Throttled { operation: Operation, retry_after: Option<Duration> },
    #[error("no instance {id} in the group")]
    UnknownInstance { id: InstanceId },
    #[error("instance {id} is not healthy: {detail}")]
    Unhealthy { id: InstanceId, detail: String },
    /// The credentials do not allow it.
    #[error("not allowed while {operation}: {detail}")]
    Denied { operation: Operation, detail: String },
    /// Another manager has claimed the group.
    #[error("the group is claimed by {holder}")]
    LeaseHeld { holder: String },
    /// A runner that is served keeps its group: its instances are there.
    #[error("{change} makes it another group: restart to change over, when the old one is empty")]
    AnotherGroup { change: &'static str },
    /// The group's settings cannot work.
    #[error("{detail}")]
    Misconfigured { detail: String },
    /// It may work the next time.
    #[error("{operation}")]
    Failed {
        operation: Operation,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl GroupError {
    /// Whether the same call may succeed later with nothing changed by an operator.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoCapacity { .. }
            | Self::Throttled { .. }
            | Self::Failed { .. }
            | Self::LeaseHeld { .. }
            | Self::Unhealthy { .. } => true,
            Self::Full { .. }
            | Self::UnknownInstance { .. }
            | Self::Denied { .. }
            | Self::AnotherGroup { .. }
            | Self::Misconfigured { .. } => false,
        }
    }

    /// Whether there is no more to be had: asking again at once costs nothing but calls.
    pub fn is_capacity(&self) -> bool {
        matches!(self, Self::NoCapacity { .. } | Self::Full { .. })
    }

    /// Whether the provider asked for fewer calls.
    pub fn is_throttled(&self) -> bool {
        matches!(self, Self::Throttled { .. })
    }

    /// A failure of the operation by this cause.
    pub fn failed(operation: Operation, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { operation, source: source.into() }
    }
}
