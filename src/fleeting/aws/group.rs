//! The provider of `plugin = "aws"`: which calls make an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, ready};
use tracing::{info, warn};

use super::api::Api;
use super::checks;
use super::errors::CallError;
use super::keys::Keys;
use super::listing::{Fleet, Group, Known, Machine, login};
use crate::config::environment::Environment;
use crate::config::resolved::{AwsGroup as Settings, ConnectorConfig, PluginConfig, Protocol};
use crate::error_chain::Chain;
use crate::fleeting::group::{
    ConnectInfo, Decreased, GroupError, GroupListing, Increased, InstanceGroup, KNOWN_FOR, KeyMaterial, Lease,
    Operation, Ownership, ProviderInfo,
};
use crate::fleeting::static_hosts::read_key;
use crate::ids::InstanceId;
use crate::time;

/// Instances that are terminated at the same time.
const TERMINATIONS: usize = 8;
/// The taskscaler waits two minutes for a decrease: what is not begun by then is reported as not done.
const TERMINATE_WITHIN: Duration = Duration::from_secs(90);
/// A listing that is as new as this is not made again for an instance that it lacks.
const JUST_LISTED: Duration = Duration::from_secs(2);
/// Clocks of others may be so far from ours.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// A launch that failed longer ago says nothing about now.
const RECENT: Duration = Duration::from_secs(10 * 60);

/// A group that lacks instances is asked for the reason this often.
const EXPLAIN_EVERY: Duration = Duration::from_secs(60);

/// An Auto Scaling group.
pub struct AwsGroup {
    environment: Environment,
    state: Mutex<State>,
    keys: Keys,
    /// One listing at a time, where somebody needs one.
    refreshing: tokio::sync::Mutex<()>,
    /// The size is read and then written: nothing else changes it in between.
    sizing: tokio::sync::RwLock<()>,
}

struct State {
    settings: Settings,
    connector: ConnectorConfig,
    /// Made at the first need, and again when credentials have changed.
    api: Option<Arc<Api>>,
    seen: Option<Seen>,
    /// When the size was raised last.
    raised: Option<SystemTime>,
    /// Warnings that were given.
    said: BTreeSet<String>,
    /// When the group was asked last why it lacks instances, and what it said.
    explained: Option<Instant>,
    failure: Option<String>,
}

/// The last listing.
#[derive(Clone)]
struct Seen {
    /// When it was asked for.
    at: Instant,
    fleet: Arc<Fleet>,
}

impl fmt::Debug for AwsGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsGroup").field("name", &self.state().settings.name).finish_non_exhaustive()
    }
}

impl AwsGroup {
    pub fn new(settings: &Settings, connector: &ConnectorConfig, environment: &Environment) -> Self {
        let state = State {
            settings: settings.clone(),
            connector: connector.clone(),
            api: None,
            seen: None,
            raised: None,
            said: BTreeSet::new(),
            explained: None,
            failure: None,
        };
        Self {
            environment: environment.clone(),
            state: Mutex::new(state),
            keys: Keys::default(),
            refreshing: tokio::sync::Mutex::default(),
            sizing: tokio::sync::RwLock::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn api(&self) -> Result<Arc<Api>, GroupError> {
        let (made, settings) = {
            let state = self.state();
            (state.api.clone(), state.settings.clone())
        };
        if let Some(api) = made {
            return Ok(api);
        }
        let api = Arc::new(Api::new(&settings, &self.environment).await?);
        let mut state = self.state();
        // Where two are made at once, each serves its caller.
        if state.settings == settings {
            state.api = Some(Arc::clone(&api));
        }
        Ok(api)
    }

    /// The group as it is, where it can be used.
    async fn describe(&self, api: &Api, operation: Operation) -> Result<Group, GroupError> {
        let name = self.state().settings.name.clone();
        let found = api.group().await.map_err(|error| error.during(operation))?;
        let missing = || GroupError::Misconfigured {
            detail: format!(
                "there is no Auto Scaling group {name} in {} of this account: check name and region in plugin_config",
                api.region()
            ),
        };
        found.ok_or_else(missing)
    }

    async fn check(&self) -> Result<ProviderInfo, GroupError> {
        let api = self.api().await?;
        let group = self.describe(&api, Operation::Init).await?;
        let info = self.usable(&api, &group)?;
        let policies = match api.policies().await {
            Ok(policies) => policies,
            // The reference's own IAM policy does not allow it.
            Err(error) if error.is_denied() => Vec::new(),
            Err(error) => return Err(error.during(Operation::Init)),
        };
        self.say(&info, checks::warnings(&self.state().settings.name.clone(), &group, &policies));
        Ok(info)
    }

    fn usable(&self, api: &Api, group: &Group) -> Result<ProviderInfo, GroupError> {
        let name = self.state().settings.name.clone();
        if let Some(detail) = checks::problem(&name, group) {
            return Err(GroupError::Misconfigured { detail });
        }
        Ok(ProviderInfo { id: format!("aws/{}/{name}", api.region()), max_size: Some(group.max) })
    }

    /// Gives each warning once.
    fn say(&self, info: &ProviderInfo, warnings: Vec<String>) {
        for warning in warnings {
            if self.state().said.insert(warning.clone()) {
                warn!(group = info.id, reason = warning, "the instance group works against its runner");
            }
        }
    }

    async fn seen_from_outside(&self) -> Result<(ProviderInfo, GroupListing), GroupError> {
        let api = self.api().await?;
        let group = self.describe(&api, Operation::Init).await?;
        let info = self.usable(&api, &group)?;
        let machines = api.machines().await.map_err(|error| error.during(Operation::Update))?;
        Ok((info, Fleet::new(group, machines, None).listing()))
    }

    /// Lists the group, and keeps what it finds.
    async fn list(&self, operation: Operation) -> Result<Arc<Fleet>, GroupError> {
        let at = time::now().instant;
        let api = self.api().await?;
        let group = self.describe(&api, operation).await?;
        let machines = if group.members.is_empty() {
            BTreeMap::new()
        } else {
            api.machines().await.map_err(|error| error.during(operation))?
        };
        if operation == Operation::Update {
            self.explain(&api, &group).await;
        }
        let mut state = self.state();
        let before = state.seen.as_ref().map(|seen| seen.fleet.as_ref());
        let fleet = Arc::new(Fleet::new(group, machines, before));
        // Of two listings that cross each other the later one counts.
        if state.seen.as_ref().is_none_or(|seen| seen.at <= at) {
            state.seen = Some(Seen { at, fleet: Arc::clone(&fleet) });
            drop(state);
            self.keys.keep_only(|id| fleet.members.contains_key(id));
        }
        Ok(fleet)
    }

    /// What is known of an instance, where the last listing is no older than this.
    fn known_within(&self, id: &InstanceId, age: Duration) -> Option<Known> {
        let state = self.state();
        let seen = state.seen.as_ref().filter(|seen| time::now().instant.duration_since(seen.at) < age)?;
        seen.fleet.members.get(id).cloned()
    }

    fn has_listed_within(&self, age: Duration) -> bool {
        self.state().seen.as_ref().is_some_and(|seen| time::now().instant.duration_since(seen.at) < age)
    }

    /// What the last listing brought; a new one where it is too old or does not have the instance.
    async fn known(&self, id: &InstanceId, operation: Operation) -> Result<Known, GroupError> {
        if let Some(known) = self.known_within(id, KNOWN_FOR) {
            return Ok(known);
        }
        let _alone = self.refreshing.lock().await;
        if !self.has_listed_within(JUST_LISTED) {
            self.list(operation).await?;
        }
        self.known_within(id, KNOWN_FOR).ok_or_else(|| GroupError::UnknownInstance { id: id.clone() })
    }

    /// A machine that can be dialed. Its address does not change: while the API does not answer, or not to us, the one
    /// of an older listing does as well.
    async fn reachable(&self, id: &InstanceId) -> Result<Machine, GroupError> {
        let known = match self.known(id, Operation::ConnectInfo).await {
            Ok(known) => known,
            Err(error) => self.known_within(id, Duration::MAX).ok_or(error)?,
        };
        let no_address = || GroupError::failed(Operation::ConnectInfo, "the instance has no address yet");
        if let Some(machine) = known.reachable() {
            return Ok(machine.clone());
        }
        let _alone = self.refreshing.lock().await;
        if !self.has_listed_within(JUST_LISTED) {
            self.list(Operation::ConnectInfo).await?;
        }
        let known = self.known_within(id, KNOWN_FOR);
        known.as_ref().and_then(Known::reachable).cloned().ok_or_else(no_address)
    }

    async fn info_of(&self, id: &InstanceId) -> Result<ConnectInfo, GroupError> {
        let machine = self.reachable(id).await?;
        let connector = self.state().connector.clone();
        let login = login(&machine, &connector);
        if login.protocol != Protocol::Ssh {
            let detail = format!("instance {id} runs {}: only SSH is served, write protocol = \"ssh\"", login.os);
            return Err(GroupError::Misconfigured { detail });
        }
        let configured = connector.key_path.as_deref().map(read_key).transpose()?;
        let (key, expires) = if connector.use_static_credentials {
            (configured, None)
        } else {
            let key = configured.map_or_else(|| self.keys.own(), Ok)?;
            let expires = self.let_in(id, &machine, &login.username, &key).await?;
            (Some(key), Some(expires))
        };
        Ok(ConnectInfo {
            id: id.clone(),
            os: login.os,
            arch: login.arch,
            protocol: login.protocol,
            username: login.username,
            password: connector.password,
            key,
            external_addr: machine.external_addr,
            internal_addr: machine.internal_addr,
            port: login.port,
            host_key: None,
            expires,
            timeout: None,
        })
    }

    async fn let_in(
        &self,
        id: &InstanceId,
        machine: &Machine,
        user: &str,
        key: &KeyMaterial,
    ) -> Result<SystemTime, GroupError> {
        let api = self.api().await?;
        let zone = machine.zone.as_deref();
        let send = |public: String| async move {
            let sent = api.send_key(id, zone, user, &public).await;
            sent.map_err(|error| error.during(Operation::ConnectInfo))
        };
        self.keys.bring(id, user, key, send).await
    }

    async fn increase_by(&self, count: u32) -> Result<Increased, GroupError> {
        let api = self.api().await?;
        let _alone = self.sizing.write().await;
        // Another program may have changed the size since the last listing: what counts is what it is now. Where that is
        // not known, nothing was changed, so this is no failed increase.
        let group = self.describe(&api, Operation::Update).await?;
        if group.missing() > 0
            && let Some(detail) = self.failed_launch(&api).await
        {
            return Err(GroupError::NoCapacity { operation: Operation::Increase, detail });
        }
        let room = group.room_for(count);
        if room > 0 {
            self.state().raised = Some(time::now().utc);
            let raised = api.set_size(group.desired + room).await;
            raised.map_err(|error| error.during(Operation::Increase))?;
        }
        Ok(Increased { succeeded: room, error: (room < count).then_some(GroupError::Full { max: group.max }) })
    }

    /// Why the group could not launch what was asked of it last, where it could not.
    async fn failed_launch(&self, api: &Api) -> Option<String> {
        let launches = match api.launches().await {
            Ok(launches) => launches,
            Err(error) => {
                info!(error = %Chain(&error.during(Operation::Increase)), "the group's launches are not known");
                return None;
            }
        };
        let now = time::now().utc;
        let since = self.state().raised.map_or(now - RECENT, |raised| raised - CLOCK_SKEW).max(now - RECENT);
        let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let latest = launches.into_iter().next()?;
        (latest.failed && u64::try_from(latest.began).is_ok_and(|began| began >= since)).then_some(latest.message)
    }

    /// Logs why the group has fewer instances than it wants, where it has said so.
    async fn explain(&self, api: &Api, group: &Group) {
        let now = time::now().instant;
        {
            let mut state = self.state();
            if group.missing() == 0 {
                state.failure = None;
                return;
            }
            if state.explained.is_some_and(|at| now.duration_since(at) < EXPLAIN_EVERY) {
                return;
            }
            state.explained = Some(now);
        }
        let failure = self.failed_launch(api).await;
        let mut state = self.state();
        if let Some(reason) = failure.as_ref().filter(|reason| state.failure.as_ref() != Some(*reason)) {
            warn!(group = state.settings.name, reason, "the Auto Scaling group failed to launch an instance");
        }
        state.failure = failure;
    }

    async fn decrease_by(&self, ids: &[InstanceId]) -> Decreased {
        let mut decreased = Decreased::default();
        let api = match self.api().await {
            Ok(api) => api,
            Err(error) => return Decreased { error: Some(error), ..decreased },
        };
        let until = time::now().instant + TERMINATE_WITHIN;
        for ids in ids.chunks(TERMINATIONS) {
            if time::now().instant >= until {
                let late = GroupError::failed(Operation::Decrease, "the API is too slow for so many instances at once");
                decreased.error.get_or_insert(late);
                break;
            }
            let terminated = join_all(ids.iter().map(|id| self.terminate(&api, id))).await;
            let mut is_hopeless = false;
            for (id, result) in ids.iter().zip(terminated) {
                match result {
                    Ok(()) => decreased.succeeded.push(id.clone()),
                    Err(error) => {
                        is_hopeless |= error.is_throttled() || error.is_denied();
                        decreased.error.get_or_insert_with(|| error.during(Operation::Decrease));
                    }
                }
            }
            if is_hopeless {
                break;
            }
        }
        decreased
    }

    async fn terminate(&self, api: &Api, id: &InstanceId) -> Result<(), CallError> {
        let _beside_others = self.sizing.read().await;
        api.terminate(id).await
    }

    async fn health_of(&self, id: &InstanceId) -> Result<(), GroupError> {
        let known = self.known(id, Operation::Heartbeat).await?;
        known.health().map_err(|detail| GroupError::Unhealthy { id: id.clone(), detail })
    }

    fn take_up(&self, plugin: &PluginConfig, connector: &ConnectorConfig) -> Result<(), GroupError> {
        let PluginConfig::Aws(new) = plugin else {
            return Err(GroupError::AnotherGroup { change: "another plugin" });
        };
        let mut state = self.state();
        let old = &state.settings;
        let change = [
            (new.name != old.name, "another name"),
            (new.region != old.region, "another region"),
            (new.endpoint_url != old.endpoint_url, "another endpoint_url"),
        ];
        if let Some((_, change)) = change.into_iter().find(|(differs, _)| *differs) {
            return Err(GroupError::AnotherGroup { change });
        }
        if new != old {
            state.api = None;
            state.settings.clone_from(new);
        }
        state.connector.clone_from(connector);
        Ok(())
    }
}

impl InstanceGroup for AwsGroup {
    fn init(&self) -> BoxFuture<'_, Result<ProviderInfo, GroupError>> {
        self.check().boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(ProviderInfo, GroupListing), GroupError>> {
        self.seen_from_outside().boxed()
    }

    fn update(&self) -> BoxFuture<'_, Result<GroupListing, GroupError>> {
        async { Ok(self.list(Operation::Update).await?.listing()) }.boxed()
    }

    fn increase(&self, count: u32) -> BoxFuture<'_, Increased> {
        let refused = |error| Increased { succeeded: 0, error: Some(error) };
        async move { self.increase_by(count).await.unwrap_or_else(refused) }.boxed()
    }

    fn decrease<'a>(&'a self, ids: &'a [InstanceId]) -> BoxFuture<'a, Decreased> {
        self.decrease_by(ids).boxed()
    }

    fn connect_info<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<ConnectInfo, GroupError>> {
        self.info_of(id).boxed()
    }

    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), GroupError>> {
        self.health_of(id).boxed()
    }

    fn ownership(&self) -> BoxFuture<'_, Result<Ownership, GroupError>> {
        // Nothing at the cloud says whose the members are.
        ready(Ok(Ownership::Unmarked)).boxed()
    }

    fn acquire_lease<'a>(&'a self, holder: &'a str, _: Duration) -> BoxFuture<'a, Result<Lease, GroupError>> {
        ready(Ok(Lease { holder: holder.to_owned(), until: None })).boxed()
    }

    fn renew_lease<'a>(&'a self, lease: &'a Lease, _: Duration) -> BoxFuture<'a, Result<Lease, GroupError>> {
        ready(Ok(lease.clone())).boxed()
    }

    fn release_lease(&self, _: Lease) -> BoxFuture<'_, Result<(), GroupError>> {
        ready(Ok(())).boxed()
    }

    fn reconfigure(&self, plugin: &PluginConfig, connector: &ConnectorConfig) -> Result<(), GroupError> {
        self.take_up(plugin, connector)
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
