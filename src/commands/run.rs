//! `flotilla run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::loading::{self, Found};
use super::signals::{Wish, Wishes};
use super::{Surroundings, descriptors, runtime};
use crate::admin::AdminServer;
use crate::cli::{LogArgs, RunArgs};
use crate::config::diagnostics::Style;
use crate::config::file::{Location, certificate_folders};
use crate::config::resolved::{Config, LogFormat, LogLevel};
use crate::config::{Loaded, Unserved, reload, system_id};
use crate::error_chain::Chain;
use crate::executors::Helpers;
use crate::gitlab::proxy::ProxySettings;
use crate::gitlab::{COMPATIBLE_VERSION, Connections, REVISION};
use crate::journal::Journals;
use crate::logging::{self, Format, LogControl};
use crate::manager::metrics::Metrics;
use crate::manager::watchdog::Watchdog;
use crate::manager::{Assembly, Control, Ended, InUse, Manager};
use crate::pulse::Pulses;

/// Files that name this machine, in the order in which they are looked at.
pub(super) const MACHINE_ID_FILES: [&str; 2] = ["/var/lib/dbus/machine-id", "/etc/machine-id"];
/// What is logged where nobody says it.
const DEFAULT_LEVEL: &str = "info";
/// The manager's own folder, beside the config file.
const STATE: &str = ".flotilla";
/// Signals come one at a time; a few may wait while a reload is taken up.
const CONTROLS: usize = 16;

/// Serves until it is told to stop.
///
/// # Errors
/// It could not start, or jobs were left behind at the end.
pub fn run(args: &RunArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &args.working_directory {
        std::env::set_current_dir(folder).with_context(|| format!("working in {}", folder.display()))?;
    }
    let location = loading::locate(&args.config, surroundings);
    let runtime = runtime()?;
    // Before the file is read: no signal and no change of the file may come between.
    let wishes = {
        let _inside = runtime.enter();
        Wishes::new(&location.path).context("taking over the signals")?
    };
    let found = loading::load(location, surroundings)?;
    let log = Log::start(log, found.loaded.resolved.as_ref())?;
    let pid = std::process::id();
    info!(version = COMPATIBLE_VERSION, revision = REVISION, pid, os = std::env::consts::OS, "Runtime platform");
    if found.is_missing {
        warn!(path = %found.location.path.display(), "there is no config file: no runner is served until there is one");
    }
    loading::log_problems(&found.loaded);
    say_unserved(&found.loaded.unserved, &[]);
    let Some(config) = found.loaded.resolved.clone() else {
        bail!("{}\nthe configuration has errors", found.loaded.diagnostics.to_text(&found.loaded.source, Style::Plain));
    };
    info!(path = %found.location.path.display(), runners = config.runners.len(), "Configuration loaded");
    match runtime.block_on(serve(config, found, wishes, args, log, surroundings))? {
        Ended::Clean => {
            info!("Can exit now!");
            Ok(ExitCode::SUCCESS)
        }
        Ended::LeftBehind { jobs } => bail!("stopped with {jobs} jobs still running"),
        Ended::Hurried => bail!("stopped by a further signal before the instances were given up"),
    }
}

async fn serve(
    config: Config,
    found: Found,
    wishes: Wishes,
    args: &RunArgs,
    log: Log,
    surroundings: &Surroundings,
) -> anyhow::Result<Ended> {
    let descriptors = descriptors::raise_limit();
    let metrics = Arc::new(Metrics::new()?);
    metrics.configuration_loaded(true);
    let given = args.listen_address.as_deref().filter(|address| !address.is_empty());
    let listen_address = given.map(crate::config::address_to_listen_on).or_else(|| config.listen_address.clone());
    let assembly = assembly(&config, &found.location, metrics.clone(), surroundings)?;
    let _watchdog = Watchdog::start(assembly.pulses.clone()).context("a thread for the watchdog")?;
    assembly.open_journals(&config).context("the state of earlier runs")?;
    let (manager, observer) = Manager::new(config, assembly);
    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    if let Some(address) = listen_address {
        let admin = AdminServer::bind(&address, descriptors).await?;
        info!(address = %admin.address(), "admin server listens");
        tasks.spawn(admin.serve(observer, stop.clone()));
    }
    let (controls, receiver) = mpsc::channel(CONTROLS);
    let steering = Steering {
        wishes,
        loaded: found.loaded,
        location: found.location,
        log,
        metrics,
        surroundings: surroundings.clone(),
    };
    tasks.spawn(steering.run(controls));
    let ended = manager.run(receiver).await;
    stop.cancel();
    Ok(ended)
}

/// What runners are made with, as the surroundings have it; the system id is kept beside the file.
pub(super) fn assembly(
    config: &Config,
    location: &Location,
    metrics: Arc<Metrics>,
    surroundings: &Surroundings,
) -> anyhow::Result<Assembly> {
    let folder = location.folder();
    let kept = system_id::load_or_create(folder, &MACHINE_ID_FILES.map(std::path::Path::new))?;
    if let Some(error) = &kept.unsaved {
        warn!(error = %Chain(error), "the system id could not be kept: the next start may be another manager to GitLab");
    }
    let pulses = Pulses::default();
    let proxies = ProxySettings::from_env(|name| surroundings.environment.get(name));
    Ok(Assembly {
        metrics,
        connections: Connections::new(proxies, config.connection_max_age.unwrap_or_default()),
        helpers: Arc::new(helpers(surroundings)),
        system_id: kept.id.to_string(),
        host_name: surroundings.host_name.clone(),
        state: folder.join(STATE),
        journals: Arc::new(Journals::new(folder.join(STATE), pulses.clone())),
        environment: surroundings.environment.clone(),
        pulses,
        in_use: InUse::default(),
        spill: surroundings.environment.get("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
        certificates: certificate_folders(location, &surroundings.environment, surroundings.user).into(),
    })
}

/// The programs that travel to instances lie beside this one, or where the environment says.
pub(super) fn helpers(surroundings: &Surroundings) -> Helpers {
    let beside = || surroundings.executable.parent().map_or_else(PathBuf::new, ToOwned::to_owned);
    let folder = surroundings.environment.get("FLOTILLA_HELPERS").map_or_else(beside, PathBuf::from);
    Helpers::new(surroundings.executable.clone(), folder, surroundings.environment.clone())
}

/// The log, and what of it the command line has fixed.
#[derive(Debug)]
struct Log {
    control: LogControl,
    level_is_fixed: bool,
    format_is_fixed: bool,
}

impl Log {
    fn start(args: &LogArgs, config: Option<&Config>) -> anyhow::Result<Self> {
        let debug = args.debug.unwrap_or(false).then(|| "debug".to_owned());
        let level = debug.or_else(|| args.log_level.clone());
        let configured = config.and_then(|config| config.log_level).map(|level| level.as_str().to_owned());
        let shown = level.clone().or(configured).unwrap_or_else(|| DEFAULT_LEVEL.to_owned());
        let given = args.log_format.as_deref().map(parse_format).transpose()?;
        let format = given.or_else(|| config.and_then(|config| config.log_format).map(format_of));
        let control = logging::init(&shown, format)?;
        Ok(Self { control, level_is_fixed: level.is_some(), format_is_fixed: given.is_some() })
    }

    /// A key that is gone means what it means where it never was.
    fn follow(&self, config: &Config) {
        let level = config.log_level.map_or(DEFAULT_LEVEL, LogLevel::as_str);
        if !self.level_is_fixed
            && let Err(error) = self.control.set_level(level)
        {
            warn!(%error, "log level not changed");
        }
        if !self.format_is_fixed {
            self.control.set_format(config.log_format.map(format_of));
        }
    }
}

/// Says which keys have no effect yet, but for those that were `said` before.
fn say_unserved(unserved: &[Unserved], said: &[Unserved]) {
    for key in unserved.iter().filter(|key| !said.contains(key)) {
        info!("{}", loading::unserved_line(key));
    }
}

pub(super) fn parse_format(text: &str) -> anyhow::Result<Format> {
    Ok(match text {
        "runner" => Format::Runner,
        "text" => Format::Text,
        "json" => Format::Json,
        _ => bail!("log format {text:?} is none of runner, text, json"),
    })
}

fn format_of(format: LogFormat) -> Format {
    match format {
        LogFormat::Runner => Format::Runner,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    }
}

/// Turns the operator's wishes into controls of the manager.
#[derive(Debug)]
struct Steering {
    wishes: Wishes,
    loaded: Loaded,
    location: Location,
    log: Log,
    metrics: Arc<Metrics>,
    surroundings: Surroundings,
}

impl Steering {
    async fn run(mut self, controls: mpsc::Sender<Control>) {
        loop {
            let wished = match self.wishes.next().await {
                Wish::Drain => Some(Control::Drain),
                Wish::Abort(signal) => Some(Control::Abort(signal)),
                Wish::Reload => self.reload().map(|config| Control::Reload(Box::new(config))),
                Wish::LookAgain => Some(match self.look_again() {
                    Some(config) => Control::Reload(Box::new(config)),
                    None => Control::LookAgain,
                }),
            };
            let Some(control) = wished else { continue };
            if controls.send(control).await.is_err() {
                return;
            }
        }
    }

    /// The file's new content, where it is whole; else all stays as it is.
    fn reload(&mut self) -> Option<Config> {
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                error!("Failed to load config: {error:#}: the one before stays in force");
                self.metrics.configuration_loaded(false);
                return None;
            }
        };
        loading::log_problems(&loaded);
        let Some(config) = loaded.resolved.clone() else {
            error!("Failed to load config: the one before stays in force");
            self.metrics.configuration_loaded(false);
            return None;
        };
        self.metrics.configuration_loaded(true);
        let changes = reload::diff(&self.loaded, &loaded);
        for change in &changes {
            info!("{change}");
        }
        say_unserved(&loaded.unserved, &self.loaded.unserved);
        info!(changes = changes.len(), "Configuration loaded");
        self.log.follow(&config);
        self.loaded = loaded;
        Some(config)
    }

    /// The same content where it comes to something else now: a key file that can be read again ends a refusal. Only
    /// where a runner is refused, and without a word about what is still wrong.
    fn look_again(&mut self) -> Option<Config> {
        let known = self.loaded.resolved.as_ref().filter(|config| config.refused().next().is_some())?;
        let loaded = self.load().ok().filter(|loaded| loaded.source.text() == self.loaded.source.text())?;
        let config = loaded.resolved.clone().filter(|config| config != known)?;
        info!("the configuration is the same, but what it names is not: it is taken up again");
        self.loaded = loaded;
        Some(config)
    }

    fn load(&self) -> anyhow::Result<Loaded> {
        let Found { loaded, is_missing, location } = loading::load(self.location.clone(), &self.surroundings)?;
        if is_missing {
            bail!("there is no config file {}", location.path.display());
        }
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_format_that_is_gone_from_the_file_is_the_usual_one_again() {
        let usual = format!("{:?}", Log::start(&LogArgs::default(), None).unwrap().control);
        let text = Config { log_format: Some(LogFormat::Text), ..Config::default() };
        let log = Log::start(&LogArgs::default(), Some(&text)).unwrap();
        assert_ne!(format!("{:?}", log.control), usual);
        log.follow(&Config::default());
        assert_eq!(format!("{:?}", log.control), usual);
    }
}
