//! The runners of the config file, for the commands that speak to GitLab for them or change the file.

use std::sync::Arc;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::{Surroundings, loading, run};
use crate::cli::{ConfigArgs, SelectionArgs, TlsArgs};
use crate::config;
use crate::config::diagnostics::Style;
use crate::config::edit::{Document, Entry, NewRunner};
use crate::config::file::{self, Location};
use crate::config::resolved::{Config, Runner, TlsFiles};
use crate::config::types::server_url::ServerUrl;
use crate::gitlab::Client;
use crate::manager::Assembly;
use crate::manager::metrics::{Metrics, RunnerLabels};

/// A config file as it is written and as it is meant.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) location: Location,
    /// There is no file: it counts as empty.
    pub(super) is_missing: bool,
    pub(super) document: Document,
    /// The entries are in the same order as those of the document.
    pub(super) config: Config,
}

impl Entries {
    /// Reads the file. Where it has errors, its runners are taken one by one, as far as GitLab is concerned with
    /// them: an error in one must not keep another from being removed.
    ///
    /// # Errors
    /// It cannot be read or is no TOML.
    pub(super) fn read(args: &ConfigArgs, surroundings: &Surroundings) -> anyhow::Result<Self> {
        let location = loading::locate(args, surroundings);
        let text = file::read(&location.path).context("the config file")?;
        let is_missing = text.is_none();
        let text = text.unwrap_or_default();
        let document = Document::parse(&text).with_context(|| location.path.display().to_string())?;
        let config = match resolve(&location, &text, surroundings) {
            Ok(config) => config,
            Err(_) => {
                warn!("the config file has errors, which `flotilla check` shows");
                let alone = |entry: Entry| alone(&location, entry, surroundings);
                let runners = document.entries().into_iter().map(alone).collect::<anyhow::Result<_>>()?;
                Config { runners, ..Config::default() }
            }
        };
        Ok(Self { location, is_missing, document, config })
    }

    /// The same for commands that have nothing to do without a file.
    ///
    /// # Errors
    /// As [`Entries::read`], and where there is no file.
    pub(super) fn read_existing(args: &ConfigArgs, surroundings: &Surroundings) -> anyhow::Result<Self> {
        let entries = Self::read(args, surroundings)?;
        if entries.is_missing {
            bail!("there is no config file {}", entries.location.path.display());
        }
        Ok(entries)
    }

    /// Takes entries out of the file, and writes it where that changes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn remove(&mut self, indices: &[usize]) -> anyhow::Result<()> {
        if self.document.remove(|entry| indices.contains(&entry.index)).is_empty() {
            return Ok(());
        }
        self.document.save(&self.location.path)?;
        info!("Updated {}", self.location.path.display());
        Ok(())
    }

    /// The way to GitLab for runners of this file.
    ///
    /// # Errors
    /// The system id beside the file cannot be read.
    pub(super) fn link(&self, surroundings: &Surroundings) -> anyhow::Result<Link> {
        let metrics = Arc::new(Metrics::new()?);
        Ok(Link { assembly: run::assembly(&self.config, &self.location, metrics, surroundings)? })
    }
}

/// Stands in for the sections that only running jobs needs.
pub(super) const STAND_IN: &str = "[[runners]]\n[runners.autoscaler]\nplugin = \"local\"\n";

/// An entry without the file around it.
fn alone(location: &Location, entry: Entry, surroundings: &Surroundings) -> anyhow::Result<Runner> {
    let now = crate::time::now().utc;
    let runner = NewRunner { id: entry.id, tls: entry.tls, ..NewRunner::new(&entry.url, entry.token, now) };
    lone(location, &NewRunner { name: entry.name, executor: entry.executor, ..runner }, STAND_IN, surroundings)
}

/// A runner in a file of its own, with what a template adds.
///
/// # Errors
/// It cannot be used.
pub(super) fn lone(
    location: &Location,
    runner: &NewRunner,
    template: &str,
    surroundings: &Surroundings,
) -> anyhow::Result<Runner> {
    let mut document = Document::parse("")?;
    document.add(runner, Some(template))?;
    resolve(location, &document.to_string(), surroundings)?.runners.pop().context("the runner is missing")
}

/// A file's text as it is meant.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn resolve(location: &Location, text: &str, surroundings: &Surroundings) -> anyhow::Result<Config> {
    let loaded = config::load(&location.path, text, &surroundings.environment);
    let Some(config) = loaded.resolved else {
        bail!("{}\nthe configuration has errors", loaded.diagnostics.to_text(&loaded.source, Style::Plain));
    };
    Ok(config)
}

/// Makes clients for runners.
#[derive(Debug)]
pub(super) struct Link {
    assembly: Assembly,
}

impl Link {
    /// A client that speaks for this runner.
    ///
    /// # Errors
    /// An URL or token that can never work.
    pub(super) fn client(&self, runner: &Runner) -> anyhow::Result<Client> {
        let labels = RunnerLabels {
            runner: runner.short_token().to_owned(),
            runner_name: runner.name.clone(),
            system_id: self.assembly.system_id.clone(),
        };
        Ok(self.assembly.client(runner, &labels)?)
    }
}

/// Lays the files of the command line over those of the config file.
pub(super) fn lay_over(tls: &mut TlsFiles, args: &TlsArgs) {
    let given = [&args.tls_ca_file, &args.tls_cert_file, &args.tls_key_file];
    for (file, given) in [&mut tls.ca_file, &mut tls.cert_file, &mut tls.key_file].into_iter().zip(given) {
        if given.is_some() {
            file.clone_from(given);
        }
    }
}

/// The entries with this name, or with this token, whose URL is the given one where one is given. An URL alone
/// selects nothing, as in the reference; no selection at all is all of them.
pub(super) fn select(runners: &[Runner], selection: &SelectionArgs) -> Vec<usize> {
    let SelectionArgs { name, url, token } = selection;
    let all = name.is_none() && url.is_none() && token.is_none();
    let chosen = runners.iter().enumerate().filter(|(_, runner)| {
        let by_name = name.as_ref().is_some_and(|name| *name == runner.name);
        let by_token = token.as_ref().is_some_and(|token| token == runner.token.expose());
        all || by_name || (by_token && url.as_deref().is_none_or(|url| is_same_server(url, runner)))
    });
    chosen.map(|(index, _)| index).collect()
}

/// Whether an URL, as somebody types it, is that of the runner's server.
pub(super) fn is_same_server(url: &str, runner: &Runner) -> bool {
    url.parse::<ServerUrl>().is_ok_and(|url| url.as_url() == runner.url.as_url())
}

/// Whether a token was made in GitLab, not by registering.
pub(super) fn is_created(token: &str) -> bool {
    token.starts_with("glrt-")
}
