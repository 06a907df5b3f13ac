//! What one runner remembers over a restart: its fleet, the keys of its hosts, and its jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::job_records::{JobRecord, JobRecords};
use super::remains::{Remains, Through};
use super::served::ServeError;
use crate::config::resolved::{Autoscaler, ExecutorKind, FleetRunner};
use crate::fleeting::host_keys::HostKeys;
use crate::fleeting::registry;
use crate::ids::{ReservationKey, RunnerKey};
use crate::journal::{Journal, JournalError, Journals, Section};
use crate::taskscaler::{Forgetful, Journaled, Store};

/// One runner's part of the journal, as it was found at the start.
#[derive(Debug)]
pub struct Memory {
    pub fleet: Arc<dyn Store>,
    pub host_keys: HostKeys,
    pub jobs: JobRecords,
    pub remains: Remains,
    /// Jobs that an earlier manager left in the middle.
    pub former: Vec<JobRecord>,
    /// Those who had a slot then.
    pub in_slots: BTreeSet<ReservationKey>,
}

impl Memory {
    /// Of no manager before this one: `state_storage.enabled = false`.
    fn fresh(remains: Remains) -> Self {
        Self {
            fleet: Arc::new(Forgetful),
            host_keys: HostKeys::default(),
            jobs: JobRecords::default(),
            remains,
            former: Vec::new(),
            in_slots: BTreeSet::new(),
        }
    }

    /// Opens the runner's journal, where it has one, and reads its part. May block.
    ///
    /// # Errors
    /// It cannot be read: better not to serve the runner than to forget its fleet.
    pub fn recall(journals: &Journals, runner: &FleetRunner, system_id: &str) -> Result<Self, ServeError> {
        let Some(journal) = open(journals, &runner.fleet)? else { return Ok(Self::fresh(remains(runner, None)?)) };
        let key = runner.key();
        let fleet = Journaled::new(&journal, &key, system_id);
        let restored = fleet.load()?;
        let in_slots = restored.instances.iter().flat_map(|instance| instance.slots.values().cloned()).collect();
        let section = journal.section(&format!("jobs/{system_id}/{key}"));
        let jobs = JobRecords::new(section.clone());
        Ok(Self {
            host_keys: HostKeys::preloaded(fleet.host_keys()?),
            fleet: Arc::new(fleet),
            former: jobs.load()?,
            remains: remains(runner, Some(section))?,
            jobs,
            in_slots,
        })
    }
}

/// Where instances are destroyed, nothing on them stays, but on an engine that does.
fn remains(runner: &FleetRunner, section: Option<Section>) -> Result<Remains, JournalError> {
    let facts = registry::facts(&runner.fleet.plugin_config);
    let uses_engine = runner.executor == ExecutorKind::DockerAutoscaler;
    match (facts.engine_survives_instance && uses_engine, facts.instances_are_destroyed) {
        (true, _) => Remains::load(section, Through::AnyInstance),
        (false, false) => Remains::load(section, Through::ItsInstance),
        (false, true) => Ok(Remains::none()),
    }
}

/// The journal of a runner with these settings; `None` where it keeps no state.
///
/// # Errors
/// As [`Journals::open`].
pub fn open(journals: &Journals, autoscaler: &Autoscaler) -> Result<Option<Journal>, JournalError> {
    let storage = &autoscaler.state_storage;
    if storage.enabled == Some(false) {
        return Ok(None);
    }
    journals.open(storage.dir.as_deref()).map(Some)
}

/// Whose records a journal has beside those of these runners, with how many they are.
///
/// # Errors
/// It cannot be read.
pub fn of_others(
    journal: &Journal,
    runners: &BTreeSet<RunnerKey>,
    system_id: &str,
) -> Result<BTreeMap<String, usize>, JournalError> {
    let ours: BTreeSet<String> = runners.iter().map(|runner| format!("{system_id}/{runner}")).collect();
    let mut others = BTreeMap::new();
    for (section, records) in journal.sections()? {
        let owner = section.split_once('/').map_or(section.as_str(), |(_, owner)| owner);
        if !ours.contains(owner) {
            *others.entry(owner.to_owned()).or_default() += records;
        }
    }
    Ok(others)
}
