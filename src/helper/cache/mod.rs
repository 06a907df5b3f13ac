//! Caches: an archive in a local folder, and a copy of it at an object store where a URL is given.

mod archiver;
mod env_file;
mod extractor;
mod init;
mod remote;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::console::Console;
use super::environment::Environment;

pub(super) use archiver::archive;
pub(super) use extractor::extract;
pub(super) use init::init;

/// Minutes of a transfer where none, or nonsense, is given.
const DEFAULT_MINUTES: u64 = 10;

const NOT_SERVED: &str = "GoCloud URLs are not supported by this helper yet";

/// The longest time of a transfer, from the flag's minutes.
fn time_limit(minutes: i64) -> std::time::Duration {
    let minutes = u64::try_from(minutes).ok().filter(|minutes| *minutes > 0).unwrap_or(DEFAULT_MINUTES);
    std::time::Duration::from_secs(minutes.saturating_mul(60))
}

/// The environment with the variables of a file. One that cannot be read is said so: the transfer may do
/// without.
fn with_env_file(environment: &Environment, file: Option<&Path>, console: &Console) -> Environment {
    let Some(file) = file else { return environment.clone() };
    match std::fs::read_to_string(environment.absolute(file)) {
        Ok(text) => environment.with(env_file::parse(&text)),
        Err(error) => {
            console.warning(&format!("reading {}: {error}", file.display()));
            environment.clone()
        }
    }
}

/// Writes an archive's metadata beside it. It only explains the archive, so a failure is a warning.
fn write_metadata<'a>(file: &Path, metadata: impl Iterator<Item = (&'a str, &'a str)>, console: &Console) {
    let object: serde_json::Map<_, _> = metadata.map(|(name, value)| (name.to_owned(), value.into())).collect();
    let path = file.with_file_name("metadata.json");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&path)
        .and_then(|mut out| out.write_all(serde_json::Value::Object(object).to_string().as_bytes()));
    if let Err(error) = written {
        console.warning(&format!("writing {}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests;
