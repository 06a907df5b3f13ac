//! A job's containers, and its stages in them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bollard::models::{ContainerCreateBody, NetworkCreateRequest};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio::sync::{Mutex, OnceCell, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::about::About;
use super::agents::ContainerAgents;
use super::auth::Keyring;
use super::client::Engine;
use super::container::{self, Blueprint};
use super::helper_volume::{self, Folder, JOBS_FOLDER};
use super::image;
use super::leftovers::Leftovers;
use super::names::{self, JobNames, Kind, Owner};
use super::ownership::{self, LastUsers, Owning, Place as JobPlace};
use super::pull::{self, Image};
use super::salvage::{self, Stopped};
use super::volumes::Plan;
use super::{engine_id, errors};
use crate::config::resolved::Docker;
use crate::detached::records::{OutputStream, Position};
use crate::detached::wire::{Hello, Start};
use crate::detached::{Exit, Place, StageFolder, StageHandle};
use crate::executors::follow::{AgentLink, Task};
use crate::executors::helper_binary::HelperBinary;
use crate::executors::{CleanUp, JobTrace, ScriptFacts, StageRun};
use crate::ids::InstanceId;
use crate::job::failure::{Fault, FaultClass};
use crate::job::resolved::ResolvedJob;
use crate::job::settings::GitStrategy;
use crate::job::stage::{self, Stage};

/// Where the helper images of GitLab Runner are.
const HELPER_REPOSITORY: &str = "registry.gitlab.com/gitlab-org/gitlab-runner/gitlab-runner-helper";

/// The command with the artifact and cache subcommands in helper images.
const HELPER_IMAGE_COMMAND: &str = "/usr/bin/gitlab-runner-helper";

/// The runner's own stages leave files that any user of the job's image may change, as in the reference.
const PREDEFINED_UMASK: u32 = 0;

/// Folders that users other than root must be able to write to.
const OPEN_FOLDER: u32 = 0o777;

/// As `/tmp`: everyone may add, nobody may take another's away.
const SHARED_FOLDER: u32 = 0o1777;

/// How our program gets into containers.
#[derive(Clone, Debug)]
pub(crate) enum Delivery {
    /// Through a volume of the instance, filled once.
    Volume(Arc<Mutex<IsFilled>>),
    /// Into each container: the instance serves one job only.
    Container,
}

/// What is known of an instance's engine between jobs.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What it said of itself when it was first asked.
    pub(crate) about: OnceCell<About>,
    /// Of the volume with our program.
    pub(crate) volume: Arc<Mutex<IsFilled>>,
    /// Of volumes and folders that jobs leave files on.
    pub(crate) last_users: Arc<LastUsers>,
}

/// Whether the volume of an instance holds our program, as far as we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IsFilled(bool);

/// What making an environment needs.
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) instance: InstanceId,
    pub(crate) engine: Engine,
    pub(crate) config: Arc<Docker>,
    pub(crate) job: Arc<ResolvedJob>,
    pub(crate) owner: Owner,
    pub(crate) helper: HelperBinary,
    /// The helper image for this engine's machines where none is configured.
    pub(crate) default_helper_image: String,
    pub(crate) delivery: Delivery,
    pub(crate) last_users: Arc<LastUsers>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) tasks: TaskTracker,
    pub(crate) key: String,
    pub(crate) instance_is_disposable: bool,
    /// How much output a job may have, in bytes.
    pub(crate) output_limit: u64,
    pub(crate) reconnect_budget: std::time::Duration,
    pub(crate) cancel: CancellationToken,
}

/// A job's place on an engine.
pub struct DockerEnvironment<T: JobTrace> {
    ingredients: Ingredients,
    names: JobNames,
    volumes: Plan,
    /// Where the job's folders lie on them.
    places: Vec<JobPlace>,
    /// Volumes that this job is the first on.
    new_volumes: BTreeSet<String>,
    /// Places that were given to the job's user in this job.
    owned: Vec<JobPlace>,
    network: Option<String>,
    privileged: bool,
    user: String,
    build: Option<Container>,
    build_image: Image,
    predefined: Option<Container>,
    predefined_image: Option<Image>,
    /// The lines that name the job's image stand once more where the job's own commands begin.
    image_is_introduced: bool,
    leftovers: Leftovers,
    stage: watch::Sender<Option<StageHandle>>,
    trace: T,
}

/// A running container with an agent.
#[derive(Debug)]
struct Container {
    link: AgentLink<ContainerAgents>,
    hello: Hello,
}

impl<T: JobTrace> fmt::Debug for DockerEnvironment<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerEnvironment").field("names", &self.names).finish_non_exhaustive()
    }
}

impl<T: JobTrace> DockerEnvironment<T> {
    /// Gets the images, makes the containers and starts them. What was made is taken away on an error.
    pub(crate) async fn make(ingredients: Ingredients, trace: T) -> Result<Self, Fault> {
        let (config, job) = (Arc::clone(&ingredients.config), Arc::clone(&ingredients.job));
        let mut refused = Vec::new();
        let wanted = image::build_image(&config, &job, &mut refused);
        refused.iter().for_each(|line| trace.plain(line));
        let wanted = wanted?;
        trace.plain(&format!("Using Docker executor with image {} ...", wanted.name));
        warn_of_services(&job, &config, &trace);
        let names = JobNames::new(&job.names.unique);
        let volumes = Plan::of(&config, &job, &names)?;
        let user = container::user(&config, &job)?;
        let mut leftovers = Leftovers::new(ingredients.engine.clone(), ingredients.tasks.clone(), config.volume_keep);
        volumes.temporary().for_each(|made| leftovers.note_volume(&made.name));
        let keyring = Arc::clone(&ingredients.keyring);
        let cancel = &ingredients.cancel;
        let predefined_image = match &config.helper_image {
            Some(helper) => {
                let name = job.variables.expand(helper);
                trace.plain(&format!(
                    "Using helper image:  {name}  (overridden, default would be  {} )",
                    ingredients.default_helper_image
                ));
                let wanted = image::configured_image(&config, &name)?;
                Some(unless(cancel, pull::obtain(&ingredients.engine, &wanted, &job, &keyring, &trace)).await?)
            }
            None => None,
        };
        let build_image = unless(cancel, pull::obtain(&ingredients.engine, &wanted, &job, &keyring, &trace)).await?;
        let mut environment = Self {
            names,
            places: ownership::places(&volumes, &job.dirs),
            new_volumes: BTreeSet::new(),
            owned: Vec::new(),
            volumes,
            network: None,
            privileged: image::is_privileged(&config, &job),
            user,
            build: None,
            build_image,
            predefined: None,
            predefined_image,
            image_is_introduced: false,
            leftovers,
            stage: watch::channel(None).0,
            trace,
            ingredients,
        };
        match Box::pin(environment.assemble()).await {
            Ok(()) => Ok(environment),
            Err(fault) => {
                environment.note_missing_program(&fault).await;
                // The fault has the instance given up, and with it what resists.
                let _left = environment.cleanup().await;
                Err(fault)
            }
        }
    }

    /// Network, helper, containers and the job's folders.
    async fn assemble(&mut self) -> Result<(), Fault> {
        self.make_network().await?;
        self.fill_volume().await?;
        if !container::is_root(self.build_user()) {
            let Ingredients { engine, last_users, .. } = &self.ingredients;
            self.new_volumes = ownership::new_volumes(engine, &self.places, last_users).await;
        }
        Box::pin(self.start_all()).await?;
        self.own_folders().await;
        Ok(())
    }

    /// The user that the job's container starts as; empty for root.
    fn build_user(&self) -> &str {
        if self.user.is_empty() { &self.build_image.user } else { &self.user }
    }

    async fn start_all(&mut self) -> Result<(), Fault> {
        if let Some(image) = self.predefined_image.clone() {
            let (build, predefined) =
                (self.blueprinted(Kind::Build, &self.build_image.clone()), self.blueprinted(Kind::Predefined, &image));
            let (build, predefined) =
                tokio::try_join!(self.start(Kind::Build, build), self.start(Kind::Predefined, predefined))?;
            (self.build, self.predefined) = (Some(build), Some(predefined));
            return Ok(());
        }
        let build = self.blueprinted(Kind::Build, &self.build_image.clone());
        let build = self.start(Kind::Build, build).await?;
        let lacks_git = self.wants_sources() && !build.hello.git;
        self.build = Some(build);
        if lacks_git { self.add_git().await } else { Ok(()) }
    }

    /// Folders that other users may have left files in become the job's user's. What fails here, as on storage that
    /// knows no owners, is said; the job's stages find out what they may write to.
    async fn own_folders(&mut self) {
        let Some(user) = self.stages_user() else { return };
        let build_uid = self.build.as_ref().map(|build| build.hello.uid);
        let last_users = Arc::clone(&self.ingredients.last_users);
        // Root needs no ownership.
        let foreign = match user.uid {
            0 => Vec::new(),
            uid => ownership::foreign(&self.places, uid, &self.new_volumes, &last_users),
        };
        let cancel = self.ingredients.cancel.clone();
        let is_ready = foreign.is_empty() || self.own(foreign, user, &cancel).await.is_some();
        last_users.note(&self.places, Some(user.uid).filter(|uid| is_ready && build_uid == Some(*uid)));
    }

    /// Gives places to a user. Whether something had another owner; `None` where it failed.
    async fn own(&mut self, places: Vec<JobPlace>, user: User, cancel: &CancellationToken) -> Option<bool> {
        let Ingredients { engine, config, helper, delivery, job, owner, .. } = &self.ingredients;
        let name = self.names.owning_container();
        self.leftovers.note_container(&name);
        let owning = Owning {
            engine,
            config,
            helper,
            has_helper_volume: matches!(delivery, Delivery::Volume(_)),
            name: &name,
            labels: names::labels(job, owner, [("type", "own".to_owned())]),
            uid: user.uid,
            gid: user.gid,
            cancel,
        };
        match Box::pin(owning.run(&places)).await {
            Ok(changed) => {
                self.owned.extend(places);
                Some(changed)
            }
            Err(fault) => {
                let text = format!("failed to give the job's folders to user {}: {}", user.uid, fault.message);
                self.trace.warning(&text);
                None
            }
        }
    }

    /// Who the runner's own stages run as.
    fn stages_user(&self) -> Option<User> {
        let hello = &self.predefined.as_ref().or(self.build.as_ref())?.hello;
        Some(User { uid: hello.uid, gid: hello.gid })
    }

    async fn fill_volume(&self) -> Result<(), Fault> {
        let Delivery::Volume(filled) = &self.ingredients.delivery else { return Ok(()) };
        let Ingredients { engine, helper, job, owner, .. } = &self.ingredients;
        // The first job of an instance fills it; those that come meanwhile wait here.
        let mut filled = filled.lock().await;
        if *filled == IsFilled(false) {
            let labels = names::labels(job, owner, [("type", "helper-volume".to_owned())]);
            helper_volume::fill(engine, helper, labels).await?;
            *filled = IsFilled(true);
        }
        Ok(())
    }

    /// A container did not find our program: someone has pruned the volume, and the next try fills it again.
    async fn note_missing_program(&self, fault: &Fault) {
        if let Delivery::Volume(filled) = &self.ingredients.delivery
            && fault.message.contains(helper_volume::AGENT_PATH)
        {
            *filled.lock().await = IsFilled(false);
        }
    }

    fn wants_sources(&self) -> bool {
        match self.ingredients.job.settings.git_strategy {
            GitStrategy::Clone | GitStrategy::Fetch => true,
            GitStrategy::None | GitStrategy::Empty => false,
        }
    }

    /// The job's image has no git: the runner's own stages get a container that has.
    async fn add_git(&mut self) -> Result<(), Fault> {
        let Ingredients { engine, config, job, keyring, cancel, default_helper_image, .. } = &self.ingredients;
        self.trace.plain(&format!("Using helper image:  {default_helper_image}"));
        let wanted = image::default_helper(config, default_helper_image)?;
        let obtained = unless(cancel, pull::obtain(engine, &wanted, job, keyring, &self.trace)).await;
        let image = obtained.map_err(|fault| {
            Fault::configuration(format!(
                "the job's image has no git, which its sources need, and the helper image cannot be had: {}. \
                 Use an image with git, set helper_image, or set GIT_STRATEGY to none",
                fault.message
            ))
        })?;
        let body = self.blueprinted(Kind::Predefined, &image);
        self.predefined = Some(self.start(Kind::Predefined, body).await?);
        self.predefined_image = Some(image);
        Ok(())
    }

    async fn make_network(&mut self) -> Result<(), Fault> {
        let Ingredients { engine, config, job, owner, .. } = &self.ingredients;
        if config.network_mode.is_some() || !job.flags.is_on("FF_NETWORK_PER_BUILD") {
            return Ok(());
        }
        let name = job.names.short.clone();
        let mtu = (config.network_mtu != 0)
            .then(|| ("com.docker.network.driver.mtu".to_owned(), config.network_mtu.to_string()));
        let request = NetworkCreateRequest {
            name: name.clone(),
            labels: Some(names::labels(job, owner, [])),
            enable_ipv6: config.enable_ipv6.then_some(true),
            options: mtu.map(|option| [option].into()),
            ..NetworkCreateRequest::default()
        };
        self.leftovers.note_network(&name);
        engine.api.create_network(request).await.map_err(|error| errors::fault(&error))?;
        self.network = Some(name);
        Ok(())
    }

    /// The request for a container, noted for removal before it is sent.
    fn blueprinted(&mut self, kind: Kind, image: &Image) -> Request {
        let Ingredients { config, job, owner, helper, delivery, .. } = &self.ingredients;
        let name = self.names.container(kind);
        let configured_user = if kind == Kind::Build { self.user.as_str() } else { "" };
        let user = if configured_user.is_empty() { &image.user } else { configured_user };
        let blueprint = Blueprint {
            config,
            job,
            owner,
            kind,
            name: &name,
            image: &image.reference,
            privileged: self.privileged,
            volumes: &self.volumes,
            helper_volume: matches!(delivery, Delivery::Volume(_)).then_some(helper.name.as_str()),
            network: self.network.as_deref(),
        };
        let body = blueprint.body(configured_user);
        let folders = if container::is_root(user) { Vec::new() } else { self.open_folders() };
        self.leftovers.note_container(&name);
        Request { name, body, folders }
    }

    /// What users other than root must be able to write to.
    fn open_folders(&self) -> Vec<Folder> {
        let open = |path: &str, mode| Folder { path: path.to_owned(), mode };
        let made = self.volumes.made.iter().map(|made| open(&made.destination, OPEN_FOLDER));
        let unmounted = ownership::folders_of_the_container(&self.volumes, &self.ingredients.job.dirs);
        let unmounted = unmounted.into_iter().map(|folder| open(folder, OPEN_FOLDER));
        made.chain(unmounted).chain([open(JOBS_FOLDER, SHARED_FOLDER)]).collect()
    }

    async fn start(&self, kind: Kind, request: Request) -> Result<Container, Fault> {
        let Ingredients { engine, helper, delivery, cancel, reconnect_budget, .. } = &self.ingredients;
        let options = CreateContainerOptionsBuilder::default().name(&request.name).build();
        let created = engine.api.create_container(Some(options), request.body).await;
        let created = engine_id::checked(created.map_err(|error| errors::create_fault(&error))?.id)?;
        let program = match delivery {
            Delivery::Volume(_) => None,
            Delivery::Container => Some(helper.read().await.map_err(|error| Fault::configuration(error.to_string()))?),
        };
        if program.is_some() || !request.folders.is_empty() {
            helper_volume::put(engine, &created, &request.folders, program.as_deref()).await?;
        }
        let agents = ContainerAgents { engine: engine.clone(), container: created };
        let trace = &self.trace;
        let mut noise = |bytes: &[u8]| {
            if kind == Kind::Build {
                trace.output(OutputStream::Stdout, bytes);
            }
        };
        // Not to be cancelled: an engine that still starts a container may refuse to remove it.
        let stream = agents.start().await?;
        let session = unless(cancel, agents.first(stream, &mut noise)).await?;
        let hello = session.hello().clone();
        if hello.uid != 0 && request.folders.is_empty() {
            // The image starts as root, and its entrypoint goes on as someone else.
            helper_volume::put(engine, &agents.container, &self.open_folders(), None).await?;
        }
        Ok(Container { link: AgentLink::new(agents, Some(session), *reconnect_budget), hello })
    }

    pub fn job(&self) -> &ResolvedJob {
        &self.ingredients.job
    }

    pub fn script_facts(&self, stage: &Stage) -> ScriptFacts {
        let (container, is_helper_image) = match (stage.environment(), &self.predefined) {
            (stage::Environment::Predefined | stage::Environment::Manager, Some(predefined)) => {
                (Some(predefined), true)
            }
            (stage::Environment::Predefined | stage::Environment::Manager, None) | (stage::Environment::Build, _) => {
                (self.build.as_ref(), false)
            }
        };
        let shell = container.and_then(|container| container.hello.shell.clone());
        let helper = if is_helper_image { HELPER_IMAGE_COMMAND } else { helper_volume::AGENT_PATH };
        ScriptFacts {
            shell: shell.unwrap_or_else(|| "sh".to_owned()),
            helper: helper.to_owned(),
            executor: "docker-autoscaler",
        }
    }

    pub fn watch_stage(&self) -> watch::Receiver<Option<StageHandle>> {
        self.stage.subscribe()
    }

    pub async fn run_stage(&mut self, run: StageRun<'_>) -> Result<Exit, Fault> {
        let (stage, id, cancel) = (run.stage, run.stage.id(), run.cancel);
        let (attempt, script) = (run.attempt, run.script);
        let exit = self.run_once(StageRun { stage, attempt, script, cancel }, &id).await?;
        if *stage == Stage::GetSources && exit != Exit::Code(0) && self.own_again(cancel).await {
            self.trace.warning("files of other users were in the job's folders: getting the sources again");
            return self.run_once(StageRun { stage, attempt, script, cancel }, &format!("{id}-again")).await;
        }
        Ok(exit)
    }

    /// The sources could not be had: perhaps the last job of the same user has become root and left files of root's,
    /// as images with sudo allow. Whether that was so.
    async fn own_again(&mut self, cancel: &CancellationToken) -> bool {
        let Some(user) = self.stages_user().filter(|user| user.uid != 0) else { return false };
        let rest: Vec<JobPlace> =
            self.places.iter().filter(|place| place.stays() && !self.owned.contains(place)).cloned().collect();
        !rest.is_empty() && !cancel.is_cancelled() && self.own(rest, user, cancel).await == Some(true)
    }

    /// Runs a stage in a folder of this name.
    async fn run_once(&mut self, run: StageRun<'_>, name: &str) -> Result<Exit, Fault> {
        let is_build = run.stage.environment() == stage::Environment::Build;
        if is_build && !self.image_is_introduced {
            self.image_is_introduced = true;
            self.build_image.lines.iter().for_each(|line| self.trace.plain(line));
        }
        self.replace_lost_containers().await?;
        let has_predefined = self.predefined.is_some();
        let slot = if is_build || !has_predefined { &mut self.build } else { &mut self.predefined };
        let Some(container) = slot else { return Err(Fault::environment_gone("the job's container is gone")) };
        let umask = !is_build && !self.ingredients.job.flags.is_on("FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR");
        let folder = StageFolder::new(&self.ingredients.key, name, run.attempt);
        let link = &mut container.link;
        let container_id = link.dialer().container.clone();
        let start = Start {
            id: 0,
            folder: folder.clone(),
            shell: Vec::new(),
            script: run.script.to_owned(),
            directory: None,
            umask: umask.then_some(PREDEFINED_UMASK),
            environment: Vec::new(),
        };
        let stage = &self.stage;
        stage.send_replace(Some(StageHandle {
            instance: self.ingredients.instance.clone(),
            place: Place::Container { id: container_id },
            folder: folder.clone(),
            position: Position::default(),
        }));
        let mut delivered = Position::default();
        let mut progress = |position| {
            delivered = position;
            stage.send_modify(|handle| {
                if let Some(handle) = handle {
                    handle.position = position;
                }
            });
        };
        let result = link.run(Task::Start(start), &self.trace, run.cancel, &mut progress).await;
        let result = match result {
            Err(fault) if fault.class == FaultClass::EnvironmentGone => {
                let agents = link.dialer().clone();
                *slot = None;
                let output_limit = self.ingredients.output_limit;
                let stopped = Stopped { agents: &agents, folder: &folder, delivered, output_limit };
                let salvaged = salvage::salvage(&stopped, &self.trace, run.cancel).await;
                salvaged.ok().flatten().ok_or(fault)
            }
            result => result,
        };
        self.stage.send_replace(None);
        result
    }

    /// A container that has vanished is made again for the next attempt, from the same image.
    async fn replace_lost_containers(&mut self) -> Result<(), Fault> {
        let is_lost = self.build.is_none() || (self.predefined.is_none() && self.predefined_image.is_some());
        if self.build.is_none() {
            self.names = JobNames::new(&self.ingredients.job.names.unique);
            let body = self.blueprinted(Kind::Build, &self.build_image.clone());
            self.build = Some(self.start(Kind::Build, body).await?);
        }
        if let (None, Some(image)) = (&self.predefined, self.predefined_image.clone()) {
            let body = self.blueprinted(Kind::Predefined, &image);
            self.predefined = Some(self.start(Kind::Predefined, body).await?);
        }
        if is_lost {
            self.own_folders().await;
        }
        Ok(())
    }

    /// Removes containers, temporary volumes and the network; nothing where the instance goes anyway.
    pub async fn cleanup(mut self) -> CleanUp {
        if self.ingredients.instance_is_disposable {
            self.leftovers.forget();
        }
        self.leftovers.remove().await
    }
}

/// The helper image of the reference for the version that we are compatible with.
pub(crate) fn default_helper_image(config: &Docker, architecture: &str, version: &str) -> String {
    let flavor = config.helper_image_flavor.as_deref().filter(|flavor| !matches!(*flavor, "" | "alpine"));
    let flavor = flavor.map(|flavor| format!("{flavor}-")).unwrap_or_default();
    let architecture = match architecture {
        "amd64" | "x86_64" => "x86_64",
        "aarch64" | "arm64" => "arm64",
        "armv6l" | "armv7l" => "arm",
        other => other,
    };
    format!("{HELPER_REPOSITORY}:{flavor}{architecture}-v{version}")
}

/// Numbers of the user that stages run as.
#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

/// A container to ask for.
struct Request {
    name: String,
    body: ContainerCreateBody,
    folders: Vec<Folder>,
}

/// The work, unless the preparation is cancelled first. For waits that make nothing on the engine.
async fn unless<V>(cancel: &CancellationToken, work: impl Future<Output = Result<V, Fault>>) -> Result<V, Fault> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Fault::unclassified("the preparation was cancelled")),
        result = work => result,
    }
}

fn warn_of_services(job: &ResolvedJob, config: &Docker, trace: &impl JobTrace) {
    let services = job.job.services.len() + config.services.len();
    if services > 0 {
        trace.warning(&format!("{services} services are not started: this version has none yet"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helper_image_is_the_references_own_for_the_machine() {
        let flavored =
            |flavor: Option<&str>| Docker { helper_image_flavor: flavor.map(str::to_owned), ..Docker::default() };
        for (flavor, architecture, tag) in [
            (None, "amd64", "x86_64-v19.4.0"),
            (Some("alpine"), "arm64", "arm64-v19.4.0"),
            (Some("ubuntu"), "x86_64", "ubuntu-x86_64-v19.4.0"),
        ] {
            let image = default_helper_image(&flavored(flavor), architecture, "19.4.0");
            assert_eq!(image, format!("{HELPER_REPOSITORY}:{tag}"));
        }
    }
}
