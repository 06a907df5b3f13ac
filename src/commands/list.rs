//! `flotilla list`: the runners of the config file.

use std::process::ExitCode;

use tracing::info;

use super::entries::Entries;
use super::{Surroundings, announce, start_log};
use crate::cli::{ConfigArgs, LogArgs};

/// One line a runner, in the reference's form. Tokens are shown whole, as its users expect: whoever may read the
/// file knows them.
///
/// # Errors
/// The file cannot be used. One that does not exist has no runners.
pub fn run(args: &ConfigArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    start_log(log, "info")?;
    announce(surroundings);
    let entries = Entries::read(args, surroundings)?;
    info!(ConfigFile = %entries.location.path.display(), "Listing configured runners");
    for runner in &entries.config.runners {
        let (executor, token, url) = (runner.executor.as_str(), runner.token.expose(), runner.url.as_str());
        info!(Executor = executor, Token = token, URL = url, "{}", runner.name);
    }
    Ok(ExitCode::SUCCESS)
}
