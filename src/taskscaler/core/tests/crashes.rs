//! The manager dies before each single command of a small run: whatever it was about to do, the next one goes on.

use std::num::NonZeroU32;
use std::time::Duration;

use super::scenarios::settings;
use super::world::{GroupStyle, JobState, World};
use crate::taskscaler::core::settings::{Settings, UnknownInstances};

/// A burst, an idle target, instances that are used up: every kind of command occurs.
fn world(keeps_size: bool, unknown: UnknownInstances) -> World {
    let settings = Settings { max_use_count: NonZeroU32::new(2), unknown, ..settings(1, 4, 1, 30) };
    let style = GroupStyle { keeps_size, listed: (0, 3000), ..GroupStyle::default() };
    let mut world = World::new(settings, style, 3);
    world.pollers = 3;
    for arrival in [5, 5, 5, 5, 40] {
        world.job(Duration::from_secs(arrival), Duration::from_secs(8));
    }
    world
}

#[test]
fn a_crash_before_any_command_leaks_and_breaks_nothing() {
    for keeps_size in [true, false] {
        for unknown in [UnknownInstances::Report, UnknownInstances::Remove] {
            let mut undisturbed = world(keeps_size, unknown);
            undisturbed.run_well(Duration::from_secs(120));
            let commands = undisturbed.stats.commands;
            assert!(commands > 100, "{commands}");
            for at in 1..=commands {
                let mut world = world(keeps_size, unknown);
                world.crash_at_command = Some(at);
                world.run_for(Duration::from_secs(7200));
                assert_eq!(world.violation, None, "crash before command {at}, {keeps_size}, {unknown:?}");
                assert_eq!(world.stats.crashes, 1);
                assert_eq!(world.owned(), 1, "only the idle target is left after a crash before command {at}");
                let ended =
                    world.jobs.iter().all(|job| matches!(job.state, JobState::Finished { .. } | JobState::Lost));
                assert!(ended, "crash before command {at}");
            }
        }
    }
}

#[test]
fn the_pool_is_kept_across_a_restart() {
    let mut world = World::new(settings(1, 10, 5, 600), GroupStyle::default(), 1);
    world.run_well(Duration::from_secs(60));
    world.crash(Duration::from_secs(30));
    world.run_well(Duration::from_secs(120));
    assert_eq!((world.stats.created, world.stats.deleted, world.owned()), (5, 0, 5));
}

#[test]
fn a_slot_of_a_dead_manager_is_looked_at_before_anything_else_happens_to_its_instance() {
    let mut world = World::new(settings(1, 10, 1, 1800), GroupStyle::default(), 1);
    world.job(Duration::from_secs(20), Duration::from_secs(600));
    world.run_well(Duration::from_secs(60));
    assert_eq!(world.jobs[0].state, JobState::Running);
    world.crash(Duration::from_secs(5));
    world.run_well(Duration::from_secs(60));
    assert!(world.instances.values().all(|it| it.jobs.is_empty()), "what ran was ended");
    assert_eq!(world.stats.deleted, 0, "and its instance serves on");
}
