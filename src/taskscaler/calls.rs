//! The calls that the actor makes for the core: each one future, each bounded in time, each ending in an event.
//!
//! Nothing here chooses; a call that fails, hangs or panics is an event like any other.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;
use tracing::warn;

use crate::error_chain::Chain;
use crate::fleeting::access::{InstanceAccess, InstanceConnector, Readiness};
use crate::fleeting::group::{GroupError, GroupListing, InstanceGroup, InstanceState, Operation, ProviderInfo};
use crate::ids::{InstanceId, ReservationKey};

use super::core::failure::{Cause, Failure};
use super::core::{CreationId, Event, GroupState, Listing};

/// A list of a thousand instances takes a cloud a few seconds.
const LISTING_TIME: Duration = Duration::from_secs(60);
/// Clouds answer changes within seconds, and throttle them for a while.
const CHANGE_TIME: Duration = Duration::from_secs(120);
/// A live instance answers in a round trip, or after a new handshake.
const CHECK_TIME: Duration = Duration::from_secs(10);
/// Ending what an earlier job left: a signal, a wait, another signal.
const EXAMINE_TIME: Duration = Duration::from_secs(60);

/// Why a call was not made.
const NO_CLAIM: &str = "the claim on the group has run out";

/// Ends what the job of an earlier manager left on an instance. The executors know how.
pub trait FormerJobs: std::fmt::Debug + Send + Sync {
    /// Ends the job of this key in this slot: its process group or its containers.
    fn end(
        &self,
        instance: Arc<dyn InstanceAccess>,
        slot: u32,
        key: ReservationKey,
    ) -> futures_util::future::BoxFuture<'static, Result<(), String>>;

    /// Ends whatever else is known to be left on an instance that answers, before it counts as ready.
    fn clear(
        &self,
        _instance: Arc<dyn InstanceAccess>,
    ) -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// Knows no way to end such jobs: their instances are replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFormerJobs;

impl FormerJobs for NoFormerJobs {
    fn end(
        &self,
        _instance: Arc<dyn InstanceAccess>,
        _slot: u32,
        _key: ReservationKey,
    ) -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        std::future::ready(Err("nothing is known of it".to_owned())).boxed()
    }
}

pub(super) async fn list(group: Arc<dyn InstanceGroup>) -> Event {
    match bounded(LISTING_TIME, group.update()).await {
        Ok(Ok(listed)) => Event::GroupListed(listing(listed)),
        Ok(Err(error)) => Event::ListingFailed { failure: failure(&error) },
        Err(fault) => Event::ListingFailed { failure: Failure::other(fault) },
    }
}

/// After its settings have changed. `None` where it cannot be told.
pub(super) async fn look_up(group: Arc<dyn InstanceGroup>) -> Option<ProviderInfo> {
    match bounded(LISTING_TIME, group.init()).await {
        Ok(Ok(info)) => Some(info),
        Ok(Err(error)) => {
            warn!(error = %Chain(&error), "the group could not be looked up again");
            None
        }
        Err(fault) => {
            warn!(error = fault, "the group could not be looked up again");
            None
        }
    }
}

/// `time` is what the claim on the group allows; without any nothing is sent.
pub(super) async fn increase(
    group: Arc<dyn InstanceGroup>,
    creation: CreationId,
    count: u32,
    time: Option<Duration>,
) -> Event {
    let finished = |succeeded, failure: Option<Failure>| {
        let in_doubt = failure.as_ref().is_some_and(|failure| failure.cause == Cause::InDoubt);
        let uncertain = if in_doubt { count - succeeded } else { 0 };
        Event::IncreaseFinished { creation, succeeded, uncertain, failure }
    };
    let Some(time) = time else { return finished(0, Some(Failure::other(NO_CLAIM))) };
    match bounded(CHANGE_TIME.min(time), group.increase(count)).await {
        Ok(increased) => finished(increased.succeeded.min(count), increased.error.as_ref().map(failure)),
        Err(fault) => finished(0, Some(Failure::new(Cause::InDoubt, fault))),
    }
}

/// As [`increase`].
pub(super) async fn decrease(group: Arc<dyn InstanceGroup>, asked: Vec<InstanceId>, time: Option<Duration>) -> Event {
    let Some(time) = time else {
        return Event::DecreaseFinished { asked, accepted: Vec::new(), failure: Some(Failure::other(NO_CLAIM)) };
    };
    let (accepted, failure) = match bounded(CHANGE_TIME.min(time), group.decrease(&asked)).await {
        Ok(decreased) => {
            let ours: BTreeSet<&InstanceId> = asked.iter().collect();
            let accepted = decreased.succeeded.into_iter().filter(|id| ours.contains(id)).collect();
            (accepted, decreased.error.as_ref().map(failure))
        }
        Err(fault) => (Vec::new(), Some(Failure::new(Cause::InDoubt, fault))),
    };
    Event::DecreaseFinished { asked, accepted, failure }
}

/// The connector bounds this by `connector_config.timeout`.
pub(super) async fn prepare(
    instance: Arc<dyn InstanceConnector>,
    readiness: Readiness,
    former_jobs: Arc<dyn FormerJobs>,
) -> Event {
    let id = instance.id().clone();
    let ready = AssertUnwindSafe(instance.ready(&readiness)).catch_unwind().await;
    let result = match ready {
        Ok(result) => result.map_err(|error| Chain(&*error).to_string()),
        Err(_) => Err("the check panicked".to_owned()),
    };
    let result = match result {
        Ok(()) => bounded(EXAMINE_TIME, former_jobs.clear(instance)).await.and_then(|cleared| cleared),
        Err(error) => Err(error),
    };
    Event::InstancePrepared { instance: id, result }
}

/// Asks the instance itself and its provider. A provider that cannot answer says nothing about the instance.
pub(super) async fn check(instance: Arc<dyn InstanceConnector>, group: Arc<dyn InstanceGroup>) -> Event {
    let id = instance.id().clone();
    let (answered, known) =
        tokio::join!(bounded(CHECK_TIME, instance.liveness()), bounded(CHECK_TIME, group.heartbeat(&id)));
    let alive = match answered {
        Ok(result) => result.map_err(|error| Chain(&error).to_string()),
        Err(fault) => Err(fault),
    };
    let result = match known {
        Ok(Err(error @ (GroupError::Unhealthy { .. } | GroupError::UnknownInstance { .. }))) => {
            Err(Chain(&error).to_string())
        }
        Ok(_) | Err(_) => alive,
    };
    Event::InstanceChecked { instance: id, result }
}

pub(super) async fn examine(
    instance: Arc<dyn InstanceAccess>,
    slot: u32,
    key: ReservationKey,
    former_jobs: Arc<dyn FormerJobs>,
) -> Event {
    let id = instance.id().clone();
    let result = match bounded(EXAMINE_TIME, former_jobs.end(instance, slot, key)).await {
        Ok(result) => result,
        Err(fault) => Err(fault),
    };
    Event::SlotExamined { instance: id, slot, result }
}

/// The outcome of a call, or what kept it from having one.
async fn bounded<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, String> {
    match timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) => Err("the call panicked".to_owned()),
        Err(_) => Err(format!("no answer in {} s", limit.as_secs())),
    }
}

/// A provider's error in the core's words. A change that failed for an unknown reason may have been made all the same.
fn failure(error: &GroupError) -> Failure {
    let cause = match error {
        GroupError::Throttled { retry_after, .. } => Cause::Throttled { retry_after: *retry_after },
        GroupError::NoCapacity { detail, .. } => Cause::NoCapacity { what: Some(detail.clone()) },
        GroupError::Full { max } => Cause::NoCapacity { what: Some(format!("the group's maximum of {max}")) },
        GroupError::Denied { .. } => Cause::Denied,
        GroupError::Misconfigured { .. } | GroupError::AnotherGroup { .. } => Cause::Misconfigured,
        GroupError::Failed { operation: Operation::Increase | Operation::Decrease, .. } => Cause::InDoubt,
        GroupError::Failed { .. }
        | GroupError::UnknownInstance { .. }
        | GroupError::Unhealthy { .. }
        | GroupError::LeaseHeld { .. } => Cause::Other,
    };
    Failure::new(cause, Chain(error).to_string())
}

/// A listing of the provider in the core's words.
pub fn listing(listed: GroupListing) -> Listing {
    let instances = listed.instances.into_iter().map(|(id, state)| (id, group_state(state))).collect();
    Listing { target: listed.target_size, instances }
}

fn group_state(state: InstanceState) -> GroupState {
    match state {
        InstanceState::Creating => GroupState::Creating,
        InstanceState::Running => GroupState::Running,
        InstanceState::Deleting => GroupState::Deleting,
        InstanceState::Deleted => GroupState::Deleted,
        InstanceState::Timeout => GroupState::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_hears_the_cause_of_a_providers_error() {
        let check = |error: GroupError, cause: Cause| assert_eq!(failure(&error).cause, cause, "{error}");
        let wait = Some(Duration::from_secs(7));
        let operation = Operation::Increase;
        check(GroupError::Throttled { operation, retry_after: wait }, Cause::Throttled { retry_after: wait });
        let detail = "eu-central-1a, m7i.large".to_owned();
        let what = Some(detail.clone());
        check(GroupError::NoCapacity { operation, detail }, Cause::NoCapacity { what });
        let what = Some("the group's maximum of 3".to_owned());
        check(GroupError::Full { max: 3 }, Cause::NoCapacity { what });
        check(GroupError::Denied { operation, detail: "policy".to_owned() }, Cause::Denied);
        check(GroupError::Misconfigured { detail: "zone".to_owned() }, Cause::Misconfigured);
        check(GroupError::failed(Operation::Increase, "reset"), Cause::InDoubt);
        check(GroupError::failed(Operation::Decrease, "reset"), Cause::InDoubt);
        check(GroupError::failed(Operation::Update, "reset"), Cause::Other);
    }
}
