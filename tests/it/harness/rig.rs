//! One real instance, one manager on it, one GitLab.

use std::path::Path;

use flotilla::sandbox::{JobHandle, JobReport, Sandbox, SandboxJob};

use super::namespace::{self, HOST, Namespace, USER};
use super::process::Manager;
use super::run;
use super::tls_front::{self, TlsFront};

/// What is special about a rig; all else is as in [`Rig::boot`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) executor: &'a str,
    /// Lines of the global section.
    pub(crate) global: &'a str,
    /// Lines of `[[runners]]`, then of tables of it.
    pub(crate) runner: &'a str,
    /// Lines of `[runners.docker]`.
    pub(crate) docker: &'a str,
    /// The image of jobs that name none.
    pub(crate) image: &'a str,
    /// The network of containers: `host`, `bridge`, …
    pub(crate) network: &'a str,
    /// Lines of sshd's configuration.
    pub(crate) sshd: &'a str,
    /// Jobs at once on the instance.
    pub(crate) slots: u32,
    /// GitLab is reached over TLS, and only the manager's own machine trusts its authority.
    pub(crate) tls: bool,
}

impl<'a> Setup<'a> {
    pub(crate) fn of(executor: &'a str) -> Self {
        Self {
            executor,
            global: "",
            runner: "",
            docker: "",
            image: "flotilla-test/busybox",
            network: "host",
            sshd: "",
            slots: 20,
            tls: false,
        }
    }
}

/// The manager ends before its instance, and that before GitLab. What was left on the engine goes with them: an
/// instance that was killed has taken it along as far as the manager can tell.
pub(crate) struct Rig {
    pub(crate) manager: Manager,
    pub(crate) instance: Namespace,
    pub(crate) sandbox: Sandbox,
    _front: Option<TlsFront>,
    executor: String,
    token: String,
}

impl Rig {
    /// Starts the three; jobs may come at once.
    pub(crate) async fn boot(setup: Setup<'_>) -> Self {
        namespace::make_network();
        let address = format!("{HOST}:0").parse().expect("an address");
        let sandbox = Sandbox::start(address).await.expect("a sandbox");
        // Jobs and runners are numbered from 1 in each sandbox: the token tells what is whose on the engine.
        let token = format!("glrt-{:016x}", rand::random::<u64>());
        sandbox.add_runner(&token);
        let instance = Namespace::boot(setup.sshd);
        let front = if setup.tls { Some(TlsFront::start(HOST, sandbox.addr()).await) } else { None };
        let (url, environment) = match &front {
            Some(front) => (front.url(), vec![("SSL_CERT_FILE".to_owned(), display(&tls_front::authority()))]),
            None => (sandbox.url(), Vec::new()),
        };
        let manager = Manager::start_with(&config(&setup, &url, &token, &instance), environment);
        Self { manager, instance, sandbox, _front: front, executor: setup.executor.to_owned(), token }
    }

    pub(crate) fn enqueue(&self, job: SandboxJob) -> JobHandle {
        self.sandbox.enqueue(job)
    }

    /// Queues a job and waits for its end.
    pub(crate) async fn run(&self, job: SandboxJob) -> (JobReport, String) {
        super::finish(&self.enqueue(job)).await
    }

    /// Waits until nothing of a job that has ended is left on the instance and its engine.
    pub(crate) fn leaves_nothing(&self) {
        super::eventually("nothing is left on the engine", || self.on_engine().is_empty());
        if self.executor == "instance" {
            super::eventually("no process of a job is left on the instance", || {
                self.instance.processes().iter().all(|line| line.contains(" agent"))
            });
        }
    }

    /// The containers of this rig's jobs.
    pub(crate) fn on_engine(&self) -> Vec<String> {
        let label = format!("label=com.gitlab.gitlab-runner.runner.id={}", self.short_token());
        let names = run("docker", &["ps", "--all", "--format", "{{.Names}}", "--filter", &label]);
        names.lines().map(str::to_owned).collect()
    }

    /// What traces and labels call the runner.
    pub(crate) fn short_token(&self) -> &str {
        flotilla::ids::short_token(&self.token)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            super::tell("a rig of", &self.executor);
        }
        if self.executor != "instance" {
            super::clear_engine(self.short_token());
        }
    }
}

fn config(setup: &Setup<'_>, url: &str, token: &str, instance: &Namespace) -> String {
    let Setup { executor, global, runner, docker, image, network, slots, .. } = setup;
    let (key, address) = (display(&instance.key), &instance.address);
    let concurrent = slots + 10;
    format!(
        r#"
concurrent = {concurrent}
check_interval = 1
shutdown_timeout = 10
{global}
[[runners]]
  name = "rig"
  id = 1
  url = "{url}"
  token = "{token}"
  executor = "{executor}"
  request_concurrency = 10
  {runner}
  [runners.docker]
    image = "{image}"
    pull_policy = "if-not-present"
    network_mode = "{network}"
    {docker}
  [runners.autoscaler]
    plugin = "static"
    capacity_per_instance = {slots}
    max_instances = 1
    [runners.autoscaler.connector_config]
      username = "{USER}"
      key_path = "{key}"
    [runners.autoscaler.plugin_config.instances.i-1]
      internal_addr = "{address}"
    [[runners.autoscaler.policy]]
      idle_count = 1
      idle_time = "10m"
"#
    )
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
