//! `flotilla plan`: what the autoscaler would do now, and why. The group is listed, and nothing is done to it.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::run::MACHINE_ID_FILES;
use super::simulate::{autoscaled, resolved};
use super::{Surroundings, loading, runtime, start_log};
use crate::cli::{LogArgs, PlanArgs};
use crate::config::file::Location;
use crate::config::resolved::{Autoscaler, Runner};
use crate::config::system_id;
use crate::fleeting::registry;
use crate::journal::Journal;
use crate::taskscaler::calls::listing;
use crate::taskscaler::core::Settings as FleetSettings;
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::simulate::forecast::{Forecast, Situation, forecast};
use crate::taskscaler::{Journaled, Settings, Store};
use crate::time;

/// Folder of the manager's own state, beside the config file.
const STATE_FOLDER: &str = ".flotilla";
/// The file of what must survive the manager, in the state folder.
const JOURNAL: &str = "journal.redb";
/// A cloud answers a listing within seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// Looks at the group of each autoscaled runner and reports on standard output.
///
/// # Errors
/// The config file cannot be used, or a group cannot be listed.
pub fn run(args: &PlanArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    start_log(log, "warn")?;
    let location = loading::locate(&args.config, surroundings);
    let config = resolved(loading::load(location.clone(), surroundings)?)?;
    let runtime = runtime()?;
    for (runner, autoscaler) in autoscaled(&config, args.runner.as_deref())? {
        let looked = runtime.block_on(look(runner, autoscaler, &location, surroundings));
        let looked = looked.with_context(|| format!("the group of runner {:?}", runner.name))?;
        writeln!(io::stdout().lock(), "runner {:?}: {looked}", runner.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was seen of one group.
#[derive(Debug)]
struct Looked {
    group: String,
    past: Past,
    forecast: Forecast,
}

/// What managers have kept about the group's instances.
#[derive(Debug)]
enum Past {
    /// This many instances.
    Known(usize),
    /// Nothing, because nothing was kept.
    None,
    /// It cannot be read.
    Unreadable(String),
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fleet = &self.forecast.fleet;
        let count = fleet.instances;
        writeln!(f, "group {}", self.group)?;
        writeln!(
            f,
            "  listed      {} of at most {}: {} running, {} creating, {} deleting, {} not ours",
            count.ready + count.preparing + count.creating + count.deleting + count.foreign,
            fleet.max_instances,
            count.ready + count.preparing,
            count.creating,
            count.deleting,
            count.foreign,
        )?;
        match &self.past {
            Past::Known(kept) => writeln!(f, "  known       {kept} instances from the state folder")?,
            Past::None => writeln!(f, "  known       nothing: no state is kept")?,
            Past::Unreadable(why) => writeln!(f, "  known       nothing: the state cannot be read ({why})")?,
        }
        let target = fleet.policy.target;
        let (idle_count, idle_time, mode) = (target.idle_count, target.idle_time.as_secs(), fleet.mode.as_str());
        let policy =
            fleet.policy.index.map_or_else(|| "none active".to_owned(), |index| format!("number {}", index + 1));
        writeln!(f, "  policy      {policy}: idle_count {idle_count}, idle_time {idle_time} s, {mode}")?;
        if self.forecast.steps.is_empty() {
            return writeln!(f, "  would do    nothing");
        }
        for (number, step) in self.forecast.steps.iter().enumerate() {
            let head = if number == 0 { "would do" } else { "" };
            writeln!(f, "  {head:11} {step}")?;
        }
        Ok(())
    }
}

async fn look(
    runner: &Runner,
    autoscaler: &Autoscaler,
    location: &Location,
    surroundings: &Surroundings,
) -> anyhow::Result<Looked> {
    let places = registry::Surroundings {
        local_root: location
            .folder()
            .join(STATE_FOLDER)
            .join("local")
            .join(crate::detached::path_safe(runner.key().as_str())),
        executable: surroundings.executable.clone(),
        environment: surroundings.environment.clone(),
    };
    let group = registry::provide(&autoscaler.plugin_config, &autoscaler.connector_config, &places)?;
    let listed = tokio::time::timeout(ANSWER, async {
        let (info, listed) = group.look().await?;
        let ownership = group.ownership().await?;
        group.shutdown().await;
        Ok::<_, anyhow::Error>((info, ownership, listed))
    });
    let (info, ownership, listed) = listed.await.map_err(|_| anyhow!("no answer in {} s", ANSWER.as_secs()))??;
    let settings = Settings::new(autoscaler, None);
    let fleet = FleetSettings { unknown: settings.unknown_instances(ownership), ..settings.core };
    let (restored, past) = remembered(runner, autoscaler, location);
    let situation = Situation { settings: fleet, group_max: info.max_size, restored, listing: listing(listed) };
    Ok(Looked { group: info.id, past, forecast: forecast(situation, time::now()) })
}

/// What managers have kept. A journal that cannot be read makes the answer worse, and not impossible.
fn remembered(runner: &Runner, autoscaler: &Autoscaler, location: &Location) -> (Restored, Past) {
    let storage = &autoscaler.state_storage;
    let folder = storage.dir.clone().unwrap_or_else(|| location.folder().join(STATE_FOLDER));
    let journal = folder.join(JOURNAL);
    if storage.enabled == Some(false) || !journal.exists() {
        return (Restored::default(), Past::None);
    }
    match read(&journal, runner, location) {
        Ok(restored) => {
            let kept = restored.instances.iter().filter(|instance| instance.gone_at.is_none()).count();
            (restored, Past::Known(kept))
        }
        Err(error) => (Restored::default(), Past::Unreadable(format!("{error:#}"))),
    }
}

/// Reads a copy: the journal itself belongs to the manager, which may run or start just now.
fn read(journal: &Path, runner: &Runner, location: &Location) -> anyhow::Result<Restored> {
    let system_id = system_id::look(location.folder(), &MACHINE_ID_FILES.map(Path::new))?;
    // A name that is yet to be drawn is in no journal.
    let Some(system_id) = system_id else { return Ok(Restored::default()) };
    let journal = Journal::copy_of(journal)?;
    Ok(Journaled::new(&journal, &runner.key(), system_id.as_str()).load()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::environment::Environment;
    use crate::config::file::User;
    use crate::ids::InstanceId;
    use crate::taskscaler::core::instance::Cause;
    use crate::taskscaler::core::records::{InstanceRecord, Record};

    /// What is said about the one runner of a config file in this folder.
    async fn plan(folder: &Path, autoscaler: &str) -> String {
        let text = format!(
            "[[runners]]\nname = \"builds\"\nid = 7\nurl = \"https://gitlab.example\"\ntoken = \"glrt-builds\"\n\
             executor = \"instance\"\n[runners.autoscaler]\n{autoscaler}\n\
             [[runners.autoscaler.policy]]\nidle_count = 2\nidle_time = \"1m\"\n"
        );
        let path = folder.join("config.toml");
        std::fs::write(&path, text).unwrap();
        let surroundings = Surroundings {
            environment: Environment::default(),
            user: User::Other,
            executable: "/nonexistent/flotilla".into(),
            host_name: "this-host".to_owned(),
            folder: folder.to_owned(),
        };
        let location = loading::locate(&crate::cli::ConfigArgs { config: Some(path) }, &surroundings);
        let config = resolved(loading::load(location.clone(), &surroundings).unwrap()).unwrap();
        let (runner, autoscaler) = autoscaled(&config, None).unwrap()[0];
        look(runner, autoscaler, &location, &surroundings).await.unwrap().to_string()
    }

    #[tokio::test]
    async fn an_empty_group_would_grow_and_does_not() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let text = plan(folder.path(), "plugin = \"local\"\nmax_instances = 5").await;
            assert!(text.contains("listed      0 of at most 5"), "{text}");
            assert!(text.contains("known       nothing: no state is kept"), "{text}");
            assert!(text.contains("policy      number 1: idle_count 2, idle_time 60 s, adaptive"), "{text}");
            assert!(text.contains("would do    increase the group: +2: pending 0, idle target 2, have 0"), "{text}");
        }
        let there: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(there, ["config.toml"], "who only looks makes nothing");
    }

    #[tokio::test]
    async fn fixed_hosts_would_be_made_ready() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = "plugin = \"static\"\nmax_instances = 1\n[runners.autoscaler.plugin_config.instances.one]\n\
                     username = \"ci\"\npassword = \"p\"\nexternal_addr = \"192.0.2.1:22\"";
        let text = plan(folder.path(), hosts).await;
        assert!(text.contains("would do    make one ready: it runs"), "{text}");
    }

    #[tokio::test]
    async fn what_a_running_manager_keeps_is_read_from_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join(STATE_FOLDER);
        std::fs::create_dir(&state).unwrap();
        let system_id = system_id::load_or_create(folder.path(), &MACHINE_ID_FILES.map(Path::new)).unwrap().id;
        let journal = Journal::open(&state.join(JOURNAL)).unwrap();
        let key = crate::ids::RunnerKey::new("https://gitlab.example", 7, "glrt-builds");
        let now = time::now().utc;
        let instance = InstanceRecord {
            id: InstanceId::new("gone-astray"),
            cause: Cause::Requested,
            foreign: false,
            creation: None,
            uses: 0,
            slots: BTreeMap::new(),
            listed_at: now,
            idle_since: now,
            removal: None,
            gone_at: None,
        };
        Journaled::new(&journal, &key, system_id.as_str()).commit(&[Record::Instance(instance)]).unwrap();
        let text = plan(folder.path(), "plugin = \"local\"\nmax_instances = 5").await;
        assert!(text.contains("known       1 instances from the state folder"), "{text}");
        assert!(text.contains("look for gone-astray"), "{text}");
        drop(journal);
    }
}
