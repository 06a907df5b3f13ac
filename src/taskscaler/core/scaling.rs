//! How many instances there should be: a formula over counts, and nothing else.
//!
//! The idle target comes on top of the demand, in jobs; a reservation holds what is there and asks for
//! nothing. `spec/autoscaling.md` 3.5 has the evidence and the vectors, which are the tests below.

use std::fmt;

use super::policy::Target;

/// What is there and what is wanted of it, in the words of the formula.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Instances that serve or will serve: asked for, coming up or ready.
    pub instances: u32,
    /// Owned instances that will not serve again: on their way out, or not ours to use.
    pub others: u32,
    /// Of the serving instances, those idle for `idle_time` or more.
    pub aged: u32,
    /// Slots with a job.
    pub acquired: u32,
    /// Slots of serving instances that can never be used again.
    pub unavailable: u32,
    /// Jobs that wait for a slot.
    pub pending: u32,
    /// Polls that may bring a job.
    pub reserved: u32,
    pub capacity_per_instance: u32,
    /// The most instances there may be, `others` included.
    pub max: u32,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instances, others, aged: _, acquired, unavailable, pending, reserved, capacity_per_instance, max } =
            self;
        write!(
            f,
            "instances {instances} and {others} that do not serve, of at most {max}, acquired {acquired}, unavailable \
             {unavailable}, pending {pending}, reserved {reserved}, capacity_per_instance {capacity_per_instance}"
        )
    }
}

/// Jobs for which a policy wants idle slots, given how many run.
pub(super) fn idle_target(target: &Target, acquired: u32) -> u32 {
    if target.scale_factor <= 0.0 {
        return target.idle_count;
    }
    // A product such as 10 × 1.1 lies a hair above 11 and must not become 12.
    let scaled = (f64::from(acquired) * target.scale_factor - 1e-9).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float to integer cast saturates")]
    let scaled = scaled as u32;
    let limited = if target.scale_factor_limit > 0 { scaled.min(target.scale_factor_limit) } else { scaled };
    target.idle_count.max(limited)
}

/// Slots that are in use, lost or waited for. What has vanished under its jobs adds nothing: demand that is
/// dying needs no replacement.
fn demand(capacity: &Capacity) -> u64 {
    let slots = u64::from(capacity.instances) * u64::from(capacity.capacity_per_instance);
    let used = (u64::from(capacity.acquired) + u64::from(capacity.unavailable)).min(slots);
    used + u64::from(capacity.pending)
}

/// Instances for demand and idle target, were nothing reserved and there no maximum.
fn wanted(capacity: &Capacity, idle_target: u32) -> u32 {
    let up = (demand(capacity) + u64::from(idle_target)).div_ceil(u64::from(capacity.capacity_per_instance.max(1)));
    u32::try_from(up).unwrap_or(u32::MAX)
}

/// Instances beyond demand and idle target, were nothing reserved.
pub(super) fn spare(capacity: &Capacity, idle_target: u32) -> u32 {
    capacity.instances.saturating_sub(wanted(capacity, idle_target))
}

/// Instances that demand and idle target lack, whether or not there may be so many.
pub(super) fn missing(capacity: &Capacity, idle_target: u32) -> u32 {
    wanted(capacity, idle_target).saturating_sub(capacity.instances)
}

/// How many instances are missing (positive), or how many idle ones may go at most (negative).
pub(super) fn required(capacity: &Capacity, idle_target: u32) -> i64 {
    let per_instance = u64::from(capacity.capacity_per_instance.max(1));
    let have = u64::from(capacity.instances);
    let demand = demand(capacity);
    let up = (demand + u64::from(idle_target)).div_ceil(per_instance);
    let hold = (demand + u64::from(idle_target.max(capacity.reserved))).div_ceil(per_instance);
    let max = u64::from(capacity.max).saturating_sub(u64::from(capacity.others));

    if have < up.min(max) {
        return signed(up.min(max) - have);
    }
    // What has been idle for its time goes whatever is reserved; what is above the maximum goes anyway.
    let surplus = have.saturating_sub(hold);
    let aged = have.saturating_sub(up).min(u64::from(capacity.aged));
    let above_max = have.saturating_sub(max);
    -signed(surplus.max(aged).max(above_max))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Row {
        instances: u32,
        deleting: u32,
        acquired: u32,
        unavailable: u32,
        pending: u32,
        reserved: u32,
        idle_count: u32,
        factor: f64,
        limit: u32,
        per_instance: u32,
        max: u32,
        aged: u32,
        required: i64,
    }

    /// The table of the specification, its rows 1 to 16.
    const VECTORS: &str = "
        1  0 0  0 0 0 0 0   0 1 1000 -1
        1  0 0  0 0 1 0 0   0 1 1000  0
        0  0 0  0 0 1 0 0   0 1 10    0
        0  0 0  0 1 0 0 0   0 1 10    1
        1  0 0  0 1 0 0 0   0 1 10    0
        0  0 1  0 0 0 0 0   0 1 10    0
        0  0 1  0 1 0 0 0   0 1 10    1
        0  0 0  0 0 0 5 0   0 1 10    5
        5  0 1  0 0 4 5 0   0 1 10    1
        0  0 0  0 0 0 5 0   0 5 10    1
        1  0 1  0 0 0 5 0   0 5 10    1
        10 0 10 0 3 0 5 0   0 1 10    0
        8  2 8  0 3 0 0 0   0 1 10    0
        10 0 10 0 0 0 2 0.5 4 1 100   4
        2  0 1  1 0 0 0 0   0 2 10   -1
        6  0 0  0 0 6 5 0   0 1 10    0";

    fn row(line: &str, aged: u32) -> Row {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let int = |at: usize| cells[at].parse::<u32>().unwrap();
        Row {
            instances: int(0),
            deleting: int(1),
            acquired: int(2),
            unavailable: int(3),
            pending: int(4),
            reserved: int(5),
            idle_count: int(6),
            factor: cells[7].parse().unwrap(),
            limit: int(8),
            per_instance: int(9),
            max: int(10),
            aged,
            required: cells[11].parse().unwrap(),
        }
    }

    fn check(row: &Row) {
        let capacity = Capacity {
            instances: row.instances,
            others: row.deleting,
            aged: row.aged,
            acquired: row.acquired,
            unavailable: row.unavailable,
            pending: row.pending,
            reserved: row.reserved,
            capacity_per_instance: row.per_instance,
            max: row.max,
        };
        let target = Target {
            idle_count: row.idle_count,
            idle_time: Duration::from_secs(60),
            scale_factor: row.factor,
            scale_factor_limit: row.limit,
        };
        assert_eq!(required(&capacity, idle_target(&target, row.acquired)), row.required, "{capacity:?}");
    }

    #[test]
    fn required_change_follows_the_vectors() {
        let lines: Vec<&str> = VECTORS.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 16);
        for line in lines {
            check(&row(line, 0));
        }
    }

    #[test]
    fn reservations_do_not_hold_what_has_been_idle_for_its_time() {
        check(&row("1 0 0 0 0 1 0 0 0 1 1000 -1", 1));
        check(&row("6 0 0 0 0 6 5 0 0 1 10 -1", 6));
    }

    #[test]
    fn a_lowered_maximum_makes_idle_instances_removable() {
        check(&row("6 0 2 0 0 0 4 0 0 1 5 -1", 0));
        check(&row("6 1 2 0 0 0 4 0 0 1 5 -2", 0));
    }

    #[test]
    fn a_factor_that_is_no_binary_fraction_rounds_as_written() {
        let target = |scale_factor, limit| Target { scale_factor, scale_factor_limit: limit, ..Target::default() };
        assert_eq!(idle_target(&target(1.1, 0), 10), 11);
        assert_eq!(idle_target(&target(1.1, 0), 11), 13);
        assert_eq!(idle_target(&target(0.5, 4), 100), 4);
        assert_eq!(idle_target(&target(0.5, 0), 0), 0);
    }
}
