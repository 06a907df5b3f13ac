//! One `[[runners]]` entry as it is served: its configuration with everything that acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tracing::warn;

use super::former_jobs::former_jobs;
use super::job_records::JobRecords;
use super::memory::{self, Memory};
use super::metrics::{ApiCalls, Metrics, RunnerLabels};
use super::remains::Remains;
use super::scaler::Scaler;
use crate::config::environment::Environment;
use crate::config::resolved::{Config, ExecutorKind, FleetRunner, Runner};
use crate::executors::{Executor, Helpers};
use crate::fleeting::access::{DockerEndpoint, Transport};
use crate::fleeting::group::{GroupError, InstanceGroup};
use crate::fleeting::registry::{self, Surroundings};
use crate::gitlab::error::ClientError;
use crate::gitlab::tls::TlsFiles;
use crate::gitlab::wire::{ConfigInfo, Features, Info};
use crate::gitlab::{Client, Connections, RunnerSettings};
use crate::ids::RunnerKey;
use crate::job::failure::Fault;
use crate::journal::{JournalError, Journals};
use crate::pulse::Pulses;
use crate::taskscaler;

/// A runner with its client, its capacity and its executor. A reload replaces it; jobs that run keep the
/// one that they began with.
#[derive(Debug)]
pub struct ServedRunner {
    pub key: RunnerKey,
    pub config: Arc<FleetRunner>,
    pub client: Client,
    pub group: Arc<dyn InstanceGroup>,
    pub capacity: taskscaler::Handle,
    pub executor: Executor,
    pub records: JobRecords,
    pub remains: Remains,
    pub labels: RunnerLabels,
    pub host_name: String,
    pub metrics: Arc<Metrics>,
}

/// Why an entry cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("speaking to GitLab")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Executor(String),
    #[error("the group of instances")]
    Group(#[from] GroupError),
    #[error("recalling the fleet and its jobs")]
    Journal(#[from] JournalError),
    #[error("recalling the fleet")]
    Fleet(#[from] taskscaler::StoreError),
    #[error("its jobs from before it was removed from the configuration still run: it is served when they have ended")]
    StillDraining,
}

impl From<Fault> for ServeError {
    fn from(fault: Fault) -> Self {
        Self::Executor(fault.message)
    }
}

/// What runners are made with. One for the process.
#[derive(Debug)]
pub struct Assembly {
    pub metrics: Arc<Metrics>,
    pub connections: Connections,
    pub helpers: Arc<Helpers>,
    pub system_id: String,
    pub host_name: String,
    /// Folder of the manager's own state, beside the config file.
    pub state: PathBuf,
    /// What survives this process.
    pub journals: Arc<Journals>,
    /// Runners whose records are in use, until their taskscaler has ended.
    pub in_use: InUse,
    /// Folder of traces that grow beyond memory.
    pub spill: PathBuf,
    /// Where `<host>.crt` and the like are looked for.
    pub certificates: Vec<PathBuf>,
    /// The process's own, for providers.
    pub environment: Environment,
    /// Signs of life of this process's loops.
    pub pulses: Pulses,
}

impl Assembly {
    /// The runner as its configuration has it, and its taskscaler where that has yet to be started. Where the runner was
    /// served `before`, its capacity goes on.
    ///
    /// # Errors
    /// What keeps it from being served; nothing is left running then.
    pub async fn serve(
        &self,
        runner: &FleetRunner,
        before: Option<&ServedRunner>,
    ) -> Result<(ServedRunner, Option<Scaler>), ServeError> {
        let config = Arc::new(runner.clone());
        let labels = RunnerLabels {
            runner: runner.short_token().to_owned(),
            runner_name: runner.name.clone(),
            system_id: self.system_id.clone(),
        };
        let executor = Executor::new(config.clone(), self.helpers.clone())?;
        let client = self.client(runner, &labels)?;
        let (group, capacity, (records, remains), begun) = match before {
            Some(before) => {
                before.group.reconfigure(&runner.fleet.plugin_config, &runner.fleet.connector_config)?;
                before.capacity.reconfigure(taskscaler_settings(runner)).await;
                let kept = (before.records.clone(), before.remains.clone());
                (before.group.clone(), before.capacity.clone(), kept, None)
            }
            None => {
                let (group, handle, kept, begun) = self.capacity(&config, &client).await?;
                (group, handle, kept, Some(begun))
            }
        };
        let served = ServedRunner {
            key: runner.key(),
            config,
            client,
            group,
            capacity,
            executor,
            records,
            remains,
            labels,
            host_name: self.host_name.clone(),
            metrics: self.metrics.clone(),
        };
        Ok((served, begun))
    }

    /// A runner that left the configuration gets no further jobs: nothing is kept for them, while those that it has
    /// go on.
    pub async fn wind_down(&self, gone: &ServedRunner) {
        let settings = taskscaler_settings(&gone.config).winding_down(&gone.config.fleet);
        gone.capacity.reconfigure(settings).await;
    }

    /// A runner that had left is served again as it was.
    pub async fn resume(&self, back: &ServedRunner) {
        back.capacity.reconfigure(taskscaler_settings(&back.config)).await;
    }

    /// A client that speaks for `runner`, as each of its jobs will.
    ///
    /// # Errors
    /// An URL or token that can never work.
    pub(crate) fn client(&self, runner: &Runner, labels: &RunnerLabels) -> Result<Client, ServeError> {
        let settings = RunnerSettings {
            url: runner.url.as_str().to_owned(),
            token: runner.token.clone(),
            system_id: self.system_id.clone(),
            info: info(runner),
            tls: self.tls(runner),
        };
        let observer = Arc::new(ApiCalls { metrics: self.metrics.clone(), labels: labels.clone() });
        Ok(Client::new(&self.connections, settings, observer)?)
    }

    /// The files that the entry names, or else those of the certificate folders for its host.
    fn tls(&self, runner: &Runner) -> TlsFiles {
        let host = runner.url.host();
        let found = |name: String| self.certificates.iter().map(|folder| folder.join(&name)).find(|path| path.exists());
        TlsFiles {
            ca: runner.tls.ca_file.clone().or_else(|| found(format!("{host}.crt"))),
            cert: runner.tls.cert_file.clone().or_else(|| found(format!("{host}.auth.crt"))),
            key: runner.tls.key_file.clone().or_else(|| found(format!("{host}.auth.key"))),
        }
    }

    async fn capacity(
        &self,
        runner: &Arc<FleetRunner>,
        client: &Client,
    ) -> Result<(Arc<dyn InstanceGroup>, taskscaler::Handle, (JobRecords, Remains), Scaler), ServeError> {
        let claim = self.in_use.claim(&runner.key()).ok_or(ServeError::StillDraining)?;
        let memory = self.recall(runner).await?;
        let surroundings = Surroundings {
            local_root: self.state.join("local").join(crate::detached::path_safe(runner.key().as_str())),
            executable: self.helpers.own_executable.clone(),
            environment: self.environment.clone(),
        };
        let group = registry::provide(&runner.fleet.plugin_config, &runner.fleet.connector_config, &surroundings)?;
        let executor = Executor::new(runner.clone(), self.helpers.clone())?;
        let (ender, teller) = former_jobs(
            memory.former,
            memory.jobs.clone(),
            memory.remains.clone(),
            executor,
            &self.system_id,
            client.clone(),
        );
        let span = tracing::info_span!("taskscaler", runner = runner.short_token(), runner_name = runner.name);
        let (actor, handle) = taskscaler::Actor::new(taskscaler::Parts {
            group: group.clone(),
            settings: taskscaler_settings(runner),
            store: memory.fleet,
            host_keys: memory.host_keys,
            former_jobs: Arc::new(ender),
            holder: self.system_id.clone(),
            pulse: self.pulses.of(format!("the taskscaler of {}", runner.short_token())),
            span: span.clone(),
        });
        Ok((
            group,
            handle,
            (memory.jobs, memory.remains),
            Scaler { actor, teller, in_slots: memory.in_slots, span, claim },
        ))
    }

    async fn recall(&self, runner: &Arc<FleetRunner>) -> Result<Memory, ServeError> {
        let (journals, runner, system_id) = (self.journals.clone(), runner.clone(), self.system_id.clone());
        let recalling = tokio::task::spawn_blocking(move || Memory::recall(&journals, &runner, &system_id));
        recalling.await.unwrap_or(Err(ServeError::Journal(JournalError::Closed)))
    }

    /// Opens the journals of a configuration's runners, so that a start fails where it could not go on from what was
    /// kept, and warns of what is kept for runners that are not in it. May block.
    ///
    /// # Errors
    /// Another manager has one, or one cannot be used.
    pub fn open_journals(&self, config: &Config) -> Result<(), JournalError> {
        let mut served = BTreeMap::new();
        for runner in config.runnable() {
            if let Some(journal) = memory::open(&self.journals, &runner.fleet)? {
                let (_, keys) = served.entry(journal.path().to_owned()).or_insert_with(|| (journal, BTreeSet::new()));
                keys.insert(runner.key());
            }
        }
        for (path, (journal, keys)) in served {
            for (owner, records) in memory::of_others(&journal, &keys, &self.system_id)? {
                warn!(path = %path.display(), owner, records, "the journal has records of a runner that is not in the configuration: its instances are left alone");
            }
        }
        Ok(())
    }
}

/// Runners whose records are in use. A runner that comes back while its former self still drains would take that
/// one's running jobs for those of a dead manager.
#[derive(Debug, Default)]
pub struct InUse(Mutex<BTreeMap<RunnerKey, Weak<()>>>);

impl InUse {
    /// `None` while another has it. It ends with the claim.
    fn claim(&self, runner: &RunnerKey) -> Option<Arc<()>> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|_, claim| claim.strong_count() > 0);
        if claims.contains_key(runner) {
            return None;
        }
        let claim = Arc::new(());
        claims.insert(runner.clone(), Arc::downgrade(&claim));
        Some(claim)
    }
}

fn taskscaler_settings(runner: &FleetRunner) -> taskscaler::Settings {
    let docker = (runner.executor == ExecutorKind::DockerAutoscaler).then(|| docker_endpoint(runner));
    taskscaler::Settings::new(&runner.fleet, docker)
}

/// What GitLab is told of the runner. A feature stands here only where it works.
fn info(runner: &Runner) -> Info {
    let docker = runner.executor == ExecutorKind::DockerAutoscaler;
    let features = Features {
        variables: true,
        image: docker,
        artifacts: true,
        cache: true,
        fallback_cache_keys: true,
        shared: !docker,
        upload_multiple_artifacts: true,
        upload_raw_artifacts: true,
        refspecs: true,
        masking: true,
        raw_variables: true,
        artifacts_exclude: true,
        multi_build_steps: true,
        return_exit_code: true,
        image_executor_opts: docker,
        two_phase_job_commit: true,
        ..Features::of_client()
    };
    let shell = runner.shell.map_or("bash", crate::config::resolved::Shell::as_str);
    let mut info = Info::new(runner.executor.as_str(), shell, features);
    let gpus = runner.docker.gpus.as_ref().map_or("", |gpus| gpus.text.trim());
    info.config = ConfigInfo { gpus: gpus.to_owned() };
    info.labels = runner.labels.clone();
    info
}

fn docker_endpoint(runner: &Runner) -> DockerEndpoint {
    let transport = Transport::from_flag(runner.feature_flag("FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO"));
    DockerEndpoint { host: runner.docker.host.clone(), transport }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitlab_is_told_of_the_gpus() {
        let text = "[[runners]]\nexecutor = \"docker-autoscaler\"\n[runners.docker]\ngpus = \"all\"\n\
            [runners.autoscaler]\nplugin = \"local\"\n";
        let loaded = crate::config::load("c".as_ref(), text, &Environment::default());
        assert_eq!(info(&loaded.resolved.unwrap().runners[0]).config.gpus, "all");
    }

    #[test]
    fn a_runners_records_have_one_user_at_a_time() {
        let (in_use, one) = (InUse::default(), RunnerKey::new("https://gitlab.example", 1, "t"));
        let claim = in_use.claim(&one).unwrap();
        assert!(in_use.claim(&one).is_none());
        assert!(in_use.claim(&RunnerKey::new("https://gitlab.example", 2, "t")).is_some());
        drop(claim);
        assert!(in_use.claim(&one).is_some());
    }
}
