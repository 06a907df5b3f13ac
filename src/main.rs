//! The program: parse, dispatch, exit.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use flotilla::{cli, commands, helper};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Started once a stage on `local` instances: the helper's small command line alone is a millisecond less.
    if arguments.get(1).is_some_and(|command| command == "agent" || command == "keep") {
        let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        return helper::main(&arguments, &helper::Environment::new(std::env::vars_os(), folder));
    }
    match commands::dispatch(cli::Cli::parse_from(arguments)) {
        Ok(code) => code,
        Err(error) => {
            commands::complain(&error);
            ExitCode::FAILURE
        }
    }
}
