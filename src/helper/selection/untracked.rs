//! What Git does not track in a folder, ignored files too.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names relative to `folder`. Git's own complaints go to stderr, where the job shows them.
///
/// # Errors
/// Git is missing, or says no (`folder` is no repository).
pub(super) fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    let output = Command::new("git")
        // The project may belong to the user of the job's image while we are another; nothing of its
        // configuration is to be run for that.
        .args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "ls-files", "-o", "-z"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("git ls-files: {}", output.status)));
    }
    let names = output.stdout.split(|byte| *byte == 0).map(|name| match name {
        // A repository within is listed as its folder.
        [folder @ .., b'/'] => folder,
        name => name,
    });
    Ok(names.filter(|name| !name.is_empty()).map(|name| OsString::from_vec(name.to_vec())).collect())
}
