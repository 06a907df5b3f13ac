//! One job's way from the queue to its end.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::report::{JobReport, JobStatus, JobUpdateSeen, Moment, TraceCheck};
use super::{Answer, World, fresh_token};
use crate::gitlab::wire::{JobState, Output, UpdateRequest, header};
use crate::ids::JobId;
use crate::sandbox::StoredArtifact;
use crate::sandbox::job::SandboxJob;
use crate::time::Now;

/// So many updates of a job are remembered: a day of keep-alives.
const MAX_UPDATES: usize = 10_000;
const MAX_VIOLATIONS: usize = 100;
/// What GitLab takes in one patch.
const PATCH_LIMIT: usize = 1 << 20;

/// Who has the job.
#[derive(Clone, Debug)]
pub(super) struct Manager {
    pub(super) system_id: String,
    pub(super) knows_canceling: bool,
    /// Two-phase commit: how long an offer stands without a sign of life.
    pub(super) offer_ttl: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Job {
    made: SandboxJob,
    token: String,
    status: JobStatus,
    history: Vec<Moment>,
    manager: Option<Manager>,
    /// When an offer lapses.
    offer_ends: Duration,
    handed_out: u32,
    trace: Vec<u8>,
    first_trace_at: Option<Duration>,
    /// The last final update was refused with 412: the trace may begin anew.
    trace_may_restart: bool,
    updates: Vec<JobUpdateSeen>,
    reported: Option<UpdateRequest>,
    trace_check: TraceCheck,
    artifacts: Vec<StoredArtifact>,
    violations: Vec<String>,
}

impl Job {
    pub(super) fn new(made: SandboxJob, at: Duration) -> Self {
        Self {
            made,
            token: String::new(),
            status: JobStatus::Queued,
            history: vec![Moment { at, status: JobStatus::Queued }],
            manager: None,
            offer_ends: Duration::ZERO,
            handed_out: 0,
            trace: Vec::new(),
            first_trace_at: None,
            trace_may_restart: false,
            updates: Vec::new(),
            reported: None,
            trace_check: TraceCheck::NotSaid,
            artifacts: Vec::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.made.name
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn needs(&self) -> &[JobId] {
        &self.made.needs
    }

    pub(super) fn status(&self) -> JobStatus {
        self.status
    }

    pub(super) fn trace(&self) -> &[u8] {
        &self.trace
    }

    pub(super) fn artifacts(&self) -> &[StoredArtifact] {
        &self.artifacts
    }

    pub(super) fn archive(&self) -> Option<&StoredArtifact> {
        self.artifacts.iter().rev().find(|file| file.is_archive())
    }

    /// Whether the runner with this token would be given it now.
    pub(super) fn is_for(&self, runner: &str) -> bool {
        let again = self.status.is_in_hand() && self.handed_out < self.made.script.handouts;
        (self.status == JobStatus::Queued || again) && self.made.for_runner.as_deref().is_none_or(|only| only == runner)
    }

    pub(super) fn rename_runner(&mut self, old: &str, new: &str) {
        if self.made.for_runner.as_deref() == Some(old) {
            self.made.for_runner = Some(new.to_owned());
        }
    }

    /// Gives it to a manager; returns the body that says so.
    pub(super) fn hand_out(
        &mut self,
        id: JobId,
        manager: Manager,
        server: &str,
        dependencies: Vec<Value>,
        at: Duration,
    ) -> Bytes {
        self.handed_out += 1;
        if self.status == JobStatus::Queued {
            self.token = fresh_token("glcbt-");
            match manager.offer_ttl {
                Some(ttl) => {
                    self.offer_ends = at + ttl;
                    self.become_(JobStatus::Offered, at);
                }
                None => self.become_(JobStatus::Running, at),
            }
            self.manager = Some(manager);
        }
        self.made.body(id, &self.token, server, dependencies)
    }

    /// Takes an offer back whose time is over; true if it did.
    pub(super) fn expire(&mut self, at: Duration) -> bool {
        let lapsed = self.status == JobStatus::Offered && at >= self.offer_ends;
        if lapsed {
            self.manager = None;
            self.become_(JobStatus::Queued, at);
        }
        lapsed
    }

    pub(super) fn cancel(&mut self, at: Duration) {
        let graceful = self.manager.as_ref().is_some_and(|manager| manager.knows_canceling);
        match self.status {
            JobStatus::Queued | JobStatus::Offered => self.become_(JobStatus::Canceled, at),
            JobStatus::Running if graceful => self.become_(JobStatus::Canceling, at),
            // A second cancel of a job that is being cancelled ends it at once.
            JobStatus::Running | JobStatus::Canceling => self.become_(JobStatus::Canceled, at),
            JobStatus::Success | JobStatus::Failed | JobStatus::Canceled => {}
        }
    }

    fn become_(&mut self, status: JobStatus, at: Duration) {
        self.status = status;
        self.history.push(Moment { at, status });
    }

    fn violation(&mut self, text: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(text.into());
        }
    }

    /// Refuses a call that is not from the manager that has the job.
    fn refusal(&mut self, token: Option<&str>, call: &str) -> Option<Answer> {
        if token != Some(self.token.as_str()) || self.token.is_empty() {
            return Some(Answer::error(403, "403 Forbidden").job_status(self.status));
        }
        if self.status.is_in_hand() {
            return None;
        }
        if self.reported.is_some() {
            self.violation(format!("{call} after the final update was taken"));
        }
        Some(Answer::error(403, "403 Forbidden - Job is not processing on runner").job_status(self.status))
    }

    fn update(&mut self, token: Option<&str>, update: &UpdateRequest, at: Duration) -> Answer {
        let answer = self.refusal(token, "update").unwrap_or_else(|| self.take_update(update, at));
        if self.updates.len() < MAX_UPDATES {
            let Output { checksum, bytesize } = update.output.clone();
            let seen = JobUpdateSeen { at, state: update.state, checksum, bytesize, answered: answer.status };
            self.updates.push(seen);
        }
        answer
    }

    fn take_update(&mut self, update: &UpdateRequest, at: Duration) -> Answer {
        if update.token.expose() != self.token {
            self.violation("the token of the body is not the header's");
        }
        let offer_ttl = self.manager.as_ref().and_then(|manager| manager.offer_ttl);
        match (update.state, self.status) {
            (JobState::Pending, JobStatus::Offered) => {
                self.offer_ends = at + offer_ttl.unwrap_or_default();
                Answer::json(200, &self.status.wire_name())
            }
            (JobState::Pending, _) if offer_ttl.is_some() => Answer::error(409, "409 Conflict"),
            (JobState::Pending, _) => Answer::error(400, "state does not have a valid value"),
            (JobState::Running, JobStatus::Offered) => {
                self.become_(JobStatus::Running, at);
                Answer::json(200, &"running")
            }
            (JobState::Running, status) => Answer::json(200, &status.wire_name()),
            (JobState::Success | JobState::Failed, _) => self.finish(update, at),
        }
    }

    fn finish(&mut self, update: &UpdateRequest, at: Duration) -> Answer {
        let script = &mut self.made.script;
        if script.not_completed > 0 {
            script.not_completed -= 1;
            return Answer::json(202, &"202 Accepted");
        }
        if script.trace_refused > 0 {
            script.trace_refused -= 1;
            self.trace_may_restart = true;
            return Answer::error(412, "412 Precondition Failed");
        }
        self.trace_check = check(&self.trace, &update.output);
        if self.trace_check == TraceCheck::Differs {
            let (said, has) = (update.output.bytesize, self.trace.len());
            self.violation(format!(
                "the final update tells of {said} bytes and {}, here are {has}",
                update.output.checksum
            ));
        }
        let end = match (self.status, update.state) {
            (JobStatus::Canceling, _) => JobStatus::Canceled,
            (_, JobState::Success) => JobStatus::Success,
            (_, JobState::Failed | JobState::Pending | JobState::Running) => JobStatus::Failed,
        };
        self.become_(end, at);
        self.reported = Some(update.clone());
        Answer::json(200, &end.wire_name())
    }

    fn patch(&mut self, token: Option<&str>, range: Option<&str>, content: &[u8], at: Duration) -> Answer {
        if let Some(refusal) = self.refusal(token, "patch") {
            return refusal;
        }
        if self.status == JobStatus::Offered {
            self.violation("a trace before the job was begun");
            return Answer::error(403, "403 Forbidden").job_status(self.status);
        }
        let Some((start, end)) = range.and_then(parse_range) else {
            return Answer::error(400, "400 Missing header Content-Range");
        };
        if end.checked_sub(start).map(|length| length + 1) != Some(content.len()) {
            self.violation(format!("Content-Range {start}-{end} with {} bytes", content.len()));
        }
        if content.len() > PATCH_LIMIT {
            self.violation(format!("a patch of {} bytes", content.len()));
        }
        if start == 0 && std::mem::take(&mut self.trace_may_restart) {
            self.trace.clear();
        }
        if start != self.trace.len() {
            let range = format!("0-{}", self.trace.len());
            return Answer::error(416, "416 Range Not Satisfiable").header("range", range).job_status(self.status);
        }
        self.trace.extend_from_slice(content);
        self.first_trace_at.get_or_insert(at);
        if self.trace.len() > self.made.script.trace_limit {
            self.become_(JobStatus::Failed, at);
            return Answer::error(403, "403 Forbidden - Trace size limit exceeded").job_status(self.status);
        }
        Answer::json(202, &"202 Accepted").header("range", format!("0-{}", self.trace.len())).job_status(self.status)
    }

    pub(super) fn report(&self, id: JobId) -> JobReport {
        JobReport {
            id,
            name: self.made.name.clone(),
            status: self.status,
            history: self.history.clone(),
            system_id: self.manager.as_ref().map(|manager| manager.system_id.clone()),
            handed_out: self.handed_out,
            failure_reason: self.reported.as_ref().map(|update| update.failure_reason.clone()).unwrap_or_default(),
            exit_code: self.reported.as_ref().map(|update| update.exit_code).unwrap_or_default(),
            trace_len: self.trace.len(),
            trace_check: self.trace_check,
            first_trace_at: self.first_trace_at,
            updates: self.updates.clone(),
            violations: self.violations.clone(),
        }
    }
}

/// `start-end`, both counted in.
fn parse_range(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?))
}

fn check(trace: &[u8], output: &Output) -> TraceCheck {
    if output.checksum.is_empty() && output.bytesize == 0 {
        return TraceCheck::NotSaid;
    }
    let size_fits = output.bytesize == trace.len() as u64;
    let sum_fits = output.checksum == format!("crc32:{:08x}", crc32fast::hash(trace));
    if size_fits && sum_fits { TraceCheck::Matches } else { TraceCheck::Differs }
}

impl World {
    /// `PUT jobs/:id`.
    pub(in crate::sandbox) fn update(
        &mut self,
        id: JobId,
        token: Option<&str>,
        update: &UpdateRequest,
        now: Now,
    ) -> Answer {
        self.expire(now);
        let (at, interval) = (self.passed(now), self.options.trace_update_interval);
        let Some(job) = self.jobs.get_mut(&id) else { return Answer::error(403, "403 Forbidden") };
        let answer = job.update(token, update, at);
        let has_status = answer.headers.iter().any(|(name, _)| *name == header::JOB_STATUS);
        let answer = if has_status { answer } else { answer.job_status(job.status) };
        answer.header(header::TRACE_UPDATE_INTERVAL, interval.to_string())
    }

    /// `PATCH jobs/:id/trace`.
    pub(in crate::sandbox) fn patch(
        &mut self,
        id: JobId,
        token: Option<&str>,
        range: Option<&str>,
        content: &[u8],
        now: Now,
    ) -> Answer {
        self.expire(now);
        let (at, interval) = (self.passed(now), self.options.trace_update_interval);
        let Some(job) = self.jobs.get_mut(&id) else { return Answer::error(403, "403 Forbidden") };
        job.patch(token, range, content, at).header(header::TRACE_UPDATE_INTERVAL, interval.to_string())
    }

    /// Whether artifacts may be uploaded for a job.
    pub(in crate::sandbox) fn may_upload(&mut self, id: JobId, token: Option<&str>) -> Result<(), Answer> {
        let Some(job) = self.jobs.get_mut(&id) else { return Err(Answer::error(403, "403 Forbidden")) };
        job.refusal(token, "upload").map_or(Ok(()), Err)
    }

    pub(in crate::sandbox) fn keep_artifact(&mut self, id: JobId, file: StoredArtifact) -> Answer {
        let Some(job) = self.jobs.get_mut(&id) else { return Answer::error(403, "403 Forbidden") };
        job.artifacts.push(file);
        Answer::json(201, &serde_json::json!({ "id": id, "token": job.token }))
    }

    /// A job's archive, for the holder of that job's token.
    pub(in crate::sandbox) fn archive(&self, id: JobId, token: Option<&str>) -> Result<StoredArtifact, Answer> {
        let Some(job) = self.jobs.get(&id).filter(|job| token == Some(job.token()) && !job.token.is_empty()) else {
            return Err(Answer::error(403, "403 Forbidden"));
        };
        job.archive().cloned().ok_or_else(|| Answer::error(404, "404 Not Found"))
    }

    /// A job's archive as object storage has it: whoever knows the address.
    pub(in crate::sandbox) fn stored_archive(&self, id: JobId) -> Option<StoredArtifact> {
        self.jobs.get(&id)?.archive().cloned()
    }
}
