//! Each known message as an operator finds it.

use tracing::Level;

use super::super::core::Failure;
use super::super::core::reasons::CreationReason;
use super::super::tests::said::Said;
use super::*;
use crate::ids::InstanceId;

/// The line of a decision: its level, its message, and these fields with what they say. Others may be there too.
#[track_caller]
fn check(decision: &Decision, level: Level, message: &str, fields: &[(&str, &str)]) {
    let (said, _guard) = Said::listen();
    write(decision);
    let lines = said.take();
    let [line] = lines.as_slice() else { panic!("{decision:?} is one line: {lines:?}") };
    assert_eq!((line.level, line.message.as_str()), (level, message), "{decision:?}");
    for (name, expected) in fields {
        assert_eq!(line.fields.get(*name).map(String::as_str), Some(*expected), "{name} of {message}");
    }
}

fn instance() -> InstanceId {
    InstanceId::new("i-1")
}

fn marked(reason: RemovalReason) -> Decision {
    Decision::MarkedForRemoval { instance: instance(), reason }
}

/// The messages that operators of the reference search for. Those that are not here:
///
/// - `failed to restore saved state` is no decision: the actor says it while it opens the store.
/// - `pre-existing instance has acquisition so removing for safety` never applies: an instance with the slots of a
///   dead manager is not removed for it, but each slot counts as busy until what its job left has been ended and
///   GitLab was told; where that fails the instance goes as broken, which says why.
/// - `out-of-sync capacity` and `new instances are not protected from scale in and should be` are the AWS provider's.
#[test]
fn the_known_messages_stay_with_their_levels_and_fields() {
    let capacity = Capacity {
        instances: 1,
        others: 0,
        aged: 0,
        acquired: 0,
        unavailable: 0,
        pending: 2,
        reserved: 0,
        capacity_per_instance: 1,
        max: 4,
    };
    let info = capacity_info(&capacity, &Target::default());
    let (target, idle_target, required) = (Target::default(), 0, 1);
    check(
        &Decision::RequiredChanged { capacity, target, idle_target, required },
        Level::INFO,
        "required scaling change",
        &[("capacity-info", &info), ("required", "1")],
    );
    let reason = CreationReason { required: 3, count: 3, pending: 2, idle_target: 5, have: 4, limited_by: None };
    check(
        &Decision::Increasing { reason },
        Level::INFO,
        "increasing instances",
        &[("num_requested", "3"), ("reason", "+3: pending 2, idle target 5, have 4")],
    );
    check(&Decision::Decreasing { count: 2 }, Level::INFO, "decreasing instances", &[("count", "2")]);
    check(
        &Decision::DecreaseFailed { asked: 2, accepted: 1, failure: Failure::other("503") },
        Level::ERROR,
        "decreasing instances",
        &[("err", "503"), ("cause", "failed"), ("num_requested", "2"), ("num_successful", "1")],
    );
    check(
        &marked(RemovalReason::Idle { idle: Duration::from_secs(61), idle_time: Duration::from_secs(60) }),
        Level::INFO,
        "instance marked for removal",
        &[("instance", "i-1"), ("reason", "instance exceeded max idle time"), ("idle_s", "61"), ("idle_time_s", "60")],
    );
    check(
        &marked(RemovalReason::Unknown),
        Level::INFO,
        "instance marked for removal",
        &[("instance", "i-1"), ("reason", "no data on pre-existing instance so removing for safety")],
    );
    let slots = vec![(0, ReservationKey::new("a1"))];
    check(
        &Decision::UnexpectedlyRemoved { instance: instance(), uses: 2, max_uses: Some(5), slots },
        Level::ERROR,
        "instance unexpectedly removed",
        &[("instance", "i-1"), ("max-use-count", "5"), ("slots", "map[0:a1]"), ("used", "2")],
    );
    check(
        &Decision::ReadyUpFailed { instance: instance(), error: "exit 1".to_owned(), took: Duration::from_millis(2) },
        Level::ERROR,
        "ready up preparation failed",
        &[("err", "exit 1"), ("instance", "i-1"), ("took", "2000000")],
    );
}

#[test]
fn the_capacity_and_the_slots_read_as_in_the_reference() {
    let capacity = Capacity {
        instances: 3,
        others: 1,
        aged: 2,
        acquired: 2,
        unavailable: 1,
        pending: 4,
        reserved: 5,
        capacity_per_instance: 2,
        max: 1000,
    };
    let target = Target { idle_count: 6, scale_factor: 1.5, scale_factor_limit: 9, ..Target::default() };
    assert_eq!(
        capacity_info(&capacity, &target),
        "instance_count:4,max_instance_count:1000,acquired:2,unavailable_capacity:1,pending:4,reserved:5,\
         idle_count:6,scale_factor:1.5,scale_factor_limit:9,capacity_per_instance:2"
    );
    let plain = capacity_info(&capacity, &Target::default());
    assert!(plain.contains(",idle_count:0,scale_factor:0,scale_factor_limit:0,"), "{plain}");
    assert_eq!(slots_of(&[]), "map[]");
    let keys = [(0, ReservationKey::new("a1")), (3, ReservationKey::new("b2"))];
    assert_eq!(slots_of(&keys), "map[0:a1 3:b2]");
}
