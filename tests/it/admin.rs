//! The admin server, as monitoring and operators ask it.

use flotilla::sandbox::SandboxJob;

use crate::harness::local::LocalRig;
use crate::harness::process::Manager;
use crate::harness::{finish, shows};

/// Status and text.
pub(crate) async fn get(manager: &Manager, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{}{path}", address(manager))).await.expect("the admin server");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

/// The port was the system's choice.
pub(crate) fn address(manager: &Manager) -> String {
    manager.wait_log("admin server listens");
    let log = manager.log();
    let (_, rest) = log.split_once("msg=\"admin server listens\" address=").expect("the address");
    rest.split_whitespace().next().expect("the address").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_server_shows_what_runs_and_what_has_run() {
    let buckets = "instance_readiness_time_buckets = [0.001, 600]";
    let rig = LocalRig::start("listen_address = \"127.0.0.1:0\"", buckets).await;
    let manager = &rig.manager;
    let fails = rig.enqueue(SandboxJob::new("fails", &["exit 3"]));
    finish(&fails).await;
    for path in ["/readyz", "/health/ready"] {
        assert_eq!(get(manager, path).await, (200, "ready\n".to_owned()));
    }
    assert_eq!(get(manager, "/debug/process/state").await.1.trim(), "running");
    let job = rig.enqueue(SandboxJob::new("long", &["echo started", "sleep 600"]));
    shows(&job, " started\n").await;
    let (status, list) = get(manager, "/debug/jobs/list").await;
    assert_eq!(status, 200);
    let url =
        format!("url={}/flotilla/sandbox/-/jobs/{} state=running stage=step_script ", rig.sandbox.url(), job.id());
    assert!(list.lines().any(|line| line.starts_with(&url)), "{list}");
    let (status, metrics) = get(manager, "/metrics").await;
    assert_eq!(status, 200);
    for (name, value) in [
        ("gitlab_runner_concurrent", "20"),
        ("gitlab_runner_jobs_total", "2"),
        ("gitlab_runner_failed_jobs_total", "1"),
        ("gitlab_runner_job_duration_seconds_count", "1"),
        ("gitlab_runner_job_queue_duration_seconds_count", "2"),
        ("gitlab_runner_limit", "0"),
        ("gitlab_runner_process_state_info", "1"),
        ("gitlab_runner_version_info", "1"),
        ("gitlab_runner_configuration_loaded_total", "1"),
        ("fleeting_provisioner_max_instances", "4"),
        ("fleeting_provisioner_instance_creation_time_seconds_count", "1"),
        ("fleeting_taskscaler_task_instance_readiness_time_seconds_count", "1"),
        ("fleeting_taskscaler_max_tasks_per_instance", "1"),
    ] {
        let lines: Vec<_> = metrics.lines().filter(|line| is_of(line, name)).collect();
        assert!(lines.iter().any(|line| line.ends_with(&format!(" {value}"))), "{name} {value}\n{metrics}");
    }
    for part in [
        r#"gitlab_runner_jobs{executor_stage="",runner="sandbox00",runner_name="local",stage="step_script",state="running""#,
        r#"failure_reason="script_failure",mode="traditional""#,
        r#"gitlab_runner_api_request_statuses_total{endpoint="request_job",method="post",runner="sandbox00",status="201""#,
        r#"gitlab_runner_api_request_duration_seconds_bucket{endpoint="patch_trace""#,
        "process_resident_memory_bytes",
        "process_open_fds",
        r#"fleeting_taskscaler_task_instance_readiness_time_seconds_bucket{runner="sandbox00",runner_name="local","#,
        r#",le="600"} 1"#,
    ] {
        assert!(metrics.contains(part), "{part}\n{metrics}");
    }
    let of_state = |name: &str, state: &str| {
        let mut lines = metrics.lines().filter(|line| is_of(line, name));
        let line = lines.find(|line| line.contains(&format!("state=\"{state}\""))).expect("the state");
        line.rsplit(' ').next().expect("a value").to_owned()
    };
    assert_eq!(of_state("fleeting_taskscaler_tasks", "acquired"), "1");
    assert_eq!(of_state("fleeting_provisioner_instances", "running"), "1");
    the_fleet_is_explained(&rig).await;
    manager.signal("QUIT");
    manager.wait_log("Starting graceful shutdown");
    assert_eq!(get(manager, "/debug/process/state").await.1.trim(), "graceful-shutdown");
    assert_eq!(get(manager, "/readyz").await.0, 503);
    assert_eq!(get(manager, "/nothing").await.0, 404);
}

/// The one instance, what was decided about it, and the same in the log.
async fn the_fleet_is_explained(rig: &LocalRig) {
    let manager = &rig.manager;
    let (name, _) = rig.instances().pop().expect("an instance");
    let (status, decisions) = get(manager, "/debug/decisions").await;
    assert_eq!(status, 200);
    let grown = decisions.lines().position(|line| {
        line.contains(" runner=sandbox00 increasing: +1: pending ") && line.contains("idle target 0, have 0")
    });
    let ready = decisions.lines().position(|line| line.contains(&format!(" ready instance={name}: prepared in ")));
    assert!(grown.is_some() && grown < ready, "the newest is last\n{decisions}");
    let (_, json) = get(manager, "/debug/decisions?format=json").await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let shown = json.as_array().expect("decisions").iter().any(|decision| {
        decision["what"] == "ready" && decision["instance"] == name.as_str() && decision["runner_name"] == "local"
    });
    assert!(shown, "{json}");

    let (status, instances) = get(manager, "/debug/instances").await;
    assert_eq!(status, 200);
    let of_it = format!("runner=sandbox00 instance={name} state=ready cause=requested uses=2 slots=[0:sandbox00");
    assert!(instances.lines().any(|line| line.starts_with(&of_it)), "{instances}");
    let client = reqwest::Client::new().get(format!("http://{}/debug/instances", address(manager)));
    let answer = client.header("accept", "application/json").send().await.expect("the admin server");
    let json: serde_json::Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
    assert_eq!((&json[0]["max_instances"], &json[0]["instances"][0]["id"]), (&4.into(), &name.into()), "{json}");

    let log = manager.log();
    for part in [
        "msg=\"required scaling change\" capacity-info=\"instance_count:0,max_instance_count:4,acquired:0,",
        "msg=\"Appending trace to coordinator...ok\" code=202 job=1 job-log=0-",
        "msg=\"Submitting job to coordinator...ok\" code=200 job=1 job-status=failed ",
    ] {
        assert!(log.contains(part), "{part}\n{log}");
    }
}

fn is_of(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
}
