//! Ruling by ruling, and one small world of fifty runners on two permits.

use super::*;

const INTERVAL: Duration = Duration::from_secs(3);

fn key(number: usize) -> RunnerKey {
    RunnerKey::new("https://gitlab.example", i64::try_from(number).expect("few runners") + 1, "glrt-t")
}

fn limits(concurrent: u32) -> Limits {
    Limits { concurrent, check_interval: INTERVAL }
}

fn runner() -> RunnerLimits {
    RunnerLimits {
        limit: 0,
        request_concurrency: 1,
        adaptive: true,
        strict_check_interval: false,
        unhealthy_requests_limit: 3,
    }
}

fn admission(concurrent: u32, runners: &[RunnerLimits], now: Instant) -> Admission {
    let mut admission = Admission::new(limits(concurrent));
    let runners: Vec<_> = runners.iter().enumerate().map(|(number, limits)| (key(number), *limits)).collect();
    admission.configure(limits(concurrent), &runners, now);
    admission
}

fn polls(admission: &mut Admission, now: Instant) -> Vec<Poll> {
    std::iter::from_fn(|| admission.next_poll(now)).collect()
}

fn no_job(asked: Instant) -> PollOutcome {
    PollOutcome::NoJob { asked, held: false, pushed_back: false }
}

#[test]
fn jobs_and_requests_together_never_exceed_concurrent() {
    let start = crate::time::now().instant;
    let mut admission = admission(2, &[runner(); 5], start);
    let later = start + INTERVAL;
    assert_eq!(polls(&mut admission, later).len(), 2);
    admission.poll_finished(&key(0), PollOutcome::Job { pushed_back: false }, later);
    assert_eq!(polls(&mut admission, later).len(), 0);
    admission.poll_finished(&key(1), no_job(later), later);
    assert_eq!(polls(&mut admission, later).len(), 1);
}

#[test]
fn a_runners_limit_counts_its_requests_too() {
    let start = crate::time::now().instant;
    let mut admission =
        admission(10, &[RunnerLimits { limit: 1, request_concurrency: 5, adaptive: false, ..runner() }], start);
    assert_eq!(polls(&mut admission, start).len(), 1);
    admission.poll_finished(&key(0), PollOutcome::Job { pushed_back: false }, start);
    assert_eq!(polls(&mut admission, start + INTERVAL).len(), 0);
    admission.job_finished(&key(0));
    assert_eq!(polls(&mut admission, start + INTERVAL).len(), 1);
}

#[test]
fn after_a_job_the_same_runner_asks_again_at_once() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    polls(&mut admission, start);
    admission.poll_finished(&key(0), PollOutcome::Job { pushed_back: false }, start);
    assert_eq!(polls(&mut admission, start), [Poll { runner: key(0), long: false }]);
}

#[test]
fn strict_check_interval_waits_even_after_a_job() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[RunnerLimits { strict_check_interval: true, ..runner() }], start);
    polls(&mut admission, start);
    admission.poll_finished(&key(0), PollOutcome::Job { pushed_back: false }, start);
    assert_eq!(polls(&mut admission, start).len(), 0);
    assert_eq!(admission.poll_timeout(), Some(start + INTERVAL));
}

#[test]
fn long_polls_only_where_every_other_runner_could_ask_too() {
    let start = crate::time::now().instant;
    let later = start + INTERVAL;
    let long = |concurrent, runners: usize| {
        let mut admission = admission(concurrent, &vec![runner(); runners], start);
        polls(&mut admission, later).first().map(|poll| poll.long)
    };
    assert_eq!(long(1, 1), Some(true), "nobody else to keep waiting");
    assert_eq!(long(2, 2), Some(false));
    assert_eq!(long(3, 2), Some(true));
    assert_eq!(long(2, 50), Some(false));
}

#[test]
fn the_last_permit_never_goes_to_a_long_poll_beside_another_runner() {
    let start = crate::time::now().instant;
    let mut admission = admission(2, &[runner(); 2], start);
    let mut now = start + INTERVAL;
    for _ in 0..5 {
        // Both are under way at once, then end one after the other: each asks while the other's is under way.
        assert!(polls(&mut admission, now).iter().all(|poll| !poll.long));
        for number in 0..2 {
            admission.poll_finished(&key(number), no_job(now), now);
            now += INTERVAL;
            assert!(polls(&mut admission, now).iter().all(|poll| !poll.long));
        }
    }
    let full = RunnerLimits { limit: 1, ..runner() };
    let mut admission = self::admission(2, &[full, runner()], start);
    admission.job_resumed(&key(0));
    assert_eq!(polls(&mut admission, now), [Poll { runner: key(1), long: true }], "the other wants no permit");
}

#[test]
fn a_slow_answer_of_a_server_that_holds_nothing_waits_for_the_interval() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    assert!(polls(&mut admission, start)[0].long);
    admission.poll_finished(&key(0), no_job(start), start + Duration::from_secs(1));
    assert_eq!(admission.poll_timeout(), Some(start + INTERVAL));
}

#[test]
fn a_held_poll_that_ends_is_followed_at_once() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    polls(&mut admission, start);
    let ended = start + Duration::from_secs(1);
    admission.poll_finished(&key(0), PollOutcome::NoJob { asked: start, held: true, pushed_back: false }, ended);
    assert_eq!(polls(&mut admission, ended).len(), 1);
}

#[test]
fn without_news_a_runner_asks_once_an_interval() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    polls(&mut admission, start);
    admission.poll_finished(&key(0), no_job(start), start + Duration::from_millis(20));
    assert_eq!(admission.poll_timeout(), Some(start + INTERVAL));
}

#[test]
fn capacity_makes_only_the_starved_due() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    polls(&mut admission, start);
    admission.poll_finished(&key(0), PollOutcome::NoCapacity { asked: start }, start);
    assert_eq!(polls(&mut admission, start).len(), 0);
    admission.capacity_changed(&key(0), start);
    assert_eq!(polls(&mut admission, start).len(), 1);
    admission.poll_finished(&key(0), no_job(start), start);
    admission.capacity_changed(&key(0), start);
    assert_eq!(polls(&mut admission, start).len(), 0);
}

#[test]
fn a_refusal_that_is_heard_after_new_capacity_is_asked_again_at_once() {
    let start = crate::time::now().instant;
    let soon = start + Duration::from_millis(1);
    let mut admission = admission(10, &[runner()], start);
    polls(&mut admission, start);
    admission.capacity_changed(&key(0), soon);
    admission.poll_finished(&key(0), PollOutcome::NoCapacity { asked: start }, soon);
    let later = soon + Duration::from_millis(1);
    assert_eq!(polls(&mut admission, later).len(), 1);
    admission.poll_finished(&key(0), PollOutcome::NoCapacity { asked: later }, later);
    assert_eq!(polls(&mut admission, later).len(), 0, "refused since");
}

#[test]
fn a_removed_runner_asks_no_more_and_is_forgotten_after_its_last_job() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    polls(&mut admission, start);
    admission.configure(limits(10), &[], start);
    admission.poll_finished(&key(0), PollOutcome::Job { pushed_back: false }, start);
    assert_eq!(polls(&mut admission, start + INTERVAL).len(), 0);
    assert_eq!(admission.jobs(), 1);
    admission.job_finished(&key(0));
    assert_eq!(admission.load(&key(0)), None);
}

#[test]
fn draining_asks_for_nothing() {
    let start = crate::time::now().instant;
    let mut admission = admission(10, &[runner()], start);
    admission.drain();
    assert_eq!(admission.next_poll(start), None);
    assert_eq!(admission.poll_timeout(), None);
}

/// Fifty runners, two permits, requests of 20 ms, now and then a job of four seconds: whenever a
/// permit was free, nobody had waited longer than one interval and a second.
#[test]
fn no_runner_waits_longer_than_an_interval_and_a_second_while_a_permit_is_free() {
    let start = crate::time::now().instant;
    let mut admission = admission(2, &[runner(); 50], start);
    let mut now = start;
    let mut asked: BTreeMap<RunnerKey, Instant> = (0..50).map(|number| (key(number), start)).collect();
    let mut requests: Vec<(Instant, RunnerKey)> = Vec::new();
    let mut jobs: Vec<(Instant, RunnerKey)> = Vec::new();
    let (mut polled, mut last_full) = (0_u32, start);
    while now < start + Duration::from_secs(600) {
        for poll in polls(&mut admission, now) {
            assert!(!poll.long);
            let waited = now - asked[&poll.runner].max(last_full);
            assert!(waited <= INTERVAL + Duration::from_secs(1), "{} waited {waited:?}", poll.runner);
            asked.insert(poll.runner.clone(), now);
            requests.push((now + Duration::from_millis(20), poll.runner));
        }
        assert!(requests.len() + jobs.len() <= 2);
        if requests.len() + jobs.len() == 2 {
            last_full = now;
        }
        now += Duration::from_millis(5);
        jobs.retain(|(ends, runner)| {
            *ends > now || {
                admission.job_finished(runner);
                false
            }
        });
        for (_, runner) in requests.extract_if(.., |(ends, _)| *ends <= now) {
            polled += 1;
            if polled.is_multiple_of(40) {
                admission.poll_finished(&runner, PollOutcome::Job { pushed_back: false }, now);
                jobs.push((now + Duration::from_secs(4), runner));
            } else {
                admission.poll_finished(&runner, no_job(now), now);
            }
        }
    }
    assert!(polled > 4_000, "only {polled} polls in ten minutes");
}
