//! Whether and how a redirect is followed. Pure.
//!
//! Followed by hand, since a token in a header of our own must not travel to another origin (the reference
//! sends it along, also to object storage), and no request with a body does either: ours carry tokens and
//! traces.

use reqwest::{Method, StatusCode, Url};

/// How many redirects one call follows, as Go's client does.
pub(super) const LIMIT: usize = 10;

/// What to do with an answer that is a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) method: Method,
    pub(super) url: Url,
    /// The request's body goes along.
    pub(super) with_body: bool,
    /// The tokens in the headers go along.
    pub(super) with_tokens: bool,
}

/// The next request after `status` with `location`; none where the answer is to be taken as it is.
pub(super) fn next(
    status: StatusCode,
    location: Option<&str>,
    method: &Method,
    url: &Url,
    has_body: bool,
) -> Option<Step> {
    let keeps_method = match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        _ => return None,
    };
    let target = url.join(location?).ok().filter(|target| matches!(target.scheme(), "http" | "https"))?;
    let with_tokens = is_trusted(url, &target);
    let with_body = keeps_method && has_body;
    if with_body && !with_tokens {
        return None;
    }
    let method = if keeps_method || method == Method::HEAD { method.clone() } else { Method::GET };
    Some(Step { method, url: target, with_body, with_tokens })
}

/// The same origin, or the same host gone over to TLS on the default ports.
fn is_trusted(from: &Url, to: &Url) -> bool {
    let upgrade = from.scheme() == "http" && to.scheme() == "https" && from.port().is_none() && to.port().is_none();
    from.host_str() == to.host_str() && (upgrade || from.origin() == to.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(
        status: u16,
        location: &str,
        method: Method,
        url: &str,
        has_body: bool,
    ) -> Option<(Method, String, bool, bool)> {
        next(StatusCode::from_u16(status).unwrap(), Some(location), &method, &Url::parse(url).unwrap(), has_body)
            .map(|step| (step.method, step.url.into(), step.with_body, step.with_tokens))
    }

    #[test]
    fn tokens_stay_at_their_origin() {
        let from = "https://gitlab.example/api/v4/jobs/1/artifacts";
        let away = step(302, "https://storage.example/x", Method::GET, from, false);
        assert_eq!(away, Some((Method::GET, "https://storage.example/x".into(), false, false)));
        let near = step(302, "/y", Method::GET, from, false);
        assert_eq!(near, Some((Method::GET, "https://gitlab.example/y".into(), false, true)));
        assert!(!step(302, "https://gitlab.example:8443/", Method::GET, from, false).unwrap().3);
        assert!(!step(302, "http://gitlab.example/", Method::GET, from, false).unwrap().3);
    }

    #[test]
    fn a_body_is_sent_again_only_to_its_origin() {
        let from = "http://gitlab.example/api/v4/jobs/request";
        assert_eq!(step(307, "https://other.example/", Method::POST, from, true), None);
        let upgraded = step(308, "https://gitlab.example/api/v4/jobs/request", Method::POST, from, true);
        assert_eq!(upgraded, Some((Method::POST, "https://gitlab.example/api/v4/jobs/request".into(), true, true)));
        let dropped = step(301, "https://gitlab.example/sign_in", Method::POST, from, true);
        assert_eq!(dropped, Some((Method::GET, "https://gitlab.example/sign_in".into(), false, true)));
    }

    #[test]
    fn only_redirects_with_a_usable_target_are_followed() {
        let from = "https://gitlab.example/";
        assert_eq!(step(200, "/", Method::GET, from, false), None);
        assert_eq!(step(304, "/", Method::GET, from, false), None);
        assert_eq!(step(302, "ftp://gitlab.example/", Method::GET, from, false), None);
        assert_eq!(next(StatusCode::FOUND, None, &Method::GET, &Url::parse(from).unwrap(), false), None);
    }
}
