//! Artifacts of jobs: archived and uploaded, downloaded and extracted.
//!
//! The calls are those of [`crate::gitlab::artifacts`]; here is what lies around them: the files, the
//! tries, and what the job's reader is told.

mod body;
mod download;
mod patience;
mod upload;

use super::cli::JobArgs;
use super::environment::Environment;
use super::run::Failure;
use crate::gitlab::JobCredentials;
use crate::gitlab::artifacts::ArtifactsClient;
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::tls::TlsFiles;
use crate::ids::{JobId, short_token};

pub(super) use download::download;
pub(super) use upload::upload;

/// The job that a command speaks about, and how to reach its server.
struct Job {
    client: ArtifactsClient,
    credentials: JobCredentials,
    /// The job's number and the start of its token, for messages.
    id_text: String,
    short_token: String,
}

impl Job {
    /// From the flags, with the job's variables as their defaults. `None` where one is missing.
    fn new(args: &JobArgs, environment: &Environment) -> Result<Option<Self>, Failure> {
        let url = args.url.as_deref().filter(|url| !url.is_empty()).or_else(|| environment.get("CI_SERVER_URL"));
        let token = args
            .token
            .clone()
            .filter(|token| !token.is_empty())
            .or_else(|| environment.get("CI_JOB_TOKEN").map(Into::into));
        let id = args.id.or_else(|| environment.get("CI_JOB_ID")?.parse().ok()).filter(|id| *id > 0);
        let (Some(url), Some(token), Some(id)) = (url, token, id) else { return Ok(None) };
        let file = |flag: &Option<std::path::PathBuf>, name| {
            let path = flag.clone().or_else(|| environment.get(name).map(Into::into))?;
            Some(environment.absolute(path))
        };
        let tls = TlsFiles {
            ca: file(&args.tls_ca_file, "CI_SERVER_TLS_CA_FILE"),
            cert: file(&args.tls_cert_file, "CI_SERVER_TLS_CERT_FILE"),
            key: file(&args.tls_key_file, "CI_SERVER_TLS_KEY_FILE"),
        };
        let proxies = ProxySettings::from_env(|name| environment.get(name));
        let client = ArtifactsClient::new(url, &tls, proxies).map_err(|error| Failure::fatal(&error))?;
        let (id_text, short_token) = (id.to_string(), short_token(token.expose()).to_owned());
        Ok(Some(Self { client, credentials: JobCredentials { id: JobId(id), token }, id_text, short_token }))
    }

    /// The fields that each message about a call has; the status is left out where there was none.
    fn fields<'a>(&'a self, status: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut fields = vec![("id", self.id_text.as_str()), ("token", self.short_token.as_str())];
        if !status.is_empty() {
            fields.push(("status", status));
        }
        fields
    }
}

#[cfg(test)]
mod tests;
