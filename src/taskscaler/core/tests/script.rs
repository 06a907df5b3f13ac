//! What happens to a simulated world from outside, as a list that can be printed, shortened and replayed.

use std::time::Duration;

use super::world::{SimInstance, World};
use crate::taskscaler::core::GroupState;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Injection {
    Jobs {
        count: u32,
        runs: Duration,
    },
    ApiDown {
        lasts: Duration,
    },
    LostResponses {
        lasts: Duration,
    },
    PartialSuccess {
        lasts: Duration,
    },
    NoCapacity {
        lasts: Duration,
    },
    Throttled {
        lasts: Duration,
    },
    /// Changes of the group are refused until an operator mends something.
    Denied {
        lasts: Duration,
    },
    BrokenImage {
        lasts: Duration,
    },
    DeletesIgnored {
        lasts: Duration,
    },
    DuplicatePages {
        lasts: Duration,
    },
    StuckLaunches {
        count: u32,
    },
    /// An instance is gone at once.
    Vanish {
        nth: u32,
    },
    /// Somebody else deletes an instance.
    TakeAway {
        nth: u32,
    },
    /// An instance answers nothing any more.
    Die {
        nth: u32,
    },
    /// The group's list leaves an instance out for a while.
    Hide {
        nth: u32,
        lasts: Duration,
    },
    /// The group gives an instance up.
    TimeOut {
        nth: u32,
    },
    /// For a while the group agrees to delete this one and does not.
    Protect {
        nth: u32,
        lasts: Duration,
    },
    /// An instance answers, and no job can be prepared on it.
    RefuseJobs {
        nth: u32,
    },
    /// Somebody changes the group's own limit, and the manager hears of it.
    GroupMax {
        max: u32,
    },
    /// GitLab cancels a job that waits for its slot.
    CancelWaiting,
    /// Another manager may have the group for a while.
    ClaimLost {
        lasts: Duration,
    },
    /// The operator changes the limits.
    Reload {
        max_instances: u32,
        idle_count: u32,
    },
    /// The manager is killed.
    Crash {
        down: Duration,
    },
    /// The wall clock jumps.
    ClockJump {
        forward: bool,
        by: Duration,
    },
}

/// Lets it happen.
pub(super) fn apply(world: &mut World, injection: &Injection) {
    let now = world.now.instant;
    match *injection {
        Injection::Jobs { count, runs } => {
            for _ in 0..count {
                world.job(Duration::ZERO, runs);
            }
        }
        Injection::ApiDown { lasts } => world.faults.api_down = Some(now + lasts),
        Injection::LostResponses { lasts } => world.faults.lost_responses = Some(now + lasts),
        Injection::PartialSuccess { lasts } => world.faults.partial = Some(now + lasts),
        Injection::NoCapacity { lasts } => {
            world.faults.no_capacity = Some(now + lasts);
            world.schedule_group(lasts);
        }
        Injection::Throttled { lasts } => world.faults.throttled = Some(now + lasts),
        Injection::Denied { lasts } => world.faults.denied = Some(now + lasts),
        Injection::BrokenImage { lasts } => world.faults.broken_image = Some(now + lasts),
        Injection::DeletesIgnored { lasts } => world.faults.deletes_ignored = Some(now + lasts),
        Injection::DuplicatePages { lasts } => world.faults.duplicates = Some(now + lasts),
        Injection::CancelWaiting => world.cancel_waiting(),
        Injection::StuckLaunches { count } => world.faults.stuck_launches += count,
        Injection::Vanish { nth } => {
            if let Some(id) = world.nth_running(nth) {
                world.vanish(&id);
            }
        }
        Injection::TakeAway { nth } => {
            if let Some(id) = world.nth_running(nth) {
                world.take_away(&id);
            }
        }
        Injection::Die { nth } => on_running(world, nth, |instance| {
            instance.dead = true;
            instance.jobs.clear();
        }),
        Injection::Hide { nth, lasts } => {
            if let Some(id) = world.nth_to_hide(nth)
                && let Some(instance) = world.instances.get_mut(&id)
            {
                instance.hidden_until = Some(now + lasts);
            }
        }
        Injection::TimeOut { nth } => on_running(world, nth, |instance| {
            instance.state = GroupState::TimedOut;
            instance.dead = true;
            instance.jobs.clear();
        }),
        Injection::Protect { nth, lasts } => {
            on_running(world, nth, |instance| instance.protected_until = Some(now + lasts));
        }
        Injection::RefuseJobs { nth } => on_running(world, nth, |instance| instance.refuses_jobs = true),
        Injection::GroupMax { max } => world.limit_group(max),
        Injection::ClaimLost { lasts } => world.lose_claim(lasts),
        Injection::Reload { max_instances, idle_count } => world.reload(max_instances, idle_count),
        Injection::Crash { down } => world.crash(down),
        Injection::ClockJump { forward, by } => {
            world.now.utc = if forward { world.now.utc + by } else { world.now.utc - by };
        }
    }
}

fn on_running(world: &mut World, nth: u32, happens: impl FnOnce(&mut SimInstance)) {
    let id = world.nth_running(nth);
    if let Some(instance) = id.and_then(|id| world.instances.get_mut(&id)) {
        happens(instance);
    }
}
