//! The helper binary: reads the environment and runs the helper.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use flotilla::helper::{self, Environment};

fn main() -> ExitCode {
    let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let environment = Environment::new(std::env::vars_os(), folder);
    let arguments: Vec<OsString> = std::env::args_os().collect();
    helper::main(&arguments, &environment)
}
