//! Stories with their numbers, and the arrivals that the reference was watched with.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::workload::{self, Load, Shape, Spread};
use super::{Job, Outcome, PollingRules, Provider, Setup, run};
use crate::taskscaler::core::policy::{Always, Policy, Target};
use crate::taskscaler::core::settings::{OnShutdown, ScaleThrottle, Settings, UnknownInstances};
use crate::time::Now;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn number(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap()
}

/// A fleet as `config.toml` describes it, with everything else as it comes.
fn fleet(max_instances: u32, idle_count: u32, idle_time: u64) -> Settings {
    let target = Target { idle_count, idle_time: secs(idle_time), ..Target::default() };
    Settings {
        capacity_per_instance: NonZeroU32::MIN,
        max_use_count: None,
        max_instances: Some(number(max_instances)),
        policies: vec![Policy { periods: Arc::new(Always), target, preemptive_mode: None }],
        reservation_throttling: None,
        scale_throttle: ScaleThrottle::Limited { limit: number(100), burst: number(max_instances) },
        acquire_timeout: secs(900),
        update_interval: secs(60),
        update_interval_when_expecting: secs(2),
        deletion_retry_interval: secs(60),
        failure_threshold: number(3),
        liveness_interval: secs(300),
        on_shutdown: OnShutdown::Keep,
        unknown: UnknownInstances::Report,
    }
}

fn setup(fleet: Settings, concurrent: u32) -> Setup {
    Setup {
        fleet,
        polling: PollingRules {
            concurrent,
            limit: 0,
            check_interval: secs(1),
            request_concurrency: 10,
            strict_check_interval: false,
        },
        long_poll: None,
        provider: Provider::default(),
        start: Now { utc: SystemTime::UNIX_EPOCH + secs(1_767_571_200), ..crate::time::now() },
        seed: 1,
    }
}

fn at_once(count: usize, arrival: u64, duration: u64) -> Vec<Job> {
    vec![Job { arrival: secs(arrival), duration: secs(duration) }; count]
}

/// Arrivals of a file, as jobs of twelve seconds, with the group of the comparison: local instances that are there
/// at once and take six seconds to be ready.
fn compared(arrivals: &str, max_use_count: u32, long_poll: Option<Duration>) -> Outcome {
    let path = format!("{}/tests/data/arrivals/{arrivals}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let jobs =
        text.lines().map(|line| Job { arrival: Duration::from_secs_f64(line.parse().unwrap()), duration: secs(12) });
    let jobs: Vec<Job> = jobs.collect();
    let fleet = Settings { max_use_count: NonZeroU32::new(max_use_count), ..fleet(60, 5, 20) };
    let millis = Duration::from_millis;
    let provider =
        Provider { call: millis(20), boot: millis(50), ready: secs(6), deletion: secs(1), ..Provider::default() };
    run(Setup { provider, long_poll, ..setup(fleet, 100) }, &jobs)
}

/// The bounds that the comparison with the reference sets: seconds from the arrival to the end of a job at the 95th
/// percentile, and instance-seconds until the last job is final.
fn check_bounds(arrivals: &str, max_use_count: u32, seconds: f64, instance_seconds: f64) {
    for long_poll in [None, Some(secs(50))] {
        let outcome = compared(arrivals, max_use_count, long_poll);
        let (p95, cost) = (outcome.total.unwrap().p95.as_secs_f64(), outcome.instance_time.as_secs_f64());
        let case = format!("{arrivals}, max_use_count {max_use_count}, long_poll {long_poll:?}");
        println!("{case}: {p95:.1} s, {cost:.0} instance-seconds, at most {} instances", outcome.peak_instances);
        assert_eq!(
            (outcome.jobs.finished, outcome.jobs.arrived),
            (outcome.jobs.arrived, outcome.jobs.finished),
            "{case}"
        );
        assert!(p95 <= seconds, "{case}: {p95:.1} s, and {seconds} s are allowed");
        assert!(cost <= instance_seconds, "{case}: {cost:.0} instance-seconds, and {instance_seconds} are allowed");
        assert!(outcome.peak_instances <= 60, "{case}");
    }
}

#[test]
fn a_burst_gets_its_instances_at_once() {
    check_bounds("burst", 0, 21.0, 2800.0);
    check_bounds("burst", 1, 21.0, 2100.0);
}

#[test]
fn a_steady_load_is_kept_up_with() {
    check_bounds("steady", 0, 15.0, 1300.0);
    check_bounds("steady", 1, 19.0, 1450.0);
}

#[test]
fn a_swell_is_kept_up_with() {
    check_bounds("swell", 0, 15.0, 3800.0);
    check_bounds("swell", 1, 19.0, 4200.0);
}

/// A load as of an office, for so long, on a fleet that is tight at noon.
fn office(days: u64, seed: u64) -> Outcome {
    let load = Load {
        per_hour: 60.0,
        length: secs(days * 24 * 3600),
        duration: secs(300),
        spread: Spread::LogNormal,
        shape: Shape::Office,
    };
    let setup = Setup { seed, long_poll: Some(secs(50)), ..setup(fleet(40, 3, 600), 40) };
    let jobs = workload::generate(&load, setup.start.utc, seed);
    run(setup, &jobs)
}

#[test]
fn the_outcome_is_the_same_for_a_seed() {
    let outcome = office(1, 1);
    assert_eq!(outcome, office(1, 1));
    assert_ne!(outcome, office(1, 2));
}

#[test]
fn a_week_of_ten_thousand_jobs_ends_with_all_of_them_final() {
    let outcome = office(7, 1);
    assert!(outcome.jobs.arrived > 9_000);
    assert_eq!(outcome.jobs.finished, outcome.jobs.arrived);
    assert_eq!(outcome.hours.iter().map(|hour| hour.arrivals).sum::<u32>(), outcome.jobs.arrived);
    assert!(outcome.hours.len() >= 7 * 24);
    assert!(outcome.peak_instances <= 40 && outcome.peak_running <= 40);
}

#[test]
fn time_on_instances_is_booting_busy_or_idle() {
    let setup = setup(fleet(10, 1, 60), 10);
    let outcome = run(setup, &at_once(1, 3600, 100));
    let busy = outcome.instance_time - outcome.booting_time - outcome.idle_time;
    assert_eq!(busy, secs(100), "one job");
    assert_eq!(outcome.created, 2, "the idle one, and another for the idle target while it is busy");
    assert_eq!(outcome.wait.unwrap().max.as_secs(), 0);
    assert!(outcome.idle_time > secs(3600 - 60) && outcome.booting_time < secs(2 * 36));
}

#[test]
fn without_an_idle_target_a_job_waits_for_a_boot() {
    let mut setup = setup(fleet(10, 0, 60), 10);
    setup.provider.boot = secs(90);
    let outcome = run(setup, &at_once(3, 10, 60));
    let wait = outcome.wait.unwrap();
    assert!(wait.p50 >= secs(92) && wait.max < secs(97), "{wait:?}");
    assert_eq!((outcome.created, outcome.peak_instances), (3, 3));
}

#[test]
fn concurrent_and_idle_count_add_up_as_far_as_the_maximum_lets_them() {
    for (max_instances, peak) in [(40, 30), (25, 25)] {
        let outcome = run(setup(fleet(max_instances, 10, 1800), 20), &at_once(60, 600, 300));
        assert_eq!(outcome.peak_running, 20);
        assert_eq!(outcome.peak_instances, peak, "max_instances {max_instances}");
    }
}

#[test]
fn refused_instances_are_asked_for_again_with_a_back_off() {
    let mut setup = setup(fleet(20, 0, 60), 20);
    setup.provider.refused = 0.5;
    let outcome = run(setup, &at_once(20, 10, 600));
    assert_eq!(outcome.jobs.finished, 20);
    assert!(outcome.refused > 0 && outcome.created >= 20);
}

#[test]
fn a_job_fails_where_no_instance_comes_in_time() {
    let mut setup = setup(Settings { acquire_timeout: secs(120), ..fleet(1, 0, 60) }, 20);
    setup.provider.boot = secs(600);
    let outcome = run(setup, &at_once(1, 10, 600));
    assert_eq!((outcome.jobs.finished, outcome.jobs.without_instance), (0, 1));
}

#[test]
fn jobs_that_can_never_be_served_end_the_simulation() {
    let mut fleet = fleet(10, 0, 60);
    for policy in &mut fleet.policies {
        policy.preemptive_mode = Some(true);
    }
    let outcome = run(setup(fleet, 10), &at_once(3, 10, 60));
    assert_eq!((outcome.jobs.finished, outcome.jobs.unserved), (0, 3));
    assert!(outcome.to_string().contains("3 were never served"));
}

mod forecasts {
    use super::*;
    use crate::ids::InstanceId;
    use crate::taskscaler::core::instance::Cause;
    use crate::taskscaler::core::records::{InstanceRecord, Restored};
    use crate::taskscaler::core::{GroupState, Listing};
    use crate::taskscaler::simulate::forecast::{Situation, forecast};

    fn now() -> Now {
        Now { utc: SystemTime::UNIX_EPOCH + secs(1_767_571_200), ..crate::time::now() }
    }

    /// A running instance that has been idle for so long.
    fn kept(name: &str, idle: u64) -> InstanceRecord {
        InstanceRecord {
            id: InstanceId::new(name),
            cause: Cause::Requested,
            foreign: false,
            creation: None,
            uses: 1,
            slots: std::collections::BTreeMap::new(),
            listed_at: now().utc - secs(idle + 60),
            idle_since: now().utc - secs(idle),
            removal: None,
            gone_at: None,
        }
    }

    fn check(fleet: Settings, kept: Vec<InstanceRecord>, listed: &[&str], expected: &[&str]) {
        let running = |name: &&str| (InstanceId::new(*name), GroupState::Running);
        let target = u32::try_from(listed.len()).ok();
        let listing = Listing { target, instances: listed.iter().map(running).collect() };
        let restored = Restored { instances: kept, creations: Vec::new() };
        let situation = Situation { settings: fleet, group_max: None, restored, listing };
        let steps: Vec<String> = forecast(situation, now()).steps.iter().map(ToString::to_string).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn an_empty_group_grows_to_the_idle_target() {
        check(fleet(10, 5, 60), Vec::new(), &[], &["increase the group: +5: pending 0, idle target 5, have 0"]);
    }

    #[test]
    fn what_has_been_idle_for_its_time_goes() {
        let expected = [
            "make i-1 ready: it runs",
            "make i-2 ready: it runs",
            "delete i-1: instance exceeded max idle time (idle for 100 s, idle_time 60 s)",
        ];
        check(fleet(10, 1, 60), vec![kept("i-1", 100), kept("i-2", 30)], &["i-1", "i-2"], &expected);
    }

    #[test]
    fn members_of_others_are_left_alone() {
        let expected = [
            "leave i-9 alone: it is not ours, and counts towards max_instances",
            "increase the group: +1: pending 0, idle target 5, have 0 (of 5, max_instances 2 with 1 that do not serve)",
        ];
        check(fleet(2, 5, 60), Vec::new(), &["i-9"], &expected);
    }

    #[test]
    fn what_is_known_and_not_listed_is_looked_for() {
        check(
            fleet(2, 1, 60),
            vec![kept("i-1", 30)],
            &[],
            &["look for i-1: it is known, and the group does not list it"],
        );
    }
}
