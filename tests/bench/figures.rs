//! What a job costs, on real parts: OpenSSH's sshd in a namespace, a Docker Engine behind it, the installed
//! binary, and the sandbox as GitLab. Each figure stands beside its floor of the same run.
//!
//! `tests/figures` builds and runs it; the README has its last output.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures real time, and prints it")]

#[path = "../it/harness/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod harness;

mod chosen;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use flotilla::sandbox::{JobHandle, JobStatus, Sandbox, SandboxJob};

use chosen::is_chosen;
use harness::namespace::USER;
use harness::process::Manager;
use harness::rig::{Rig, Setup};

const IMAGE: &str = "flotilla-test/busybox";
const AT_ONCE: usize = 20;
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if is_chosen("docker") {
            docker("host").await;
            docker("bridge").await;
        }
        if is_chosen("instance") {
            instance().await;
        }
        if is_chosen("trace") {
            trace().await;
        }
        if is_chosen("cancel") {
            cancel().await;
        }
        if is_chosen("memory") {
            memory().await;
        }
        if is_chosen("thousand") {
            thousand().await;
        }
    });
}

fn echo_job() -> SandboxJob {
    SandboxJob::new("echo", &["echo hello"]).variable("GIT_STRATEGY", "none")
}

/// Containers of the jobs and of the floor are in the same network.
async fn docker(network: &str) {
    let rig = Rig::boot(Setup { network, ..Setup::of("docker-autoscaler") }).await;
    settle(&rig).await;
    let floor = median((0..8).map(|_| timed(|| raw_container(network))).collect());
    let alone = alone(&rig, 10).await;
    println!(
        "docker-autoscaler, {network} network, alone: {} received to final, {:.1} floors (floor {})",
        ms(alone.wall),
        ratio(alone.wall, floor),
        ms(floor)
    );
    println!("docker-autoscaler, {network} network, alone: manager {} CPU a job", ms(alone.cpu));
    let floor_rate = rate_at_once(60, || raw_container(network));
    let many = at_once(&rig, 60).await;
    println!(
        "docker-autoscaler, {network} network, {AT_ONCE} at once: {:.2} jobs/s, {:.2} of the floor's rate ({floor_rate:.2}/s); manager {} CPU a job",
        many.rate,
        many.rate / floor_rate,
        ms(many.cpu)
    );
}

async fn instance() {
    let rig = Rig::boot(Setup::of("instance")).await;
    settle(&rig).await;
    let connections = open_connections(&rig);
    let floor = median((0..20).map(|_| timed(|| raw_exec(&rig, &connections[0]))).collect());
    let alone = alone(&rig, 20).await;
    println!(
        "instance alone: {} received to final, {:.1} floors (floor {})",
        ms(alone.wall),
        ratio(alone.wall, floor),
        ms(floor)
    );
    println!("instance alone: manager {} CPU a job", ms(alone.cpu));
    let next = AtomicUsize::new(0);
    let floor_rate = rate_at_once(400, || {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        raw_exec(&rig, &connections[turn % connections.len()]);
    });
    let many = at_once(&rig, 400).await;
    println!(
        "instance {AT_ONCE} at once: {:.1} jobs/s, {:.2} of the floor's rate ({floor_rate:.1}/s); manager {} CPU a job",
        many.rate,
        many.rate / floor_rate,
        ms(many.cpu)
    );
}

/// CPU of the manager for each MB of trace, and how soon the first bytes are at GitLab.
async fn trace() {
    let rig = Rig::boot(Setup { runner: "output_limit = 200000", ..Setup::of("instance") }).await;
    settle(&rig).await;
    let before = cpu(&rig.manager);
    let script = "for i in $(seq 64); do head -c 786432 /dev/zero | tr '\\0' x | fold -w 95; done";
    let job = rig.enqueue(SandboxJob::new("long", &[script]).variable("GIT_STRATEGY", "none"));
    let report = job.wait_final(LIMIT).await.expect("a final state");
    assert_eq!(report.status, JobStatus::Success);
    let megabytes = report.trace_len as f64 / 1e6;
    let spent = cpu(&rig.manager) - before;
    println!("trace: manager {:.2} ms CPU a MB ({megabytes:.0} MB)", spent.as_secs_f64() * 1e3 / megabytes);

    let script = "sleep 2; echo marker $(date +%s%N) end; sleep 8";
    let job = rig.enqueue(SandboxJob::new("first", &[script]).variable("GIT_STRATEGY", "none"));
    let running = job.wait_until(LIMIT, |report, _| report.status == JobStatus::Running).await.expect("it runs");
    let began = running.first(JobStatus::Running).expect("it ran");
    let report = job.wait_until(LIMIT, |report, _| report.first_trace_at.is_some()).await.expect("a trace");
    let header = report.first_trace_at.expect("a trace").saturating_sub(began);
    println!("trace: first bytes at GitLab {} after the job began", ms(header));
    job.wait_until(LIMIT, |_, trace| marker(trace).is_some()).await.expect("the marker");
    let seen = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let printed = marker(&job.trace()).expect("the marker");
    println!("trace: the script's first line at GitLab {} after it was printed", ms(seen.saturating_sub(printed)));
}

/// When the script printed its marker, by its own word.
fn marker(trace: &[u8]) -> Option<Duration> {
    let text = String::from_utf8_lossy(trace);
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once("marker ")?;
        Some(Duration::from_nanos(rest.split_once(" end")?.0.parse().ok()?))
    })
}

async fn cancel() {
    let rig = Rig::boot(Setup::of("instance")).await;
    settle(&rig).await;
    let job = rig.enqueue(SandboxJob::new("silent", &["sleep 300"]).variable("GIT_STRATEGY", "none"));
    job.wait_until(LIMIT, |report, _| report.status == JobStatus::Running).await.expect("it runs");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let start = Instant::now();
    job.cancel();
    job.wait_final(LIMIT).await.expect("a final state");
    println!("cancel of a silent job: final {} after it", ms(start.elapsed()));
}

/// Memory with 50 runners that have nothing to do, and with 200 jobs on instances.
async fn memory() {
    let sandbox = Sandbox::start("127.0.0.1:0".parse().expect("an address")).await.expect("a sandbox");
    let mut config = "concurrent = 100\ncheck_interval = 3\n".to_owned();
    for number in 0..50 {
        let token = format!("glrt-idle{number:05}");
        sandbox.add_runner(&token);
        let entry = format!(
            "[[runners]]\n  name = \"r{number}\"\n  id = {}\n  url = \"{}\"\n  token = \"{token}\"\n  executor = \"instance\"\n  \
             [runners.autoscaler]\n    plugin = \"local\"\n    max_instances = 1\n",
            number + 1,
            sandbox.url()
        );
        config.push_str(&entry);
    }
    let manager = Manager::start(&config);
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!("idle with 50 runners: {:.1} MB", resident(&manager));
    drop(manager);

    let rig = Rig::boot(Setup { slots: 200, ..Setup::of("instance") }).await;
    settle(&rig).await;
    let jobs: Vec<JobHandle> = (0..200)
        .map(|number| {
            rig.enqueue(
                SandboxJob::new(&format!("busy-{number}"), &["for i in $(seq 60); do echo line $i; sleep 1; done"])
                    .variable("GIT_STRATEGY", "none"),
            )
        })
        .collect();
    all_print(&jobs).await;
    println!("{} instance jobs at once: {:.1} MB", rig.sandbox.peaks().running_jobs, resident(&rig.manager));
    for job in &jobs {
        job.wait_final(LIMIT).await.expect("a final state");
    }
    println!("after 200 instance jobs: {:.1} MB", resident(&rig.manager));
}

/// What a thousand jobs at once cost the manager. They come as the two cores that all share can start them.
async fn thousand() {
    const JOBS: u32 = 1_000;
    const A_SECOND: u32 = 15;
    let rig = Rig::boot(Setup { slots: JOBS, ..Setup::of("instance") }).await;
    settle(&rig).await;
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        if number % A_SECOND == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let script = ["for i in $(seq 15); do echo line $i; sleep 10; done"];
        jobs.push(rig.enqueue(SandboxJob::new(&format!("long-{number}"), &script).variable("GIT_STRATEGY", "none")));
    }
    all_print(&jobs).await;
    let before = cpu(&rig.manager);
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!(
        "{} instance jobs at once, a line each in ten seconds: {:.1} MB, {} CPU a second",
        rig.sandbox.peaks().running_jobs,
        resident(&rig.manager),
        ms((cpu(&rig.manager) - before) / 20)
    );
    for job in &jobs {
        finished(job).await;
    }
}

/// Waits until each job has printed its first line.
async fn all_print(jobs: &[JobHandle]) {
    for job in jobs {
        job.wait_until(LIMIT, |_, trace| trace.windows(6).any(|text| text == b"line 1")).await.expect("it runs");
    }
}

struct Alone {
    wall: Duration,
    cpu: Duration,
}

/// Jobs one after the other.
async fn alone(rig: &Rig, count: u32) -> Alone {
    let before = cpu(&rig.manager);
    let mut walls = Vec::new();
    for _ in 0..count {
        walls.push(finished(&rig.enqueue(echo_job())).await);
    }
    Alone { wall: median(walls), cpu: (cpu(&rig.manager) - before) / count }
}

struct Many {
    rate: f64,
    cpu: Duration,
}

/// Jobs in the queue at once; the rig runs at most [`AT_ONCE`] of them together.
async fn at_once(rig: &Rig, count: u32) -> Many {
    let before = cpu(&rig.manager);
    let start = Instant::now();
    let jobs: Vec<JobHandle> = (0..count).map(|_| rig.enqueue(echo_job())).collect();
    for job in &jobs {
        finished(job).await;
    }
    Many { rate: f64::from(count) / start.elapsed().as_secs_f64(), cpu: (cpu(&rig.manager) - before) / count }
}

/// From received to final.
async fn finished(job: &JobHandle) -> Duration {
    let report = job.wait_final(LIMIT).await.expect("a final state");
    assert_eq!(report.status, JobStatus::Success, "{}", harness::text(&job.trace()));
    let received = report.first(JobStatus::Offered).or_else(|| report.first(JobStatus::Running)).expect("handed out");
    report.first(JobStatus::Success).expect("final").saturating_sub(received)
}

/// One job, so that what is made once an instance is made.
async fn settle(rig: &Rig) {
    finished(&rig.enqueue(echo_job())).await;
}

/// Creates, starts, waits for and removes one container, over the engine's own socket.
fn raw_container(network: &str) {
    let body =
        format!(r#"{{"Image":"{IMAGE}","Cmd":["sh","-c","echo hello"],"HostConfig":{{"NetworkMode":"{network}"}}}}"#);
    let created = engine("POST", "/containers/create", &body);
    let id = created.split_once("\"Id\":\"").and_then(|(_, rest)| rest.split_once('"')).expect("an id").0.to_owned();
    engine("POST", &format!("/containers/{id}/start"), "");
    engine("POST", &format!("/containers/{id}/wait"), "");
    engine("DELETE", &format!("/containers/{id}?v=1"), "");
}

fn engine(method: &str, path: &str, body: &str) -> String {
    let mut socket = UnixStream::connect("/var/run/docker.sock").expect("a Docker Engine");
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("the engine takes a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the engine answers");
    assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    answer
}

/// How often a second something can be done, with as many at once as jobs.
fn rate_at_once(count: usize, act: impl Fn() + Sync) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| (0..count / AT_ONCE).for_each(|_| act()));
        }
    });
    count as f64 / start.elapsed().as_secs_f64()
}

/// Connections of OpenSSH's own client, by their control sockets: as many as it takes for [`AT_ONCE`] sessions with
/// at most eight on each, as the manager has them (sshd refuses more than ten).
fn open_connections(rig: &Rig) -> Vec<PathBuf> {
    let sockets: Vec<_> =
        (0..AT_ONCE.div_ceil(8)).map(|number| rig.instance.key.with_file_name(format!("control-{number}"))).collect();
    for socket in &sockets {
        ssh(rig, socket, &["-M", "-N", "-f"], &[]);
    }
    sockets
}

/// One command over a connection that is open already.
fn raw_exec(rig: &Rig, connection: &Path) {
    ssh(rig, connection, &[], &["true"]);
}

fn ssh(rig: &Rig, connection: &Path, options: &[&str], command: &[&str]) {
    let status = Command::new("ssh")
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i"])
        .arg(&rig.instance.key)
        .arg("-S")
        .arg(connection)
        .args(options)
        .arg(format!("{USER}@{}", rig.instance.address))
        .args(command)
        .status();
    assert!(status.expect("OpenSSH's client").success());
}

fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn ratio(time: Duration, floor: Duration) -> f64 {
    time.as_secs_f64() / floor.as_secs_f64()
}

/// CPU time of the manager so far, its children excluded.
fn cpu(manager: &Manager) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", manager.pid())).expect("the manager runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // The kernel counts in hundredths of a second.
    Duration::from_millis(ticks * 10)
}

/// Resident memory of the manager in MB.
fn resident(manager: &Manager) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", manager.pid())).expect("the manager runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel's figure");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1e3
}
