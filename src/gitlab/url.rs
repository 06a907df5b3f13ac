//! From the operator's `url` to the address of a call.

use reqwest::Url;

use super::error::ClientError;

/// The root of the API: the URL without slashes at its end and without one `/ci`, with `/api/v4/` added.
/// GitLab below a path, such as `https://host/gitlab`, works.
pub(super) fn api_root(url: &str) -> Result<Url, ClientError> {
    let base = url.trim().trim_end_matches('/');
    let base = base.strip_suffix("/ci").unwrap_or(base);
    let parsed = Url::parse(&format!("{base}/api/v4/"))
        .map_err(|error| ClientError::Url { url: shown(url), reason: error.to_string() })?;
    match parsed.scheme() {
        "http" | "https" => Ok(parsed),
        other => Err(ClientError::Scheme { scheme: other.to_owned() }),
    }
}

/// `path` below the root, without a leading slash.
pub(super) fn join(root: &Url, path: &str) -> Url {
    let mut url = root.clone();
    url.set_path(&format!("{}{path}", root.path()));
    url
}

/// Without user, password, query and fragment, for logs.
#[cfg(feature = "manager")]
pub(super) fn clean(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only where a URL cannot have credentials, and then it has none.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// What may be shown of a text that is no URL.
fn shown(url: &str) -> String {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_built_as_the_reference_does() {
        for (url, root) in [
            ("https://gitlab.example", "https://gitlab.example/api/v4/"),
            ("https://gitlab.example//", "https://gitlab.example/api/v4/"),
            ("http://gitlab.example:8080/ci", "http://gitlab.example:8080/api/v4/"),
            ("http://gitlab.example/ci/ci/", "http://gitlab.example/ci/api/v4/"),
            (" https://host/gitlab/ ", "https://host/gitlab/api/v4/"),
        ] {
            assert_eq!(api_root(url).unwrap().as_str(), root, "{url}");
        }
    }

    #[test]
    fn other_schemes_and_no_urls_are_refused() {
        assert!(matches!(api_root("ssh://gitlab.example"), Err(ClientError::Scheme { scheme }) if scheme == "ssh"));
        assert!(matches!(api_root("gitlab.example"), Err(ClientError::Url { .. })));
        assert!(matches!(api_root(""), Err(ClientError::Url { .. })));
    }

    #[test]
    #[cfg(feature = "manager")]
    fn a_shown_url_has_no_secrets() {
        let url = Url::parse("https://me:secret@host/api/v4/jobs?token=x#y").unwrap();
        assert_eq!(clean(&url), "https://host/api/v4/jobs");
    }

    #[test]
    fn paths_are_joined_below_a_relative_installation() {
        let root = api_root("https://host/gitlab").unwrap();
        assert_eq!(join(&root, "jobs/request").as_str(), "https://host/gitlab/api/v4/jobs/request");
    }
}
