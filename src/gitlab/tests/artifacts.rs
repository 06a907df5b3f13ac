//! The helper's calls.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;

use super::{client, loopback, options, receive, sandbox, update};
use crate::gitlab::JobCredentials;
use crate::gitlab::artifacts::{ArtifactUpload, ArtifactsClient, DownloadOutcome, Route, UploadOutcome};
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::tls::TlsFiles;
use crate::gitlab::wire::JobState;
use crate::sandbox::{Fault, FaultKind, On, Options, Sandbox, SandboxJob};

fn artifacts(sandbox: &Sandbox) -> ArtifactsClient {
    ArtifactsClient::new(&sandbox.url(), &TlsFiles::default(), ProxySettings::default()).unwrap()
}

async fn running_job(sandbox: &Sandbox) -> JobCredentials {
    sandbox.enqueue(SandboxJob::new("makes", &["true"]));
    let client = client(sandbox);
    let credentials = receive(&client).await.credentials;
    client.update_job(&credentials, &update(&client, JobState::Running)).await;
    credentials
}

fn upload() -> ArtifactUpload {
    ArtifactUpload {
        name: "default.zip".into(),
        format: "zip".into(),
        artifact_type: "archive".into(),
        expire_in: "1 week & more".into(),
        response_header_timeout: Duration::from_secs(10),
    }
}

fn body(pieces: &[&'static str]) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + use<> {
    stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect::<Vec<_>>())
}

async fn downloaded(artifacts: &ArtifactsClient, job: &JobCredentials, route: Route) -> (DownloadOutcome, Vec<u8>) {
    let mut to = Vec::new();
    (artifacts.download(job, route, &mut to).await, to)
}

#[tokio::test]
async fn what_was_uploaded_comes_back_to_a_job_that_needs_it() {
    let sandbox = sandbox().await;
    let credentials = running_job(&sandbox).await;
    let artifacts = artifacts(&sandbox);
    let outcome = artifacts.upload(&credentials, &upload(), body(&["one ", "two"])).await;
    assert!(matches!(outcome, UploadOutcome::Uploaded), "{outcome:?}");
    let stored = sandbox.job(credentials.id).artifacts();
    assert_eq!(stored.len(), 1);
    assert_eq!(std::fs::read(stored[0].path()).unwrap(), b"one two");
    let file = &stored[0];
    assert_eq!((file.filename.as_str(), file.format.as_str()), ("default.zip", "zip"));
    assert_eq!((file.artifact_type.as_str(), file.expire_in.as_str()), ("archive", "1 week & more"));

    sandbox.enqueue(SandboxJob::new("needs", &["true"]).needs_artifacts_of(credentials.id));
    let needing = receive(&client(&sandbox)).await;
    let dependency = &needing.payload.dependencies[0];
    assert_eq!(dependency.name, "makes");
    let of = JobCredentials { id: crate::ids::JobId(dependency.id), token: dependency.token.clone() };
    let (outcome, bytes) = downloaded(&artifacts, &of, Route::ThroughGitlab).await;
    assert!(matches!(outcome, DownloadOutcome::Downloaded { bytes: 7 }), "{outcome:?}");
    assert_eq!(bytes, b"one two");
}

#[tokio::test]
async fn a_direct_download_leaves_the_token_behind() {
    let sandbox = Sandbox::start_with(loopback(), Options { direct_download: true, ..options() }).await.unwrap();
    let credentials = running_job(&sandbox).await;
    let artifacts = artifacts(&sandbox);
    artifacts.upload(&credentials, &upload(), body(&["content"])).await;
    let (outcome, bytes) = downloaded(&artifacts, &credentials, Route::Direct).await;
    assert!(matches!(outcome, DownloadOutcome::Downloaded { bytes: 7 }), "{outcome:?}");
    assert_eq!(bytes, b"content");
    let last = sandbox.requests().pop().unwrap();
    assert!(last.uri.starts_with("/storage/"), "{}", last.uri);
    assert_eq!(last.header("job-token"), None);
}

#[tokio::test]
async fn uploads_mean_what_the_table_says() {
    let sandbox = sandbox().await;
    let credentials = running_job(&sandbox).await;
    let artifacts = artifacts(&sandbox);
    for (status, expected, tries) in
        [(403, "Forbidden", 1), (413, "TooLarge", 1), (503, "Unavailable", 6), (500, "Failed", 3), (400, "Failed", 3)]
    {
        sandbox.faults().clear();
        sandbox.faults().add(Fault::status(On::Artifacts, status).body(r#"{"message":"why"}"#));
        let outcome = artifacts.upload(&credentials, &upload(), body(&["x"])).await;
        assert!(format!("{outcome:?}").starts_with(expected), "{outcome:?}");
        assert!(format!("{outcome:?}").contains("(why)"), "{outcome:?}");
        assert_eq!(outcome.tries(), tries, "{status}");
    }
}

#[tokio::test]
async fn a_redirected_upload_goes_on_at_the_other_server() {
    let (sandbox, other) = (sandbox().await, sandbox().await);
    let credentials = running_job(&other).await;
    let target = format!("{}/api/v4/elsewhere", other.url());
    sandbox.faults().add(Fault::status(On::Artifacts, 307).header("Location", &target));
    let outcome = artifacts(&sandbox).upload(&credentials, &upload(), body(&["x"])).await;
    let UploadOutcome::Redirected(there) = outcome else { panic!("{outcome:?}") };
    let outcome = there.upload(&credentials, &upload(), body(&["x"])).await;
    assert!(matches!(outcome, UploadOutcome::Uploaded), "{outcome:?}");
}

#[tokio::test]
async fn an_upload_is_not_redirected_to_a_host_that_nobody_has_listed() {
    let (sandbox, other) = (sandbox().await, sandbox().await);
    let credentials = running_job(&other).await;
    let target = format!("http://localhost:{}/api/v4/elsewhere", other.addr().port());
    sandbox.faults().add(Fault::status(On::Artifacts, 307).header("Location", &target));
    let outcome = artifacts(&sandbox).upload(&credentials, &upload(), body(&["x"])).await;
    assert!(matches!(&outcome, UploadOutcome::RefusedRedirect { host } if host.starts_with("http://localhost:")));
    assert_eq!(outcome.tries(), 1);
    let listed = artifacts(&sandbox).with_redirect_hosts(vec!["localhost".to_owned()]);
    let outcome = listed.upload(&credentials, &upload(), body(&["x"])).await;
    assert!(matches!(outcome, UploadOutcome::Redirected(_)), "{outcome:?}");
}

#[tokio::test]
async fn an_upload_without_an_answer_ends_after_its_limit() {
    let sandbox = sandbox().await;
    let credentials = running_job(&sandbox).await;
    sandbox.faults().add(Fault::new(On::Artifacts, FaultKind::Late { by: Duration::from_secs(3600) }));
    let impatient = ArtifactUpload { response_header_timeout: Duration::from_millis(50), ..upload() };
    let outcome = artifacts(&sandbox).upload(&credentials, &impatient, body(&["x"])).await;
    assert!(matches!(outcome, UploadOutcome::Failed { status: None, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_upload() {
    let sandbox = sandbox().await;
    let credentials = running_job(&sandbox).await;
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("disk gone"))]);
    let outcome = artifacts(&sandbox).upload(&credentials, &upload(), broken).await;
    let UploadOutcome::Failed { status: None, message, .. } = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("disk gone"), "{message}");
    assert_eq!(sandbox.job(credentials.id).artifacts(), []);
}

#[tokio::test]
async fn downloads_mean_what_the_table_says() {
    let sandbox = sandbox().await;
    let credentials = running_job(&sandbox).await;
    let artifacts = artifacts(&sandbox);
    let (nothing, _) = downloaded(&artifacts, &credentials, Route::Direct).await;
    assert!(matches!(nothing, DownloadOutcome::NotFound { .. }), "{nothing:?}");
    for (status, expected, tries) in
        [(401, "Unauthorized", 1), (403, "Forbidden", 1), (404, "NotFound", 1), (500, "Failed", 3)]
    {
        sandbox.faults().clear();
        sandbox.faults().add(Fault::status(On::Artifacts, status));
        let (outcome, bytes) = downloaded(&artifacts, &credentials, Route::Direct).await;
        assert!(format!("{outcome:?}").starts_with(expected), "{outcome:?}");
        assert_eq!((outcome.tries(), bytes.len()), (tries, 0));
    }
}

#[tokio::test]
async fn a_download_that_breaks_off_has_failed() {
    let sandbox = sandbox().await;
    let credentials = running_job(&sandbox).await;
    let artifacts = artifacts(&sandbox);
    artifacts.upload(&credentials, &upload(), body(&["0123456789"])).await;
    sandbox.faults().add(Fault::new(On::Artifacts, FaultKind::BreaksOff { after: 4 }));
    let (outcome, _) = downloaded(&artifacts, &credentials, Route::ThroughGitlab).await;
    assert!(matches!(outcome, DownloadOutcome::Failed { status: Some(200) | None, .. }), "{outcome:?}");
}
