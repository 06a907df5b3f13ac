//! config.toml, key for key.
//!
//! Text becomes a tree with places ([`diagnostics::Source`] to `raw`), the tree becomes structs that mirror the
//! file, and `resolve` turns those into [`resolved::Config`], whose values cannot be wrong. Every problem on the
//! way is collected with its line, its key and what to write instead; [`load`] gives all of them back at once.
//! Nothing here reads the environment, and only `file`, `system_id` and `edit` touch the disk.

pub mod diagnostics;
pub mod edit;
pub mod environment;
pub mod file;
mod raw;
pub mod reload;
mod resolve;
pub mod resolved;
pub mod save;
mod secrecy;
pub mod system_id;
#[cfg(test)]
mod tests;
pub mod types;

use std::path::Path;

use crate::config::diagnostics::{Diagnostics, Source, Spot};
use crate::config::environment::Environment;
use crate::config::file::{Disk, Files, ReadError};
use crate::config::raw::Reader;
use crate::config::resolved::Config;

pub use resolve::{Unserved, address_to_listen_on};

/// What a file comes to.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// `None` where there is any error: a config is used whole or not at all.
    pub resolved: Option<Config>,
    /// In the order of the file.
    pub diagnostics: Diagnostics,
    /// Keys that are understood but have no effect yet, to be said once at the start.
    pub unserved: Vec<Unserved>,
    /// The text that the diagnostics are about.
    pub source: Source,
}

/// Reads and resolves a config file; `None` where it does not exist.
///
/// # Errors
/// It exists and cannot be read. What is wrong inside it is in [`Loaded::diagnostics`].
pub fn load_file(path: &Path, environment: &Environment) -> Result<Option<Loaded>, ReadError> {
    let Some(text) = file::read(path)? else { return Ok(None) };
    let mut loaded = load(path, &text, environment);
    if file::is_readable_by_others(path) {
        let message = "others than its owner may read it, with the tokens in it";
        loaded.diagnostics.warning(&Spot::file(), message).help(format!("chmod 600 {}", path.display()));
    }
    Ok(Some(loaded))
}

/// Reads and resolves the text of a config file; the files that it names are asked of the disk.
pub fn load(path: &Path, text: &str, environment: &Environment) -> Loaded {
    load_with(path, text, environment, &Disk)
}

/// The same with the named files asked of someone else.
pub fn load_with(path: &Path, text: &str, environment: &Environment, files: &dyn Files) -> Loaded {
    let source = Source::new(path, text);
    let mut reader = Reader::default();
    let Ok(raw) = raw::read::<raw::Config>(&source, &mut reader) else {
        return refused(reader.diagnostics, source);
    };
    let failed: Vec<Spot> =
        reader.diagnostics.items().iter().filter(|item| item.is_error()).map(|item| item.spot.clone()).collect();
    let outcome = resolve::resolve(&raw, reader, environment, files);
    let mut diagnostics = outcome.diagnostics;
    // A value of the wrong type is not missing as well.
    diagnostics.retain(|item| failed.iter().all(|spot| spot.path != item.spot.path || spot.span == item.spot.span));
    diagnostics.sort();
    let resolved = Some(outcome.config).filter(|_| !diagnostics.has_errors());
    Loaded { resolved, diagnostics, unserved: outcome.unserved, source }
}

fn refused(mut diagnostics: Diagnostics, source: Source) -> Loaded {
    diagnostics.sort();
    Loaded { resolved: None, diagnostics, unserved: Vec::new(), source }
}
