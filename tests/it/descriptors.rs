//! The manager's open descriptors: what takes them, what happens when there are none, what stays open after jobs.

use std::collections::BTreeMap;
use std::net::TcpStream;

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::admin::{address, get};
use crate::harness::local::LocalRig;
use crate::harness::{eventually, finish, shows};

/// As many as an attacker opens connections, and enough for a few jobs. More connections do not fit into the queues of
/// some kernels.
const FEW: u64 = 128;

/// What the kernel says to a process that has none left.
const NONE_LEFT: &str = "Too many open files";

/// A job that prints a line as soon as it runs, and ends when `release` exists.
fn waiting(name: &str, release: &std::path::Path) -> SandboxJob {
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", release.display());
    SandboxJob::new(name, &["echo started", &wait, "echo released"])
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_listen_address_take_no_descriptor_of_a_job() {
    let rig = LocalRig::start_limited(Some(FEW), "listen_address = \"127.0.0.1:0\"", "").await;
    let release = rig.manager.folder().join("release");
    let first = rig.enqueue(waiting("first", &release));
    shows(&first, " started\n").await;
    let before = rig.manager.descriptors().len();
    let address = address(&rig.manager);
    let idle: Vec<TcpStream> = (0..FEW).map(|_| TcpStream::connect(&address).expect("a connection")).collect();
    eventually("some connections are accepted", || rig.manager.descriptors().len() > before + 10);
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("second", &["echo second"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    std::fs::write(&release, "").expect("a file");
    let (report, trace) = finish(&first).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(!rig.manager.log().contains(NONE_LEFT));
    drop(idle);
    assert_eq!(get(&rig.manager, "/readyz").await, (200, "ready\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_without_descriptors_keeps_its_running_jobs_and_recovers() {
    let rig = LocalRig::start("listen_address = \"127.0.0.1:0\"", "").await;
    let release = rig.manager.folder().join("release");
    let first = rig.enqueue(waiting("first", &release));
    shows(&first, " started\n").await;
    let address = address(&rig.manager);
    rig.manager.limit_descriptors(4);
    let refused = TcpStream::connect(&address).expect("a connection");
    let second = rig.enqueue(SandboxJob::new("second", &["echo second"]));
    rig.manager.wait_log(NONE_LEFT);
    std::fs::write(&release, "").expect("a file");
    rig.manager.limit_descriptors(1024);
    for job in [first, second] {
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
    }
    drop(refused);
    assert_eq!(get(&rig.manager, "/readyz").await, (200, "ready\n".to_owned()));
    let complaints = rig.manager.log().lines().filter(|line| line.contains(NONE_LEFT)).count();
    assert!(complaints < 100, "a lack of descriptors is logged {complaints} times");
}

/// Kibibytes that the second half of the jobs may add: what the allocator and the ring of decisions still fill. A leak
/// of 16 KiB per job shows in an hour of jobs.
const MEMORY_GROWTH: u64 = 16 << 10;

/// Files and sockets by their kind: numbers of sockets and pipes differ each time.
fn by_kind(descriptors: &[String]) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for name in descriptors {
        *kinds.entry(name.split(":[").next().unwrap_or(name)).or_default() += 1;
    }
    kinds
}

/// Jobs one after the other on one instance. `FLOTILLA_SOAK_JOBS` sets how many between two looks.
#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_leave_no_descriptor_open_and_no_memory_in_use() {
    let jobs = std::env::var_os("FLOTILLA_SOAK_JOBS").and_then(|text| text.to_str()?.parse().ok()).unwrap_or(15);
    let rig = LocalRig::start("", "capacity_per_instance = 4\n[[runners.autoscaler.policy]]\nidle_count = 1").await;
    let round = async || {
        for four in 0..jobs {
            let names = (0..4).map(|slot| format!("{four}-{slot}"));
            let queued: Vec<_> = names.map(|name| rig.enqueue(SandboxJob::new(&name, &["echo a line"]))).collect();
            for job in &queued {
                let (report, trace) = finish(job).await;
                assert_eq!(report.status, JobStatus::Success, "{trace}");
            }
        }
    };
    round().await;
    let first = rig.manager.descriptors();
    let memory = rig.manager.peak_memory();
    round().await;
    let growth = rig.manager.peak_memory().saturating_sub(memory);
    assert!(growth < MEMORY_GROWTH, "{growth} KiB more after as many jobs again");
    // Connections that the last jobs used are closed a little later.
    let second = || rig.manager.descriptors();
    eventually(&format!("no more than {first:?}"), || {
        let second = second();
        let (before, after) = (by_kind(&first), by_kind(&second));
        after.iter().all(|(kind, count)| *count <= before.get(kind).copied().unwrap_or_default())
    });
}
