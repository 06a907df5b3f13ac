//! Years of faults: seeded worlds of six hours and more, with the invariants checked after each step and the
//! promises at the end.
//!
//! Each run takes fresh seeds. `FLOTILLA_SIM_SEEDS` and `FLOTILLA_SIM_BASE` set how many and from which on; a seed
//! that fails is printed with the shortest script that still fails.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::scenarios::{policy, settings};
use super::script::Injection;
use super::world::{Dice, GroupStyle, JobState, Stats, World, start};
use crate::ids::InstanceId;
use crate::taskscaler::core::instance::State;
use crate::taskscaler::core::policy::{Periods, Policy};
use crate::taskscaler::core::settings::{ScaleThrottle, Settings, UnknownInstances};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1000;
/// Faults happen, and jobs arrive, in this time.
pub(super) const TROUBLE: Duration = Duration::from_secs(5 * 3600);
/// Afterwards nothing goes wrong for this long, and everything must come to rest.
const CALM: Duration = Duration::from_secs(2 * 3600);
/// No fault lasts longer.
const LONGEST_FAULT: u64 = 1800;

/// All that a run depends on.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    pub settings: Settings,
    pub style: GroupStyle,
    pub pollers: u32,
    pub foreign: u32,
    pub left_behind: u32,
    pub crash_chance: Option<u64>,
    pub script: Vec<(Duration, Injection)>,
}

/// Forty minutes in eighty, while there is trouble.
#[derive(Debug)]
struct BusyTimes;

impl BusyTimes {
    const LASTS: Duration = Duration::from_secs(2400);

    fn number(at: SystemTime) -> u64 {
        at.duration_since(start()).unwrap_or_default().as_secs() / Self::LASTS.as_secs()
    }
}

impl Periods for BusyTimes {
    fn contains(&self, at: SystemTime) -> bool {
        Self::number(at) % 2 == 1 && at < start() + TROUBLE
    }

    fn next_change(&self, at: SystemTime) -> Option<SystemTime> {
        let edge = start() + Self::LASTS * u32::try_from(Self::number(at) + 1).unwrap();
        (at < start() + TROUBLE).then_some(edge.min(start() + TROUBLE))
    }
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed ^ 0x5EED);
        let max = dice.pick(&[3, 8, 20, 60]);
        let keeps_size = dice.one_in(2);
        let unknown = dice.pick(&[UnknownInstances::Report, UnknownInstances::Report, UnknownInstances::Remove]);
        let idle_count = dice.pick(&[0, 1, 5, 8]);
        // Preemptive with nothing idle would never ask for a job.
        let preemptive_mode = dice.pick(&[None, None, None, Some(true), Some(false)]).map(|on| on && idle_count > 0);
        let mut policies = vec![Policy { preemptive_mode, ..policy(idle_count, dice.pick(&[20, 60, 300, 1200])) }];
        policies[0].target.scale_factor = dice.pick(&[0.0, 0.0, 0.5, 1.1]);
        policies[0].target.scale_factor_limit = dice.pick(&[0, 4]);
        if dice.one_in(3) {
            policies.push(Policy { periods: Arc::new(BusyTimes), ..policy(dice.pick(&[1, 3, 8]), 60) });
        }
        let number = |number| NonZeroU32::new(number).unwrap();
        let scale_throttle = dice.pick(&[
            ScaleThrottle::Unlimited,
            ScaleThrottle::Limited { limit: number(100), burst: number(max) },
            ScaleThrottle::Limited { limit: number(1), burst: number(2) },
        ]);
        let settings = Settings {
            max_use_count: NonZeroU32::new(dice.pick(&[0, 0, 1, 3, 10])),
            policies,
            reservation_throttling: dice.pick(&[None, None, Some(true)]),
            scale_throttle,
            failure_threshold: number(dice.pick(&[1, 3, 3])),
            unknown,
            ..settings(dice.pick(&[1, 1, 2, 5]), max, 0, 60)
        };
        let style = GroupStyle {
            keeps_size,
            boot: dice.pick(&[(1000, 5000), (5000, 60_000), (20_000, 200_000)]),
            ready: dice.pick(&[(50, 500), (1000, 20_000)]),
            delete: dice.pick(&[(500, 2000), (5000, 120_000)]),
            listed: dice.pick(&[(0, 0), (0, 10_000)]),
            answers: (50, 1500),
            syncs: dice.pick(&[(1, 5), (5, 300)]),
            max: None,
        };
        let foreign = if unknown == UnknownInstances::Report && dice.one_in(4) { 1 } else { 0 };
        let left_behind = if unknown == UnknownInstances::Remove && dice.one_in(3) { 2 } else { 0 };
        let script = script(&mut dice);
        let pollers = u32::try_from(dice.between(1, 10)).unwrap();
        let crash_chance = dice.pick(&[None, None, Some(3000), Some(400)]);
        Self { seed, settings, style, pollers, foreign, left_behind, crash_chance, script }
    }

    /// Lets it all happen; what was wrong, if anything.
    pub(super) fn run(&self) -> (Stats, Option<String>) {
        let mut world = self.world();
        let violation = self.run_in(&mut world);
        (world.stats, violation)
    }

    pub(super) fn world(&self) -> World {
        let mut world = World::new(self.settings.clone(), self.style.clone(), self.seed);
        world.pollers = self.pollers;
        world.crash_chance = self.crash_chance;
        if self.foreign > 0 {
            world.add_foreign(self.foreign);
        }
        for _ in 0..self.left_behind {
            world.add_running();
        }
        world.inject(&self.script);
        world
    }

    pub(super) fn run_in(&self, world: &mut World) -> Option<String> {
        world.run_for(TROUBLE + Duration::from_secs(LONGEST_FAULT));
        world.crash_chance = None;
        world.faults.stuck_launches = 0;
        // However long the queue is, it must get shorter.
        while world.violation.is_none() && world.unfinished() > 0 {
            let before = world.unfinished();
            world.run_for(CALM);
            if world.unfinished() == before {
                return Some(format!("G11: {before} jobs, and none ends"));
            }
        }
        world.run_for(CALM);
        world.violation.clone().or_else(|| at_rest(world).err().map(|what| format!("at rest: {what}")))
    }

    /// The shortest script that still fails, as far as leaving out halves, quarters and so on finds it.
    fn shortened(&self) -> Self {
        let mut plan = self.clone();
        let mut chunk = plan.script.len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < plan.script.len() {
                let mut without = plan.clone();
                let to = (from + chunk).min(without.script.len());
                without.script.drain(from..to);
                if without.run().1.is_some() {
                    plan = without;
                } else {
                    from += chunk;
                }
            }
            chunk /= 2;
        }
        plan
    }
}

/// A few bursts, and faults of all kinds in between.
fn script(dice: &mut Dice) -> Vec<(Duration, Injection)> {
    let count = dice.between(10, 40);
    let mut script: Vec<(Duration, Injection)> = (0..count)
        .map(|_| {
            let at = Duration::from_millis(dice.between(0, u64::try_from(TROUBLE.as_millis()).unwrap()));
            (at, injection(dice))
        })
        .collect();
    script.sort_by_key(|(at, _)| *at);
    script
}

fn injection(dice: &mut Dice) -> Injection {
    let lasts = Duration::from_secs(dice.pick(&[5, 30, 120, 600, LONGEST_FAULT]));
    let nth = u32::try_from(dice.between(0, 59)).unwrap();
    match dice.between(0, 30) {
        0..=7 => Injection::Jobs {
            count: u32::try_from(dice.pick(&[1, 1, 3, 10, 40])).unwrap(),
            runs: Duration::from_secs(dice.pick(&[1, 12, 60, 600])),
        },
        8 => Injection::ApiDown { lasts },
        9 => Injection::LostResponses { lasts },
        10 => Injection::PartialSuccess { lasts },
        11 => Injection::NoCapacity { lasts },
        12 => Injection::BrokenImage { lasts },
        13 => Injection::DeletesIgnored { lasts },
        14 => Injection::DuplicatePages { lasts },
        15 => Injection::StuckLaunches { count: 1 },
        16 | 17 => Injection::Vanish { nth },
        18 => Injection::TakeAway { nth },
        19 | 20 => Injection::Die { nth },
        21 => Injection::Hide { nth, lasts: Duration::from_secs(dice.pick(&[1, 3, 10, 30])) },
        22 => Injection::ClaimLost { lasts },
        23 => Injection::Reload {
            max_instances: dice.pick(&[3, 8, 20, 60]),
            // Preemptive with nothing idle would never ask for a job.
            idle_count: dice.pick(&[1, 5, 8]),
        },
        24 => match dice.between(0, 2) {
            0 => Injection::TimeOut { nth },
            1 => Injection::GroupMax { max: dice.pick(&[3, 8, 20, 60]) },
            _ => Injection::ClockJump { forward: dice.one_in(2), by: Duration::from_secs(3600) },
        },
        25 => Injection::CancelWaiting,
        26 => Injection::Protect { nth, lasts },
        27 => Injection::RefuseJobs { nth },
        28 => Injection::Throttled { lasts },
        29 => Injection::Denied { lasts },
        _ => Injection::Crash { down: dice.millis(100, 60_000) },
    }
}

/// What must hold when nothing has been wrong for long enough: G7, G9, G11, I6 and I12.
fn at_rest(world: &World) -> Result<(), String> {
    for (number, job) in world.jobs.iter().enumerate() {
        match job.state {
            JobState::Finished { .. } | JobState::Lost => {}
            JobState::Queued | JobState::Taken | JobState::Running => {
                return Err(format!("G11: job {number} is still {:?} ({})", job.state, world.claim_of(number)));
            }
        }
    }
    let snapshot = world.core.snapshot(world.now);
    let tracked: BTreeSet<&InstanceId> =
        snapshot.fleet.iter().filter(|(_, it, _)| it.state != State::Foreign).map(|(id, _, _)| id).collect();
    let there: BTreeSet<&InstanceId> = world.instances.iter().filter(|(_, it)| !it.foreign).map(|(id, _)| id).collect();
    if tracked != there {
        return Err(format!("I12: tracked {tracked:?}, and there are {there:?}"));
    }
    let kept: BTreeSet<&InstanceId> =
        world.store.instances.iter().filter(|it| it.gone_at.is_none() && !it.foreign).map(|it| &it.id).collect();
    if kept != there {
        return Err(format!("G7: kept {kept:?}, and there are {there:?}"));
    }
    let active = world.settings.policies.iter().rfind(|policy| policy.periods.contains(world.now.utc));
    let idle_count = active.map_or(0, |policy| policy.target.idle_count);
    let (slots, max_uses) = (world.settings.slots_per_instance().get(), world.settings.max_use_count);
    let used_up = |uses: u32| max_uses.map_or(0, |max| slots - slots.min(max.get() - uses));
    let lost: u32 =
        world.store.instances.iter().filter(|it| it.gone_at.is_none() && !it.foreign).map(|it| used_up(it.uses)).sum();
    let wanted = (idle_count + lost).div_ceil(slots);
    let foreign = world.foreign();
    let max = world.settings.max_instances.map_or(u32::MAX, NonZeroU32::get);
    let room = max.min(world.style.max.unwrap_or(u32::MAX)) - foreign;
    if world.owned() != wanted.min(room) {
        return Err(format!("I12: {} instances at rest, and the policy wants {}", world.owned(), wanted.min(room)));
    }
    if snapshot.instances.requested > 0 {
        return Err(format!("I12: {} instances are still expected", snapshot.instances.requested));
    }
    Ok(())
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    // The environment is the tests' own: it reaches no part of the program.
    #[expect(clippy::disallowed_methods, reason = "a test's size is set from outside")]
    let value = std::env::var(name);
    value.ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs seeds on all cores until one fails; what they did in all.
fn run_seeds(base: u64, count: u64) -> Stats {
    let next = AtomicU64::new(0);
    let work = || -> Result<Stats, Box<(Plan, String)>> {
        crate::taskscaler::tests::in_background();
        let mut total = Stats::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(total);
            }
            let plan = Plan::new(base.wrapping_add(number));
            let (stats, violation) = plan.run();
            if let Some(violation) = violation {
                next.store(count, Ordering::Relaxed);
                return Err(Box::new((plan, violation)));
            }
            total.add(&stats);
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut total = Stats::default();
        for worker in workers {
            match worker.join().expect("the simulator itself is at fault") {
                Ok(stats) => total.add(&stats),
                Err(failed) => tell_failure(&failed.0, &failed.1),
            }
        }
        total
    })
}

/// Panics with what it takes to see the failure again.
fn tell_failure(plan: &Plan, violation: &str) -> ! {
    let short = plan.shortened();
    let mut world = short.world();
    world.log = Some(Vec::new());
    let still = short.run_in(&mut world);
    let log = world.log.unwrap_or_default();
    let lines = usize::try_from(from_environment("FLOTILLA_SIM_LINES", 0)).unwrap();
    for line in log.iter().skip(log.len().saturating_sub(lines)) {
        println!("{line}");
    }
    let seed = plan.seed;
    panic!(
        "seed {seed}: {violation}\nagain: FLOTILLA_SIM_BASE={seed} FLOTILLA_SIM_SEEDS=1 FLOTILLA_SIM_LINES=200\n\
         shortest replay ({still:?}):\n{short:#?}"
    );
}

#[test]
fn promises_hold_through_seeded_faults() {
    // Other worlds each time: what no run has met yet is what there is to find.
    let base = from_environment("FLOTILLA_SIM_BASE", rand::random());
    let count = from_environment("FLOTILLA_SIM_SEEDS", SEEDS);
    let began = crate::time::now().instant;
    let total = run_seeds(base, count);
    let hours = count * (TROUBLE + CALM + Duration::from_secs(LONGEST_FAULT)).as_secs() / 3600;
    // Past the test runner, which keeps what a passing test prints to itself.
    let mut shown = std::io::stderr();
    writeln!(
        shown,
        "simulator: {count} seeds from {base}, {hours} simulated hours, {} steps, {} faults, {} crashes, {} instances, \
         {} jobs finished and {} lost with their instance or manager; violations: 0; {} s",
        total.steps,
        total.faults,
        total.crashes,
        total.created,
        total.finished,
        total.lost,
        began.elapsed().as_secs()
    )
    .unwrap();
    assert!(count < 10 || (total.finished > 1000 && total.crashes > 10), "the worlds were too quiet to show anything");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    let run = |seed| {
        let mut world = Plan::new(seed).world();
        world.log = Some(Vec::new());
        world.run_for(Duration::from_secs(3600));
        world.log.unwrap()
    };
    assert!(run(7) == run(7));
    assert!(run(7) != run(8));
}
