//! A manager on embedded instances of this machine, for what needs no instance of its own kind.

use std::fs;

use flotilla::sandbox::{JobHandle, RUNNER_TOKEN, Sandbox, SandboxJob};

use super::process::Manager;

/// The manager ends before its GitLab.
pub(crate) struct LocalRig {
    pub(crate) manager: Manager,
    pub(crate) sandbox: Sandbox,
}

impl LocalRig {
    /// One runner of the instance executor; `global` and `autoscaler` are further lines of those sections.
    pub(crate) async fn start(global: &str, autoscaler: &str) -> Self {
        Self::start_limited(None, global, autoscaler).await
    }

    /// The same with at most so many open descriptors.
    pub(crate) async fn start_limited(descriptors: Option<u64>, global: &str, autoscaler: &str) -> Self {
        Self::start_with(Vec::new(), descriptors, global, autoscaler).await
    }

    /// The same with variables of its own.
    pub(crate) async fn start_with(
        environment: Vec<(String, String)>,
        descriptors: Option<u64>,
        global: &str,
        autoscaler: &str,
    ) -> Self {
        let sandbox = super::sandbox().await;
        let manager = Manager::start_limited(&config(&sandbox, global, autoscaler), environment, descriptors);
        Self { manager, sandbox }
    }

    pub(crate) fn enqueue(&self, job: SandboxJob) -> JobHandle {
        self.sandbox.enqueue(job)
    }

    /// The config with other lines.
    pub(crate) fn config(&self, global: &str, autoscaler: &str) -> String {
        config(&self.sandbox, global, autoscaler)
    }

    /// Process ids of the instances by their names, of all runners.
    pub(crate) fn instances(&self) -> Vec<(String, u32)> {
        instances(&self.manager)
    }
}

/// Instances as their folders tell of them.
pub(crate) fn instances(manager: &Manager) -> Vec<(String, u32)> {
    let root = manager.folder().join(".flotilla/local");
    let entries = |folder: std::path::PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(String, u32)> = entries(root)
        .flat_map(|runner| entries(runner.path()))
        .filter_map(|instance| {
            let record = fs::read(instance.path().join("instance.json")).ok()?;
            let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
            let pid = record["process"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())?;
            Some((instance.file_name().to_string_lossy().into_owned(), pid))
        })
        .collect();
    found.sort();
    found
}

fn config(sandbox: &Sandbox, global: &str, autoscaler: &str) -> String {
    let runner = runner(sandbox, "local", RUNNER_TOKEN, "", autoscaler);
    format!("concurrent = 20\ncheck_interval = 1\nshutdown_timeout = 10\n{global}\n{runner}")
}

/// A `[[runners]]` entry whose instances go with the manager.
pub(crate) fn runner(sandbox: &Sandbox, name: &str, token: &str, lines: &str, autoscaler: &str) -> String {
    format!(
        r#"
[[runners]]
  name = "{name}"
  url = "{}"
  token = "{token}"
  executor = "instance"
  {lines}
  [runners.autoscaler]
    plugin = "local"
    max_instances = 4
    delete_instances_on_shutdown = true
    {autoscaler}
"#,
        sandbox.url()
    )
}
