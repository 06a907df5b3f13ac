//! Which image a job runs in, and under which policies it may be fetched. Pure.

use crate::config::resolved::Docker;
use crate::config::types::pull_policy::PullPolicy;
use crate::job::failure::Fault;
use crate::job::resolved::ResolvedJob;

/// An image to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Expanded, as the job or the configuration names it.
    pub(crate) name: String,
    pub(crate) platform: Option<String>,
    /// In the order of attempts. Never empty.
    pub(crate) policies: Vec<PullPolicy>,
}

/// Name and tag, or digest, as the engine's pull takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) tag: String,
}

/// What the job asks for, checked against what the runner allows.
///
/// # Errors
/// No image, one that is not allowed, or no pull policy that is. `refused_lines` gets what the user
/// should read besides.
pub(crate) fn build_image(
    config: &Docker,
    job: &ResolvedJob,
    refused_lines: &mut Vec<String>,
) -> Result<Wanted, Fault> {
    let configured = config.image.as_deref().map(|image| job.variables.expand(image)).unwrap_or_default();
    let asked = job.job.image.as_ref();
    let name = asked.map(|image| job.variables.expand(&image.name)).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| configured.clone());
    if name.is_empty() {
        return Err(Fault::configuration("no Docker image specified to run the build in"));
    }
    if name != configured && !config.allowed_images.allows(&name) {
        refused_lines.push(format!("The {name:?} image is not present on list of allowed images:"));
        refused_lines.extend(config.allowed_images.texts().iter().map(|pattern| format!("- {pattern}")));
        return Err(Fault::configuration("disallowed image"));
    }
    let platform = asked.and_then(|image| image.platform.as_deref()).map(|platform| job.variables.expand(platform));
    let own = asked.map_or(&[][..], |image| &image.pull_policies);
    let policies = policies(config, &name, own)?;
    Ok(Wanted { name, platform, policies })
}

/// An image that the configuration names, such as the helper's.
pub(crate) fn configured_image(config: &Docker, name: String) -> Result<Wanted, Fault> {
    let policies = policies(config, &name, &[])?;
    Ok(Wanted { name, platform: None, policies })
}

/// The built-in helper image: one that is there is used, whatever the policy, since its tag never changes.
pub(crate) fn default_helper(config: &Docker, name: String) -> Result<Wanted, Fault> {
    let mut wanted = configured_image(config, name)?;
    for policy in &mut wanted.policies {
        if *policy == PullPolicy::Always {
            *policy = PullPolicy::IfNotPresent;
        }
    }
    Ok(wanted)
}

/// Whether the job's container may be privileged: matched by the name that the job gives, so a job
/// without an image is matched as the empty name.
pub(crate) fn is_privileged(config: &Docker, job: &ResolvedJob) -> bool {
    let given = job.job.image.as_ref().map(|image| job.variables.expand(&image.name)).unwrap_or_default();
    config.privileged && config.allowed_privileged_images.allows(&given)
}

/// The policies that count: the job's, or else the runner's, as far as they are allowed.
fn policies(config: &Docker, image: &str, asked: &[String]) -> Result<Vec<PullPolicy>, Fault> {
    let mut wanted = Vec::new();
    for word in asked {
        let policy =
            word.parse().map_err(|_| Fault::configuration(format!("unsupported pull_policy config: {word:?}")))?;
        wanted.push(policy);
    }
    let source = if wanted.is_empty() { "Runner config" } else { "GitLab pipeline config" };
    let wanted = if wanted.is_empty() { config.pull_policies.clone() } else { wanted };
    let effective: Vec<PullPolicy> =
        wanted.iter().copied().filter(|policy| config.allowed_pull_policies.contains(policy)).collect();
    if effective.is_empty() {
        return Err(Fault::configuration(format!(
            "invalid pull policy for image {image:?}: pull_policy ({}) defined in {source} is not one of the allowed_pull_policies ({})",
            shown(&wanted),
            shown(&config.allowed_pull_policies)
        )));
    }
    Ok(effective)
}

/// Policies as the trace shows them: `[always if-not-present]`.
pub(crate) fn shown(policies: &[PullPolicy]) -> String {
    let words: Vec<&str> = policies.iter().map(|policy| policy.as_str()).collect();
    format!("[{}]", words.join(" "))
}

impl Reference {
    /// Splits an image's name for the engine, which pulls all tags where none is named.
    pub(crate) fn parse(image: &str) -> Self {
        if let Some((name, digest)) = image.split_once('@') {
            return Self { name: name.to_owned(), tag: digest.to_owned() };
        }
        // A colon before the last slash belongs to a registry's port.
        match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => Self { name: name.to_owned(), tag: tag.to_owned() },
            Some(_) | None => Self { name: image.to_owned(), tag: "latest".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pull_names_one_tag() {
        for (image, name, tag) in [
            ("alpine", "alpine", "latest"),
            ("alpine:3.20", "alpine", "3.20"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b", "1"),
            ("a/b@sha256:00", "a/b", "sha256:00"),
            ("a/b:1@sha256:00", "a/b:1", "sha256:00"),
        ] {
            let expected = Reference { name: name.to_owned(), tag: tag.to_owned() };
            assert_eq!(Reference::parse(image), expected, "{image}");
        }
    }

    #[test]
    fn jobs_policy_replaces_the_runners_and_must_be_allowed() {
        let config = Docker {
            pull_policies: vec![PullPolicy::Always, PullPolicy::Always],
            allowed_pull_policies: vec![PullPolicy::Always, PullPolicy::Never],
            ..Docker::default()
        };
        assert_eq!(policies(&config, "a", &[]).unwrap(), [PullPolicy::Always, PullPolicy::Always]);
        assert_eq!(policies(&config, "a", &["never".to_owned()]).unwrap(), [PullPolicy::Never]);
        let fault = policies(&config, "a", &["if-not-present".to_owned()]).unwrap_err();
        assert!(fault.message.contains("GitLab pipeline config"), "{}", fault.message);
        assert!(policies(&config, "a", &["sometimes".to_owned()]).is_err());
    }
}
