//! Uploading and downloading a job's artifacts: the calls of the helper, beside the job.
//!
//! Bodies are streams and are never held in memory. A call is one attempt; only the caller can make the body
//! anew and tell the job's reader about it. Whether to go on is told on two levels: an answer that is a
//! [`PushBack`] is for [`super::retry::Attempts`], as for every request, and what remains after those attempts
//! has the tries of its kind ([`UploadOutcome::tries`], [`DownloadOutcome::tries`]).

use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode, Url};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::connections::Connections;
use super::credentials::JobCredentials;
use super::error::{CallError, ClientError};
use super::proxy::ProxySettings;
use super::tls::TlsFiles;
use super::transport::{self, Transport};
use super::{body, identity, redirect, retry};
use crate::error_chain::Chain;

/// Error messages of the server are cut here.
const MESSAGE_LIMIT: usize = 64 << 10;
/// A download's head comes at once, or the server looks for the file in object storage.
const DOWNLOAD_ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// Between two pieces of a download.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// Speaks about artifacts for the jobs of one server.
#[derive(Clone, Debug)]
pub struct ArtifactsClient {
    transport: Transport,
    /// Where an upload may be redirected to besides the server's own host.
    redirect_hosts: Vec<String>,
}

/// What is uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArtifactUpload {
    /// The file's name, such as `default.zip`.
    pub name: String,
    /// `zip`, `gzip`, `raw`, …; left out where empty, as are the next two.
    pub format: String,
    /// `archive`, `junit`, `dotenv`, …
    pub artifact_type: String,
    /// As in the job's configuration: `1 week`.
    pub expire_in: String,
    /// The wait for the answer once the body is sent; the whole call has the caller's timeout.
    pub response_header_timeout: Duration,
}

/// A server that says: not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushBack {
    pub status: u16,
    /// How long it asks to be left alone.
    pub wish: Option<Duration>,
}

impl PushBack {
    fn of(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let status = status.as_u16();
        retry::is_push_back(status).then(|| Self { status, wish: transport::wish(headers) })
    }
}

/// What came of one attempt of an upload.
#[derive(Clone, Debug)]
pub enum UploadOutcome {
    Uploaded,
    /// 307: the same again through this client.
    Redirected(ArtifactsClient),
    /// 307 to a host that neither is the server's nor is listed: the job's token and files stay here.
    RefusedRedirect {
        host: String,
    },
    /// 403
    Forbidden {
        message: String,
    },
    /// 413
    TooLarge {
        message: String,
    },
    /// 503
    Unavailable {
        message: String,
        push_back: Option<PushBack>,
    },
    Failed {
        status: Option<u16>,
        message: String,
        push_back: Option<PushBack>,
    },
}

impl UploadOutcome {
    /// How many tries such an outcome is worth, the first included.
    pub fn tries(&self) -> u32 {
        match self {
            Self::Uploaded | Self::Forbidden { .. } | Self::TooLarge { .. } | Self::RefusedRedirect { .. } => 1,
            Self::Unavailable { .. } => 6,
            Self::Redirected(_) | Self::Failed { .. } => 3,
        }
    }

    /// The answer, where it was a refusal of the moment.
    pub fn push_back(&self) -> Option<PushBack> {
        match self {
            Self::Unavailable { push_back, .. } | Self::Failed { push_back, .. } => *push_back,
            Self::Uploaded
            | Self::Redirected(_)
            | Self::RefusedRedirect { .. }
            | Self::Forbidden { .. }
            | Self::TooLarge { .. } => None,
        }
    }

    fn unanswered(error: &CallError) -> Self {
        Self::Failed { status: None, message: Chain(error).to_string(), push_back: None }
    }
}

/// Whether a download may come straight from object storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The server may point to object storage.
    Direct,
    ThroughGitlab,
}

/// What came of one attempt of a download.
#[derive(Debug)]
pub enum DownloadOutcome {
    Downloaded {
        bytes: u64,
    },
    /// 401
    Unauthorized {
        message: String,
    },
    /// 403
    Forbidden {
        message: String,
    },
    /// 404
    NotFound {
        message: String,
    },
    /// The file could not be written here.
    Unwritable(std::io::Error),
    /// `bytes` may have been written before it failed.
    Failed {
        status: Option<u16>,
        message: String,
        bytes: u64,
        push_back: Option<PushBack>,
    },
}

impl DownloadOutcome {
    /// How many tries such an outcome is worth, the first included.
    pub fn tries(&self) -> u32 {
        match self {
            Self::Downloaded { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Unwritable(_) => 1,
            Self::Failed { .. } => 3,
        }
    }

    /// The answer, where it was a refusal of the moment.
    pub fn push_back(&self) -> Option<PushBack> {
        match self {
            Self::Failed { push_back, .. } => *push_back,
            Self::Downloaded { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Unwritable(_) => None,
        }
    }

    fn broken(status: Option<u16>, error: &CallError, bytes: u64) -> Self {
        Self::Failed { status, message: Chain(error).to_string(), bytes, push_back: None }
    }
}

impl ArtifactsClient {
    /// Connects to nothing yet. `url` is the server's, as for a runner.
    ///
    /// # Errors
    /// An URL or proxy that can never work.
    pub fn new(url: &str, tls: &TlsFiles, proxies: ProxySettings) -> Result<Self, ClientError> {
        let connections = Connections::new(proxies, Duration::ZERO);
        Ok(Self { transport: Transport::new(url, connections.pool(tls)?)?, redirect_hosts: Vec::new() })
    }

    /// Lets uploads be redirected to these hosts too. Downloads need no list: the token stays at its origin.
    #[must_use]
    pub fn with_redirect_hosts(self, redirect_hosts: Vec<String>) -> Self {
        Self { redirect_hosts, ..self }
    }

    /// `POST jobs/:id/artifacts`: sends a file as it is made. An error of the stream ends the call.
    pub async fn upload(
        &self,
        job: &JobCredentials,
        upload: &ArtifactUpload,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> UploadOutcome {
        match self.send_upload(job, upload, body).await {
            Ok(response) => self.upload_outcome(response).await,
            Err(error) => UploadOutcome::unanswered(&error),
        }
    }

    async fn send_upload(
        &self,
        job: &JobCredentials,
        upload: &ArtifactUpload,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<reqwest::Response, CallError> {
        let mut url = self.transport.url(&format!("jobs/{}/artifacts", job.id), None);
        let query = [
            ("artifact_format", &upload.format),
            ("artifact_type", &upload.artifact_type),
            ("expire_in", &upload.expire_in),
        ];
        for (name, value) in query.into_iter().filter(|(_, value)| !value.is_empty()) {
            url.query_pairs_mut().append_pair(name, value);
        }
        let (sent, all_sent) = oneshot::channel();
        let mut sent = Some(sent);
        let end = stream::poll_fn(move |_| {
            if let Some(sent) = sent.take() {
                // Nobody waits any more where the answer came early.
                sent.send(()).ok();
            }
            Poll::Ready(None)
        });
        let part = Part::stream(reqwest::Body::wrap_stream(body.chain(end))).file_name(upload.name.clone());
        let request = self.request(Method::POST, url, Some(job))?.multipart(Form::new().part("file", part));
        let limit = upload.response_header_timeout;
        tokio::select! {
            answer = request.send() => answer.map_err(|error| CallError::Transport { source: error.without_url() }),
            () = silence_after(all_sent, limit) => Err(CallError::Timeout { limit }),
        }
    }

    async fn upload_outcome(&self, response: reqwest::Response) -> UploadOutcome {
        let status = response.status();
        let location =
            transport::text(response.headers(), LOCATION.as_str()).and_then(|target| Url::parse(target).ok());
        let moved = location.as_ref().and_then(|target| self.transport.moved_to(target, &self.redirect_hosts));
        let push_back = PushBack::of(status, response.headers());
        let message = error_message(response).await;
        match status {
            StatusCode::CREATED => UploadOutcome::Uploaded,
            StatusCode::TEMPORARY_REDIRECT => match (location, moved) {
                (_, Some(transport)) => UploadOutcome::Redirected(Self { transport, ..self.clone() }),
                (Some(target), None) => UploadOutcome::RefusedRedirect { host: shown_host(&target) },
                (None, None) => UploadOutcome::Failed { status: Some(307), message, push_back },
            },
            StatusCode::FORBIDDEN => UploadOutcome::Forbidden { message },
            StatusCode::PAYLOAD_TOO_LARGE => UploadOutcome::TooLarge { message },
            StatusCode::SERVICE_UNAVAILABLE => UploadOutcome::Unavailable { message, push_back },
            other => UploadOutcome::Failed { status: Some(other.as_u16()), message, push_back },
        }
    }

    fn request(
        &self,
        method: Method,
        url: Url,
        tokens_of: Option<&JobCredentials>,
    ) -> Result<reqwest::RequestBuilder, CallError> {
        let current = self.transport.http()?;
        let mut request = current
            .client
            .request(method, url)
            .header(reqwest::header::USER_AGENT, identity::user_agent())
            .header(transport::REQUEST_ID, transport::request_id());
        if let Some(job) = tokens_of {
            request = request.header("job-token", transport::token_value(&job.token)?);
        }
        Ok(request)
    }

    /// `GET jobs/:id/artifacts`: writes the archive of the job whose credentials are given (a dependency's)
    /// as it comes.
    pub async fn download(
        &self,
        job: &JobCredentials,
        route: Route,
        to: &mut (impl AsyncWrite + Unpin + Send),
    ) -> DownloadOutcome {
        let response = match self.open_download(job, route).await {
            Ok(response) => response,
            Err(error) => return DownloadOutcome::broken(None, &error, 0),
        };
        match response.status() {
            StatusCode::OK => receive(response, to).await,
            StatusCode::UNAUTHORIZED => DownloadOutcome::Unauthorized { message: error_message(response).await },
            StatusCode::FORBIDDEN => DownloadOutcome::Forbidden { message: error_message(response).await },
            StatusCode::NOT_FOUND => DownloadOutcome::NotFound { message: error_message(response).await },
            other => {
                let push_back = PushBack::of(other, response.headers());
                let message = error_message(response).await;
                DownloadOutcome::Failed { status: Some(other.as_u16()), message, bytes: 0, push_back }
            }
        }
    }

    /// To the head of the answer that is no redirect; the job's token stays at its origin.
    async fn open_download(&self, job: &JobCredentials, route: Route) -> Result<reqwest::Response, CallError> {
        let query = match route {
            Route::Direct => Some("direct_download=true"),
            Route::ThroughGitlab => None,
        };
        let mut url = self.transport.url(&format!("jobs/{}/artifacts", job.id), query);
        let mut with_tokens = true;
        for _ in 0..=redirect::LIMIT {
            let request = self.request(Method::GET, url.clone(), with_tokens.then_some(job))?;
            let response = transport::within(DOWNLOAD_ANSWER_WITHIN, request.send()).await?;
            let location = transport::text(response.headers(), LOCATION.as_str());
            let Some(step) = redirect::next(response.status(), location, &Method::GET, &url, false) else {
                return Ok(response);
            };
            with_tokens &= step.with_tokens;
            url = step.url;
        }
        Err(CallError::TooManyRedirects { limit: redirect::LIMIT })
    }
}

/// With its scheme and port, without what a URL may have besides.
fn shown_host(target: &Url) -> String {
    target.origin().ascii_serialization()
}

/// Ends when the whole body has been sent for so long without an answer.
async fn silence_after(all_sent: oneshot::Receiver<()>, limit: Duration) {
    match all_sent.await {
        Ok(()) => tokio::time::sleep(limit).await,
        // The body broke off, which ends the call itself.
        Err(_) => std::future::pending().await,
    }
}

async fn receive(mut response: reqwest::Response, to: &mut (impl AsyncWrite + Unpin + Send)) -> DownloadOutcome {
    let mut bytes = 0;
    loop {
        let failed = |error| DownloadOutcome::broken(Some(200), &error, bytes);
        let chunk = match tokio::time::timeout(STALL_LIMIT, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return failed(CallError::Body { source: error.without_url() }),
            Err(_) => return failed(CallError::Timeout { limit: STALL_LIMIT }),
        };
        if let Err(error) = to.write_all(&chunk).await {
            return DownloadOutcome::Unwritable(error);
        }
        bytes += chunk.len() as u64;
    }
    match to.flush().await {
        Ok(()) => DownloadOutcome::Downloaded { bytes },
        Err(error) => DownloadOutcome::Unwritable(error),
    }
}

/// The status and what the server says about it: GitLab in JSON, object storage in XML.
async fn error_message(response: reqwest::Response) -> String {
    let status = response.status();
    let body = body::read_arrived(response, MESSAGE_LIMIT).await;
    transport::message(status, &body)
}
