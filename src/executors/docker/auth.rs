//! Credentials for an image's registry.
//!
//! Sources, in order: the job's `DOCKER_AUTH_CONFIG`, the Docker configuration of the manager's user,
//! the credentials that GitLab sent. Of one registry path the first source wins; among paths the
//! longest that leads to the image. Nothing is written anywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;

use crate::config::types::image_reference::ImageReference;
use crate::decode_error::DecodeError;
use crate::excerpt::excerpt_of_bytes;
use crate::job::resolved::ResolvedJob;

/// How long a credential helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

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
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Why a source gives no credentials.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("{0}")]
    Json(#[from] DecodeError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("an auth value is not base64 of user:password")]
    Auth,
    #[error("path traversal is not allowed in the credential helper's name {0:?}")]
    HelperName(String),
    #[error("docker-credential-{helper}: {said}")]
    Helper { helper: String, said: String },
}

type Entries = Vec<(String, DockerCredentials)>;

/// The credentials for `image`, if there are any. What could not be used goes to `warnings`.
pub(crate) async fn find(
    image: &ImageReference,
    job: &ResolvedJob,
    home: Option<&Path>,
    warnings: &mut Vec<String>,
) -> Option<Found> {
    let mut best: Option<(usize, Found)> = None;
    let paths = lookup_paths(image);
    for (source, entries) in sources(job, home, &paths).await {
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                warnings.push(format!(
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
    best.map(|(_, found)| found)
}

async fn sources(
    job: &ResolvedJob,
    home: Option<&Path>,
    paths: &[String],
) -> Vec<(String, Result<Entries, SourceError>)> {
    let mut sources = Vec::new();
    let variable = job.variables.value("DOCKER_AUTH_CONFIG");
    if !variable.is_empty() {
        sources.push(("$DOCKER_AUTH_CONFIG".to_owned(), entries_of(variable.as_bytes(), paths).await));
    }
    if let Some((file, content)) = home.and_then(user_config) {
        sources.push((file.display().to_string(), entries_of(&content, paths).await));
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

fn user_config(home: &Path) -> Option<(PathBuf, Vec<u8>)> {
    [".docker/config.json", ".dockercfg"].iter().find_map(|name| {
        let file = home.join(name);
        std::fs::read(&file).ok().map(|content| (file, content))
    })
}

async fn entries_of(config: &[u8], paths: &[String]) -> Result<Entries, SourceError> {
    let config: DockerConfig = decoded(config)?;
    let mut entries = BTreeMap::new();
    for (server, entry) in config.auths {
        entries.insert(registry_path(&server), credentials_of(&server, entry)?);
    }
    if !config.store.is_empty() {
        for server in list_store(&config.store).await? {
            if paths.contains(&registry_path(&server)) {
                entries.insert(registry_path(&server), ask_helper(&config.store, &server).await?);
            }
        }
    }
    for (server, helper) in config.helpers {
        if paths.contains(&registry_path(&server)) {
            entries.insert(registry_path(&server), ask_helper(&helper, &server).await?);
        }
    }
    Ok(entries.into_iter().collect())
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

async fn list_store(store: &str) -> Result<Vec<String>, SourceError> {
    let servers: BTreeMap<String, serde_json::Value> = decoded(&run_helper(store, "list", "").await?)?;
    Ok(servers.into_keys().collect())
}

async fn ask_helper(helper: &str, server: &str) -> Result<DockerCredentials, SourceError> {
    let answer: HelperAnswer = decoded(&run_helper(helper, "get", server).await?)?;
    let server = Some(server.to_owned());
    // A helper says by this name that the secret is a token.
    Ok(if answer.username == "<token>" {
        DockerCredentials { identitytoken: Some(answer.secret), serveraddress: server, ..DockerCredentials::default() }
    } else {
        DockerCredentials {
            username: Some(answer.username),
            password: Some(answer.secret),
            serveraddress: server,
            ..DockerCredentials::default()
        }
    })
}

async fn run_helper(helper: &str, verb: &str, input: &str) -> Result<Vec<u8>, SourceError> {
    if helper.contains(['/', '\\']) || helper.contains("..") {
        return Err(SourceError::HelperName(helper.to_owned()));
    }
    let failed = |said: String| SourceError::Helper { helper: helper.to_owned(), said };
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = tokio::time::timeout(HELPER_LIMIT, child.wait_with_output()).await;
    let output = output.map_err(|_| failed("no answer in time".to_owned()))??;
    if output.status.success() { Ok(output.stdout) } else { Err(failed(excerpt_of_bytes(&output.stdout))) }
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
mod tests {
    use super::*;

    #[test]
    fn keys_of_docker_configurations_become_paths() {
        for (key, path) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("Registry.Example:5000", "registry.example:5000"),
            ("registry.example/group/project/", "registry.example/group/project"),
            ("registry.example/group:tag", "registry.example/group"),
        ] {
            assert_eq!(registry_path(key), path);
        }
    }

    #[test]
    fn longest_path_to_the_image_comes_first() {
        let check = |image: &str, paths: &[&str]| assert_eq!(lookup_paths(&image.parse().unwrap()), paths);
        check(
            "registry.example:5000/group/project:1",
            &["registry.example:5000/group/project", "registry.example:5000/group", "registry.example:5000"],
        );
        check("alpine", &["docker.io/alpine", "docker.io"]);
        let digest = format!("group/app@sha256:{}", "0".repeat(64));
        check(&digest, &["docker.io/group/app", "docker.io/group", "docker.io"]);
    }

    #[tokio::test]
    async fn auth_values_are_decoded_and_bad_ones_refuse_the_source() {
        let config = r#"{"auths":{"r.example":{"auth":"dXNlcjpwYTpzcw=="}}}"#;
        let entries = entries_of(config.as_bytes(), &[]).await.unwrap();
        assert_eq!(entries[0].0, "r.example");
        assert_eq!(entries[0].1.username.as_deref(), Some("user"));
        assert_eq!(entries[0].1.password.as_deref(), Some("pa:ss"));
        assert!(entries_of(br#"{"auths":{"r.example":{"auth":"!"}}}"#, &[]).await.is_err());
    }

    #[tokio::test]
    async fn credential_helper_must_be_a_plain_name() {
        let config = r#"{"credHelpers":{"r.example":"../../bin/sh"}}"#;
        let error = entries_of(config.as_bytes(), &["r.example".to_owned()]).await.unwrap_err();
        assert!(error.to_string().contains("path traversal"), "{error}");
    }
}
