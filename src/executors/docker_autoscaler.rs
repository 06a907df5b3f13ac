//! The docker-autoscaler executor: a job's containers on an instance that the taskscaler chose.
//!
//! It connects the instance's engine with [`super::docker`] and keeps what is known of each instance
//! between jobs. A preparation runs as a task: when its caller goes away, as a cancelled job does, what
//! the engine was asked for in that moment is still answered and taken away.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::docker::auth::Keyring;
use super::docker::client::Engine;
use super::docker::environment::{Delivery, DockerEnvironment, Ingredients, Known, default_helper_image};
use super::docker::former;
use super::docker::names::Owner;
use super::docker::volumes;
use super::helper_binary::Helpers;
use super::kept::Kept;
use super::{FormerJob, JobTrace, PrepareContext};
use crate::config::resolved::{Docker, FleetRunner};
use crate::config::types::boolean;
use crate::error_chain::Chain;
use crate::fleeting::access::{DockerEndpoint, InstanceAccess, Transport};
use crate::job::dirs::Roots;
use crate::job::failure::Fault;
use crate::job::payload::Job;
use crate::job::resolved::ResolvedJob;
use crate::job::variables::Variable;

const BUILDS_DIR: &str = "/builds";
const CACHE_DIR: &str = "/cache";

/// The flag that chooses the way to the engine; our default is to find it out.
const DIAL_STDIO: &str = "FF_USE_DOCKER_AUTOSCALER_DIAL_STDIO";

/// Makes environments on the engines of one runner's instances.
#[derive(Debug)]
pub struct DockerAutoscaler {
    runner: Arc<FleetRunner>,
    config: Arc<Docker>,
    helpers: Arc<Helpers>,
    keyring: Arc<Keyring>,
    known: Kept<Known>,
    tasks: TaskTracker,
}

impl DockerAutoscaler {
    pub fn new(runner: Arc<FleetRunner>, helpers: Arc<Helpers>) -> Self {
        let config = Arc::new(runner.docker.clone());
        let keyring = Arc::new(Keyring::of(&runner, &helpers.environment));
        Self { runner, config, helpers, keyring, known: Kept::default(), tasks: TaskTracker::new() }
    }

    pub fn configured_roots(&self) -> Roots {
        let builds_dir = self.runner.builds_dir.clone().unwrap_or_else(|| BUILDS_DIR.to_owned());
        Roots {
            shared: volumes::is_host_mounted(&self.config, &builds_dir),
            builds_dir,
            cache_dir: self.runner.cache_dir.clone().unwrap_or_else(|| CACHE_DIR.to_owned()),
            custom_build_dir: self.runner.custom_build_dir_enabled.unwrap_or(true),
        }
    }

    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Connects to the instance's engine and makes the job's containers.
    pub async fn prepare<T: JobTrace>(&self, context: PrepareContext<T>) -> Result<DockerEnvironment<T>, Fault> {
        let PrepareContext { job, mut facts, access, key, trace, instance_is_disposable } = context;
        super::say_dialing(access.as_ref(), &self.runner, &trace).await?;
        facts.roots = self.configured_roots();
        facts.shared_environment = false;
        let job = Arc::new(ResolvedJob::resolve(job, &facts)?);
        let engine = self.engine(&access, self.transport(&job.job))?;
        engine.connect().await.map_err(|error| Fault::unclassified(Chain(&error).to_string()))?;
        trace.plain(&format!("Instance {} connected", access.id()));
        let known = self.known.of(&access);
        let architecture = match &known.about.get_or_try_init(|| engine.about()).await?.architecture {
            Some(architecture) => architecture.clone(),
            None => access.about().await.map_err(|error| Fault::unclassified(Chain(&error).to_string()))?.architecture,
        };
        let helper = self.helpers.for_architecture(&architecture).await;
        let helper = helper.map_err(|error| Fault::configuration(Chain(&error).to_string()))?.clone();
        let cancel = CancellationToken::new();
        let abandoned = cancel.clone().drop_guard();
        let ingredients = Ingredients {
            instance: access.id().clone(),
            engine,
            config: Arc::clone(&self.config),
            job,
            owner: Owner {
                short_token: self.runner.short_token().to_owned(),
                system_id: facts.system_id.clone(),
                concurrent_id: facts.concurrent_id,
                concurrent_project_id: facts.concurrent_project_id,
            },
            helper,
            default_helper_image: default_helper_image(&self.config, &architecture, &facts.version),
            delivery: self.delivery(&known),
            last_users: Arc::clone(&known.last_users),
            keyring: Arc::clone(&self.keyring),
            tasks: self.tasks.clone(),
            key,
            instance_is_disposable,
            output_limit: self.runner.output_limit,
            reconnect_budget: super::reconnect_budget(&self.runner),
            cancel,
        };
        let (answer, made) = oneshot::channel();
        self.tasks.spawn(async move {
            // Where nobody waits for it any more, dropping the environment takes away what it made.
            drop(answer.send(DockerEnvironment::make(ingredients, trace).await));
        });
        let made = made.await.map_err(|_| Fault::unclassified("the preparation broke off"))?;
        abandoned.disarm();
        made
    }

    /// Removes what a job of an earlier manager has on the instance's engine.
    pub async fn end_former(&self, access: Arc<dyn InstanceAccess>, job: &FormerJob) -> Result<(), Fault> {
        let engine = self.engine(&access, Transport::from_flag(self.runner.feature_flag(DIAL_STDIO)))?;
        former::end(&engine, job, self.runner.short_token(), &self.tasks, self.config.volume_keep).await
    }

    fn transport(&self, job: &Job) -> Transport {
        let configured = self.runner.feature_flags.get(DIAL_STDIO).copied();
        let flag = configured.or_else(|| flag_of(&job.variables)).or_else(|| self.runner.feature_flag(DIAL_STDIO));
        Transport::from_flag(flag)
    }

    fn engine(&self, access: &Arc<dyn InstanceAccess>, transport: Transport) -> Result<Engine, Fault> {
        let endpoint = DockerEndpoint { host: self.config.host.clone(), transport };
        Engine::new(Arc::clone(access), endpoint).map_err(|error| Fault::unclassified(Chain(&error).to_string()))
    }

    fn delivery(&self, known: &Known) -> Delivery {
        if self.runner.fleet.max_use_count == 1 {
            return Delivery::Container;
        }
        Delivery::Volume(Arc::clone(&known.volume))
    }
}

/// The job's own choice of the way to the engine; the last one counts.
fn flag_of(variables: &[Variable]) -> Option<bool> {
    let set = variables.iter().rev().find(|variable| variable.key == DIAL_STDIO)?;
    boolean::parse(&set.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_may_choose_the_way_to_the_engine() {
        let set = |value| Variable::new(DIAL_STDIO, value);
        assert_eq!(flag_of(&[set("false"), set("true"), Variable::new("OTHER", "false")]), Some(true));
        assert_eq!(flag_of(&[set("maybe")]), None);
        assert_eq!(flag_of(&[]), None);
    }
}
