//! Which runner asks GitLab when: `concurrent` is never exceeded, and no runner is left waiting.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use flotilla::sandbox::{JobStatus, Recorded, SandboxJob};

use crate::harness::process::Manager;
use crate::harness::{finish, local, sandbox};

const RUNNERS: usize = 50;
const CONCURRENT: usize = 2;
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A permit is given back when the job has been cleaned up, shortly after its end at GitLab.
const CLEAN_UP: Duration = Duration::from_secs(1);

/// From and to, since the start of the sandbox.
type Span = (Duration, Duration);

#[tokio::test(flavor = "multi_thread")]
async fn fifty_runners_share_two_permits_and_none_waits_while_one_is_free() {
    let sandbox = sandbox().await;
    let mut config = format!("concurrent = {CONCURRENT}\ncheck_interval = 1\nshutdown_timeout = 10\n");
    for number in 0..RUNNERS {
        let token = format!("glrt-runner{number:02}-of-many");
        sandbox.add_runner(&token);
        let name = format!("runner-{number}");
        config.push_str(&local::runner(&sandbox, &name, &token, "", ""));
    }
    let manager = Manager::start(&config);
    let asked = || requests(&sandbox.requests());
    crate::harness::eventually("each runner has asked", || asked().len() == RUNNERS);
    // More jobs than permits, of any runner; then a pause; then one that holds a permit for long.
    let jobs: Vec<_> = (0..8).map(|_| sandbox.enqueue(SandboxJob::new("short", &["sleep 0.5"]))).collect();
    for job in jobs {
        assert_eq!(finish(&job).await.0.status, JobStatus::Success);
    }
    let long = sandbox.enqueue(SandboxJob::new("long", &["sleep 4"]));
    assert_eq!(finish(&long).await.0.status, JobStatus::Success);
    drop(manager);

    let peaks = sandbox.peaks();
    assert!(peaks.running_jobs <= CONCURRENT, "{peaks:?}");
    assert!(peaks.jobs_and_requests <= CONCURRENT, "{peaks:?}");
    let asked = asked();
    assert_eq!(asked.len(), RUNNERS);
    let held = permits(&asked, &sandbox.reports().iter().map(job_span).collect::<Vec<_>>());
    let begin = asked.values().flatten().map(|span| span.0).min().unwrap_or_default();
    let mut problems = String::new();
    for (runner, requests) in &asked {
        let mut since = begin;
        for (from, to) in requests {
            let free = free_time(&held, (since, *from));
            if free > CHECK_INTERVAL + Duration::from_secs(1) {
                writeln!(problems, "{runner} waited from {since:?} to {from:?}, {free:?} of it beside a free permit")
                    .expect("text");
            }
            since = *to;
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

/// The job requests of each runner, in order.
fn requests(log: &[Recorded]) -> BTreeMap<String, Vec<Span>> {
    let mut requests = BTreeMap::<String, Vec<Span>>::new();
    for request in log.iter().filter(|request| request.uri.ends_with("/jobs/request")) {
        let runner = request.header("runner-token").expect("the runner's token").to_owned();
        let took = request.took.unwrap_or_default();
        requests.entry(runner).or_default().push((request.at, request.at + took));
    }
    requests
}

fn job_span(report: &flotilla::sandbox::JobReport) -> Span {
    let in_hand = report.history.iter().find(|moment| moment.status.is_in_hand()).expect("it ran");
    let end = report.history.last().expect("it has ended");
    (in_hand.at, end.at + CLEAN_UP)
}

/// Every change of the number of permits in use, in order.
fn permits(requests: &BTreeMap<String, Vec<Span>>, jobs: &[Span]) -> Vec<(Duration, i32)> {
    let spans = requests.values().flatten().chain(jobs);
    let mut changes: Vec<_> = spans.flat_map(|(from, to)| [(*from, 1), (*to, -1)]).collect();
    changes.sort_unstable();
    changes
}

/// For how much of a span a permit was free.
fn free_time(changes: &[(Duration, i32)], (from, to): Span) -> Duration {
    let (mut used, mut at, mut free) = (0, Duration::ZERO, Duration::ZERO);
    let end = [(to, 0)];
    for (next, change) in changes.iter().chain(&end) {
        let next = (*next).min(to);
        if used < i32::try_from(CONCURRENT).expect("small") {
            free += next.max(from).saturating_sub(at.max(from));
        }
        if next == to {
            break;
        }
        (at, used) = (next, used + change);
    }
    free
}
