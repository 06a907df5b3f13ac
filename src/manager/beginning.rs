//! What a job's run begins with: the payload as a [`Job`], what this runner adds to it, and how its trace
//! is written. A job that cannot be read still gets a trace that says why.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::poller::Received;
use super::served::ServedRunner;
use crate::executors::Executor;
use crate::gitlab::{COMPATIBLE_VERSION, REVISION};
use crate::job::failure::Fault;
use crate::job::lifecycle::settings::{LifecycleSettings, RunnerSide};
use crate::job::payload::Job;
use crate::job::resolved::{Facts, ResolvedJob, TlsData};
use crate::trace::{GitlabTrace, Masks, PatchBudget, Sink, TraceSettings, Uploader, UploaderHandle, UploaderSettings};

/// A received job, ready to begin.
#[derive(Debug)]
pub struct Beginning {
    pub lifecycle: LifecycleSettings,
    pub trace: TraceSettings,
    /// The job and what is known of its place so far, or why it cannot run.
    pub job: Result<(Arc<Job>, Facts), Fault>,
    /// Names this acceptance of the job among all there ever were.
    pub key: String,
    pub correlation_id: String,
    /// When the job began.
    pub at: SystemTime,
    api: GitlabTrace,
}

impl Beginning {
    /// `indices` are `CI_CONCURRENT_ID` and `CI_CONCURRENT_PROJECT_ID`.
    pub fn of(runner: &ServedRunner, received: Received, indices: (u32, u32), spill: PathBuf) -> Self {
        let key = Self::name_of(&received);
        let Received { job: received, .. } = received;
        let side = runner_side(runner);
        let tls = TlsData {
            ca_chain: received.tls.ca_chain.unwrap_or_default(),
            certificate: received.tls.cert.unwrap_or_default(),
            key: received.tls.key.unwrap_or_default(),
        };
        let sections = received.payload.features.trace_sections;
        let mut trace = TraceSettings {
            folder: spill,
            limit: runner.config.output_limit,
            timestamps: true,
            sections,
            masks: Masks::with_default_prefixes(true),
        };
        let mut api =
            GitlabTrace { client: runner.client.clone(), credentials: received.credentials, debug_trace: false };
        let facts = facts(runner, indices, tls);
        // The payload's own values, until it is known what becomes of them.
        for variable in received.payload.variables.iter().filter(|variable| variable.masked) {
            trace.masks.add_phrase(variable.value.expose());
        }
        let prefixes = received.payload.features.token_mask_prefixes.clone();
        let (lifecycle, job) = match Job::from_wire(received.payload, runner.executor.name()) {
            Err(refused) => (LifecycleSettings::of_refused(side), Err(Fault::from(refused))),
            Ok(job) => {
                let job = Arc::new(job);
                match ResolvedJob::resolve(job.clone(), &facts) {
                    Err(fault) => {
                        ResolvedJob::masked_phrases(&job, &facts)
                            .iter()
                            .for_each(|value| trace.masks.add_phrase(value));
                        (LifecycleSettings::of_unresolved(&job, side), Err(fault))
                    }
                    Ok(resolved) => {
                        trace.timestamps = resolved.flags.is_on("FF_TIMESTAMPS");
                        trace.masks = masks_of(&resolved);
                        api.debug_trace = resolved.settings.debug_trace || resolved.settings.debug_services;
                        (LifecycleSettings::of(&resolved, side), Ok((job, facts)))
                    }
                }
            }
        };
        trace.masks.add_phrase(api.credentials.token.expose());
        prefixes.iter().for_each(|prefix| trace.masks.add_prefix(prefix));
        let at = crate::time::now().utc;
        Self { lifecycle, trace, job, key, correlation_id: received.correlation_id, at, api }
    }

    /// Names this acceptance of a job among all there ever were.
    pub fn name_of(received: &Received) -> String {
        format!("{}-{}", received.job.credentials.id, received.reservation)
    }

    /// The task that brings the trace to GitLab, and its handle.
    pub fn uploader(
        &self,
        runner: &ServedRunner,
        sink: Sink,
        budget: PatchBudget,
    ) -> (Uploader<GitlabTrace>, UploaderHandle) {
        let settings = UploaderSettings {
            final_update_retry_limit: runner.config.job_status_final_update_retry_limit,
            budget,
            give_up: tokio_util::sync::CancellationToken::new(),
        };
        Uploader::new(self.api.clone(), sink, settings)
    }
}

fn masks_of(resolved: &ResolvedJob) -> Masks {
    let mut masks = Masks::with_default_prefixes(resolved.flags.is_on("FF_MASK_ALL_DEFAULT_TOKENS"));
    resolved.variables.masked_phrases().iter().for_each(|value| masks.add_phrase(value));
    masks
}

fn runner_side(runner: &ServedRunner) -> RunnerSide<'_> {
    RunnerSide {
        executor: runner.executor.name(),
        name: &runner.config.name,
        short_token: &runner.labels.runner,
        system_id: &runner.labels.system_id,
        version: COMPATIBLE_VERSION,
        revision: REVISION,
        prepare_timeout: runner.config.prepare_timeout,
        get_sources_timeout: runner.config.get_sources_timeout,
    }
}

fn facts(runner: &ServedRunner, (concurrent_id, concurrent_project_id): (u32, u32), tls: TlsData) -> Facts {
    let info = runner.client.info();
    Facts {
        token: runner.config.token.clone(),
        system_id: runner.labels.system_id.clone(),
        environment: runner.config.environment.clone(),
        feature_flags: runner.config.feature_flags.clone(),
        debug_trace_disabled: runner.config.debug_trace_disabled,
        roots: Executor::configured_roots(&runner.executor),
        shared_environment: runner.executor.is_shared(),
        concurrent_id,
        concurrent_project_id,
        tls,
        version: COMPATIBLE_VERSION.to_owned(),
        revision: REVISION.to_owned(),
        executable_arch: format!("{}/{}", info.platform, info.architecture),
        secrets: Vec::new(),
        slot_cgroup: None,
    }
}
