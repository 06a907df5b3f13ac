//! The folder of one instance, which is all that is known of it.
//!
//! `instance.json` (written by the instance: its process, and its address once it listens), `home/`, `log`, and
//! `deleting` once it is to go. A folder without a record is an instance whose process has not begun, or never
//! will because the manager was killed before it started it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::inside;
use super::process::ProcessIdentity;
use crate::fleeting::group::InstanceState;
use crate::ids::InstanceId;
use crate::time;

const RECORD: &str = "instance.json";
const DELETING: &str = "deleting";

/// A folder without a record is this old when its process will never begin.
const ABANDONED: Duration = Duration::from_secs(30);

/// A process that was asked to end and has not in this time is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: InstanceId,
    pub process: ProcessIdentity,
    pub username: String,
    /// `None` while it boots.
    pub address: Option<String>,
    /// The public key of its SSH server.
    pub host_key: String,
}

/// What the state of an instance asks for.
#[derive(Debug)]
enum Due {
    Nothing,
    Removal,
    Signal(ProcessIdentity, Signal),
}

/// One instance's folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// Makes the folder, which must not be there yet.
    pub(super) fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.0)?;
        fs::create_dir(self.home())
    }

    /// The record, where the instance has written one.
    pub(super) fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.0.join(RECORD)).ok()?).ok()
    }

    /// Replaces the record as a whole, so that no reader sees a part.
    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        let part = self.0.join("instance.json.part");
        fs::write(&part, serde_json::to_vec_pretty(record)?)?;
        fs::rename(part, self.0.join(RECORD))
    }

    /// Whether the folder is still there, and not about to go.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.join(RECORD).exists() && !self.0.join(DELETING).exists()
    }

    /// Marks the instance as unwanted and asks its process to end.
    pub(super) fn delete(&self) -> io::Result<()> {
        match fs::File::create_new(self.0.join(DELETING)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.record() {
            Some(record) if record.process.is_alive() => record.process.signal(Signal::TERM),
            Some(_) => self.remove(),
            // Its process looks for the mark when it begins.
            None => Ok(()),
        }
    }

    /// The state as found, and nothing is done about it.
    pub(super) fn state(&self) -> InstanceState {
        self.found().0
    }

    /// The state as found; carries on with a deletion, and removes what is left of an instance that has ended.
    pub(super) fn reconcile(&self) -> io::Result<InstanceState> {
        let (state, due) = self.found();
        match due {
            Due::Nothing => {}
            Due::Removal => self.remove()?,
            Due::Signal(process, signal) => process.signal(signal)?,
        }
        Ok(state)
    }

    fn found(&self) -> (InstanceState, Due) {
        let deleting = age(&self.0.join(DELETING));
        let Some(record) = self.record() else {
            return match deleting {
                _ if age(&self.0).is_some_and(|age| age >= ABANDONED) => (InstanceState::Deleted, Due::Removal),
                Some(_) => (InstanceState::Deleting, Due::Nothing),
                None => (InstanceState::Creating, Due::Nothing),
            };
        };
        if !record.process.is_alive() {
            return (InstanceState::Deleted, Due::Removal);
        }
        match deleting {
            Some(age) if age >= KILL_AFTER => (InstanceState::Deleting, Due::Signal(record.process, Signal::KILL)),
            Some(_) => (InstanceState::Deleting, Due::Signal(record.process, Signal::TERM)),
            None if record.address.is_some() => (InstanceState::Running, Due::Nothing),
            None => (InstanceState::Creating, Due::Nothing),
        }
    }

    /// Ends what still runs inside and removes the folder.
    pub(super) fn remove(&self) -> io::Result<()> {
        inside::signal_all(&self.0, Signal::KILL);
        match fs::remove_dir_all(&self.0) {
            // Somebody else was quicker, or a process wrote in its last moment: the next pass removes the rest.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
            removed => removed,
        }
    }
}

/// How long ago a file was last changed; `None` where there is none.
fn age(path: &Path) -> Option<Duration> {
    let changed = fs::metadata(path).ok()?.modified().ok()?;
    // A clock that was set back makes it young, not negative.
    Some(time::now().utc.duration_since(changed).unwrap_or_default())
}
