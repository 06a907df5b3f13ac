//! Which policy holds at a given time of day.
//!
//! A policy's periods are a set of minutes, not triggers. Of the policies whose set contains now, the last
//! one in the file wins; without any, nothing is kept idle. The core knows neither time zones nor cron:
//! [`Periods`] answers for them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A set of minutes, in whatever time zone the operator thinks in.
pub trait Periods: fmt::Debug + Send + Sync {
    /// Whether the set contains this moment.
    fn contains(&self, at: SystemTime) -> bool;

    /// The next moment after `at` at which [`Periods::contains`] may answer differently; `None` is never.
    /// It may come too early, but never too late.
    fn next_change(&self, at: SystemTime) -> Option<SystemTime>;
}

/// All of time: `* * * * *`.
#[derive(Clone, Copy, Debug)]
pub struct Always;

impl Periods for Always {
    fn contains(&self, _at: SystemTime) -> bool {
        true
    }

    fn next_change(&self, _at: SystemTime) -> Option<SystemTime> {
        None
    }
}

/// One `[[runners.autoscaler.policy]]`.
#[derive(Clone, Debug)]
pub struct Policy {
    pub periods: Arc<dyn Periods>,
    pub target: Target,
    /// `preemptive_mode` where the file has it.
    pub preemptive_mode: Option<bool>,
}

/// How much a policy keeps idle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// In jobs, not instances.
    pub idle_count: u32,
    pub idle_time: Duration,
    /// Idle jobs per running job, where that is more than `idle_count`; 0 is off.
    pub scale_factor: f64,
    /// The most that `scale_factor` may ask for, in jobs; 0 is no limit.
    pub scale_factor_limit: u32,
}

impl Default for Target {
    /// Where no policy is active: nothing idle, and an instance goes after five minutes.
    fn default() -> Self {
        Self { idle_count: 0, idle_time: Duration::from_secs(300), scale_factor: 0.0, scale_factor_limit: 0 }
    }
}

/// Two policies are the same when they keep the same and share their periods.
impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.periods, &other.periods)
            && self.target == other.target
            && self.preemptive_mode == other.preemptive_mode
    }
}

/// What holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivePolicy {
    /// Its place in the file; `None` where none is active.
    pub index: Option<usize>,
    pub target: Target,
    pub preemptive_mode: Option<bool>,
}

/// Remembers what holds until the next moment at which that may change.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    active: ActivePolicy,
    evaluated: Option<Evaluated>,
}

/// The stretch of wall-clock time for which an answer is good.
#[derive(Debug)]
struct Evaluated {
    from: SystemTime,
    until: Option<SystemTime>,
}

impl Schedule {
    pub(super) fn active(&self) -> &ActivePolicy {
        &self.active
    }

    /// When the answer may change; `None` is never.
    pub(super) fn next_change(&self) -> Option<SystemTime> {
        self.evaluated.as_ref().and_then(|evaluated| evaluated.until)
    }

    /// Looks again, at once: the policies are other ones.
    pub(super) fn forget(&mut self) {
        self.evaluated = None;
    }

    /// Brings the answer up to date; true where it changed. A wall clock that jumped either way is noticed.
    pub(super) fn evaluate(&mut self, policies: &[Policy], now: SystemTime) -> bool {
        let good = self.evaluated.as_ref().is_some_and(|e| e.from <= now && e.until.is_none_or(|until| now < until));
        if good {
            return false;
        }
        let active = active_at(policies, now);
        let until = policies.iter().filter_map(|policy| policy.periods.next_change(now)).min();
        let changed = active != self.active;
        self.active = active;
        self.evaluated = Some(Evaluated { from: now, until });
        changed
    }
}

/// The last policy whose periods contain `now`.
fn active_at(policies: &[Policy], now: SystemTime) -> ActivePolicy {
    let winner = policies.iter().enumerate().rfind(|(_, policy)| policy.periods.contains(now));
    winner.map_or_else(ActivePolicy::default, |(index, policy)| ActivePolicy {
        index: Some(index),
        target: policy.target,
        preemptive_mode: policy.preemptive_mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From one second to another, counted from 1970.
    #[derive(Debug)]
    struct Between(u64, u64);

    impl Periods for Between {
        fn contains(&self, at: SystemTime) -> bool {
            at_second(self.0) <= at && at < at_second(self.1)
        }

        fn next_change(&self, at: SystemTime) -> Option<SystemTime> {
            [self.0, self.1].into_iter().map(at_second).find(|edge| *edge > at)
        }
    }

    fn at_second(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn policy(periods: impl Periods + 'static, idle_count: u32) -> Policy {
        Policy { periods: Arc::new(periods), target: Target { idle_count, ..Target::default() }, preemptive_mode: None }
    }

    #[test]
    fn the_last_active_policy_wins_until_its_period_ends() {
        let policies = [policy(Always, 1), policy(Between(100, 200), 2), policy(Between(150, 160), 3)];
        let mut schedule = Schedule::default();
        for (second, idle_count, changed, next) in
            [(0, 1, true, 100), (50, 1, false, 100), (120, 2, true, 150), (155, 3, true, 160), (160, 2, true, 200)]
        {
            assert_eq!(schedule.evaluate(&policies, at_second(second)), changed, "at {second}");
            assert_eq!(schedule.active().target.idle_count, idle_count, "at {second}");
            assert_eq!(schedule.next_change(), Some(at_second(next)), "at {second}");
        }
    }

    #[test]
    fn a_clock_set_back_is_noticed() {
        let policies = [policy(Between(100, 200), 2)];
        let mut schedule = Schedule::default();
        schedule.evaluate(&policies, at_second(150));
        assert!(schedule.evaluate(&policies, at_second(20)));
        assert_eq!(schedule.active(), &ActivePolicy::default());
    }
}
