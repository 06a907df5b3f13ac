//! Embedded instances: processes of their own, which outlive the manager.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::harness::local::{LocalRig, instances};
use crate::harness::process::{Manager, flotilla};
use crate::harness::{eventually, finish, run};

const POLICY: &str = "
    [[runners.autoscaler.policy]]
      idle_count = 2
      idle_time = \"10m\"";
const NONE_IDLE: &str = "
    [[runners.autoscaler.policy]]
      idle_count = 0
      idle_time = \"1s\"";

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_succeeds_and_its_trace_is_whole() {
    let rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("hello", &["echo hello from $CI_JOB_ID", "pwd"]));
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains(&format!("hello from {}", job.id())), "{trace}");
    assert!(trace.contains("Job succeeded"), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_outlive_a_killed_manager_are_found_again_and_end_on_decrease() {
    let mut rig = LocalRig::start("", POLICY).await;
    eventually("two idle instances", || rig.instances().len() == 2);
    // Each is known to be ready when a job has run.
    assert_eq!(finish(&rig.enqueue(SandboxJob::new("first", &["echo one"]))).await.0.status, JobStatus::Success);
    rig.manager.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = rig.instances();
    assert!(before.len() >= 2 && before.iter().all(|(_, pid)| is_alive(*pid)), "{before:?}");

    rig.manager.start_again();
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("second", &["echo two"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let used = before.iter().any(|(name, _)| trace.contains(&format!("Instance {name} connected")));
    assert!(used, "{before:?}\n{trace}");
    assert!(before.iter().any(|(name, pid)| rig.instances().contains(&(name.clone(), *pid))));

    rig.manager.write_config(&rig.config("", NONE_IDLE));
    rig.manager.signal("HUP");
    eventually("the group is empty", || rig.instances().is_empty());
    eventually("their processes have ended", || before.iter().all(|(_, pid)| !is_alive(*pid)));
    assert_eq!(finish(&rig.enqueue(SandboxJob::new("third", &["echo three"]))).await.0.status, JobStatus::Success);
}

/// Every file and folder below, with its size and when it was last changed.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let about = entry.metadata().expect("a file");
        found.insert(entry.path(), (about.len(), about.modified().expect("its time")));
        if about.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_says_what_would_be_done_and_leaves_every_file_and_instance_as_it_is() {
    let mut rig = LocalRig::start("", POLICY).await;
    eventually("two idle instances", || rig.instances().len() == 2);
    eventually("both are ready", || rig.manager.log().matches("instance is ready").count() == 2);
    rig.manager.kill();
    let instances = rig.instances();
    let (dead, alive) = (&instances[0], &instances[1]);
    run("kill", &["-KILL", &dead.1.to_string()]);
    eventually("the instance has ended", || !is_alive(dead.1));
    let before = tree(rig.manager.folder());
    let (code, said) = flotilla(&["plan", "--config", &rig.manager.config_path().to_string_lossy()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("known       2 instances") && said.contains("would do    "), "{said}");
    assert_eq!(tree(rig.manager.folder()), before, "{said}");
    assert!(is_alive(alive.1), "{said}");
    // What is left here goes with the manager.
    rig.manager.start_again();
    eventually("the dead one's folder is cleared by who may", || !rig.instances().contains(dead));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_instance_dies_before_its_script_moves_to_another() {
    let rig = LocalRig::start("", "").await;
    // A server that takes the connection and says nothing: fetching the sources waits until the instance is gone.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/project.git", silent.local_addr().unwrap());
    let job = SandboxJob::new("moves", &["echo done"]).git(&url, "main", &"0".repeat(40));
    let job = rig.enqueue(job);
    crate::harness::shows(&job, "Getting source from Git repository").await;
    let (first, pid) = rig.instances().pop().expect("the job's instance");
    run("kill", &["-9", &pid.to_string()]);
    crate::harness::shows(&job, "the job moves to another instance").await;
    // What git gets now is no repository, so that the job comes to its end.
    drop(silent);
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Failed, "{trace}");
    let connected: Vec<&str> = trace.lines().filter(|line| line.contains("connected")).collect();
    assert_eq!(connected.len(), 2, "{trace}");
    assert!(connected[0].contains(&first) && !connected[1].contains(&first), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_instance_leaves_on_the_shared_engine_is_ended_before_the_next_takes_a_job() {
    let sandbox = crate::harness::sandbox().await;
    let token = format!("glrt-{:016x}", rand::random::<u64>());
    sandbox.add_runner(&token);
    let docker = "[runners.docker]\n    image = \"flotilla-test/busybox\"\n    pull_policy = \"if-not-present\"\n    \
                  network_mode = \"none\"";
    let runner = crate::harness::local::runner(&sandbox, "local", &token, docker, "");
    let runner = runner.replace("executor = \"instance\"", "executor = \"docker-autoscaler\"");
    let manager = Manager::start(&format!("concurrent = 20\ncheck_interval = 1\nshutdown_timeout = 10\n{runner}"));
    let label = format!("label=com.gitlab.gitlab-runner.runner.id={}", flotilla::ids::short_token(&token));
    let containers = || run("docker", &["ps", "--all", "--quiet", "--filter", &label]);
    let job = sandbox.enqueue(SandboxJob::new("doomed", &["echo started", "sleep 600"]));
    crate::harness::shows(&job, " started\n").await;
    let left = containers();
    assert_ne!(left, "");
    let (_, pid) = instances(&manager).pop().expect("the job's instance");
    run("kill", &["-9", &pid.to_string()]);
    assert_eq!(finish(&job).await.0.failure_reason, "runner_system_failure");
    assert_eq!(containers(), left, "nothing can take it away through the instance that is gone");
    let next = sandbox.enqueue(SandboxJob::new("next", &["echo started", "sleep 1"]));
    crate::harness::shows(&next, " started\n").await;
    assert!(left.lines().all(|id| !containers().contains(id)), "{left}");
    assert_eq!(finish(&next).await.0.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_in_mid_job_is_a_system_failure_and_the_next_job_gets_another() {
    let rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("doomed", &["echo started", "sleep 600"]));
    crate::harness::shows(&job, " started\n").await;
    let (name, pid) = rig.instances().pop().expect("the job's instance");
    run("kill", &["-9", &pid.to_string()]);
    let (report, trace) = finish(&job).await;
    assert_eq!(
        (report.status, report.failure_reason.as_str()),
        (JobStatus::Failed, "runner_system_failure"),
        "{trace}"
    );
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("next", &["echo next"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(!trace.contains(&format!("Instance {name} connected")), "{trace}");
}
