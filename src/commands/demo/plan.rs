//! What the demo runs: its executors, their configuration as an operator would write it, and the jobs.

use std::path::Path;

use anyhow::bail;

use super::docker;
use crate::config;
use crate::config::diagnostics::Style;
use crate::config::environment::Environment;
use crate::config::resolved::Config;
use crate::sandbox::samples::{Sample, samples};
use crate::sandbox::{RUNNER_TOKEN, Sandbox};

/// Kinds of sample jobs; each executor gets one of each at least.
const KINDS: usize = 6;
/// Instances of one executor at least: two jobs at once, and one beside them.
const FEWEST_INSTANCES: usize = 3;
/// Instances of one executor at most: they share this machine.
const MOST_INSTANCES: usize = 10;

/// An executor that the demo shows; each is a runner of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Instance,
    Docker,
}

impl Part {
    /// The executor's name in a configuration.
    pub(super) fn executor(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Docker => "docker-autoscaler",
        }
    }

    /// A word for labels.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Docker => "docker",
        }
    }

    fn token(self) -> &'static str {
        match self {
            Self::Instance => RUNNER_TOKEN,
            Self::Docker => "glrt-sandboxdocker0000",
        }
    }
}

/// A job to be queued.
#[derive(Debug)]
pub(super) struct PlannedJob {
    pub(super) part: Part,
    /// `docker/hello`: names the job in every line.
    pub(super) label: String,
    pub(super) sample: Sample,
}

/// The whole demo before it starts.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    pub(super) jobs_each: usize,
    pub(super) max_instances: usize,
    image: String,
}

impl Plan {
    /// At least `jobs` in all, and one of each kind for each executor.
    pub(super) fn new(jobs: u32, docker: Option<&docker::Ready>) -> Self {
        let mut parts = vec![Part::Instance];
        parts.extend(docker.map(|_| Part::Docker));
        let jobs = usize::try_from(jobs).unwrap_or(usize::MAX);
        let jobs_each = jobs.div_ceil(parts.len()).max(KINDS);
        Self {
            jobs_each,
            max_instances: (jobs_each / 4).clamp(FEWEST_INSTANCES, MOST_INSTANCES),
            image: docker.map(|ready| ready.image.clone()).unwrap_or_default(),
            parts,
        }
    }

    /// Makes the runners known to GitLab.
    pub(super) fn add_runners(&self, sandbox: &Sandbox) {
        for part in self.parts.iter().filter(|part| part.token() != RUNNER_TOKEN) {
            sandbox.add_runner(part.token());
        }
    }

    /// The jobs in the order of the queue: the executors take turns.
    pub(super) fn jobs(&self) -> Vec<PlannedJob> {
        let mut queues: Vec<_> = self.parts.iter().map(|part| (*part, samples(self.jobs_each).into_iter())).collect();
        let mut jobs = Vec::new();
        for number in 1..=self.jobs_each {
            for (part, queue) in &mut queues {
                jobs.extend(queue.next().map(|sample| planned(*part, sample, number)));
            }
        }
        jobs
    }

    /// The configuration file of the demo, were it one.
    pub(super) fn config_text(&self, url: &str) -> String {
        let concurrent = self.parts.len() * self.max_instances + self.parts.len();
        let mut text = format!("concurrent = {concurrent}\ncheck_interval = 1\nshutdown_timeout = 30\n");
        for part in &self.parts {
            text += &self.runner_text(*part, url);
        }
        text
    }

    fn runner_text(&self, part: Part, url: &str) -> String {
        let (executor, token, max_instances) = (part.executor(), part.token(), self.max_instances);
        let docker = match part {
            Part::Instance => String::new(),
            Part::Docker => format!(
                "\n  [runners.docker]\n    image = \"{}\"\n    pull_policy = \"never\"\n    disable_cache = true\n",
                self.image
            ),
        };
        format!(
            r#"
[[runners]]
  name = "{executor}"
  url = "{url}"
  token = "{token}"
  executor = "{executor}"

  [runners.feature_flags]
    FF_TIMESTAMPS = false
{docker}
  [runners.autoscaler]
    plugin = "local"
    capacity_per_instance = 1
    max_instances = {max_instances}
    update_interval = "1s"
    update_interval_when_expecting = "200ms"
    delete_instances_on_shutdown = true
    shutdown_deletion_interval = "1s"

    [[runners.autoscaler.policy]]
      idle_count = 0
      idle_time = "3s"
"#
        )
    }

    /// That configuration as the program uses it. `folder` is where the file would lie.
    ///
    /// # Errors
    /// It is wrong, or part of it would not be served.
    pub(super) fn config(&self, url: &str, folder: &Path) -> anyhow::Result<Config> {
        let loaded = config::load(&folder.join("config.toml"), &self.config_text(url), &Environment::default());
        let Some(config) = loaded.resolved else {
            bail!("the demo's configuration\n{}", loaded.diagnostics.to_text(&loaded.source, Style::Plain));
        };
        if let Some(refusal) = config.refused().flat_map(|runner| &runner.refusals).next() {
            bail!("the demo's configuration: {refusal}");
        }
        Ok(config)
    }
}

fn planned(part: Part, sample: Sample, number: usize) -> PlannedJob {
    let word = part.word();
    let label =
        if number > KINDS { format!("{word}/{}-{number}", sample.name) } else { format!("{word}/{}", sample.name) };
    let job = sample.job.for_runner(part.token());
    PlannedJob { part, label, sample: Sample { job, ..sample } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolved::ExecutorKind;

    fn ready() -> docker::Ready {
        docker::Ready { image: "busybox:stable".to_owned(), version: "27".to_owned() }
    }

    #[test]
    fn each_executor_gets_each_kind_of_job_however_few_are_asked_for() {
        for (asked, docker, expected) in [(0, None, 6), (1, Some(ready()), 12), (13, Some(ready()), 14), (20, None, 20)]
        {
            let plan = Plan::new(asked, docker.as_ref());
            let jobs = plan.jobs();
            assert_eq!(jobs.len(), expected);
            let mut labels: Vec<_> = jobs.iter().map(|job| job.label.clone()).collect();
            labels.sort();
            labels.dedup();
            assert_eq!(labels.len(), expected, "each job has a name of its own");
        }
    }

    #[test]
    fn the_configuration_is_one_that_run_would_serve() {
        let plan = Plan::new(100, Some(&ready()));
        let config = plan.config("http://127.0.0.1:8080", Path::new("/nonexistent")).unwrap();
        let executors: Vec<_> = config.runnable().map(|runner| runner.executor).collect();
        assert_eq!(executors, [ExecutorKind::Instance, ExecutorKind::DockerAutoscaler]);
        assert_eq!(config.runners[1].docker.image.as_deref(), Some("busybox:stable"));
        for autoscaler in config.runners.iter().filter_map(|runner| runner.autoscaler()) {
            assert!(autoscaler.delete_instances_on_shutdown);
            assert_eq!(autoscaler.max_instances, 10);
        }
        let text = plan.config_text("http://127.0.0.1:8080");
        let loaded = config::load(Path::new("config.toml"), &text, &Environment::default());
        assert_eq!(loaded.diagnostics.items().len(), 0, "{}", loaded.diagnostics.to_text(&loaded.source, Style::Plain));
    }
}
