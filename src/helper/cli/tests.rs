use clap::{CommandFactory, Parser};

use super::*;

fn command(line: &str) -> Command {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).command.unwrap()
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_calls_of_generated_scripts_are_understood() {
    let Command::ArtifactsUploader(args) = command(
        "helper artifacts-uploader --url https://gitlab.example/ --token glcbt-64_x --id 42 --timeout 1h0m0s \
         --response-header-timeout 10m0s --path out/ --path -x --exclude *.log --untracked --name n --expire-in 1week \
         --artifact-format zip --artifact-type archive",
    ) else {
        panic!()
    };
    assert_eq!((args.job.id, args.timeout.as_secs(), args.response_header_timeout.as_secs()), (Some(42), 3_600, 600));
    assert_eq!(
        (args.files.paths, args.files.exclude, args.files.untracked),
        (vec!["out/".into(), "-x".into()], vec!["*.log".into()], Some(true))
    );
    assert_eq!(args.job.token.unwrap().expose(), "glcbt-64_x");

    let Command::CacheArchiver(args) = command(
        "helper cache-archiver --file ../../cache/k/cache.zip --alternate-file ../../cache/h/cache.zip --timeout 10 \
         --max-uploaded-archive-size 5 --path vendor --untracked --url http://s/x --header A:b --check-url http://s/h --env-file e",
    ) else {
        panic!()
    };
    assert_eq!((args.timeout, args.max_uploaded_archive_size, args.retry.retry), (10, Some(5), 2));

    let Command::CacheExtractor(args) = command(
        "helper cache-extractor --file c --timeout 10 --url U --head-url H --env-file E --alternate-url A --alternate-head-url AH",
    ) else {
        panic!()
    };
    assert_eq!((args.url.as_deref(), args.alternate_head_url.as_deref()), (Some("U"), Some("AH")));

    let Command::ArtifactsDownloader(args) =
        command("helper artifacts-downloader --url=U --token=t --id=41 --retry-time=2s")
    else {
        panic!()
    };
    assert_eq!((args.job.id, args.retry.retry_time.as_secs()), (Some(41), 2));
}

#[test]
fn switches_take_a_value_only_with_an_equals_sign() {
    let untracked = |line: &str| {
        let Command::CacheArchiver(args) = command(line) else { panic!("{line}") };
        (args.files.untracked, args.files.paths)
    };
    assert_eq!(untracked("h cache-archiver --untracked=false --path a"), (Some(false), vec!["a".into()]));
    assert_eq!(untracked("h cache-archiver --untracked --path a"), (Some(true), vec!["a".into()]));
    assert_eq!(untracked("h cache-archiver --path a").0, None);
    assert!(Cli::try_parse_from(["h", "cache-archiver", "--untracked", "true"]).is_err());
    assert!(Cli::try_parse_from(["h", "cache-archiver", "--untracked=maybe"]).is_err());
}

#[test]
fn the_last_of_a_repeated_flag_counts() {
    let Command::CacheArchiver(args) = command("h cache-archiver --file a --file b") else { panic!() };
    assert_eq!(args.file, Some("b".into()));
}

#[test]
fn tokens_are_not_printed() {
    let command = command("h artifacts-downloader --token very-secret");
    assert!(!format!("{command:?}").contains("very-secret"));
}
