//! Files that go from job to job: artifacts through GitLab, the cache on the instance.

use std::fs::File;

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::harness::for_each_executor;
use crate::harness::rig::{Rig, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_of_one_job_are_files_of_the_next() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let script =
            ["mkdir -p out/sub", "echo one > out/one.txt", "echo two > out/sub/two.txt", "chmod 750 out/one.txt"];
        let job = rig.enqueue(SandboxJob::new("makes", &script).artifacts(&["out/"], "on_success"));
        let (report, trace) = crate::harness::finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        let [stored] = job.artifacts().try_into().expect("one archive");
        let archive = zip::ZipArchive::new(File::open(stored.path()).expect("the archive")).expect("a zip");
        let mut names: Vec<_> = archive.file_names().map(|name| name.expect("a name").into_owned()).collect();
        names.sort();
        assert_eq!(names, ["out/", "out/one.txt", "out/sub/", "out/sub/two.txt"]);

        let script = ["cat out/one.txt out/sub/two.txt", "stat -c 'mode %a' out/one.txt"];
        let (report, trace) = rig.run(SandboxJob::new("uses", &script).needs_artifacts_of(job.id())).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        for line in [" one\n", " two\n", " mode 750\n", &format!("Downloading artifacts for makes ({})...", job.id())] {
            assert!(trace.contains(line), "{line}\n{trace}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_artifacts_says_when_the_job_ran() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let job = SandboxJob::new("makes", &["echo one > one.txt"])
            .artifacts(&["one.txt"], "on_success")
            .variable("RUNNER_GENERATE_ARTIFACTS_METADATA", "true")
            .variable("CI_DEBUG_TRACE", "true");
        let before: jiff::Timestamp = flotilla::time::now().utc.try_into().expect("a time");
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        // The shell shows the call.
        let call = trace.lines().find(|line| line.contains("artifacts-uploader")).expect("a call of the helper");
        let words: Vec<&str> = call.split(' ').map(|word| word.trim_matches('\'')).collect();
        let time = |flag| -> jiff::Timestamp {
            let at = words.iter().position(|word| *word == flag).expect("the flag");
            words.get(at + 1).expect("its value").parse().expect("a time")
        };
        let (started, ended) = (time("--started-at"), time("--ended-at"));
        assert!(before.as_second() <= started.as_second() && started <= ended, "{before} {started} {ended}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_uploads_what_is_for_failures_and_a_cancelled_one_nothing() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let script = ["echo report > report.txt", "exit 2"];
        let job = |when: &str| SandboxJob::new("fails", &script).artifacts(&["report.txt"], when);
        for (when, count) in [("on_success", 0), ("on_failure", 1), ("always", 1)] {
            let job = rig.enqueue(job(when));
            let (report, trace) = crate::harness::finish(&job).await;
            assert_eq!((report.status, report.exit_code), (JobStatus::Failed, 2), "{trace}");
            assert_eq!(job.artifacts().len(), count, "{when}:\n{trace}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_of_one_job_is_there_for_the_next_on_the_same_instance() {
    for_each_executor(|executor| async move {
        // A container's own /cache goes with it.
        let rig = Rig::boot(Setup { docker: "volumes = [\"/cache\"]", ..Setup::of(executor) }).await;
        let script = [
            "cat vendor/stamp 2>/dev/null || echo cold",
            "mkdir -p vendor",
            "echo warm-$CI_JOB_ID > vendor/stamp",
            "ls vendor",
        ];
        let job = || SandboxJob::new("caches", &script).cache("main-1", &["vendor/"]).variable("GIT_STRATEGY", "empty");
        let (report, trace) = rig.run(job()).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        for line in [" cold\n", "Checking cache for main-1...", "Failed to extract cache", "Created cache"] {
            assert!(trace.contains(line), "{line}\n{trace}");
        }
        let (report, trace) = rig.run(job()).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        for line in [" warm-1\n", "Successfully extracted cache"] {
            assert!(trace.contains(line), "{line}\n{trace}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_know_gitlabs_authority_where_their_image_and_instance_know_none() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup { tls: true, ..Setup::of(executor) }).await;
        let script = ["mkdir out", "cp \"$CI_SERVER_TLS_CA_FILE\" out/chain.pem", "grep -c BEGIN out/chain.pem"];
        let job = rig.enqueue(SandboxJob::new("makes", &script).artifacts(&["out/"], "always"));
        let (report, trace) = crate::harness::finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        // The server's own certificate, the one in between, and the authority, which the server does not send.
        assert!(trace.contains(" 3\n"), "{trace}");
        assert_eq!(job.artifacts().len(), 1, "{trace}");
        let script = ["tail -n 2 out/chain.pem"];
        let (report, trace) = rig.run(SandboxJob::new("uses", &script).needs_artifacts_of(job.id())).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains("END CERTIFICATE"), "{trace}");
    })
    .await;
}
