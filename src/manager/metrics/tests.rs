//! The text of `/metrics`, as a dashboard reads it.

use super::*;
use crate::config::resolved::Buckets;
use crate::ids::{InstanceId, JobId, ReservationKey, RunnerKey};
use crate::manager::registry::Registry as Jobs;
use crate::taskscaler::core::records::Restored;
use crate::taskscaler::core::settings::{OnShutdown, ScaleThrottle, Settings, UnknownInstances};
use crate::taskscaler::core::{Core, Decision, Event, Listing, Ticket};
use crate::taskscaler::{Snapshot, timings::Timings};

#[test]
fn gauges_show_the_moment_and_counters_the_past() {
    let metrics = Metrics::new().expect("each name stands once");
    let labels = RunnerLabels { runner: "abcdefghi".into(), runner_name: "r1".into(), system_id: "s_1".into() };
    metrics.job_received(&labels, Duration::from_secs(2), "1");
    metrics.job_finished(&labels, Duration::from_secs(40), Some("script_failure"));
    let jobs = Jobs::default();
    let runner = RunnerKey::new("https://gitlab.example", 1, "glrt-t");
    let entry = jobs.add(&runner, JobId(1), 7, String::new(), crate::time::now().instant);
    entry.set_state("running");
    entry.set_stage("step_script");
    let reading = |jobs| Reading {
        standing_still: 2,
        concurrent: 10,
        process_state: "running",
        runners: vec![RunnerReading {
            labels: labels.clone(),
            limit: 5,
            jobs,
            requests: 1,
            request_limit: 2,
            request_hard_limit: 4,
        }],
        fleets: Vec::new(),
    };
    let render = |jobs| String::from_utf8(metrics.render(&reading(jobs)).expect("text")).expect("UTF-8");
    let running = r#"gitlab_runner_jobs{executor_stage="",runner="abcdefghi",runner_name="r1",stage="step_script",state="running",system_id="s_1"} 1"#;
    let text = render(jobs.snapshot());
    for line in [
        "gitlab_runner_concurrent 10",
        running,
        r#"gitlab_runner_jobs_total{runner="abcdefghi",runner_name="r1",system_id="s_1"} 1"#,
        r#"gitlab_runner_failed_jobs_total{failure_reason="script_failure",mode="traditional",runner="abcdefghi",runner_name="r1"} 1"#,
        r#"gitlab_runner_request_concurrency_adaptive_limit{runner="abcdefghi",system_id="s_1"} 2"#,
        r#"gitlab_runner_process_state_info{state="running"} 1"#,
        "flotilla_standing_still 2",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
    assert!(!render(Vec::new()).contains(running), "a job that has ended is shown no more");
}

/// A fleet that has been asked for one job more than it may have instances, and its histograms.
fn fleet() -> Snapshot {
    let number = |number| std::num::NonZeroU32::new(number).expect("not 0");
    let seconds = Duration::from_secs;
    let settings = Settings {
        capacity_per_instance: number(1),
        max_use_count: None,
        max_instances: Some(number(1)),
        policies: Vec::new(),
        reservation_throttling: None,
        scale_throttle: ScaleThrottle::Unlimited,
        acquire_timeout: seconds(900),
        update_interval: seconds(60),
        update_interval_when_expecting: seconds(2),
        deletion_retry_interval: seconds(60),
        failure_threshold: number(3),
        liveness_interval: seconds(300),
        on_shutdown: OnShutdown::Keep,
        unknown: UnknownInstances::Report,
    };
    let now = crate::time::now();
    let mut core = Core::new(settings, now);
    let key = ReservationKey::new;
    for event in [
        Event::Started { group_max: None, restored: Restored::default() },
        Event::ReservationRequested { ticket: Ticket(1), key: key("early") },
        Event::GroupListed(Listing { target: None, instances: Vec::new() }),
        Event::AcquisitionRequested { ticket: Ticket(2), key: key("a") },
        Event::AcquisitionRequested { ticket: Ticket(3), key: key("b") },
    ] {
        core.handle(event, now);
    }
    let mut timings = Timings::new(&Buckets { readiness_time: Some(vec![5.0, 10.0]), ..Buckets::default() });
    timings.observe(&Decision::Ready { instance: InstanceId::new("i-1"), took: seconds(7) });
    Snapshot { fleet: core.snapshot(now), timings, is_kept: false }
}

#[test]
fn fleets_are_shown_under_the_names_of_the_reference_and_go_with_their_runner() {
    let metrics = Metrics::new().expect("each name stands once");
    let labels = RunnerLabels { runner: "abcdefghi".into(), runner_name: "r1".into(), system_id: "s_1".into() };
    let render = |fleets| {
        let reading = Reading { process_state: "running", fleets, ..Reading::default() };
        String::from_utf8(metrics.render(&reading).expect("text")).expect("UTF-8")
    };
    let text = render(vec![FleetReading { labels, snapshot: fleet() }]);
    let own = r#"runner="abcdefghi",runner_name="r1",system_id="s_1""#;
    let (by_state, system) = (r#"runner="abcdefghi",runner_name="r1",state="#, r#"system_id="s_1""#);
    for line in [
        "# TYPE fleeting_taskscaler_tasks gauge".to_owned(),
        format!(r#"fleeting_taskscaler_tasks{{{by_state}"pending",{system}}} 2"#),
        format!(r#"fleeting_taskscaler_tasks{{{by_state}"unhealthy",{system}}} 0"#),
        "# TYPE fleeting_taskscaler_task_operations_total counter".to_owned(),
        format!(r#"fleeting_taskscaler_task_operations_total{{operation="acquire",{own}}} 2"#),
        format!(r#"fleeting_taskscaler_task_operations_total{{operation="reserve_iop_capacity_failure",{own}}} 1"#),
        format!(r#"fleeting_taskscaler_scale_operations_total{{operation="up",{own}}} 1"#),
        format!("fleeting_taskscaler_desired_instances{{{own}}} 1"),
        format!("fleeting_taskscaler_max_tasks_per_instance{{{own}}} 1"),
        format!("fleeting_taskscaler_max_use_count_per_instance{{{own}}} 0"),
        format!(r#"fleeting_provisioner_instances{{{by_state}"requested",{system}}} 1"#),
        format!("fleeting_provisioner_max_instances{{{own}}} 1"),
        format!("fleeting_provisioner_missed_updates_total{{{own}}} 0"),
        format!(r#"fleeting_provisioner_instance_operations_total{{operation="create",{own}}} 0"#),
        format!(r#"fleeting_provisioner_internal_operations_total{{operation="reconcile",{own}}} 1"#),
        "# TYPE fleeting_taskscaler_task_instance_readiness_time_seconds histogram".to_owned(),
        format!(r#"fleeting_taskscaler_task_instance_readiness_time_seconds_bucket{{{own},le="5"}} 0"#),
        format!(r#"fleeting_taskscaler_task_instance_readiness_time_seconds_bucket{{{own},le="10"}} 1"#),
        format!(r#"fleeting_taskscaler_task_instance_readiness_time_seconds_bucket{{{own},le="+Inf"}} 1"#),
        format!("fleeting_taskscaler_task_instance_readiness_time_seconds_sum{{{own}}} 7"),
        format!("fleeting_provisioner_instance_creation_time_seconds_count{{{own}}} 0"),
        format!("fleeting_provisioner_instance_is_running_time_seconds_count{{{own}}} 0"),
        format!("fleeting_provisioner_instance_deletion_time_seconds_count{{{own}}} 0"),
        format!("fleeting_provisioner_instance_life_duration_seconds_count{{{own}}} 0"),
        format!(r#"flotilla_reservation_refusals_total{{reason="starting",{own}}} 1"#),
        format!("flotilla_fleet_state_kept{{{own}}} 0"),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
    }
    assert!(!render(Vec::new()).contains("fleeting_"), "a runner that is gone has no fleet");
}
