//! One runner's client.

mod jobs;
mod runners;
mod told;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::Method;
use serde::Serialize;

use super::call::{Call, Reply};
use super::connections::Connections;
use super::error::{CallError, ClientError};
use super::observer::{CallObserver, CallReport, Endpoint};
use super::retry::Attempts;
use super::tls::TlsFiles;
use super::transport::{self, Transport};
use super::wire::{self, Info};
use crate::secret::Secret;
use crate::time;

/// What a client needs to know of its runner.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// The server, as in the configuration.
    pub url: String,
    pub token: Secret,
    pub system_id: String,
    pub info: Info,
    pub tls: TlsFiles,
}

/// Whether a job request may be held by the server until there is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Echoes the last `X-GitLab-Last-Update`: answered when something changed, or after 50 s.
    Held,
    /// Leaves it out: answered at once.
    AtOnce,
}

/// Speaks to GitLab for one runner. Cheap to clone; clones share the `last_update` and the connections.
///
/// Dropping the future of any call ends it. Calls about jobs that are long over are harmless.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    token: Secret,
    system_id: String,
    info: Arc<Info>,
    last_update: Mutex<Option<String>>,
    observer: Arc<dyn CallObserver>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.inner.transport.shown()).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the TLS files but connects to nothing.
    ///
    /// # Errors
    /// An URL, token or proxy that can never work.
    pub fn new(
        connections: &Connections,
        runner: RunnerSettings,
        observer: Arc<dyn CallObserver>,
    ) -> Result<Self, ClientError> {
        transport::token_value(&runner.token)?;
        let transport = Transport::new(&runner.url, connections.pool(&runner.tls)?)?;
        let inner = Inner {
            transport,
            token: runner.token,
            system_id: runner.system_id,
            info: Arc::new(runner.info),
            last_update: Mutex::default(),
            observer,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is told of this runner in each request; updates of jobs repeat it.
    pub fn info(&self) -> &Arc<Info> {
        &self.inner.info
    }

    fn last_update(&self) -> Option<String> {
        self.inner.last_update.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_last_update(&self, reply: &Reply) {
        if let Some(value) =
            transport::text(&reply.headers, wire::header::LAST_UPDATE).filter(|value| !value.is_empty())
        {
            *self.inner.last_update.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.to_owned());
        }
    }

    /// Sends, keeps `last_update` and tells the observer.
    async fn send(&self, endpoint: Endpoint, call: &Call) -> Answered {
        let started = time::now().instant;
        let mut attempts = Attempts::default();
        let reply = self.inner.transport.call(call, &mut attempts).await;
        if let Ok(reply) = &reply {
            self.keep_last_update(reply);
        }
        self.inner.observer.observe(&CallReport {
            endpoint,
            method: lower_case(&call.method),
            status: reply.as_ref().ok().map(|reply| reply.status.as_u16()),
            duration: time::now().instant.saturating_duration_since(started),
            attempts: attempts.made(),
            path: &path_label(&self.inner.transport.url(&call.path, None)),
        });
        Answered { reply, pushed_back: attempts.pushed_back() }
    }
}

/// The end of a call.
struct Answered {
    reply: Result<Reply, CallError>,
    pushed_back: bool,
}

impl Answered {
    fn status(&self) -> Option<u16> {
        self.reply.as_ref().ok().map(|reply| reply.status.as_u16())
    }

    /// Why it is not what was hoped for, for logs.
    fn message(&self) -> String {
        match &self.reply {
            Ok(Reply { body_error: Some(error), .. }) | Err(error) => crate::error_chain::Chain(error).to_string(),
            Ok(reply) => transport::message(reply.status, &reply.body),
        }
    }

    /// The body as JSON, whatever its media type says.
    fn json<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.reply.as_ref().ok()?.body).ok()
    }
}

fn json_body(body: &impl Serialize) -> Bytes {
    // Our own types have text keys only, which is all that could fail.
    serde_json::to_vec(body).map(Bytes::from).unwrap_or_default()
}

fn lower_case(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    }
}

/// A path whose numbers are `{id}`, so that metrics stay few.
fn path_label(url: &reqwest::Url) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    url.path().split('/').map(|part| if is_number(part) { "{id}" } else { part }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_paths_are_one_label() {
        let url = reqwest::Url::parse("https://host/gitlab2/api/v4/jobs/123/trace").unwrap();
        assert_eq!(path_label(&url), "/gitlab2/api/v4/jobs/{id}/trace");
    }
}
