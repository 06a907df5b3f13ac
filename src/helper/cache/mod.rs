//! Caches: an archive in a local folder, and a copy of it at an object store where a URL is given.

mod archiver;
mod env_file;
mod extractor;
mod init;
mod remote;

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::console::Console;
use super::environment::Environment;
use super::regular::open_regular;

pub(super) use archiver::archive;
pub(super) use extractor::extract;
pub(super) use init::init;

/// Minutes of a transfer where none, or nonsense, is given.
const DEFAULT_MINUTES: u64 = 10;

/// The manager writes a few variables; a file beyond this is the job's.
const LONGEST_ENV_FILE: u64 = 1 << 20;

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
    match read_bounded(&environment.absolute(file)) {
        Ok(text) => environment.with(env_file::parse(&text)),
        Err(error) => {
            console.warning(&format!("reading {}: {error}", file.display()));
            environment.clone()
        }
    }
}

/// The text of a file that the job may have replaced.
fn read_bounded(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_regular(file)?.take(LONGEST_ENV_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes an archive's metadata beside it. It only explains the archive, so a failure is a warning.
fn write_metadata<'a>(file: &Path, metadata: impl Iterator<Item = (&'a str, &'a str)>, console: &Console) {
    let object: serde_json::Map<_, _> = metadata.map(|(name, value)| (name.to_owned(), value.into())).collect();
    let path = file.with_file_name("metadata.json");
    let text = serde_json::Value::Object(object).to_string();
    if let Err(error) = replace(&path, text.as_bytes()) {
        console.warning(&format!("writing {}: {error}", path.display()));
    }
}

/// When an archive was made. A link or a pipe in its place is no archive.
fn modified(file: &Path) -> io::Result<SystemTime> {
    open_regular(file)?.metadata()?.modified()
}

/// Puts a new file in the place of any other: the job may have left a link there.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let permissions = Permissions::from_mode(0o640);
    let mut file = tempfile::Builder::new().prefix("metadata_").permissions(permissions).tempfile_in(folder)?;
    file.write_all(contents)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
