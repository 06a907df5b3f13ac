//! Why a call has no answer, or none that can be used.

use std::path::PathBuf;
use std::time::Duration;

/// A client that cannot be made. It counts as the runner being unhealthy: trying again changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the URL {url:?} cannot be read: {reason}")]
    Url { url: String, reason: String },
    #[error("only http and https URLs are supported, not {scheme}")]
    Scheme { scheme: String },
    #[error("the proxy {proxy:?} cannot be used")]
    Proxy {
        proxy: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("a token with characters that no header can carry")]
    Token,
    #[error("setting up the HTTP client")]
    Build {
        #[source]
        source: reqwest::Error,
    },
    #[error("setting up TLS")]
    Tls {
        #[source]
        source: rustls::Error,
    },
}

/// A TLS file that was given but cannot be used. It is warned about and left out.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    #[error("reading {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is larger than {limit} bytes", path = path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{path} holds no certificate that can be read", path = path.display())]
    Certificate { path: PathBuf },
    #[error("{cert} and {key} are no certificate and key in PEM", cert = cert.display(), key = key.display())]
    Identity {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: IdentityError,
    },
}

/// Why a certificate and its key are no client's.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("reading them")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("using them")]
    Tls(#[from] rustls::Error),
}

/// A request without a whole answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("writing the request")]
    Encode {
        #[source]
        source: serde_json::Error,
    },
    #[error("no answer")]
    Transport {
        #[source]
        source: reqwest::Error,
    },
    #[error("no answer within {limit:?}")]
    Timeout { limit: Duration },
    #[error("the answer broke off")]
    Body {
        #[source]
        source: reqwest::Error,
    },
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("redirected more than {limit} times")]
    TooManyRedirects { limit: usize },
}
