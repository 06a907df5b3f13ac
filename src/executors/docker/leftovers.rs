//! What a job has made on an engine and somebody must take away.
//!
//! It is noted here before the engine is asked to make it. Whoever holds the notes calls
//! [`Leftovers::remove`]; if they are dropped instead, in a cancelled preparation or an abandoned job,
//! the removal goes on as a task of the executor.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::query_parameters::{RemoveContainerOptions, RemoveContainerOptionsBuilder, RemoveVolumeOptionsBuilder};
use futures_util::future::join_all;
use tokio_util::task::TaskTracker;

use super::client::Engine;
use super::errors;
use crate::backoff::Backoff;
use crate::executors::CleanUp;
use crate::time;

/// How long a removal may take before it is left to the operator's clean-up.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

/// How long an engine that cannot be reached is tried again.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(20);

/// How often a removal is tried while the engine is at work on the thing.
const TRIES: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The notes of one job.
#[derive(Debug)]
pub(crate) struct Leftovers {
    engine: Engine,
    tasks: TaskTracker,
    things: Things,
}

#[derive(Debug, Default)]
struct Things {
    /// Names or ids.
    containers: Vec<String>,
    volumes: Vec<String>,
    networks: Vec<String>,
    /// Anonymous volumes of the containers stay.
    keep_volumes: bool,
}

impl Leftovers {
    pub(crate) fn new(engine: Engine, tasks: TaskTracker, keep_volumes: bool) -> Self {
        Self { engine, tasks, things: Things { keep_volumes, ..Things::default() } }
    }

    pub(crate) fn note_container(&mut self, name: &str) {
        self.things.containers.push(name.to_owned());
    }

    pub(crate) fn note_volume(&mut self, name: &str) {
        self.things.volumes.push(name.to_owned());
    }

    pub(crate) fn note_network(&mut self, name: &str) {
        self.things.networks.push(name.to_owned());
    }

    /// The instance goes, and all of this with it.
    pub(crate) fn forget(&mut self) {
        self.things = Things::default();
    }

    /// Removes everything noted. What resists is logged; whether a container did, which may still run, comes back.
    pub(crate) async fn remove(mut self) -> CleanUp {
        std::mem::take(&mut self.things).remove(self.engine.clone()).await
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let things = std::mem::take(&mut self.things);
        // Without a runtime there is no engine to talk to either.
        if !things.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            let removal = things.remove(self.engine.clone());
            self.tasks.spawn(async move {
                let _logged = removal.await;
            });
        }
    }
}

impl Things {
    fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.volumes.is_empty() && self.networks.is_empty()
    }

    async fn remove(self, engine: Engine) -> CleanUp {
        let removal = async {
            let (removal, api) = (Removal { engine: &engine, reach: Reach::default() }, &engine.api);
            let container = RemoveContainerOptionsBuilder::default().force(true).v(!self.keep_volumes).build();
            let ended = join_all(self.containers.iter().map(|name| removal.container(name, &container))).await;
            let force = RemoveVolumeOptionsBuilder::default().force(true).build();
            for name in &self.volumes {
                removal.insist("volume", name, || api.remove_volume(name, Some(force.clone()))).await;
            }
            for name in &self.networks {
                removal.insist("network", name, || api.remove_network(name)).await;
            }
            ended.into_iter().all(|ended| ended)
        };
        match tokio::time::timeout(REMOVE_LIMIT, removal).await {
            Ok(true) => CleanUp::Done,
            Ok(false) => CleanUp::LeftBehind,
            Err(_) => {
                tracing::warn!(containers = ?self.containers, volumes = ?self.volumes, networks = ?self.networks, "a job's leftovers were not removed in time");
                CleanUp::LeftBehind
            }
        }
    }
}

/// One pass over a job's things.
struct Removal<'a> {
    engine: &'a Engine,
    reach: Reach,
}

impl Removal<'_> {
    async fn container(&self, name: &str, options: &RemoveContainerOptions) -> bool {
        self.insist("container", name, || self.engine.api.remove_container(name, Some(options.clone()))).await
    }

    /// Tries until it is gone. An engine that is still at work on a thing, or on what uses it, says 409, or
    /// 403 of a network; one that cannot be reached may be again over another connection. Whether it is gone.
    async fn insist<F: Future<Output = Result<(), Error>>>(
        &self,
        kind: &str,
        name: &str,
        remove: impl Fn() -> F,
    ) -> bool {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut refusals = 0;
        loop {
            let Err(error) = remove().await else {
                self.reach.answered();
                return true;
            };
            let status = errors::status(&error);
            let may_try_again = match status {
                None => !self.engine.is_gone() && self.reach.may_try_again(time::now().instant),
                Some(403 | 409 | 500..) => {
                    self.reach.answered();
                    refusals += 1;
                    refusals < TRIES
                }
                Some(404) => {
                    self.reach.answered();
                    return true;
                }
                Some(_) => false,
            };
            let error = errors::message(&error);
            if !may_try_again {
                tracing::warn!(kind, name, error, "something of a job was left on the engine");
                return false;
            }
            tracing::debug!(kind, name, error, "not removed yet");
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

/// Since when the engine has not been reached, for all the things of a job: each of them asks it.
#[derive(Debug, Default)]
struct Reach(Mutex<Option<Instant>>);

impl Reach {
    fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// It was not reached. Whether another try makes sense.
    fn may_try_again(&self, now: Instant) -> bool {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(*since.get_or_insert(now)) < UNREACHABLE_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    #[tokio::test(start_paused = true)]
    async fn lost_connection_and_busy_engine_are_tried_again() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let engine = FakeEngine::start(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Cut,
            1 => Reply::Status(409, "{\"message\":\"removal is already in progress\"}".to_owned()),
            _ => Reply::Status(204, String::new()),
        });
        let mut leftovers = Leftovers::new(engine, TaskTracker::new(), false);
        leftovers.note_container("c");
        assert_eq!(leftovers.remove().await, CleanUp::Done);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn container_that_resists_is_said_to_be_left() {
        let engine = FakeEngine::start(|_| Reply::Status(409, "{\"message\":\"device is busy\"}".to_owned()));
        let mut leftovers = Leftovers::new(engine, TaskTracker::new(), false);
        leftovers.note_container("c");
        assert_eq!(leftovers.remove().await, CleanUp::LeftBehind);
    }

    #[test]
    fn engine_that_is_not_reached_is_given_up_for_all_things_together() {
        let (reach, start) = (Reach::default(), time::now().instant);
        assert!(reach.may_try_again(start));
        assert!(reach.may_try_again(start + UNREACHABLE_LIMIT / 2));
        assert!(!reach.may_try_again(start + UNREACHABLE_LIMIT));
        reach.answered();
        assert!(reach.may_try_again(start + UNREACHABLE_LIMIT));
    }
}
