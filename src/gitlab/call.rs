//! One call: headers, limits, redirects and tries, down to an answer with its status.
//!
//! What an answer means is the caller's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use reqwest::tls::TlsInfo;
use reqwest::{Method, Response, StatusCode};

use super::body::{read_arrived, read_body};
use super::connections::CurrentClient;
use super::error::CallError;
use super::retry::{Attempts, Verdict};
use super::tls::JobTls;
use super::transport::{REQUEST_ID, Transport, request_id, text, token_value, wish, within};
use super::{identity, redirect, url};
use crate::secret::Secret;

/// What to send. Plain data, so that each try sends the same.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Below the root of the API, without a leading slash.
    pub(super) path: String,
    pub(super) query: Option<String>,
    /// Headers with tokens; they stay at their origin.
    pub(super) tokens: HeaderMap,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    /// The wait for the head of each answer.
    pub(super) answer_within: Duration,
    /// The largest body that is taken.
    pub(super) body_limit: usize,
    /// A success means what its body says, not only what its status says.
    pub(super) body_counts: bool,
}

/// An answer, whole or broken off after its head.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Why the body is not all of it.
    pub(super) body_error: Option<CallError>,
    /// How long the server wants to be left alone, where that is longer than a call waits.
    pub(super) retry_after: Option<Duration>,
    pub(super) correlation_id: String,
    tls: Arc<JobTls>,
    /// That of its own connection, in PEM.
    chain: Option<Arc<str>>,
}

impl Reply {
    /// What a job that came with this needs for its own connections.
    pub(super) fn job_tls(&self) -> JobTls {
        let mut tls = (*self.tls).clone();
        tls.ca_chain = tls.ca_chain.or_else(|| self.chain.as_deref().map(str::to_owned));
        tls
    }
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: None,
            tokens: HeaderMap::new(),
            headers: HeaderMap::new(),
            body: None,
            answer_within: ANSWER_WITHIN,
            body_limit: BODY_LIMIT,
            body_counts: true,
        }
    }

    /// Adds a token; one that no header can carry is left out here and refused by the server.
    #[must_use]
    pub(super) fn token(mut self, name: &'static str, token: &Secret) -> Self {
        if let Ok(value) = token_value(token) {
            self.tokens.insert(HeaderName::from_static(name), value);
        }
        self
    }

    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    #[must_use]
    pub(super) fn body(self, content_type: &'static str, body: Bytes) -> Self {
        Self { body: Some(body), ..self }.header(CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// Its answer counts by status and headers alone.
    #[must_use]
    pub(super) fn without_answer_body(self) -> Self {
        Self { body_counts: false, ..self }
    }

    #[must_use]
    pub(super) fn accept_json(self) -> Self {
        self.header(ACCEPT, HeaderValue::from_static("application/json"))
    }
}

/// A whole try, its bodies included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// GitLab itself gives up after a minute; the rest is for what stands in between.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Answers with an error message are short.
const BODY_LIMIT: usize = 1 << 20;

impl Transport {
    /// Where calls go, for logs.
    pub(super) fn shown(&self) -> String {
        url::clean(&self.root)
    }

    /// Sends a call until an answer is final. `attempts` tells of the tries, also when there is no answer.
    /// Dropping the future ends the call and its waits.
    pub(super) async fn call(&self, call: &Call, attempts: &mut Attempts) -> Result<Reply, CallError> {
        loop {
            let (request_id, current, response) = self.follow(call).await?;
            match attempts.judge(response.status().as_u16(), wish(response.headers()), rand::random()) {
                Verdict::TryAgainAfter(wait) => {
                    // What has arrived is read, so that the connection serves the next try.
                    read_arrived(response, BODY_LIMIT).await;
                    tokio::time::sleep(wait).await;
                }
                Verdict::Final => return Ok(finish(response, call, None, request_id, current).await),
                Verdict::FinalWithWish(wish) => {
                    return Ok(finish(response, call, Some(wish), request_id, current).await);
                }
            }
        }
    }

    /// One try, over redirects, to the head of its answer.
    async fn follow(&self, call: &Call) -> Result<(String, CurrentClient, Response), CallError> {
        let request_id = request_id();
        let current = self.http()?;
        let mut step = redirect::Step {
            method: call.method.clone(),
            url: self.url(&call.path, call.query.as_deref()),
            with_body: call.body.is_some(),
            with_tokens: true,
        };
        for _ in 0..=redirect::LIMIT {
            let mut request = current
                .client
                .request(step.method.clone(), step.url.clone())
                .timeout(CALL_TIMEOUT)
                .header(USER_AGENT, identity::user_agent())
                .header(REQUEST_ID, &request_id)
                .headers(call.headers.clone());
            if step.with_tokens {
                request = request.headers(call.tokens.clone());
            }
            if let Some(body) = call.body.as_ref().filter(|_| step.with_body) {
                request = request.body(body.clone());
            }
            let response = within(call.answer_within, request.send()).await?;
            let location = text(response.headers(), LOCATION.as_str());
            match redirect::next(response.status(), location, &step.method, &step.url, step.with_body) {
                // Tokens that were left behind once do not come back on the way.
                Some(next) => step = redirect::Step { with_tokens: next.with_tokens && step.with_tokens, ..next },
                None => return Ok((request_id, current, response)),
            }
        }
        Err(CallError::TooManyRedirects { limit: redirect::LIMIT })
    }
}

/// The chain that the connection of an answer was trusted by.
fn chain_of(current: &CurrentClient, response: &Response) -> Option<Arc<str>> {
    current.witness.chain_of(response.extensions().get::<TlsInfo>()?.peer_certificate()?)
}

async fn finish(
    response: Response,
    call: &Call,
    retry_after: Option<Duration>,
    request_id: String,
    current: CurrentClient,
) -> Reply {
    let chain = chain_of(&current, &response);
    let (status, headers) = (response.status(), response.headers().clone());
    let correlation_id = text(&headers, REQUEST_ID).filter(|id| !id.is_empty()).map_or(request_id, str::to_owned);
    let (body, body_error) = if status.is_success() && call.body_counts {
        read_body(response, call.body_limit).await
    } else {
        (read_arrived(response, BODY_LIMIT).await, None)
    };
    Reply { status, headers, body, body_error, retry_after, correlation_id, tls: current.tls, chain }
}
