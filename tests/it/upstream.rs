//! GitLab Runner's own helper, in `helper_image`, with our scripts. It cannot be had everywhere: `tests/upstream` makes
//! the image from its program and runs these.

use flotilla::sandbox::{Fault, JobStatus, On, SandboxJob};
use serde_json::json;

use crate::harness::git_server::GitServer;
use crate::harness::rig::{Rig, Setup};

const DOCKER: &str = "helper_image = \"flotilla-test/upstream\"\nvolumes = [\"/cache\"]";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs GitLab Runner's helper: tests/upstream"]
async fn sources_caches_and_artifacts_go_through_the_images_own_helper() {
    let server = GitServer::start().await;
    let rig = Rig::boot(Setup { docker: DOCKER, ..Setup::of("docker-autoscaler") }).await;
    let script = [
        "cat README.md",
        "git --version || echo no git here",
        "cat vendor/stamp || echo cold",
        "mkdir -p vendor out/sub && echo warm-of-$CI_JOB_ID > vendor/stamp",
        "echo one > out/one.txt && echo two > out/sub/two.txt && chmod 750 out/one.txt",
        "echo '<testsuites/>' > report.xml",
    ];
    let job = || {
        SandboxJob::new("makes", &script)
            .git(&server.url(), "main", &server.head())
            .cache("main-1", &["vendor/"])
            .variable("RUNNER_GENERATE_ARTIFACTS_METADATA", "true")
            .artifacts(&["out/"], "on_success")
            .with(|payload| {
                let report = json!({"name": "junit.xml", "paths": ["report.xml"], "artifact_type": "junit",
                    "artifact_format": "gzip", "when": "always", "expire_in": "1 week"});
                payload["artifacts"].as_array_mut().expect("artifacts").push(report);
            })
    };
    let first = rig.enqueue(job());
    let (report, trace) = crate::harness::finish(&first).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    for line in [" the first line\n", " no git here\n", " cold\n", "Created cache"] {
        assert!(trace.contains(line), "{line}\n{trace}");
    }
    // The statement is its own work, in its words.
    assert!(trace.contains("Generating artifacts statement"), "{trace}");
    let kinds: Vec<_> = first.artifacts().iter().map(|stored| stored.artifact_type.clone()).collect();
    assert_eq!(kinds, ["archive", "junit"], "{trace}");

    let (report, trace) = rig.run(job()).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    for line in [" warm-of-1\n", "Successfully extracted cache"] {
        assert!(trace.contains(line), "{line}\n{trace}");
    }
    let script = ["cat out/one.txt out/sub/two.txt", "stat -c 'mode %a' out/one.txt"];
    let (report, trace) = rig.run(SandboxJob::new("uses", &script).needs_artifacts_of(first.id())).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    for line in [" one\n", " two\n", " mode 750\n"] {
        assert!(trace.contains(line), "{line}\n{trace}");
    }
    rig.leaves_nothing();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs GitLab Runner's helper: tests/upstream"]
async fn what_the_images_own_helper_cannot_do_is_said_and_judged_as_ever() {
    let rig = Rig::boot(Setup { docker: DOCKER, ..Setup::of("docker-autoscaler") }).await;
    let makes = |paths: &[&str]| SandboxJob::new("makes", &["echo one > one.txt"]).artifacts(paths, "on_success");
    let (report, trace) = rig.run(makes(&["absent/"])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains("no matching files"), "{trace}");
    let made = rig.enqueue(makes(&["one.txt"]));
    let (report, trace) = crate::harness::finish(&made).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");

    rig.sandbox.faults().add(Fault::status(On::Artifacts, 403));
    let uses = SandboxJob::new("uses", &["true"]).needs_artifacts_of(made.id());
    for (job, says) in [(makes(&["one.txt"]), "403 Forbidden"), (uses, "permission denied")] {
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Failed, "{trace}");
        assert!(trace.contains(says), "{trace}");
    }
    rig.leaves_nothing();
}
