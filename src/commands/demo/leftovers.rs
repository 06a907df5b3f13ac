//! The end of the demo's instances, whatever became of the manager.
//!
//! They are processes of their own, which a manager that ended in disorder leaves behind. Their group is asked
//! to delete what it still has, until it has nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::config::resolved::LocalGroup as Settings;
use crate::error_chain::Chain;
use crate::fleeting::group::{InstanceGroup, InstanceState};
use crate::fleeting::local::{LocalGroup, Place};
use crate::ids::InstanceId;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Ending an instance takes a few seconds; one that never came to life is given up by its group after 30 s.
const LIMIT: Duration = Duration::from_secs(40);

/// Deletes every instance whose group has its folder in `root`; how many are left after a while.
pub(super) async fn remove(root: &Path, executable: &Path) -> usize {
    let Ok(folders) = std::fs::read_dir(root) else { return 0 };
    let mut left = 0;
    for folder in folders.flatten() {
        let place = Place { root: folder.path(), executable: executable.to_owned() };
        let group = LocalGroup::new(&Settings::default(), place);
        if tokio::time::timeout(LIMIT, empty(&group)).await.is_err() {
            left += instances(&group).await.len();
        }
    }
    left
}

async fn empty(group: &LocalGroup) {
    let mut asked = BTreeSet::new();
    loop {
        let instances = instances(group).await;
        if instances.is_empty() {
            return;
        }
        // Once each: the listing carries on with what was begun.
        let new: Vec<InstanceId> = instances.into_iter().filter(|id| asked.insert(id.clone())).collect();
        if let Some(error) = group.decrease(&new).await.error {
            tracing::warn!(error = %Chain(&error), "deleting instances of the demo");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn instances(group: &LocalGroup) -> Vec<InstanceId> {
    let listed = group.update().await.map(|listing| listing.instances).unwrap_or_default();
    listed.into_iter().filter(|(_, state)| *state != InstanceState::Deleted).map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_nothing_was_started_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a-group")).unwrap();
        assert_eq!(remove(root.path(), Path::new("/nonexistent")).await, 0);
        assert_eq!(remove(&root.path().join("none"), Path::new("/nonexistent")).await, 0);
    }
}
