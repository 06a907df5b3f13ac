//! A store that fails: what must be kept before an act holds the act back, and is said.

use std::sync::atomic::AtomicBool;

use tracing::Level;

use super::said::Said;
use super::*;
use crate::fleeting::host_keys::HostKey;
use crate::taskscaler::core::records::{Record, Restored};

const NOT_KEPT: &str = "the fleet's state cannot be kept; nothing is done until it is";

/// It keeps and reads nothing until it works.
#[derive(Debug, Default)]
struct FailingStore {
    works: AtomicBool,
    loads: AtomicU32,
    commits: AtomicU32,
}

impl FailingStore {
    fn answer<T: Default>(&self) -> Result<T, StoreError> {
        let works = self.works.load(Ordering::SeqCst);
        if works { Ok(T::default()) } else { Err(StoreError("no space left on device".into())) }
    }
}

impl Store for FailingStore {
    fn load(&self) -> Result<Restored, StoreError> {
        // One that cannot be read is another test's.
        let attempt = self.loads.fetch_add(1, Ordering::SeqCst);
        if attempt < 2 { Err(StoreError("damaged".into())) } else { Ok(Restored::default()) }
    }

    fn commit(&self, _: &[Record]) -> Result<(), StoreError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.answer()
    }

    fn keep_host_keys(&self, _: &[(InstanceId, HostKey)]) -> Result<(), StoreError> {
        self.answer()
    }
}

/// Waits, in the test's own time, until a fact is true.
async fn at_last(fact: impl Fn() -> bool) {
    let wait = async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(3600), wait).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_group_until_it_is_written_down_and_then_once() {
    let (said, _guard) = Said::listen();
    let mut rig = Rig::new();
    // Silent: an answer would be a reason to ask again.
    let group = Arc::new(FailingGroup { is_silent: true, ..FailingGroup::default() });
    let store = Arc::new(FailingStore::default());
    let handle = rig.start_on(group.clone(), store.clone(), HostKeys::default(), settings(2));
    let (commits, increases) = (|| store.commits.load(Ordering::SeqCst), || group.increases.load(Ordering::SeqCst));
    at_last(|| commits() >= 6).await;
    assert_eq!(increases(), 0);
    assert!(said.count(Level::ERROR, NOT_KEPT) >= 5, "each time it fails");
    assert!(!handle.snapshot().await.unwrap().is_kept, "and it is shown");
    store.works.store(true, Ordering::SeqCst);
    at_last(|| increases() > 0).await;
    // A request without an answer is given up after two minutes.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(increases(), 1);
    assert!(handle.snapshot().await.unwrap().is_kept);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_read_is_said_and_read_again_before_anything_is_done() {
    let (said, _guard) = Said::listen();
    let mut rig = Rig::new();
    let group = Arc::new(FailingGroup::default());
    let store = Arc::new(FailingStore { works: AtomicBool::new(true), ..FailingStore::default() });
    let _handle = rig.start_on(group.clone(), store.clone(), HostKeys::default(), settings(2));
    at_last(|| store.loads.load(Ordering::SeqCst) >= 1).await;
    assert_eq!(group.increases.load(Ordering::SeqCst), 0);
    at_last(|| group.increases.load(Ordering::SeqCst) > 0).await;
    assert_eq!(store.loads.load(Ordering::SeqCst), 3);
    assert_eq!(said.count(Level::WARN, "failed to restore saved state"), 2);
}
