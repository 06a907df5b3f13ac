//! What the core decided or noticed, for the log, the ring that the admin server shows, and the metrics.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::ids::{InstanceId, ReservationKey};

use super::failure::{Failure, Failures};
use super::instance::Cause;
use super::policy::Target;
use super::reasons::{CreationReason, Refusal, RemovalReason};
use super::scaling::Capacity;

/// How many decisions are kept for people who look later.
const RING: usize = 512;

/// One thing decided or noticed.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The counts changed such that instances are missing or too many.
    RequiredChanged {
        capacity: Capacity,
        /// What the active policy wants.
        target: Target,
        /// Idle slots that come of it, in jobs.
        idle_target: u32,
        required: i64,
    },
    PolicyChanged {
        index: Option<usize>,
        idle_count: u32,
        idle_time: Duration,
    },
    SettingsChanged,
    Increasing {
        reason: CreationReason,
    },
    /// Instances are missing and none is asked for.
    HeldBack {
        reason: CreationReason,
    },
    Increased {
        count: u32,
    },
    IncreaseFailed {
        asked: u32,
        succeeded: u32,
        failure: Failure,
    },
    /// Nothing is created for a while because of failures.
    BackingOff {
        failures: Failures,
        wait: Duration,
    },
    /// Instances that were promised are no longer counted on.
    LaunchOverdue {
        count: u32,
    },
    ListingFailed {
        failure: Failure,
    },
    Discovered {
        instance: InstanceId,
        cause: Cause,
        restored: bool,
        took: Option<Duration>,
    },
    /// A member that is neither used nor deleted.
    ForeignFound {
        instance: InstanceId,
    },
    Running {
        instance: InstanceId,
        took: Option<Duration>,
    },
    Ready {
        instance: InstanceId,
        took: Duration,
    },
    ReadyUpFailed {
        instance: InstanceId,
        error: String,
        took: Duration,
    },
    CheckFailed {
        instance: InstanceId,
        error: String,
        failures: u32,
    },
    /// The last listing lacks it; it gets no job until that is cleared up.
    Missing {
        instance: InstanceId,
    },
    MarkedForRemoval {
        instance: InstanceId,
        reason: RemovalReason,
    },
    Decreasing {
        count: u32,
    },
    DecreaseFailed {
        asked: u32,
        accepted: u32,
        failure: Failure,
    },
    UnexpectedlyRemoved {
        instance: InstanceId,
        uses: u32,
        max_uses: Option<u32>,
        slots: Vec<(u32, ReservationKey)>,
    },
    /// It is deleted; how long the deletion took and how long it lived.
    Deleted {
        instance: InstanceId,
        took: Duration,
        lived: Duration,
    },
    /// No capacity was reserved for a poll, as often as that since it was said last.
    Refused {
        refusal: Refusal,
        count: u32,
    },
    /// A job waited for a slot as long as it may.
    AcquireTimedOut {
        key: ReservationKey,
        waited: Duration,
    },
    /// A waiting job was taken off an instance that did not answer.
    Moved {
        key: ReservationKey,
        from: InstanceId,
    },
    /// What an earlier manager's job left is ended.
    FormerJobEnded {
        instance: InstanceId,
        slot: u32,
        key: ReservationKey,
    },
    Stopped {
        remaining: u32,
    },
}

impl Decision {
    /// One word for what it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RequiredChanged { .. } => "required_changed",
            Self::PolicyChanged { .. } => "policy_changed",
            Self::SettingsChanged => "settings_changed",
            Self::Increasing { .. } => "increasing",
            Self::HeldBack { .. } => "held_back",
            Self::Increased { .. } => "increased",
            Self::IncreaseFailed { .. } => "increase_failed",
            Self::BackingOff { .. } => "backing_off",
            Self::LaunchOverdue { .. } => "launch_overdue",
            Self::ListingFailed { .. } => "listing_failed",
            Self::Discovered { .. } => "discovered",
            Self::ForeignFound { .. } => "foreign_found",
            Self::Running { .. } => "running",
            Self::Ready { .. } => "ready",
            Self::ReadyUpFailed { .. } => "ready_up_failed",
            Self::CheckFailed { .. } => "check_failed",
            Self::Missing { .. } => "missing",
            Self::MarkedForRemoval { .. } => "marked_for_removal",
            Self::Decreasing { .. } => "decreasing",
            Self::DecreaseFailed { .. } => "decrease_failed",
            Self::UnexpectedlyRemoved { .. } => "unexpectedly_removed",
            Self::Deleted { .. } => "deleted",
            Self::Refused { .. } => "refused",
            Self::AcquireTimedOut { .. } => "acquire_timed_out",
            Self::Moved { .. } => "moved",
            Self::FormerJobEnded { .. } => "former_job_ended",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// The instance that it is about, where it is about one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Discovered { instance, .. }
            | Self::ForeignFound { instance }
            | Self::Running { instance, .. }
            | Self::Ready { instance, .. }
            | Self::ReadyUpFailed { instance, .. }
            | Self::CheckFailed { instance, .. }
            | Self::Missing { instance }
            | Self::MarkedForRemoval { instance, .. }
            | Self::UnexpectedlyRemoved { instance, .. }
            | Self::Deleted { instance, .. }
            | Self::Moved { from: instance, .. }
            | Self::FormerJobEnded { instance, .. } => Some(instance),
            Self::RequiredChanged { .. }
            | Self::PolicyChanged { .. }
            | Self::SettingsChanged
            | Self::Increasing { .. }
            | Self::HeldBack { .. }
            | Self::Increased { .. }
            | Self::IncreaseFailed { .. }
            | Self::BackingOff { .. }
            | Self::LaunchOverdue { .. }
            | Self::ListingFailed { .. }
            | Self::Decreasing { .. }
            | Self::DecreaseFailed { .. }
            | Self::Refused { .. }
            | Self::AcquireTimedOut { .. }
            | Self::Stopped { .. } => None,
        }
    }
}

/// Why, with the numbers.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequiredChanged { capacity, idle_target, required, target: _ } => {
                write!(f, "{required:+}: {capacity}, idle target {idle_target}")
            }
            Self::PolicyChanged { index, idle_count, idle_time } => {
                let idle_time = idle_time.as_secs();
                match index {
                    Some(index) => write!(f, "policy {index}: idle_count {idle_count}, idle_time {idle_time} s"),
                    None => write!(f, "no policy is active: idle_count {idle_count}, idle_time {idle_time} s"),
                }
            }
            Self::SettingsChanged => f.write_str("the settings are taken up"),
            Self::Increasing { reason } | Self::HeldBack { reason } => reason.fmt(f),
            Self::Increased { count } => write!(f, "{count} will come"),
            Self::IncreaseFailed { asked, succeeded, failure } => {
                write!(f, "{succeeded} of {asked} will come: {failure}")
            }
            Self::BackingOff { failures, wait } => write!(f, "none for {} s: {failures}", wait.as_secs()),
            Self::LaunchOverdue { count } => write!(f, "{count} were promised and did not come"),
            Self::ListingFailed { failure } => failure.fmt(f),
            Self::Discovered { cause, restored: false, .. } => f.write_str(cause.as_str()),
            Self::Discovered { cause, restored: true, .. } => write!(f, "{}, known from before", cause.as_str()),
            Self::ForeignFound { .. } => f.write_str("not ours: counted, neither used nor deleted"),
            Self::Running { took: Some(took), .. } => write!(f, "{:.1} s after the request", took.as_secs_f64()),
            Self::Running { took: None, .. } => f.write_str("the group says so"),
            Self::Ready { took, .. } => write!(f, "prepared in {:.1} s", took.as_secs_f64()),
            Self::ReadyUpFailed { error, took, .. } => write!(f, "after {:.1} s: {error}", took.as_secs_f64()),
            Self::CheckFailed { error, failures, .. } => write!(f, "failed checks {failures}: {error}"),
            Self::Missing { .. } => f.write_str("the last listing lacks it"),
            Self::MarkedForRemoval { reason, .. } => f.write_str(&reason.explained()),
            Self::Decreasing { count } => write!(f, "-{count}"),
            Self::DecreaseFailed { asked, accepted, failure } => write!(f, "{accepted} of {asked} will go: {failure}"),
            Self::UnexpectedlyRemoved { uses, slots, .. } => {
                write!(f, "not by us: uses {uses}, jobs {}", slots.len())
            }
            Self::Deleted { took, lived, .. } => {
                write!(f, "in {:.1} s, lived {} s", took.as_secs_f64(), lived.as_secs())
            }
            Self::Refused { refusal, count } => write!(f, "{refusal}, polls {count}"),
            Self::AcquireTimedOut { key, waited } => write!(f, "{key} had no slot in {} s", waited.as_secs()),
            Self::Moved { key, .. } => write!(f, "{key} waits for another instance"),
            Self::FormerJobEnded { slot, key, .. } => write!(f, "slot {slot}, {key}"),
            Self::Stopped { remaining } => write!(f, "instances that remain {remaining}"),
        }
    }
}

/// The latest decisions, with their times.
#[derive(Debug, Default)]
pub(super) struct Ring(VecDeque<(SystemTime, Decision)>);

impl Ring {
    /// Adds the newest. Refusals without anything else in between are one of each kind with their sum, so that a
    /// night of them does not push out what happened before.
    pub(super) fn push(&mut self, at: SystemTime, mut decision: Decision) {
        if let Decision::Refused { refusal, count } = &mut decision {
            let last = self.0.iter().rev().map_while(|(_, earlier)| {
                if let Decision::Refused { refusal, count } = earlier { Some((refusal.as_str(), *count)) } else { None }
            });
            if let Some((back, (_, earlier))) = last.enumerate().find(|(_, (kind, _))| *kind == refusal.as_str()) {
                *count = count.saturating_add(earlier);
                self.0.remove(self.0.len() - 1 - back);
            }
        }
        if self.0.len() == RING {
            self.0.pop_front();
        }
        self.0.push_back((at, decision));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(SystemTime, Decision)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::reasons::SlotCounts;
    use super::*;

    #[test]
    fn a_night_of_refusals_does_not_push_out_what_happened_before() {
        let busy = |acquired| SlotCounts { acquired, ..SlotCounts::default() };
        let refused = |refusal, count| Decision::Refused { refusal, count };
        let mut ring = Ring::default();
        let mut at = SystemTime::UNIX_EPOCH;
        ring.push(at, Decision::Increased { count: 1 });
        for acquired in 0..2_000 {
            at += Duration::from_secs(60);
            ring.push(at, refused(Refusal::NoneAvailable(busy(acquired)), 20));
            ring.push(at, refused(Refusal::NoPotential(busy(acquired)), 1));
        }
        let kept: Vec<Decision> = ring.iter().map(|(_, decision)| decision.clone()).collect();
        let expected = [
            Decision::Increased { count: 1 },
            refused(Refusal::NoneAvailable(busy(1_999)), 40_000),
            refused(Refusal::NoPotential(busy(1_999)), 2_000),
        ];
        assert_eq!(kept, expected);
        assert_eq!(ring.iter().last().map(|(at, _)| *at), Some(at));
    }
}
