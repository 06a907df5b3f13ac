//! Names and directories of a job, as GitLab Runner makes them, so that operators find their volumes,
//! containers and checkouts again.
//!
//! Paths are those of the place where the job runs: absolute, with `/`.

use sha2::{Digest as _, Sha256};

use crate::job::failure::Fault;
use crate::job::payload::Job;
use crate::job::settings::{GitStrategy, JobSettings};

/// Host names, and so the names of containers, are at most this long.
const MAX_NAME: usize = 63;

/// What names a job's place among others of the same runner and project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The runner's token, whole.
    pub token: &'a str,
    pub system_id: &'a str,
    /// The number of this job among the running ones of its project.
    pub concurrent_project_id: u32,
}

/// Names for what a job makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// `runner-<short token>-project-<project>-concurrent-<n>`: the host name.
    pub unique: String,
    /// `runner-<short token>-<project>-<n>-<job>`: the network.
    pub short: String,
    /// `runner-<32 hex>`: volumes that outlive the job and are the same for the next one in this place.
    pub reusable: String,
}

impl Names {
    pub fn of(job: &Job, place: Place<'_>) -> Self {
        let short_token = crate::ids::short_token(place.token);
        let Place { token, system_id, concurrent_project_id } = place;
        let project = job.project.id;
        let digest = Sha256::digest(format!("{token}-{system_id}-{project}-{concurrent_project_id}"));
        let reusable = format!("runner-{}", hex::encode(digest).get(..32).unwrap_or_default());
        Self {
            unique: host_name(&format!("runner-{short_token}-project-{project}-concurrent-{concurrent_project_id}")),
            short: host_name(&format!("runner-{short_token}-{project}-{concurrent_project_id}-{}", job.id)),
            reusable,
        }
    }
}

/// `text` as RFC 1123 allows a label: lower case, other characters left out, at most 63.
fn host_name(text: &str) -> String {
    let allowed = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
        .collect::<String>();
    allowed.trim_start_matches('-').chars().take(MAX_NAME).collect()
}

/// Where a runner keeps builds and caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Absolute.
    pub builds_dir: String,
    /// Absolute.
    pub cache_dir: String,
    /// Several jobs may use `builds_dir` at once, so that each place gets a directory of its own.
    pub shared: bool,
    /// `GIT_CLONE_PATH` may be used.
    pub custom_build_dir: bool,
}

/// The directories of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    pub builds_dir: String,
    /// Where the sources are and the scripts run.
    pub project_dir: String,
    /// Beside it: file variables, `GITLAB_ENV`, git settings.
    pub tmp_dir: String,
    /// Of this project's local caches.
    pub cache_dir: String,
}

impl Dirs {
    /// The directories for `job` in `place` under `roots`.
    ///
    /// # Errors
    /// `GIT_CLONE_PATH` is not allowed here, or leaves the builds directory.
    pub fn of(job: &Job, settings: &JobSettings, roots: &Roots, place: Place<'_>) -> Result<Self, Fault> {
        let slug = project_slug(job);
        let suffix = if settings.git_strategy == GitStrategy::Empty { "-empty" } else { "" };
        let builds_dir = clean(&roots.builds_dir);
        let project_dir = match &settings.git_clone_path {
            Some(path) => clone_path(path, &builds_dir, roots.custom_build_dir)?,
            None if roots.shared => {
                let short_token = crate::ids::short_token(place.token);
                format!("{builds_dir}/{short_token}/{}/{slug}{suffix}", place.concurrent_project_id)
            }
            None => format!("{builds_dir}/{slug}{suffix}"),
        };
        Ok(Self {
            tmp_dir: format!("{project_dir}.tmp"),
            cache_dir: format!("{}/{slug}{suffix}", clean(&roots.cache_dir)),
            builds_dir,
            project_dir,
        })
    }

    /// `path` as seen from the project directory.
    pub fn relative_to_project(&self, path: &str) -> String {
        let from: Vec<&str> = components(&self.project_dir).collect();
        let to: Vec<&str> = components(path).collect();
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let up = from.iter().skip(common).map(|_| "..");
        let down = to.iter().skip(common).copied();
        let parts: Vec<&str> = up.chain(down).collect();
        if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
    }
}

fn clone_path(path: &str, builds_dir: &str, allowed: bool) -> Result<String, Fault> {
    if !allowed {
        return Err(Fault::configuration("setting GIT_CLONE_PATH is not allowed, enable `custom_build_dir` feature"));
    }
    let cleaned = clean(path);
    let inside = cleaned.strip_prefix(builds_dir).is_some_and(|rest| rest.starts_with('/'));
    if !path.starts_with('/') || !inside && cleaned != builds_dir {
        // As it is: escaped, a masked value would not be found in it.
        return Err(Fault::configuration(format!("the GIT_CLONE_PATH=\"{path}\" has to be within \"{builds_dir}\"")));
    }
    Ok(cleaned)
}

/// The project's path at the server, from the URL of its repository.
fn project_slug(job: &Job) -> String {
    let url = job.git.repo_url.expose();
    let path = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or("", |(_, path)| path.split(['?', '#']).next().unwrap_or(path));
    let slug = clean(&format!("/{}", path.strip_suffix(".git").unwrap_or(path)));
    match slug.strip_prefix('/') {
        Some(slug) if !slug.is_empty() => slug.to_owned(),
        _ => format!("project-{}", job.project.id),
    }
}

/// An absolute path without `.`, `..` and doubled slashes; `..` stops at the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in components(path) {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests;
