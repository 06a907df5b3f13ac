//! The core's decisions as log lines. Operators search for some of these messages, so they read as in the
//! reference; each has its numbers as fields.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::ids::ReservationKey;

use super::core::Decision;
use super::core::failure::Failures;
use super::core::policy::Target;
use super::core::reasons::RemovalReason;
use super::core::scaling::Capacity;

/// Writes a decision into the log.
pub(super) fn write(decision: &Decision) {
    match decision {
        Decision::RequiredChanged { .. } | Decision::PolicyChanged { .. } | Decision::SettingsChanged => {
            rules(decision)
        }
        Decision::Increasing { .. }
        | Decision::HeldBack { .. }
        | Decision::Increased { .. }
        | Decision::IncreaseFailed { .. }
        | Decision::BackingOff { .. }
        | Decision::LaunchOverdue { .. }
        | Decision::Decreasing { .. }
        | Decision::DecreaseFailed { .. }
        | Decision::ListingFailed { .. }
        | Decision::Refused { .. }
        | Decision::Stopped { .. } => group(decision),
        Decision::Discovered { .. }
        | Decision::ForeignFound { .. }
        | Decision::Running { .. }
        | Decision::Ready { .. }
        | Decision::ReadyUpFailed { .. }
        | Decision::CheckFailed { .. }
        | Decision::Missing { .. }
        | Decision::MarkedForRemoval { .. }
        | Decision::UnexpectedlyRemoved { .. }
        | Decision::Deleted { .. }
        | Decision::AcquireTimedOut { .. }
        | Decision::Moved { .. }
        | Decision::FormerJobEnded { .. } => instance(decision),
    }
}

fn rules(decision: &Decision) {
    if let Decision::RequiredChanged { capacity, target, idle_target, required } = decision {
        let info = capacity_info(capacity, target);
        info!("capacity-info" = info, idle_target, required, "required scaling change");
    } else if let Decision::PolicyChanged { index, idle_count, idle_time } = decision {
        info!(policy = index, idle_count, idle_time_s = idle_time.as_secs(), "policy changed");
    } else {
        info!("settings changed");
    }
}

/// The reference's names and order. Members that do not serve any more are among its instances.
fn capacity_info(capacity: &Capacity, target: &Target) -> String {
    let Target { idle_count, scale_factor, scale_factor_limit, idle_time: _ } = target;
    let Capacity { acquired, unavailable, pending, reserved, capacity_per_instance, max, .. } = capacity;
    let instances = capacity.instances + capacity.others;
    format!(
        "instance_count:{instances},max_instance_count:{max},acquired:{acquired},unavailable_capacity:{unavailable},\
         pending:{pending},reserved:{reserved},idle_count:{idle_count},scale_factor:{scale_factor},\
         scale_factor_limit:{scale_factor_limit},capacity_per_instance:{capacity_per_instance}"
    )
}

/// As the reference prints its map of slots: `map[0:key 1:key]`.
fn slots_of(slots: &[(u32, ReservationKey)]) -> String {
    let slots: Vec<String> = slots.iter().map(|(slot, key)| format!("{slot}:{key}")).collect();
    format!("map[{}]", slots.join(" "))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`write` has matched exhaustively")]
fn group(decision: &Decision) {
    match decision {
        Decision::Increasing { reason } => {
            info!(num_requested = reason.count, reason = %reason, "increasing instances")
        }
        Decision::HeldBack { reason } => info!(required = reason.required, reason = %reason, "instances are held back"),
        Decision::Increased { count } => debug!(num_successful = count, "increasing instances response"),
        Decision::IncreaseFailed { asked, succeeded, failure } => {
            let (cause, err) = (failure.cause.as_str(), &failure.detail);
            error!(err, cause, num_requested = asked, num_successful = succeeded, "increasing instances failure");
        }
        Decision::BackingOff { failures, wait } => backing_off(failures, wait.as_secs()),
        Decision::LaunchOverdue { count } => warn!(count, "instances were promised and did not come"),
        Decision::Decreasing { count } => info!(count, "decreasing instances"),
        Decision::DecreaseFailed { asked, accepted, failure } => {
            let (cause, err) = (failure.cause.as_str(), &failure.detail);
            error!(err, cause, num_requested = asked, num_successful = accepted, "decreasing instances");
        }
        Decision::ListingFailed { failure } => {
            warn!(err = failure.detail, cause = failure.cause.as_str(), "listing the group failed");
        }
        // What goes on for long is said at a lower level than its beginning.
        Decision::Refused { refusal, count: 1 } => {
            info!(refusal = refusal.as_str(), reason = %refusal, "reservation refused");
        }
        Decision::Refused { refusal, count } => {
            debug!(refusal = refusal.as_str(), reason = %refusal, count, "reservations refused");
        }
        Decision::Stopped { remaining } => info!(remaining, "taskscaler's shutdown completed"),
        _ => {}
    }
}

/// Operators search for the first two messages. The third names what the reference counts as a failed request.
fn backing_off(failures: &Failures, wait_s: u64) {
    let Failures { requests: failed_requests, capacity: without_capacity, instances: failed_instances } = *failures;
    if failed_instances > 0 {
        warn!(failed_requests, failed_instances, wait_s, "backing off scale up due to ready up failures");
    } else if failed_requests > 0 {
        warn!(failed_requests, wait_s, "backing off scale up due to failed requests");
    } else {
        warn!(without_capacity, wait_s, "backing off scale up due to missing capacity");
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "`write` has matched exhaustively")]
fn instance(decision: &Decision) {
    match decision {
        Decision::Discovered { instance, cause, restored, took } => {
            info!(%instance, ?cause, restored, took_s = seconds(*took), "instance discovery");
        }
        Decision::ForeignFound { instance } => {
            warn!(%instance, "instance is not ours: it counts towards max_instances, and is neither used nor deleted");
        }
        Decision::Running { instance, took } => debug!(%instance, took_s = seconds(*took), "instance is running"),
        Decision::Ready { instance, took } => info!(%instance, took_s = took.as_secs_f64(), "instance is ready"),
        Decision::ReadyUpFailed { instance, error, took } => {
            error!(%instance, err = error, took = took.as_nanos(), "ready up preparation failed");
        }
        Decision::CheckFailed { instance, error, failures } => {
            warn!(%instance, err = error, failures, "instance does not answer");
        }
        Decision::Missing { instance } => warn!(%instance, "instance is missing from the group's list"),
        Decision::MarkedForRemoval { instance, reason } => {
            let (idle_s, idle_time_s) = idle_seconds(reason);
            info!(%instance, reason = %reason, idle_s, idle_time_s, "instance marked for removal");
        }
        Decision::UnexpectedlyRemoved { instance, uses, max_uses, slots } => {
            let (max_uses, slots) = (max_uses.unwrap_or(0), slots_of(slots));
            error!(%instance, "max-use-count" = max_uses, slots, used = uses, "instance unexpectedly removed");
        }
        Decision::Deleted { instance, took, lived } => {
            info!(%instance, took_s = took.as_secs_f64(), lived_s = lived.as_secs(), "instance pruned");
        }
        Decision::AcquireTimedOut { key, waited } => {
            warn!(%key, waited_s = waited.as_secs(), "a job got no instance in time");
        }
        Decision::Moved { key, from } => info!(%key, %from, "job waits for another instance"),
        Decision::FormerJobEnded { instance, slot, key } => {
            info!(%instance, slot, %key, "what an earlier job left is ended");
        }
        _ => {}
    }
}

fn seconds(took: Option<Duration>) -> Option<f64> {
    took.map(|took| took.as_secs_f64())
}

/// How long an instance was idle and how long it might have been, where it goes for that.
fn idle_seconds(reason: &RemovalReason) -> (Option<u64>, Option<u64>) {
    if let RemovalReason::Idle { idle, idle_time } = reason {
        return (Some(idle.as_secs()), Some(idle_time.as_secs()));
    }
    (None, None)
}

#[cfg(test)]
mod tests;
