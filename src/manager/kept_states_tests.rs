//! State files of released versions, which this version must read whole: `tests/data/state/VERSION`.
//!
//! A release adds its own: raise the version in Cargo.toml, run
//! `cargo test --lib writes_the_state_of_this_version -- --ignored`, add a line to [`VERSIONS`], and commit the new
//! folder. An existing folder is never written again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::job_records::{Ended, JobRecord, JobRecords};
use crate::detached::records::Position;
use crate::detached::{Place, StageFolder, StageHandle};
use crate::fleeting::host_keys::HostKey;
use crate::gitlab::JobCredentials;
use crate::ids::{InstanceId, JobId, ReservationKey, RunnerKey};
use crate::journal::Journal;
use crate::secret::Secret;
use crate::taskscaler::core::CreationId;
use crate::taskscaler::core::instance::Cause;
use crate::taskscaler::core::reasons::RemovalReason;
use crate::taskscaler::core::records::{CreationRecord, InstanceRecord, Record, Restored};
use crate::taskscaler::{Journaled, Store};

/// The versions whose state must be readable.
const VERSIONS: [&str; 1] = ["v0.1.0"];

const SYSTEM_ID: &str = "s_0123456789ab";
const TOKEN: &str = "glcbt-64_of-a-running-job";

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/state").join(version)
}

fn runner() -> RunnerKey {
    RunnerKey::new("https://gitlab.example", 1, "t")
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000 + seconds)
}

/// A busy instance, one that is being removed, one that is gone but not forgotten, and an open creation.
fn fleet() -> Restored {
    let busy = InstanceRecord {
        id: InstanceId::new("i-1"),
        cause: Cause::Requested,
        foreign: false,
        creation: Some(CreationId(7)),
        uses: 3,
        slots: BTreeMap::from([(0, ReservationKey::new("running")), (1, ReservationKey::new("ended"))]),
        listed_at: at(0),
        idle_since: at(1),
        removal: None,
        gone_at: None,
    };
    let reason = RemovalReason::Idle { idle: Duration::from_secs(61), idle_time: Duration::from_secs(60) };
    let leaving = InstanceRecord { id: InstanceId::new("i-2"), removal: Some(reason), ..busy.clone() };
    let gone = InstanceRecord { id: InstanceId::new("i-3"), gone_at: Some(at(9)), foreign: true, ..busy.clone() };
    let creation = CreationRecord { id: CreationId(8), count: 2, asked_at: at(2) };
    Restored { instances: vec![busy, leaving, gone], creations: vec![creation] }
}

fn host_keys() -> Vec<(InstanceId, HostKey)> {
    vec![(InstanceId::new("i-1"), HostKey::new("ssh-ed25519 AAAA"))]
}

/// A job in the middle of its script, and one whose result GitLab does not have yet.
fn jobs() -> Vec<JobRecord> {
    let job = |key: &str, id: i64| JobRecord {
        key: ReservationKey::new(key),
        credentials: JobCredentials { id: JobId(id), token: Secret::new(TOKEN) },
        url: "https://gitlab.example".to_owned(),
        executor: "instance".to_owned(),
        name: format!("{id}-{key}"),
        accepted_at: at(3),
        stage: Some(StageHandle {
            instance: InstanceId::new("i-1"),
            place: Place::Instance { root: "/home/ci/.flotilla/jobs".to_owned() },
            folder: StageFolder::new(&format!("{id}-{key}"), "step_script", 0),
            position: Position::default(),
        }),
        ended: None,
    };
    let ended = Ended { failure_reason: Some("script_failure".to_owned()), exit_code: Some(3) };
    vec![JobRecord { ended: Some(ended), ..job("ended", 8) }, job("running", 7)]
}

fn records(journal: &Journal) -> JobRecords {
    JobRecords::new(journal.section(&format!("jobs/{SYSTEM_ID}/{}", runner())))
}

#[tokio::test]
async fn state_files_of_earlier_versions_are_read_whole() {
    for version in VERSIONS {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder(version)).unwrap().flatten() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let journal = Journal::open(&copy.path().join("journal.redb")).unwrap();
        assert_eq!(journal.sections().unwrap().len(), 2, "{version}");
        let store = Journaled::new(&journal, &runner(), SYSTEM_ID);
        assert_eq!(store.load().unwrap(), fleet(), "{version}");
        assert_eq!(store.host_keys().unwrap(), host_keys(), "{version}");
        let found = records(&journal).load().unwrap();
        assert_eq!(format!("{found:#?}"), format!("{:#?}", jobs()), "{version}");
        assert!(found.iter().all(|job| job.credentials.token.expose() == TOKEN), "{version}");
        // This version can go on from there.
        store.commit(&[Record::InstanceForgotten(InstanceId::new("i-3"))]).unwrap();
        assert_eq!(store.load().unwrap().instances, fleet().instances[..2], "{version}");
    }
}

#[tokio::test]
#[ignore = "writes tests/data/state for a release"]
async fn writes_the_state_of_this_version() {
    let folder = folder(concat!("v", env!("CARGO_PKG_VERSION")));
    assert!(!folder.exists(), "the state of a version is written once");
    fs::create_dir_all(&folder).unwrap();
    let journal = Journal::open(&folder.join("journal.redb")).unwrap();
    let store = Journaled::new(&journal, &runner(), SYSTEM_ID);
    let Restored { instances, creations } = fleet();
    let records_of_fleet: Vec<_> =
        instances.into_iter().map(Record::Instance).chain(creations.into_iter().map(Record::Creation)).collect();
    store.commit(&records_of_fleet).unwrap();
    store.keep_host_keys(&host_keys()).unwrap();
    for job in jobs() {
        records(&journal).keep(&job).await.unwrap();
    }
}
