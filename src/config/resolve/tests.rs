//! What single keys and sections come to; the seeds and the broken files are in `config::tests`.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::diagnostics::Style;
use crate::config::environment::Environment;
use crate::config::file::Files;
use crate::config::resolved::{
    Config, ExecutorKind, Isolation, LogFormat, LogLevel, PluginConfig, Protocol, ReservationMode, Runner,
    S3Authentication, S3Encryption, ScaleThrottle, Shell, Store,
};
use crate::config::types::pull_policy::PullPolicy;
use crate::config::{Loaded, load_with};

/// Every file exists and holds an empty JSON object.
struct AnyFile;

impl Files for AnyFile {
    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Ok(b"{}".to_vec())
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Loaded {
    load_with(Path::new("config.toml"), text, &Environment::from_iter(variables.iter().copied()), &AnyFile)
}

fn messages(loaded: &Loaded) -> String {
    loaded.diagnostics.to_text(&loaded.source, Style::Plain)
}

fn resolved(text: &str) -> Config {
    let loaded = load(text, &[]);
    let messages = messages(&loaded);
    loaded.resolved.unwrap_or_else(|| panic!("{messages}"))
}

/// A runner that can run, with more lines in it.
fn with_lines(runner: &str, autoscaler: &str) -> String {
    format!(
        "concurrent = 1000\n[[runners]]\nname = \"r\"\nurl = \"https://gitlab.example.com\"\ntoken = \"glrt-x\"\n\
         executor = \"instance\"\n{runner}\n[runners.autoscaler]\nplugin = \"local\"\nmax_instances = 4\n{autoscaler}\n"
    )
}

fn runner(runner: &str, autoscaler: &str) -> Runner {
    resolved(&with_lines(runner, autoscaler)).runners.remove(0)
}

fn every_key() -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/every-key.toml");
    let text = std::fs::read_to_string(path).unwrap();
    load(&text, &[("GITLAB_HOST", "gitlab.example.com"), ("RUNNER_TOKEN", "glrt-secret")])
}

#[test]
fn every_key_of_the_surface_is_known() {
    let loaded = every_key();
    let text = messages(&loaded);
    assert!(!text.contains("unknown") && !loaded.diagnostics.has_errors(), "{text}");
}

#[test]
fn every_key_reaches_the_runner() {
    let config = every_key().resolved.unwrap();
    assert_eq!((config.log_level, config.log_format), (Some(LogLevel::Warn), Some(LogFormat::Json)));
    assert_eq!(config.listen_address.as_deref(), Some("localhost:9252"));
    assert_eq!(config.connection_max_age, Some(Duration::from_secs(600)));
    assert_eq!(config.shutdown_drain.retry_backoff, Duration::from_secs(10));
    let runner = &config.runners[0];
    assert_eq!((runner.url.as_str(), runner.token.expose()), ("https://gitlab.example.com", "glrt-secret"));
    assert_eq!((runner.executor, runner.shell), (ExecutorKind::DockerAutoscaler, Some(Shell::Bash)));
    assert_eq!((runner.output_limit, runner.request_concurrency, runner.limit), (8192 * 1024, 4, 50));
    assert_eq!(runner.tls.ca_file.as_deref(), Some(Path::new("/certs/ca.crt")));
    assert_eq!(runner.labels.get("team").map(String::as_str), Some("build"), "the runner's own wins");
    assert_eq!(runner.environment.get(1), Some(&("B".to_owned(), "x=y".to_owned())));
    assert_eq!(runner.feature_flag("FF_TIMESTAMPS"), Some(false));
    assert_eq!(runner.feature_flag("FF_SCRIPT_SECTIONS"), Some(true));
    assert_eq!(runner.feature_flag("FF_USE_FASTZIP"), None);
    assert_eq!(runner.slot_cgroups.as_ref().unwrap().service_template, "services/slot-$slot");
    assert!(runner.token_expires_at.is_none() && runner.token_obtained_at.is_some());
    assert_eq!(runner.refusals, []);
}

#[test]
fn every_key_of_docker_reaches_the_engine() {
    let docker = every_key().resolved.unwrap().runners.remove(0).docker;
    assert_eq!((docker.memory, docker.nano_cpus), (Some(1 << 30), Some(1_500_000_000)));
    assert_eq!(docker.service_nano_cpus, Some(500_000_000));
    assert_eq!(docker.dns, ["8.8.8.8", "::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    assert!(docker.privileged && !docker.services_privileged);
    assert_eq!(docker.security_opt, ["seccomp={}", "no-new-privileges"]);
    assert_eq!(docker.devices[1].permissions, "r");
    assert_eq!((docker.gpus.unwrap().count, docker.service_gpus.unwrap().device_ids.len()), (-1, 2));
    assert_eq!(docker.pull_policies, [PullPolicy::Always, PullPolicy::IfNotPresent]);
    assert_eq!((docker.isolation, docker.services_limit), (Isolation::Process, Some(3)));
    assert_eq!(docker.wait_for_services_timeout, None);
    assert_eq!(docker.services[0].aliases, ["db", "database"]);
    assert_eq!((docker.ulimits[0].soft, docker.ulimits[0].hard), (1024, 2048));
    assert!(docker.allowed_images.allows("my/own/image") && !docker.allowed_images.allows("other"));
    assert_eq!(docker.allowed_users, ["1000", "root"]);
    assert_eq!(docker.allowed_credential_helpers.unwrap()[0].as_str(), "ecr-login");
}

#[test]
fn every_key_of_the_autoscaler_and_the_cache_is_kept() {
    let mut runners = every_key().resolved.unwrap().runners;
    let shells = runners.remove(2).autoscaler.unwrap();
    let PluginConfig::Local(local) = shells.plugin_config else { panic!("{:?}", shells.plugin_config) };
    assert_eq!((local.max_size, local.boot_time), (Some(3), Duration::from_millis(250)));
    let runner = runners.remove(0);
    let autoscaler = runner.autoscaler.unwrap();
    assert_eq!(autoscaler.scale_throttle, ScaleThrottle { limit: Some(5), burst: 10 });
    assert_eq!(autoscaler.state_storage.enabled, Some(true));
    assert_eq!(autoscaler.connector_config.port, Some(2222));
    assert_eq!(autoscaler.buckets.creation_time, Some(vec![5.0, 10.0]));
    assert_eq!((autoscaler.policies[0].scale_factor, autoscaler.vm_isolation), (1.0, None));
    let PluginConfig::Static(hosts) = autoscaler.plugin_config else { panic!("not static") };
    let host = &hosts.instances["one"];
    assert_eq!(
        (host.port, host.protocol, host.timeout),
        (Some(2200), Some(Protocol::Ssh), Some(Duration::from_secs(60)))
    );
    let Some(Store::S3(s3)) = runner.cache.store else { panic!("no store") };
    assert_eq!(s3.authentication, S3Authentication::AccessKey);
    assert_eq!(s3.encryption, Some(S3Encryption::Kms { key_id: Some("alias/key".into()) }));
    assert_eq!((s3.assume_role_max_concurrency, s3.path_style, s3.dual_stack), (None, Some(true), false));
}

#[test]
fn what_has_no_effect_yet_is_said_key_by_key() {
    let keys: Vec<String> = every_key().unserved.into_iter().map(|unserved| unserved.key).collect();
    for key in [
        "sentry_dsn",
        "session_server.listen_address",
        "runners[containers].docker.services",
        "runners[containers].proxy_exec",
    ] {
        assert!(keys.iter().any(|known| known == key), "{key} in {keys:?}");
    }
}

#[test]
fn a_feature_flag_that_changes_nothing_is_said_where_it_differs_from_its_default() {
    let text = with_lines(
        "token_expires_at = 2030-01-01T00:00:00Z\n\
         environment = [\"FF_USE_LEGACY_BASH_EVAL=1\", \"FF_SCRIPT_SECTIONS=1\", \"FF_USE_JOB_ROUTER=0\"]\n\
         [runners.feature_flags]\nFF_USE_FASTZIP = false\nFF_USE_NATIVE_CONTAINER_STOP = true\n\
         FF_LOG_IMAGES_CONFIGURED_FOR_JOB = false\nFF_HASH_CACHE_KEYS = true",
        "",
    );
    let keys: Vec<String> = load(&text, &[]).unserved.into_iter().map(|unserved| unserved.key).collect();
    assert_eq!(
        keys,
        [
            "runners[r].token_expires_at",
            "runners[r].environment.FF_USE_LEGACY_BASH_EVAL",
            "runners[r].feature_flags.FF_USE_FASTZIP",
            "runners[r].feature_flags.FF_USE_NATIVE_CONTAINER_STOP",
        ]
    );
}

#[test]
fn an_empty_file_has_the_defaults() {
    let loaded = load("", &[]);
    assert_eq!(loaded.resolved, Some(Config::default()));
    assert_eq!(loaded.diagnostics.warnings(), 1, "nothing will run");
    assert!(
        messages(&loaded).starts_with("warning: runners: there is none: nothing will run"),
        "{}",
        messages(&loaded)
    );
}

#[test]
fn a_freshly_registered_file_is_quiet() {
    let registered = r#"
concurrent = 1
check_interval = 0
connection_max_age = "15m0s"
shutdown_timeout = 0

[session_server]
  session_timeout = 1800

[[runners]]
  name = "host"
  url = "https://gitlab.com/"
  id = 12
  token = "glrt-abc"
  token_obtained_at = 2026-11-21T09:30:00Z
  token_expires_at = 0001-01-01T00:00:00Z
  executor = "instance"
  [runners.custom_build_dir]
  [runners.feature_flags]
  [runners.cache]
    MaxUploadedArchiveSize = 0
    [runners.cache.s3]
    [runners.cache.gcs]
    [runners.cache.azure]
  [runners.autoscaler]
    plugin = "local"
    max_instances = 1
"#;
    let loaded = load(registered, &[]);
    assert_eq!(messages(&loaded), "");
    assert_eq!(loaded.unserved, []);
    let config = loaded.resolved.unwrap();
    assert_eq!((config.check_interval, config.shutdown_timeout), (Duration::from_secs(3), Duration::from_secs(30)));
    assert_eq!(config.runners[0].cache.store, None);
    assert_eq!(config.runners[0].custom_build_dir_enabled, None);
}

#[test]
fn extracted_archives_are_limited_to_the_free_disk_space_or_a_number_of_bytes() {
    assert_eq!(runner("", "").max_extracted_size, 0);
    assert_eq!(runner("max_extracted_size = 5000000000", "").max_extracted_size, 5_000_000_000);
}

#[test]
fn absent_keys_of_a_runner_have_the_defaults_of_the_reference() {
    let runner = runner("", "");
    assert_eq!((runner.limit, runner.request_concurrency, runner.output_limit), (0, 1, 4096 * 1024));
    assert_eq!((runner.unhealthy_requests_limit, runner.unhealthy_interval), (3, Duration::from_secs(3600)));
    assert_eq!(runner.job_status_final_update_retry_limit, 10);
    assert_eq!(runner.artifact.upload_timeout, Duration::from_secs(3600));
    let autoscaler = runner.autoscaler.unwrap();
    assert_eq!((autoscaler.capacity_per_instance, autoscaler.max_use_count, autoscaler.failure_threshold), (1, 0, 3));
    assert_eq!(autoscaler.instance_acquire_timeout, Duration::from_secs(900));
    assert_eq!(autoscaler.update_interval_when_expecting, Duration::from_secs(2));
    assert_eq!(autoscaler.scale_throttle, ScaleThrottle { limit: Some(100), burst: 4 });
    assert_eq!(autoscaler.connector_config.timeout, Duration::from_secs(600));
    assert_eq!(autoscaler.state_storage.enabled, None);
    assert_eq!(autoscaler.reservation_mode(None), ReservationMode::Adaptive);
}

#[test]
fn what_the_reference_takes_for_the_default_is_a_warning() {
    let negative = "limit = -1\nunhealthy_interval = \"-1s\"\n[runners.artifact]\nupload_timeout = \"-1s\"";
    let autoscaler = "instance_acquire_timeout = \"-1s\"\nshutdown_deletion_interval = \"-1s\"\n\
        [runners.autoscaler.connector_config]\nkeepalive = \"-1s\"\ntimeout = \"-1s\"";
    let loaded = load(&with_lines(negative, autoscaler), &[]);
    let text = messages(&loaded);
    assert_eq!(text.matches("the default is taken, as in the reference").count(), 6, "{text}");
    let absent = runner("", "");
    assert_eq!(loaded.resolved.unwrap().runners, [absent], "{text}");
}

#[test]
fn secrets_show_neither_in_messages_nor_in_lines() {
    let lines = "environment = [\"hunter2\"]\napi_key = \"hunter2\"\n\
        [runners.cache]\nAccessKey = \"hunter2\"\n\
        [runners.machine]\nMachineOptionsWithName = [\"password=hunter2\"]\nMachineName = \"m-%s\"\n\
        [runners.docker]\nimage = \"a\"\n[[runners.docker.services]]\nname = \"b\"\nenvironment = \"hunter2\"";
    let text = messages(&load(&with_lines(lines, ""), &[]));
    for reported in ["environment[0]", "api_key", "AccessKey", "MachineOptionsWithName[0]", "services[b].environment"] {
        assert!(text.contains(reported), "{reported} in:\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn keys_match_in_any_case() {
    let text = with_lines(
        "LIMIT = 3\n[runners.Docker]\nIMAGE = \"a\"",
        "[[runners.autoscaler.policy]]\nIdleCount = 1\nidlecount = 1",
    );
    let loaded = load(&text, &[]);
    assert!(messages(&loaded).contains("unknown key"), "idlecount has no underscore in any case");
    let runner = loaded.resolved.unwrap().runners.remove(0);
    assert_eq!((runner.limit, runner.docker.image.as_deref()), (3, Some("a")));
}

#[test]
fn what_the_environment_lacks_refuses_the_runner_and_keeps_the_config() {
    let text = with_lines("", "").replace("glrt-x", "$TOKEN").replace("https://gitlab.example.com", "https://${HOST}");
    let runner = |variables: &[(&str, &str)]| load(&text, variables).resolved.unwrap().runners.remove(0);
    let refused = runner(&[]);
    let reasons: Vec<String> = refused.refusals.iter().map(ToString::to_string).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("runners[r].token: the token is empty with the environment filled in"))
    );
    let served = runner(&[("TOKEN", "glrt-y"), ("HOST", "h")]);
    assert_eq!((served.refusals.len(), served.token.expose(), served.url.as_str()), (0, "glrt-y", "https://h"));
}

#[test]
fn sentry_is_taken_from_the_environment_where_the_file_has_none() {
    let config = load("", &[("SENTRY_DSN", "https://x")]).resolved.unwrap();
    assert_eq!(config.sentry_dsn.unwrap().expose(), "https://x");
}

#[test]
fn scale_throttle_knows_no_limit_and_its_default() {
    for (lines, limit, burst) in
        [("limit = -1", None, 4), ("limit = 0", Some(100), 4), ("limit = 7\nburst = 2", Some(7), 2)]
    {
        let section = format!("[runners.autoscaler.scale_throttle]\n{lines}");
        assert_eq!(runner("", &section).autoscaler.unwrap().scale_throttle, ScaleThrottle { limit, burst }, "{lines}");
    }
}

#[test]
fn the_reservation_mode_follows_what_is_set_for_the_policy_that_counts() {
    use ReservationMode as M;
    let policy = |lines: &str| format!("[[runners.autoscaler.policy]]\nidle_count = 1\n{lines}\n");
    let (preemptive, on_demand) = (policy("preemptive_mode = true"), policy("preemptive_mode = false"));
    let by_day = policy("preemptive_mode = true\nperiods = [\"* 8-17 * * *\"]");
    for (lines, modes) in [
        (String::new(), vec![(None, M::Adaptive)]),
        ("reservation_throttling = true".to_owned(), vec![(None, M::Throttled)]),
        ("reservation_throttling = false".to_owned(), vec![(None, M::Adaptive)]),
        (preemptive.clone(), vec![(Some(0), M::Preemptive)]),
        (on_demand.clone(), vec![(Some(0), M::OnDemand)]),
        (format!("reservation_throttling = true\n{on_demand}"), vec![(Some(0), M::Throttled)]),
        (format!("{preemptive}{on_demand}"), vec![(Some(1), M::OnDemand)]),
        (format!("{on_demand}{by_day}"), vec![(Some(0), M::OnDemand), (Some(1), M::Preemptive)]),
        (by_day, vec![(Some(0), M::Preemptive), (None, M::Adaptive)]),
    ] {
        assert_eq!(runner("", &lines).autoscaler.unwrap().reservation_modes(), modes, "{lines}");
    }
}

#[test]
fn the_last_active_policy_counts() {
    let policies = "[[runners.autoscaler.policy]]\nidle_count = 1\n\
        [[runners.autoscaler.policy]]\nidle_count = 2\nperiods = [\"* 8-17 * * mon-fri\"]\ntimezone = \"UTC\"\n";
    let autoscaler = runner("", policies).autoscaler.unwrap();
    let idle_at =
        |moment: &str| autoscaler.policy_at(moment.parse::<jiff::Timestamp>().unwrap().into()).unwrap().idle_count;
    assert_eq!(idle_at("2026-11-23T10:00:00Z"), 2, "Monday in the day");
    assert_eq!(idle_at("2026-11-23T20:00:00Z"), 1);
    assert_eq!(idle_at("2026-11-21T10:00:00Z"), 1, "Saturday");
}

#[test]
fn one_unknown_executor_does_not_stop_the_others() {
    let text = format!(
        "{}[[runners]]\nname = \"odd\"\nurl = \"https://x\"\ntoken = \"t\"\nexecutor = \"dockr\"\n",
        with_lines("", "")
    );
    let config = resolved(&text);
    let runnable: Vec<String> = config.runnable().map(|runner| runner.name.clone()).collect();
    let refused: Vec<&str> = config.refused().map(|runner| runner.name.as_str()).collect();
    assert_eq!((runnable, refused), (vec!["r".to_owned()], vec!["odd"]));
}

#[test]
fn what_is_not_served_refuses_the_runner() {
    for (lines, autoscaler, reason) in [
        ("shell = \"pwsh\"", "", "the shell pwsh is not served yet"),
        ("", "[runners.autoscaler.connector_config]\nprotocol = \"winrm\"", "the protocol winrm is not served yet"),
        (
            "",
            "[runners.autoscaler.connector_config]\nos = \"windows\"",
            "the operating system windows is not served yet",
        ),
        (
            "",
            "[runners.autoscaler.vm_isolation]\nenabled = true",
            "isolation of jobs in virtual machines is not served yet",
        ),
    ] {
        let runner = runner(lines, autoscaler);
        assert!(runner.refusals.iter().any(|refusal| refusal.0.contains(reason)), "{reason}: {:?}", runner.refusals);
    }
}

#[test]
fn advice_across_keys_and_runners_is_given() {
    let again =
        |text: &str| format!("{text}{}", text.split_once('\n').unwrap().1.replace("name = \"r\"", "name = \"s\""));
    let aws = with_lines("", "[runners.autoscaler.plugin_config]\nname = \"asg\"").replace("\"local\"", "\"aws\"");
    for (text, advice) in [
        (again(&with_lines("", "")), "another entry above is the same runner"),
        (again(&aws), "another runner above uses the same group of instances"),
        (with_lines("limit = 2", ""), "there can be room for 4 jobs at once, but limit allows only 2"),
        (with_lines("[runners.machine]", ""), "the executor instance does not use this section"),
        (with_lines("slot_cgroup_template = \"x\"", ""), "all slots share one control group"),
        (with_lines("[runners.feature_flags]\nFF_NEW = true", ""), "FF_NEW is no feature flag that is known here"),
        (
            with_lines("", "[runners.autoscaler.connector_config]\npassword = \"p\"\nkey_path = \"k\""),
            "a password and a key are set",
        ),
        (with_lines("", "").replace("max_instances = 4", ""), "the number of instances has no limit"),
        (
            with_lines("[runners.cache]\nType = \"gcs\"", ""),
            "there is no [runners.cache.gcs], so caches stay on the instance",
        ),
        (with_lines("", "[runners.autoscaler.plugin_config]\nregion = \"x\""), "unknown key"),
        (with_lines("", "[runners.autoscaler.policies]\nidle_count = 1"), "write [[runners.autoscaler.policy]]"),
        (with_lines("clone_url = \"<your url>\"", ""), "a placeholder stands here"),
    ] {
        let loaded = load(&text, &[]);
        assert!(loaded.resolved.is_some() && messages(&loaded).contains(advice), "{advice}:\n{}", messages(&loaded));
    }
}

#[test]
fn gcs_credentials_may_come_from_the_environment() {
    let text = with_lines("[runners.cache]\nType = \"gcs\"\n[runners.cache.gcs]\nBucketName = \"b\"", "");
    let store = |variables: &[(&str, &str)]| load(&text, variables).resolved.unwrap().runners.remove(0).cache.store;
    use crate::config::resolved::GcsCredentials as C;
    let credentials =
        |store: Option<Store>| if let Some(Store::Gcs(gcs)) = store { gcs.credentials } else { panic!("no store") };
    assert_eq!(credentials(store(&[])), C::ApplicationDefault);
    assert_eq!(credentials(store(&[("GOOGLE_APPLICATION_CREDENTIALS", "/k.json")])), C::File(PathBuf::from("/k.json")));
}

#[test]
fn a_host_that_cannot_be_served_refuses_the_runner() {
    for line in ["protocol = \"winrm\"", "os = \"windows\""] {
        let host = format!("[runners.autoscaler.plugin_config.instances.a]\nexternal_addr = \"h\"\n{line}");
        let config = resolved(&with_lines("", &host).replace("\"local\"", "\"static\""));
        let refusals = &config.runners[0].refusals;
        assert!(refusals.iter().any(|refusal| refusal.0.contains("instances.a.")), "{line}: {refusals:?}");
    }
}

#[test]
fn a_static_group_is_read_host_by_host() {
    let text = with_lines(
        "",
        "[runners.autoscaler.plugin_config.instances.a]\nexternal_addr = \"h:22\"\n\
        [runners.autoscaler.plugin_config.instances.b]\ninternal_addr = \"i\"\n",
    )
    .replace("\"local\"", "\"fleeting-plugin-static\"");
    let runner = resolved(&text).runners.remove(0);
    let PluginConfig::Static(hosts) = runner.autoscaler.unwrap().plugin_config else { panic!("not static") };
    assert_eq!(hosts.instances.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(hosts.instances["b"].internal_addr.as_deref(), Some("i"));
}
