//! What the integration tests stand on: real instances, the real binary, and waiting on facts.

pub(crate) mod engine;
#[cfg(feature = "aws")]
pub(crate) mod fake_aws;
pub(crate) mod git_server;
pub(crate) mod local;
pub(crate) mod log;
#[cfg(feature = "aws")]
pub(crate) mod moto;
pub(crate) mod namespace;
pub(crate) mod process;
pub(crate) mod rig;
pub(crate) mod tls_front;

use std::fs;
use std::future::Future;
use std::process::Command;
use std::time::Duration;

use flotilla::sandbox::{JobHandle, JobReport, Sandbox};

/// How long a job or a fact may take on a busy machine. Nothing waits this long where all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// How often a fact without a notice is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The two executors, on the same instance and with the same jobs.
pub(crate) const EXECUTORS: [&str; 2] = ["instance", "docker-autoscaler"];

/// Runs a test for each executor, both at once.
pub(crate) async fn for_each_executor<F>(test: impl Fn(&'static str) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    all(EXECUTORS.map(test)).await;
}

/// Runs tests at once. A failing one fails the whole when all have ended, so that each cleans up.
pub(crate) async fn all<F>(tests: impl IntoIterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tests: tokio::task::JoinSet<()> = tests.into_iter().collect();
    let mut failure = None;
    while let Some(ended) = tests.join_next().await {
        failure = failure.or_else(|| ended.err());
    }
    if let Some(failure) = failure {
        std::panic::resume_unwind(failure.into_panic());
    }
}

/// A GitLab on loopback.
pub(crate) async fn sandbox() -> Sandbox {
    Sandbox::start("127.0.0.1:0".parse().expect("an address")).await.expect("a sandbox")
}

/// A job's end, and its trace as text.
///
/// # Panics
/// It does not end, or the runner did what it must not do.
pub(crate) async fn finish(job: &JobHandle) -> (JobReport, String) {
    let report = job.wait_final(LIMIT).await;
    let trace = text(&job.trace());
    let report = report.unwrap_or_else(|error| panic!("{error}\n{trace}"));
    assert_eq!(report.violations, Vec::<String>::new(), "{trace}");
    (report, trace)
}

/// Waits until a job's trace shows this.
pub(crate) async fn shows(job: &JobHandle, what: &str) {
    let shown = job.wait_until(LIMIT, |report, trace| report.status.is_final() || contains(trace, what)).await;
    let trace = job.trace();
    assert!(contains(&trace, what), "without {what:?}: {shown:?}\n{}", text(&trace));
}

/// Says what a failing test left, from a drop.
#[expect(clippy::print_stderr, reason = "the test's output is shown when it fails")]
pub(crate) fn tell(what: &str, content: &str) {
    eprintln!("---- {what}\n{content}");
}

pub(crate) fn contains(trace: &[u8], what: &str) -> bool {
    trace.windows(what.len()).any(|part| part == what.as_bytes())
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program of this machine that has to succeed; its output is returned.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Removes all that a runner has on the engine: what a failed test left, and volumes that are kept for later jobs.
pub(crate) fn clear_engine(short_token: &str) {
    let ours = format!("label=com.gitlab.gitlab-runner.runner.id={short_token}");
    for (list, remove) in [("ps -aq", "rm -f -v"), ("volume ls -q", "volume rm -f"), ("network ls -q", "network rm")] {
        let list: Vec<&str> = list.split(' ').chain(["--filter", &ours]).collect();
        let found = run("docker", &list);
        if !found.is_empty() {
            // What is in use by a container that is just being removed stays.
            Command::new("docker").args(remove.split(' ')).args(found.lines()).output().ok();
        }
    }
}

/// Waits until a fact is true.
pub(crate) fn eventually(fact: &str, is_true: impl FnMut() -> bool) {
    assert!(within(LIMIT, is_true), "not within {LIMIT:?}: {fact}");
}

/// Whether a fact becomes true in time.
pub(crate) fn within(limit: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    // Other tasks of the same runtime, the sandbox above all, go on meanwhile.
    tokio::task::block_in_place(|| {
        let start = flotilla::time::now().instant;
        while !is_true() {
            if start.elapsed() >= limit {
                return false;
            }
            pause();
        }
        true
    })
}

#[expect(clippy::disallowed_methods, reason = "processes and files of others give no notice")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

/// Processes of this machine with this word on their command line.
pub(crate) fn processes_with(word: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has_word = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    pids.filter(has_word).collect()
}
