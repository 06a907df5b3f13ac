use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Parser;

use super::*;
use crate::helper::calendar::http_date;
use crate::helper::cli::{CacheInitArgs, Cli, Command};
use crate::helper::console::tests::Written;
use crate::helper::http_server::{Answer, Server};
use crate::helper::run::Failure;

/// A project beside a cache folder, as on a runner.
struct Place {
    outer: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir_all(outer.path().join("builds/project/vendor")).unwrap();
        fs::write(outer.path().join("builds/project/vendor/a"), "one").unwrap();
        Self { outer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.outer.path().join(name)
    }

    fn environment(&self) -> Environment {
        Environment::new([("CACHE_METADATA".into(), r#"{"cachekey":"k"}"#.into())], self.path("builds/project"))
    }

    fn archive(&self, more: &str) -> (Result<(), Failure>, Vec<String>) {
        let line = format!("h cache-archiver --file ../../cache/k/cache.zip --path vendor --retry-time 1ms {more}");
        let Some(Command::CacheArchiver(args)) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!()
        };
        let (console, written) = Written::console();
        (archive(&args, &self.environment(), &console), written.lines())
    }

    fn extract(&self, more: &str) -> (Result<(), Failure>, Vec<String>) {
        let line = format!("h cache-extractor --file ../../cache/k/cache.zip --retry-time 1ms {more}");
        let Some(Command::CacheExtractor(args)) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!()
        };
        let (console, written) = Written::console();
        (extract(&args, &self.environment(), &console), written.lines())
    }

    fn forget_vendor(&self) {
        fs::remove_dir_all(self.path("builds/project/vendor")).unwrap();
    }

    fn vendor(&self) -> String {
        fs::read_to_string(self.path("builds/project/vendor/a")).unwrap()
    }
}

const FOUND: &str = "vendor: found 2 matching artifact files and directories";
const LOCAL_ONLY: &str =
    "No URL provided, cache will not be uploaded to shared cache server. Cache will be stored only locally.";
const LOCAL_INSTEAD: &str = "No URL provided, cache will not be downloaded from shared cache server. Instead a local version of cache will be extracted.";

#[test]
fn a_local_cache_is_kept_and_restored() {
    let place = Place::new();
    let (outcome, lines) = place.extract("");
    assert!(matches!(outcome, Err(Failure::Said)));
    assert_eq!(lines, [LOCAL_INSTEAD, "WARNING: Cache file does not exist"]);
    let (outcome, lines) = place.archive("");
    outcome.unwrap();
    assert_eq!(lines, [FOUND, LOCAL_ONLY]);
    assert_eq!(fs::read_to_string(place.path("cache/k/metadata.json")).unwrap(), r#"{"cachekey":"k"}"#);
    let names: Vec<_> = fs::read_dir(place.path("cache/k")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");
    place.forget_vendor();
    let (outcome, lines) = place.extract("");
    outcome.unwrap();
    assert_eq!((lines, place.vendor()), (vec![LOCAL_INSTEAD.to_owned()], "one".to_owned()));
}

#[test]
fn an_archive_is_made_anew_only_where_a_file_is_newer() {
    let place = Place::new();
    place.archive("").0.unwrap();
    let (outcome, lines) = place.archive("");
    outcome.unwrap();
    assert_eq!(lines, [FOUND, "Archive is up to date!"]);
    let file = File::options().write(true).open(place.path("builds/project/vendor/a")).unwrap();
    file.set_modified(crate::time::now().utc + Duration::from_secs(60)).unwrap();
    assert_eq!(place.archive("").1, [FOUND, LOCAL_ONLY]);
}

#[test]
fn nothing_to_cache_is_no_failure() {
    let place = Place::new();
    place.forget_vendor();
    let (outcome, lines) = place.archive("");
    outcome.unwrap();
    assert_eq!(lines.last().unwrap(), "WARNING: No files to cache.");
    assert!(!place.path("cache/k/cache.zip").exists());
}

#[test]
fn an_archive_under_its_other_name_is_taken_over() {
    let place = Place::new();
    place.archive("").0.unwrap();
    fs::create_dir(place.path("cache/h")).unwrap();
    fs::rename(place.path("cache/k/cache.zip"), place.path("cache/h/cache.zip")).unwrap();
    let alternate = "--alternate-file ../../cache/h/cache.zip";
    assert_eq!(
        place.archive(alternate).1,
        ["Renamed alternate cache file to primary", FOUND, "Archive is up to date!"]
    );
    let server = Server::start(vec![Answer::new(404, ""), Answer::new(200, ""), Answer::new(200, "")]);
    let urls = format!("{alternate} --url {0}/put?sig=x --check-url {0}/head", server.url());
    let lines = place.archive(&urls).1;
    assert_eq!(lines[1], "Primary cache does not exist remotely, uploading existing archive");
    assert_eq!(place.archive(&urls).1[1], "Primary cache already exists remotely, skipping upload");
    let methods: Vec<_> = server.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["HEAD", "PUT", "HEAD"]);
}

#[test]
fn an_upload_has_the_archive_its_time_and_the_given_headers() {
    let place = Place::new();
    let server = Server::start(vec![Answer::new(500, ""), Answer::new(200, "")]);
    let (outcome, lines) =
        place.archive(&format!("--url {}/bucket/k?signature=secret --header X-Amz-Meta-Cachekey:k --header Host:elsewhere --header Content-Type:a/b", server.url()));
    outcome.unwrap();
    assert_eq!(lines[1], "Using presigned URL for cache upload");
    assert_eq!(lines[2], format!("Uploading cache.zip to {}/bucket/k", server.url()));
    assert!(lines[3].starts_with("WARNING: Retrying...") && lines.len() == 5, "{lines:?}");
    let archive = fs::read(place.path("cache/k/cache.zip")).unwrap();
    let modified = fs::metadata(place.path("cache/k/cache.zip")).unwrap().modified().unwrap();
    for request in server.requests() {
        assert_eq!((request.method.as_str(), request.target.as_str()), ("PUT", "/bucket/k?signature=secret"));
        assert!(request.body == archive && request.header("transfer-encoding").is_none());
        assert_eq!(request.header("last-modified"), Some(http_date(modified).as_str()));
        assert_eq!((request.header("x-amz-meta-cachekey"), request.header("content-type")), (Some("k"), Some("a/b")));
        assert!(request.header("host").unwrap().starts_with("127.0.0.1"));
    }
}

#[test]
fn a_refused_upload_fails_with_what_the_store_says() {
    let place = Place::new();
    let body = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let server = Server::start(vec![Answer::new(403, body); 3]);
    let Err(Failure::Fatal(message)) = place.archive(&format!("--url {}/k", server.url())).0 else { panic!() };
    assert_eq!(message, "received: 403 Forbidden. Request failed with code: AccessDenied, message: no");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn an_archive_above_the_limit_stays_local() {
    let place = Place::new();
    let (outcome, lines) = place.archive("--max-uploaded-archive-size 10 --url http://127.0.0.1:1/k");
    outcome.unwrap();
    assert!(lines[1].ends_with("is too big (Limit is set to 10). Cache will be stored only locally."), "{lines:?}");
}

/// The bytes of an archive of `vendor/a`.
fn archive_bytes() -> Vec<u8> {
    let place = Place::new();
    place.archive("").0.unwrap();
    fs::read(place.path("cache/k/cache.zip")).unwrap()
}

fn date(seconds: u64) -> String {
    http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[test]
fn a_cache_is_downloaded_where_it_is_newer() {
    let place = Place::new();
    place.forget_vendor();
    let answer = Answer::new(200, archive_bytes())
        .with_header("Last-Modified", &date(1_700_000_000))
        .with_header("ETag", "\"e\"")
        .with_header("x-amz-meta-cachekey", "kk");
    let server = Server::start(vec![Answer::new(503, ""), answer.clone(), answer]);
    let url = format!("--url {}/k?sig=secret", server.url());
    let (outcome, lines) = place.extract(&url);
    outcome.unwrap();
    assert_eq!(lines[0], "Using presigned URL for cache download");
    assert!(lines[1].starts_with("WARNING: Retrying..."), "{lines:?}");
    assert_eq!(lines[2], format!("Downloading cache.zip from {}/k  etag=\"e\"", server.url()));
    assert_eq!(place.vendor(), "one");
    let modified = fs::metadata(place.path("cache/k/cache.zip")).unwrap().modified().unwrap();
    assert_eq!(http_date(modified), date(1_700_000_000));
    assert_eq!(fs::read_to_string(place.path("cache/k/metadata.json")).unwrap(), r#"{"cachekey":"kk"}"#);
    place.forget_vendor();
    let (outcome, lines) = place.extract(&url);
    outcome.unwrap();
    assert_eq!((lines[1].as_str(), place.vendor().as_str()), ("cache.zip is up to date", "one"));
}

#[test]
fn a_missing_remote_cache_is_told_once() {
    let place = Place::new();
    let server = Server::start(vec![Answer::new(404, ""); 3]);
    let (outcome, lines) = place.extract(&format!("--url {}/k", server.url()));
    assert!(matches!(outcome, Err(Failure::Said)));
    assert_eq!(lines, ["Using presigned URL for cache download", "WARNING: file does not exist"]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn the_newer_of_two_caches_is_taken() {
    for (primary, alternate, chosen, message) in [
        (Some(10), Some(20), "/a", "Selecting alternate cache URL: newer timestamp"),
        (Some(20), Some(10), "/p", "Selecting primary cache URL"),
        (Some(10), None, "/p", "Selecting primary cache URL"),
        (None, Some(10), "/a", "Selecting alternate cache URL: primary not available"),
    ] {
        let place = Place::new();
        let head = |seconds: Option<u64>| match seconds {
            Some(seconds) => Answer::new(200, "").with_header("Last-Modified", &date(seconds)),
            None => Answer::new(404, ""),
        };
        let server = Server::start(vec![head(primary), head(alternate), Answer::new(200, archive_bytes())]);
        let (outcome, lines) = place.extract(&format!(
            "--url {0}/p --head-url {0}/ph --alternate-url {0}/a --alternate-head-url {0}/ah",
            server.url()
        ));
        outcome.unwrap();
        assert!(lines[1].starts_with(message), "{lines:?}");
        let targets: Vec<_> =
            server.requests().into_iter().map(|request| format!("{} {}", request.method, request.target)).collect();
        assert_eq!(targets, ["HEAD /ph".to_owned(), "HEAD /ah".to_owned(), format!("GET {chosen}")]);
    }
}

#[test]
fn without_heads_the_alternate_is_the_second_choice() {
    let place = Place::new();
    let server = Server::start(vec![Answer::new(404, ""), Answer::new(200, archive_bytes())]);
    place.extract(&format!("--url {0}/p --alternate-url {0}/a", server.url())).0.unwrap();
    assert_eq!(server.requests()[1].target, "/a");
}

#[test]
fn a_download_that_breaks_off_leaves_the_old_archive() {
    let place = Place::new();
    place.archive("").0.unwrap();
    let before = fs::read(place.path("cache/k/cache.zip")).unwrap();
    let broken =
        Answer::new(200, "PK").with_header("Content-Length", "1000").with_header("Last-Modified", &date(4_000_000_000));
    let server = Server::start(vec![broken; 3]);
    assert!(place.extract(&format!("--url {}/k", server.url())).0.is_err());
    assert_eq!(fs::read(place.path("cache/k/cache.zip")).unwrap(), before);
    assert_eq!(fs::read_dir(place.path("cache/k")).unwrap().count(), 2);
}

#[test]
fn other_urls_and_formats_are_said() {
    let place = Place::new();
    let Err(Failure::Fatal(message)) = place.extract("--gocloud-url s3://b/k").0 else { panic!() };
    assert_eq!(message, NOT_SERVED);
    assert!(matches!(place.archive("--gocloud-url s3://b/k").0, Err(Failure::Fatal(_))));
    let place = Place::new();
    let (outcome, lines) = place.archive("--compression-format tarzstd");
    outcome.unwrap();
    assert_eq!(lines[1], "WARNING: compression format \"tarzstd\" is not supported yet, falling back to zip");
    place.extract("").0.unwrap();
}

#[test]
fn variables_of_the_env_file_count() {
    let place = Place::new();
    fs::write(
        place.path("builds/project/e"),
        "CACHE_METADATA=\"{\\\"cachekey\\\":\\\"from file\\\"}\"\nCACHE_COMPRESSION_LEVEL=\"odd\"\n",
    )
    .unwrap();
    let (outcome, lines) = place.archive("--env-file e");
    outcome.unwrap();
    assert!(lines.iter().any(|line| line.contains("\"odd\"")), "{lines:?}");
    assert!(fs::read_to_string(place.path("cache/k/metadata.json")).unwrap().contains("from file"));
    assert!(place.archive("--env-file none").1[0].starts_with("WARNING: reading none:"));
}

#[test]
fn new_volumes_are_opened_up() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let (console, written) = Written::console();
    let args = CacheInitArgs { paths: vec!["none".into(), "vendor".into()] };
    init(&args, &place.environment(), &console).unwrap();
    assert_eq!(fs::metadata(place.path("builds/project/vendor")).unwrap().permissions().mode() & 0o7777, 0o777);
    assert!(written.lines()[0].starts_with("ERROR: failed to chmod path none"));
    assert!(init(&CacheInitArgs { paths: Vec::new() }, &place.environment(), &console).is_err());
}

#[test]
fn minutes_without_sense_are_ten() {
    assert_eq!([time_limit(0), time_limit(-1), time_limit(3)].map(|limit| limit.as_secs()), [600, 600, 180]);
}

#[test]
fn urls_are_shown_without_their_secrets() {
    assert_eq!(remote::clean_url("https://u:p@s.example/b/k?X-Amz-Signature=1#f"), "https://s.example/b/k");
    assert_eq!(remote::clean_url("no url"), "");
}

#[test]
fn what_a_job_left_in_the_cache_folder_is_neither_followed_nor_waited_for() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    fs::write(place.path("secret"), "secret").unwrap();
    fs::create_dir_all(place.path("cache/k")).unwrap();
    symlink("../../secret", place.path("cache/k/metadata.json")).unwrap();
    symlink("../../secret", place.path("cache/k/cache.zip")).unwrap();
    place.archive("").0.unwrap();
    assert_eq!(fs::read_to_string(place.path("secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(place.path("cache/k/metadata.json")).unwrap(), r#"{"cachekey":"k"}"#);
    // A link or a pipe in the place of the archive, where the job's next run would read or upload it.
    for kind in ["link", "pipe"] {
        fs::remove_file(place.path("cache/k/cache.zip")).unwrap();
        if kind == "link" {
            symlink("../../secret", place.path("cache/k/cache.zip")).unwrap();
        } else {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, place.path("cache/k/cache.zip"), fifo, 0o600.into(), 0).unwrap();
        }
        assert!(matches!(place.extract("").0, Err(Failure::Fatal(_))), "{kind}");
        let server = Server::start(vec![Answer::new(404, ""), Answer::new(200, "")]);
        let urls = format!("--alternate-file ../none --url {0}/put --check-url {0}/head --retry 0", server.url());
        let _refused = place.archive(&urls).0.is_err();
        assert!(server.requests().iter().all(|request| !request.body.starts_with(b"secret")), "{kind}");
    }
}

#[test]
fn an_env_file_that_is_a_pipe_or_a_link_is_left_out() {
    let place = Place::new();
    let path = place.path("builds/project/e");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(place.archive("--env-file e").1[0].starts_with("WARNING: reading e: not a regular file"));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(place.archive("--env-file e").1[0].starts_with("WARNING: reading e: "));
}

#[test]
fn a_cache_expands_to_no_more_than_the_limit() {
    let place = Place::new();
    place.archive("").0.unwrap();
    let Err(Failure::Fatal(message)) = place.extract("--max-extracted-size 2").0 else { panic!() };
    assert!(message.ends_with("expands to more than the limit of 2 bytes (--max-extracted-size)"), "{message}");
    place.extract("--max-extracted-size 3").0.unwrap();
}
