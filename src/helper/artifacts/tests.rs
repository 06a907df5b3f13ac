use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::backoff::Backoff;
use crate::gitlab::retry::{Attempts, MAX_ATTEMPTS};
use crate::helper::cli::{ArtifactsDownloaderArgs, ArtifactsUploaderArgs, Cli, Command};
use crate::helper::console::tests::Written;
use crate::helper::http_server::{Answer, Server};
use clap::Parser;

fn waits() -> Backoff {
    Backoff::new(Duration::from_millis(1), Duration::from_millis(1))
}

/// The attempts of a real command, with waits that nobody feels.
fn attempts() -> Attempts {
    Attempts::waiting(waits())
}

fn environment(folder: &Path, url: &str) -> Environment {
    let variables = [
        ("CI_SERVER_URL", url),
        ("CI_JOB_TOKEN", "glcbt-64_abcdefghijk"),
        ("CI_JOB_ID", "42"),
        ("FF_USE_DIRECT_DOWNLOAD", "true"),
        ("NAME", "n"),
    ];
    Environment::new(variables.map(|(name, value)| (name.into(), value.into())), folder.to_owned())
}

fn uploader(line: &str) -> ArtifactsUploaderArgs {
    match Cli::try_parse_from(["h", "artifacts-uploader"].into_iter().chain(line.split_whitespace())).unwrap().command {
        Some(Command::ArtifactsUploader(args)) => *args,
        other => panic!("{other:?}"),
    }
}

fn downloader(line: &str) -> ArtifactsDownloaderArgs {
    match Cli::try_parse_from(["h", "artifacts-downloader"].into_iter().chain(line.split_whitespace())).unwrap().command
    {
        Some(Command::ArtifactsDownloader(args)) => args,
        other => panic!("{other:?}"),
    }
}

/// The contents of the first part of a multipart body.
fn part(body: &[u8]) -> &[u8] {
    let find =
        |haystack: &[u8], needle: &[u8]| haystack.windows(needle.len()).position(|window| window == needle).unwrap();
    let boundary_end = find(body, b"\r\n");
    let start = find(body, b"\r\n\r\n") + 4;
    let closing = [b"\r\n", &body[..boundary_end]].concat();
    &body[start..start + find(&body[start..], &closing)]
}

fn failed(outcome: Result<(), Failure>) -> String {
    match outcome {
        Err(Failure::Fatal(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn artifacts_go_to_gitlab_and_come_back_alike() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("out/sub")).unwrap();
    fs::write(from.path().join("out/sub/a.txt"), "hello").unwrap();
    let noise: Vec<u8> = (0..1_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(from.path().join("out/noise"), &noise).unwrap();
    std::os::unix::fs::symlink("sub/a.txt", from.path().join("out/link")).unwrap();
    let server = Server::start(vec![Answer::new(201, "{}")]);
    let (console, written) = Written::console();
    let args = uploader("--path out --name a/$NAME --expire-in 1week --artifact-type archive --artifact-format zip");
    upload::run(&args, &environment(from.path(), &server.url()), &console, &attempts(), waits()).unwrap();
    assert_eq!(
        written.lines(),
        [
            "out: found 5 matching artifact files and directories",
            "Uploading artifacts as \"archive\" to coordinator... 201 Created  id=42 status=201 token=64_abcdef",
        ]
    );
    let request = server.requests().remove(0);
    let (path, query) = request.target.split_once('?').unwrap();
    let mut query: Vec<_> = query.split('&').collect();
    query.sort_unstable();
    assert_eq!((request.method.as_str(), path), ("POST", "/api/v4/jobs/42/artifacts"));
    assert_eq!(query, ["artifact_format=zip", "artifact_type=archive", "expire_in=1week"]);
    assert_eq!(request.header("job-token"), Some("glcbt-64_abcdefghijk"));
    assert!(String::from_utf8_lossy(&request.body).contains("name=\"file\"; filename=\"n.zip\""));

    let server = Server::start(vec![Answer::new(200, part(&request.body))]);
    let (console, written) = Written::console();
    download(&downloader("--id 41 --token t0ken"), &environment(to.path(), &server.url()), &console).unwrap();
    assert_eq!(written.lines(), ["Downloading artifacts from coordinator... ok        id=41 status=200 token=t0ken"]);
    let request = server.requests().remove(0);
    assert_eq!(
        (request.target.as_str(), request.header("job-token")),
        ("/api/v4/jobs/41/artifacts?direct_download=true", Some("t0ken"))
    );
    assert_eq!(fs::read_to_string(to.path().join("out/sub/a.txt")).unwrap(), "hello");
    assert_eq!(fs::read(to.path().join("out/noise")).unwrap(), noise);
    assert_eq!(fs::read_link(to.path().join("out/link")).unwrap(), Path::new("sub/a.txt"));
}

#[test]
fn reports_go_as_gzip() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("junit.xml"), "<x/>").unwrap();
    let server = Server::start(vec![Answer::new(201, "{}")]);
    let (console, _) = Written::console();
    upload::run(
        &uploader("--path junit.xml --name junit --artifact-format gzip --artifact-type junit"),
        &environment(from.path(), &server.url()),
        &console,
        &attempts(),
        waits(),
    )
    .unwrap();
    let request = server.requests().remove(0);
    assert!(String::from_utf8_lossy(&request.body).contains("filename=\"junit.gz\""));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(Cursor::new(part(&request.body))), &mut text)
        .unwrap();
    assert_eq!(text, "<x/>");
}

#[test]
fn nothing_to_upload_is_no_failure() {
    let from = tempfile::tempdir().unwrap();
    let (console, written) = Written::console();
    upload::run(
        &uploader("--path none"),
        &environment(from.path(), "http://127.0.0.1:1"),
        &console,
        &attempts(),
        waits(),
    )
    .unwrap();
    assert_eq!(written.lines().last().unwrap(), "ERROR: No files to upload");
}

#[test]
fn missing_credentials_end_both_commands() {
    let folder = tempfile::tempdir().unwrap();
    let (console, _) = Written::console();
    let empty = Environment::new([], folder.path().to_owned());
    assert_eq!(
        failed(upload::run(&uploader("--path x --url http://x --token t"), &empty, &console, &attempts(), waits())),
        "Missing runner credentials"
    );
    assert_eq!(failed(download(&downloader("--url http://x --id 1"), &empty, &console)), "Incomplete arguments");
    let negative = failed(download(&downloader("--url http://x --token t --id 0"), &empty, &console));
    assert_eq!(negative, "Incomplete arguments");
}

#[test]
fn each_answer_has_its_number_of_tries() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x").unwrap();
    let pushed_back = MAX_ATTEMPTS as usize;
    for (status, tries, attempts_of_each, line, problem) in [
        (403, 1, 1, "ERROR: Uploading artifacts to coordinator... 403 Forbidden", "permission denied"),
        (413, 1, 1, "ERROR: Uploading artifacts to coordinator... 413", "too large"),
        (
            500,
            3,
            pushed_back,
            "WARNING: Uploading artifacts to coordinator... 500 Internal Server Error",
            "500 Internal Server Error",
        ),
        (
            503,
            6,
            pushed_back,
            "ERROR: Uploading artifacts to coordinator... 503 Service Unavailable",
            "503 Service Unavailable",
        ),
    ] {
        let server = Server::start(vec![Answer::new(status, ""); 40]);
        let (console, written) = Written::console();
        let outcome = upload::run(
            &uploader("--path a"),
            &environment(from.path(), &server.url()),
            &console,
            &attempts(),
            waits(),
        );
        assert_eq!(failed(outcome), problem);
        assert_eq!(server.requests().len(), tries * attempts_of_each, "{status}");
        let lines = written.lines();
        assert!(lines[1].starts_with(line), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("WARNING: Retrying...")).count(), tries - 1);
    }
}

#[test]
fn a_server_that_pushes_back_costs_an_upload_no_try_and_its_wait_is_kept() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x").unwrap();
    let busy = Answer::new(429, "").with_header("Retry-After", "1");
    let server = Server::start(vec![
        Answer::new(500, ""),
        Answer::new(504, ""),
        Answer::new(408, ""),
        busy,
        Answer::new(201, ""),
    ]);
    let (console, written) = Written::console();
    upload::run(&uploader("--path a"), &environment(from.path(), &server.url()), &console, &attempts(), waits())
        .unwrap();
    assert_eq!(
        written.lines()[1..],
        [
            "WARNING: Waiting as the server asks...              context=artifacts-uploader status=429 wait=1s",
            "Uploading artifacts to coordinator... 201 Created   id=42 status=201 token=64_abcdef",
        ]
    );
    let requests = server.requests();
    assert!(
        requests.iter().all(|request| part(&request.body) == part(&requests[0].body)),
        "each has the whole archive"
    );
}

#[test]
fn a_wait_that_an_uploads_time_does_not_hold_is_not_begun() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x").unwrap();
    let busy = Answer::new(429, "").with_header("Retry-After", "60");
    let server = Server::start(vec![busy, Answer::new(201, "")]);
    let (console, written) = Written::console();
    let args = uploader("--path a --timeout 2s");
    upload::run(&args, &environment(from.path(), &server.url()), &console, &attempts(), waits()).unwrap();
    assert!(!written.text().contains("Waiting"), "{:?}", written.lines());
    assert_eq!(written.lines().iter().filter(|line| line.starts_with("WARNING: Retrying...")).count(), 1);
}

#[test]
fn a_server_that_pushes_back_costs_a_download_no_try() {
    let to = tempfile::tempdir().unwrap();
    let server = Server::start(vec![Answer::new(429, ""), Answer::new(503, ""), Answer::new(200, "<html>")]);
    let (console, written) = Written::console();
    let args = downloader("--retry 0");
    let outcome = download::run(&args, &environment(to.path(), &server.url()), &console, &attempts());
    assert!(failed(outcome).starts_with("reading the archive"));
    assert_eq!(
        written.lines(),
        ["Downloading artifacts from coordinator... ok        id=42 status=200 token=64_abcdef"]
    );
}

#[test]
fn each_try_has_the_whole_archive() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x".repeat(2_000_000)).unwrap();
    let server = Server::start(vec![Answer::new(500, ""), Answer::new(201, "")]);
    let (console, _) = Written::console();
    upload::run(
        &uploader("--path a --compression-level fastest"),
        &environment(from.path(), &server.url()),
        &console,
        &attempts(),
        waits(),
    )
    .unwrap();
    let requests = server.requests();
    assert_eq!(part(&requests[0].body), part(&requests[1].body));
    assert!(part(&requests[1].body).len() > 2_000_000);
}

#[test]
fn a_redirected_upload_goes_to_the_other_server() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x").unwrap();
    let other = Server::start(vec![Answer::new(201, "")]);
    let location = format!("{}/somewhere", other.url());
    let server = Server::start(vec![Answer::new(307, "").with_header("Location", &location)]);
    let (console, written) = Written::console();
    upload::run(&uploader("--path a"), &environment(from.path(), &server.url()), &console, &attempts(), waits())
        .unwrap();
    assert_eq!(other.requests()[0].target, "/api/v4/jobs/42/artifacts");
    assert!(written.lines()[1].starts_with("Upload request redirected"));
}

#[test]
fn an_answer_before_the_end_of_the_body_ends_the_archive() {
    let from = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..8_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(from.path().join("a"), noise).unwrap();
    let server = Server::start(vec![Answer::new(413, "").early(); 6]);
    let (console, written) = Written::console();
    let outcome = upload::run(
        &uploader("--path a --compression-level fastest"),
        &environment(from.path(), &server.url()),
        &console,
        &attempts(),
        waits(),
    );
    // The connection may break before the answer is read: then it is a failure without a status.
    assert!(outcome.is_err());
    assert!(!written.text().contains("ZipWriter"));
}

#[test]
fn an_archive_that_cannot_be_made_ends_the_upload_without_a_whole_body() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x").unwrap();
    fs::write(from.path().join("b"), "x").unwrap();
    let server = Server::start(vec![Answer::new(201, "")]);
    let (console, _) = Written::console();
    let args = uploader("--path a --path b --artifact-format raw --artifact-type x");
    assert_eq!(
        failed(upload::run(&args, &environment(from.path(), &server.url()), &console, &attempts(), waits())),
        "only one file can be sent as raw"
    );
    assert!(server.requests().is_empty(), "a request that breaks off is no request");
}

#[test]
fn formats_that_are_not_served_are_said() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("a"), "x").unwrap();
    let (console, _) = Written::console();
    let outcome = upload::run(
        &uploader("--path a --artifact-format zipzstd"),
        &environment(from.path(), "http://127.0.0.1:1"),
        &console,
        &attempts(),
        waits(),
    );
    assert_eq!(failed(outcome), "archive format \"zipzstd\" is not supported yet: use zip");
}

#[test]
fn downloads_that_cannot_succeed_are_not_tried_again() {
    let to = tempfile::tempdir().unwrap();
    for (status, word, problem) in [
        (401, "unauthorized", "permission denied"),
        (403, "forbidden", "permission denied"),
        (404, "not found", "file does not exist"),
    ] {
        let server = Server::start(vec![Answer::new(status, ""); 3]);
        let (console, written) = Written::console();
        assert_eq!(failed(download(&downloader(""), &environment(to.path(), &server.url()), &console)), problem);
        assert_eq!(server.requests().len(), 1);
        assert!(
            written.lines()[0].starts_with(&format!("ERROR: Downloading artifacts from coordinator... {word}")),
            "{:?}",
            written.lines()
        );
    }
}

#[test]
fn later_tries_of_a_download_go_through_gitlab() {
    let to = tempfile::tempdir().unwrap();
    let server = Server::start(vec![Answer::new(501, ""), Answer::new(505, ""), Answer::new(501, "")]);
    let (console, written) = Written::console();
    let outcome = download(&downloader("--retry 2 --retry-time 1ms"), &environment(to.path(), &server.url()), &console);
    assert!(failed(outcome).starts_with("501 "));
    let targets: Vec<_> = server.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(
        targets,
        ["/api/v4/jobs/42/artifacts?direct_download=true", "/api/v4/jobs/42/artifacts", "/api/v4/jobs/42/artifacts"]
    );
    assert_eq!(written.lines().iter().filter(|line| line.starts_with("WARNING: Retrying...")).count(), 2);
}

#[test]
fn a_download_that_is_no_archive_fails() {
    let to = tempfile::tempdir().unwrap();
    let server = Server::start(vec![Answer::new(200, "<html>sign in</html>")]);
    let (console, _) = Written::console();
    assert!(
        failed(download(&downloader(""), &environment(to.path(), &server.url()), &console))
            .starts_with("reading the archive")
    );
}
