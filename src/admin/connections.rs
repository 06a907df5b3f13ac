//! The admin server's connections. Idle or slow clients must not take the descriptors that jobs need.
//!
//! At most a fixed number of connections are open; further ones wait in the kernel's queue, which costs this process
//! nothing. A connection is closed when its client does not send the head of a request in time, and after a fixed
//! time in any case.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error_chain::Chain;

/// Open connections at most. Monitoring needs one or two, a person with a browser six.
const MOST_CONNECTIONS: usize = 64;

/// The part of the process's descriptors that connections may take at most, where there are few descriptors.
const SHARE_OF_DESCRIPTORS: u64 = 8;

/// How long a client may take to send the head of a request, and how long it may keep an idle connection.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// The age at which a connection is closed once its current answer is sent: a client that reads nothing holds it.
const CONNECTION_TIME: Duration = Duration::from_secs(300);

/// How long the last answer of a connection may take.
const LAST_ANSWER_TIME: Duration = Duration::from_secs(10);

/// The pause after a failure to accept, which is a lack of descriptors or memory: a further try at once would fail too.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How many connections a process with so many descriptors may have open; `None`: it has no limit.
pub(super) fn limit(descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |all| all / SHARE_OF_DESCRIPTORS);
    usize::try_from(share).unwrap_or(usize::MAX).clamp(1, MOST_CONNECTIONS)
}

/// Accepts and serves connections until `stop`.
pub(super) async fn serve(listener: TcpListener, routes: Router, limit: usize, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(limit));
    let mut connections = JoinSet::new();
    loop {
        // Accepted connections cost a descriptor: the permit comes first.
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&free).acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => drop(connections.spawn(connection(stream, routes.clone(), permit, stop.clone()))),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "failed to accept a connection to listen_address");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, routes: Router, permit: OwnedSemaphorePermit, stop: CancellationToken) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(serving);
    // How a client ends its connection does not matter.
    tokio::select! {
        _ = serving.as_mut() => return drop(permit),
        () = tokio::time::sleep(CONNECTION_TIME) => {}
        () = stop.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    drop(tokio::time::timeout(LAST_ANSWER_TIME, serving).await);
    drop(permit);
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server with room for two connections, and its address.
    async fn server(tasks: &mut JoinSet<()>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", get(|| async { "here" }));
        tasks.spawn(serve(listener, routes, 2, CancellationToken::new()));
        address
    }

    #[test]
    fn connections_take_at_most_an_eighth_of_few_descriptors() {
        for (descriptors, expected) in [(None, 64), (Some(20_000), 64), (Some(128), 16), (Some(3), 1)] {
            assert_eq!(limit(descriptors), expected, "{descriptors:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_send_no_request_are_closed_and_others_get_their_turn() {
        for sent in ["", "GET / HTTP/1.1\r\nhost: a\r\n", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let mut tasks = JoinSet::new();
            let address = server(&mut tasks).await;
            let mut idle = Vec::new();
            for _ in 0..4 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(sent.as_bytes()).await.unwrap();
                idle.push(stream);
            }
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("here"), "after {sent:?}: {answer:?}");
        }
    }
}
