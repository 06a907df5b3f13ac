//! Which volumes a job's containers have: the configured ones, and one for the builds. Pure.
//!
//! Names are the reference's, so caches of a fleet that changes to this runner stay warm.

use md5::{Digest as _, Md5};

use super::names::JobNames;
use crate::config::resolved::Docker;
use crate::config::types::volume::Volume;
use crate::excerpt::excerpt;
use crate::job::failure::Fault;
use crate::job::resolved::ResolvedJob;
use crate::job::settings::GitStrategy;

/// The volumes of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// `source:destination[:options]`, for the engine as they are.
    pub(crate) binds: Vec<String>,
    /// Volumes that the runner makes.
    pub(crate) made: Vec<Made>,
}

/// A volume that the runner makes with the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) destination: String,
    pub(crate) protected: bool,
    /// It stays for the next job of the same place.
    pub(crate) reusable: bool,
}

impl Plan {
    /// # Errors
    /// A volume text that is none, or two volumes in one place.
    pub(crate) fn of(config: &Docker, job: &ResolvedJob, names: &JobNames) -> Result<Self, Fault> {
        let mut planner = Planner { config, job, names, protected: is_protected(job), plan: Self::default() };
        for text in &config.volumes {
            let mut volume: Volume =
                text.parse().map_err(|_| Fault::configuration(format!("invalid volume specification: {text:?}")))?;
            volume.destination = expanded(&volume.destination, |text| job.variables.expand(text))?;
            planner.add(&volume, true)?;
        }
        let builds = Volume { source: None, destination: job.dirs.builds_dir.clone(), options: Vec::new() };
        if !planner.has(&builds.destination) {
            // Only a fetch has a use for what the last job left.
            planner.add(&builds, job.settings.git_strategy == GitStrategy::Fetch)?;
        }
        Ok(planner.plan)
    }

    /// The volumes to delete after the job.
    pub(crate) fn temporary(&self) -> impl Iterator<Item = &Made> {
        self.made.iter().filter(|made| !made.reusable)
    }
}

/// A destination with the job's variables in it. The engine takes it as a part of `source:destination:options`, so a job
/// must not end it early and go on with options of its own.
fn expanded(destination: &str, expand: impl Fn(&str) -> String) -> Result<String, Fault> {
    let expanded = expand(destination);
    let is_path = expanded.starts_with('/') && !expanded.contains(|c: char| c == ':' || c.is_control());
    if is_path && !expanded.trim_matches('/').is_empty() {
        return Ok(expanded);
    }
    let shown = excerpt(expanded);
    Err(Fault::configuration(format!("the volume {destination:?} has no place in the job's container: {shown:?}")))
}

/// Whether builds lie in a folder of the engine's host, which jobs share.
pub(crate) fn is_host_mounted(config: &Docker, builds_dir: &str) -> bool {
    let mounted = |text: &String| {
        text.parse::<Volume>().is_ok_and(|volume| {
            let inside = builds_dir.strip_prefix(&volume.destination);
            volume.source.is_some() && inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    config.volumes.iter().any(mounted)
}

struct Planner<'a> {
    config: &'a Docker,
    job: &'a ResolvedJob,
    names: &'a JobNames,
    protected: bool,
    plan: Plan,
}

impl Planner<'_> {
    fn has(&self, destination: &str) -> bool {
        let bound = |bind: &String| bind.parse::<Volume>().is_ok_and(|volume| volume.destination == destination);
        self.plan.made.iter().any(|made| made.destination == destination) || self.plan.binds.iter().any(bound)
    }

    fn add(&mut self, volume: &Volume, may_stay: bool) -> Result<(), Fault> {
        let destination = &volume.destination;
        if self.has(destination) {
            return Err(Fault::configuration(format!("volume for container path {destination:?} is already defined")));
        }
        let suffix = if self.protected { "-protected" } else { "" };
        let digest = md5_hex(destination);
        match (&volume.source, &self.config.cache_dir) {
            (Some(source), _) => {
                let options =
                    if volume.options.is_empty() { String::new() } else { format!(":{}", volume.options.join(",")) };
                self.plan.binds.push(format!("{source}:{destination}{options}"));
            }
            (None, Some(folder)) if may_stay && !self.config.disable_cache => {
                let folder = folder.trim_end_matches('/');
                self.plan.binds.push(format!("{folder}/{}/{digest}{suffix}:{destination}", self.job.names.reusable));
            }
            (None, _) => {
                let reusable = may_stay && !self.config.disable_cache;
                let base = if reusable { &self.job.names.reusable } else { self.names.base() };
                self.plan.made.push(Made {
                    name: format!("{base}-cache-{digest}{suffix}"),
                    destination: destination.clone(),
                    protected: self.protected,
                    reusable,
                });
            }
        }
        Ok(())
    }
}

/// Jobs of protected refs have volumes of their own, so that others cannot prepare what they find.
fn is_protected(job: &ResolvedJob) -> bool {
    let marked = |key: &str| key.ends_with("-protected") && !key.ends_with("-non_protected");
    job.job.git.protected || job.job.caches.iter().any(|cache| marked(&cache.key))
}

fn md5_hex(text: &str) -> String {
    hex::encode(Md5::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::FailureReason;

    #[test]
    fn volumes_are_named_by_the_hash_of_their_place() {
        assert_eq!(md5_hex("/cache"), "3c3f060a0374fc8bc39395164f415a70");
        assert_eq!(md5_hex("/builds"), "c33bcaa1fd2c77edfc3893b41966cea8");
    }

    #[test]
    fn job_cannot_add_options_to_a_volume_by_a_variable_of_its_destination() {
        let with = |value: &'static str| move |text: &str| text.replace("$X", value);
        assert_eq!(expanded("/data/$X", with("a b/c")).unwrap(), "/data/a b/c");
        assert_eq!(expanded("/data/$X", with("")).unwrap(), "/data/");
        for (destination, value) in [("/data/$X", "a:rshared"), ("/data/$X", "a\nb"), ("/$X", ""), ("/$X", "/")] {
            let fault = expanded(destination, with(value)).unwrap_err();
            assert_eq!(fault.reason(), FailureReason::RunnerConfigurationError, "{destination} {value}");
        }
    }

    #[test]
    fn builds_on_the_host_are_shared() {
        let config = |volume: &str| Docker { volumes: vec![volume.to_owned()], ..Docker::default() };
        for (volume, shared) in [
            ("/srv:/builds", true),
            ("/srv:/builds/x", false),
            ("/srv:/build", false),
            ("/builds", false),
            ("data:/builds", true),
        ] {
            assert_eq!(is_host_mounted(&config(volume), "/builds"), shared, "{volume}");
        }
    }
}
