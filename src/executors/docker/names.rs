//! Names and labels of what a job makes on an engine, as operators and their clean-up tools know them.

use std::collections::HashMap;

use crate::executors::FormerJob;
use crate::go_duration::GoDuration;
use crate::job::resolved::ResolvedJob;

/// The prefix of the runner's labels.
const PREFIX: &str = "com.gitlab.gitlab-runner.";

/// Who runs a job, for labels.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) short_token: String,
    pub(crate) system_id: String,
    pub(crate) concurrent_id: u32,
    pub(crate) concurrent_project_id: u32,
}

/// The names of one job's things: `R-build`, `R-predefined` and temporary volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobNames {
    random: String,
}

impl JobNames {
    pub(crate) fn new(unique: &str) -> Self {
        Self { random: format!("{unique}-{:016x}", rand::random::<u64>()) }
    }

    /// The beginning of all of them.
    pub(crate) fn base(&self) -> &str {
        &self.random
    }

    pub(crate) fn container(&self, kind: Kind) -> String {
        format!("{}-{}", self.random, kind.as_str())
    }

    /// One that gives folders to the job's user. A job may need more than one.
    pub(crate) fn owning_container(&self) -> String {
        format!("{}-own-{:08x}", self.random, rand::random::<u32>())
    }
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The job's image.
    Build,
    /// The helper image.
    Predefined,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Predefined => "predefined",
        }
    }
}

/// The labels that everything of a job carries, with those of the thing itself.
pub(crate) fn labels<'a>(
    job: &ResolvedJob,
    owner: &Owner,
    own: impl IntoIterator<Item = (&'a str, String)>,
) -> HashMap<String, String> {
    let git = &job.job.git;
    let pipeline = match job.job.pipeline_id {
        0 => job.variables.value("CI_PIPELINE_ID").to_owned(),
        id => id.to_string(),
    };
    [
        ("job.id", job.job.id.to_string()),
        ("job.url", format!("{}/-/jobs/{}", job.variables.value("CI_PROJECT_URL"), job.job.id)),
        ("job.sha", git.sha.clone()),
        ("job.before_sha", git.before_sha.clone()),
        ("job.ref", git.ref_name.clone()),
        ("job.timeout", GoDuration::saturating(job.job.timeout).to_string()),
        ("project.id", job.job.project.id.to_string()),
        ("project.runner_id", owner.concurrent_project_id.to_string()),
        ("pipeline.id", pipeline),
        ("runner.id", owner.short_token.clone()),
        ("runner.local_id", owner.concurrent_id.to_string()),
        ("runner.system_id", owner.system_id.clone()),
        ("managed", "true".to_owned()),
    ]
    .into_iter()
    .chain(own)
    .map(|(name, value)| (format!("{PREFIX}{name}"), value))
    .collect()
}

/// Finds by their labels what a job of the runner with this token has on an engine. Other runners of this manager may
/// use the same engine, and serve jobs of the same number from another GitLab. `own` are further labels of the
/// thing itself.
pub(crate) fn label_filter(job: &FormerJob, short_token: &str, own: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let id = job.id.to_string();
    let job = [
        ("job.id", id.as_str()),
        ("runner.id", short_token),
        ("runner.system_id", job.system_id.as_str()),
        ("managed", "true"),
    ];
    let labels = job.iter().chain(own).map(|(name, value)| format!("{PREFIX}{name}={value}"));
    [("label".to_owned(), labels.collect())].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;

    #[test]
    fn former_job_is_looked_for_among_its_runners_things_only() {
        let job = FormerJob { id: JobId(7), name: "7-a".to_owned(), system_id: "s_1".to_owned() };
        let labels = ["job.id=7", "runner.id=abc", "runner.system_id=s_1", "managed=true", "reusable=false"];
        let expected: Vec<String> = labels.iter().map(|label| format!("{PREFIX}{label}")).collect();
        let filter = label_filter(&job, "abc", &[("reusable", "false")]);
        assert_eq!(filter, HashMap::from([("label".to_owned(), expected)]));
    }

    #[test]
    fn two_jobs_of_one_place_have_different_containers() {
        let (one, other) =
            (JobNames::new("runner-a-project-1-concurrent-0"), JobNames::new("runner-a-project-1-concurrent-0"));
        assert_ne!(one, other);
        assert!(one.container(Kind::Build).starts_with("runner-a-project-1-concurrent-0-"));
        assert!(one.container(Kind::Predefined).ends_with("-predefined"));
    }
}
