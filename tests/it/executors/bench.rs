//! One executor on this machine, of a runner of its own, and the jobs of a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla::config::environment::Environment as Variables;
use flotilla::config::resolved::FleetRunner;
use flotilla::detached::Exit;
use flotilla::executors::{Environment, Executor, Helpers, PrepareContext, StageRun};
use flotilla::gitlab::wire::JobPayload;
use flotilla::job::failure::Fault;
use flotilla::job::payload::Job;
use flotilla::job::resolved::{Facts, TlsData};
use flotilla::job::stage::Stage;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::agents::{HELPER, Recorded};
use super::machine::ThisMachine;
use crate::harness::clear_engine;

pub(crate) struct Bench {
    pub(crate) executor: Executor,
    pub(crate) machine: Arc<ThisMachine>,
    pub(crate) trace: Recorded,
    pub(crate) home: tempfile::TempDir,
    token: String,
}

impl Bench {
    /// `docker` are lines of `[runners.docker]`.
    pub(crate) fn new(executor: &str, docker: &str, helpers: Helpers) -> Self {
        // Tests share one engine: the token tells what is whose.
        let token = format!("glrt-{:016x}", rand::random::<u64>());
        let home = tempfile::tempdir().expect("a folder");
        let executor = Executor::new(runner(executor, docker, &token), Arc::new(helpers)).expect("an executor");
        let machine = ThisMachine::new(home.path().to_owned());
        Self { executor, machine, trace: Recorded::default(), home, token }
    }

    /// The place of a job whose payload is the usual one but for these keys.
    pub(crate) async fn prepare(&self, payload: Value) -> Result<Environment<Recorded>, Fault> {
        let job = job(&payload);
        let facts = Facts {
            token: self.token.clone().into(),
            system_id: "s_0123456789ab".to_owned(),
            environment: vec![],
            feature_flags: std::collections::BTreeMap::default(),
            debug_trace_disabled: false,
            roots: self.executor.configured_roots(),
            shared_environment: self.executor.is_shared(),
            concurrent_id: 0,
            concurrent_project_id: 0,
            tls: TlsData::default(),
            version: "19.4.0".to_owned(),
            revision: "x".to_owned(),
            executable_arch: "linux/amd64".to_owned(),
            secrets: vec![],
            slot_cgroup: None,
        };
        let context = PrepareContext {
            key: format!("{}-{:x}", job.id, rand::random::<u64>()),
            job,
            facts,
            access: self.machine.clone(),
            trace: self.trace.clone(),
            instance_is_disposable: false,
        };
        self.executor.prepare(context).await
    }

    pub(crate) fn short_token(&self) -> &str {
        flotilla::ids::short_token(&self.token)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        clear_engine(self.short_token());
    }
}

/// Runs a stage to its end.
pub(crate) async fn stage(environment: &mut Environment<Recorded>, name: &str, script: &str) -> Result<Exit, Fault> {
    let stage = Stage::from_id(name).expect("a stage");
    environment.run_stage(StageRun { stage: &stage, attempt: 0, script, cancel: &CancellationToken::new() }).await
}

/// The helper of this build, for the shell of this machine.
pub(crate) fn own_helpers() -> Helpers {
    let helper = PathBuf::from(HELPER);
    let folder = helper.parent().expect("the folder of this build").to_owned();
    Helpers::new(helper, folder, Variables::default())
}

/// The helper that runs in any image.
pub(crate) fn static_helpers() -> Helpers {
    let folder = std::env::var_os("FLOTILLA_HELPERS").expect("the folder of a static helper: see tests/run");
    Helpers::new(PathBuf::from(HELPER), PathBuf::from(folder), Variables::default())
}

fn runner(executor: &str, docker: &str, token: &str) -> Arc<FleetRunner> {
    let text = format!(
        r#"
[[runners]]
  name = "r"
  url = "http://127.0.0.1"
  token = "{token}"
  executor = "{executor}"
  [runners.docker]
{docker}
  [runners.autoscaler]
    plugin = "static"
    capacity_per_instance = 20
    [runners.autoscaler.plugin_config.instances.a]
      external_addr = "127.0.0.1"
    [[runners.autoscaler.policy]]
      idle_count = 1
"#
    );
    let loaded = flotilla::config::load(Path::new("config.toml"), &text, &Variables::default());
    let config = loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
    Arc::new(config.runnable().next().expect("a runner"))
}

fn job(payload: &Value) -> Arc<Job> {
    let mut whole = json!({
        "id": 7, "token": "t", "allow_git_fetch": true,
        "job_info": {"name": "j", "stage": "test", "project_id": 42, "project_name": "p"},
        "git_info": {"repo_url": "http://127.0.0.1/group/project.git", "ref": "main", "sha": "0", "before_sha": "0"},
        "runner_info": {"timeout": 3600},
        "variables": [{"key": "GIT_STRATEGY", "value": "none"}, {"key": "GREETING", "value": "hello"}],
        "steps": [{"name": "script", "script": ["true"], "timeout": 3600, "when": "on_success"}],
    });
    for (key, value) in payload.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    let payload: JobPayload = serde_json::from_value(whole).expect("a payload");
    Arc::new(Job::from_wire(payload, "docker-autoscaler").expect("a job"))
}
