//! Answers whose bodies do not come: an answer counts by its status, and nobody waits for the rest.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::gitlab::outcome::UpdateOutcome;
use crate::gitlab::wire::JobState;
use crate::gitlab::{JobCredentials, outcome};
use crate::ids::JobId;

/// A server that answers each request with these heads in turn, the last one for ever, and never sends a body.
async fn stalling(heads: &'static [&'static str]) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut open = Vec::new();
        let mut heads = heads.iter().chain(heads.last().into_iter().cycle());
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            stream.write_all(heads.next().unwrap().as_bytes()).await.unwrap();
            // It stays open: the client waits, if it does.
            open.push(stream);
        }
    });
    (url, server)
}

#[tokio::test]
async fn a_refusal_whose_body_never_comes_is_tried_again_like_any_other() {
    let (url, _server) = stalling(&["HTTP/1.1 500 x\r\nContent-Length: 1000\r\n\r\n{", "HTTP/1.1 204 x\r\n\r\n"]).await;
    let (client, calls) = client_with(&url, RUNNER_TOKEN, features());
    let outcome = tokio::time::timeout(LIMIT, client.request_job(Poll::AtOnce)).await.unwrap().outcome;
    assert!(matches!(outcome, RequestOutcome::NoJob), "{outcome:?}");
    assert_eq!(calls.0.lock().unwrap()[0].3, 2, "attempts");
}

#[tokio::test]
async fn an_update_counts_by_its_status_when_the_body_never_comes() {
    let (url, _server) = stalling(&["HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\n{"]).await;
    let (client, _) = client_with(&url, RUNNER_TOKEN, features());
    let job = JobCredentials { id: JobId(1), token: "t".into() };
    let running = update(&client, JobState::Running);
    let result = tokio::time::timeout(LIMIT, client.update_job(&job, &running)).await.unwrap();
    assert_eq!(result.outcome, UpdateOutcome::Succeeded);
}

#[tokio::test]
async fn a_patch_counts_by_its_status_when_the_body_never_comes() {
    let (url, _server) = stalling(&["HTTP/1.1 202 x\r\nContent-Length: 1000\r\n\r\n{"]).await;
    let (client, _) = client_with(&url, RUNNER_TOKEN, features());
    let job = JobCredentials { id: JobId(1), token: "t".into() };
    let result = tokio::time::timeout(LIMIT, client.patch_trace(&job, 0, "trace".into(), false)).await.unwrap();
    assert_eq!(result.outcome, outcome::PatchOutcome::Succeeded { sent_to: 5 });
}
