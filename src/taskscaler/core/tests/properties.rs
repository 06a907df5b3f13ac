//! Random inputs against slow, obvious models.

use std::time::Duration;

use proptest::prelude::*;

use crate::taskscaler::core::policy::Target;
use crate::taskscaler::core::scaling::{self, Capacity};

/// The formula of the specification as it is written there, in floating point and without its later rulings.
fn reference_required(capacity: &Capacity, target: &Target) -> i64 {
    let c = f64::from(capacity.capacity_per_instance);
    let n = f64::from(capacity.instances);
    let idle = if target.scale_factor <= 0.0 {
        f64::from(target.idle_count)
    } else {
        let mut scaled = (f64::from(capacity.acquired) * target.scale_factor).ceil();
        if target.scale_factor_limit > 0 {
            scaled = scaled.min(f64::from(target.scale_factor_limit));
        }
        scaled.max(f64::from(target.idle_count))
    };
    let base = f64::from(capacity.acquired + capacity.unavailable).min(n * c);
    let up = ((base + f64::from(capacity.pending) + idle) / c).ceil();
    let hold = ((base + f64::from(capacity.pending) + idle.max(f64::from(capacity.reserved))) / c).ceil();
    let max = f64::from(capacity.max);
    let required = if n < up {
        (up.min(max - f64::from(capacity.others)) - n).max(0.0)
    } else if n > hold {
        hold - n
    } else {
        0.0
    };
    #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
    let required = required as i64;
    required
}

prop_compose! {
    fn capacities()(
        per_instance in 1_u32..6,
        instances in 0_u32..40,
        others in 0_u32..10,
        pending in 0_u32..50,
        reserved in 0_u32..50,
        used in 0.0_f64..=1.0,
        lost in 0_u32..5,
        max in 40_u32..100,
    ) -> Capacity {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let acquired = (f64::from(instances * per_instance) * used) as u32;
        // The maximum is not exceeded here: what happens then came later than the model.
        Capacity {
            instances,
            others,
            aged: 0,
            acquired,
            unavailable: lost,
            pending,
            reserved,
            capacity_per_instance: per_instance,
            max: max + others,
        }
    }
}

prop_compose! {
    fn targets()(idle_count in 0_u32..20, quarters in 0_u32..8, limit in 0_u32..10) -> Target {
        Target {
            idle_count,
            idle_time: Duration::from_secs(60),
            scale_factor: f64::from(quarters) / 4.0,
            scale_factor_limit: limit,
        }
    }
}

proptest! {
    // A case that fails becomes a test of its own here, not a file beside the sources.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn required_is_what_the_written_formula_says(capacity in capacities(), target in targets()) {
        let idle_target = scaling::idle_target(&target, capacity.acquired);
        prop_assert_eq!(scaling::required(&capacity, idle_target), reference_required(&capacity, &target));
    }

    #[test]
    fn what_was_created_is_not_removed_again(capacity in capacities(), target in targets(), aged in 0_u32..40) {
        // Slots beyond what the instances have belong to instances that vanished; the core does not count those.
        prop_assume!(capacity.acquired + capacity.unavailable <= capacity.instances * capacity.capacity_per_instance);
        let idle_target = scaling::idle_target(&target, capacity.acquired);
        if let Ok(missing @ 1..) = u32::try_from(scaling::required(&capacity, idle_target)) {
            let grown = Capacity { instances: capacity.instances + missing, aged, ..capacity };
            prop_assert_eq!(scaling::required(&grown, idle_target), 0);
        }
    }

    #[test]
    fn what_is_removed_is_not_created_again(capacity in capacities(), target in targets(), aged in 0_u32..40) {
        let idle_target = scaling::idle_target(&target, capacity.acquired);
        let capacity = Capacity { aged, ..capacity };
        if let Ok(removed @ 1..) = u32::try_from(-scaling::required(&capacity, idle_target)) {
            let shrunk = Capacity { instances: capacity.instances - removed, aged: 0, ..capacity };
            prop_assert!(scaling::required(&shrunk, idle_target) <= 0);
        }
    }

    #[test]
    fn the_maximum_is_never_exceeded(capacity in capacities(), target in targets(), max in 0_u32..60) {
        let capacity = Capacity { max, ..capacity };
        let idle_target = scaling::idle_target(&target, capacity.acquired);
        if let Ok(missing @ 1..) = u32::try_from(scaling::required(&capacity, idle_target)) {
            prop_assert!(capacity.instances + capacity.others + missing <= max);
        }
    }
}
