//! Having an image: look, fetch if the policy says so, say in the trace what happens.

use std::time::Duration;

use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::auth::{self, Keyring};
use super::client::Engine;
use super::errors;
use super::image::{Wanted, shown};
use crate::backoff::Backoff;
use crate::config::types::image_reference::ImageReference;
use crate::config::types::pull_policy::PullPolicy;
use crate::executors::JobTrace;
use crate::job::failure::{FailureReason, Fault};
use crate::job::resolved::ResolvedJob;

/// Tries within one policy, for what the network may mend.
const TRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long the engine may say nothing of a pull before it counts as broken off. There is no limit on the whole: an
/// image may be large and its registry slow.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// An image that the engine has.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// What containers are made from: the digest, else the id.
    pub(crate) reference: String,
    /// The image's own user, empty for root.
    pub(crate) user: String,
    /// The lines that name it, said again when its container first works.
    pub(crate) lines: Vec<String>,
}

/// Gets an image under its policies.
pub(crate) async fn obtain(
    engine: &Engine,
    wanted: &Wanted,
    job: &ResolvedJob,
    keyring: &Keyring,
    trace: &impl JobTrace,
) -> Result<Image, Fault> {
    let policy_line =
        format!("Using effective pull policy of {} for container {}", shown(&wanted.policies), wanted.name);
    trace.plain(&policy_line);
    let mut last: Option<Fault> = None;
    for (attempt, policy) in wanted.policies.iter().enumerate() {
        if let Some(fault) = &last {
            trace.warning(&format!(
                "Failed to pull image with policy {:?}: {}",
                shown_previous(wanted, attempt),
                fault.message
            ));
            trace.info(&format!("Attempt #{}: Trying {:?} pull policy", attempt + 1, policy.as_str()));
        }
        match obtain_by(engine, wanted, *policy, job, keyring, trace).await {
            Ok(found) => {
                let mut image = image_of(&found)?;
                if let Some(line) = found_line(wanted, &found) {
                    trace.plain(&line);
                    image.lines = vec![policy_line, line];
                }
                return Ok(image);
            }
            Err(fault) => last = Some(fault),
        }
    }
    let fault = last.unwrap_or_else(|| Fault::configuration("no pull policy"));
    let message = format!(
        "failed to pull image {:?} with specified policies {}: {}",
        wanted.name.as_str(),
        shown(&wanted.policies),
        fault.message
    );
    Err(Fault { message, class: fault.class })
}

fn shown_previous(wanted: &Wanted, attempt: usize) -> &'static str {
    attempt.checked_sub(1).and_then(|before| wanted.policies.get(before)).map_or("", |policy| policy.as_str())
}

async fn obtain_by(
    engine: &Engine,
    wanted: &Wanted,
    policy: PullPolicy,
    job: &ResolvedJob,
    keyring: &Keyring,
    trace: &impl JobTrace,
) -> Result<ImageInspect, Fault> {
    let present = engine.api.inspect_image(wanted.name.as_str()).await;
    match (policy, present) {
        (PullPolicy::Never, Ok(found)) => Ok(found),
        (PullPolicy::Never, Err(error)) => Err(inspect_fault(&error)),
        (PullPolicy::IfNotPresent | PullPolicy::Always, Ok(found)) if wanted.name.is_id() => Ok(found),
        (PullPolicy::IfNotPresent, Ok(found)) => {
            trace.plain("Using locally found image version due to \"if-not-present\" pull policy");
            Ok(found)
        }
        (PullPolicy::IfNotPresent, Err(error)) if errors::status(&error) != Some(404) => Err(inspect_fault(&error)),
        (PullPolicy::IfNotPresent | PullPolicy::Always, _) => pull(engine, wanted, job, keyring, trace).await,
    }
}

/// 404: `never` and an absent image, which nothing will bring. 400: a name that no image can have.
fn inspect_fault(error: &bollard::errors::Error) -> Fault {
    let message = errors::message(error);
    match errors::status(error) {
        Some(400 | 404) => Fault::of(FailureReason::ImagePullFailure, message),
        Some(_) | None => Fault::unclassified(message),
    }
}

async fn pull(
    engine: &Engine,
    wanted: &Wanted,
    job: &ResolvedJob,
    keyring: &Keyring,
    trace: &impl JobTrace,
) -> Result<ImageInspect, Fault> {
    let found = auth::find(&wanted.name, job, keyring, trace).await?;
    if let Some(found) = &found {
        trace.plain(&format!("Authenticating with credentials from {}", found.source));
    }
    let platform = wanted.platform.as_ref().map(|platform| format!(" for platform {platform}")).unwrap_or_default();
    trace.plain(&format!("Pulling docker image {}{platform} ...", wanted.name));
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    for attempt in 1.. {
        let credentials = found.as_ref().map(|found| found.credentials.clone());
        let Err(message) = pull_once(engine, wanted, credentials).await else { break };
        let reason = errors::pull_reason(&message);
        if attempt >= TRIES || reason != FailureReason::RunnerExternalDependencyFailure {
            return Err(Fault::of(reason, message));
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
    engine.api.inspect_image(wanted.name.as_str()).await.map_err(|error| errors::fault(&error))
}

/// The engine's stream of progress has to be read to its end: an error may be its last word. An error is told in words
/// for the job.
async fn pull_once(
    engine: &Engine,
    wanted: &Wanted,
    credentials: Option<bollard::auth::DockerCredentials>,
) -> Result<(), String> {
    let (name, tag) = name_and_tag(&wanted.name);
    let mut options = CreateImageOptionsBuilder::default().from_image(name).tag(tag);
    if let Some(platform) = &wanted.platform {
        options = options.platform(platform);
    }
    // Of the client's own limit only the wait for the first word would count, and that is ours to judge.
    let api = engine.api.clone().with_timeout(SILENCE_LIMIT * 2);
    let mut progress = std::pin::pin!(api.create_image(Some(options.build()), None, credentials));
    loop {
        match timeout(SILENCE_LIMIT, progress.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(step)) => step.map(drop).map_err(|error| errors::message(&error))?,
            Err(_) => {
                return Err(format!(
                    "i/o timeout: the engine said nothing of the pull for {} s",
                    SILENCE_LIMIT.as_secs()
                ));
            }
        }
    }
}

/// What the engine's pull takes: it pulls all tags where none is named, and the tag beside a digest is not its business.
fn name_and_tag(image: &ImageReference) -> (&str, &str) {
    (image.name(), image.digest().or_else(|| image.tag()).unwrap_or("latest"))
}

/// # Errors
/// The engine's answer has no id, so that nobody knows which image it is about.
fn image_of(found: &ImageInspect) -> Result<Image, Fault> {
    let Some(id) = found.id.clone().filter(|id| !id.is_empty()) else {
        return Err(Fault::unclassified("the engine describes an image without an id"));
    };
    let digest = found.repo_digests.as_ref().and_then(|digests| digests.first()).cloned();
    let user = found.config.as_ref().and_then(|config| config.user.clone()).unwrap_or_default();
    Ok(Image { reference: digest.unwrap_or(id), user, lines: Vec::new() })
}

/// `Using docker image …`; nothing where the job names the very id.
fn found_line(wanted: &Wanted, found: &ImageInspect) -> Option<String> {
    let id = found.id.as_deref().unwrap_or_default();
    if id == wanted.name.as_str() {
        return None;
    }
    let digest = found.repo_digests.as_ref().and_then(|digests| digests.first());
    let digest = digest.map(|digest| format!(" with digest {digest}")).unwrap_or_default();
    Some(format!("Using docker image {id} for {}{digest} ...", wanted.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    async fn pull(waits: &[u64]) -> Result<(), String> {
        let word = "{\"status\":\"Downloading\"}\n";
        let words: Vec<_> = waits.iter().map(|wait| (Duration::from_secs(*wait), word.to_owned())).collect();
        let engine = FakeEngine::start(move |_| Reply::Slow(words.clone()));
        let wanted = Wanted { name: "image:1".parse().unwrap(), policies: Vec::new(), platform: None };
        pull_once(&engine, &wanted, None).await
    }

    #[tokio::test(start_paused = true)]
    async fn pull_may_take_hours_but_not_be_silent_for_long() {
        pull(&[200; 20]).await.unwrap();
        let message = pull(&[200, 400]).await.unwrap_err();
        assert!(message.contains("said nothing"), "{message}");
        assert_eq!(errors::pull_reason(&message), FailureReason::RunnerExternalDependencyFailure);
    }

    #[test]
    fn each_pull_names_one_tag() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, name, tag) in [
            ("alpine", "alpine", "latest"),
            ("alpine:3.20", "alpine", "3.20"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b", "1"),
            (&format!("a/b@{digest}"), "a/b", digest.as_str()),
            (&format!("a/b:1@{digest}"), "a/b", digest.as_str()),
        ] {
            assert_eq!(name_and_tag(&image.parse().unwrap()), (name, tag), "{image}");
        }
    }

    #[test]
    fn description_of_an_image_without_an_id_is_refused() {
        for id in [None, Some(String::new())] {
            assert!(image_of(&ImageInspect { id, ..ImageInspect::default() }).is_err());
        }
    }
}
