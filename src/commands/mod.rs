//! One file a subcommand, and the wiring that they share: the environment is read here, once, and nowhere else.

pub mod check;
pub mod demo;
mod descriptors;
mod entries;
pub mod list;
pub mod loading;
pub mod plan;
mod questions;
pub mod register;
pub mod run;
mod signals;
pub mod simulate;
#[cfg(test)]
mod tests;
pub mod unregister;
pub mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tracing::info;

use crate::cli::{Cli, Command, LogArgs};
use crate::config::environment::Environment;
use crate::config::file::User;
use crate::fleeting;
use crate::gitlab::{COMPATIBLE_VERSION, REVISION};
use crate::helper;
use crate::logging::{self, Format};

/// What the process was started in.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub environment: Environment,
    pub user: User,
    /// The running program.
    pub executable: PathBuf,
    pub host_name: String,
    pub folder: PathBuf,
}

impl Surroundings {
    /// Reads them from the system.
    ///
    /// # Errors
    /// The system does not tell which program this is.
    pub fn read() -> anyhow::Result<Self> {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let name = rustix::system::uname();
        Ok(Self {
            environment: variables.collect(),
            user: if rustix::process::geteuid().is_root() { User::Root } else { User::Other },
            executable: std::env::current_exe().context("asking the system which program this is")?,
            host_name: name.nodename().to_string_lossy().into_owned(),
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        })
    }
}

/// Does what the command line says.
///
/// # Errors
/// What the command could not do, with its causes.
pub fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let surroundings = Surroundings::read()?;
    match cli.command {
        Command::Run(args) => run::run(&args, &cli.log, &surroundings),
        Command::Check(args) => check::run(&args, &surroundings),
        Command::LocalInstance(args) => {
            runtime()?.block_on(fleeting::local::serve(args))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Helper(command) => {
            let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
            let environment = helper::Environment::new(variables, surroundings.folder);
            let output = helper::cli::OutputArgs {
                debug: cli.log.debug,
                log_format: cli.log.log_format,
                log_level: cli.log.log_level,
            };
            Ok(helper::run(command, &output, &environment))
        }
        Command::Demo(args) => demo::run(&args, &cli.log, &surroundings),
        Command::Register(args) => register::run(&args, &cli.log, &surroundings),
        Command::Verify(args) => verify::run(&args, &cli.log, &surroundings),
        Command::Unregister(args) => unregister::run(&args, &cli.log, &surroundings),
        Command::List(args) => list::run(&args, &cli.log, &surroundings),
        Command::Simulate(args) => simulate::run(&args, &surroundings),
        Command::Plan(args) => plan::run(&args, &cli.log, &surroundings),
    }
}

/// The log of a command that a person waits for: `level` unless another is asked for, in lines for people.
fn start_log(args: &LogArgs, level: &str) -> anyhow::Result<()> {
    let debug = args.debug.unwrap_or(false).then_some("debug");
    let format = args.log_format.as_deref().map(run::parse_format).transpose()?;
    logging::init(debug.or(args.log_level.as_deref()).unwrap_or(level), Some(format.unwrap_or(Format::Runner)))?;
    Ok(())
}

/// The first lines of a command that changes something, as users of the reference know them.
fn announce(surroundings: &Surroundings) {
    let (os, arch, pid) = (std::env::consts::OS, std::env::consts::ARCH, std::process::id());
    info!(arch, os, pid, revision = REVISION, version = COMPATIBLE_VERSION, "Runtime platform");
    match surroundings.user {
        User::Root => info!("Running in system-mode."),
        User::Other => info!("Running in user-mode: the config file is the user's own."),
    }
}

/// The one runtime of the process.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// Says what went wrong to who typed the command.
pub fn complain(error: &anyhow::Error) {
    // A closed standard error leaves nobody to tell.
    std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("flotilla: {error:#}\n")).ok();
}
