//! Sources of a real git server, over HTTP.

use flotilla::sandbox::{JobStatus, SandboxJob};
use serde_json::json;

use crate::harness::for_each_executor;
use crate::harness::git_server::GitServer;
use crate::harness::rig::{Rig, Setup};

const GIT_IMAGE: &str = "flotilla-test/git";

fn with_git(executor: &str) -> Setup<'_> {
    Setup { image: GIT_IMAGE, ..Setup::of(executor) }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_cloned_first_and_fetched_and_cleaned_after_that() {
    for_each_executor(|executor| async move {
        let server = GitServer::start().await;
        let rig = Rig::boot(with_git(executor)).await;
        let script = ["cat README.md", "ls", "git log -1 --format='subject: %s'", "touch left-behind"];
        let job = |content: &str| {
            let commit = server.commit("README.md", content);
            SandboxJob::new("sources", &script).git(&server.url(), "main", &commit)
        };
        let (report, trace) = rig.run(job("the second line\n")).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        for part in ["Created fresh repository.", " the second line\n", "subject: change README.md"] {
            assert!(trace.contains(part), "{part}\n{trace}");
        }
        let (report, trace) = rig.run(job("the third line\n")).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains("Fetching changes with git depth set to 20..."), "{trace}");
        assert!(trace.contains(" the third line\n"), "{trace}");
        assert!(trace.contains("Reinitialized existing Git repository in "), "{trace}");
        assert!(trace.contains("Removing left-behind"), "{trace}");
        let (report, trace) = rig.run(job("the fourth line\n").variable("GIT_STRATEGY", "clone")).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(
            trace.contains(" the fourth line\n") && trace.contains("Initialized empty Git repository in "),
            "{trace}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_the_url_reach_the_server_and_never_the_trace() {
    const PASSWORD: &str = "glcbt-64_of-this-one-job";
    for_each_executor(|executor| async move {
        let server = GitServer::start_private(PASSWORD).await;
        let rig = Rig::boot(with_git(executor)).await;
        let url = server.url().replace("http://", &format!("http://gitlab-ci-token:{PASSWORD}@"));
        let job = SandboxJob::new("private", &["cat README.md", "git remote -v"]).git(&url, "main", &server.head());
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains(" the first line\n"), "{trace}");
        assert!(!trace.contains(PASSWORD), "{trace}");
        let wrong = server.url().replace("http://", "http://gitlab-ci-token:wrong@");
        let job = SandboxJob::new("refused", &["echo never"]).git(&wrong, "main", &server.head());
        let (report, trace) = rig.run(job.variable("GET_SOURCES_ATTEMPTS", "2")).await;
        assert_eq!(report.status, JobStatus::Failed, "{trace}");
        assert_eq!(trace.matches("Fetching changes").count(), 2, "it is tried twice:\n{trace}");
        assert!(!trace.contains("echo never"), "{trace}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_come_with_the_sources_where_they_are_wanted() {
    for_each_executor(|executor| async move {
        let server = GitServer::start().await;
        server.make_project("part");
        server.commit_to("part", "part.txt", "of the part\n");
        server.git("project", &["submodule", "--quiet", "add", "../part.git", "part"]);
        let commit = server.commit("README.md", "with a part\n");
        let rig = Rig::boot(with_git(executor)).await;
        let job = |strategy: &str| {
            let job = SandboxJob::new("parts", &["cat part/part.txt || echo no part"]);
            job.git(&server.url(), "main", &commit).variable("GIT_SUBMODULE_STRATEGY", strategy)
        };
        let (report, trace) = rig.run(job("recursive")).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains(" of the part\n"), "{trace}");
        let (report, trace) = rig.run(job("none")).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains("Skipping Git submodules setup"), "{trace}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_git_and_an_engine_without_the_helper_image_are_the_configurations_fault() {
    let server = GitServer::start().await;
    // Nothing can be pulled here, and nothing is: the image is not on the engine and may not be fetched.
    let rig = Rig::boot(Setup {
        docker: "allowed_pull_policies = [\"never\", \"if-not-present\"]",
        ..Setup::of("docker-autoscaler")
    })
    .await;
    let job = SandboxJob::new("sources", &["cat README.md"]).git(&server.url(), "main", &server.head());
    let (report, trace) = rig.run(job).await;
    assert_eq!(report.status, JobStatus::Failed, "{trace}");
    assert_eq!(report.failure_reason, "runner_configuration_error", "{trace}");
    assert!(trace.contains("git"), "{trace}");
    rig.leaves_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn git_of_a_configured_helper_image_serves_an_image_without_git() {
    let server = GitServer::start().await;
    let helper = format!("helper_image = \"{GIT_IMAGE}\"");
    let rig = Rig::boot(Setup { docker: &helper, ..Setup::of("docker-autoscaler") }).await;
    let script = ["cat README.md", "git --version || echo no git here"];
    let job = SandboxJob::new("sources", &script).git(&server.url(), "main", &server.head());
    let (report, trace) = rig.run(job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains(" the first line\n") && trace.contains(" no git here\n"), "{trace}");
    assert!(trace.contains(&format!("Using helper image:  {GIT_IMAGE}  (overridden, default would be  ")), "{trace}");
    rig.leaves_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_other_users_follow_each_other_in_one_checkout_and_one_cache() {
    let server = GitServer::start().await;
    // A folder of the host is root's, whoever the job is.
    let builds = tempfile::Builder::new().prefix("flotilla-builds-").tempdir().expect("a folder");
    let docker = format!("volumes = [\"{}:/builds\", \"/cache\"]", builds.path().display());
    let rig = Rig::boot(Setup { docker: &docker, ..with_git("docker-autoscaler") }).await;
    let script = [
        "echo uid-$(id -u)",
        "cat vendor/stamp 2>/dev/null || echo cold",
        "mkdir -p -m 700 left-behind && touch left-behind/x",
        "[ -d vendor ] || mkdir -m 777 vendor",
        "rm -f vendor/stamp && echo warm-of-$(id -u) > vendor/stamp",
    ];
    for (user, says) in [
        ("", [" uid-0\n", " cold\n"]),
        ("1000", [" uid-1000\n", " warm-of-0\n"]),
        ("", [" uid-0\n", " warm-of-1000\n"]),
        ("1001", [" uid-1001\n", " warm-of-0\n"]),
    ] {
        let image = json!({"name": GIT_IMAGE, "executor_opts": {"docker": {"user": user}}});
        let job = SandboxJob::new("sources", &script)
            .git(&server.url(), "main", &server.head())
            .cache("main-1", &["vendor/"])
            .artifacts(&["README.md"], "on_success")
            .with(|payload| payload["image"] = image);
        let job = rig.enqueue(job);
        let (report, trace) = crate::harness::finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(says.iter().all(|part| trace.contains(part)), "{says:?}\n{trace}");
        assert!(trace.contains("Created cache"), "{trace}");
        assert_eq!(trace.contains("Removing left-behind/"), !says.contains(&" cold\n"), "{trace}");
        assert_eq!(job.artifacts().len(), 1, "{trace}");
    }
    rig.leaves_nothing();
}
