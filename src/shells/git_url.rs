//! Just enough of URLs for git's remotes: credentials in and out of them.

use std::fmt::Write as _;

/// `scheme://[userinfo@]host[/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GitUrl {
    pub(crate) scheme: String,
    /// As it stands in the URL, percent-encoded.
    pub(crate) userinfo: Option<String>,
    /// With the port.
    pub(crate) host: String,
    /// Empty or with its slash.
    pub(crate) path: String,
}

impl GitUrl {
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at_checked(at)?,
            None => (rest, ""),
        };
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo.to_owned()), host),
            None => (None, authority),
        };
        Some(Self {
            scheme: scheme.to_ascii_lowercase(),
            userinfo: userinfo.filter(|userinfo| !userinfo.is_empty()),
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }

    pub(crate) fn is_http(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https") && !self.host.is_empty()
    }

    /// `scheme://host`, which names the server in git's settings.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }

    #[must_use]
    pub(crate) fn without_user(&self) -> Self {
        Self { userinfo: None, ..self.clone() }
    }

    /// With the user and password that a job has at GitLab.
    #[must_use]
    pub(crate) fn with_job_token(&self, token: &str) -> Self {
        Self { userinfo: Some(format!("gitlab-ci-token:{}", percent_encode(token))), ..self.clone() }
    }

    #[must_use]
    pub(crate) fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// Without slashes at the end.
    pub(crate) fn trimmed(&self) -> String {
        self.to_string().trim_end_matches('/').to_owned()
    }
}

impl std::fmt::Display for GitUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(userinfo) = &self.userinfo {
            write!(f, "{userinfo}@")?;
        }
        write!(f, "{}{}", self.host, self.path)
    }
}

/// What may not stand in the user part of a URL as it is, encoded.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b';' | b'=')
        {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart_and_together() {
        for url in ["https://u:p@h:8080/g/p.git", "http://h", "ssh://git@h:22/g/p.git", "file:///tmp/a b.git"] {
            assert_eq!(GitUrl::parse(url).expect(url).to_string(), url);
        }
        assert_eq!(GitUrl::parse("git@h:g/p.git"), None);
        assert_eq!(GitUrl::parse("https://u:p@h/g").expect("a URL").without_user().to_string(), "https://h/g");
    }

    #[test]
    fn a_token_is_encoded_as_user_information() {
        let url = GitUrl::parse("https://old@h/g").expect("a URL").with_job_token("a/b@c:d%é");
        assert_eq!(url.to_string(), "https://gitlab-ci-token:a%2Fb%40c%3Ad%25%C3%A9@h/g");
    }
}
