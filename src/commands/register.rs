//! `flotilla register`: makes a runner of a GitLab server ours, and adds it to the config file.
//!
//! ```text
//!  url ─▶ token ─▶ glrt-…: verify ───────────────────────────▶ name ─▶ executor ─▶ image ─▶ saved
//!                  else: description, tags, note ─▶ POST runners ───────▶ ┘
//! ```
//!
//! Once GitLab knows the runner, whatever keeps it from the file takes it off GitLab again.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufRead, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::entries::{self, Entries, Link, STAND_IN, is_created};
use super::questions::{Question, Questions};
use super::{Surroundings, announce, runtime, start_log};
use crate::cli::{LogArgs, RegisterArgs};
use crate::config::edit::{NewRunner, Setting};
use crate::config::file::{self, Location, Origin};
use crate::config::resolved::{ExecutorKind, Runner, TlsFiles};
use crate::config::types::server_url::ServerUrl;
use crate::gitlab::outcome::{RegisterOutcome, UnregisterOutcome, VerifyOutcome};
use crate::gitlab::wire::RegisterRequest;
use crate::secret::Secret;

/// The executors that a new runner may have.
const EXECUTORS: [ExecutorKind; 2] = [ExecutorKind::DockerAutoscaler, ExecutorKind::Instance];
/// Those that are written down where they are asked for, though they are not served yet.
const LATER_EXECUTORS: [ExecutorKind; 2] = [ExecutorKind::Docker, ExecutorKind::DockerMachine];

/// Registers, asking for what the command line does not say.
///
/// # Errors
/// GitLab refuses, an answer is missing, or the file cannot be written.
pub fn run(args: &RegisterArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    start_log(log, "info")?;
    announce(surroundings);
    let runtime = runtime()?;
    let input = BufReader::new(tokio::io::stdin());
    let questions = Questions::new(input, std::io::stdout(), !args.non_interactive.unwrap_or(false));
    let registered = runtime.block_on(register(args, questions, surroundings));
    // A read of the terminal that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    registered?;
    Ok(ExitCode::SUCCESS)
}

/// What GitLab said of the new runner.
#[derive(Debug)]
struct Registered {
    id: i64,
    token: Secret,
    expires_at: Option<SystemTime>,
    /// Asked for on the way, where it was.
    name: Option<String>,
}

/// A template's text, and its runner as it is meant.
#[derive(Debug)]
struct Template {
    text: String,
    runner: Runner,
}

pub(super) async fn register<R: AsyncBufRead + Unpin, W: Write>(
    args: &RegisterArgs,
    questions: Questions<R, W>,
    surroundings: &Surroundings,
) -> anyhow::Result<()> {
    let entries = Entries::read(&args.config, surroundings)?;
    let template = args.template_config.as_ref().map(|path| template(path, surroundings)).transpose()?;
    let link = entries.link(surroundings)?;
    Registration { args, questions, surroundings, entries, template, link }.run().await
}

fn template(path: &Path, surroundings: &Surroundings) -> anyhow::Result<Template> {
    let read = file::read(path).context("the template")?;
    let text = read.with_context(|| format!("there is no template {}", path.display()))?;
    let location = Location { path: path.to_owned(), origin: Origin::Argument };
    let mut runners = entries::resolve(&location, &text, surroundings).context("the template")?.runners;
    match (runners.pop(), runners.len()) {
        (Some(runner), 0) => Ok(Template { text, runner }),
        (_, others) => bail!("a template has exactly one [[runners]], not {}", others + usize::from(others > 0)),
    }
}

/// One registration under way.
struct Registration<'a, R, W> {
    args: &'a RegisterArgs,
    questions: Questions<R, W>,
    surroundings: &'a Surroundings,
    entries: Entries,
    template: Option<Template>,
    link: Link,
}

impl<R: AsyncBufRead + Unpin, W: Write> Registration<'_, R, W> {
    async fn run(mut self) -> anyhow::Result<()> {
        let url = self.url().await?;
        let (token, is_authentication) = self.token().await?;
        let created = is_created(token.expose());
        if created {
            self.check_server_side_flags()?;
        }
        self.warn_of_twin(&url, &token);
        let registered = if created || is_authentication {
            self.verify(&url, token, created).await?
        } else {
            self.register(&url, token).await?
        };
        let client = self.link.client(&self.tentative(&url, &registered.token)?)?;
        let mut interrupt = signal(SignalKind::interrupt()).context("taking over the signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("taking over the signals")?;
        let leave = self.args.leave_runner.unwrap_or(false);
        let added = tokio::select! {
            added = self.add(&url, registered) => added,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        };
        if added.is_err() && !leave {
            match client.unregister().await {
                UnregisterOutcome::Removed => info!("the runner has been taken off GitLab again"),
                outcome @ (UnregisterOutcome::Forbidden | UnregisterOutcome::Failed { .. }) => {
                    warn!(?outcome, "the runner could not be taken off GitLab again");
                }
            }
        }
        added
    }

    async fn url(&mut self) -> anyhow::Result<String> {
        let of_template = self.template.as_ref().map(|template| &template.runner.url);
        let of_template = of_template.filter(|url| **url != ServerUrl::placeholder()).map(ToString::to_string);
        let default = self.args.url.clone().or(of_template);
        let question = Question {
            text: "Enter the GitLab instance URL (for example, https://gitlab.com/):",
            flag: "--url",
            default: default.as_deref(),
            is_required: true,
        };
        let url = self.questions.ask(question).await?;
        url.parse::<ServerUrl>().with_context(|| format!("{url:?} is no address of a GitLab server"))?;
        Ok(url)
    }

    /// The token, and whether it was given as the token of a runner.
    async fn token(&mut self) -> anyhow::Result<(Secret, bool)> {
        if let Some(token) = self.args.token.as_ref().filter(|token| !token.is_empty()) {
            return Ok((Secret::new(token), true));
        }
        if let Some(token) = self.args.registration_token.as_ref().filter(|token| !token.is_empty()) {
            return Ok((Secret::new(token), false));
        }
        let text = "Enter the runner's token (glrt-…), or a registration token:";
        let question = Question { text, flag: "--token", default: None, is_required: true };
        Ok((Secret::new(self.questions.ask(question).await?), false))
    }

    /// What a created runner is like is said in GitLab. Old scripts that now pass such a token as a registration
    /// token still pass their flags: those are only warned.
    fn check_server_side_flags(&self) -> anyhow::Result<()> {
        let args = self.args;
        let flags = [
            ("--tag-list", args.tag_list.is_some()),
            ("--run-untagged", args.run_untagged.is_some()),
            ("--locked", args.locked == Some(false)),
            ("--access-level", args.access_level.is_some()),
            ("--maximum-timeout", args.maximum_timeout.is_some()),
            ("--paused", args.paused.is_some()),
            ("--maintenance-note", args.maintenance_note.is_some()),
        ];
        let given: Vec<&str> = flags.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect();
        if given.is_empty() {
            return Ok(());
        }
        let flags = given.join(", ");
        if args.token.is_some() {
            bail!("{flags}: these are set in GitLab for a runner with an authentication token (glrt-…)");
        }
        warn!(
            flags,
            "these are set in GitLab for a runner with an authentication token (glrt-…), and are ignored here"
        );
        Ok(())
    }

    fn warn_of_twin(&self, url: &str, token: &Secret) {
        let twin = |runner: &&Runner| runner.token == *token && entries::is_same_server(url, runner);
        if let Some(twin) = self.entries.config.runners.iter().find(twin) {
            warn!(runner_name = twin.name, "a runner with this token is in the file already");
        }
    }

    async fn verify(&self, url: &str, token: Secret, created: bool) -> anyhow::Result<Registered> {
        let runner = self.tentative(url, &token)?;
        let short = runner.short_token();
        match self.link.client(&runner)?.verify().await {
            VerifyOutcome::Valid(answer) if answer.id != 0 || !created => {
                info!(runner = short, "Verifying runner... is {}", if created { "valid" } else { "alive" });
                Ok(Registered {
                    id: answer.id,
                    token,
                    expires_at: moment(answer.token_expires_at.as_deref())?,
                    name: None,
                })
            }
            VerifyOutcome::Valid(_) => bail!("Failed to verify the runner: the server is too old to know such tokens"),
            VerifyOutcome::Invalid => {
                error!(runner = short, "Verifying runner... is {}", if created { "not valid" } else { "removed" });
                bail!("Failed to verify the runner.")
            }
            VerifyOutcome::Unknown { status, message } => {
                error!(runner = short, status, message, "Verifying runner... failed");
                bail!("Failed to verify the runner.")
            }
        }
    }

    /// The old way: GitLab makes a runner for the holder of a registration token.
    async fn register(&mut self, url: &str, token: Secret) -> anyhow::Result<Registered> {
        let name = self.name("Enter a description for the runner:").await?;
        let tag_list =
            self.optional("Enter tags for the runner (comma-separated):", self.args.tag_list.clone()).await?;
        let note = self.args.maintenance_note.clone();
        let note = self.optional("Enter optional maintenance note for the runner:", note).await?;
        warn!("registration tokens are deprecated: create the runner in GitLab and use its token (glrt-…)");
        let request = RegisterRequest {
            description: name.clone(),
            maintenance_note: note,
            run_untagged: tag_list.is_empty() || self.args.run_untagged.unwrap_or(false),
            tag_list,
            locked: self.args.locked.unwrap_or(true),
            access_level: self.args.access_level.map(|level| level.as_str().to_owned()).unwrap_or_default(),
            maximum_timeout: self.args.maximum_timeout.unwrap_or_default(),
            paused: self.args.paused.unwrap_or(false),
            ..RegisterRequest::default()
        };
        let runner = self.tentative(url, &token)?;
        let short = runner.short_token();
        match self.link.client(&runner)?.register(request).await {
            RegisterOutcome::Registered(answer) => {
                info!(runner = short, "Registering runner... succeeded");
                let expires_at = moment(answer.token_expires_at.as_deref())?;
                return Ok(Registered { id: answer.id, token: answer.token, expires_at, name: Some(name) });
            }
            RegisterOutcome::Forbidden => {
                error!(runner = short, "Registering runner... forbidden (check registration token)")
            }
            RegisterOutcome::Gone => {
                error!(runner = short, "Registering runner... failed: registration tokens are switched off")
            }
            RegisterOutcome::Failed { status, message } => {
                error!(runner = short, status, message, "Registering runner... failed");
            }
        }
        bail!("Failed to register the runner.")
    }

    async fn name(&mut self, text: &str) -> anyhow::Result<String> {
        let of_template = self.template.as_ref().map(|template| template.runner.name.clone());
        let default = self.args.name.clone().or_else(|| of_template.filter(|name| !name.is_empty()));
        let default = default.unwrap_or_else(|| self.surroundings.host_name.clone());
        let question = Question { text, flag: "--name", default: Some(&default), is_required: false };
        self.questions.ask(question).await
    }

    async fn optional(&mut self, text: &str, default: Option<String>) -> anyhow::Result<String> {
        let question = Question { text, flag: text, default: default.as_deref(), is_required: false };
        self.questions.ask(question).await
    }

    async fn executor(&mut self) -> anyhow::Result<ExecutorKind> {
        let of_template = self.template.as_ref().map(|template| template.runner.executor.as_str().to_owned());
        let default = self.args.executor.clone().or(of_template).filter(|name| name != ExecutorKind::Unknown.as_str());
        let known = EXECUTORS.map(ExecutorKind::as_str).join(", ");
        let text = format!("Enter an executor: {known}:");
        loop {
            let question = Question { text: &text, flag: "--executor", default: default.as_deref(), is_required: true };
            let answer = self.questions.ask(question).await?;
            let mut possible = EXECUTORS.into_iter().chain(LATER_EXECUTORS);
            if let Some(executor) = possible.find(|executor| executor.as_str() == answer) {
                return Ok(executor);
            }
            if !self.questions.may_ask() {
                bail!("the executor {answer:?} is none of {known}");
            }
            error!("the executor {answer:?} is none of {known}");
        }
    }

    async fn docker_image(&mut self) -> anyhow::Result<String> {
        let of_template = self.template.as_ref().and_then(|template| template.runner.docker.image.clone());
        let default = self.args.docker_image.clone().or(of_template);
        let question = Question {
            text: "Enter the default Docker image (for example, ruby:3.3):",
            flag: "--docker-image",
            default: default.as_deref(),
            is_required: true,
        };
        self.questions.ask(question).await
    }

    /// What the flags say, without the sections that the executor does not use.
    fn settings(&self, executor: ExecutorKind) -> Vec<Setting> {
        let is_used = |setting: &&Setting| match setting.path.split_once('.') {
            Some(("docker", _)) => executor.uses_docker(),
            Some(("machine", _)) => executor == ExecutorKind::DockerMachine,
            Some(_) | None => true,
        };
        self.args.flags.settings.iter().filter(is_used).cloned().collect()
    }

    fn tls(&self) -> TlsFiles {
        let mut tls = self.template.as_ref().map(|template| template.runner.tls.clone()).unwrap_or_default();
        entries::lay_over(&mut tls, &self.args.tls);
        tls
    }

    /// The runner before it is known what becomes of it, to speak to GitLab for it.
    fn tentative(&self, url: &str, token: &Secret) -> anyhow::Result<Runner> {
        let of_template = self.template.as_ref().map(|template| template.runner.executor.as_str().to_owned());
        let new = NewRunner {
            executor: self.args.executor.clone().or(of_template).unwrap_or_default(),
            tls: self.tls(),
            settings: self.args.flags.settings.clone(),
            ..NewRunner::new(url, token.clone(), crate::time::now().utc)
        };
        let location = &self.entries.location;
        let template = self.template.as_ref().map_or(STAND_IN, |template| template.text.as_str());
        let mut document = self.entries.document.clone();
        document.add(&new, Some(template))?;
        // In the file it gets the labels of all; one that has errors elsewhere does without.
        match entries::resolve(location, &document.to_string(), self.surroundings) {
            Ok(config) => config.runners.into_iter().next_back().context("the runner is missing"),
            Err(_) => entries::lone(location, &new, template, self.surroundings),
        }
    }

    async fn add(&mut self, url: &str, registered: Registered) -> anyhow::Result<()> {
        let name = match registered.name {
            Some(name) => name,
            None => {
                self.name("Enter a name for the runner. This is stored only in the local config.toml file:").await?
            }
        };
        let executor = self.executor().await?;
        let docker_image = if executor.uses_docker() { Some(self.docker_image().await?) } else { None };
        let new = NewRunner {
            name,
            id: registered.id,
            token_expires_at: registered.expires_at,
            executor: executor.as_str().to_owned(),
            docker_image,
            tls: self.tls(),
            settings: self.settings(executor),
            ..NewRunner::new(url, registered.token, crate::time::now().utc)
        };
        let document = &mut self.entries.document;
        document.add(&new, self.template.as_ref().map(|template| template.text.as_str()))?;
        let path = &self.entries.location.path;
        document.save(path)?;
        info!("Runner registered successfully. A manager that runs with this file takes it up by itself.");
        info!("The configuration, with the runner's token, is in {}", path.display());
        self.say_what_is_missing();
        Ok(())
    }

    /// What keeps `run` from serving the new runner as the file is now.
    fn say_what_is_missing(&self) {
        let text = self.entries.document.to_string();
        let config = match entries::resolve(&self.entries.location, &text, self.surroundings) {
            Ok(config) => config,
            Err(errors) => return warn!("`run` cannot use the file yet:\n{errors:#}"),
        };
        let Some(runner) = config.runners.last() else { return };
        for refusal in &runner.refusals {
            warn!(runner_name = runner.name, "`run` cannot serve this runner yet: {refusal}");
        }
        if runner.limit > config.concurrent {
            let (limit, concurrent) = (runner.limit, config.concurrent);
            warn!(limit, concurrent, "the runner's limit is more than concurrent lets it use");
        }
    }
}

/// When a token ends, as GitLab writes it.
fn moment(text: Option<&str>) -> anyhow::Result<Option<SystemTime>> {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().with_context(|| format!("token_expires_at {text:?}"));
    Ok(text.map(parse).transpose()?.map(SystemTime::from))
}
