//! From a command line to an exit status.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use super::cli::{Cli, Command, OutputArgs};
use super::console::Console;
use super::environment::Environment;
use super::stage::{agent, keep};
use super::version::version_text;
use super::{artifacts, cache, health_check, own};
use crate::error_chain::Chain;

/// Why a command ends with status 1.
#[derive(Debug)]
pub(super) enum Failure {
    /// The user has been told.
    Said,
    /// To be told as the last line.
    Fatal(String),
}

impl Failure {
    /// An error with its causes.
    pub(super) fn fatal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Fatal(Chain(error).to_string())
    }
}

/// The whole of the helper binary, `arguments` with its own name first.
pub fn main(arguments: &[OsString], environment: &Environment) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, environment),
    };
    match cli.command {
        _ if cli.version => print(&version_text()),
        Some(command) => run(command, &cli.output, environment),
        None => print(&<Cli as clap::CommandFactory>::command().render_help().to_string()),
    }
}

/// Runs one command; its messages go to stderr.
pub fn run(command: Command, output: &OutputArgs, environment: &Environment) -> ExitCode {
    let console = Console::stderr(output, environment);
    let ended = match command {
        Command::ArtifactsUploader(args) => artifacts::upload(&args, environment, &console),
        Command::ArtifactsDownloader(args) => artifacts::download(&args, environment, &console),
        Command::CacheArchiver(args) => cache::archive(&args, environment, &console),
        Command::CacheExtractor(args) => cache::extract(&args, environment, &console),
        Command::CacheInit(args) => cache::init(&args, environment, &console),
        Command::HealthCheck(args) => health_check::wait(&args, environment),
        Command::Agent(args) => return agent::main(&args, environment),
        Command::Keep(args) => return keep::main(&args),
        Command::Own(args) => return own::main(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Said) => ExitCode::FAILURE,
        Err(Failure::Fatal(message)) => {
            console.fatal(&message);
            ExitCode::FAILURE
        }
    }
}

/// Runs async code on this thread. Only commands that speak to a server need a runtime.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    Ok(runtime()?.block_on(future))
}

/// A runtime on this thread.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::fatal(&error))
}

/// Help goes to stdout with status 0. All else is a mistake, with status 1 as Go's programs have it.
fn refuse(error: &clap::Error, environment: &Environment) -> ExitCode {
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(name) = error.get(clap::error::ContextKind::InvalidSubcommand)
    {
        Console::stderr(&OutputArgs::default(), environment).fatal(&format!("Command {name} not found"));
        return ExitCode::FAILURE;
    }
    let printed = error.print().is_ok();
    if printed && !error.use_stderr() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(line: &str) -> ExitCode {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        main(&arguments, &Environment::new([], "/".into()))
    }

    #[test]
    fn probes_and_help_succeed() {
        for line in ["gitlab-runner --version", "gitlab-runner-helper -v", "h --help", "h cache-archiver --help", "h"] {
            assert_eq!(exit(line), ExitCode::SUCCESS, "{line}");
        }
    }

    #[test]
    fn mistakes_end_with_status_1() {
        for line in [
            "h no-such-command",
            "h cache-archiver --no-such-flag",
            "h cache-init",
            "h cache-extractor",
            "h artifacts-downloader",
        ] {
            assert_eq!(exit(line), ExitCode::FAILURE, "{line}");
        }
    }
}
