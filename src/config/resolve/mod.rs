//! From the file as written to the values that the program uses: defaults, units, ranges, rules across keys.
//!
//! Every problem is collected; nothing stops at the first. The files that a config names are asked for through a
//! trait, the environment is a value, and no clock is read, so that the same input gives the same output.

mod autoscaler;
mod cache;
mod context;
mod docker;
mod feature_flags;
mod fleet;
mod global;
mod labels;
mod machine;
mod provider;
mod runner;
mod served;
#[cfg(test)]
mod tests;

use crate::config::diagnostics::Diagnostics;
use crate::config::environment::Environment;
use crate::config::file::Files;
use crate::config::raw::{self, Reader};
use crate::config::resolved::Config;

pub use global::address_to_listen_on;
pub use served::Unserved;

/// What resolving comes to.
pub(crate) struct Outcome {
    /// Sound only where the diagnostics have no error.
    pub(crate) config: Config,
    pub(crate) diagnostics: Diagnostics,
    pub(crate) unserved: Vec<Unserved>,
}

/// Resolves a whole file. The reader brings what was found while reading it.
pub(crate) fn resolve(raw: &raw::Config, reader: Reader, environment: &Environment, files: &dyn Files) -> Outcome {
    let mut context = context::Context { reader, environment, files, refusals: Vec::new() };
    let config = global::resolve(raw, &mut context);
    fleet::check(raw, &config, &mut context);
    Outcome { unserved: served::unserved(&context.reader.present), config, diagnostics: context.reader.diagnostics }
}
