//! Jobs that an earlier manager left in the middle.
//!
//! What runs of them on an instance is ended when the taskscaler examines their slots, and then GitLab is told how they
//! ended: that they failed, unless a true end was written down and not yet told. In this order, so that a retry never
//! meets its predecessor. A job whose slot nobody examines, because it had none or its instance is gone, is told
//! without.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::job_records::{Ended, JobRecord, JobRecords};
use super::remains::Remains;
use super::telling::Line;
use crate::executors::{Executor, FormerJob};
use crate::fleeting::access::InstanceAccess;
use crate::gitlab::Client;
use crate::gitlab::outcome::{PatchOutcome, UpdateOutcome};
use crate::gitlab::wire::JobState;
use crate::ids::ReservationKey;
use crate::job::failure::FailureReason;
use crate::taskscaler;

/// How long the examination of a job's slot may take before GitLab is told all the same.
const EXAMINED_WITHIN: Duration = Duration::from_secs(30);
/// GitLab's copy of the trace may grow once more, by patches that were on their way.
const PATCHES: u32 = 3;

/// What the trace of a job ends with that was in the middle.
const LEFT: &[u8] = b"\n\x1b[31;1mERROR: Job failed (system failure): the runner manager stopped in the middle \
of this job\x1b[0;m\n";
/// What the trace of a job ends with that had ended.
const CUT_OFF: &[u8] = b"\n\x1b[0;33mWARNING: the runner manager stopped when this job had ended: what the log lacks \
here is lost\x1b[0;m\n";

/// Ends what such jobs left on instances.
#[derive(Debug)]
pub struct Ender {
    jobs: BTreeMap<ReservationKey, JobRecord>,
    executor: Arc<Executor>,
    system_id: String,
    ended: mpsc::Sender<ReservationKey>,
    remains: Remains,
}

/// Tells GitLab of them.
#[derive(Debug)]
pub struct Teller {
    line: Line,
    records: JobRecords,
    jobs: BTreeMap<ReservationKey, JobRecord>,
    ended: mpsc::Receiver<ReservationKey>,
}

/// The two for these jobs.
pub fn former_jobs(
    jobs: Vec<JobRecord>,
    records: JobRecords,
    remains: Remains,
    executor: Executor,
    system_id: &str,
    client: Client,
) -> (Ender, Teller) {
    let (sender, ended) = mpsc::channel(jobs.len().max(1));
    // Its instance may not be there now, and then nobody examines its slot.
    for (job, stage) in jobs.iter().filter_map(|job| Some((job, job.stage.as_ref()?))) {
        remains.note(&stage.instance, job.credentials.id, &job.name, &job.executor);
    }
    let jobs: BTreeMap<_, _> = jobs.into_iter().map(|job| (job.key.clone(), job)).collect();
    let executor = Arc::new(executor);
    let ender = Ender { jobs: jobs.clone(), executor, system_id: system_id.to_owned(), ended: sender, remains };
    (ender, Teller { line: Line::new(client, Line::permits()), records, jobs, ended })
}

impl taskscaler::FormerJobs for Ender {
    fn end(
        &self,
        instance: Arc<dyn InstanceAccess>,
        _slot: u32,
        key: ReservationKey,
    ) -> BoxFuture<'static, Result<(), String>> {
        // Nobody was told to start a job that has no record; or it is one of ours, and its instance goes.
        let Some(job) = self.jobs.get(&key) else { return std::future::ready(Ok(())).boxed() };
        let id = job.credentials.id;
        if job.executor != self.executor.name() {
            let fault = format!("job {id} ran with the executor {}", job.executor);
            return std::future::ready(Err(fault)).boxed();
        }
        let former = FormerJob { id, name: job.name.clone(), system_id: self.system_id.clone() };
        let (executor, ended) = (self.executor.clone(), self.ended.clone());
        async move {
            let instance_id = instance.id().clone();
            let result = executor.end_former(instance, former).await;
            match &result {
                Ok(()) => info!(job = %id, instance = %instance_id, "what an earlier manager's job left was ended"),
                Err(fault) => warn!(job = %id, instance = %instance_id, error = fault.message, "an earlier manager's job could not be ended: its instance goes"),
            }
            // The teller has gone when everything is told.
            drop(ended.send(key).await);
            result.map_err(|fault| fault.message)
        }
        .boxed()
    }

    fn clear(&self, instance: Arc<dyn InstanceAccess>) -> BoxFuture<'static, Result<(), String>> {
        let (remains, executor, system_id) = (self.remains.clone(), self.executor.clone(), self.system_id.clone());
        async move { remains.end(instance, &executor, &system_id).await }.boxed()
    }
}

impl Teller {
    /// Tells GitLab of every job, as soon as what it left is ended. `in_slots` are those that had a slot.
    pub async fn run(mut self, in_slots: BTreeSet<ReservationKey>) {
        let mut telling = JoinSet::new();
        let without_slot: Vec<_> = self.jobs.keys().filter(|key| !in_slots.contains(*key)).cloned().collect();
        for key in without_slot {
            self.tell(&key, &mut telling);
        }
        let deadline = tokio::time::sleep(EXAMINED_WITHIN);
        let mut deadline = std::pin::pin!(deadline);
        while !self.jobs.is_empty() {
            tokio::select! {
                Some(key) = self.ended.recv() => self.tell(&key, &mut telling),
                () = &mut deadline => {
                    for key in self.jobs.keys().cloned().collect::<Vec<_>>() {
                        self.tell(&key, &mut telling);
                    }
                }
            }
        }
        self.ended.close();
        while let Some(ended) = telling.join_next().await {
            if let Err(fault) = ended {
                error!(error = %fault, "telling GitLab of a job ended badly");
            }
        }
    }

    fn tell(&mut self, key: &ReservationKey, telling: &mut JoinSet<()>) {
        let Some(job) = self.jobs.remove(key) else { return };
        let (line, records) = (self.line.clone(), self.records.clone());
        telling.spawn(async move {
            tell(&line, &job).await;
            records.forget(&job.key);
        });
    }
}

/// Ends when GitLab has heard, or nobody will ask any more.
async fn tell(line: &Line, job: &JobRecord) {
    let id = job.credentials.id;
    // Only a job that has not heard `running` takes `pending`. It is nobody's failure; another runner gets it.
    match line.update(&job.credentials, &line.bare(JobState::Pending)).await.outcome {
        UpdateOutcome::Succeeded => {
            return info!(job = %id, "a job that an earlier manager had not begun goes back to the queue");
        }
        UpdateOutcome::Aborted => return info!(job = %id, "a job of an earlier manager was final already"),
        UpdateOutcome::NotFound
        | UpdateOutcome::StateRefused
        | UpdateOutcome::Conflict
        | UpdateOutcome::AcceptedNotCompleted
        | UpdateOutcome::TraceValidationFailed
        | UpdateOutcome::Failed => {}
    }
    say_last_words(line.client(), job).await;
    line.tell_end(&job.credentials, &end_of(job)).await;
}

/// How the job ended, as far as anybody knows: in the middle, if nothing else was written down.
fn end_of(job: &JobRecord) -> Ended {
    let in_the_middle =
        || Ended { failure_reason: Some(FailureReason::RunnerSystemFailure.as_str().to_owned()), exit_code: None };
    job.ended.clone().unwrap_or_else(in_the_middle)
}

/// Says in the job's trace what became of it. How long the trace is only GitLab knows; it says so when asked to put
/// something in the wrong place.
async fn say_last_words(client: &Client, job: &JobRecord) {
    let words = if job.ended.is_some() { CUT_OFF } else { LEFT };
    let mut at = 0;
    for _ in 0..PATCHES {
        let result = client.patch_trace(&job.credentials, at, Bytes::from_static(words), false).await;
        match result.outcome {
            PatchOutcome::RangeMismatch { server_has } => at = server_has,
            PatchOutcome::Succeeded { .. } | PatchOutcome::NotFound | PatchOutcome::Aborted | PatchOutcome::Failed => {
                return;
            }
        }
    }
}
