//! The actor with real parts: `local` instances as processes, reached over SSH, and a journal on disk; and with a
//! group that only fails.

mod claims;
mod reloads;
pub(super) mod said;
mod stores;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending, ready};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::core::settings::{OnShutdown, ScaleThrottle, Settings as CoreSettings, UnknownInstances};
use super::*;
use crate::config::resolved::{Buckets, ConnectorConfig, LocalGroup as LocalSettings, PluginConfig};
use crate::fleeting::access::{Readiness, Settings as ConnectorSettings};
use crate::fleeting::connector::tests::eventually;
use crate::fleeting::group::{
    ConnectInfo, Decreased, GroupError, GroupListing, Increased, InstanceGroup, Lease, Operation, Ownership,
    ProviderInfo,
};
use crate::fleeting::host_keys::HostKeys;
use crate::fleeting::local::{LocalGroup, Place};
use crate::ids::{InstanceId, ReservationKey, RunnerKey};
use crate::journal::Journal;
use crate::pulse::Pulses;
use crate::taskscaler::core::policy::{Always, Policy, Target};

/// Real processes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives way to the tests beside this one, which wait for processes and sockets: simulators and model checks fill
/// every core.
pub(super) fn in_background() {
    rustix::process::nice(19).expect("everybody may be nicer");
}

fn settings(idle_count: u32) -> Settings {
    let number = |number| std::num::NonZeroU32::new(number).unwrap();
    let target = Target { idle_count, idle_time: Duration::from_secs(600), ..Target::default() };
    Settings {
        core: CoreSettings {
            capacity_per_instance: number(1),
            max_use_count: None,
            max_instances: Some(number(4)),
            policies: vec![Policy { periods: Arc::new(Always), target, preemptive_mode: None }],
            reservation_throttling: None,
            scale_throttle: ScaleThrottle::Unlimited,
            acquire_timeout: Duration::from_secs(50),
            update_interval: Duration::from_secs(60),
            update_interval_when_expecting: Duration::from_millis(200),
            deletion_retry_interval: Duration::from_secs(60),
            failure_threshold: number(3),
            liveness_interval: Duration::from_secs(300),
            on_shutdown: OnShutdown::Delete { interval: Duration::from_secs(2), retries: 10 },
            unknown: UnknownInstances::Report,
        },
        connector: ConnectorSettings::from(&ConnectorConfig::default()),
        readiness: Readiness::default(),
        stateless: false,
        buckets: Buckets::default(),
    }
}

/// A folder with instances and a journal, and the taskscaler on it.
struct Rig {
    folder: TempDir,
    actors: JoinSet<()>,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // This test binary is the instances' program; its arguments go through a file, as the harness takes none.
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > arguments\n\
             exec '{}' --ignored --exact --nocapture fleeting::local::tests::is_an_instance\n",
            std::env::current_exe().unwrap().display()
        );
        let executable = folder.path().join("flotilla");
        fs::write(&executable, script).unwrap();
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, actors: JoinSet::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self, settings: Settings) -> Handle {
        let place = Place { root: self.path("instances"), executable: self.path("flotilla") };
        let group = LocalGroup::new(&LocalSettings::default(), place);
        let journal = Journal::open(&self.path("journal.redb")).unwrap();
        let store = Journaled::new(&journal, &RunnerKey::new("https://gitlab.example", 1, "t"), "s_1");
        let host_keys = HostKeys::preloaded(store.host_keys().unwrap());
        self.start_on(Arc::new(group), Arc::new(store), host_keys, settings)
    }

    fn start_on(
        &mut self,
        group: Arc<dyn InstanceGroup>,
        store: Arc<dyn Store>,
        host_keys: HostKeys,
        settings: Settings,
    ) -> Handle {
        let (actor, handle) = Actor::new(Parts {
            pulse: Pulses::default().of("a taskscaler"),
            group,
            settings,
            store,
            host_keys,
            former_jobs: Arc::new(NoFormerJobs),
            holder: "s_1".to_owned(),
            span: tracing::Span::none(),
        });
        self.actors.spawn(actor.run());
        handle
    }
}

fn key(name: &str) -> ReservationKey {
    ReservationKey::new(name)
}

/// Asks for capacity as a poller does: again whenever it may have changed.
async fn reserved(handle: &Handle, name: &str) -> ReservationKey {
    let key = key(name);
    let reserve = async {
        while handle.reserve(&key).await.is_err() {
            handle.capacity_changed().await;
        }
    };
    timeout(PATIENCE, reserve).await.unwrap();
    key
}

async fn acquired(handle: &Handle, key: &ReservationKey) -> Acquisition {
    timeout(PATIENCE, handle.acquire(key)).await.unwrap().unwrap()
}

async fn until(handle: &Handle, fact: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let wait = async {
        loop {
            let snapshot = handle.snapshot().await.unwrap();
            if fact(&snapshot) {
                return snapshot;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap()
}

#[tokio::test]
async fn a_job_gets_a_slot_on_an_instance_that_runs_its_commands() {
    let mut rig = Rig::new();
    let handle = rig.start(settings(0));
    let key = reserved(&handle, "a").await;
    let acquisition = acquired(&handle, &key).await;
    assert_eq!((acquisition.slot(), acquisition.uses(), acquisition.loss()), (0, 1, None));
    let mut said = String::new();
    acquisition.instance().exec("echo here").await.unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "here\n");
    acquisition.release(Release::Finished).await;
    let snapshot = until(&handle, |snapshot| snapshot.fleet.tasks.idle == 1).await;
    assert_eq!(snapshot.timings.readiness.count(), 1);
    assert_eq!(handle.shutdown().await, 0, "delete_instances_on_shutdown");
    rig.actors.join_all().await;
}

#[tokio::test]
async fn a_job_that_stops_waiting_takes_no_slot() {
    let mut rig = Rig::new();
    let handle = rig.start(settings(0));
    let key = reserved(&handle, "a").await;
    let waited = timeout(Duration::from_millis(10), handle.acquire(&key)).await;
    assert!(waited.is_err(), "no instance is there this soon");
    handle.unreserve(&key).await;
    let snapshot = until(&handle, |snapshot| snapshot.fleet.tasks.idle == 1).await;
    assert_eq!((snapshot.fleet.claims.len(), snapshot.fleet.tasks.acquired), (0, 0));
    handle.shutdown().await;
}

#[tokio::test]
async fn a_slot_that_is_dropped_costs_its_instance() {
    let mut rig = Rig::new();
    let handle = rig.start(settings(0));
    let key = reserved(&handle, "a").await;
    let acquisition = acquired(&handle, &key).await;
    drop(acquisition);
    let snapshot = until(&handle, |snapshot| snapshot.fleet.totals.deleted == 1).await;
    assert_eq!(snapshot.fleet.totals.removals.get("broken"), Some(&1));
    handle.shutdown().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_prepared_moves_to_another_instance() {
    let mut rig = Rig::new();
    let handle = rig.start(settings(0));
    let key = reserved(&handle, "a").await;
    let first = acquired(&handle, &key).await;
    let broken = first.instance_id().clone();
    let second = timeout(PATIENCE, first.replaced()).await.unwrap().unwrap();
    assert_ne!(second.instance_id(), &broken);
    second.release(Release::Finished).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn the_fleet_survives_its_manager() {
    let mut rig = Rig::new();
    let handle = rig.start(settings(2));
    let before = until(&handle, |snapshot| snapshot.fleet.tasks.idle == 2).await;
    // As a kill would: no shutdown, nothing said.
    rig.actors.shutdown().await;
    drop(handle);
    // A commit that was under way has the journal until it is through.
    eventually(|| Journal::open(&rig.path("journal.redb")).is_ok()).await;
    let handle = rig.start(settings(2));
    let after = until(&handle, |snapshot| snapshot.fleet.tasks.idle == 2).await;
    let ids = |snapshot: &Snapshot| snapshot.fleet.fleet.iter().map(|(id, _, _)| id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before));
    assert_eq!(after.fleet.totals.created, 0);
    assert!(after.fleet.fleet.iter().all(|(_, instance, _)| instance.restored));
    handle.shutdown().await;
}

#[tokio::test]
async fn a_removed_runner_gives_up_its_fleet_though_nobody_holds_its_handle() {
    let mut rig = Rig::new();
    let mut settings = settings(2);
    settings.core.on_shutdown = OnShutdown::Keep;
    let handle = rig.start(settings);
    until(&handle, |snapshot| snapshot.fleet.tasks.idle == 2).await;
    handle.retire().await;
    drop(handle);
    timeout(PATIENCE, rig.actors.join_next()).await.unwrap();
    let left = fs::read_dir(rig.path("instances")).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(left.count(), 0, "the instances are gone");
}

#[tokio::test]
async fn a_killed_instance_is_noticed_by_its_job() {
    let mut rig = Rig::new();
    let mut settings = settings(0);
    settings.core.update_interval = Duration::from_secs(1);
    let handle = rig.start(settings);
    let key = reserved(&handle, "a").await;
    let acquisition = acquired(&handle, &key).await;
    // The instance's own process, from inside.
    drop(acquisition.instance().exec("kill -9 $PPID").await);
    let cause = timeout(PATIENCE, acquisition.lost()).await.unwrap();
    assert!(cause.to_string().contains("unexpectedly removed"));
    acquisition.release(Release::Finished).await;
    handle.shutdown().await;
}

/// A group that fails a number of times before it is found, and never launches anything.
#[derive(Debug, Default)]
struct FailingGroup {
    inits: AtomicU32,
    increases: AtomicU32,
    /// A request for instances is never answered.
    is_silent: bool,
}

fn failed<T>(operation: Operation) -> Result<T, GroupError> {
    Err(GroupError::failed(operation, "503"))
}

impl InstanceGroup for FailingGroup {
    fn reconfigure(&self, _: &PluginConfig, _: &ConnectorConfig) -> Result<(), GroupError> {
        Ok(())
    }

    fn init(&self) -> BoxFuture<'_, Result<ProviderInfo, GroupError>> {
        let attempt = self.inits.fetch_add(1, Ordering::SeqCst);
        let found = ProviderInfo { id: "failing".to_owned(), max_size: Some(10) };
        ready(if attempt < 3 { failed(Operation::Init) } else { Ok(found) }).boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(ProviderInfo, GroupListing), GroupError>> {
        ready(failed(Operation::Update)).boxed()
    }

    fn update(&self) -> BoxFuture<'_, Result<GroupListing, GroupError>> {
        ready(Ok(GroupListing { target_size: Some(0), instances: Vec::new() })).boxed()
    }

    fn increase(&self, _count: u32) -> BoxFuture<'_, Increased> {
        self.increases.fetch_add(1, Ordering::SeqCst);
        if self.is_silent {
            return pending().boxed();
        }
        let detail = "none left".to_owned();
        let error = GroupError::NoCapacity { operation: Operation::Increase, detail };
        ready(Increased { succeeded: 0, error: Some(error) }).boxed()
    }

    fn decrease<'a>(&'a self, _ids: &'a [InstanceId]) -> BoxFuture<'a, Decreased> {
        ready(Decreased::default()).boxed()
    }

    fn connect_info<'a>(&'a self, _id: &'a InstanceId) -> BoxFuture<'a, Result<ConnectInfo, GroupError>> {
        ready(failed(Operation::ConnectInfo)).boxed()
    }

    fn heartbeat<'a>(&'a self, _id: &'a InstanceId) -> BoxFuture<'a, Result<(), GroupError>> {
        ready(failed(Operation::Heartbeat)).boxed()
    }

    fn ownership(&self) -> BoxFuture<'_, Result<Ownership, GroupError>> {
        ready(Ok(Ownership::Ours)).boxed()
    }

    fn acquire_lease<'a>(&'a self, holder: &'a str, _: Duration) -> BoxFuture<'a, Result<Lease, GroupError>> {
        ready(Ok(Lease { holder: holder.to_owned(), until: None })).boxed()
    }

    fn renew_lease<'a>(&'a self, lease: &'a Lease, _: Duration) -> BoxFuture<'a, Result<Lease, GroupError>> {
        ready(Ok(lease.clone())).boxed()
    }

    fn release_lease(&self, _: Lease) -> BoxFuture<'_, Result<(), GroupError>> {
        ready(Ok(())).boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        panic!("a provider's panic ends nothing but its own call")
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_fails_is_tried_again_and_never_in_a_hurry() {
    let mut rig = Rig::new();
    let group = Arc::new(FailingGroup::default());
    let handle = rig.start_on(group.clone(), Arc::new(Forgetful), HostKeys::default(), settings(0));
    assert_eq!(handle.reserve(&key("early")).await, Err(Refusal::Starting));
    let job = reserved(&handle, "a").await;
    assert_eq!(group.inits.load(Ordering::SeqCst), 4);
    let error = handle.acquire(&job).await.unwrap_err();
    assert_eq!(error, AcquireError::TimedOut { waited: Duration::from_secs(50) });
    let increases = group.increases.load(Ordering::SeqCst);
    assert!((3..=7).contains(&increases), "{increases} requests in 50 s");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_answered_is_given_up_and_made_again() {
    let mut rig = Rig::new();
    let group = Arc::new(FailingGroup { is_silent: true, ..FailingGroup::default() });
    let mut settings = settings(0);
    settings.core.acquire_timeout = Duration::from_secs(600);
    let handle = rig.start_on(group.clone(), Arc::new(Forgetful), HostKeys::default(), settings);
    let job = reserved(&handle, "a").await;
    assert!(matches!(handle.acquire(&job).await.unwrap_err(), AcquireError::TimedOut { .. }));
    let increases = group.increases.load(Ordering::SeqCst);
    assert!((2..=5).contains(&increases), "{increases} requests of two minutes each in ten");
    assert!(handle.snapshot().await.unwrap().fleet.totals.listings > 2, "the group is looked at meanwhile");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_when_the_taskscaler_ends() {
    let mut rig = Rig::new();
    let group = Arc::new(FailingGroup::default());
    let handle = rig.start_on(group, Arc::new(Forgetful), HostKeys::default(), settings(0));
    let job = reserved(&handle, "a").await;
    let (waited, remaining) = tokio::join!(handle.acquire(&job), handle.shutdown());
    assert_eq!((waited.unwrap_err(), remaining), (AcquireError::Stopping, 0));
    assert_eq!(handle.reserve(&key("late")).await, Err(Refusal::Stopping));
    assert!(handle.snapshot().await.is_none());
}
