//! A GitLab of our own: the runner API with a queue of jobs, in this process on a loopback address.
//!
//! `flotilla demo` and the tests run real jobs against it, so it behaves as GitLab does where a runner can
//! tell: held requests and `last_update`, two-phase commit, the states of a job, positions of the trace,
//! checksums, cancelling, artifacts. Beyond that it remembers what it was asked ([`Sandbox::requests`]),
//! notes what a runner must not do ([`JobReport::violations`]) and fails on command ([`Faults`]).
//!
//! [`world`] decides, without I/O and with `now` as an argument; [`server`] speaks HTTP; [`line`] is the
//! listening end, which can refuse and cut connections.
//!
//! What it must not do: use anything of the manager, or check a runner against its own idea of a job beyond
//! what GitLab would check.

mod artifacts;
mod faults;
mod job;
mod line;
mod record;
mod route;
pub mod samples;
mod server;
mod world;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use artifacts::StoredArtifact;
pub use faults::{Fault, FaultKind, Faults, On};
pub use job::SandboxJob;
pub use record::{Recorded, RequestLog};
pub use world::{JobReport, JobStatus, JobUpdateSeen, Moment, Peaks, TraceCheck};

use crate::ids::JobId;
use crate::time::{self, Now};
use artifacts::Storage;
use world::World;

/// The token of the runner that is there from the start.
pub const RUNNER_TOKEN: &str = "glrt-sandbox0000000000";
/// With which `POST runners` makes further runners.
pub const REGISTRATION_TOKEN: &str = "sandbox-registration";

/// How this GitLab behaves as a whole.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a request with the latest `last_update` is held.
    pub hold: Duration,
    /// Whether `two_phase_job_commit` is understood; without it a job runs from its handing out.
    pub two_phase: bool,
    /// How long a job that was handed out waits for a sign of life before it is queued again.
    pub offer_ttl: Duration,
    /// What `X-GitLab-Trace-Update-Interval` says, in seconds: 3 while somebody watches, else 60.
    pub trace_update_interval: u64,
    /// Whether downloads are sent on to another origin, as with object storage.
    pub direct_download: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(50),
            two_phase: true,
            offer_ttl: Duration::from_secs(120),
            trace_update_interval: 3,
            direct_download: false,
        }
    }
}

/// Could not begin to listen.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listening on {addr}")]
    Listen {
        addr: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("making a folder for artifacts")]
    Storage {
        #[source]
        source: std::io::Error,
    },
}

/// A running server. Dropping it ends the server and its connections; jobs and records go with it.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    addr: SocketAddr,
    stop: CancellationToken,
    // Owns the server's task, which ends with it.
    _server: JoinSet<()>,
}

/// What the server and the handle have in common.
#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    log: Mutex<RequestLog>,
    faults: Faults,
    storage: Storage,
    started: Now,
    /// Counts what was done to the world; who waits for a job looks again.
    changes: watch::Sender<u64>,
    /// The queue's version, for held requests: they are many, and changes of the queue few.
    queue: watch::Sender<u64>,
}

impl Shared {
    /// Looks at the world, or changes it: whoever waits is woken.
    fn world<T>(&self, act: impl FnOnce(&mut World, Now) -> T) -> T {
        let mut world = lock(&self.world);
        let answer = act(&mut world, time::now());
        let version = world.queue_version();
        // Under the lock, so that no older version is told after a newer one.
        self.queue.send_if_modified(|known| std::mem::replace(known, version) != version);
        drop(world);
        self.changes.send_modify(|count| *count += 1);
        answer
    }

    fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&lock(&self.world))
    }

    fn log(&self) -> MutexGuard<'_, RequestLog> {
        lock(&self.log)
    }
}

impl Sandbox {
    /// Listens on `addr` (port 0 for any free one), as GitLab does by default.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(addr: SocketAddr) -> Result<Self, StartError> {
        Self::start_with(addr, Options::default()).await
    }

    /// As [`Sandbox::start`], with a behaviour of choice.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start_with(addr: SocketAddr, options: Options) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let faults = Faults::new(stop.child_token());
        let listening = line::Listening::bind(addr, faults.clone()).await;
        let listening = listening.map_err(|source| StartError::Listen { addr, source })?;
        let addr = listening.addr();
        let started = time::now();
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(options, format!("http://{addr}"), started)),
            log: Mutex::default(),
            faults,
            storage: Storage::new().map_err(|source| StartError::Storage { source })?,
            started,
            changes: watch::Sender::new(0),
            queue: watch::Sender::new(0),
        });
        let mut server = JoinSet::new();
        server.spawn(server::run(listening, Arc::clone(&shared), stop.clone()));
        Ok(Self { shared, addr, stop, _server: server })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What goes into a runner's `url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds a runner with this token and returns its number. Jobs go to any runner unless they name one.
    pub fn add_runner(&self, token: &str) -> i64 {
        self.shared.world(|world, _| world.add_runner(token))
    }

    /// While paused, a runner is told that there is nothing to do.
    pub fn pause_runner(&self, token: &str, paused: bool) {
        self.shared.world(|world, _| world.pause_runner(token, paused));
    }

    /// Puts a job at the end of the queue.
    pub fn enqueue(&self, job: SandboxJob) -> JobHandle {
        let id = self.shared.world(|world, now| world.enqueue(job, now));
        self.job(id)
    }

    /// A job by its number; asking about one that does not exist finds nothing.
    pub fn job(&self, id: JobId) -> JobHandle {
        JobHandle { id, shared: Arc::clone(&self.shared) }
    }

    /// Cancels as a user does: gracefully where the runner said that it can, else at once.
    pub fn cancel(&self, id: JobId) {
        self.shared.world(|world, now| world.cancel(id, now));
    }

    /// The switches for what goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Changes the behaviour from now on.
    pub fn change_options(&self, change: impl FnOnce(&mut Options)) {
        self.shared.world(|world, _| change(world.options_mut()));
    }

    /// Every request so far, oldest first; of very many only the latest.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.log().all()
    }

    /// The most of everything that there was at once.
    pub fn peaks(&self) -> Peaks {
        self.shared.read(World::peaks)
    }

    /// All jobs in the order of their numbers, without their traces.
    pub fn reports(&self) -> Vec<JobReport> {
        self.shared.read(World::reports)
    }

    /// What each manager said of itself last, by system id.
    pub fn managers(&self) -> Vec<(String, crate::gitlab::wire::Info)> {
        self.shared.read(World::managers)
    }

    /// Waits until something may have changed; for views that show the jobs as they run.
    pub async fn changed(&self, seen: &mut u64) {
        let mut changes = self.shared.changes.subscribe();
        // The sender lives as long as this handle, so an error cannot happen.
        if let Ok(count) = changes.wait_for(|count| count != seen).await {
            *seen = *count;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One job of a sandbox.
#[derive(Clone, Debug)]
pub struct JobHandle {
    id: JobId,
    shared: Arc<Shared>,
}

/// A wait that ended without what it waited for.
#[derive(Debug, thiserror::Error)]
#[error("job {id} is {status:?} after {waited:?}")]
pub struct NotYet {
    pub id: JobId,
    /// Absent where there is no such job.
    pub status: Option<JobStatus>,
    pub waited: Duration,
}

impl JobHandle {
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The job as it is now, without its trace.
    pub fn report(&self) -> Option<JobReport> {
        self.shared.read(|world| world.report(self.id))
    }

    /// The trace so far.
    pub fn trace(&self) -> Vec<u8> {
        self.trace_from(0)
    }

    /// The trace from a position on.
    pub fn trace_from(&self, start: usize) -> Vec<u8> {
        self.shared.read(|world| world.trace(self.id).get(start..).unwrap_or_default().to_vec())
    }

    /// Files that were uploaded for this job.
    pub fn artifacts(&self) -> Vec<StoredArtifact> {
        self.shared.read(|world| world.artifacts(self.id))
    }

    /// Waits until GitLab calls the job ended.
    ///
    /// # Errors
    /// It has not ended within `limit`.
    pub async fn wait_final(&self, limit: Duration) -> Result<JobReport, NotYet> {
        self.wait_for(limit, |world| world.report_of_ended(self.id)).await
    }

    /// Waits until the job and its trace are as wanted.
    ///
    /// # Errors
    /// They are not within `limit`.
    pub async fn wait_until(
        &self,
        limit: Duration,
        is_so: impl Fn(&JobReport, &[u8]) -> bool,
    ) -> Result<JobReport, NotYet> {
        self.wait_for(limit, |world| world.report(self.id).filter(|report| is_so(report, world.trace(self.id)))).await
    }

    async fn wait_for(&self, limit: Duration, look: impl Fn(&World) -> Option<JobReport>) -> Result<JobReport, NotYet> {
        let mut changes = self.shared.changes.subscribe();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if let Some(report) = self.shared.read(&look) {
                    return report;
                }
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let not_yet = |_| NotYet { id: self.id, status: self.report().map(|report| report.status), waited: limit };
        tokio::time::timeout(limit, wait).await.map_err(not_yet)
    }

    pub fn cancel(&self) {
        self.shared.world(|world, now| world.cancel(self.id, now));
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
