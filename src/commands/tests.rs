//! The commands that change the config file, against a GitLab of our own.

use std::path::PathBuf;

use clap::Parser;

use super::questions::Questions;
use super::register::register;
use super::unregister::unregister;
use super::verify::verify;
use super::{Surroundings, entries};
use crate::cli::{
    Cli, Command, ConfigArgs, RegisterArgs, RunnerFlags, SelectionArgs, TlsArgs, UnregisterArgs, VerifyArgs,
};
use crate::config::edit::Document;
use crate::config::environment::Environment;
use crate::config::file::User;
use crate::config::resolved::{ExecutorKind, Runner, Store};
use crate::config::types::pull_policy::PullPolicy;
use crate::sandbox::{Fault, On, REGISTRATION_TOKEN, RUNNER_TOKEN, Sandbox};

const TEMPLATE: &str = r#"
[[runners]]
  name = "of the template"
  token = "of-the-template"
  limit = 4
  executor = "instance"
  [runners.autoscaler]
    plugin = "local"
    max_instances = 4
"#;

/// A GitLab, and a folder with a config file.
struct Fixture {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let sandbox = Sandbox::start(([127, 0, 0, 1], 0).into()).await.unwrap();
        Self { sandbox, folder: tempfile::tempdir().unwrap() }
    }

    /// With a file that has these runners: name and token.
    async fn with(runners: &[(&str, &str)]) -> Self {
        let fixture = Self::new().await;
        let mut text = "# ours\nconcurrent = 5\n".to_owned();
        for (name, token) in runners {
            let url = fixture.sandbox.url();
            text += &entry(name, &url, token);
        }
        std::fs::write(fixture.path(), text).unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    fn config(&self) -> ConfigArgs {
        ConfigArgs { config: Some(self.path()) }
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            environment: Environment::default(),
            user: User::Other,
            executable: "/nonexistent/flotilla".into(),
            host_name: "this-host".to_owned(),
            folder: self.folder.path().to_owned(),
        }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        Document::parse(&self.text()).unwrap().entries().into_iter().map(|entry| entry.name).collect()
    }

    /// The last runner of the file, as `run` would have it.
    fn last(&self) -> Runner {
        let entries = entries::Entries::read(&self.config(), &self.surroundings()).unwrap();
        entries.config.runners.last().unwrap().clone()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What `register` is told when it may not ask.
    fn unattended(&self) -> RegisterArgs {
        RegisterArgs {
            config: self.config(),
            url: Some(self.sandbox.url()),
            executor: Some("instance".to_owned()),
            non_interactive: Some(true),
            ..RegisterArgs::default()
        }
    }

    async fn register(&self, args: &RegisterArgs, input: &str) -> anyhow::Result<String> {
        let mut output = Vec::new();
        let may_ask = !args.non_interactive.unwrap_or(false);
        let questions = Questions::new(input.as_bytes(), &mut output, may_ask);
        Box::pin(register(args, questions, &self.surroundings())).await?;
        Ok(String::from_utf8(output).unwrap())
    }

    async fn verify(&self, selection: SelectionArgs, delete: bool) -> anyhow::Result<()> {
        verify(&VerifyArgs { config: self.config(), selection, delete }, &self.surroundings()).await
    }

    async fn unregister(&self, args: UnregisterArgs) -> anyhow::Result<()> {
        unregister(&UnregisterArgs { config: self.config(), ..args }, &self.surroundings()).await
    }

    /// Method and path of each request, in order.
    fn calls(&self) -> Vec<String> {
        self.sandbox.requests().iter().map(|request| format!("{} {}", request.method, request.uri)).collect()
    }
}

fn entry(name: &str, url: &str, token: &str) -> String {
    format!(
        r#"
[[runners]] # {name}
  name = "{name}"
  url = "{url}"
  token = "{token}"
  executor = "instance"
  [runners.autoscaler]
    plugin = "local"
"#
    )
}

fn named(name: &str) -> SelectionArgs {
    SelectionArgs { name: Some(name.to_owned()), ..SelectionArgs::default() }
}

fn with_token(token: &str) -> SelectionArgs {
    SelectionArgs { token: Some(token.to_owned()), ..SelectionArgs::default() }
}

#[tokio::test]
async fn a_created_runner_is_verified_and_added() {
    let fixture = Fixture::with(&[("before", "glrt-before")]).await;
    let before = fixture.text();
    let token = Some(RUNNER_TOKEN.to_owned());
    fixture.register(&RegisterArgs { token, ..fixture.unattended() }, "").await.unwrap();
    assert_eq!(fixture.calls(), ["POST /api/v4/runners/verify"]);
    assert!(fixture.text().starts_with(&before), "what was there stays: {}", fixture.text());
    let runner = fixture.last();
    assert_eq!((runner.name.as_str(), runner.id, runner.token.expose()), ("this-host", 1, RUNNER_TOKEN));
    assert_eq!((runner.executor, runner.token_expires_at), (ExecutorKind::Instance, None));
    assert!(runner.token_obtained_at.is_some());
    assert!(fixture.folder.path().join(".runner_system_id").exists());
    let managers = fixture.sandbox.managers();
    assert!(matches!(managers.as_slice(), [(_, info)] if info.executor == "instance" && info.features.variables));
}

#[tokio::test]
async fn questions_are_asked_in_the_known_order_and_defaults_are_offered() {
    let fixture = Fixture::new().await;
    let args = RegisterArgs { config: fixture.config(), url: Some(fixture.sandbox.url()), ..RegisterArgs::default() };
    let answers = format!("\n{RUNNER_TOKEN}\nours\nshell\ndocker-autoscaler\nruby:3.3\n");
    let asked = fixture.register(&args, &answers).await.unwrap();
    let asked = asked.replace(&fixture.sandbox.url(), "URL");
    insta::assert_snapshot!(asked, @r"
    Enter the GitLab instance URL (for example, https://gitlab.com/):
    [URL]: Enter the runner's token (glrt-…), or a registration token:
    Enter a name for the runner. This is stored only in the local config.toml file:
    [this-host]: Enter an executor: docker-autoscaler, instance:
    Enter an executor: docker-autoscaler, instance:
    Enter the default Docker image (for example, ruby:3.3):
    ");
    assert_eq!(fixture.names(), ["ours"]);
    let docker = "[runners.docker]\nimage = \"ruby:3.3\"\nvolumes = [\"/cache\"]\n";
    assert!(fixture.text().ends_with(docker), "{}", fixture.text());
}

#[tokio::test]
async fn a_registration_token_makes_a_runner_whose_own_token_is_kept() {
    let fixture = Fixture::new().await;
    let args = RegisterArgs {
        registration_token: Some(REGISTRATION_TOKEN.to_owned()),
        tag_list: Some("a,b".to_owned()),
        paused: Some(true),
        ..fixture.unattended()
    };
    fixture.register(&args, "").await.unwrap();
    let requests = fixture.sandbox.requests();
    assert_eq!(fixture.calls(), ["POST /api/v4/runners"]);
    let body: serde_json::Value = serde_json::from_str(&requests[0].body).unwrap();
    assert_eq!((&body["description"], &body["tag_list"]), (&"this-host".into(), &"a,b".into()));
    assert_eq!([&body["run_untagged"], &body["locked"], &body["paused"]], [false, true, true]);
    assert_ne!(fixture.last().token.expose(), REGISTRATION_TOKEN);
    fixture.verify(SelectionArgs::default(), false).await.unwrap();
}

#[tokio::test]
async fn a_runner_without_tags_takes_untagged_jobs() {
    let fixture = Fixture::new().await;
    let registration_token = Some(REGISTRATION_TOKEN.to_owned());
    let args = RegisterArgs { registration_token, run_untagged: Some(false), ..fixture.unattended() };
    fixture.register(&args, "").await.unwrap();
    assert!(fixture.sandbox.requests()[0].body.contains(r#""run_untagged":true"#));
}

#[tokio::test]
async fn a_token_that_gitlab_does_not_know_changes_nothing() {
    for (token, registration_token) in [(Some("glrt-foreign"), None), (Some("foreign"), None), (None, Some("foreign"))]
    {
        let fixture = Fixture::new().await;
        let args = RegisterArgs {
            token: token.map(str::to_owned),
            registration_token: registration_token.map(str::to_owned),
            ..fixture.unattended()
        };
        let error = fixture.register(&args, "").await.unwrap_err();
        assert!(error.to_string().starts_with("Failed to "), "{error}");
        assert!(!fixture.path().exists());
    }
}

#[tokio::test]
async fn what_is_set_in_gitlab_is_refused_with_a_created_token() {
    let fixture = Fixture::new().await;
    let token = Some(RUNNER_TOKEN.to_owned());
    let args = RegisterArgs { tag_list: Some("a".to_owned()), locked: Some(false), ..fixture.unattended() };
    let error = fixture.register(&RegisterArgs { token: token.clone(), ..args.clone() }, "").await.unwrap_err();
    assert!(error.to_string().starts_with("--tag-list, --locked: "), "{error}");
    assert!(fixture.calls().is_empty());
    fixture.register(&RegisterArgs { registration_token: token, ..args }, "").await.unwrap();
    assert_eq!(fixture.calls(), ["POST /api/v4/runners/verify"], "old scripts pass it as a registration token");
}

#[tokio::test]
async fn a_runner_that_cannot_be_added_is_taken_off_again() {
    let fixture = Fixture::new().await;
    let registration_token = Some(REGISTRATION_TOKEN.to_owned());
    let args = RegisterArgs { registration_token, executor: Some("shell".to_owned()), ..fixture.unattended() };
    let error = fixture.register(&args, "").await.unwrap_err();
    assert!(error.to_string().contains("\"shell\" is none of docker-autoscaler, instance"), "{error}");
    assert_eq!(fixture.calls(), ["POST /api/v4/runners", "DELETE /api/v4/runners"]);
    fixture.register(&RegisterArgs { leave_runner: Some(true), ..args }, "").await.unwrap_err();
    assert_eq!(fixture.calls().len(), 3, "with --leave-runner it stays");
    assert!(!fixture.path().exists());
}

#[tokio::test]
async fn a_template_gives_what_nobody_says() {
    let fixture = Fixture::new().await;
    let template_config = Some(fixture.file("template.toml", TEMPLATE));
    let args = RegisterArgs { token: Some(RUNNER_TOKEN.to_owned()), template_config, ..fixture.unattended() };
    fixture.register(&RegisterArgs { executor: None, ..args.clone() }, "").await.unwrap();
    let runner = fixture.last();
    assert_eq!((runner.name.as_str(), runner.limit, runner.executor), ("of the template", 4, ExecutorKind::Instance));
    assert_eq!(runner.token.expose(), RUNNER_TOKEN);
    assert!(runner.with_fleet().is_some(), "{:?}", runner.refusals);
    fixture.register(&RegisterArgs { name: Some("said".to_owned()), ..args.clone() }, "").await.unwrap();
    assert_eq!(fixture.last().name, "said");
    let two = Some(fixture.file("two.toml", &TEMPLATE.repeat(2)));
    let error = fixture.register(&RegisterArgs { template_config: two, ..args }, "").await.unwrap_err();
    assert!(error.to_string().contains("exactly one [[runners]]"), "{error}");
}

fn flags(arguments: &[&str]) -> Result<RunnerFlags, clap::Error> {
    let words = ["flotilla", "register"].iter().chain(arguments);
    let Command::Register(args) = Cli::try_parse_from(words)?.command else { panic!("another command") };
    Ok(args.flags)
}

#[tokio::test]
async fn flags_of_the_command_line_become_keys_of_the_entry_and_win_over_a_template() {
    let fixture = Fixture::new().await;
    let given = [
        "--limit=7",
        "--env",
        "A=1",
        "--env",
        "B=2",
        "--builds-dir",
        "/b",
        "--feature-flags",
        "FF_TIMESTAMPS:false",
        "--docker-privileged",
        "--docker-volumes",
        "/data",
        "--docker-oom-score-adjust",
        "-500",
        "--docker-pull-policy",
        "if-not-present,always",
        "--docker-ulimit",
        "nofile:1024:2048",
        "--cache-type",
        "s3",
        "--cache-shared=true",
        "--cache-s3-bucket-name",
        "caches",
        "--machine-machine-name",
        "m-%s",
    ];
    let args = RegisterArgs {
        token: Some(RUNNER_TOKEN.to_owned()),
        template_config: Some(fixture.file("template.toml", TEMPLATE)),
        executor: Some("docker-autoscaler".to_owned()),
        docker_image: Some("alpine:3".to_owned()),
        flags: flags(&given).unwrap(),
        ..fixture.unattended()
    };
    fixture.register(&args, "").await.unwrap();
    let runner = fixture.last();
    assert_eq!((runner.limit, runner.builds_dir.as_deref()), (7, Some("/b")));
    assert_eq!(runner.environment, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    assert_eq!(runner.feature_flag("FF_TIMESTAMPS"), Some(false));
    assert_eq!((runner.docker.privileged, runner.docker.oom_score_adjust), (true, -500));
    assert_eq!(runner.docker.volumes, ["/data", "/cache"]);
    assert_eq!(runner.docker.pull_policies, [PullPolicy::IfNotPresent, PullPolicy::Always]);
    assert_eq!((runner.docker.ulimits[0].soft, runner.docker.ulimits[0].hard), (1024, 2048));
    assert!(matches!(&runner.cache.store, Some(Store::S3(s3)) if s3.bucket_name == "caches"));
    assert!(runner.cache.shared && runner.machine.is_none(), "a section of another executor is left out");
}

#[tokio::test]
async fn a_flag_that_the_file_could_not_hold_changes_nothing() {
    assert!(flags(&["--limit", "many"]).unwrap_err().to_string().contains("--limit: \"many\" is no integer"));
    let fixture = Fixture::new().await;
    let args = RegisterArgs {
        token: Some(RUNNER_TOKEN.to_owned()),
        flags: flags(&["--docker-memory", "much"]).unwrap(),
        ..fixture.unattended()
    };
    let error = fixture.register(&args, "").await.unwrap_err();
    assert!(error.to_string().contains("docker.memory"), "{error}");
    assert!(fixture.calls().is_empty() && !fixture.path().exists());
}

#[tokio::test]
async fn an_executor_that_is_not_served_yet_is_written_down() {
    let fixture = Fixture::new().await;
    let args = RegisterArgs {
        token: Some(RUNNER_TOKEN.to_owned()),
        executor: Some("docker+machine".to_owned()),
        docker_image: Some("alpine:3".to_owned()),
        flags: flags(&["--machine-machine-name", "m-%s", "--machine-idle-nodes", "2"]).unwrap(),
        ..fixture.unattended()
    };
    fixture.register(&args, "").await.unwrap();
    let machine = fixture.last().machine.unwrap();
    assert_eq!((machine.name.as_deref(), machine.idle.count), (Some("m-%s"), 2));
}

#[tokio::test]
async fn tls_files_of_the_command_line_are_kept() {
    let fixture = Fixture::new().await;
    let authority = fixture.file("ca.crt", "");
    let tls = TlsArgs { tls_ca_file: Some(authority.clone()), ..TlsArgs::default() };
    let args = RegisterArgs { token: Some(RUNNER_TOKEN.to_owned()), tls, ..fixture.unattended() };
    fixture.register(&args, "").await.unwrap();
    assert_eq!(fixture.last().tls.ca_file, Some(authority));
}

#[tokio::test]
async fn a_file_that_is_no_toml_is_not_changed() {
    let fixture = Fixture::new().await;
    std::fs::write(fixture.path(), "concurrent = \n").unwrap();
    let args = RegisterArgs { token: Some(RUNNER_TOKEN.to_owned()), ..fixture.unattended() };
    fixture.register(&args, "").await.unwrap_err();
    assert_eq!(fixture.text(), "concurrent = \n");
    assert!(fixture.calls().is_empty());
}

#[tokio::test]
async fn errors_of_the_file_do_not_keep_runners_from_being_verified_and_removed() {
    let fixture = Fixture::with(&[("one", RUNNER_TOKEN), ("two", "glrt-dead")]).await;
    let text = fixture.text().replace("concurrent = 5", "concurrent = \"many\"");
    std::fs::write(fixture.path(), text).unwrap();
    fixture.verify(SelectionArgs::default(), true).await.unwrap();
    assert_eq!(fixture.names(), ["one"]);
    fixture.unregister(UnregisterArgs { selection: named("one"), ..UnregisterArgs::default() }).await.unwrap();
    assert!(fixture.names().is_empty() && fixture.text().contains("\"many\""));
}

#[tokio::test]
async fn verify_fails_for_a_dead_runner_and_deletes_only_that() {
    let fixture = Fixture::with(&[("alive", RUNNER_TOKEN), ("dead", "glrt-dead"), ("old", "removed")]).await;
    let error = fixture.verify(SelectionArgs::default(), false).await.unwrap_err();
    assert!(error.to_string().starts_with("Failed to verify runners: 2 "), "{error}");
    assert_eq!(fixture.names(), ["alive", "dead", "old"]);
    fixture.verify(named("alive"), false).await.unwrap();
    fixture.verify(named("dead"), true).await.unwrap();
    assert_eq!(fixture.names(), ["alive", "old"]);
    fixture.verify(SelectionArgs::default(), true).await.unwrap();
    assert_eq!(fixture.names(), ["alive"]);
    assert!(fixture.text().starts_with("# ours\n") && fixture.text().contains("[[runners]] # alive"));
}

#[tokio::test]
async fn an_outage_deletes_nobody() {
    let fixture = Fixture::with(&[("one", RUNNER_TOKEN)]).await;
    fixture.sandbox.faults().add(Fault::status(On::Runners, 404));
    fixture.verify(SelectionArgs::default(), true).await.unwrap();
    assert_eq!(fixture.names(), ["one"]);
}

#[tokio::test]
async fn verify_selects_by_name_or_token_and_never_by_url_alone() {
    let fixture = Fixture::with(&[("one", RUNNER_TOKEN), ("two", "glrt-dead")]).await;
    let url = |url: &str| Some(url.to_owned());
    fixture.verify(with_token(RUNNER_TOKEN), false).await.unwrap();
    let here = fixture.sandbox.url() + "/";
    fixture.verify(SelectionArgs { url: url(&here), ..with_token(RUNNER_TOKEN) }, false).await.unwrap();
    for nobody in [
        named("three"),
        SelectionArgs { url: url(&here), ..SelectionArgs::default() },
        SelectionArgs { url: url("https://elsewhere.example"), ..with_token(RUNNER_TOKEN) },
    ] {
        let error = fixture.verify(nobody, true).await.unwrap_err();
        assert!(error.to_string().starts_with("no runner of "), "{error}");
    }
    assert_eq!(fixture.names(), ["one", "two"]);
}

#[tokio::test]
async fn a_missing_file_has_nobody_to_verify_or_unregister() {
    let fixture = Fixture::new().await;
    for error in [
        fixture.verify(SelectionArgs::default(), false).await.unwrap_err(),
        fixture.unregister(UnregisterArgs { all_runners: true, ..UnregisterArgs::default() }).await.unwrap_err(),
    ] {
        assert!(error.to_string().starts_with("there is no config file "), "{error}");
    }
}

#[tokio::test]
async fn unregistering_takes_one_runner_off_and_out() {
    let fixture = Fixture::with(&[("created", RUNNER_TOKEN), ("registered", "registered")]).await;
    fixture.sandbox.add_runner("registered");
    fixture.verify(SelectionArgs::default(), false).await.unwrap();
    let by_name = UnregisterArgs { selection: named("created"), ..UnregisterArgs::default() };
    fixture.unregister(by_name).await.unwrap();
    assert_eq!(fixture.names(), ["registered"]);
    assert_eq!(fixture.calls().last().unwrap(), "DELETE /api/v4/runners/managers", "a created runner stays in GitLab");
    let by_token = UnregisterArgs { selection: with_token("registered"), ..UnregisterArgs::default() };
    fixture.unregister(by_token).await.unwrap();
    assert_eq!(fixture.calls().last().unwrap(), "DELETE /api/v4/runners");
    assert!(fixture.names().is_empty());
}

#[tokio::test]
async fn a_runner_that_gitlab_does_not_let_go_stays_in_the_file() {
    let fixture = Fixture::with(&[("one", "glrt-foreign"), ("two", "registered")]).await;
    fixture.sandbox.add_runner("registered");
    let all = UnregisterArgs { all_runners: true, ..UnregisterArgs::default() };
    let error = fixture.unregister(all).await.unwrap_err();
    assert_eq!(error.to_string(), "Failed to unregister 1 of 2 runners");
    assert_eq!(fixture.names(), ["one"]);
}

#[tokio::test]
async fn a_runner_that_the_file_does_not_have_needs_an_url() {
    let fixture = Fixture::with(&[]).await;
    fixture.sandbox.add_runner("elsewhere");
    let selection = with_token("elsewhere");
    let args = UnregisterArgs { selection: selection.clone(), ..UnregisterArgs::default() };
    assert!(fixture.unregister(args).await.unwrap_err().to_string().contains("--url"));
    let selection = SelectionArgs { url: Some(fixture.sandbox.url()), ..selection };
    fixture.unregister(UnregisterArgs { selection, ..UnregisterArgs::default() }).await.unwrap();
    assert_eq!(fixture.calls(), ["DELETE /api/v4/runners"]);
    let nobody = fixture.unregister(UnregisterArgs::default()).await.unwrap_err();
    assert!(nobody.to_string().starts_with("which runner?"), "{nobody}");
}
