//! The seed configs by the table of the config document's section 15, and broken ones with their messages.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use proptest::prelude::*;

use super::diagnostics::Style;
use super::file::Files;
use super::resolved::{ExecutorKind, Idle, PluginConfig, Runner, S3Authentication, Store};
use super::*;

/// Files that a config names, by path; others do not exist.
#[derive(Default)]
struct FakeFiles(BTreeMap<PathBuf, Vec<u8>>);

impl Files for FakeFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder)
}

fn seed(name: &str) -> String {
    std::fs::read_to_string(data("seeds").join(name).with_extension("toml")).unwrap()
}

fn load_text(text: &str) -> Loaded {
    load_with(Path::new("config.toml"), text, &Environment::default(), &FakeFiles::default())
}

fn messages(loaded: &Loaded) -> String {
    loaded.diagnostics.to_text(&loaded.source, Style::Plain)
}

/// A seed that must load; its only runner.
fn runner(name: &str) -> Runner {
    let loaded = load_text(&seed(name));
    let config = loaded.resolved.as_ref().unwrap_or_else(|| panic!("{name}:\n{}", messages(&loaded)));
    let [runner] = config.runners.as_slice() else { panic!("{name} has {} runners", config.runners.len()) };
    runner.clone()
}

fn at(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().into()
}

#[test]
fn complete_seeds_load_and_are_refused_only_at_run() {
    for name in [
        "001-01", "001-02", "001-03", "002-01", "002-02", "002-03", "003-06", "004-01", "004-02", "004-03", "004-06",
        "004-08",
    ] {
        let loaded = load_text(&seed(name));
        assert!(loaded.resolved.is_some(), "{name}:\n{}", messages(&loaded));
        assert_eq!(loaded.resolved.unwrap().runnable().count(), 0, "{name} cannot run: it names what is not there");
    }
}

#[test]
fn fragments_are_sound_inside_of_a_runner() {
    for (name, before) in [
        ("003-01", ""),
        ("003-02", ""),
        ("003-03", "[[runners]]\n"),
        ("003-04", "[[runners]]\n"),
        ("003-05", "[[runners]]\n"),
        ("003-07", "[[runners]]\n[runners.machine]\n"),
        ("004-04", "[[runners]]\n"),
        ("004-05", "[[runners]]\n"),
    ] {
        let loaded = load_text(&format!("{before}{}", seed(name)));
        assert!(loaded.resolved.is_some(), "{name}:\n{}", messages(&loaded));
        let text = messages(&loaded);
        assert!(!text.contains("unknown"), "{name}:\n{text}");
    }
}

#[test]
fn fragments_alone_are_told_where_they_belong() {
    for name in ["003-03", "003-04", "003-05", "003-07", "004-04", "004-05"] {
        let loaded = load_text(&seed(name));
        assert!(loaded.resolved.is_none(), "{name}");
        let text = messages(&loaded);
        assert!(text.contains("belong") && text.contains("[[runners]]"), "{name}:\n{text}");
    }
}

#[test]
fn what_is_no_toml_gets_a_diagnostic() {
    for (name, hint) in
        [("000-01", "looks like an AWS credentials file"), ("004-07", "stands for lines that a document left out")]
    {
        let loaded = load_text(&seed(name));
        assert!(loaded.resolved.is_none(), "{name}");
        assert!(messages(&loaded).contains(hint), "{name}:\n{}", messages(&loaded));
    }
}

#[test]
fn the_aws_seed_means_what_its_document_says() {
    let runner = runner("001-01");
    assert_eq!(runner.executor, ExecutorKind::DockerAutoscaler);
    let autoscaler = runner.autoscaler.unwrap();
    assert_eq!((autoscaler.capacity_per_instance, autoscaler.max_use_count, autoscaler.max_instances), (1, 1, 10));
    let PluginConfig::Aws(group) = &autoscaler.plugin_config else { panic!("{:?}", autoscaler.plugin_config) };
    assert_eq!(group.name, "my-docker-asg");
    assert_eq!(autoscaler.connector_config.username.as_deref(), Some("ec2-user"));
    assert!(autoscaler.connector_config.use_external_addr);
    let policy = autoscaler.policy_at(at("2026-11-21T03:00:00Z")).unwrap();
    assert_eq!((policy.idle_count, policy.idle_time), (5, Duration::from_secs(1200)));
}

#[test]
fn a_region_in_the_place_of_a_zone_is_noticed() {
    let loaded = load_text(&seed("001-02"));
    assert!(messages(&loaded).contains("\"europe-west1\" is a region, not a zone"));
}

#[test]
fn the_azure_seed_has_a_static_password_and_ten_minutes() {
    let autoscaler = runner("001-03").autoscaler.unwrap();
    assert_eq!(autoscaler.connector_config.timeout, Duration::from_secs(600));
    assert_eq!(autoscaler.connector_config.password.unwrap().expose(), "my-scale-set-static-password");
    assert!(matches!(autoscaler.plugin_config, PluginConfig::Azure(_)));
}

#[test]
fn the_windows_and_mac_seeds_keep_their_numbers() {
    let windows = runner("002-02").autoscaler.unwrap();
    assert_eq!((windows.capacity_per_instance, windows.max_use_count), (5, 0));
    assert_eq!(windows.connector_config.timeout, Duration::from_secs(300));
    let mac = runner("002-03");
    assert!(mac.instance.allowed_images.allows("macos-14"));
    let autoscaler = mac.autoscaler.unwrap();
    assert_eq!(autoscaler.connector_config.key_path.as_deref(), Some(Path::new("macos-key.pem")));
    assert_eq!(autoscaler.policies[0].idle_time, Duration::from_secs(86_400));
    assert_eq!(autoscaler.vm_isolation.unwrap().connector_config.timeout, Duration::from_secs(1200));
}

#[test]
fn the_old_cache_keys_and_the_off_peak_keys_still_work() {
    let runner = runner("003-06");
    assert_eq!(runner.limit, 20);
    assert!(runner.docker.privileged && runner.docker.disable_cache && runner.cache.shared);
    let Some(Store::S3(s3)) = runner.cache.store else { panic!("no store") };
    assert_eq!(
        (s3.server_address.as_deref(), s3.bucket_location.as_deref()),
        (Some("s3.amazonaws.com"), Some("us-east-1"))
    );
    assert_eq!(s3.authentication, S3Authentication::AccessKey);
    let mut machine = runner.machine.unwrap();
    // The file names no zone; the test must not depend on this machine's.
    machine.autoscaling[0].timezone = "UTC".parse().unwrap();
    let busy = Idle { count: 1, time: Duration::from_secs(1800), ..Idle::default() };
    let off_peak = Idle { count: 0, time: Duration::from_secs(1200), ..Idle::default() };
    assert_eq!(machine.idle_at(at("2026-11-23T12:00:00Z")), busy, "Monday noon");
    assert_eq!(machine.idle_at(at("2026-11-23T09:59:59Z")), off_peak, "Monday before ten");
    assert_eq!(machine.idle_at(at("2026-11-22T12:00:00Z")), off_peak, "Sunday");
}

#[test]
fn incomplete_seeds_say_what_is_missing() {
    let loaded = load_text(&seed("004-01"));
    let text = messages(&loaded);
    for key in ["url", "token", "machine.MachineName"] {
        assert!(text.contains(&format!("warning: runners[0].{key}: the key is missing")), "{key}:\n{text}");
    }
    let runner = runner("004-01");
    assert_eq!(runner.limit, 10);
    let idle = runner.machine.unwrap().idle;
    assert_eq!((idle.count, idle.time), (2, Duration::from_secs(1800)));
}

#[test]
fn limits_of_the_autoscale_document_stand() {
    for (name, limit) in [("004-02", 40), ("004-03", 25)] {
        let config = load_text(&seed(name)).resolved.unwrap();
        assert_eq!(config.concurrent, 20);
        assert_eq!((config.runners[0].limit, config.runners[0].machine.as_ref().unwrap().idle.count), (limit, 10));
    }
}

#[test]
fn the_complete_machine_seed_has_its_periods_and_its_cache() {
    let runner = runner("004-08");
    let machine = runner.machine.unwrap();
    assert!(machine.options.contains(&"digitalocean-private-networking".to_owned()));
    for (moment, count, seconds) in
        [("2026-11-23T12:00:00Z", 50, 3600), ("2026-11-22T12:00:00Z", 5, 60), ("2026-11-23T20:00:00Z", 5, 600)]
    {
        let idle = machine.idle_at(at(moment));
        assert_eq!((idle.count, idle.time), (count, Duration::from_secs(seconds)), "{moment}");
    }
    assert!(matches!(runner.cache.store, Some(Store::S3(_))));
}

#[test]
fn broken_configs_say_everything_that_is_wrong_at_once() {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(data("broken")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    assert!(paths.len() >= 20, "only {} broken configs", paths.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(data("broken"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        // That a provider is not part of the build is said as well: the snapshots are those of a whole build.
        if cfg!(not(feature = "aws")) && path.ends_with("10-provider-settings.toml") {
            continue;
        }
        let loaded = load_text(&text);
        assert!(loaded.resolved.is_none(), "{} is not broken:\n{}", path.display(), messages(&loaded));
        let name = path.file_stem().unwrap().to_str().unwrap();
        settings.bind(|| insta::assert_snapshot!(name, messages(&loaded)));
    }
}

proptest! {
    /// Whatever a file contains, loading and printing come to an end.
    #[test]
    fn no_text_makes_loading_or_printing_panic(file in 0..44_usize, from in 0..4000_usize, length in 0..40_usize, new in "[\\]\\[={}\"'#.,\nü0-9a-z -]{0,8}") {
        let mut paths: Vec<PathBuf> = ["seeds", "broken"].into_iter().flat_map(|folder| std::fs::read_dir(data(folder)).unwrap()).map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        let text = std::fs::read_to_string(&paths[file % paths.len()]).unwrap();
        let letters: Vec<char> = text.chars().collect();
        let from = from % (letters.len() + 1);
        let changed: String = letters[..from].iter().chain(&new.chars().collect::<Vec<_>>()).chain(letters.get(from + length..).unwrap_or_default()).collect();
        let loaded = load_text(&changed);
        prop_assert!(loaded.resolved.is_some() || loaded.diagnostics.has_errors());
        let printed = messages(&loaded);
        prop_assert!(loaded.diagnostics.items().is_empty() || printed.contains("config.toml"));
    }
}

#[test]
fn a_file_on_the_disk_is_read_with_a_word_about_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    assert!(load_file(&path, &Environment::default()).unwrap().is_none(), "there is no file");
    std::fs::write(&path, "concurrent = 3").unwrap();
    for (mode, warnings) in [(0o600, 1), (0o644, 2)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load_file(&path, &Environment::default()).unwrap().unwrap();
        assert_eq!(loaded.diagnostics.warnings(), warnings, "{mode:o}: {}", messages(&loaded));
        assert_eq!(loaded.resolved.unwrap().concurrent, 3);
    }
}

/// What each secret key holds below; no output may contain a piece of it.
const HIDDEN: &str = "hunter2";

/// Everything that any command shows of a file: both forms of diagnostics, the lines of the log, and the error of the
/// commands that change the file.
fn everything_shown(text: &str) -> String {
    let loaded = load(Path::new("config.toml"), text, &Environment::default());
    let edited = edit::Document::parse(text).err().map(|error| crate::error_chain::Chain(&error).to_string());
    let diagnostics = &loaded.diagnostics;
    let (text, json) = (diagnostics.to_text(&loaded.source, Style::Plain), diagnostics.to_json(&loaded.source));
    format!("{text}\n{json}\n{}", edited.unwrap_or_default())
}

#[test]
fn no_broken_value_of_a_secret_key_is_shown_by_any_command() {
    let runner = "[[runners]]\nname = \"r\"\nexecutor = \"docker-autoscaler\"\n";
    let places = [
        ("", "sentry_dsn"),
        (runner, "token"),
        (runner, "environment"),
        ("[[runners]]\n[runners.autoscaler.connector_config]\n", "password"),
        (
            "[[runners]]\n[runners.autoscaler]\nplugin = \"static\"\n[runners.autoscaler.plugin_config.instances.a]\n",
            "password",
        ),
        ("[[runners]]\n[runners.cache.s3]\n", "AccessKey"),
        ("[[runners]]\n[runners.cache.s3]\n", "SecretKey"),
        ("[[runners]]\n[runners.cache.s3]\n", "SessionToken"),
        ("[[runners]]\n[runners.cache.gcs]\n", "PrivateKey"),
        ("[[runners]]\n[runners.cache.azure]\n", "AccountKey"),
        ("[[runners]]\n[runners.machine]\n", "MachineOptions"),
        ("[[runners]]\n[runners.docker]\n", "volume_driver_ops"),
        ("[[runners]]\n[[runners.docker.services]]\n", "environment"),
        ("[[runners]]\n[runners.unknown]\n", "api_token"),
    ];
    let values = [
        "= \"hunter2",
        "= hunter2",
        "= 'hunter2",
        "= \"\"\"hunter2\n",
        "= \"\"\"\nx hunter2\nconcurrent = 1\nhunter2 = hunter2\n",
        "= [\"hunter2\", \"hunter2\"",
        "= [\"hunter2\"\n\"hunter2\"]",
        "= [\n\"A=hunter2\"\n\"hunter2\n]",
        "= { a = \"hunter2\", b = hunter2",
        "= [[\"hunter2\"]]",
        "= { x = { y = [\"hunter2\"] } }",
        "\"hunter2\"",
        "hunter2",
        ": \"hunter2\"",
        "=\n\"hunter2\"",
        "= \"hunter2\" hunter2",
        "= \"\\q hunter2\"",
        "= \"x\"\u{7}hunter2",
        "= hunter2=hunter2",
        "= <hunter2>",
    ];
    for (place, key) in places {
        for value in values {
            for spelling in [key.to_owned(), key.to_uppercase(), format!("\"{key}\"")] {
                let file = format!("{place}{spelling} {value}\n");
                let shown = everything_shown(&file);
                assert!(!shown.contains(HIDDEN), "{file}\n----\n{shown}");
            }
        }
    }
}

#[test]
fn no_login_of_a_url_is_shown_by_any_command() {
    let runner = |url: &str| format!("[[runners]]\nname = \"r\"\ntoken = \"t\"\nexecutor = \"instance\"\n{url}\n");
    for url in [
        "url = \"https://me:hunter2@host\"",
        "url = \"ftp://me:hunter2@host\"",
        "url = \"me:hunter2@host\"",
        "url = \"https://me:hunter2@ho st\"",
        "url = \"https://me:hunter2@\"",
        "url = \"https://me:hunter2@host:port\"",
        "url = \"https://me:hunter2@host",
        "url = https://me:hunter2@host",
        "url = [\"https://me:hunter2@host\"]",
        "clone_url = \"https://me:hunter2@a b\"",
        "unknown = \"https://me:hunter2@host\" x",
    ] {
        let shown = everything_shown(&runner(url));
        assert!(!shown.contains(HIDDEN), "{url}\n----\n{shown}");
    }
}
