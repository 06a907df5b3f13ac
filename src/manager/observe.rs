//! What others may see of the manager: the admin server, the demo's display.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::admission::RunnerLoad;
use super::metrics::{FleetReading, Metrics, Reading, RunnerReading};
use super::registry::{Registry, RunningJob};
use super::served::{Assembly, ServedRunner};
use super::shutdown::Phase;
use crate::pulse::{Pulses, Still};

/// A taskscaler answers at once; what is shown does without one that does not.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(1);

/// What only the manager's loop knows, as of its last turn.
#[derive(Debug, Default)]
pub struct Observed {
    pub concurrent: u32,
    pub runners: Vec<(Arc<ServedRunner>, Option<RunnerLoad>)>,
    /// No longer in the configuration, with polls or jobs under way, or with instances that are given up.
    pub leaving: Vec<Arc<ServedRunner>>,
}

/// A reader's view. Cheap to clone; it changes nothing.
#[derive(Clone, Debug)]
pub struct Observer {
    metrics: Arc<Metrics>,
    pulses: Pulses,
    registry: Registry,
    phase: watch::Receiver<Phase>,
    observed: Arc<RwLock<Observed>>,
}

impl Observer {
    pub fn new(
        assembly: &Assembly,
        registry: Registry,
        phase: watch::Receiver<Phase>,
        observed: Arc<RwLock<Observed>>,
    ) -> Self {
        let (metrics, pulses) = (assembly.metrics.clone(), assembly.pulses.clone());
        Self { metrics, pulses, registry, phase, observed }
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// The encoder's.
    pub async fn metrics(&self) -> Result<Vec<u8>, prometheus::Error> {
        let fleets = self.fleets().await;
        self.metrics.render(&Reading { fleets, ..self.reading() })
    }

    /// The fleets of all runners, those included that end their last jobs.
    pub async fn fleets(&self) -> Vec<FleetReading> {
        let runners = {
            let observed = self.observed.read().unwrap_or_else(PoisonError::into_inner);
            let served = observed.runners.iter().map(|(served, _)| served);
            served.chain(&observed.leaving).cloned().collect::<Vec<_>>()
        };
        let readings = runners.into_iter().map(async |runner| {
            let snapshot = tokio::time::timeout(SNAPSHOT_LIMIT, runner.capacity.snapshot()).await.ok().flatten()?;
            Some(FleetReading { labels: runner.labels.clone(), snapshot })
        });
        join_all(readings).await.into_iter().flatten().collect()
    }

    /// Why the process should get no traffic; `None` when it serves.
    pub fn not_ready(&self) -> Option<&'static str> {
        let starting = self.observed.read().unwrap_or_else(PoisonError::into_inner).concurrent == 0;
        let phase = *self.phase.borrow();
        match phase {
            Phase::Running if starting => Some("starting"),
            Phase::Running if self.standing_still().iter().any(|still| still.is_loop) => Some("a loop stands still"),
            Phase::Running => None,
            Phase::Draining | Phase::Aborting { .. } | Phase::Exiting => Some(phase.name()),
        }
    }

    /// What has given no sign of life for too long.
    pub fn standing_still(&self) -> Vec<Still> {
        self.pulses.standing_still(crate::time::now().instant)
    }

    pub fn process_state(&self) -> &'static str {
        self.phase.borrow().name()
    }

    /// The running jobs, oldest first.
    pub fn jobs(&self) -> Vec<RunningJob> {
        self.registry.snapshot()
    }

    /// The runners that are served.
    pub fn runners(&self) -> Vec<Arc<ServedRunner>> {
        let observed = self.observed.read().unwrap_or_else(PoisonError::into_inner);
        observed.runners.iter().map(|(served, _)| served.clone()).collect()
    }

    fn reading(&self) -> Reading {
        let jobs = self.jobs();
        let observed = self.observed.read().unwrap_or_else(PoisonError::into_inner);
        let runners = observed.runners.iter().map(|(served, load)| (served, *load));
        let runners = runners.chain(observed.leaving.iter().map(|gone| (gone, None)));
        let runners = runners.map(|(served, load)| RunnerReading {
            labels: served.labels.clone(),
            limit: served.config.limit,
            jobs: jobs.iter().filter(|job| job.runner == served.key).cloned().collect(),
            requests: load.map_or(0, |load| load.polls),
            request_limit: load.map_or(0, |load| load.request_limit),
            request_hard_limit: served.config.request_concurrency,
        });
        Reading {
            concurrent: observed.concurrent,
            process_state: self.process_state(),
            standing_still: self.standing_still().len(),
            runners: runners.collect(),
            fleets: Vec::new(),
        }
    }
}
