//! Jobs whose payload is not what it should be.

use flotilla::sandbox::{JobStatus, SandboxJob};
use serde_json::json;

use crate::harness::finish;
use crate::harness::local::LocalRig;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_is_reported_and_harms_no_other() {
    let rig = LocalRig::start("", "").await;
    for body in [
        r#"{"id": {id}, "token": "{token}", "variables": [{"key": "A", "#,
        r#"{"id": {id}, "token": "{token}", "variables": 5, "steps": "none"}"#,
    ] {
        let (report, trace) = finish(&rig.enqueue(SandboxJob::new("broken", &[]).raw_body(body))).await;
        assert_eq!(report.status, JobStatus::Failed, "{body}: {trace}");
        assert_eq!(report.failure_reason, "runner_system_failure", "{body}: {trace}");
    }
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("next", &["echo fine"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_with_less_and_more_than_we_know_is_a_job_all_the_same() {
    let rig = LocalRig::start("", "").await;
    let strange = SandboxJob::new("strange", &["echo still $KEY"]).variable("KEY", "here").with(|payload| {
        let payload = payload.as_object_mut().expect("an object");
        for key in ["git_info", "runner_info", "inputs", "image", "services", "credentials", "hooks", "dependencies"] {
            payload.remove(key);
        }
        payload.insert("run".to_owned(), json!(null));
        payload.insert("artifacts".to_owned(), json!(null));
        payload.insert("cache".to_owned(), json!(null));
        payload.insert("of_the_future".to_owned(), json!({"a": [1, 2, {"b": null}]}));
        payload["features"]["of_the_future"] = json!("yes");
        payload["variables"][0]["of_the_future"] = json!(7);
    });
    let (report, trace) = finish(&rig.enqueue(strange)).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains(" still here\n"), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_handed_out_twice_runs_once() {
    let rig = LocalRig::start("", "").await;
    let count = rig.manager.folder().join("count");
    let script = format!("echo run >> {}; sleep 2", count.display());
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("twice", &[&script]).handed_out(2))).await;
    assert_eq!((report.status, report.handed_out), (JobStatus::Success, 2), "{trace}");
    assert_eq!(std::fs::read_to_string(count).expect("it ran"), "run\n");
}
