//! The client against the sandbox over loopback: each row of the tables, and the sequences between them.

mod artifacts;
mod jobs;
mod requests;
mod runners;
mod stalls;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::error::ClientError;
use super::observer::{CallObserver, CallReport, Endpoint};
use super::outcome::{JobUpdate, ReceivedJob, RequestOutcome};
use super::proxy::ProxySettings;
use super::tls::TlsFiles;
use super::wire::{Features, Info, JobState};
use super::{Client, Connections, Poll, RunnerSettings};
use crate::sandbox::{Options, RUNNER_TOKEN, Sandbox};

/// Any wait in these tests ends long before.
const LIMIT: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A server that holds requests only briefly.
fn options() -> Options {
    Options { hold: Duration::from_millis(300), ..Options::default() }
}

async fn sandbox() -> Sandbox {
    Sandbox::start_with(loopback(), options()).await.unwrap()
}

/// Endpoint, method, status, attempts and path.
type Call = (Endpoint, &'static str, Option<u16>, u32, String);

/// What was observed.
#[derive(Debug, Default)]
struct Calls(Mutex<Vec<Call>>);

impl CallObserver for Calls {
    fn observe(&self, call: &CallReport<'_>) {
        self.0.lock().unwrap().push((call.endpoint, call.method, call.status, call.attempts, call.path.to_owned()));
    }
}

fn features() -> Features {
    Features { two_phase_job_commit: true, ..Features::of_client() }
}

fn settings(url: &str, token: &str, features: Features) -> RunnerSettings {
    RunnerSettings {
        url: url.to_owned(),
        token: token.into(),
        system_id: "s_0123456789ab".to_owned(),
        info: Info::new("docker-autoscaler", "bash", features),
        tls: TlsFiles::default(),
    }
}

pub(super) fn connections() -> Connections {
    Connections::new(ProxySettings::default(), Duration::from_secs(900))
}

fn client_with(url: &str, token: &str, features: Features) -> (Client, Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    let client = Client::new(&connections(), settings(url, token, features), calls.clone()).unwrap();
    (client, calls)
}

fn client(sandbox: &Sandbox) -> Client {
    client_with(&sandbox.url(), RUNNER_TOKEN, features()).0
}

async fn receive(client: &Client) -> ReceivedJob {
    let outcome = client.request_job(Poll::AtOnce).await.outcome;
    let RequestOutcome::Job(job) = outcome else { panic!("no job but {outcome:?}") };
    *job
}

fn update(client: &Client, state: JobState) -> JobUpdate {
    JobUpdate::new(Arc::clone(client.info()), state)
}

/// A final update that tells the truth about a trace.
fn final_update(client: &Client, state: JobState, trace: &[u8]) -> JobUpdate {
    JobUpdate {
        checksum: Some(format!("crc32:{:08x}", crc32fast::hash(trace))),
        bytesize: Some(trace.len() as u64),
        ..update(client, state)
    }
}

#[test]
fn a_url_or_token_that_can_never_work_is_refused_at_once() {
    let make = |url: &str, token: &str| {
        Client::new(&connections(), settings(url, token, features()), Arc::new(super::observer::Unobserved))
    };
    assert!(matches!(make("ftp://host", "x").unwrap_err(), ClientError::Scheme { .. }));
    assert!(matches!(make("nonsense", "x").unwrap_err(), ClientError::Url { .. }));
    assert!(matches!(make("http://host", "a\nb").unwrap_err(), ClientError::Token));
    assert!(make("http://host", "x").is_ok());
}

#[test]
fn clients_with_equal_tls_settings_share_their_connections() {
    let connections = connections();
    let pool = |files: TlsFiles| connections.pool(&files).unwrap();
    let other = TlsFiles { ca: Some("/nowhere.pem".into()), ..TlsFiles::default() };
    let first = pool(TlsFiles::default());
    assert!(Arc::ptr_eq(&first, &pool(TlsFiles::default())));
    assert!(!Arc::ptr_eq(&first, &pool(other)));
}

#[tokio::test]
async fn a_proxy_is_used_except_for_the_hosts_that_are_left_out() {
    let proxy = sandbox().await;
    let request = async |no_proxy: &str| {
        let proxies =
            ProxySettings { http: Some(proxy.addr().to_string()), https: None, no_proxy: no_proxy.to_owned() };
        let connections = Connections::new(proxies, Duration::ZERO);
        let runner = settings("http://gitlab.invalid", RUNNER_TOKEN, features());
        let client = Client::new(&connections, runner, Arc::new(super::observer::Unobserved)).unwrap();
        client.request_job(Poll::AtOnce).await.outcome
    };
    assert!(matches!(request("").await, RequestOutcome::NoJob));
    assert_eq!(proxy.requests()[0].header("host"), Some("gitlab.invalid"));
    assert!(matches!(request("other.example,.invalid").await, RequestOutcome::Failed { status: None, .. }));
    assert_eq!(proxy.requests().len(), 1);
}
