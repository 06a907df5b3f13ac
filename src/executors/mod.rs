//! How and where a job's scripts run.
//!
//! [`Executor::prepare`] takes a job and its instance and gives back an [`Environment`], in which the
//! job's stages run one after the other ([`Environment::run_stage`]), until [`Environment::cleanup`]
//! takes away what the job made. Both executors run stages through [`crate::detached`]: a stage
//! belongs to a keeper on the instance or in the container, and a lost connection is only a pause.
//!
//! - [`instance`]: the shell of the instance itself.
//! - [`docker_autoscaler`]: a container on the instance's engine, the work of [`docker`].
//! - [`follow`]: one stage from start to exit, over as many streams as it takes.
//! - `kept`: what stays of an instance between jobs.
//! - [`helper_binary`]: the program that goes to instances and into containers.
//!
//! An executor chooses nothing about the job: not the stages, not retries of them, not the final state.
//! It never sees a provider of instances.

pub mod docker;
pub mod docker_autoscaler;
pub mod follow;
pub mod helper_binary;
pub mod instance;
mod kept;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::resolved::{ExecutorKind, FleetRunner};
use crate::detached::records::OutputStream;
use crate::detached::{Exit, StageHandle};
use crate::error_chain::Chain;
use crate::fleeting::access::InstanceAccess;
use crate::ids::JobId;
use crate::job::dirs::Roots;
use crate::job::failure::Fault;
use crate::job::payload::Job;
use crate::job::resolved::{Facts, ResolvedJob};
use crate::job::stage::Stage;
use crate::trace::{Sink, Stream};

pub use docker_autoscaler::DockerAutoscaler;
pub use helper_binary::{HelperBinary, Helpers};
pub use instance::InstanceExecutor;

/// What a job's trace is to an executor: its own lines, and the output of stages.
pub trait JobTrace: Send + Sync + 'static {
    /// Bytes that a stage printed, as they are.
    fn output(&self, stream: OutputStream, bytes: &[u8]);
    /// A line of the manager.
    fn plain(&self, line: &str);
    /// A green line.
    fn info(&self, line: &str);
    /// A line that begins with `WARNING: `.
    fn warning(&self, line: &str);
    /// A text as the trace would show it, for our own log.
    fn masked(&self, text: &str) -> String;
}

/// A trace that nobody reads.
#[cfg(test)]
pub(crate) struct NoTrace;

#[cfg(test)]
impl JobTrace for NoTrace {
    fn output(&self, _: OutputStream, _: &[u8]) {}
    fn plain(&self, _: &str) {}
    fn info(&self, _: &str) {}
    fn warning(&self, _: &str) {}
    fn masked(&self, text: &str) -> String {
        text.to_owned()
    }
}

impl JobTrace for Sink {
    fn output(&self, stream: OutputStream, bytes: &[u8]) {
        let stream = match stream {
            OutputStream::Stdout => Stream::Stdout,
            OutputStream::Stderr => Stream::Stderr,
        };
        self.write(stream, bytes);
    }

    fn plain(&self, line: &str) {
        Self::plain(self, line);
    }

    fn info(&self, line: &str) {
        Self::info(self, line);
    }

    fn warning(&self, line: &str) {
        Self::warning(self, line);
    }

    fn masked(&self, text: &str) -> String {
        Self::masked(self, text)
    }
}

/// The executor of one `[[runners]]` entry. It keeps what is known of each instance between jobs.
#[derive(Debug)]
pub enum Executor {
    Instance(InstanceExecutor),
    DockerAutoscaler(Box<DockerAutoscaler>),
}

/// A job to make an environment for.
#[derive(Debug)]
pub struct PrepareContext<T> {
    pub job: Arc<Job>,
    /// What is known so far; directories are filled in by the executor.
    pub facts: Facts,
    pub access: Arc<dyn InstanceAccess>,
    /// Names this acceptance of the job among all there ever were: folders and fences carry it.
    pub key: String,
    pub trace: T,
    /// The instance is deleted after this job, so what is made on it need not be taken away.
    pub instance_is_disposable: bool,
}

/// A job that was left on an instance, by an earlier manager or by this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerJob {
    pub id: JobId,
    /// The [`PrepareContext::key`] that it was prepared with.
    pub name: String,
    /// Of this manager, which was that one's.
    pub system_id: String,
}

/// What scripts must know of the place where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptFacts {
    /// The shell that reads the scripts, such as `/bin/bash`.
    pub shell: String,
    /// The command with the artifact and cache subcommands, for scripts of the runner's own stages.
    pub helper: String,
    /// `$(hostname)` is asked by the script; this is what it runs on for the manager's line.
    pub executor: &'static str,
}

/// What became of what a job made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum CleanUp {
    /// Nothing of it runs any more.
    Done,
    /// Something of it may run on: it could not be ended, or nobody could say. [`Executor::end_former`] ends it.
    LeftBehind,
}

/// One stage to run.
#[derive(Debug)]
pub struct StageRun<'a> {
    pub stage: &'a Stage,
    /// Counts from 0; each attempt has a fence of its own.
    pub attempt: u32,
    pub script: &'a str,
    /// Cancelling it ends the stage's processes: TERM, and KILL after a grace.
    pub cancel: &'a CancellationToken,
}

/// A prepared job's place to run.
#[derive(Debug)]
pub enum Environment<T: JobTrace> {
    Instance(Box<instance::InstanceEnvironment<T>>),
    Docker(Box<docker::environment::DockerEnvironment<T>>),
}

impl Executor {
    /// The executor that `runner` asks for.
    ///
    /// # Errors
    /// There is none of this kind.
    pub fn new(runner: Arc<FleetRunner>, helpers: Arc<Helpers>) -> Result<Self, Fault> {
        match runner.executor {
            ExecutorKind::Instance => Ok(Self::Instance(InstanceExecutor::new(runner, helpers))),
            ExecutorKind::DockerAutoscaler => {
                Ok(Self::DockerAutoscaler(Box::new(DockerAutoscaler::new(runner, helpers))))
            }
            ExecutorKind::Docker
            | ExecutorKind::DockerMachine
            | ExecutorKind::DockerWindows
            | ExecutorKind::Shell
            | ExecutorKind::Ssh
            | ExecutorKind::Parallels
            | ExecutorKind::VirtualBox
            | ExecutorKind::Kubernetes
            | ExecutorKind::Custom
            | ExecutorKind::Unknown => {
                Err(Fault::configuration(format!("the executor {} is not served yet", runner.executor.as_str())))
            }
        }
    }

    /// The name in the configuration, as the job's headline shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Instance(_) => ExecutorKind::Instance.as_str(),
            Self::DockerAutoscaler(_) => ExecutorKind::DockerAutoscaler.as_str(),
        }
    }

    /// The directories as far as the configuration says, to resolve a job before its instance is known.
    pub fn configured_roots(&self) -> Roots {
        match self {
            Self::Instance(executor) => executor.configured_roots(),
            Self::DockerAutoscaler(executor) => executor.configured_roots(),
        }
    }

    /// Whether jobs share their place with others.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Instance(_))
    }

    /// Makes the place where the job runs. Writes its own lines to the trace.
    ///
    /// # Errors
    /// What is missing, and whether another try makes sense, by the fault's class.
    pub async fn prepare<T: JobTrace>(&self, context: PrepareContext<T>) -> Result<Environment<T>, Fault> {
        match self {
            Self::Instance(executor) => Ok(Environment::Instance(Box::new(executor.prepare(context).await?))),
            Self::DockerAutoscaler(executor) => Ok(Environment::Docker(Box::new(executor.prepare(context).await?))),
        }
    }

    /// Ends what a job left on an instance: one of an earlier manager, or one that could not be cleaned up. Where
    /// nothing is left, nothing happens.
    ///
    /// # Errors
    /// It cannot be ended, or nobody can say.
    pub async fn end_former(&self, access: Arc<dyn InstanceAccess>, job: FormerJob) -> Result<(), Fault> {
        match self {
            Self::Instance(executor) => executor.end_former(access, &job).await,
            Self::DockerAutoscaler(executor) => executor.end_former(access, &job).await,
        }
    }

    /// Waits until what abandoned jobs left has been taken away. To be called when no job runs any more.
    pub async fn shutdown(&self) {
        let tasks = match self {
            Self::Instance(executor) => executor.tasks(),
            Self::DockerAutoscaler(executor) => executor.tasks(),
        };
        tasks.close();
        tasks.wait().await;
    }
}

impl<T: JobTrace> Environment<T> {
    /// The job, resolved with the directories of this place.
    pub fn job(&self) -> &ResolvedJob {
        match self {
            Self::Instance(environment) => environment.job(),
            Self::Docker(environment) => environment.job(),
        }
    }

    /// What the script of this stage must know.
    pub fn script_facts(&self, stage: &Stage) -> ScriptFacts {
        match self {
            Self::Instance(environment) => environment.script_facts(),
            Self::Docker(environment) => environment.script_facts(stage),
        }
    }

    /// Runs one stage to its end; its output goes to the trace.
    ///
    /// # Errors
    /// The stage has no exit status: its environment was lost or could not start it.
    pub async fn run_stage(&mut self, run: StageRun<'_>) -> Result<Exit, Fault> {
        match self {
            Self::Instance(environment) => environment.run_stage(run).await,
            Self::Docker(environment) => environment.run_stage(run).await,
        }
    }

    /// How to find the stage that runs, and what of its output has been delivered, as it changes.
    pub fn watch_stage(&self) -> watch::Receiver<Option<StageHandle>> {
        match self {
            Self::Instance(environment) => environment.watch_stage(),
            Self::Docker(environment) => environment.watch_stage(),
        }
    }

    /// Takes away what the job made. Bounded in time; what cannot be taken away is logged.
    pub async fn cleanup(self) -> CleanUp {
        match self {
            Self::Instance(environment) => environment.cleanup().await,
            Self::Docker(environment) => environment.cleanup().await,
        }
    }
}

/// How long a lost connection to an instance may take to come back. A longer `keepalive` of the
/// connector makes it longer too: the loss of one side is noticed that much later by the other.
fn reconnect_budget(runner: &FleetRunner) -> Duration {
    runner
        .fleet
        .connector_config
        .keepalive
        .map_or(follow::RECONNECT_BUDGET, |keepalive| follow::RECONNECT_BUDGET.max(keepalive * 3))
}

/// The line that names the instance, with its addresses where the configuration wants them.
async fn say_dialing(access: &dyn InstanceAccess, runner: &FleetRunner, trace: &impl JobTrace) -> Result<(), Fault> {
    let mut line = format!("Dialing instance {}", access.id());
    let fleet = &runner.fleet;
    if fleet.log_internal_ip || fleet.log_external_ip {
        let about = access.about().await.map_err(|error| Fault::unclassified(Chain(&error).to_string()))?;
        let shown = [(fleet.log_internal_ip, about.internal_address), (fleet.log_external_ip, about.external_address)];
        for address in shown.into_iter().filter_map(|(wanted, address)| address.filter(|_| wanted)) {
            line.push_str(", ");
            line.push_str(&address);
        }
    }
    trace.plain(&format!("{line}..."));
    Ok(())
}
