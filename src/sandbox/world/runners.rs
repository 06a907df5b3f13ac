//! Runners: who may ask, and handing out.

use serde_json::{Value, json};

use super::jobs::Manager;
use super::{Answer, Request, World, fresh_token};
use crate::gitlab::wire::{
    JobRequest, RegisterRequest, RegisterResponse, ResetTokenRequest, ResetTokenResponse, UnregisterManagerRequest,
    UnregisterRequest, VerifyRequest, VerifyResponse, header,
};
use crate::ids::JobId;
use crate::sandbox::REGISTRATION_TOKEN;
use crate::secret::Secret;
use crate::time::Now;

/// No server has more, and a runner that registers in a loop is stopped here.
const MAX_RUNNERS: usize = 10_000;

#[derive(Debug)]
pub(super) struct Runner {
    id: i64,
    paused: bool,
}

impl World {
    pub(in crate::sandbox) fn add_runner(&mut self, token: &str) -> i64 {
        let id = self.next_runner;
        self.next_runner += 1;
        self.runners.insert(token.to_owned(), Runner { id, paused: false });
        id
    }

    pub(in crate::sandbox) fn pause_runner(&mut self, token: &str, paused: bool) {
        if let Some(runner) = self.runners.get_mut(token) {
            runner.paused = paused;
            self.queue_version += 1;
        }
    }

    /// `POST jobs/request`, before or after it was held.
    pub(in crate::sandbox) fn request(&mut self, request: &JobRequest, may_hold: bool, now: Now) -> Request {
        self.expire(now);
        let version = self.queue_version;
        let Some(runner) = self.runners.get(request.token.expose()) else {
            return Request::Answered(Answer::error(403, "403 Forbidden"));
        };
        let paused = runner.paused;
        if request.system_id.is_empty() {
            return Request::Answered(Answer::error(400, "system_id is missing"));
        }
        self.managers.insert(request.system_id.clone(), (*request.info).clone());
        if may_hold && request.last_update == last_update(version) {
            return Request::Held { version };
        }
        let nothing = || Answer::bare(204).header(header::LAST_UPDATE, last_update(version));
        if paused {
            return Request::Answered(nothing());
        }
        Request::Answered(self.hand_out(request, now).unwrap_or_else(nothing))
    }

    fn hand_out(&mut self, request: &JobRequest, now: Now) -> Option<Answer> {
        let at = self.passed(now);
        let token = request.token.expose();
        let id = *self.jobs.iter().find(|(_, job)| job.is_for(token))?.0;
        let dependencies = self.dependencies(id);
        let features = &request.info.features;
        let manager = Manager {
            system_id: request.system_id.clone(),
            knows_canceling: features.cancel_gracefully,
            offer_ttl: (self.options.two_phase && features.two_phase_job_commit).then_some(self.options.offer_ttl),
        };
        let body = self.jobs.get_mut(&id)?.hand_out(id, manager, &self.server, dependencies, at);
        self.note_running();
        Some(Answer { status: 201, headers: Vec::new(), body })
    }

    /// Archives of the jobs that a job needs, as its payload names them.
    fn dependencies(&self, id: JobId) -> Vec<Value> {
        let needs = self.jobs.get(&id).map(|job| job.needs().to_vec()).unwrap_or_default();
        let found = needs.into_iter().filter_map(|id| {
            let job = self.jobs.get(&id)?;
            let file = job.archive().map(|file| json!({ "filename": file.filename, "size": file.size }));
            Some(json!({ "id": id, "token": job.token(), "name": job.name(), "artifacts_file": file }))
        });
        found.collect()
    }

    pub(in crate::sandbox) fn verify(&mut self, request: &VerifyRequest) -> Answer {
        let Some(runner) = self.runners.get(request.token.expose()) else {
            return Answer::error(403, "403 Forbidden");
        };
        self.managers.insert(request.system_id.clone(), (*request.info).clone());
        let body = VerifyResponse { id: runner.id, token: request.token.clone(), token_expires_at: None };
        Answer::json(200, &body)
    }

    pub(in crate::sandbox) fn register(&mut self, request: &RegisterRequest) -> Answer {
        if request.token.expose() != REGISTRATION_TOKEN {
            return Answer::error(403, "403 Forbidden - Invalid token supplied");
        }
        if self.runners.len() >= MAX_RUNNERS {
            return Answer::error(400, "too many runners");
        }
        let token = fresh_token("");
        let id = self.add_runner(&token);
        if request.paused {
            self.pause_runner(&token, true);
        }
        Answer::json(201, &RegisterResponse { id, token: token.into(), token_expires_at: None })
    }

    pub(in crate::sandbox) fn unregister(&mut self, request: &UnregisterRequest) -> Answer {
        match self.runners.remove(request.token.expose()) {
            Some(_) => Answer::bare(204),
            None => Answer::error(403, "403 Forbidden"),
        }
    }

    pub(in crate::sandbox) fn unregister_manager(&mut self, request: &UnregisterManagerRequest) -> Answer {
        if !self.runners.contains_key(request.token.expose()) {
            return Answer::error(403, "403 Forbidden");
        }
        match self.managers.remove(&request.system_id) {
            Some(_) => Answer::bare(204),
            None => Answer::error(404, "404 Runner manager not found"),
        }
    }

    pub(in crate::sandbox) fn reset_token(&mut self, request: &ResetTokenRequest) -> Answer {
        self.replace_token(|token, _| token == request.token.expose())
    }

    /// By number, for the holder of any personal access token.
    pub(in crate::sandbox) fn reset_token_of(&mut self, id: i64, personal_token: Option<&str>) -> Answer {
        match personal_token {
            Some(token) if !token.is_empty() => self.replace_token(|_, runner| runner.id == id),
            Some(_) | None => Answer::error(401, "401 Unauthorized"),
        }
    }

    fn replace_token(&mut self, is_it: impl Fn(&str, &Runner) -> bool) -> Answer {
        let old = self.runners.iter().find(|(token, runner)| is_it(token, runner)).map(|(token, _)| token.clone());
        let Some((old, runner)) = old.and_then(|token| self.runners.remove_entry(&token)) else {
            return Answer::error(403, "403 Forbidden");
        };
        let fresh = fresh_token("glrt-");
        self.runners.insert(fresh.clone(), runner);
        for job in self.jobs.values_mut() {
            job.rename_runner(&old, &fresh);
        }
        Answer::json(201, &ResetTokenResponse { token: Secret::new(fresh), token_expires_at: None })
    }
}

/// The text of a version of the queue.
fn last_update(version: u64) -> String {
    format!("{version:032x}")
}
