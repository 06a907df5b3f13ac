//! The jobs that run now. A job is not running until it stands here: the admin server's list and the
//! gauges read this one place, so that no second count can disagree.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::go_duration::GoDuration;
use crate::ids::{JobId, RunnerKey};

/// What an operator sees of one running job.
#[derive(Clone, Debug)]
pub struct RunningJob {
    pub runner: RunnerKey,
    pub id: JobId,
    pub project_id: i64,
    /// The job's page at GitLab.
    pub url: String,
    /// pending, running.
    pub state: &'static str,
    /// The stage that runs now, such as `step_script`.
    pub stage: String,
    /// Its scripts have ended: the next job may have its indices, and with them its directories and volumes.
    pub has_left_its_place: bool,
    /// Index among the running jobs of the runner: `CI_CONCURRENT_ID`.
    pub concurrent_id: u32,
    /// Index among the running jobs of the runner and project: `CI_CONCURRENT_PROJECT_ID`.
    pub project_concurrent_id: u32,
    pub started: Instant,
}

impl RunningJob {
    /// For how long it has run; it prints as Go prints durations.
    pub fn age(&self, now: Instant) -> GoDuration {
        let age = now.saturating_duration_since(self.started).as_nanos();
        GoDuration::from_nanos(i64::try_from(age).unwrap_or(i64::MAX))
    }
}

/// The running jobs, shared by workers and the admin server.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    jobs: Arc<Mutex<BTreeMap<u64, RunningJob>>>,
}

/// A job's place in the registry; it leaves when this is dropped.
pub struct Entry {
    registry: Registry,
    number: u64,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.number).finish()
    }
}

impl Registry {
    /// Adds a job in state `pending` and gives it the lowest free indices.
    pub fn add(&self, runner: &RunnerKey, id: JobId, project_id: i64, url: String, now: Instant) -> Entry {
        let mut jobs = self.lock();
        let of_runner = || jobs.values().filter(|job| job.runner == *runner && !job.has_left_its_place);
        let concurrent_id = lowest_free(of_runner().map(|job| job.concurrent_id));
        let of_project = of_runner().filter(|job| job.project_id == project_id);
        let project_concurrent_id = lowest_free(of_project.map(|job| job.project_concurrent_id));
        let number = jobs.last_key_value().map_or(0, |(last, _)| last + 1);
        let job = RunningJob {
            runner: runner.clone(),
            id,
            project_id,
            url,
            state: "pending",
            stage: String::new(),
            has_left_its_place: false,
            concurrent_id,
            project_concurrent_id,
            started: now,
        };
        jobs.insert(number, job);
        Entry { registry: self.clone(), number }
    }

    /// All running jobs, oldest first.
    pub fn snapshot(&self) -> Vec<RunningJob> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, RunningJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// `(CI_CONCURRENT_ID, CI_CONCURRENT_PROJECT_ID)`.
    pub fn indices(&self) -> (u32, u32) {
        self.registry.lock().get(&self.number).map_or((0, 0), |job| (job.concurrent_id, job.project_concurrent_id))
    }

    /// The job's scripts have ended; only its final update and clean-up remain. The job that GitLab hands out next
    /// finds the caches and the checkout that this one has left.
    pub fn leave_place(&self) {
        self.change(|job| job.has_left_its_place = true);
    }

    pub fn set_state(&self, state: &'static str) {
        self.change(|job| job.state = state);
    }

    pub fn set_stage(&self, stage: &str) {
        self.change(|job| stage.clone_into(&mut job.stage));
    }

    fn change(&self, change: impl FnOnce(&mut RunningJob)) {
        if let Some(job) = self.registry.lock().get_mut(&self.number) {
            change(job);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.number);
    }
}

fn lowest_free(taken: impl Iterator<Item = u32>) -> u32 {
    let mut taken: Vec<u32> = taken.collect();
    taken.sort_unstable();
    (0..)
        .zip(&taken)
        .find(|(index, taken)| index != *taken)
        .map_or_else(|| u32::try_from(taken.len()).unwrap_or(u32::MAX), |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_the_lowest_free_of_the_runner_and_of_the_project() {
        let now = crate::time::now().instant;
        let registry = Registry::default();
        let [one, other] = [1, 2].map(|id| RunnerKey::new("https://gitlab.example", id, "glrt-t"));
        let add = |runner, project| registry.add(runner, JobId(1), project, String::new(), now);
        let first = add(&one, 7);
        let second = add(&one, 8);
        let third = add(&one, 7);
        assert_eq!([first.indices(), second.indices(), third.indices()], [(0, 0), (1, 0), (2, 1)]);
        assert_eq!(add(&other, 7).indices(), (0, 0), "each runner counts for itself");
        first.leave_place();
        let next = add(&one, 7);
        assert_eq!(next.indices(), (0, 0));
        drop(first);
        assert_eq!(add(&one, 7).indices(), (3, 2), "who came after holds them now");
    }

    #[test]
    fn a_job_leaves_with_its_entry() {
        let registry = Registry::default();
        let runner = RunnerKey::new("https://gitlab.example", 1, "glrt-t");
        let entry = registry.add(&runner, JobId(5), 7, String::new(), crate::time::now().instant);
        entry.set_state("running");
        entry.set_stage("step_script");
        let later = registry.snapshot()[0].started + std::time::Duration::from_millis(65_500);
        assert_eq!(registry.snapshot()[0].age(later).to_string(), "1m5.5s");
        let seen: Vec<_> = registry.snapshot().into_iter().map(|job| (job.id, job.state, job.stage)).collect();
        assert_eq!(seen, [(JobId(5), "running", "step_script".to_owned())]);
        drop(entry);
        assert!(registry.snapshot().is_empty());
    }
}
