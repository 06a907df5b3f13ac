//! The rules of the world, without HTTP; what a runner sees of them over HTTP is tested with the client.

use std::sync::Arc;
use std::time::Duration;

use crate::gitlab::wire::{Features, Info, JobRequest, JobState, Output, UpdateRequest};
use crate::ids::JobId;
use crate::sandbox::world::{Request, World};
use crate::sandbox::{JobStatus, Options, RUNNER_TOKEN, SandboxJob};
use crate::time::{self, Now};

fn world() -> (World, Now) {
    let now = time::now();
    (World::new(Options::default(), "http://127.0.0.1:1".to_owned(), now), now)
}

fn asks(token: &str) -> JobRequest {
    let features = Features { two_phase_job_commit: true, cancel_gracefully: true, ..Features::default() };
    JobRequest {
        info: Arc::new(Info::new("instance", "bash", features)),
        token: token.into(),
        system_id: "s_0123456789ab".to_owned(),
        last_update: String::new(),
    }
}

fn update(state: JobState, token: &str) -> UpdateRequest {
    UpdateRequest {
        info: Arc::default(),
        token: token.into(),
        state,
        failure_reason: String::new(),
        checksum: String::new(),
        output: Output::default(),
        exit_code: 0,
    }
}

/// The number and token of the job that is handed out, if one is.
fn handed_out(world: &mut World, request: &JobRequest, now: Now) -> Option<(JobId, String)> {
    let Request::Answered(answer) = world.request(request, true, now) else { return None };
    let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    Some((JobId(body["id"].as_i64()?), body["token"].as_str()?.to_owned()))
}

fn status(world: &World, id: JobId) -> JobStatus {
    world.report(id).unwrap().status
}

#[test]
fn jobs_are_handed_out_in_order_and_once() {
    let (mut world, now) = world();
    let ids = [(); 2].map(|()| world.enqueue(SandboxJob::new("job", &["true"]), now));
    let request = asks(RUNNER_TOKEN);
    let got: Vec<JobId> = std::iter::from_fn(|| handed_out(&mut world, &request, now)).map(|(id, _)| id).collect();
    assert_eq!(got, ids);
    assert_eq!(world.peaks().running_jobs, 2);
}

#[test]
fn an_offer_lapses_unless_pending_is_heard_in_time() {
    let (mut world, start) = world();
    let id = world.enqueue(SandboxJob::new("job", &["true"]), start);
    let (_, token) = handed_out(&mut world, &asks(RUNNER_TOKEN), start).unwrap();
    let later = |seconds| start.after(Duration::from_secs(seconds));
    assert_eq!(world.update(id, Some(&token), &update(JobState::Pending, &token), later(119)).status, 200);
    assert_eq!(world.update(id, Some(&token), &update(JobState::Pending, &token), later(238)).status, 200);
    assert_eq!(world.update(id, Some(&token), &update(JobState::Running, &token), later(358)).status, 403);
    assert_eq!(status(&world, id), JobStatus::Queued);
    let (again, fresh) = handed_out(&mut world, &asks(RUNNER_TOKEN), later(359)).unwrap();
    assert_eq!(again, id);
    assert_ne!(fresh, token);
    assert_eq!(world.update(id, Some(&token), &update(JobState::Running, &token), later(360)).status, 403);
    assert_eq!(world.update(id, Some(&fresh), &update(JobState::Running, &fresh), later(360)).status, 200);
}

#[test]
fn a_request_with_the_latest_last_update_is_held_until_the_queue_changes() {
    let (mut world, now) = world();
    let mut request = asks(RUNNER_TOKEN);
    let Request::Answered(answer) = world.request(&request, true, now) else { panic!("held") };
    request.last_update = answer.headers[0].1.clone();
    assert!(matches!(world.request(&request, true, now), Request::Held { .. }));
    world.enqueue(SandboxJob::new("job", &["true"]), now);
    assert!(handed_out(&mut world, &request, now).is_some());
}

#[test]
fn a_job_for_one_runner_is_not_given_to_another() {
    let (mut world, now) = world();
    world.add_runner("glrt-other");
    world.enqueue(SandboxJob::new("job", &["true"]).for_runner("glrt-other"), now);
    assert!(handed_out(&mut world, &asks(RUNNER_TOKEN), now).is_none());
    assert!(handed_out(&mut world, &asks("glrt-other"), now).is_some());
}

#[test]
fn a_paused_runner_gets_nothing() {
    let (mut world, now) = world();
    world.enqueue(SandboxJob::new("job", &["true"]), now);
    world.pause_runner(RUNNER_TOKEN, true);
    assert!(handed_out(&mut world, &asks(RUNNER_TOKEN), now).is_none());
    world.pause_runner(RUNNER_TOKEN, false);
    assert!(handed_out(&mut world, &asks(RUNNER_TOKEN), now).is_some());
}

#[test]
fn cancelling_goes_by_what_the_manager_can_do() {
    let (mut world, now) = world();
    let ids = [(); 3].map(|()| world.enqueue(SandboxJob::new("job", &["true"]), now));
    let graceful = asks(RUNNER_TOKEN);
    let hard = JobRequest { info: Arc::default(), ..asks(RUNNER_TOKEN) };
    let (_, token) = handed_out(&mut world, &graceful, now).unwrap();
    world.update(ids[0], Some(&token), &update(JobState::Running, &token), now);
    handed_out(&mut world, &hard, now).unwrap();
    for id in ids {
        world.cancel(id, now);
    }
    assert_eq!(ids.map(|id| status(&world, id)), [JobStatus::Canceling, JobStatus::Canceled, JobStatus::Canceled]);
    world.cancel(ids[0], now);
    assert_eq!(status(&world, ids[0]), JobStatus::Canceled);
}

#[test]
fn an_ended_job_takes_nothing_more_and_says_how_it_ended() {
    let (mut world, now) = world();
    let id = world.enqueue(SandboxJob::new("job", &["true"]), now);
    let (_, token) = handed_out(&mut world, &asks(RUNNER_TOKEN), now).unwrap();
    world.update(id, Some(&token), &update(JobState::Running, &token), now);
    world.update(id, Some(&token), &update(JobState::Success, &token), now);
    for state in [JobState::Running, JobState::Failed] {
        let answer = world.update(id, Some(&token), &update(state, &token), now);
        assert_eq!(answer.status, 403);
        assert!(answer.headers.contains(&("job-status", "success".to_owned())));
    }
    assert_eq!(world.patch(id, Some(&token), Some("0-0"), b"x", now).status, 403);
    assert_eq!(status(&world, id), JobStatus::Success);
    assert_eq!(world.report(id).unwrap().violations.len(), 3);
}

#[test]
fn a_patch_needs_a_range_that_fits() {
    let (mut world, now) = world();
    let id = world.enqueue(SandboxJob::new("job", &["true"]), now);
    let (_, token) = handed_out(&mut world, &asks(RUNNER_TOKEN), now).unwrap();
    assert_eq!(world.patch(id, Some(&token), Some("0-0"), b"x", now).status, 403);
    world.update(id, Some(&token), &update(JobState::Running, &token), now);
    assert_eq!(world.patch(id, Some(&token), None, b"x", now).status, 400);
    assert_eq!(world.patch(id, Some(&token), Some("x"), b"x", now).status, 400);
    assert_eq!(world.patch(id, Some(&token), Some("0-5"), b"x", now).status, 202);
    let violations = world.report(id).unwrap().violations;
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert_eq!(world.trace(id), b"x");
}
