//! Deliberate mistakes in the core, each of which the simulation must find. A test that finds none of them would
//! find no real one either.

use std::num::NonZeroU32;
use std::time::Duration;

use super::scenarios::{policy, settings};
use super::script::Injection;
use super::sim::Plan;
use super::world::GroupStyle;
use crate::taskscaler::core::mutations::{self, Mutation};
use crate::taskscaler::core::settings::{Settings, UnknownInstances};

const ALL: [Mutation; 17] = [
    Mutation::CapacityOffByOne,
    Mutation::UsesForgotten,
    Mutation::LeavingForgotten,
    Mutation::ExpectedForgotten,
    Mutation::DoubleDecrement,
    Mutation::BusyDeleted,
    Mutation::BreakerIgnored,
    Mutation::ActsDoNotWait,
    Mutation::GrantUnrecorded,
    Mutation::IncreaseUnrecorded,
    Mutation::ForeignAdopted,
    Mutation::PollPinsInstance,
    Mutation::LossUntold,
    Mutation::DeletionNotRetried,
    Mutation::ListingNotRetried,
    Mutation::NoTombstones,
    Mutation::FormerJobsForgotten,
];

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Worlds in which each kind of mistake has something to spoil.
fn plans() -> Vec<Plan> {
    let jobs = |at, count, runs| (secs(at), Injection::Jobs { count, runs: secs(runs) });
    let plain = Plan {
        seed: 11,
        settings: Settings { max_use_count: NonZeroU32::new(3), ..settings(2, 4, 2, 60) },
        style: GroupStyle { delete: (20_000, 60_000), listed: (0, 5000), ..GroupStyle::default() },
        pollers: 6,
        foreign: 1,
        left_behind: 0,
        crash_chance: None,
        script: vec![jobs(60, 30, 30), jobs(1200, 8, 300), jobs(4000, 12, 12)],
    };
    let troubled = Plan {
        seed: 12,
        style: GroupStyle { keeps_size: false, ..plain.style.clone() },
        settings: Settings {
            unknown: UnknownInstances::Report,
            policies: vec![policy(2, 60)],
            ..settings(1, 6, 2, 60)
        },
        foreign: 0,
        script: vec![
            jobs(60, 10, 30),
            (secs(65), Injection::Vanish { nth: 1 }),
            (secs(600), Injection::DeletesIgnored { lasts: secs(30) }),
            jobs(900, 6, 600),
            (secs(1000), Injection::Vanish { nth: 0 }),
            (secs(1001), Injection::Vanish { nth: 0 }),
            (secs(3000), Injection::ApiDown { lasts: secs(200) }),
            (secs(3300), Injection::Vanish { nth: 0 }),
            jobs(4000, 6, 12),
            (secs(4090), Injection::DeletesIgnored { lasts: secs(60) }),
            (secs(6000), Injection::BrokenImage { lasts: secs(1800) }),
            (secs(6001), Injection::Die { nth: 0 }),
            (secs(6001), Injection::Die { nth: 1 }),
            (secs(9000), Injection::Hide { nth: 0, lasts: secs(30) }),
            (secs(9000), Injection::Die { nth: 0 }),
        ],
        ..plain
    };
    let crashing = Plan { seed: 13, crash_chance: Some(60), ..troubled.clone() };
    [plain, troubled, crashing].into_iter().chain((0..20).map(Plan::new)).collect()
}

#[test]
fn without_mistakes_the_same_worlds_are_in_order() {
    for plan in plans() {
        assert_eq!(plan.run().1, None, "seed {}", plan.seed);
    }
}

#[test]
fn each_deliberate_mistake_is_found() {
    crate::taskscaler::tests::in_background();
    let missed: Vec<Mutation> = ALL.into_iter().filter(|mutation| found_by(*mutation).is_none()).collect();
    assert_eq!(missed, []);
}

/// What the first world that notices the mistake says of it.
fn found_by(mutation: Mutation) -> Option<String> {
    mutations::set(Some(mutation));
    let found = plans().iter().find_map(|plan| plan.run().1);
    mutations::set(None);
    println!("{mutation:?}: {}", found.as_deref().unwrap_or("not found"));
    found
}
