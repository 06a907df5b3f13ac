//! Stories with their numbers: the worked examples of the reference's documents, and what went wrong elsewhere.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::script::Injection;
use super::world::{GroupStyle, JobState, World};
use crate::taskscaler::core::Event;
use crate::taskscaler::core::policy::{Always, Policy, Target};
use crate::taskscaler::core::settings::{OnShutdown, ScaleThrottle, Settings, UnknownInstances};

/// Settings as an operator would write them: idle_count and idle_time, the rest as it comes.
pub(super) fn settings(capacity: u32, max: u32, idle_count: u32, idle_time: u64) -> Settings {
    Settings {
        capacity_per_instance: NonZeroU32::new(capacity).unwrap(),
        max_use_count: None,
        max_instances: NonZeroU32::new(max),
        policies: vec![policy(idle_count, idle_time)],
        reservation_throttling: None,
        scale_throttle: ScaleThrottle::Limited {
            limit: NonZeroU32::new(100).unwrap(),
            burst: NonZeroU32::new(max.max(1)).unwrap(),
        },
        acquire_timeout: Duration::from_secs(900),
        update_interval: Duration::from_secs(60),
        update_interval_when_expecting: Duration::from_secs(2),
        deletion_retry_interval: Duration::from_secs(60),
        failure_threshold: NonZeroU32::new(3).unwrap(),
        liveness_interval: Duration::from_secs(300),
        on_shutdown: OnShutdown::Keep,
        unknown: UnknownInstances::Report,
    }
}

pub(super) fn policy(idle_count: u32, idle_time: u64) -> Policy {
    Policy {
        periods: Arc::new(Always),
        target: Target { idle_count, idle_time: Duration::from_secs(idle_time), ..Target::default() },
        preemptive_mode: None,
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn jobs(world: &mut World, count: u32, after: u64, runs: u64) {
    for _ in 0..count {
        world.job(secs(after), secs(runs));
    }
}

#[test]
fn idle_count_in_jobs_becomes_instances_by_capacity() {
    for (capacity, instances) in [(1, 5), (5, 1), (2, 3)] {
        let mut world = World::new(settings(capacity, 20, 5, 60), GroupStyle::default(), 1);
        world.run_well(secs(60));
        assert_eq!(world.owned(), instances, "capacity {capacity}");
        world.run_well(secs(3600));
        assert_eq!(world.owned(), instances, "an idle target is kept, not churned");
        assert_eq!(world.stats.created, instances);
    }
}

#[test]
fn an_instance_is_deleted_as_soon_as_its_last_use_is_over() {
    let mut world = World::new(
        Settings { max_use_count: NonZeroU32::new(1), ..settings(1, 20, 5, 1800) },
        GroupStyle::default(),
        1,
    );
    jobs(&mut world, 1, 60, 12);
    world.run_well(secs(60 + 12 + 8));
    assert_eq!(world.stats.finished, 1);
    assert_eq!(world.stats.removal_reasons.get("max_uses"), Some(&1));
    world.run_well(secs(60));
    assert_eq!(world.owned(), 5, "and replaced for the idle target");
    assert_eq!(world.stats.created, 6);
}

#[test]
fn without_an_idle_target_nothing_runs_until_a_job_comes() {
    let mut world = World::new(settings(1, 10, 0, 60), GroupStyle::default(), 1);
    world.run_well(secs(600));
    assert_eq!((world.stats.created, world.owned()), (0, 0));
    jobs(&mut world, 1, 10, 12);
    world.run_well(secs(10 + 30));
    assert_eq!((world.stats.finished, world.owned()), (1, 1));
    world.run_well(secs(120));
    assert_eq!(world.owned(), 0, "it goes when it has been idle for its time, whatever polls are held");
}

#[test]
fn scale_factor_adds_idle_capacity_up_to_its_limit() {
    // Two machines idle; with ten jobs running the factor wants five more, and the limit allows four.
    let mut target = policy(2, 600);
    target.target.scale_factor = 0.5;
    target.target.scale_factor_limit = 4;
    let mut world = World::new(Settings { policies: vec![target], ..settings(1, 100, 0, 0) }, GroupStyle::default(), 1);
    world.run_well(secs(30));
    assert_eq!(world.owned(), 2);
    jobs(&mut world, 10, 0, 600);
    world.run_well(secs(60));
    assert_eq!(world.owned(), 10 + 4);
}

#[test]
fn the_maximum_bounds_twenty_jobs_whatever_the_idle_target() {
    // The documents' own numbers, where `concurrent` bounds the jobs, are in `simulate/tests.rs`.
    for wanted in [40, 25] {
        let mut world = World::new(settings(1, 20, 10, 600), GroupStyle::default(), 1);
        jobs(&mut world, wanted, 30, 120);
        world.run_well(secs(120));
        assert_eq!(world.owned(), 20, "{wanted} jobs");
        world.run_well(secs(900));
        assert_eq!(world.stats.finished, wanted);
        assert_eq!(world.stats.most, 20);
    }
}

#[test]
fn two_idle_machines_become_five_and_seven_as_jobs_come() {
    // The story of the autoscale document: IdleCount 2; with three jobs five machines, with five jobs seven.
    let mut world = World::new(settings(1, 10, 2, 1800), GroupStyle::default(), 1);
    world.run_well(secs(60));
    assert_eq!(world.owned(), 2);
    jobs(&mut world, 3, 0, 1800);
    world.run_well(secs(60));
    assert_eq!(world.owned(), 5);
    jobs(&mut world, 2, 0, 1800);
    world.run_well(secs(60));
    assert_eq!(world.owned(), 7);
    // When the jobs end, the two that had none have been idle for IdleTime; the others go half an hour later.
    world.run_well(secs(1800));
    assert_eq!(world.owned(), 5);
    world.run_well(secs(1800));
    assert_eq!(world.owned(), 2);
}

#[test]
fn a_burst_asks_for_its_instances_at_once() {
    let style = GroupStyle { answers: (10, 20), ..GroupStyle::default() };
    let mut world = World::new(settings(1, 60, 5, 600), style, 1);
    jobs(&mut world, 40, 60, 60);
    world.run_well(secs(62));
    assert_eq!(world.serving(), 45, "forty jobs and the idle target, two seconds after they came");
}

#[test]
fn preemptive_mode_takes_jobs_only_onto_what_is_idle_and_starves_none() {
    for (preemptive_mode, at_once) in [(Some(true), false), (Some(false), true), (None, true)] {
        let policies = vec![Policy { preemptive_mode, ..policy(1, 60) }];
        let mut world = World::new(Settings { policies, ..settings(1, 20, 1, 60) }, GroupStyle::default(), 1);
        jobs(&mut world, 10, 60, 60);
        world.run_well(secs(62));
        assert_eq!(world.serving() > 5, at_once, "{preemptive_mode:?}: {} instances", world.serving());
        world.run_well(secs(1800));
        assert_eq!((world.stats.finished, world.owned()), (10, 1), "{preemptive_mode:?}");
    }
}

#[test]
fn polls_that_bring_no_job_keep_no_instance_beyond_its_idle_time() {
    let mut world = World::new(settings(1, 10, 0, 60), GroupStyle::default(), 1);
    jobs(&mut world, 5, 5, 30);
    world.run_well(secs(180));
    assert_eq!((world.stats.finished, world.owned()), (5, 0));
}

#[test]
fn an_image_that_never_works_costs_few_instances_and_no_job_is_taken() {
    let mut world = World::new(settings(1, 50, 10, 600), GroupStyle::default(), 1);
    world.inject(&[(Duration::ZERO, Injection::BrokenImage { lasts: secs(3600) })]);
    jobs(&mut world, 5, 600, 60);
    world.run_well(secs(1200));
    assert!(world.stats.created <= 10 + 12, "{} instances", world.stats.created);
    assert!(
        world.jobs.iter().all(|job| job.state == JobState::Queued),
        "jobs wait at GitLab, where others may have them"
    );
    world.run_well(secs(3600));
    assert_eq!(world.stats.finished, 5, "and are taken when the image works again");
}

#[test]
fn a_group_that_cannot_launch_blocks_nothing() {
    let mut world = World::new(settings(1, 10, 0, 60), GroupStyle { keeps_size: false, ..GroupStyle::default() }, 1);
    world.inject(&[(Duration::ZERO, Injection::LostResponses { lasts: secs(60) })]);
    world.inject(&[(Duration::ZERO, Injection::NoCapacity { lasts: secs(60) })]);
    jobs(&mut world, 3, 5, 60);
    world.run_well(secs(400));
    assert_eq!(world.stats.finished, 3);
}

#[test]
fn a_dead_instance_gets_no_job_and_is_replaced() {
    let mut world = World::new(settings(1, 10, 2, 600), GroupStyle::default(), 1);
    world.inject(&[(secs(100), Injection::Die { nth: 0 })]);
    jobs(&mut world, 2, 110, 30);
    world.run_well(secs(200));
    assert_eq!((world.stats.finished, world.stats.lost), (2, 0), "the job for the dead one moved to another");
    assert_eq!(world.stats.removal_reasons.get("unhealthy"), Some(&1));
    assert_eq!(world.serving(), 4, "two that ran the jobs, and two that replaced them as the idle ones");
}

#[test]
fn an_instance_that_a_listing_lacks_for_a_moment_keeps_its_job() {
    let mut world = World::new(settings(1, 10, 1, 600), GroupStyle::default(), 1);
    jobs(&mut world, 1, 30, 120);
    world.inject(&[(secs(60), Injection::Hide { nth: 0, lasts: secs(20) })]);
    world.inject(&[(secs(60), Injection::Hide { nth: 1, lasts: secs(20) })]);
    world.run_well(secs(300));
    assert_eq!((world.stats.finished, world.stats.lost, world.stats.deleted), (1, 0, 0));
}

#[test]
fn members_of_others_are_counted_and_left_alone() {
    let mut world = World::new(settings(1, 4, 4, 60), GroupStyle::default(), 1);
    world.add_foreign(2);
    world.run_well(secs(3600));
    assert_eq!(world.owned(), 2, "two of four are somebody else's");
    assert_eq!(world.foreign(), 2);
}

#[test]
fn what_was_left_behind_in_a_group_of_ours_is_removed() {
    let settings = Settings { unknown: UnknownInstances::Remove, ..settings(1, 10, 1, 60) };
    let mut world = World::new(settings, GroupStyle::default(), 1);
    let left_behind = world.add_running();
    world.run_well(secs(120));
    assert!(!world.instances.contains_key(&left_behind));
    assert_eq!(world.stats.removal_reasons.get("unknown"), Some(&1));
    assert_eq!(world.owned(), 1);
}

#[test]
fn fixed_hosts_are_adopted_as_they_are() {
    let settings = Settings { unknown: UnknownInstances::Adopt, ..settings(2, 2, 4, 60) };
    let mut world = World::new(settings, GroupStyle { max: Some(2), ..GroupStyle::default() }, 1);
    world.add_running();
    world.add_running();
    jobs(&mut world, 4, 5, 30);
    world.run_well(secs(60));
    assert_eq!((world.stats.finished, world.stats.created, world.stats.deleted), (4, 0, 0));
}

#[test]
fn a_removed_runner_gives_up_each_instance_when_its_job_is_done() {
    let mut world = World::new(settings(1, 10, 3, 600), GroupStyle::default(), 1);
    jobs(&mut world, 1, 30, 300);
    world.run_well(secs(60));
    world.tell(Event::DrainRequested);
    world.run_well(secs(60));
    assert_eq!(world.owned(), 1, "the one with the job stays");
    world.run_well(secs(400));
    assert_eq!((world.stats.finished, world.owned()), (1, 0));
}

#[test]
fn a_shutdown_deletes_or_keeps_as_the_settings_say() {
    for (on_shutdown, left) in [(OnShutdown::Keep, 3), (OnShutdown::Delete { interval: secs(10), retries: 3 }, 0)] {
        let mut world = World::new(Settings { on_shutdown, ..settings(1, 10, 3, 600) }, GroupStyle::default(), 1);
        world.run_well(secs(60));
        world.tell(Event::ShutdownRequested);
        world.run_well(secs(45));
        assert_eq!(world.owned(), left, "{on_shutdown:?}");
    }
}

#[test]
fn a_reload_applies_limits_at_once() {
    for idle_count in [4, 8, 20] {
        let mut world = World::new(settings(1, 10, 8, 3600), GroupStyle::default(), 1);
        world.run_well(secs(60));
        assert_eq!(world.owned(), 8);
        world.tell(Event::SettingsChanged(Box::new(settings(1, 5, idle_count, 3600))));
        world.run_well(secs(60));
        assert_eq!(world.owned(), 5, "a lowered maximum needs no idle time, idle_count {idle_count}");
        assert_eq!(world.stats.removal_reasons.get("above_maximum"), Some(&3));
    }
}

#[test]
fn the_throttle_spreads_creations_over_time() {
    let limit = NonZeroU32::new(1).unwrap();
    let scale_throttle = ScaleThrottle::Limited { limit, burst: NonZeroU32::new(2).unwrap() };
    let mut world = World::new(Settings { scale_throttle, ..settings(1, 20, 10, 600) }, GroupStyle::default(), 1);
    world.run_well(Duration::from_millis(1900));
    assert!(world.owned() <= 4, "{}", world.owned());
    world.run_well(secs(14));
    assert_eq!(world.owned(), 10);
}

#[test]
fn without_the_lease_the_group_is_left_as_it_is() {
    let mut world = World::new(settings(1, 20, 5, 60), GroupStyle::default(), 1);
    world.tell(Event::LeaseChanged { held: false });
    world.run_well(secs(300));
    assert_eq!(world.owned(), 0);
    world.tell(Event::LeaseChanged { held: true });
    world.run_well(secs(60));
    assert_eq!(world.owned(), 5);
}

#[test]
fn jobs_are_packed_so_that_whole_instances_fall_idle() {
    let mut world = World::new(settings(4, 10, 0, 60), GroupStyle::default(), 1);
    jobs(&mut world, 8, 5, 60);
    jobs(&mut world, 3, 80, 600);
    world.run_well(secs(240));
    assert_eq!(world.owned(), 1, "three jobs share one instance, and the other has gone");
}

#[test]
fn a_member_that_is_not_ours_stays_so_when_a_listing_lacks_it_once() {
    let mut world = World::new(settings(1, 10, 0, 60), GroupStyle::default(), 1);
    world.add_foreign(1);
    // It comes back while instances are being made, and is none of them.
    jobs(&mut world, 3, 100, 30);
    world.inject(&[(secs(101), Injection::Hide { nth: 0, lasts: secs(3) })]);
    world.run_well(secs(600));
    assert_eq!((world.stats.finished, world.stats.created, world.foreign()), (3, 3, 1));
    assert_eq!(world.core.snapshot(world.now).instances.foreign, 1);
}

#[test]
fn without_the_lease_nothing_is_promised_that_is_yet_to_be_made() {
    let mut world = World::new(settings(1, 10, 0, 60), GroupStyle::default(), 1);
    world.pollers = 1;
    world.run_well(secs(10));
    assert!(world.core.would_admit(world.now));
    world.tell(Event::LeaseChanged { held: false });
    world.run_well(secs(60));
    assert!(!world.core.would_admit(world.now));
}

#[test]
fn a_stuck_instance_is_given_up_however_often_the_manager_restarts() {
    let mut world = World::new(settings(1, 10, 1, 60), GroupStyle::default(), 1);
    world.inject(&[(secs(0), Injection::StuckLaunches { count: 1 })]);
    for _ in 0..8 {
        world.run_well(secs(290));
        world.crash(secs(10));
    }
    world.run_well(secs(60));
    assert_eq!((world.owned(), world.stats.created), (1, 2));
}

#[test]
fn an_instance_that_cannot_be_deleted_blocks_no_other() {
    let mut world = World::new(settings(1, 4, 0, 60), GroupStyle::default(), 1);
    jobs(&mut world, 3, 5, 30);
    world.inject(&[(secs(30), Injection::Protect { nth: 0, lasts: secs(86_400) })]);
    world.run_well(secs(600));
    assert_eq!((world.stats.finished, world.owned()), (3, 1), "two of three are deleted");
    jobs(&mut world, 3, 0, 30);
    world.run_well(secs(120));
    assert_eq!(world.stats.finished, 6, "three of four are there for jobs");
}

#[test]
fn an_instance_that_failed_at_its_provider_is_no_capacity() {
    let mut world = World::new(settings(1, 10, 2, 600), GroupStyle::default(), 1);
    world.inject(&[(secs(60), Injection::TimeOut { nth: 0 }), (secs(60), Injection::TimeOut { nth: 1 })]);
    jobs(&mut world, 2, 200, 30);
    world.run_well(secs(300));
    assert_eq!((world.stats.finished, world.stats.lost), (2, 0));
    assert_eq!(world.stats.removal_reasons.get("timed_out"), Some(&2));
}

#[test]
fn what_others_delete_is_replaced_once_whoever_replaces_it() {
    // AZ rebalancing, instance refresh: a group that keeps its size launches the replacement itself.
    for keeps_size in [true, false] {
        let mut world = World::new(settings(1, 10, 4, 3600), GroupStyle { keeps_size, ..GroupStyle::default() }, 1);
        let taken = |at| (secs(at), Injection::TakeAway { nth: 0 });
        world.inject(&[taken(100), taken(200), taken(300)]);
        world.run_well(secs(1200));
        assert_eq!(world.owned(), 4, "keeps its size: {keeps_size}");
        assert_eq!(world.stats.created, 4 + 3);
    }
}

#[test]
fn existing_instances_serve_while_the_clouds_api_is_down_or_throttled() {
    let mut world = World::new(settings(1, 10, 4, 3600), GroupStyle::default(), 1);
    world.inject(&[(secs(60), Injection::ApiDown { lasts: secs(1800) })]);
    for at in [100, 400, 800, 1200] {
        jobs(&mut world, 4, at, 60);
    }
    world.run_well(secs(1500));
    assert_eq!((world.stats.finished, world.stats.lost, world.stats.created), (16, 0, 4));
}

#[test]
fn instances_that_go_together_go_in_one_call() {
    let mut world = World::new(settings(1, 60, 0, 60), GroupStyle::default(), 1);
    jobs(&mut world, 60, 5, 30);
    world.log = Some(Vec::new());
    world.run_well(secs(600));
    assert_eq!(world.owned(), 0);
    let calls = world.log.unwrap().iter().filter(|line| line.contains("does Decrease ")).count();
    assert!(calls <= 6, "{calls} calls for 60 instances");
}

#[test]
fn a_failed_preparation_never_gets_the_same_instance_again() {
    let mut world = World::new(settings(1, 10, 2, 600), GroupStyle::default(), 1);
    world.run_well(secs(30));
    // It answers, but no job can be prepared on it.
    let broken = world.nth_running(0).unwrap();
    world.instances.get_mut(&broken).unwrap().refuses_jobs = true;
    jobs(&mut world, 6, 0, 30);
    world.run_well(secs(300));
    assert_eq!(world.stats.finished, 6, "a job that could not begin there moved on");
    assert_eq!(world.stats.removal_reasons.get("broken"), Some(&1));
    assert_eq!(world.stats.refused, 1);
}
