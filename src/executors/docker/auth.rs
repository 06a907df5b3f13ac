//! Credentials for an image's registry.
//!
//! Sources, in order: the job's `DOCKER_AUTH_CONFIG`, the Docker configuration of the manager's user,
//! the credentials that GitLab sent. Of one registry path the first source wins; among paths the
//! longest that leads to the image. Nothing is written anywhere.
//!
//! A source may name credential helpers, which are programs on the manager's host. Those that the operator names run;
//! of those that a job names only the ones that [`Keyring::allowed_helpers`] has. What a helper says when it fails is
//! for our own log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::credential_helper::{self, NamedBy, RunError};
use crate::config::environment::Environment;
use crate::config::resolved::Runner;
use crate::config::types::credential_helper::{CredentialHelper, CredentialHelperError};
use crate::config::types::image_reference::ImageReference;
use crate::decode_error::DecodeError;
use crate::excerpt::excerpt;
use crate::executors::JobTrace;
use crate::job::failure::Fault;
use crate::job::resolved::ResolvedJob;

/// The variable with a Docker configuration.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// How long all helpers of one source may take together: a job may name many.
const SOURCE_LIMIT: Duration = Duration::from_secs(60);

/// The longest name of a server that a helper is asked for.
const LONGEST_SERVER: usize = 1024;

/// What the operator gives to find credentials with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring {
    /// Of the manager's process: `HOME` is where its own Docker configuration is, and helpers get it or parts of it.
    pub(crate) environment: Environment,
    /// `allowed_credential_helpers`.
    pub(crate) configured: Option<Vec<CredentialHelper>>,
    /// `DOCKER_AUTH_CONFIG` of the `[[runners]]` entry; empty where it has none.
    pub(crate) operators_variable: String,
}

impl Keyring {
    pub(crate) fn of(runner: &Runner, environment: &Environment) -> Self {
        let variable = runner.environment.iter().rev().find(|(key, _)| key == VARIABLE);
        Self {
            environment: environment.clone(),
            configured: runner.docker.allowed_credential_helpers.clone(),
            operators_variable: variable.map(|(_, value)| value.clone()).unwrap_or_default(),
        }
    }

    /// The helpers that a job may name.
    pub(crate) fn allowed_helpers(&self) -> BTreeSet<CredentialHelper> {
        if let Some(configured) = &self.configured {
            return configured.iter().cloned().collect();
        }
        let own = self.user_config().map(|(_, content)| content).unwrap_or_default();
        let of_clouds = CredentialHelper::OF_CLOUDS.iter().filter_map(|name| name.parse().ok());
        let named = [own.as_slice(), self.operators_variable.as_bytes()].into_iter().flat_map(helpers_named_in);
        of_clouds.chain(named).collect()
    }

    fn user_config(&self) -> Option<(PathBuf, Vec<u8>)> {
        let home = Path::new(self.environment.get("HOME")?);
        [".docker/config.json", ".dockercfg"].iter().find_map(|name| {
            let file = home.join(name);
            std::fs::read(&file).ok().map(|content| (file, content))
        })
    }
}

fn helpers_named_in(config: &[u8]) -> Vec<CredentialHelper> {
    let config: DockerConfig = serde_json::from_slice(config).unwrap_or_default();
    config.helpers.into_values().chain([config.store]).filter_map(|name| name.parse().ok()).collect()
}

/// Credentials, and where they come from, for the line in the trace.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) credentials: DockerCredentials,
    pub(crate) source: String,
}

/// Docker's own configuration file, as far as it is about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a credential helper prints.
#[derive(Debug, Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", alias = "username")]
    username: String,
    #[serde(rename = "Secret", alias = "secret")]
    secret: String,
}

/// Why a source gives no credentials, in words for the trace.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("{0}")]
    Json(#[from] DecodeError),
    #[error("an auth value is not base64 of user:password")]
    Auth,
    #[error("{error}: {name:?}")]
    HelperName { name: String, error: CredentialHelperError },
    #[error("the credential helper {0} is not among the runner's allowed_credential_helpers, so it was not run")]
    NotAllowed(CredentialHelper),
    #[error("the name of a server is too long for a credential helper, or has characters that no server's name has")]
    Server,
    /// The helper's own words are the operator's.
    #[error("{} failed; the reason is in the runner manager's log", helper.program())]
    Helper { helper: CredentialHelper, source: RunError },
    #[error("the answer of {} is not understood: {source}", helper.program())]
    Answer { helper: CredentialHelper, source: DecodeError },
    #[error("its credential helpers did not answer within {} s", SOURCE_LIMIT.as_secs())]
    Slow,
}

type Entries = Vec<(String, DockerCredentials)>;

/// The credentials for `image`, if there are any. The trace says which sources could not be used.
///
/// # Errors
/// A helper's name is a path.
pub(crate) async fn find(
    image: &ImageReference,
    job: &ResolvedJob,
    keyring: &Keyring,
    trace: &impl JobTrace,
) -> Result<Option<Found>, Fault> {
    let mut best: Option<(usize, Found)> = None;
    let paths = lookup_paths(image);
    for (source, entries) in sources(job, keyring, &paths).await {
        let entries = match entries {
            Ok(entries) => entries,
            Err(error @ SourceError::HelperName { .. }) => {
                return Err(Fault::configuration(format!("resolving credentials from {source}: {error}")));
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| trace.masked(&cause.to_string()));
                tracing::warn!(source, error = trace.masked(&error.to_string()), cause, "credentials cannot be used");
                trace.warning(&format!(
                    "Failed to resolve credentials from {source}: {error}. Credentials from this source will not be used."
                ));
                continue;
            }
        };
        for (path, credentials) in entries {
            // Lower ranks are longer paths; an equal rank of a later source does not count.
            let Some(rank) = paths.iter().position(|wanted| *wanted == path) else { continue };
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, Found { credentials, source: source.clone() }));
            }
        }
    }
    Ok(best.map(|(_, found)| found))
}

async fn sources(
    job: &ResolvedJob,
    keyring: &Keyring,
    paths: &[String],
) -> Vec<(String, Result<Entries, SourceError>)> {
    let mut sources = Vec::new();
    let variable = job.variables.value(VARIABLE);
    if !variable.is_empty() {
        let named_by = if variable == keyring.operators_variable { NamedBy::Operator } else { NamedBy::Job };
        let helpers = Helpers { keyring, named_by };
        sources.push((format!("${VARIABLE}"), helpers.entries_of(variable.as_bytes(), paths).await));
    }
    if let Some((file, content)) = keyring.user_config() {
        let helpers = Helpers { keyring, named_by: NamedBy::Operator };
        sources.push((file.display().to_string(), helpers.entries_of(&content, paths).await));
    }
    let sent = job.job.registry_credentials.iter().map(|credential| {
        let credentials = DockerCredentials {
            username: Some(credential.username.clone()),
            password: Some(credential.password.expose().to_owned()),
            serveraddress: Some(credential.url.clone()),
            ..DockerCredentials::default()
        };
        (registry_path(&credential.url), credentials)
    });
    sources.push(("job payload (GitLab Registry)".to_owned(), Ok(sent.collect())));
    sources
}

/// Asks the helpers that one source names.
struct Helpers<'a> {
    keyring: &'a Keyring,
    named_by: NamedBy,
}

impl Helpers<'_> {
    async fn entries_of(&self, config: &[u8], paths: &[String]) -> Result<Entries, SourceError> {
        let config: DockerConfig = decoded(config)?;
        let mut entries = BTreeMap::new();
        for (server, entry) in config.auths {
            entries.insert(registry_path(&server), credentials_of(&server, entry)?);
        }
        let asked = self.ask(&config.store, config.helpers, paths);
        entries.extend(timeout(SOURCE_LIMIT, asked).await.map_err(|_| SourceError::Slow)??);
        Ok(entries.into_iter().collect())
    }

    /// The store's entries and the helpers' for `paths`; the helpers' win.
    async fn ask(
        &self,
        store: &str,
        helpers: BTreeMap<String, String>,
        paths: &[String],
    ) -> Result<Entries, SourceError> {
        // Names are judged before anything runs, and of servers with the same path one is asked for.
        let mut chosen = BTreeMap::new();
        for (server, helper) in helpers {
            if paths.contains(&registry_path(&server)) {
                chosen.insert(registry_path(&server), (server, self.permitted(&helper)?));
            }
        }
        if !store.is_empty() {
            let store = self.permitted(store)?;
            for server in self.list(&store).await? {
                if paths.contains(&registry_path(&server)) {
                    chosen.entry(registry_path(&server)).or_insert_with(|| (server, store.clone()));
                }
            }
        }
        let mut entries = Vec::new();
        for (path, (server, helper)) in chosen {
            entries.push((path, self.get(&helper, &server).await?));
        }
        Ok(entries)
    }

    fn permitted(&self, name: &str) -> Result<CredentialHelper, SourceError> {
        let parsed = name.parse::<CredentialHelper>();
        let helper = parsed.map_err(|error| SourceError::HelperName { name: excerpt(name), error })?;
        match self.named_by {
            NamedBy::Job if !self.keyring.allowed_helpers().contains(&helper) => Err(SourceError::NotAllowed(helper)),
            NamedBy::Job | NamedBy::Operator => Ok(helper),
        }
    }

    async fn list(&self, store: &CredentialHelper) -> Result<Vec<String>, SourceError> {
        let servers: BTreeMap<String, serde_json::Value> = self.answer(store, "list", "").await?;
        Ok(servers.into_keys().collect())
    }

    async fn get(&self, helper: &CredentialHelper, server: &str) -> Result<DockerCredentials, SourceError> {
        if self.named_by == NamedBy::Job && !is_plain(server) {
            return Err(SourceError::Server);
        }
        let answer: HelperAnswer = self.answer(helper, "get", server).await?;
        let server = Some(server.to_owned());
        // A helper says by this name that the secret is a token.
        Ok(if answer.username == "<token>" {
            DockerCredentials {
                identitytoken: Some(answer.secret),
                serveraddress: server,
                ..DockerCredentials::default()
            }
        } else {
            DockerCredentials {
                username: Some(answer.username),
                password: Some(answer.secret),
                serveraddress: server,
                ..DockerCredentials::default()
            }
        })
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        helper: &CredentialHelper,
        verb: &str,
        input: &str,
    ) -> Result<T, SourceError> {
        let ran = credential_helper::run(helper, verb, input, self.named_by, &self.keyring.environment).await;
        let answer = ran.map_err(|source| SourceError::Helper { helper: helper.clone(), source })?;
        decoded(&answer).map_err(|source| SourceError::Answer { helper: helper.clone(), source })
    }
}

/// A server's name as helpers expect it. They read lines, and one that looks for its own registries somewhere in the
/// text must not find them in what is no part of the address: `registry_path` drops what stands before `://`.
fn is_plain(server: &str) -> bool {
    let address = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let is_address = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/[]".contains(&byte);
    server.len() <= LONGEST_SERVER && address.bytes().all(is_address) && !address.contains("://")
}

fn credentials_of(server: &str, entry: AuthEntry) -> Result<DockerCredentials, SourceError> {
    let (mut username, mut password) = (entry.username, entry.password);
    if !entry.auth.is_empty() {
        let decoded = STANDARD.decode(entry.auth.trim_end_matches('\0')).map_err(|_| SourceError::Auth)?;
        let decoded = String::from_utf8(decoded).map_err(|_| SourceError::Auth)?;
        let (user, secret) = decoded.split_once(':').ok_or(SourceError::Auth)?;
        username = user.to_owned();
        password = secret.trim_end_matches('\0').to_owned();
    }
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(DockerCredentials {
        username: filled(username),
        password: filled(password),
        serveraddress: Some(server.to_owned()),
        identitytoken: filled(entry.identitytoken),
        registrytoken: filled(entry.registrytoken),
        ..DockerCredentials::default()
    })
}

/// A helper's answer; it may contain a secret, so nothing of it is quoted.
fn decoded<T: DeserializeOwned>(answer: &[u8]) -> Result<T, DecodeError> {
    Ok(serde_json::from_slice(answer)?)
}

/// An entry's key as a path: of a URL only the host, else with its namespaces.
fn registry_path(server: &str) -> String {
    let (rest, is_url) = match server.split_once("://") {
        Some((_, rest)) => (rest, true),
        None => (server, false),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = canonical_host(host);
    let path = path.trim_end_matches('/');
    if is_url || path.is_empty() {
        return host;
    }
    format!("{host}/{}", path.split_once(':').map_or(path, |(path, _)| path))
}

/// The paths under which credentials for an image may stand, the longest first.
fn lookup_paths(image: &ImageReference) -> Vec<String> {
    let name = image.name();
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (canonical_host(host), path),
        Some(_) | None => ("docker.io".to_owned(), name),
    };
    let mut paths = vec![host.clone()];
    let mut so_far = host;
    for part in path.split('/') {
        so_far = format!("{so_far}/{part}");
        paths.insert(0, so_far.clone());
    }
    paths
}

fn canonical_host(host: &str) -> String {
    let host = host.to_lowercase();
    if host == "index.docker.io" { "docker.io".to_owned() } else { host }
}

#[cfg(test)]
mod tests;
