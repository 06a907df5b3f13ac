//! `url`: the address of a GitLab server.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// The address of a GitLab server: http or https, no trailing slash, no final `/ci`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    text: String,
    url: Url,
}

impl ServerUrl {
    /// What stands in a refused runner whose file has no usable address. The name never resolves (RFC 2606).
    pub fn placeholder() -> Self {
        #[expect(clippy::unwrap_used, reason = "a constant that the tests parse")]
        Self::from_str("https://url.missing.invalid").unwrap()
    }

    /// The address without a trailing slash; `/api/v4/` may be appended.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parsed address, its path with a trailing slash only where it is the root.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// The host without its port: names the files in `certs`.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim_end_matches('/');
        let trimmed = trimmed.strip_suffix("/ci").unwrap_or(trimmed).trim_end_matches('/');
        let Some((scheme, _)) = text.split_once("://") else { return Err(ServerUrlError::Relative) };
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(ServerUrlError::Scheme { scheme: scheme.to_owned() });
        }
        let url = Url::parse(trimmed).map_err(|error| ServerUrlError::Invalid { detail: error.to_string() })?;
        Ok(Self { text: trimmed.to_owned(), url })
    }
}

/// Whether the reference would have stripped a final `/ci`, which deserves a word.
pub fn ends_in_ci(text: &str) -> bool {
    text.trim_end_matches('/').ends_with("/ci")
}

/// Why a text is no server's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    #[error("it has no scheme")]
    Relative,
    #[error("only http and https are served, not {scheme}")]
    Scheme { scheme: String },
    #[error("{detail}")]
    Invalid { detail: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_and_one_ci_are_stripped() {
        for (text, base) in [
            ("https://gitlab.com", "https://gitlab.com"),
            ("https://gitlab.com/", "https://gitlab.com"),
            ("https://gitlab.example/ci", "https://gitlab.example"),
            ("http://host:8080/gitlab/ci/", "http://host:8080/gitlab"),
            ("https://host/ci/ci", "https://host/ci"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().as_str(), base);
        }
    }

    #[test]
    fn what_is_no_web_address_is_refused() {
        for (text, message) in [
            ("gitlab.com", "it has no scheme"),
            ("", "it has no scheme"),
            ("<URL of your GitLab instance>", "it has no scheme"),
            ("ftp://gitlab.com", "only http and https are served, not ftp"),
            ("https://", "empty host"),
            ("https://a b", "invalid international domain name"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn the_placeholder_cannot_resolve() {
        assert!(ServerUrl::placeholder().host().ends_with(".invalid"));
    }

    #[test]
    fn the_host_has_no_port() {
        assert_eq!("https://git.example:8443/x".parse::<ServerUrl>().unwrap().host(), "git.example");
    }
}
