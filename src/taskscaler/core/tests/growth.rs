//! G9: whatever happens, instances are created for reasons that can be counted.
//!
//! ```text
//! created ≤ what each turn of the policy wants idle
//!         + for each job one for itself, and its share of the scale factor
//!         + one for each that was lost or removed for another reason than being idle
//! ```
//!
//! An instance that is idle for its time goes, and only a job or the policy brings another: a fleet that creates and
//! removes with nothing to do breaks this soon.

use super::script::Injection;
use super::sim::{Plan, TROUBLE};

/// A seeded world in which no call to the group fails: what fails may be made twice.
fn plan(seed: u64) -> Plan {
    let mut plan = Plan { crash_chance: None, ..Plan::new(seed) };
    plan.style.keeps_size = false;
    let costs_instances_only = |injection: &Injection| {
        matches!(
            injection,
            Injection::Jobs { .. }
                | Injection::Vanish { .. }
                | Injection::Die { .. }
                | Injection::TimeOut { .. }
                | Injection::RefuseJobs { .. }
        )
    };
    plan.script.retain(|(_, injection)| costs_instances_only(injection));
    plan
}

/// The turns of the policy while there is trouble, each with what it wants idle, in instances.
fn wanted_idle(plan: &Plan) -> u32 {
    let slots = plan.settings.slots_per_instance().get();
    let mut at = super::world::start();
    let end = at + TROUBLE;
    let mut instances = 0;
    while at <= end {
        let active = plan.settings.policies.iter().rfind(|policy| policy.periods.contains(at));
        instances += active.map_or(0, |policy| policy.target.idle_count.div_ceil(slots));
        let next = plan.settings.policies.iter().filter_map(|policy| policy.periods.next_change(at)).min();
        let Some(next) = next else { break };
        at = next;
    }
    instances
}

#[test]
fn instances_are_created_for_reasons_that_can_be_counted() {
    for seed in 0..60 {
        let plan = plan(seed);
        let mut world = plan.world();
        assert_eq!(plan.run_in(&mut world), None, "seed {seed}");
        let factor = plan.settings.policies.iter().map(|policy| policy.target.scale_factor).fold(0.0, f64::max);
        let jobs = u32::try_from(world.jobs.len()).unwrap();
        let share = u32::from(factor > 0.0) + u32::from(factor > 1.0);
        let removed = world.stats.removal_reasons.iter().filter(|(reason, _)| **reason != "idle");
        let vanishes = |(_, injection): &&(_, Injection)| matches!(injection, Injection::Vanish { .. });
        let vanished = u32::try_from(plan.script.iter().filter(vanishes).count()).unwrap();
        let lost = removed.map(|(_, count)| *count).sum::<u32>() + vanished;
        let allowed = wanted_idle(&plan) + jobs * (1 + share) + lost;
        assert!(
            world.stats.created <= allowed,
            "seed {seed}: {} created, {allowed} have a reason",
            world.stats.created
        );
    }
}
