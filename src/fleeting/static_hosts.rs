//! A fixed list of hosts that somebody else runs.
//!
//! Every host is running as far as this provider knows. The list cannot grow: an increase only takes hosts into
//! use again that a decrease has given back, and anything beyond is refused. A decrease deletes nothing; it puts the
//! host aside, so that it is not listed until an increase wants it. That survives no restart: then all are listed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use crate::config::resolved::{ConnectorConfig, PluginConfig, Protocol, StaticHost, StaticHosts};
use crate::fleeting::group::{
    ConnectInfo, Decreased, GroupError, GroupFacts, GroupListing, Increased, InstanceGroup, InstanceState, KeyMaterial,
    Lease, Operation, Ownership, ProviderInfo,
};
use crate::ids::InstanceId;
use crate::secret::Secret;

/// The group of `plugin = "static"`.
pub struct StaticGroup {
    hosts: Mutex<Hosts>,
}

/// The hosts as the configuration has them now, and what became of them.
struct Hosts {
    listed: BTreeMap<InstanceId, StaticHost>,
    connector: ConnectorConfig,
    /// Hosts that were given back, in the order in which they were.
    aside: Vec<InstanceId>,
    /// Hosts that are no longer in the configuration, until they are given back.
    dismissed: BTreeMap<InstanceId, StaticHost>,
}

impl fmt::Debug for StaticGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticGroup").field("hosts", &self.hosts().listed.len()).finish_non_exhaustive()
    }
}

impl StaticGroup {
    pub fn new(hosts: &StaticHosts, connector: &ConnectorConfig) -> Self {
        let (aside, dismissed) = (Vec::new(), BTreeMap::new());
        Self { hosts: Mutex::new(Hosts { listed: by_id(hosts), connector: connector.clone(), aside, dismissed }) }
    }

    /// A host is put aside and comes back, with its engine and all that ran on it.
    pub(crate) fn facts(hosts: &StaticHosts) -> GroupFacts {
        GroupFacts {
            instances_are_destroyed: false,
            engine_survives_instance: false,
            runs_this_binary: false,
            max_size: Some(size(hosts.instances.len())),
        }
    }

    fn info(&self) -> ProviderInfo {
        ProviderInfo { id: "static".to_owned(), max_size: Some(size(self.hosts().listed.len())) }
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosts {
    fn get(&self, id: &InstanceId) -> Result<&StaticHost, GroupError> {
        let host = self.listed.get(id).or_else(|| self.dismissed.get(id));
        host.ok_or_else(|| GroupError::UnknownInstance { id: id.clone() })
    }

    fn info_of(&self, id: &InstanceId) -> Result<ConnectInfo, GroupError> {
        let host = self.get(id)?;
        let protocol = host.protocol.or(self.connector.protocol).unwrap_or(Protocol::Ssh);
        Ok(ConnectInfo {
            id: id.clone(),
            os: first(&host.os, &self.connector.os).unwrap_or_else(|| "linux".to_owned()),
            arch: first(&host.arch, &self.connector.arch).unwrap_or_else(|| "amd64".to_owned()),
            protocol,
            username: first(&host.username, &self.connector.username).unwrap_or_else(|| "root".to_owned()),
            password: host.password.clone().or_else(|| self.connector.password.clone()),
            key: first(&host.key_path, &self.connector.key_path).map(|path| read_key(&path)).transpose()?,
            external_addr: host.external_addr.clone(),
            internal_addr: host.internal_addr.clone(),
            port: host.port.or(self.connector.port).unwrap_or_else(|| protocol.default_port()),
            host_key: host.host_key.as_ref().map(ToString::to_string),
            expires: None,
            timeout: host.timeout,
        })
    }

    fn increase(&mut self, count: u32) -> Increased {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        // The longest aside first, so that one that fails does not keep the others from being tried.
        let found = wanted.min(self.aside.len());
        let returned = self.aside.drain(..found).count();
        let max = size(self.listed.len());
        Increased { succeeded: size(returned), error: (returned < wanted).then_some(GroupError::Full { max }) }
    }

    fn decrease(&mut self, ids: &[InstanceId]) -> Decreased {
        let (known, unknown): (Vec<_>, Vec<_>) = ids.iter().cloned().partition(|id| self.get(id).is_ok());
        for id in &known {
            if self.dismissed.remove(id).is_none() && !self.aside.contains(id) {
                self.aside.push(id.clone());
            }
        }
        let error = unknown.into_iter().next().map(|id| GroupError::UnknownInstance { id });
        Decreased { succeeded: known, error }
    }

    fn listing(&self) -> GroupListing {
        let used = self.listed.keys().filter(|id| !self.aside.contains(id)).map(|id| (id, InstanceState::Running));
        let going = self.dismissed.keys().map(|id| (id, InstanceState::Timeout));
        let instances: Vec<_> = used.chain(going).map(|(id, state)| (id.clone(), state)).collect();
        GroupListing { target_size: Some(size(instances.len())), instances }
    }

    fn reconfigure(&mut self, hosts: &StaticHosts, connector: &ConnectorConfig) {
        let before = std::mem::replace(&mut self.listed, by_id(hosts));
        self.dismissed.extend(before.into_iter().filter(|(id, _)| !self.aside.contains(id)));
        self.dismissed.retain(|id, _| !self.listed.contains_key(id));
        self.aside.retain(|id| self.listed.contains_key(id));
        self.connector = connector.clone();
    }
}

fn by_id(hosts: &StaticHosts) -> BTreeMap<InstanceId, StaticHost> {
    hosts.instances.iter().map(|(name, host)| (InstanceId::new(name.as_str()), host.clone())).collect()
}

/// The key file is read at each dial: it may be replaced while the manager runs.
pub(crate) fn read_key(path: &Path) -> Result<KeyMaterial, GroupError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| GroupError::Failed {
        operation: Operation::ConnectInfo,
        source: Box::new(KeyFileError { path: path.to_owned(), source }),
    };
    let pem = fs::read_to_string(path).map_err(|error| failed(Box::new(error)))?;
    KeyMaterial::decode(&Secret::new(pem)).map_err(|error| failed(Box::new(error)))
}

#[derive(Debug, thiserror::Error)]
#[error("key file {}", path.display())]
struct KeyFileError {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn first<T: Clone>(of_host: &Option<T>, of_group: &Option<T>) -> Option<T> {
    of_host.clone().or_else(|| of_group.clone())
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl InstanceGroup for StaticGroup {
    fn init(&self) -> BoxFuture<'_, Result<ProviderInfo, GroupError>> {
        ready(Ok(self.info())).boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(ProviderInfo, GroupListing), GroupError>> {
        ready(Ok((self.info(), self.hosts().listing()))).boxed()
    }

    fn update(&self) -> BoxFuture<'_, Result<GroupListing, GroupError>> {
        ready(Ok(self.hosts().listing())).boxed()
    }

    fn increase(&self, count: u32) -> BoxFuture<'_, Increased> {
        ready(self.hosts().increase(count)).boxed()
    }

    fn decrease<'a>(&'a self, ids: &'a [InstanceId]) -> BoxFuture<'a, Decreased> {
        ready(self.hosts().decrease(ids)).boxed()
    }

    fn connect_info<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<ConnectInfo, GroupError>> {
        ready(self.hosts().info_of(id)).boxed()
    }

    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), GroupError>> {
        ready(self.hosts().get(id).map(|_| ())).boxed()
    }

    fn reconfigure(&self, plugin: &PluginConfig, connector: &ConnectorConfig) -> Result<(), GroupError> {
        let PluginConfig::Static(hosts) = plugin else {
            return Err(GroupError::AnotherGroup { change: "another plugin" });
        };
        self.hosts().reconfigure(hosts, connector);
        Ok(())
    }

    fn ownership(&self) -> BoxFuture<'_, Result<Ownership, GroupError>> {
        ready(Ok(Ownership::Fixed)).boxed()
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

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: &str) -> StaticHost {
        StaticHost {
            external_addr: Some(address.to_owned()),
            internal_addr: None,
            username: None,
            password: None,
            key_path: None,
            protocol: None,
            port: None,
            os: None,
            arch: None,
            timeout: None,
            host_key: None,
        }
    }

    fn group() -> StaticGroup {
        let instances = ["a", "b", "c"].map(|name| (name.to_owned(), host(&format!("{name}.example"))));
        let connector =
            ConnectorConfig { username: Some("ci".to_owned()), port: Some(2222), ..ConnectorConfig::default() };
        StaticGroup::new(&StaticHosts { instances: instances.into() }, &connector)
    }

    fn ids(listing: &GroupListing) -> Vec<&str> {
        listing.instances.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[tokio::test]
    async fn every_host_is_running_and_the_list_cannot_grow() {
        let group = group();
        let listing = group.update().await.unwrap();
        assert_eq!(ids(&listing), ["a", "b", "c"]);
        assert!(listing.instances.iter().all(|(_, state)| *state == InstanceState::Running));
        assert_eq!(group.init().await.unwrap().max_size, Some(3));
        let increased = group.increase(2).await;
        assert_eq!(increased.succeeded, 0);
        let error = increased.error.unwrap();
        assert!(error.is_capacity() && !error.is_retryable());
    }

    #[tokio::test]
    async fn a_decrease_puts_hosts_aside_until_an_increase_wants_them() {
        let group = group();
        let gone = [InstanceId::new("b"), InstanceId::new("x")];
        let decreased = group.decrease(&gone).await;
        assert_eq!(decreased.succeeded, [InstanceId::new("b")]);
        assert!(matches!(decreased.error, Some(GroupError::UnknownInstance { id }) if id.as_str() == "x"));
        assert_eq!(ids(&group.update().await.unwrap()), ["a", "c"]);
        let increased = group.increase(2).await;
        assert_eq!((increased.succeeded, increased.error.is_some()), (1, true));
        assert_eq!(ids(&group.update().await.unwrap()), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn the_host_that_was_put_aside_first_comes_back_first() {
        let group = group();
        for name in ["b", "c", "a"] {
            group.decrease(&[InstanceId::new(name)]).await;
        }
        assert_eq!(group.increase(1).await.succeeded, 1);
        assert_eq!(ids(&group.update().await.unwrap()), ["b"]);
        group.decrease(&[InstanceId::new("b")]).await;
        assert_eq!(group.increase(2).await.succeeded, 2);
        assert_eq!(ids(&group.update().await.unwrap()), ["a", "c"], "one that fails lets the others have their turn");
    }

    #[tokio::test]
    async fn a_host_that_is_no_longer_in_the_file_is_to_be_deleted_and_a_new_one_runs() {
        let group = group();
        group.decrease(&[InstanceId::new("c")]).await;
        let new = ["a", "d"].map(|name| (name.to_owned(), host("new.example")));
        let plugin = PluginConfig::Static(StaticHosts { instances: new.into() });
        group.reconfigure(&plugin, &ConnectorConfig::default()).unwrap();
        let states = |listing: GroupListing| -> Vec<(String, InstanceState)> {
            listing.instances.into_iter().map(|(id, state)| (id.to_string(), state)).collect()
        };
        let running = |name: &str| (name.to_owned(), InstanceState::Running);
        let listed = states(group.update().await.unwrap());
        assert_eq!(listed, [running("a"), running("d"), ("b".to_owned(), InstanceState::Timeout)]);
        // A job on it may have to be reached again.
        let info = group.connect_info(&InstanceId::new("b")).await.unwrap();
        assert_eq!(info.external_addr.as_deref(), Some("b.example"));
        assert_eq!(group.decrease(&[InstanceId::new("b")]).await.succeeded, [InstanceId::new("b")]);
        assert_eq!(states(group.update().await.unwrap()), [running("a"), running("d")]);
        assert_eq!(group.increase(1).await.succeeded, 0, "what was dismissed does not come back");
    }

    #[tokio::test]
    async fn another_plugin_is_another_group() {
        let local = PluginConfig::Local(crate::config::resolved::LocalGroup::default());
        let error = group().reconfigure(&local, &ConnectorConfig::default()).unwrap_err();
        assert!(error.to_string().starts_with("another plugin makes it another group: restart"), "{error}");
    }

    #[tokio::test]
    async fn what_the_host_does_not_say_comes_from_the_connector() {
        let info = group().connect_info(&InstanceId::new("a")).await.unwrap();
        assert_eq!((info.username.as_str(), info.port), ("ci", 2222));
        assert_eq!(info.external_addr.as_deref(), Some("a.example"));
    }

    #[tokio::test]
    async fn an_unreadable_key_file_is_named() {
        let mut hosts = host("a");
        hosts.key_path = Some("/nonexistent/key".into());
        let hosts = StaticHosts { instances: [("a".to_owned(), hosts)].into() };
        let error = StaticGroup::new(&hosts, &ConnectorConfig::default()).connect_info(&InstanceId::new("a")).await;
        let error = error.unwrap_err();
        let text = crate::error_chain::Chain(&error).to_string();
        assert!(text.contains("key file /nonexistent/key") && text.contains("No such file"), "{text}");
    }
}
