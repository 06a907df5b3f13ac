//! A job with all that its runner and executor add: the variables in their order, expanded, and what
//! follows from them.
//!
//! [`ResolvedJob::resolve`] is a pure function of a job and its [`Facts`], and may be called twice: once
//! with what the configuration says, for the lifecycle, and once more when the executor knows the
//! directories of the instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::job::dirs::{Dirs, Names, Place, Roots};
use crate::job::failure::Fault;
use crate::job::feature_flags::{FeatureFlags, is_feature_flag};
use crate::job::payload::Job;
use crate::job::settings::{JobSettings, SettingsInput};
use crate::job::variables::{TEMP_PROJECT_DIR, Variable, Variables};
use crate::secret::Secret;

/// What the runner, the executor and the instance know about where a job runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The runner's token.
    pub token: Secret,
    pub system_id: String,
    /// `environment` of the runner.
    pub environment: Vec<(String, String)>,
    /// `[runners.feature_flags]`.
    pub feature_flags: BTreeMap<String, bool>,
    pub debug_trace_disabled: bool,
    pub roots: Roots,
    /// Jobs share the place with others (instance executor), instead of one that is thrown away.
    pub shared_environment: bool,
    /// The number of this job among the running ones of its runner.
    pub concurrent_id: u32,
    /// The number of this job among the running ones of its project.
    pub concurrent_project_id: u32,
    pub tls: TlsData,
    /// `CI_RUNNER_VERSION`.
    pub version: String,
    /// `CI_RUNNER_REVISION`.
    pub revision: String,
    /// `CI_RUNNER_EXECUTABLE_ARCH`: `<os>/<architecture>` of the manager.
    pub executable_arch: String,
    /// Secrets of outside stores, resolved.
    pub secrets: Vec<Variable>,
    /// `GITLAB_RUNNER_SLOT_CGROUP`, where slots have cgroups.
    pub slot_cgroup: Option<String>,
}

/// Contents of TLS files for the job's git and helper; empty where there are none.
#[derive(Clone, Debug, Default)]
pub struct TlsData {
    pub ca_chain: String,
    pub certificate: String,
    pub key: Secret,
}

/// A job, ready to have its scripts written.
#[derive(Clone, Debug)]
pub struct ResolvedJob {
    pub job: Arc<Job>,
    pub flags: FeatureFlags,
    /// In their order, expanded.
    pub variables: Variables,
    pub settings: JobSettings,
    pub dirs: Dirs,
    pub names: Names,
    /// What the user should know before the job begins.
    pub warnings: Vec<String>,
}

impl ResolvedJob {
    /// Resolves `job` for the place that `facts` describe.
    ///
    /// # Errors
    /// The directories that the job asks for cannot be used: a configuration error.
    pub fn resolve(job: Arc<Job>, facts: &Facts) -> Result<Self, Fault> {
        let mut warnings = job.warnings.clone();
        let flags = flags_of(&job, facts, &mut warnings);
        let place = place_of(facts);
        let names = Names::of(&job, place);
        let input = SettingsInput {
            allow_git_fetch: job.allow_git_fetch,
            git_depth: job.git.depth,
            job_timeout: job.timeout,
            debug_trace_disabled: facts.debug_trace_disabled,
        };
        // GIT_CLONE_PATH may refer to CI_BUILDS_DIR, so the settings are read before the directories are known.
        let undirected = assemble(&job, facts, &flags, &names, None).expanded();
        let settings = JobSettings::read(&undirected, input, &mut warnings);
        let dirs = Dirs::of(&job, &settings, &facts.roots, place)?;
        let variables = assemble(&job, facts, &flags, &names, Some(&dirs)).expanded();
        for variable in variables.iter().filter(|variable| !variable.has_shell_name()) {
            warnings.push(format!(
                "variable {:?} is not set in scripts: a shell has no variables of this name",
                variable.key
            ));
        }
        Ok(Self { job, flags, variables, settings, dirs, names, warnings })
    }

    /// What must not show in a trace that says why [`ResolvedJob::resolve`] failed; as
    /// [`Variables::masked_phrases`], of what is known without the directories.
    pub fn masked_phrases(job: &Job, facts: &Facts) -> Vec<String> {
        let flags = flags_of(job, facts, &mut Vec::new());
        assemble(job, facts, &flags, &Names::of(job, place_of(facts)), None).expanded().masked_phrases()
    }

    /// The script lines of a step as they run: those of `release` are expanded by the runner.
    pub fn step_script(&self, name: &str) -> Option<Vec<String>> {
        let step = self.job.steps.iter().find(|step| step.stage().id() == format!("step_{name}"))?;
        Some(if name == "release" {
            step.script.iter().map(|line| self.variables.expand(line)).collect()
        } else {
            step.script.clone()
        })
    }
}

fn flags_of(job: &Job, facts: &Facts, warnings: &mut Vec<String>) -> FeatureFlags {
    let own: Vec<Variable> = facts
        .environment
        .iter()
        .map(|(key, value)| Variable::new(key.as_str(), value.as_str()))
        .chain(job.variables.iter().cloned())
        .collect();
    FeatureFlags::resolve(&facts.feature_flags, &own, warnings)
}

fn place_of(facts: &Facts) -> Place<'_> {
    Place {
        token: facts.token.expose(),
        system_id: &facts.system_id,
        concurrent_project_id: facts.concurrent_project_id,
    }
}

/// Everything that a job's scripts see, unexpanded, in the order in which later ones win.
fn assemble(job: &Job, facts: &Facts, flags: &FeatureFlags, names: &Names, dirs: Option<&Dirs>) -> Variables {
    let mut list = Variables::default();
    list.extend(flags.iter().map(|(flag, on)| Variable::internal(flag, on.to_string())));
    if let Some(image) = &job.image {
        list.push(Variable::internal("CI_JOB_IMAGE", image.name.as_str()));
    }
    list.push(Variable::internal("CI_RUNNER_SHORT_TOKEN", crate::ids::short_token(facts.token.expose())));
    list.extend(
        facts
            .environment
            .iter()
            .map(|(key, value)| Variable { internal: true, ..Variable::new(key.as_str(), value.as_str()) }),
    );
    let builds_dir = crate::job::dirs::clean(&facts.roots.builds_dir);
    list.push(Variable::internal("CI_BUILDS_DIR", builds_dir));
    list.push(Variable::internal("CI_PROJECT_DIR", dirs.map_or("", |dirs| &dirs.project_dir)));
    list.push(Variable::internal("CI_CONCURRENT_ID", facts.concurrent_id.to_string()));
    list.push(Variable::internal("CI_CONCURRENT_PROJECT_ID", facts.concurrent_project_id.to_string()));
    list.push(Variable::internal("CI_SERVER", "yes"));
    list.push(Variable::internal("CI_JOB_STATUS", "running"));
    list.push(Variable::internal("CI_JOB_TIMEOUT", job.timeout.as_secs().to_string()));
    for (key, content, public) in [
        ("CI_SERVER_TLS_CA_FILE", facts.tls.ca_chain.as_str(), true),
        ("CI_SERVER_TLS_CERT_FILE", facts.tls.certificate.as_str(), true),
        ("CI_SERVER_TLS_KEY_FILE", facts.tls.key.expose(), false),
    ] {
        if !content.is_empty() {
            list.push(Variable { public, ..Variable::file(key, content) });
        }
    }
    list.extend(job.variables.iter().filter(|variable| !is_feature_flag(&variable.key)).cloned());
    if let Some(cgroup) = &facts.slot_cgroup {
        list.push(Variable::internal("GITLAB_RUNNER_SLOT_CGROUP", cgroup.as_str()));
    }
    let kind = if facts.shared_environment { "CI_SHARED_ENVIRONMENT" } else { "CI_DISPOSABLE_ENVIRONMENT" };
    list.push(Variable::internal(kind, "true"));
    list.push(Variable::internal("CI_RUNNER_VERSION", facts.version.as_str()));
    list.push(Variable::internal("CI_RUNNER_REVISION", facts.revision.as_str()));
    list.push(Variable::internal("CI_RUNNER_EXECUTABLE_ARCH", facts.executable_arch.as_str()));
    list.extend(facts.secrets.iter().cloned());
    list.push(Variable::internal(TEMP_PROJECT_DIR, dirs.map_or("", |dirs| &dirs.tmp_dir)));
    if flags.is_on("FF_NETWORK_PER_BUILD") {
        list.push(Variable::internal("CI_BUILD_NETWORK_NAME", names.short.as_str()));
    }
    list
}

#[cfg(test)]
mod tests;
