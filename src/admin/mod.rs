//! The HTTP server of `listen_address`, for operators and their monitoring. Plain HTTP, no secrets.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | Prometheus' text format |
//! | `/health/ready`, `/readyz` | 200 `ready`, or 503 while the manager starts or stops |
//! | `/debug/jobs/list` | one line a running job |
//! | `/debug/decisions` | what the fleets did and did not do, and why; the newest last |
//! | `/debug/instances` | the fleets, instance by instance |
//! | `/debug/process/state` | `running`, `graceful-shutdown`, `forceful-shutdown` |
//!
//! Decisions and instances are text, or JSON with `?format=json` or `Accept: application/json`.
//!
//! It reads snapshots and changes nothing.

mod connections;
mod fleets;

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::manager::Observer;

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address}, the listen_address")]
pub struct AdminError {
    address: String,
    #[source]
    source: std::io::Error,
}

/// A server that has its address but does not answer yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    connections: usize,
}

impl AdminServer {
    /// Takes the address, so that a wrong one is known at start. `descriptors` is the process's limit, of which
    /// connections take a small part; `None` stands for no limit.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(address: &str, descriptors: Option<u64>) -> Result<Self, AdminError> {
        let wrap = |source| AdminError { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(wrap)?;
        let address = listener.local_addr().map_err(wrap)?;
        Ok(Self { listener, address, connections: connections::limit(descriptors) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn serve(self, manager: Observer, stop: CancellationToken) {
        connections::serve(self.listener, routes(manager), self.connections, stop).await;
    }
}

fn routes(manager: Observer) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/debug/jobs/list", get(jobs))
        .route("/debug/decisions", get(fleets::decisions))
        .route("/debug/instances", get(fleets::instances))
        .route("/debug/process/state", get(process_state))
        .with_state(Arc::new(manager))
}

async fn metrics(State(manager): State<Arc<Observer>>) -> Response {
    match manager.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(manager): State<Arc<Observer>>) -> (StatusCode, String) {
    match manager.not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// The reference's second version of this list, field for field.
async fn jobs(State(manager): State<Arc<Observer>>) -> impl IntoResponse {
    let now = crate::time::now().instant;
    let mut text = String::new();
    for job in manager.jobs() {
        let age = job.age(now);
        // Writing to a String cannot fail.
        writeln!(text, "url={} state={} stage={} executor_stage= duration={age}", job.url, job.state, job.stage).ok();
    }
    ([(HeaderName::from_static("x-list-version"), "2")], text)
}

async fn process_state(State(manager): State<Arc<Observer>>) -> &'static str {
    manager.process_state()
}
