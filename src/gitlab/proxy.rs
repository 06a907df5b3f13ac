//! Proxies, as values: what `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` said when `commands` read them.

use super::error::ClientError;

/// The proxies of one process. Empty: direct connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// For `http` URLs.
    pub http: Option<String>,
    /// For `https` URLs.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached directly, separated by commas.
    pub no_proxy: String,
}

impl ProxySettings {
    /// Takes them from names and values of an environment; a lower-case name wins over the upper-case
    /// one. A request's own `HTTP_PROXY` header cannot get here, since nothing of ours runs as CGI.
    pub fn from_env<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let first = |lower: &str, upper: &str| {
            [lower, upper]
                .into_iter()
                .filter_map(&get)
                .map(str::trim)
                .find(|value| !value.is_empty())
                .map(str::to_owned)
        };
        Self {
            http: first("http_proxy", "HTTP_PROXY"),
            https: first("https_proxy", "HTTPS_PROXY"),
            no_proxy: first("no_proxy", "NO_PROXY").unwrap_or_default(),
        }
    }

    pub(super) fn to_proxies(&self) -> Result<Vec<reqwest::Proxy>, ClientError> {
        let no_proxy = reqwest::NoProxy::from_string(&self.no_proxy);
        let http = self.http.iter().map(|proxy| (proxy, reqwest::Proxy::http(with_scheme(proxy))));
        let https = self.https.iter().map(|proxy| (proxy, reqwest::Proxy::https(with_scheme(proxy))));
        http.chain(https)
            .map(|(proxy, made)| match made {
                Ok(made) => Ok(made.no_proxy(no_proxy.clone())),
                Err(source) => Err(ClientError::Proxy { proxy: without_credentials(proxy), source }),
            })
            .collect()
    }
}

/// A proxy may be given as `host:port`.
fn with_scheme(proxy: &str) -> String {
    if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") }
}

fn without_credentials(proxy: &str) -> String {
    proxy.rsplit_once('@').map_or(proxy, |(_, host)| host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_case_names_win_and_empty_values_do_not_count() {
        let environment =
            [("http_proxy", "one:1"), ("HTTP_PROXY", "two:2"), ("https_proxy", " "), ("HTTPS_PROXY", "three:3")];
        let get = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let expected =
            ProxySettings { http: Some("one:1".into()), https: Some("three:3".into()), no_proxy: String::new() };
        assert_eq!(ProxySettings::from_env(get), expected);
        assert_eq!(expected.to_proxies().unwrap().len(), 2);
    }

    #[test]
    fn a_proxy_that_cannot_be_read_is_an_error_without_its_password() {
        let settings = ProxySettings { http: Some("http://me:secret@[broken".into()), ..ProxySettings::default() };
        let error = settings.to_proxies().unwrap_err().to_string();
        assert!(error.contains("[broken") && !error.contains("secret"), "{error}");
    }
}
