//! Jobs that GitLab Runner was watched with: the same requests in the same order, and the same sections, nested and
//! on the same lines.
//!
//! `tests/data/watched` has what was seen of 17.9: each request as method, path, status, state and failure reason;
//! then each line of the trace that has section marks, `+` where one starts and `-` where it ends. Left aside is what
//! time decides, into how many patches a trace is cut and how often a runner asks after a job; `PUT` with `pending`
//! and `running` before the trace, which is newer (`protocol.md` 3.6); and what is tried once GitLab refuses a job
//! that it has cancelled: 17.9 tried the rest of the trace, newer runners the final update (`protocol.md` 7.4).

use std::fs;
use std::path::Path;

use flotilla::sandbox::{JobHandle, Recorded, SandboxJob};

use crate::harness::rig::{Rig, Setup};
use crate::harness::{LIMIT, all, shows, text};

/// What was run as a job of this name; its first word is the executor.
fn job(name: &str) -> SandboxJob {
    let Some((_, kind)) = name.split_once('-') else { panic!("no job: {name}") };
    match kind {
        "echo" => SandboxJob::new(kind, &["echo hello from job $CI_JOB_ID"]),
        "fail" => SandboxJob::new(kind, &["echo before", "exit 3"]).after_script(&["echo after status=$CI_JOB_STATUS"]),
        "masked" => {
            let split = r"printf 'split-'; sleep 0.2; printf 'me-please\n'";
            SandboxJob::new(kind, &["echo my $SECRET here", split, "echo url?private_token=of-mine"])
                .masked("SECRET", "split-me-please")
        }
        "cache" => SandboxJob::new(kind, &["mkdir -p vendor", "echo warm-$CI_JOB_ID > vendor/stamp"])
            .cache("main-1", &["vendor/"]),
        "cancel" => SandboxJob::new(kind, &["echo start", "sleep 120"]),
        _ => panic!("no job: {name}"),
    }
}

/// Runs the job until it has ended and nothing is left of it, so that all its requests are in.
async fn run(rig: &Rig, name: &str) -> JobHandle {
    let handle = rig.enqueue(job(name));
    if name.ends_with("-cancel") {
        shows(&handle, "\nstart\n").await;
        // The second ends it without grace, as where it was watched.
        handle.cancel();
        handle.cancel();
    }
    handle.wait_final(LIMIT).await.unwrap_or_else(|error| panic!("{error}\n{}", text(&handle.trace())));
    rig.leaves_nothing();
    handle
}

/// A request in the form of the data.
fn request(seen: &Recorded) -> Option<String> {
    let path = seen.uri.strip_prefix("/api/v4")?.split('?').next()?;
    let id = seen.job.map_or_else(String::new, |job| format!("/jobs/{job}"));
    let path = if id.is_empty() { path.to_owned() } else { path.replace(&id, "/jobs/N") };
    let field = |name: &str| {
        let (_, rest) = seen.body.split_once(&format!("\"{name}\":\""))?;
        rest.split('"').next().filter(|value| !value.is_empty()).map(|value| format!(" {value}"))
    };
    let fields = ["state", "failure_reason"].map(|name| match seen.method.as_str() {
        "PUT" => field(name).unwrap_or_default(),
        _ => String::new(),
    });
    Some(format!("{} {path} {}{}", seen.method, seen.status?, fields.concat()))
}

/// Without what is left aside.
fn order(requests: impl Iterator<Item = String>) -> Vec<String> {
    let is_about = |request: &String| !request.ends_with(" 200 pending") && !request.ends_with(" 200 running");
    let refused = |request: String| if request.contains(" 403") { "refused".to_owned() } else { request };
    let mut order: Vec<String> = requests.filter(is_about).map(refused).collect();
    order.dedup();
    order
}

/// The marks of each line that has some, in the form of the data.
fn marks(trace: &str) -> Vec<String> {
    let mark = |part: &str| {
        let (_, mark) = part.rsplit_once("section_")?;
        let (kind, rest) = mark.split_once(':')?;
        let (_, name) = rest.split_once(':')?;
        Some(format!("{}{name}", if kind == "start" { '+' } else { '-' }))
    };
    let of_line = |line: &str| line.split("\r\x1b[0K").filter_map(mark).collect::<Vec<_>>().join(" ");
    trace.split('\n').map(of_line).filter(|marks| !marks.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_sections_come_as_from_the_runner_that_was_watched() {
    let names = ["docker-masked", "docker-cache", "docker-fail", "docker-cancel", "instance-echo", "instance-fail"];
    all(names.map(|name| async move {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/watched/{name}.txt"));
        let watched = fs::read_to_string(path).expect("what was watched");
        let (expected_marks, expected): (Vec<String>, Vec<String>) =
            watched.lines().map(str::to_owned).partition(|line| line.starts_with(['+', '-']));
        let executor = if name.starts_with("docker") { "docker-autoscaler" } else { "instance" };
        let runner = "[runners.feature_flags]\n    FF_TIMESTAMPS = false";
        let rig = Rig::boot(Setup { runner, ..Setup::of(executor) }).await;
        let job = run(&rig, name).await;
        let requests = rig.sandbox.requests();
        let of_job = requests.iter().filter(|seen| seen.job == Some(job.id()) || seen.status == Some(201));
        let shown: Vec<String> = of_job.filter_map(request).collect();
        assert_eq!(order(shown.iter().cloned()), order(expected.into_iter()), "{name}: {shown:#?}");
        let trace = text(&job.trace());
        assert_eq!(marks(&trace), expected_marks, "{name}: {trace}");
    }))
    .await;
}
