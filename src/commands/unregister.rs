//! `flotilla unregister`: takes runners off GitLab, and out of the config file.
//!
//! A runner that was created in GitLab stays there; only this manager of it goes.

use std::process::ExitCode;

use anyhow::{Context, bail};
use tracing::{error, info, warn};

use super::entries::{self, Entries, Link, STAND_IN, is_created, is_same_server};
use super::{Surroundings, announce, runtime, start_log};
use crate::cli::{LogArgs, UnregisterArgs};
use crate::config::edit::NewRunner;
use crate::config::resolved::Runner;
use crate::gitlab::outcome::UnregisterOutcome;

/// Takes the selected runners off.
///
/// # Errors
/// A runner could not be taken off GitLab and stays in the file, or the file cannot be used.
pub fn run(args: &UnregisterArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    start_log(log, "info")?;
    announce(surroundings);
    runtime()?.block_on(unregister(args, surroundings))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unregister(args: &UnregisterArgs, surroundings: &Surroundings) -> anyhow::Result<()> {
    let mut entries = Entries::read_existing(&args.config, surroundings)?;
    let runners = select(&entries, args, surroundings)?;
    let link = entries.link(surroundings)?;
    let mut failed = 0;
    let mut gone = Vec::new();
    for mut runner in runners {
        entries::lay_over(&mut runner.tls, &args.tls);
        match take_off(&link, &runner).await {
            Ok(()) => gone.push(runner),
            Err(error) => {
                failed += 1;
                error!(runner = runner.short_token(), runner_name = runner.name, "{error:#}");
            }
        }
    }
    let is_gone = |runner: &Runner| gone.iter().any(|gone| gone.token == runner.token && gone.url == runner.url);
    let positions = entries.config.runners.iter().enumerate().filter(|(_, runner)| is_gone(runner));
    let positions: Vec<usize> = positions.map(|(index, _)| index).collect();
    entries.remove(&positions)?;
    if failed > 0 {
        bail!("Failed to unregister {failed} of {} runners", failed + gone.len());
    }
    Ok(())
}

/// The runners to take off: all, the first with the name, or the one with the token, which need not be in the file.
fn select(entries: &Entries, args: &UnregisterArgs, surroundings: &Surroundings) -> anyhow::Result<Vec<Runner>> {
    let runners = &entries.config.runners;
    if args.all_runners {
        warn!("Unregistering all runners");
        return Ok(runners.clone());
    }
    if let Some(name) = &args.selection.name {
        let found = runners.iter().find(|runner| runner.name == *name);
        return Ok(vec![found.cloned().with_context(|| format!("no runner is called {name:?}"))?]);
    }
    let environment = &surroundings.environment;
    let url = args.selection.url.as_deref().or_else(|| environment.get("CI_SERVER_URL"));
    let token = args.selection.token.as_deref().or_else(|| environment.get("CI_SERVER_TOKEN"));
    let Some(token) = token else { bail!("which runner? --name, --url with --token, or --all-runners says so") };
    let is_it = |runner: &&Runner| runner.token.expose() == token && url.is_none_or(|url| is_same_server(url, runner));
    if let Some(runner) = runners.iter().find(is_it) {
        return Ok(vec![runner.clone()]);
    }
    let url = url.context("no runner of the file has this token; --url says which server it is for")?;
    let stranger = NewRunner::new(url, token.into(), crate::time::now().utc);
    Ok(vec![entries::lone(&entries.location, &stranger, STAND_IN, surroundings)?])
}

async fn take_off(link: &Link, runner: &Runner) -> anyhow::Result<()> {
    let manager = if is_created(runner.token.expose()) { " manager" } else { "" };
    match link.client(runner)?.unregister().await {
        UnregisterOutcome::Removed => {
            let (short, name) = (runner.short_token(), &runner.name);
            info!(runner = short, runner_name = name, "Unregistering runner{manager} from GitLab succeeded");
            Ok(())
        }
        UnregisterOutcome::Forbidden => bail!("Unregistering runner{manager} from GitLab forbidden"),
        UnregisterOutcome::Failed { message, .. } => {
            bail!("Unregistering runner{manager} from GitLab failed: {message}")
        }
    }
}
