//! Which image a job runs in, and under which policies it may be fetched. Pure.

use crate::config::resolved::Docker;
use crate::config::types::image_reference::{ImageReference, InvalidReference};
use crate::config::types::pull_policy::PullPolicy;
use crate::job::failure::{FailureReason, Fault};
use crate::job::resolved::ResolvedJob;

/// An image to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As the job or the configuration names it, with its variables expanded.
    pub(crate) name: ImageReference,
    pub(crate) platform: Option<String>,
    /// In the order of attempts. Never empty.
    pub(crate) policies: Vec<PullPolicy>,
}

/// What the job asks for, checked against what the runner allows.
///
/// # Errors
/// No image, a name that no image has, an image that is not allowed, or no pull policy that is. `refused_lines` gets what the user
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
    let name = parsed(&name)?;
    if name.as_str() != configured && !config.allowed_images.allows(name.as_str()) {
        refused_lines.push(format!("The {:?} image is not present on list of allowed images:", name.as_str()));
        refused_lines.extend(config.allowed_images.texts().iter().map(|pattern| format!("- {pattern}")));
        return Err(Fault::configuration("disallowed image"));
    }
    let platform = asked.and_then(|image| image.platform.as_deref()).map(|platform| job.variables.expand(platform));
    let own = asked.map_or(&[][..], |image| &image.pull_policies);
    let policies = policies(config, name.as_str(), own)?;
    Ok(Wanted { name, platform, policies })
}

/// An image that the configuration names, such as the helper's.
///
/// # Errors
/// A name that no image has, or no pull policy that is allowed.
pub(crate) fn configured_image(config: &Docker, name: &str) -> Result<Wanted, Fault> {
    let policies = policies(config, name, &[])?;
    Ok(Wanted { name: parsed(name)?, platform: None, policies })
}

/// Only a name that parses is compared with lists and sent to an engine.
fn parsed(name: &str) -> Result<ImageReference, Fault> {
    let refused =
        |error: InvalidReference| Fault::of(FailureReason::ImagePullFailure, format!("failed to pull image: {error}"));
    name.parse().map_err(refused)
}

/// The built-in helper image: one that is there is used, whatever the policy, since its tag never changes.
pub(crate) fn default_helper(config: &Docker, name: &str) -> Result<Wanted, Fault> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
