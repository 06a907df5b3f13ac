//! Waits and cost of known arrivals, against the figures of the reference: instances that take six seconds to be
//! ready, jobs of twelve, idle_count 5, idle_time 20 s, at most 60 instances, ten polls at a time.

use std::num::NonZeroU32;
use std::time::Duration;

use super::scenarios::settings;
use super::world::{GroupStyle, World};
use crate::taskscaler::core::settings::Settings;

/// Seconds from available to final at p95, and instance-seconds until the last job is final.
fn measure(arrivals: &[f64], max_use_count: u32) -> (f64, f64) {
    let style = GroupStyle {
        boot: (100, 100),
        ready: (6000, 6000),
        delete: (100, 100),
        answers: (10, 60),
        ..GroupStyle::default()
    };
    let settings = Settings { max_use_count: NonZeroU32::new(max_use_count), ..settings(1, 60, 5, 20) };
    let mut world = World::new(settings, style, 1);
    world.poll_every = Duration::from_secs(1);
    for arrival in arrivals {
        world.job(Duration::from_secs_f64(*arrival), Duration::from_secs(12));
    }
    while world.unfinished() > 0 {
        world.run_well(Duration::from_millis(500));
    }
    let mut waits = world.stats.waits.clone();
    waits.sort_unstable();
    let p95 = waits[(waits.len() * 95).div_ceil(100) - 1];
    (p95.as_secs_f64(), world.stats.instance_time.as_secs_f64())
}

fn burst() -> Vec<f64> {
    [[5.0; 40], [65.0; 40]].concat()
}

fn steady() -> Vec<f64> {
    (5..65).map(f64::from).collect()
}

/// Three minutes of small pushes: seconds and jobs.
fn swell() -> Vec<f64> {
    let pushes: [(f64, usize); 40] = [
        (9.3, 4),
        (16.6, 1),
        (19.8, 1),
        (24.2, 2),
        (32.0, 4),
        (33.8, 1),
        (41.0, 1),
        (57.3, 4),
        (60.3, 2),
        (63.7, 4),
        (64.2, 2),
        (69.4, 1),
        (71.1, 1),
        (72.3, 4),
        (73.5, 1),
        (74.6, 4),
        (77.0, 2),
        (78.3, 4),
        (79.1, 5),
        (81.0, 1),
        (85.5, 2),
        (88.1, 2),
        (89.5, 2),
        (90.2, 4),
        (91.1, 6),
        (93.2, 5),
        (95.0, 1),
        (96.5, 3),
        (97.3, 4),
        (98.9, 2),
        (100.2, 3),
        (101.0, 5),
        (104.5, 2),
        (109.8, 4),
        (120.2, 5),
        (124.6, 2),
        (128.4, 7),
        (135.4, 5),
        (142.0, 7),
        (153.7, 6),
    ];
    let late = [(164.5, 1), (170.0, 1), (174.4, 3), (201.0, 4)];
    pushes.into_iter().chain(late).flat_map(|(at, jobs)| std::iter::repeat_n(at, jobs)).collect()
}

#[test]
fn waits_and_cost_are_within_the_bounds() {
    let cases: [(&str, Vec<f64>, u32, f64, f64); 6] = [
        ("burst", burst(), 0, 21.0, 2800.0),
        ("burst", burst(), 1, 21.0, 2100.0),
        ("steady", steady(), 0, 15.0, 1300.0),
        ("steady", steady(), 1, 19.0, 1450.0),
        ("swell", swell(), 0, 15.0, 3800.0),
        ("swell", swell(), 1, 19.0, 4200.0),
    ];
    let mut missed = Vec::new();
    for (name, arrivals, max_use_count, wait, cost) in cases {
        let (p95, seconds) = measure(&arrivals, max_use_count);
        println!(
            "{name} with max_use_count {max_use_count}: p95 {p95:.1} s of {wait}, {seconds:.0} instance-seconds of {cost}"
        );
        if p95 > wait || seconds > cost {
            missed.push((name, max_use_count, p95, seconds));
        }
    }
    assert_eq!(missed, []);
}
