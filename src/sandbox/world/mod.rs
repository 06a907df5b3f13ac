//! GitLab's side of the story, without I/O: runners, the queue, and each job's way to its end.
//!
//! A job's states: `Queued → Offered → Running → Success | Failed`, `Offered` only under two-phase commit
//! and back to `Queued` when nobody spoke for it in time; `Canceling` between `Running` and `Canceled` where
//! the manager knows how to.

mod answer;
mod jobs;
mod report;
mod runners;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};

pub(super) use answer::Answer;
pub use report::{JobReport, JobStatus, JobUpdateSeen, Moment, Peaks, TraceCheck};

use super::job::SandboxJob;
use super::{Options, RUNNER_TOKEN, StoredArtifact};
use crate::gitlab::wire::Info;
use crate::ids::JobId;
use crate::time::Now;
use jobs::Job;
use runners::Runner;

/// All that this GitLab knows.
#[derive(Debug)]
pub(super) struct World {
    options: Options,
    /// The server's own URL, for variables of jobs.
    server: String,
    started: Now,
    runners: BTreeMap<String, Runner>,
    next_runner: i64,
    jobs: BTreeMap<JobId, Job>,
    /// Counts what can bring a runner a job; its text is the `last_update`.
    queue_version: u64,
    managers: BTreeMap<String, Info>,
    /// Job requests that are being answered.
    open_requests: usize,
    peaks: Peaks,
}

/// What a job request comes to.
#[derive(Debug)]
pub(super) enum Request {
    Answered(Answer),
    /// Nothing has changed since: held until the queue's version is another one.
    Held {
        version: u64,
    },
}

impl World {
    pub(super) fn new(options: Options, server: String, started: Now) -> Self {
        let mut world = Self {
            options,
            server,
            started,
            runners: BTreeMap::new(),
            next_runner: 1,
            jobs: BTreeMap::new(),
            queue_version: 1,
            managers: BTreeMap::new(),
            open_requests: 0,
            peaks: Peaks::default(),
        };
        world.add_runner(RUNNER_TOKEN);
        world
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    pub(super) fn queue_version(&self) -> u64 {
        self.queue_version
    }

    pub(super) fn enqueue(&mut self, job: SandboxJob, now: Now) -> JobId {
        let id = JobId(self.jobs.len() as i64 + 1);
        self.jobs.insert(id, Job::new(job, self.passed(now)));
        self.queue_version += 1;
        id
    }

    pub(super) fn cancel(&mut self, id: JobId, now: Now) {
        let at = self.passed(now);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.cancel(at);
        }
    }

    pub(super) fn report(&self, id: JobId) -> Option<JobReport> {
        self.jobs.get(&id).map(|job| job.report(id))
    }

    /// Cheap while the job has not ended: many wait for their jobs at once.
    pub(super) fn report_of_ended(&self, id: JobId) -> Option<JobReport> {
        self.jobs.get(&id).filter(|job| job.status().is_final()).map(|job| job.report(id))
    }

    pub(super) fn reports(&self) -> Vec<JobReport> {
        self.jobs.iter().map(|(id, job)| job.report(*id)).collect()
    }

    pub(super) fn trace(&self, id: JobId) -> &[u8] {
        self.jobs.get(&id).map(Job::trace).unwrap_or_default()
    }

    pub(super) fn artifacts(&self, id: JobId) -> Vec<StoredArtifact> {
        self.jobs.get(&id).map(|job| job.artifacts().to_vec()).unwrap_or_default()
    }

    pub(super) fn managers(&self) -> Vec<(String, Info)> {
        self.managers.iter().map(|(system_id, info)| (system_id.clone(), info.clone())).collect()
    }

    pub(super) fn peaks(&self) -> Peaks {
        self.peaks
    }

    /// A job request begins to be answered.
    pub(super) fn request_opened(&mut self) {
        self.open_requests += 1;
        let (open, running) = (self.open_requests, self.jobs_in_hand());
        self.peaks.open_requests = self.peaks.open_requests.max(open);
        self.peaks.jobs_and_requests = self.peaks.jobs_and_requests.max(open + running);
    }

    /// It has been answered, or its connection is gone.
    pub(super) fn request_closed(&mut self) {
        self.open_requests = self.open_requests.saturating_sub(1);
    }

    fn passed(&self, now: Now) -> Duration {
        now.instant.saturating_duration_since(self.started.instant)
    }

    /// Queues again what nobody spoke for in time.
    fn expire(&mut self, now: Now) {
        let at = self.passed(now);
        for job in self.jobs.values_mut() {
            if job.expire(at) {
                self.queue_version += 1;
            }
        }
    }

    fn jobs_in_hand(&self) -> usize {
        self.jobs.values().filter(|job| job.status().is_in_hand()).count()
    }

    fn note_running(&mut self) {
        self.peaks.running_jobs = self.peaks.running_jobs.max(self.jobs_in_hand());
    }
}

fn fresh_token(prefix: &str) -> String {
    format!("{prefix}{}", Alphanumeric.sample_string(&mut rand::rng(), 20))
}
