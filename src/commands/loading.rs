//! Finding and loading the config file, for every command that needs it; the same code for all.

use std::path::Path;

use anyhow::Context;
use tracing::{error, warn};

use super::Surroundings;
use crate::cli::ConfigArgs;
use crate::config::diagnostics::Severity;
use crate::config::file::{self, Location};
use crate::config::{self, Loaded, Unserved};

/// A config file with where it was found.
#[derive(Debug)]
pub struct Found {
    pub location: Location,
    /// It is not there, and counts as empty.
    pub is_missing: bool,
    pub loaded: Loaded,
}

/// Which file the arguments and the environment mean.
pub fn locate(args: &ConfigArgs, surroundings: &Surroundings) -> Location {
    file::locate(args.config.as_deref(), &surroundings.environment, surroundings.user, Path::exists)
}

/// Reads and checks it.
///
/// # Errors
/// It exists and cannot be read. What is wrong inside it is in [`Loaded::diagnostics`].
pub fn load(location: Location, surroundings: &Surroundings) -> anyhow::Result<Found> {
    let loaded = config::load_file(&location.path, &surroundings.environment).context("the config file")?;
    let is_missing = loaded.is_none();
    let loaded = loaded.unwrap_or_else(|| config::load(&location.path, "", &surroundings.environment));
    Ok(Found { location, is_missing, loaded })
}

/// What has no effect yet, as a line.
pub fn unserved_line(unserved: &Unserved) -> String {
    format!("{} has no effect yet: {}", unserved.key, unserved.what)
}

/// Says in the log what is wrong with the file, a line a problem.
pub fn log_problems(loaded: &Loaded) {
    for problem in loaded.diagnostics.items() {
        let (line, column) = loaded.source.position(problem.spot.span.start);
        let key = problem.spot.path.shown();
        match problem.severity {
            Severity::Error => error!(line, column, key, help = problem.help, "{}", problem.message),
            Severity::Warning => warn!(line, column, key, help = problem.help, "{}", problem.message),
        }
    }
}
