//! The config file changes while the manager runs.

use std::time::Duration;

use flotilla::sandbox::{Fault, FaultKind, JobStatus, On, RUNNER_TOKEN, Sandbox, SandboxJob};

use crate::admin::get;
use crate::harness::local::{LocalRig, instances, runner};
use crate::harness::process::Manager;
use crate::harness::rig::{Rig, Setup};
use crate::harness::{LIMIT, eventually, finish, sandbox, shows};

const OTHER_TOKEN: &str = "glrt-another-runner0000";

const IDLE: &str = "
    [[runners.autoscaler.policy]]
      idle_count = 2
      idle_time = \"1h\"";

fn config(runners: &str) -> String {
    format!("concurrent = 20\ncheck_interval = 1\nshutdown_timeout = 10\n{runners}")
}

fn limited(sandbox: &Sandbox, limit: u32) -> String {
    config(&runner(sandbox, "local", RUNNER_TOKEN, &format!("limit = {limit}"), "capacity_per_instance = 4"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_counts_at_once_and_is_said() {
    let sandbox = sandbox().await;
    let manager = Manager::start(&limited(&sandbox, 1));
    let script = ["echo started", "while [ ! -e ~/go ]; do sleep 0.1; done"];
    let first = sandbox.enqueue(SandboxJob::new("first", &script));
    shows(&first, " started\n").await;
    let second = sandbox.enqueue(SandboxJob::new("second", &["echo started", "touch ~/go"]));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(second.report().expect("the job").status, JobStatus::Queued, "the limit is 1");
    manager.write_config(&limited(&sandbox, 2));
    manager.signal("HUP");
    // The second ends the first, so they must run at once.
    for job in [second, first] {
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
    }
    assert!(manager.log().contains("limit: 1 → 2"), "{}", manager.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed_and_runners_come_and_go() {
    let sandbox = sandbox().await;
    sandbox.add_runner(OTHER_TOKEN);
    let one = runner(&sandbox, "one", RUNNER_TOKEN, "", "");
    let both = format!("{one}{}", runner(&sandbox, "other", OTHER_TOKEN, "", ""));
    let config = |runners| format!("listen_address = \"127.0.0.1:0\"\n{}", config(runners));
    let manager = Manager::start(&config(&one));
    manager.wait_log("Configuration loaded");
    let has_figures = async |name: &str| {
        let (_, metrics) = get(&manager, "/metrics").await;
        metrics.contains(&format!(r#"runner_name="{name}",state="idle""#))
    };
    let is_shown = async |name: &str| {
        let begun = async {
            while !has_figures("one").await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, begun).await.expect("the runner that stays is shown");
        has_figures(name).await
    };
    assert!(!is_shown("other").await);
    let of_other = || sandbox.requests().iter().filter(|seen| seen.header("runner-token") == Some(OTHER_TOKEN)).count();
    // No signal: the file itself is looked at.
    manager.write_config(&config(&both));
    let job = SandboxJob::new("of the other", &["echo started", "sleep 3", "echo ended"]).for_runner(OTHER_TOKEN);
    let job = sandbox.enqueue(job);
    shows(&job, " started\n").await;
    assert!(is_shown("other").await, "a runner that comes brings its fleet's figures");
    let before = manager.log().len();
    manager.write_config(&config(&one));
    manager.signal("HUP");
    manager.wait_log_after(before, "runner is no longer in the configuration");
    // Its job goes on to the end, and it asks no more.
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    // A request of before the change may still be held; its answer is the last.
    let late = sandbox.enqueue(SandboxJob::new("late", &["echo late"]).for_runner(OTHER_TOKEN));
    let asked = of_other();
    let own = sandbox.enqueue(SandboxJob::new("own", &["sleep 3"]).for_runner(RUNNER_TOKEN));
    assert_eq!(finish(&own).await.0.status, JobStatus::Success);
    assert_eq!(of_other(), asked, "a removed runner asks no more");
    assert!(!is_shown("other").await, "and its fleet is shown no more");
    assert_eq!(late.report().expect("the job").status, JobStatus::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_for_a_runner_that_was_just_removed_is_run() {
    let sandbox = sandbox().await;
    sandbox.add_runner(OTHER_TOKEN);
    let one = runner(&sandbox, "one", RUNNER_TOKEN, "", "");
    let both = format!("{one}{}", runner(&sandbox, "other", OTHER_TOKEN, "", ""));
    // Each runner's first request is answered late, so that the change comes in between.
    let by = Duration::from_secs(6);
    sandbox.faults().add(Fault::new(On::RequestJob, FaultKind::Late { by }).times(2));
    let manager = Manager::start(&config(&both));
    let asked = || sandbox.requests().iter().any(|seen| seen.header("runner-token") == Some(OTHER_TOKEN));
    eventually("the other runner has asked", asked);
    let job = sandbox.enqueue(SandboxJob::new("late", &["echo late"]).for_runner(OTHER_TOKEN));
    manager.write_config(&config(&one));
    manager.signal("HUP");
    manager.wait_log("runner is no longer in the configuration");
    assert_eq!(job.report().expect("the job").status, JobStatus::Queued, "the change was too slow for this test");
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_runner_gives_up_its_idle_instances_while_its_job_goes_on() {
    let sandbox = sandbox().await;
    sandbox.add_runner(OTHER_TOKEN);
    let one = runner(&sandbox, "one", RUNNER_TOKEN, "", "");
    let both = format!("{one}{}", runner(&sandbox, "other", OTHER_TOKEN, "", IDLE));
    let manager = Manager::start(&config(&both));
    let go = manager.folder().join("go");
    let script = ["echo started", &format!("while [ ! -e {} ]; do sleep 0.1; done", go.display())];
    let job = sandbox.enqueue(SandboxJob::new("long", &script).for_runner(OTHER_TOKEN));
    shows(&job, " started\n").await;
    eventually("two idle instances beside the job's", || instances(&manager).len() == 3);
    manager.write_config(&config(&one));
    manager.signal("HUP");
    eventually("only the job's instance is left", || instances(&manager).len() == 1);
    assert_eq!(job.report().expect("the job").status, JobStatus::Running);
    std::fs::write(go, "").expect("a file");
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    eventually("nothing is left", || instances(&manager).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_runner_leaves_nothing_when_the_manager_ends_before_its_job() {
    let sandbox = sandbox().await;
    sandbox.add_runner(OTHER_TOKEN);
    let one = runner(&sandbox, "one", RUNNER_TOKEN, "", "");
    let both = format!("{one}{}", runner(&sandbox, "other", OTHER_TOKEN, "", IDLE));
    // What is in the configuration is kept for the next start.
    let kept = |runners: &str| config(runners).replace("delete_instances_on_shutdown = true", "");
    let mut manager = Manager::start(&kept(&both));
    let job = sandbox.enqueue(SandboxJob::new("long", &["echo started", "sleep 600"]).for_runner(OTHER_TOKEN));
    shows(&job, " started\n").await;
    manager.write_config(&kept(&one));
    manager.signal("HUP");
    manager.wait_log("runner is no longer in the configuration");
    manager.signal("TERM");
    manager.wait_exit(Duration::from_secs(60));
    assert_eq!(finish(&job).await.0.failure_reason, "runner_interrupted");
    assert_eq!(instances(&manager), Vec::new(), "{}", manager.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_keeps_the_fleet_and_its_job() {
    let sandbox = sandbox().await;
    sandbox.add_runner(OTHER_TOKEN);
    let entry = |token| config(&runner(&sandbox, "one", token, "id = 7", IDLE));
    let manager = Manager::start(&entry(RUNNER_TOKEN));
    let go = manager.folder().join("go");
    let script = ["echo started", &format!("while [ ! -e {} ]; do sleep 0.1; done", go.display())];
    let first = sandbox.enqueue(SandboxJob::new("first", &script));
    shows(&first, " started\n").await;
    eventually("two idle instances beside the job's", || instances(&manager).len() == 3);
    let before = instances(&manager);
    manager.write_config(&entry(OTHER_TOKEN));
    manager.signal("HUP");
    let second = sandbox.enqueue(SandboxJob::new("second", &["echo second"]).for_runner(OTHER_TOKEN));
    let (report, trace) = finish(&second).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    std::fs::write(go, "").expect("a file");
    let (report, trace) = finish(&first).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let after = instances(&manager);
    assert!(before.iter().all(|instance| after.contains(instance)), "{before:?} became {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_host_that_is_added_takes_jobs_and_one_that_is_removed_ends_its_own_first() {
    let rig = Rig::boot(Setup { slots: 1, ..Setup::of("instance") }).await;
    let first = rig.enqueue(SandboxJob::new("first", &["echo started", "while [ ! -e ~/go ]; do sleep 0.1; done"]));
    shows(&first, " started\n").await;
    // The same machine under another name.
    let file = std::fs::read_to_string(rig.manager.config_path()).expect("the file");
    rig.manager.write_config(&file.replace("instances.i-1]", "instances.i-2]"));
    rig.manager.signal("HUP");
    let second = rig.enqueue(SandboxJob::new("second", &["touch ~/go"]));
    for (job, host) in [(second, "i-2"), (first, "i-1")] {
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        assert!(trace.contains(&format!("Instance {host} connected")), "{trace}");
    }
    eventually("the removed host is given up", || {
        rig.manager.log().lines().any(|line| line.contains("i-1") && line.contains("instance pruned"))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_said() {
    let rig = LocalRig::start("", "").await;
    rig.manager.wait_log("Configuration loaded");
    for broken in ["concurrent = \n", "concurrent = \"many\"\n", "[[runners]]\n  executor = \"teleport\"\n"] {
        let before = rig.manager.log().len();
        rig.manager.write_config(broken);
        rig.manager.signal("HUP");
        rig.manager.wait_log_after(before, "Failed to load config");
    }
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("still", &["echo here"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let before = rig.manager.log().len();
    std::fs::remove_file(rig.manager.config_path()).expect("the config");
    rig.manager.signal("HUP");
    rig.manager.wait_log_after(before, "Failed to load config: there is no config file");
    let before = rig.manager.log().len();
    rig.manager.write_config(&rig.config("user = \"ci\"", "capacity_per_instance = 3"));
    rig.manager.signal("HUP");
    rig.manager.wait_log_after(before, "user has no effect yet");
    rig.manager.wait_log_after(before, "Configuration loaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_for_another_group_changes_nothing_and_each_of_its_lines_says_so() {
    let sandbox = sandbox().await;
    let entry = |capacity: u32, plugin_config: &str| {
        let autoscaler = format!("capacity_per_instance = {capacity}\n{plugin_config}");
        config(&runner(&sandbox, "local", RUNNER_TOKEN, "", &autoscaler))
    };
    let manager = Manager::start(&format!("listen_address = \"127.0.0.1:0\"\n{}", entry(1, "")));
    let (report, trace) = finish(&sandbox.enqueue(SandboxJob::new("first", &["echo here"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let elsewhere = manager.folder().join("elsewhere");
    let root = format!("[runners.autoscaler.plugin_config]\nroot = {elsewhere:?}");
    manager.write_config(&format!("listen_address = \"127.0.0.1:0\"\n{}", entry(2, &root)));
    manager.signal("HUP");
    manager.wait_log("the changed entry is not taken up: this runner goes on as it was");
    manager.wait_log("capacity_per_instance: 1 → 2 (not taken up: another group needs a restart)");
    let (report, trace) = finish(&sandbox.enqueue(SandboxJob::new("second", &["echo here"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(!elsewhere.exists());
    let (_, metrics) = get(&manager, "/metrics").await;
    let capacity = metrics.lines().find(|line| line.starts_with("fleeting_taskscaler_max_tasks_per_instance"));
    assert!(capacity.is_some_and(|line| line.ends_with(" 1")), "{capacity:?}");
    assert!(metrics.lines().any(|line| line.starts_with("flotilla_fleet_state_kept") && line.ends_with(" 1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_runner_is_looked_at_again_while_the_file_stays_the_same() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().expect("a folder");
    let authority = folder.path().join("ca.crt");
    let lines = format!("tls-ca-file = {authority:?}");
    let manager = Manager::start(&config(&runner(&sandbox, "local", RUNNER_TOKEN, &lines, "")));
    manager.wait_log("this runner is not served");
    let job = sandbox.enqueue(SandboxJob::new("waits", &["echo here"]));
    std::fs::write(&authority, "").expect("the file");
    manager.wait_log("it is taken up again");
    assert_eq!(finish(&job).await.0.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_could_not_be_served_is_tried_again() {
    let sandbox = sandbox().await;
    sandbox.add_runner(OTHER_TOKEN);
    let one = runner(&sandbox, "one", RUNNER_TOKEN, "", "");
    let manager = Manager::start(&config(&one));
    manager.wait_log("Configuration loaded");
    let in_the_way = manager.folder().join("state");
    std::fs::write(&in_the_way, "").expect("a file where a folder belongs");
    let storage = format!("[runners.autoscaler.state_storage]\ndir = {in_the_way:?}");
    manager.write_config(&config(&format!("{one}{}", runner(&sandbox, "other", OTHER_TOKEN, "", &storage))));
    manager.wait_log("this runner is not served");
    let job = sandbox.enqueue(SandboxJob::new("of the other", &["echo here"]).for_runner(OTHER_TOKEN));
    std::fs::remove_file(&in_the_way).expect("the file");
    manager.wait_log("this runner is served now");
    assert_eq!(finish(&job).await.0.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_entries_for_one_runner_the_first_is_served() {
    let sandbox = sandbox().await;
    let entry = |name| runner(&sandbox, name, RUNNER_TOKEN, "", "");
    let manager = Manager::start(&config(&format!("{}{}", entry("first"), entry("second"))));
    manager.wait_log("another entry above is the same runner");
    let (report, trace) = finish(&sandbox.enqueue(SandboxJob::new("job", &["echo here"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
}
