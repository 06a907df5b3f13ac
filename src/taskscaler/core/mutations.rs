//! Deliberate mistakes, to show that the tests would find them. Outside tests none is ever on.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mutation {
    /// An instance takes one job more than it has slots.
    CapacityOffByOne,
    /// A use is not counted.
    UsesForgotten,
    /// Instances on their way out do not count towards the maximum.
    LeavingForgotten,
    /// Instances that were asked for do not count until they are listed.
    ExpectedForgotten,
    /// A deletion is asked for again while it is under way.
    DoubleDecrement,
    /// An instance falls idle although it has a job.
    BusyDeleted,
    /// A failed start has no consequence.
    BreakerIgnored,
    /// Nothing waits until what must be kept is kept.
    ActsDoNotWait,
    /// A slot is handed out and not recorded.
    GrantUnrecorded,
    /// Instances are asked for and that is not recorded.
    IncreaseUnrecorded,
    /// Members that nobody knows are taken for ours.
    ForeignAdopted,
    /// A poll refreshes the instance that it counts on.
    PollPinsInstance,
    /// A job is not told that its instance is gone.
    LossUntold,
    /// A deletion without effect is not asked for again.
    DeletionNotRetried,
    /// After a failed listing the group is not listed again.
    ListingNotRetried,
    /// What was deleted is forgotten at once.
    NoTombstones,
    /// Slots of an earlier manager's jobs are taken for free.
    FormerJobsForgotten,
}

#[cfg(test)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Whether this mistake is to be made.
#[cfg(test)]
pub(super) fn on(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}

/// Whether this mistake is to be made: never.
#[cfg(not(test))]
pub(super) const fn on(_mutation: Mutation) -> bool {
    false
}

/// Makes a mistake, or none, from now on in this thread.
#[cfg(test)]
pub(super) fn set(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}
