//! Whole traces, line by line, as users know them from GitLab; and the requests that bring them, in their order.
//!
//! Colours are written as `(g)`, `(y)`, `(r)`, `(c)`, sections as `[+name]` and `[-name]`; `…` stands for what
//! differs from run to run. Lines of GitLab Runner that are not here, by design: those of its helper image, as
//! git comes from the job's image and the helper's commands from a volume; those of a pull, as the image is on
//! the engine already.

use flotilla::sandbox::{JobHandle, JobStatus, SandboxJob};

use crate::harness::git_server::GitServer;
use crate::harness::rig::{Rig, Setup};
use crate::harness::{finish, for_each_executor, log};

const IMAGE: &str = "flotilla-test/git";

const HEADER: &str = r#"
Running with gitlab-runner 19.4.0 (flotilla-…)
  on rig TOKEN, system ID: …_…
[+prepare_executor]
(c) Preparing the "EXECUTOR" executor"#;

const PREPARED_INSTANCE: &str = "
Preparing instance...
Dialing instance i-1...
Instance i-1 connected
[-prepare_executor]
[+prepare_script]
(c) Preparing environment
Running on … via …...
[-prepare_script]";

const PREPARED_DOCKER: &str = r#"
Dialing instance i-1...
Instance i-1 connected
Using Docker executor with image flotilla-test/git ...
Using effective pull policy of [if-not-present] for container flotilla-test/git
Using locally found image version due to "if-not-present" pull policy
Using docker image sha256:… for flotilla-test/git ...
[-prepare_executor]
[+prepare_script]
(c) Preparing environment
Running on runner-TOKEN-project-1-concurrent-0 via …...
[-prepare_script]"#;

const SOURCES: &str = "
[+get_sources]
(c) Getting source from Git repository
(g) Gitaly correlation ID: …
(g) Fetching changes with git depth set to 20...
Initialized empty Git repository in …/group/project/.git/
(g) Created fresh repository.
(g) Checking out COMMIT as detached HEAD (ref is main)...

(g) Skipping Git submodules setup
[-get_sources]";

const NO_SOURCES: &str = "
[+get_sources]
(c) Getting source from Git repository
(g) Skipping Git repository setup
(g) Skipping Git checkout
(g) Skipping Git submodules setup
[-get_sources]";

const STEP: &str = r#"
[+step_script]
(c) Executing "step_script" stage of the job script"#;

const STEP_IMAGE: &str = "
Using effective pull policy of [if-not-present] for container flotilla-test/git
Using docker image sha256:… for flotilla-test/git ...";

const CLEAN_UP: &str = "
[+cleanup_file_variables]
(c) Cleaning up project directory and file based variables
[-cleanup_file_variables]";

/// Compares whole traces; each line of the expected may leave parts open. Between stdout and stderr there is no
/// order within a section.
fn compare(trace: &str, expected: &str) {
    let shown = log::lines(trace);
    let expected: Vec<String> = expected.trim_start().lines().map(str::to_owned).collect();
    let is_stderr = |line: &String| line.starts_with("2> ") || line.starts_with('[');
    let of_stderr = |lines: &[String]| lines.iter().filter(|line| is_stderr(line)).cloned().collect::<Vec<_>>();
    let others = |lines: &[String]| lines.iter().filter(|line| !line.starts_with("2> ")).cloned().collect::<Vec<_>>();
    compare_lines(&others(&shown), &others(&expected));
    compare_lines(&of_stderr(&shown), &of_stderr(&expected));
}

fn compare_lines(shown: &[String], expected: &[String]) {
    let differs = (0..shown.len().max(expected.len())).find(|at| match (shown.get(*at), expected.get(*at)) {
        (Some(shown), Some(expected)) => !fits(shown.trim_end(), expected),
        (None, _) | (_, None) => true,
    });
    if let Some(at) = differs {
        let (shown, expected) = (shown.join("\n"), expected.join("\n"));
        panic!("line {} differs\n---- shown\n{shown}\n---- expected\n{expected}", at + 1);
    }
}

fn fits(line: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let Some(last) = expected.rsplit_once('…').map(|(_, last)| last) else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    line.ends_with(last)
}

/// The trace's parts for an executor.
fn of<'a>(executor: &str, instance: &'a str, docker: &'a str) -> &'a str {
    if executor == "instance" { instance } else { docker }
}

/// `PUT pending` while the instance is not ready, `PUT running`, patches that join, the final `PUT`; nothing else,
/// and each was taken.
fn comes_in_order(rig: &Rig, job: &JobHandle) {
    let requests = rig.sandbox.requests();
    let of_job = requests.iter().filter(|seen| seen.job == Some(job.id()) && !seen.uri.contains("/artifacts?"));
    let of_job: Vec<_> = of_job.skip_while(|seen| seen.body.contains("\"state\":\"pending\"")).collect();
    let mut of_job = of_job.into_iter();
    let (first, last) = (of_job.next().expect("a request"), of_job.next_back().expect("more requests"));
    for (put, state) in [(first, "\"state\":\"running\""), (last, "\"state\":\"")] {
        assert_eq!((put.method.as_str(), put.status), ("PUT", Some(200)), "{put:?}");
        assert!(put.body.contains(state), "{put:?}");
    }
    let mut end = 0;
    for patch in of_job {
        assert_eq!((patch.method.as_str(), patch.status), ("PATCH", Some(202)), "{patch:?}");
        let range = patch.header("content-range").expect("a range");
        let (from, to) = range.split_once('-').expect("from and to");
        assert_eq!(from.parse::<usize>().expect("a number"), end, "{patch:?}");
        end = to.parse::<usize>().expect("a number") + 1;
    }
    assert_eq!(end, job.trace().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_simple_script() {
    for_each_executor(|executor| async move {
        let server = GitServer::start().await;
        let rig = Rig::boot(Setup { image: IMAGE, ..Setup::of(executor) }).await;
        let commit = server.head();
        let job = rig.enqueue(SandboxJob::new("simple", &["echo hello"]).git(&server.url(), "main", &commit));
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        let prepared = of(executor, PREPARED_INSTANCE, PREPARED_DOCKER);
        let image = of(executor, "", STEP_IMAGE);
        let step = "
(g) $ echo hello
hello
[-step_script]";
        let end = "
(g) Job succeeded";
        let expected = [HEADER, prepared, SOURCES, STEP, image, step, CLEAN_UP, end].concat();
        let expected = expected.replace("TOKEN", rig.short_token()).replace("EXECUTOR", executor);
        compare(&trace, &expected.replace("COMMIT", commit.split_at(8).0));
        comes_in_order(&rig, &job);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_failing_script_with_after_script_artifacts_and_cache() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup { image: IMAGE, ..Setup::of(executor) }).await;
        let job = SandboxJob::new("failing", &["echo before > out.txt", "exit 2"])
            .after_script(&["echo \"status $CI_JOB_STATUS\""])
            .artifacts(&["out.txt"], "always")
            .cache("42-key", &["vendor/"]);
        let job = rig.enqueue(job);
        let (report, trace) = finish(&job).await;
        assert_eq!((report.status, report.exit_code), (JobStatus::Failed, 2), "{trace}");
        let prepared = of(executor, PREPARED_INSTANCE, PREPARED_DOCKER);
        let image = of(executor, "", STEP_IMAGE);
        let cache = "
[+restore_cache]
(c) Restoring cache
(g) Checking cache for 42-key...
2> No URL provided, cache will not be downloaded from shared cache server. Instead a local version of cache will be extracted.
2> (y) WARNING: Cache file does not exist
(y) Failed to extract cache
[-restore_cache]";
        // The cache is of successful jobs only.
        let rest = r#"
(g) $ echo before > out.txt
(g) $ exit 2
[-step_script]
[+after_script]
(c) Running after_script
(g) Running after script...
(g) $ echo "status $CI_JOB_STATUS"
status failed
[-after_script]
[+upload_artifacts_on_failure]
(c) Uploading artifacts for failed job
(g) Uploading artifacts...
2> out.txt: found 1 matching artifact files and directories
2> Uploading artifacts as "archive" to coordinator... 201 Created  id=1 status=201 token=…
[-upload_artifacts_on_failure]"#;
        let end = "
(r) ERROR: Job failed: exit code 2";
        let expected = [HEADER, prepared, NO_SOURCES, cache, STEP, image, rest, CLEAN_UP, end].concat();
        compare(&trace, &expected.replace("TOKEN", rig.short_token()).replace("EXECUTOR", executor));
        comes_in_order(&rig, &job);
    })
    .await;
}
