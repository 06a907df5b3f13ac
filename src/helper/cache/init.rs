//! `cache-init`: a new cache volume belongs to root, and the job's user has to write into it.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::helper::cli::CacheInitArgs;
use crate::helper::console::Console;
use crate::helper::environment::Environment;
use crate::helper::run::Failure;

/// The command. A path that cannot be opened up is said so; the others are tried all the same.
///
/// # Errors
/// No path was given.
pub(in crate::helper) fn init(
    args: &CacheInitArgs,
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    if args.paths.is_empty() {
        return Err(Failure::Fatal("No arguments passed, at least one path is required.".to_owned()));
    }
    for path in &args.paths {
        if let Err(error) = set_permissions(environment.absolute(path), Permissions::from_mode(0o777)) {
            console.error(&format!("failed to chmod path {}: {error}", path.display()));
        }
    }
    Ok(())
}
