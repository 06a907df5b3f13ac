//! Connections to GitLab, shared by all clients whose TLS settings are equal.
//!
//! Each setting has one HTTP client with its pool and its store of authorities, so that fifty runners of
//! one server cost little more than one. It is made anew when a TLS file changes, and every
//! `connection_max_age`, which lets go of idle connections (a load balancer may have moved on) while those
//! in use end by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tracing::warn;

use super::error::ClientError;
use super::proxy::ProxySettings;
use super::tls::{JobTls, Material, Stamp, TlsFiles};
use super::trust::{Authorities, Witness};
use crate::error_chain::Chain;
use crate::time;

/// Reaching the server and the TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const MAX_IDLE: usize = 100;

/// All connections of the process to GitLab servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max_age: Option<Duration>,
    proxies: ProxySettings,
    pools: Mutex<BTreeMap<TlsFiles, Weak<Pool>>>,
}

impl Connections {
    /// `max_age` is the configuration's `connection_max_age`; zero keeps idle connections as long as they last.
    pub fn new(proxies: ProxySettings, max_age: Duration) -> Self {
        let max_age = (!max_age.is_zero()).then_some(max_age);
        Self { shared: Arc::new(Shared { max_age, proxies, pools: Mutex::default() }) }
    }

    /// The pool of these TLS settings, made where there is none.
    pub(super) fn pool(&self, files: &TlsFiles) -> Result<Arc<Pool>, ClientError> {
        let mut pools = lock(&self.shared.pools);
        if let Some(pool) = pools.get(files).and_then(Weak::upgrade) {
            return Ok(pool);
        }
        let pool = Arc::new(Pool {
            files: files.clone(),
            proxies: self.shared.proxies.clone(),
            max_age: self.shared.max_age,
            current: Mutex::new(Current::make(files, &self.shared.proxies)?),
        });
        pools.retain(|_, pool| pool.strong_count() > 0);
        pools.insert(files.clone(), Arc::downgrade(&pool));
        Ok(pool)
    }
}

/// The connections of one TLS setting.
#[derive(Debug)]
pub(super) struct Pool {
    files: TlsFiles,
    proxies: ProxySettings,
    max_age: Option<Duration>,
    current: Mutex<Current>,
}

/// An HTTP client, and what belongs to its connections.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "manager"), expect(dead_code, reason = "only what hands out jobs is asked about its TLS"))]
pub(super) struct CurrentClient {
    pub(super) client: reqwest::Client,
    /// From the files that it was made from.
    pub(super) tls: Arc<JobTls>,
    pub(super) witness: Arc<Witness>,
}

#[derive(Debug)]
struct Current {
    client: CurrentClient,
    stamp: Stamp,
    made: Instant,
}

impl Pool {
    /// The HTTP client for the next call.
    pub(super) fn current(&self) -> Result<CurrentClient, ClientError> {
        let mut current = lock(&self.current);
        let age = time::now().instant.saturating_duration_since(current.made);
        if self.max_age.is_some_and(|max_age| age > max_age) || self.files.stamp() != current.stamp {
            *current = Current::make(&self.files, &self.proxies)?;
        }
        Ok(current.client.clone())
    }
}

impl Current {
    fn make(files: &TlsFiles, proxies: &ProxySettings) -> Result<Self, ClientError> {
        // The stamp comes first: a file that changes meanwhile is read again on the next call.
        let stamp = files.stamp();
        let material = files.read();
        for problem in &material.problems {
            warn!(error = %Chain(problem), "TLS file left out");
        }
        let client = make_client(material, &proxies.to_proxies()?)?;
        Ok(Self { client, stamp, made: time::now().instant })
    }
}

fn make_client(material: Material, proxies: &[reqwest::Proxy]) -> Result<CurrentClient, ClientError> {
    let authorities = Authorities::of_this_machine(material.authorities);
    let (tls, witness) =
        authorities.client(material.identity.as_ref()).map_err(|source| ClientError::Tls { source })?;
    let client = builder(proxies).tls_backend_preconfigured(tls).build();
    let client = client.map_err(|source| ClientError::Build { source })?;
    Ok(CurrentClient { client, tls: Arc::new(material.job), witness })
}

fn builder(proxies: &[reqwest::Proxy]) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder()
        // Long polls would take up the streams of one HTTP/2 connection that all runners share, and a
        // server's limit of them would then hold back trace patches.
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        // Each answer tells whose it is, by which the chain of its connection is found.
        .tls_info(true)
        .no_proxy();
    for proxy in proxies {
        builder = builder.proxy(proxy.clone());
    }
    builder
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
