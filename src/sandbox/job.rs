//! Making a job: what a `.gitlab-ci.yml` and a project would have said.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::ids::JobId;

/// A job to be queued. The payload is JSON, not the runner's own types, so that anything can be sent.
#[derive(Debug)]
pub struct SandboxJob {
    pub(super) name: String,
    payload: Value,
    raw_body: Option<Bytes>,
    pub(super) for_runner: Option<String>,
    pub(super) needs: Vec<JobId>,
    pub(super) script: Behaviour,
}

/// How GitLab treats this job in particular.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    /// Final updates that are answered with 202 first, as while a live trace is being stored.
    pub(super) not_completed: u32,
    /// Final updates that are answered with 412 first.
    pub(super) trace_refused: u32,
    /// How often the very same job is handed out.
    pub(super) handouts: u32,
    /// The largest trace that is taken; a longer one ends the job.
    pub(super) trace_limit: usize,
}

/// More than any runner sends by default (4 MiB), and little enough for many jobs.
const TRACE_LIMIT: usize = 256 << 20;

impl SandboxJob {
    /// A job with this name that runs these lines.
    pub fn new(name: &str, script: &[&str]) -> Self {
        let behaviour = Behaviour { not_completed: 0, trace_refused: 0, handouts: 1, trace_limit: TRACE_LIMIT };
        Self {
            name: name.to_owned(),
            payload: payload(name, script),
            raw_body: None,
            for_runner: None,
            needs: Vec::new(),
            script: behaviour,
        }
        .variable("GIT_STRATEGY", "none")
    }

    #[must_use]
    pub fn after_script(self, lines: &[&str]) -> Self {
        self.step(
            json!({"name": "after_script", "script": lines, "timeout": 300, "when": "always", "allow_failure": true}),
        )
    }

    /// Adds a step in the wire's form.
    #[must_use]
    pub fn step(self, step: Value) -> Self {
        self.push("steps", step)
    }

    #[must_use]
    pub fn variable(self, key: &str, value: &str) -> Self {
        self.variable_with(key, value, &[])
    }

    /// A variable whose value must not be seen in the trace.
    #[must_use]
    pub fn masked(self, key: &str, value: &str) -> Self {
        self.variable_with(key, value, &["masked"])
    }

    /// A variable with some of `public`, `file`, `masked`, `raw` set.
    #[must_use]
    pub fn variable_with(self, key: &str, value: &str, flags: &[&str]) -> Self {
        self.push("variables", variable(key, value, flags))
    }

    /// The image of the job's container.
    #[must_use]
    pub fn image(self, name: &str) -> Self {
        self.with(|payload| payload["image"] = image(name))
    }

    #[must_use]
    pub fn service(self, name: &str, alias: &str) -> Self {
        let mut service = image(name);
        service["alias"] = json!(alias);
        self.push("services", service)
    }

    /// The job's timeout, in whole seconds.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|payload| payload["runner_info"]["timeout"] = json!(timeout.as_secs()))
    }

    /// Sources to check out, with git's default strategy.
    #[must_use]
    pub fn git(self, repo_url: &str, branch: &str, sha: &str) -> Self {
        self.with(|payload| {
            payload["git_info"]["repo_url"] = json!(repo_url);
            payload["git_info"]["ref"] = json!(branch);
            payload["git_info"]["sha"] = json!(sha);
            payload["git_info"]["refspecs"] = json!([format!("+refs/heads/{branch}:refs/remotes/origin/{branch}")]);
        })
        .without_variable("GIT_STRATEGY")
        .variable("CI_COMMIT_SHA", sha)
        .variable("CI_COMMIT_REF_NAME", branch)
    }

    /// Files to upload as the job's archive, `when` being `on_success`, `on_failure` or `always`.
    #[must_use]
    pub fn artifacts(self, paths: &[&str], when: &str) -> Self {
        let archive = json!({
            "name": "", "untracked": false, "paths": paths, "exclude": [], "when": when,
            "artifact_type": "archive", "artifact_format": "zip", "expire_in": "1 week",
        });
        self.push("artifacts", archive)
    }

    #[must_use]
    pub fn cache(self, key: &str, paths: &[&str]) -> Self {
        let cache = json!({
            "key": key, "untracked": false, "policy": "pull-push", "paths": paths, "when": "on_success",
            "fallback_keys": [],
        });
        self.push("cache", cache)
    }

    /// Gets the archive of an earlier job.
    #[must_use]
    pub fn needs_artifacts_of(mut self, job: JobId) -> Self {
        self.needs.push(job);
        self
    }

    /// Only the runner with this token gets it.
    #[must_use]
    pub fn for_runner(self, token: &str) -> Self {
        Self { for_runner: Some(token.to_owned()), ..self }
    }

    /// Anything else of the payload.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.payload);
        self
    }

    /// Sends this body instead of a payload. `{id}` and `{token}` in it become the job's.
    #[must_use]
    pub fn raw_body(self, body: &str) -> Self {
        Self { raw_body: Some(Bytes::copy_from_slice(body.as_bytes())), ..self }
    }

    /// Answers so many final updates with 202 before one is taken.
    #[must_use]
    pub fn completes_after(mut self, updates: u32) -> Self {
        self.script.not_completed = updates;
        self
    }

    /// Answers so many final updates with 412: the trace has to be sent again.
    #[must_use]
    pub fn refuses_trace(mut self, updates: u32) -> Self {
        self.script.trace_refused = updates;
        self
    }

    /// Hands the very same job out so often, as when an answer was lost on its way.
    #[must_use]
    pub fn handed_out(mut self, times: u32) -> Self {
        self.script.handouts = times;
        self
    }

    /// Ends the job once its trace is larger.
    #[must_use]
    pub fn trace_limit(mut self, bytes: usize) -> Self {
        self.script.trace_limit = bytes;
        self
    }

    /// The 201's body.
    pub(super) fn body(&self, id: JobId, token: &str, server: &str, dependencies: Vec<Value>) -> Bytes {
        if let Some(raw) = &self.raw_body {
            let text = String::from_utf8_lossy(raw);
            return text.replace("{id}", &id.to_string()).replace("{token}", token).into();
        }
        let mut payload = self.payload.clone();
        payload["id"] = json!(id);
        payload["token"] = json!(token);
        payload["job_info"]["id"] = json!(id);
        if let (Some(variables), Value::Array(own)) =
            (payload["variables"].as_array_mut(), predefined(&self.name, id, token, server))
        {
            variables.splice(0..0, own);
        }
        payload["dependencies"] = json!(dependencies);
        payload.to_string().into()
    }

    fn push(self, list: &str, item: Value) -> Self {
        self.with(|payload| {
            if let Some(list) = payload[list].as_array_mut() {
                list.push(item);
            }
        })
    }

    fn without_variable(self, key: &str) -> Self {
        self.with(|payload| {
            if let Some(variables) = payload["variables"].as_array_mut() {
                variables.retain(|variable| variable["key"] != key);
            }
        })
    }
}

fn payload(name: &str, script: &[&str]) -> Value {
    json!({
        "id": 0,
        "token": "",
        "allow_git_fetch": true,
        "job_info": {
            "id": 0, "name": name, "stage": "test", "pipeline_id": 1, "project_id": 1, "project_name": "sandbox",
            "project_full_path": "flotilla/sandbox", "namespace_id": 1, "root_namespace_id": 1, "organization_id": 1,
            "instance_id": "sandbox", "instance_uuid": "", "user_id": 1, "scoped_user_id": null,
            "time_in_queue_seconds": 0.0, "project_jobs_running_on_instance_runners_count": "0",
            "queue_size": 1, "queue_depth": 1,
        },
        "git_info": {
            "repo_url": "", "repo_object_format": "sha1", "ref": "main", "sha": "", "before_sha": "",
            "ref_type": "branch", "refspecs": [], "depth": 20, "protected": false,
        },
        "runner_info": {"timeout": 3600, "uuid": ""},
        "inputs": [],
        "variables": [],
        "steps": [{"name": "script", "script": script, "timeout": 3600, "when": "on_success", "allow_failure": false}],
        "image": null,
        "services": [],
        "artifacts": [],
        "cache": [],
        "credentials": [],
        "dependencies": [],
        "hooks": [],
        "features": {
            "trace_sections": true,
            "token_mask_prefixes": ["glpat-", "glrt-", "glcbt-"],
            "failure_reasons": [
                "unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure",
                "runner_system_failure", "missing_dependency_failure", "runner_unsupported", "job_execution_timeout",
                "image_pull_failure", "runner_configuration_error", "runner_external_dependency_failure",
                "runner_interrupted", "job_canceled",
            ],
        },
    })
}

/// The variables that every job has from GitLab, as far as runners and scripts use them.
fn predefined(name: &str, id: JobId, token: &str, server: &str) -> Value {
    let shown = |key: &str, value: &str| variable(key, value, &["public"]);
    let host = server.split_once("://").map_or(server, |(_, host)| host);
    let (host, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    json!([
        shown("CI_PIPELINE_ID", "1"),
        shown("CI_JOB_ID", &id.to_string()),
        shown("CI_JOB_URL", &format!("{server}/flotilla/sandbox/-/jobs/{id}")),
        variable("CI_JOB_TOKEN", token, &["masked"]),
        shown("CI_JOB_NAME", name),
        shown("CI_JOB_STAGE", "test"),
        shown("CI", "true"),
        shown("GITLAB_CI", "true"),
        shown("CI_SERVER", "yes"),
        shown("CI_SERVER_URL", server),
        shown("CI_SERVER_HOST", host),
        shown("CI_SERVER_PORT", port),
        shown("CI_API_V4_URL", &format!("{server}/api/v4")),
        shown("CI_PROJECT_ID", "1"),
        shown("CI_PROJECT_NAME", "sandbox"),
        shown("CI_PROJECT_PATH", "flotilla/sandbox"),
        shown("CI_PROJECT_URL", &format!("{server}/flotilla/sandbox")),
        shown("CI_COMMIT_REF_NAME", "main"),
    ])
}

fn variable(key: &str, value: &str, flags: &[&str]) -> Value {
    let is = |flag: &str| flags.contains(&flag);
    json!({
        "key": key, "value": value, "public": is("public"), "file": is("file"), "masked": is("masked"),
        "raw": is("raw"),
    })
}

fn image(name: &str) -> Value {
    json!({
        "name": name, "alias": null, "command": null, "entrypoint": null, "ports": [], "variables": [],
        "pull_policy": [], "executor_opts": {},
    })
}
