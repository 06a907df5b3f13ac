//! The start of a taskscaler: the group is found and claimed, and what was kept is read.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tracing::warn;

use crate::backoff::Backoff;
use crate::error_chain::Chain;
use crate::fleeting::group::{GroupError, InstanceGroup, Lease, Operation, Ownership, ProviderInfo};

use super::claim::{LEASE, RETRY};
use super::core::records::Restored;
use super::store::Store;

/// The longest a single try may take.
const TRY: Duration = Duration::from_secs(60);
/// The first and the longest wait between tries.
const FIRST: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(60);

/// What a start found.
#[derive(Debug)]
pub(super) struct Opened {
    pub info: ProviderInfo,
    pub ownership: Ownership,
    pub lease: Lease,
    pub restored: Restored,
}

/// Tries until everything is there. Until then polls are refused.
pub(super) async fn open(group: Arc<dyn InstanceGroup>, store: Arc<dyn Store>, holder: String) -> Opened {
    let mut backoff = Backoff::new(FIRST, CAP);
    let (info, ownership, lease) = loop {
        match tokio::time::timeout(TRY, look_up(group.as_ref(), &holder)).await {
            Ok(Ok(found)) => break found,
            Ok(Err(error)) => warn!(error = %Chain(&error), "the instance group cannot be used yet"),
            Err(_) => warn!(waited_s = TRY.as_secs(), "the instance group does not answer"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    };
    let restored = loop {
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.load()).await {
            Ok(Ok(restored)) => break restored,
            Ok(Err(error)) => warn!(error = %Chain(&error), "failed to restore saved state"),
            Err(fault) => warn!(error = %fault, "failed to restore saved state"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    };
    Opened { info, ownership, lease, restored }
}

/// Extends a claim, or makes it anew where it has run out.
pub(super) async fn renew(group: Arc<dyn InstanceGroup>, lease: Lease, holder: String) -> Result<Lease, String> {
    let renewed = async {
        match group.renew_lease(&lease, LEASE).await {
            Ok(lease) => Ok(lease),
            Err(_) => group.acquire_lease(&holder, LEASE).await,
        }
    };
    let result = tokio::time::timeout(RETRY, renewed).await;
    let late = || GroupError::failed(Operation::Lease, "no answer");
    result.unwrap_or_else(|_| Err(late())).map_err(|error| Chain(&error).to_string())
}

/// Gives the claim back and ends what the provider holds open.
pub(super) async fn let_go(group: Arc<dyn InstanceGroup>, lease: Option<Lease>) {
    if let Some(lease) = lease
        && let Err(error) = group.release_lease(lease).await
    {
        warn!(error = %Chain(&error), "the claim on the group could not be given back");
    }
    if std::panic::AssertUnwindSafe(group.shutdown()).catch_unwind().await.is_err() {
        warn!("the provider panicked at its end");
    }
}

async fn look_up(group: &dyn InstanceGroup, holder: &str) -> Result<(ProviderInfo, Ownership, Lease), GroupError> {
    let info = group.init().await?;
    let ownership = group.ownership().await?;
    let lease = group.acquire_lease(holder, LEASE).await?;
    Ok((info, ownership, lease))
}
