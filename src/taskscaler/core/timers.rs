//! The deadlines of the core: one a timer, the earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::ids::{InstanceId, ReservationKey};

/// What a deadline is for. Setting a timer again replaces its deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// List the group.
    Listing,
    /// Another policy may hold.
    Policy,
    /// A back-off or the throttle lets the group grow again.
    Growth,
    /// The longest idle instance has been idle for long enough.
    Idle,
    /// A deletion is to be asked for, or asked for again.
    Deletion,
    /// A request for instances has waited too long for them.
    Launch,
    /// Whether an instance that is given up is back is to be seen once more.
    Ghost,
    /// An instance that is gone need not be remembered any more.
    Tombstone,
    /// The shutdown asks about the instances again.
    Shutdown,
    /// Look whether an instance answers.
    Liveness(InstanceId),
    /// An instance takes too long to come up.
    ComingUp(InstanceId),
    /// A job has waited too long for a slot.
    Acquire(ReservationKey),
}

/// Deadlines by timer and by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_timer: BTreeMap<Timer, Instant>,
    by_time: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.stop(&timer);
        self.by_time.insert((at, timer.clone()));
        self.by_timer.insert(timer, at);
    }

    /// Sets or stops a timer.
    pub(super) fn arrange(&mut self, timer: Timer, at: Option<Instant>) {
        match at {
            Some(at) if self.by_timer.get(&timer) == Some(&at) => {}
            Some(at) => self.set(timer, at),
            None => self.stop(&timer),
        }
    }

    pub(super) fn stop(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.by_timer.remove_entry(timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer whose deadline has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        self.by_time.first().filter(|(at, _)| *at <= now)?;
        let (_, timer) = self.by_time.pop_first()?;
        self.by_timer.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn earliest_timer_comes_first_and_a_new_deadline_replaces_the_old() {
        let start = crate::time::now().instant;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(Timer::Listing, at(5));
        timers.set(Timer::Idle, at(3));
        timers.set(Timer::Listing, at(2));
        timers.arrange(Timer::Growth, Some(at(9)));
        timers.arrange(Timer::Growth, None);
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.pop_due(at(1)), None);
        assert_eq!(timers.pop_due(at(4)), Some(Timer::Listing));
        assert_eq!(timers.pop_due(at(4)), Some(Timer::Idle));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.next(), None);
    }
}
