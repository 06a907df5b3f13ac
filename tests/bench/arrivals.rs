//! Arrivals of jobs against waits and cost, with the release binary: `local` instances that take six seconds to be
//! ready, jobs of twelve, and the arrivals that the reference was watched with.
//!
//! `tests/arrivals` builds and runs it; words on its command line choose cases (`tests/arrivals burst`). The same
//! arrivals in virtual time are a test of `taskscaler::simulate`.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures real time, and prints it")]

#[path = "../it/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

mod chosen;

use std::fs;
use std::time::{Duration, Instant};

use flotilla::sandbox::{JobHandle, JobStatus, RUNNER_TOKEN, Sandbox, SandboxJob};

use chosen::is_chosen;
use harness::local::instances;
use harness::process::Manager;

const LIMIT: Duration = Duration::from_secs(600);
/// How often instances are counted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One line of the table: what arrives, how often an instance may be used, and the bounds of p95 and of
/// instance-seconds.
struct Case {
    arrivals: &'static str,
    max_use_count: u32,
    seconds: f64,
    instance_seconds: f64,
}

const fn case(arrivals: &'static str, max_use_count: u32, seconds: f64, instance_seconds: f64) -> Case {
    Case { arrivals, max_use_count, seconds, instance_seconds }
}

const CASES: [Case; 6] = [
    case("burst", 0, 21.0, 2800.0),
    case("burst", 1, 21.0, 2100.0),
    case("steady", 0, 15.0, 1300.0),
    case("steady", 1, 19.0, 1450.0),
    case("swell", 0, 15.0, 3800.0),
    case("swell", 1, 19.0, 4200.0),
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for case in CASES {
            if is_chosen(case.arrivals) {
                measure(&case).await;
            }
        }
    });
}

async fn measure(case: &Case) {
    let Case { arrivals, max_use_count, seconds, instance_seconds } = *case;
    let sandbox = harness::sandbox().await;
    let start = Instant::now();
    let manager = Manager::start(&config(&sandbox, max_use_count));
    let mut jobs: Vec<JobHandle> = Vec::new();
    let mut coming = read(arrivals).into_iter().peekable();
    let (mut cost, mut most, mut looked) = (0.0, 0, start.elapsed());
    while coming.peek().is_some() || jobs.iter().any(|job| !ended(job)) {
        while coming.next_if(|at| *at <= start.elapsed()).is_some() {
            jobs.push(sandbox.enqueue(SandboxJob::new("twelve", &["sleep 12"])));
        }
        let there = instances(&manager).len();
        let now = start.elapsed();
        cost += there as f64 * (now - looked).as_secs_f64();
        (most, looked) = (most.max(there), now);
        assert!(now < LIMIT, "{arrivals} does not end\n{}", manager.log());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut waits: Vec<Duration> = jobs.iter().map(wait).collect();
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() * percent).div_ceil(100) - 1].as_secs_f64();
    println!(
        "{arrivals}, max_use_count {max_use_count}: available to final p50 {:.1} s, p95 {:.1} s (at most {seconds}), max {:.1} s; \
         {cost:.0} instance-seconds (at most {instance_seconds}), {most} instances at most",
        at(50),
        at(95),
        at(100),
    );
}

fn config(sandbox: &Sandbox, max_use_count: u32) -> String {
    format!(
        r#"
concurrent = 100
check_interval = 1
[[runners]]
  name = "arrivals"
  url = "{}"
  token = "{RUNNER_TOKEN}"
  executor = "instance"
  request_concurrency = 10
  [runners.autoscaler]
    plugin = "local"
    instance_ready_command = "sleep 6"
    capacity_per_instance = 1
    max_use_count = {max_use_count}
    max_instances = 60
    delete_instances_on_shutdown = true
    [[runners.autoscaler.policy]]
      idle_count = 5
      idle_time = "20s"
"#,
        sandbox.url()
    )
}

/// Seconds after the start of the manager.
fn read(arrivals: &str) -> Vec<Duration> {
    let path = format!("{}/tests/data/arrivals/{arrivals}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("the arrivals");
    text.lines().map(|line| Duration::from_secs_f64(line.parse().expect("seconds"))).collect()
}

fn ended(job: &JobHandle) -> bool {
    job.report().is_some_and(|report| report.status.is_final())
}

/// From available to final.
fn wait(job: &JobHandle) -> Duration {
    let report = job.report().expect("a job");
    assert_eq!(report.status, JobStatus::Success, "{}", harness::text(&job.trace()));
    report.first(JobStatus::Success).expect("final").saturating_sub(report.first(JobStatus::Queued).expect("queued"))
}
