//! The instance executor: stages run in a shell of the instance itself.
//!
//! The agent is one SSH session. Sessions are kept and used by one job after the other, so a job on a
//! known instance costs no new session, no probe and no upload: its stages are frames on a stream
//! that is there.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OnceCell, watch};
use tokio_util::task::TaskTracker;

use super::follow::{AgentDialer, AgentLink, OpenError, RemoveError, Task, of_the_job};
use super::helper_binary::{HelperBinary, HelperError, Helpers};
use super::kept::Kept;
use super::{CleanUp, FormerJob, JobTrace, PrepareContext, ScriptFacts, StageRun};
use crate::config::resolved::FleetRunner;
use crate::detached::session::{Session, SessionError};
use crate::detached::wire::{Hello, Start};
use crate::detached::{Exit, Place, StageFolder, StageHandle};
use crate::error_chain::Chain;
use crate::fleeting::access::{AccessError, InstanceAccess};
use crate::fleeting::registry;
use crate::job::dirs::Roots;
use crate::job::failure::Fault;
use crate::job::resolved::ResolvedJob;

/// Sessions kept open on one instance while no job uses them.
const IDLE_SESSIONS: usize = 32;

/// How long the removal of a job's folder may take, a new connection included where the old one was lost.
const REMOVE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// How often an instance is asked for it over streams that break.
const REMOVE_TRIES: u32 = 3;

/// Where helpers are kept on an instance.
const HELPER_FOLDER: &str = ".flotilla/bin";

/// How much is read of what an instance says of its architecture; a login shell may greet first.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// How long an instance has to say whether it is well.
const JUDGE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// What an instance that is well can do: write more than the last free block of a disk.
const PROBE: &str = "mkdir -p ~/.flotilla && f=~/.flotilla/probe.$$ && head -c 65536 /dev/zero > \"$f\"; s=$?; \
                     rm -f \"$f\"; [ $s = 0 ] && echo flotilla-is-well";
const PROBE_ANSWER: &str = "flotilla-is-well";

/// Makes environments on instances of one runner.
#[derive(Debug)]
pub struct InstanceExecutor {
    runner: Arc<FleetRunner>,
    helpers: Arc<Helpers>,
    known: Kept<Known>,
    tasks: TaskTracker,
}

/// What is kept of an instance between jobs.
#[derive(Debug, Default)]
struct Known {
    /// The helper that is there.
    installed: OnceCell<HelperBinary>,
    idle: Mutex<Vec<Session>>,
}

impl Known {
    fn take(&self) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_SESSIONS {
            idle.push(session);
        }
    }
}

impl InstanceExecutor {
    pub fn new(runner: Arc<FleetRunner>, helpers: Arc<Helpers>) -> Self {
        Self { runner, helpers, known: Kept::default(), tasks: TaskTracker::new() }
    }

    /// Relative directories are completed when the instance is known.
    pub fn configured_roots(&self) -> Roots {
        self.roots(Path::new("/"))
    }

    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Connects to the instance and makes its helper ready.
    pub async fn prepare<T: JobTrace>(&self, context: PrepareContext<T>) -> Result<InstanceEnvironment<T>, Fault> {
        let PrepareContext { job, mut facts, access, key, trace, instance_is_disposable } = context;
        trace.plain("Preparing instance...");
        super::say_dialing(access.as_ref(), &self.runner, &trace).await?;
        self.warn_of_build_dir(&trace);
        let known = self.known.of(&access);
        let idle = known.take();
        let agents = SshAgents(Arc::new(Agents {
            access: Arc::clone(&access),
            known: Arc::clone(&known),
            helpers: Arc::clone(&self.helpers),
            is_local: self.is_local(),
        }));
        let mut link = AgentLink::new(agents.clone(), idle, super::reconnect_budget(&self.runner));
        let session = link.session().await?;
        trace.plain(&format!("Instance {} connected", access.id()));
        let hello = session.hello().clone();
        link.give_back(session);
        facts.roots = self.roots(&hello.directory);
        facts.shared_environment = true;
        let job = ResolvedJob::resolve(job, &facts)?;
        let (stage, _) = watch::channel(None);
        let folder =
            JobFolder { agents, tasks: self.tasks.clone(), key: (!instance_is_disposable).then_some(key.clone()) };
        Ok(InstanceEnvironment { access, known, link, hello, job, key, trace, stage, folder, shell: self.shell() })
    }

    /// Ends what a job of an earlier manager runs on an instance, and deletes its folder.
    pub async fn end_former(&self, access: Arc<dyn InstanceAccess>, job: &FormerJob) -> Result<(), Fault> {
        let known = self.known.of(&access);
        let agents = Agents { access, known, helpers: Arc::clone(&self.helpers), is_local: self.is_local() };
        let mut link = AgentLink::new(SshAgents(Arc::new(agents)), None, REMOVE_LIMIT);
        let session = link.session().await?;
        link.give_back(session);
        match tokio::time::timeout(REMOVE_LIMIT, link.remove(&job.name)).await {
            Ok(removed) => removed.map_err(|error| Fault::unclassified(Chain(&error).to_string())),
            Err(_) => Err(Fault::unclassified("the instance does not answer")),
        }
    }

    /// Instances on this machine run this very program.
    fn is_local(&self) -> bool {
        registry::facts(&self.runner.fleet.plugin_config).runs_this_binary
    }

    fn roots(&self, login: &Path) -> Roots {
        let below_login = |configured: &Option<String>, default: &str| {
            login.join(configured.as_deref().unwrap_or(default)).to_string_lossy().into_owned()
        };
        Roots {
            builds_dir: below_login(&self.runner.builds_dir, "builds"),
            cache_dir: below_login(&self.runner.cache_dir, "cache"),
            shared: !(self.runner.instance.use_common_build_dir && self.has_instance_alone()),
            custom_build_dir: self.runner.custom_build_dir_enabled.unwrap_or(false),
        }
    }

    /// No other job ever sees what one leaves behind.
    fn has_instance_alone(&self) -> bool {
        let fleet = &self.runner.fleet;
        fleet.max_use_count == 1 || fleet.vm_isolation.is_some()
    }

    fn warn_of_build_dir(&self, trace: &impl JobTrace) {
        if self.runner.instance.use_common_build_dir && !self.has_instance_alone() {
            trace.warning("use_common_build_dir has no effect: requires vm isolation or max_use_count = 1");
        }
    }

    /// The shell as the configuration names it, for the instance's search path; bash by default.
    fn shell(&self) -> String {
        self.runner.shell.map_or("bash", crate::config::resolved::Shell::as_str).to_owned()
    }
}

/// Opens agents as SSH sessions of one instance, and puts the helper there first where it is missing.
#[derive(Clone)]
struct SshAgents(Arc<Agents>);

struct Agents {
    access: Arc<dyn InstanceAccess>,
    known: Arc<Known>,
    helpers: Arc<Helpers>,
    is_local: bool,
}

impl Agents {
    async fn open(&self) -> Result<Session, OpenError> {
        if self.is_local {
            let executable = shell_quoted(&self.helpers.own_executable.to_string_lossy());
            return self.start(&format!("exec {executable} agent")).await.map_err(OpenFailure::into_open_error);
        }
        let mut opened = None;
        let installed = self.known.installed.get_or_try_init(|| self.install(&mut opened)).await?;
        match opened {
            Some(session) => Ok(session),
            None => match self.start_installed(installed).await {
                // A job has removed or changed it.
                Err(OpenFailure::Session(SessionError::NoAgent(_))) => {
                    self.upload(installed).await?;
                    self.start_installed(installed).await.map_err(OpenFailure::into_open_error)
                }
                started => started.map_err(OpenFailure::into_open_error),
            },
        }
    }

    async fn upload(&self, helper: &HelperBinary) -> Result<(), OpenError> {
        let content = helper.read().await.map_err(no_helper)?;
        Ok(self.access.upload(HELPER_FOLDER, &helper.name, content).await?)
    }

    /// Puts the helper there, unless it is: then the session that showed it is `opened`.
    async fn install(&self, opened: &mut Option<Session>) -> Result<HelperBinary, OpenError> {
        let about = self.access.about().await?;
        // It may be there from an earlier manager: starting it is the cheapest way to ask.
        if let Ok(helper) = self.helpers.for_architecture(&about.architecture).await {
            match self.start_installed(helper).await {
                Ok(session) => {
                    *opened = Some(session);
                    return Ok(helper.clone());
                }
                Err(OpenFailure::Session(SessionError::NoAgent(_))) => {}
                Err(failure) => return Err(failure.into_open_error()),
            }
        }
        // What the provider says may be an assumption. The instance knows, where it knows the question.
        let machine = self.machine().await?;
        let architecture = machine.as_deref().unwrap_or(&about.architecture);
        let helper = self.helpers.for_architecture(architecture).await.map_err(no_helper)?;
        self.upload(helper).await?;
        Ok(helper.clone())
    }

    /// Whether the instance answers and its disk takes something.
    async fn can_write(&self) -> bool {
        let Ok(stream) = self.access.exec(PROBE).await else { return false };
        let mut said = Vec::new();
        let read = stream.take(ANSWER_LIMIT).read_to_end(&mut said).await;
        read.is_ok() && String::from_utf8_lossy(&said).lines().any(|line| line == PROBE_ANSWER)
    }

    /// The architecture as the instance's kernel calls it.
    async fn machine(&self) -> Result<Option<String>, OpenError> {
        let stream = self.access.exec("uname -m").await?;
        let mut said = Vec::new();
        let read = stream.take(ANSWER_LIMIT).read_to_end(&mut said).await;
        read.map_err(|error| OpenError::Retry(Fault::unclassified(format!("asking for the architecture: {error}"))))?;
        Ok(architecture_in(&String::from_utf8_lossy(&said)))
    }

    async fn start_installed(&self, helper: &HelperBinary) -> Result<Session, OpenFailure> {
        self.start(&start_line(helper)).await
    }

    async fn start(&self, command: &str) -> Result<Session, OpenFailure> {
        let stream = self.access.exec(command).await.map_err(OpenFailure::Access)?;
        Session::open(stream, &mut |_| ()).await.map_err(OpenFailure::Session)
    }
}

/// Starts the helper where it is what it should be: a job may have put another program there. An instance that has no
/// program for digests starts what there is.
fn start_line(helper: &HelperBinary) -> String {
    let (name, digest) = (&helper.name, hex::encode(helper.sha256));
    format!(
        "f=~/{HELPER_FOLDER}/{name}; if command -v sha256sum >/dev/null; then s=$(sha256sum \"$f\"); \
         elif command -v shasum >/dev/null; then s=$(shasum -a 256 \"$f\"); else s={digest}; fi; \
         case $s in {digest}*) exec \"$f\" agent;; esac"
    )
}

/// The answer to `uname -m`: one word on its last line, whatever the login shell says before it.
fn architecture_in(said: &str) -> Option<String> {
    let line = said.trim().lines().next_back()?.trim();
    let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (!line.is_empty() && is_word(line)).then(|| line.to_owned())
}

impl AgentDialer for SshAgents {
    fn open(&self) -> BoxFuture<'_, Result<Session, OpenError>> {
        Box::pin(self.0.open())
    }

    /// A job has the same account, and could answer this too: it costs it one instance at most, as no later attempt
    /// follows once its own commands have begun.
    fn judge(&self, fault: Fault) -> BoxFuture<'_, Fault> {
        Box::pin(async move {
            match tokio::time::timeout(JUDGE_LIMIT, self.0.can_write()).await {
                Ok(true) => of_the_job(fault),
                Ok(false) | Err(_) => fault,
            }
        })
    }
}

fn no_helper(error: HelperError) -> OpenError {
    OpenError::Final(Fault::configuration(Chain(&error).to_string()))
}

enum OpenFailure {
    Access(AccessError),
    Session(SessionError),
}

impl OpenFailure {
    fn into_open_error(self) -> OpenError {
        match self {
            Self::Access(error) => error.into(),
            Self::Session(error) => OpenError::Retry(Fault::unclassified(Chain(&error).to_string())),
        }
    }
}

/// A job's place on an instance.
pub struct InstanceEnvironment<T: JobTrace> {
    access: Arc<dyn InstanceAccess>,
    known: Arc<Known>,
    link: AgentLink<SshAgents>,
    hello: Hello,
    job: ResolvedJob,
    key: String,
    trace: T,
    stage: watch::Sender<Option<StageHandle>>,
    folder: JobFolder,
    shell: String,
}

impl<T: JobTrace> std::fmt::Debug for InstanceEnvironment<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstanceEnvironment")
            .field("access", &self.access)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl<T: JobTrace> InstanceEnvironment<T> {
    pub fn job(&self) -> &ResolvedJob {
        &self.job
    }

    pub fn script_facts(&self) -> ScriptFacts {
        ScriptFacts {
            shell: self.shell.clone(),
            helper: self.hello.executable.to_string_lossy().into_owned(),
            executor: "instance",
        }
    }

    pub fn watch_stage(&self) -> watch::Receiver<Option<StageHandle>> {
        self.stage.subscribe()
    }

    pub async fn run_stage(&mut self, run: StageRun<'_>) -> Result<Exit, Fault> {
        let folder = StageFolder::new(&self.key, &run.stage.id(), run.attempt);
        let start = Start {
            id: 0,
            folder: folder.clone(),
            shell: vec![self.shell.clone()],
            script: run.script.to_owned(),
            directory: None,
            umask: None,
            environment: Vec::new(),
        };
        let root = self.hello.root.to_string_lossy().into_owned();
        let stage = &self.stage;
        stage.send_replace(Some(StageHandle {
            instance: self.access.id().clone(),
            place: Place::Instance { root },
            folder,
            position: crate::detached::records::Position::default(),
        }));
        let mut progress = |position| {
            stage.send_modify(|handle| {
                if let Some(handle) = handle {
                    handle.position = position;
                }
            });
        };
        let result = self.link.run(Task::Start(start), &self.trace, run.cancel, &mut progress).await;
        stage.send_replace(None);
        result
    }

    /// Deletes the job's folder, with what still runs in it, and gives the session to the next job.
    pub async fn cleanup(mut self) -> CleanUp {
        if self.folder.key.is_some() {
            let removed = match tokio::time::timeout(REMOVE_LIMIT, self.remove_folder()).await {
                Ok(removed) => removed,
                Err(_) => Err(Fault::unclassified("no answer")),
            };
            if let Err(fault) = removed {
                let error = self.trace.masked(&fault.message);
                tracing::warn!(instance = %self.access.id(), error, "the job's folder was left on the instance, with what may still run in it");
                // Still armed, the folder has itself removed beside us, should the instance answer after all.
                return CleanUp::LeftBehind;
            }
            self.folder.key = None;
        }
        if let Some(session) = self.link.into_session() {
            self.known.keep(session);
        }
        CleanUp::Done
    }

    /// Over a new session where the last was lost.
    async fn remove_folder(&mut self) -> Result<(), Fault> {
        let mut tries = 0;
        loop {
            let session = self.link.session().await?;
            self.link.give_back(session);
            let Err(error) = self.link.remove(&self.key).await else { return Ok(()) };
            tries += 1;
            // The stream may have been dead for long: only asking shows it.
            let is_lost = matches!(error, RemoveError::NoSession | RemoveError::Session(_));
            if !is_lost || tries == REMOVE_TRIES {
                return Err(Fault::unclassified(Chain(&error).to_string()));
            }
            self.link.forget_session();
        }
    }
}

/// The job's folder on the instance, with what runs in it: an environment that is dropped without
/// clean-up, as an abandoned job's is, has it removed by a task of the executor.
struct JobFolder {
    agents: SshAgents,
    tasks: TaskTracker,
    /// `None` when there is nothing to remove any more.
    key: Option<String>,
}

impl Drop for JobFolder {
    fn drop(&mut self) {
        // Without a runtime there is no instance to talk to either.
        let (Some(key), Ok(_)) = (self.key.take(), tokio::runtime::Handle::try_current()) else { return };
        let mut link = AgentLink::new(self.agents.clone(), None, REMOVE_LIMIT);
        self.tasks.spawn(async move {
            if let Ok(session) = link.session().await {
                link.give_back(session);
                let removed = tokio::time::timeout(REMOVE_LIMIT, link.remove(&key)).await;
                tracing::debug!(key, ?removed, "an abandoned job's folder");
            } else {
                tracing::debug!(key, "an abandoned job's folder: no answer");
            }
        });
    }
}

/// `text` as one word of a POSIX shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architecture_is_the_last_word_and_nothing_else() {
        for (said, architecture) in [
            ("aarch64\n", Some("aarch64")),
            ("Welcome to a machine!\n\nx86_64\r\n", Some("x86_64")),
            ("sh: uname: not found", None),
            ("", None),
        ] {
            assert_eq!(architecture_in(said).as_deref(), architecture, "{said}");
        }
    }
}
