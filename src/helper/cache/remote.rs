//! Caches at an object store, by URLs that are signed beforehand: plain GET, HEAD and PUT.

use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};
use reqwest::{Client, NoProxy, Proxy, Response, StatusCode, Url};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error_chain::Chain;
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::trust::Authorities;
use crate::helper::calendar::{http_date, parse_http_date};
use crate::helper::environment::Environment;
use crate::helper::meter::Meter;

const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A GET or HEAD is answered at once, or not at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Error messages of the store are cut here.
const MESSAGE_LIMIT: usize = 64 << 10;
const PIECE: usize = 256 << 10;

/// Why a transfer has failed.
#[derive(Debug, Error)]
pub(super) enum RemoteError {
    #[error("file does not exist")]
    NotFound,
    #[error("received: {status}{detail}")]
    Status { status: StatusCode, detail: String },
    #[error("{0}")]
    Transport(String),
    #[error("no answer within {ANSWER_LIMIT:?}")]
    Silent,
    #[error("the URL cannot be read")]
    Url,
    #[error("the header {0:?} cannot be sent")]
    Header(String),
    #[error("the archive")]
    File(#[from] io::Error),
}

impl RemoteError {
    /// Whether another try may go better.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Transport(_) | Self::Silent => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound | Self::Url | Self::Header(_) | Self::File(_) => false,
        }
    }

    fn transport(error: reqwest::Error) -> Self {
        // The URL has a signature in it.
        Self::Transport(Chain(&error.without_url()).to_string())
    }
}

/// What is known of an archive before it is transferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub modified: Option<SystemTime>,
    pub etag: Option<String>,
    pub size: Option<u64>,
    /// User metadata, by its name without the store's prefix.
    pub metadata: Vec<(String, String)>,
}

/// The way to object stores.
#[derive(Debug)]
pub(super) struct Remote {
    client: Client,
}

/// A download whose head has come.
pub(super) struct Download {
    pub found: Found,
    response: Response,
}

impl Remote {
    /// `limit` is the longest time of one transfer.
    ///
    /// # Errors
    /// Proxies or authorities of this machine that cannot be used.
    pub(super) fn new(environment: &Environment, limit: Duration) -> Result<Self, RemoteError> {
        let settings = ProxySettings::from_env(|name| environment.get(name));
        let mut proxies = Vec::new();
        let with_scheme =
            |proxy: &String| if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
        let http = settings.http.iter().map(|proxy| Proxy::http(with_scheme(proxy)));
        let https = settings.https.iter().map(|proxy| Proxy::https(with_scheme(proxy)));
        for made in http.chain(https) {
            proxies.push(made.map_err(RemoteError::transport)?.no_proxy(NoProxy::from_string(&settings.no_proxy)));
        }
        let authorities = Authorities::of_this_machine(Vec::new()).client(None);
        let (tls, _) = authorities.map_err(|error| RemoteError::Transport(error.to_string()))?;
        let builder = Client::builder().tls_backend_preconfigured(tls).connect_timeout(CONNECT_LIMIT).timeout(limit);
        let builder = builder.no_proxy().referer(false);
        let client = proxies.into_iter().fold(builder, reqwest::ClientBuilder::proxy).build();
        Ok(Self { client: client.map_err(RemoteError::transport)? })
    }

    /// What is there, without its contents.
    pub(super) async fn head(&self, url: &str) -> Result<Found, RemoteError> {
        let response = answered(self.client.head(parse(url)?).send()).await?;
        Ok(found(accepted(response).await?.headers()))
    }

    /// Begins a download.
    pub(super) async fn get(&self, url: &str) -> Result<Download, RemoteError> {
        let response = accepted(answered(self.client.get(parse(url)?).send()).await?).await?;
        Ok(Download { found: found(response.headers()), response })
    }

    /// Uploads a file as it is. Given headers win over ours; a `Host` is left out, as it follows from the URL.
    pub(super) async fn put(
        &self,
        url: &str,
        file: File,
        headers: &[String],
        meter: &Meter,
    ) -> Result<(), RemoteError> {
        let metadata = file.metadata()?;
        let mut all = HeaderMap::new();
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        all.insert(CONTENT_LENGTH, HeaderValue::from(metadata.len()));
        if let Ok(date) = HeaderValue::from_str(&http_date(metadata.modified()?)) {
            all.insert(LAST_MODIFIED, date);
        }
        for text in headers {
            let (name, value) = header(text).ok_or_else(|| RemoteError::Header(text.clone()))?;
            if name != HOST && name != CONTENT_LENGTH {
                all.insert(name, value);
            }
        }
        let request =
            self.client.put(parse(url)?).headers(all).body(reqwest::Body::wrap_stream(pieces(file, meter.clone())));
        let response = request.send().await.map_err(RemoteError::transport)?;
        accepted(response).await.map(|_| ())
    }
}

impl Download {
    /// Writes the contents.
    pub(super) async fn write_to(mut self, file: File, meter: &Meter) -> Result<(), RemoteError> {
        let mut file = tokio::fs::File::from_std(file);
        while let Some(piece) = self.response.chunk().await.map_err(RemoteError::transport)? {
            file.write_all(&piece).await?;
            meter.add(piece.len());
        }
        Ok(file.flush().await?)
    }
}

/// A URL as it may be shown: without its signature and credentials.
pub(super) fn clean_url(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return String::new() };
    url.set_query(None);
    url.set_fragment(None);
    // A URL that cannot have them has none.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.to_string()
}

fn parse(url: &str) -> Result<Url, RemoteError> {
    Url::parse(url).map_err(|_| RemoteError::Url)
}

async fn answered(request: impl Future<Output = reqwest::Result<Response>>) -> Result<Response, RemoteError> {
    match tokio::time::timeout(ANSWER_LIMIT, request).await {
        Ok(answer) => answer.map_err(RemoteError::transport),
        Err(_) => Err(RemoteError::Silent),
    }
}

async fn accepted(mut response: Response) -> Result<Response, RemoteError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::NOT_FOUND {
        return Err(RemoteError::NotFound);
    }
    let mut body = Vec::new();
    while body.len() < MESSAGE_LIMIT
        && let Ok(Some(piece)) = response.chunk().await
    {
        body.extend_from_slice(&piece);
    }
    Err(RemoteError::Status { status, detail: detail(&String::from_utf8_lossy(&body)) })
}

/// What the store says in XML.
fn detail(body: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim())
    };
    match (element("Code"), element("Message")) {
        (None, None) => String::new(),
        (code, message) => {
            format!(
                ". Request failed with code: {}, message: {}",
                code.unwrap_or_default(),
                message.unwrap_or_default()
            )
        }
    }
}

fn found(headers: &HeaderMap) -> Found {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = ["x-amz-meta-", "x-goog-meta-", "x-ms-meta-"]
            .iter()
            .find_map(|prefix| name.as_str().strip_prefix(prefix))?;
        Some((name.to_owned(), text(value)?))
    });
    Found {
        modified: headers.get(LAST_MODIFIED).and_then(|value| parse_http_date(value.to_str().ok()?)),
        etag: headers.get(ETAG).and_then(text),
        size: headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
        metadata: metadata.collect(),
    }
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, HeaderValue::from_str(value.trim()).ok()?))
}

fn pieces(file: File, meter: Meter) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send + 'static {
    let file = tokio::fs::File::from_std(file);
    futures_util::stream::unfold((file, meter), |(mut file, meter)| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        match file.read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(count) => {
                meter.add(count);
                Some((Ok(piece.freeze()), (file, meter)))
            }
            Err(error) => Some((Err(error), (file, meter))),
        }
    })
}
