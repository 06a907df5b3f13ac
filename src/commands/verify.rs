//! `flotilla verify`: whether GitLab knows the runners of the config file.

use std::process::ExitCode;

use anyhow::bail;
use tracing::{error, info};

use super::entries::{Entries, is_created, select};
use super::{Surroundings, announce, runtime, start_log};
use crate::cli::{LogArgs, VerifyArgs};
use crate::config::resolved::Runner;
use crate::error_chain::Chain;
use crate::gitlab::Client;
use crate::gitlab::outcome::VerifyOutcome;

/// Asks GitLab about each selected runner; with `--delete`, those that it does not know are taken out of the file.
///
/// # Errors
/// A runner is not known and stays in the file, the selection matches nothing, or the file cannot be used.
pub fn run(args: &VerifyArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    start_log(log, "info")?;
    announce(surroundings);
    runtime()?.block_on(verify(args, surroundings))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn verify(args: &VerifyArgs, surroundings: &Surroundings) -> anyhow::Result<()> {
    let mut entries = Entries::read_existing(&args.config, surroundings)?;
    let selected = select(&entries.config.runners, &args.selection);
    if selected.is_empty() {
        bail!("no runner of {} matches", entries.location.path.display());
    }
    let link = entries.link(surroundings)?;
    let mut dead = Vec::new();
    for index in selected {
        let Some(runner) = entries.config.runners.get(index) else { continue };
        match link.client(runner) {
            Ok(client) => {
                if ask(&client, runner).await == Standing::Dead {
                    dead.push(index);
                }
            }
            Err(error) => say(runner, || error!(error = %Chain(error.as_ref()), "Verifying runner... client error")),
        }
    }
    if dead.is_empty() {
        return Ok(());
    }
    if !args.delete {
        bail!(
            "Failed to verify runners: {} of them are not known to GitLab; --delete takes them out of the file",
            dead.len()
        );
    }
    entries.remove(&dead)
}

/// What GitLab says of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Alive,
    /// Said so by the server, in so many words.
    Dead,
    /// An outage is no reason to take a runner for dead.
    Unknown,
}

async fn ask(client: &Client, runner: &Runner) -> Standing {
    let outcome = client.verify().await;
    let created = is_created(runner.token.expose());
    match outcome {
        VerifyOutcome::Valid(_) => {
            say(runner, || {
                if created { info!("Verifying runner... is valid") } else { info!("Verifying runner... is alive") }
            });
            Standing::Alive
        }
        VerifyOutcome::Invalid => {
            let not_valid = || error!("Verifying runner... is not valid");
            say(runner, || if created { not_valid() } else { error!("Verifying runner... is removed") });
            Standing::Dead
        }
        VerifyOutcome::Unknown { status, message } => {
            say(runner, || error!(status, message, "Verifying runner... failed"));
            Standing::Unknown
        }
    }
}

/// Says it with the runner's name.
fn say(runner: &Runner, what: impl FnOnce()) {
    tracing::info_span!("runner", runner = runner.short_token(), runner_name = runner.name).in_scope(what);
}
