//! What is kept of each accepted job, so that the next manager knows of it.
//!
//! The record is there before GitLab hears `running`, and goes when GitLab has the job's final state and its slot is
//! free. So a record that a manager finds at its start is of a job that an earlier one left in the middle.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::beginning::Beginning;
use super::poller::Received;
use super::served::ServedRunner;
use crate::backoff::Backoff;
use crate::detached::StageHandle;
use crate::error_chain::Chain;
use crate::gitlab::JobCredentials;
use crate::ids::{JobId, ReservationKey};
use crate::journal::{Change, JournalError, Section};
use crate::trace::FinalUpdate;

const KIND: &str = "job";
/// Fields of a record that come later.
const STAGE: &str = "stage";
const ENDED: &str = "ended";

/// How long a record that cannot be written is tried again. The server keeps a job that nobody acknowledges for two
/// minutes.
const KEEP_WITHIN: Duration = Duration::from_secs(30);

/// An accepted job.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// Its claim on capacity; the record of its instance says in which slot.
    pub key: ReservationKey,
    pub credentials: JobCredentials,
    /// GitLab's address.
    pub url: String,
    /// The executor's name in the configuration.
    pub executor: String,
    /// Names this acceptance of the job where it runs.
    pub name: String,
    pub accepted_at: SystemTime,
    /// By what its latest stage can be found again.
    pub stage: Option<StageHandle>,
    /// How it ended, where that was known and GitLab perhaps not told.
    pub ended: Option<Ended>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The wire name; `None` where it succeeded.
    pub failure_reason: Option<String>,
    pub exit_code: Option<i32>,
}

impl From<&FinalUpdate> for Ended {
    fn from(update: &FinalUpdate) -> Self {
        match update {
            FinalUpdate::Success => Self { failure_reason: None, exit_code: None },
            FinalUpdate::Failed { failure_reason, exit_code } => {
                Self { failure_reason: Some(failure_reason.clone()), exit_code: *exit_code }
            }
        }
    }
}

impl JobRecord {
    pub fn new(runner: &ServedRunner, received: &Received) -> Self {
        Self {
            key: received.reservation.clone(),
            credentials: received.job.credentials.clone(),
            url: runner.config.url.as_str().to_owned(),
            executor: runner.executor.name().to_owned(),
            name: Beginning::name_of(received),
            accepted_at: crate::time::now().utc,
            stage: None,
            ended: None,
        }
    }
}

/// A job as it is in the journal: its token sealed, and what is noted later as text, so that a stage that another
/// version writes differently does not make the whole record unreadable.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    key: ReservationKey,
    id: JobId,
    sealed_token: String,
    url: String,
    executor: String,
    name: String,
    accepted_at: SystemTime,
    stage: Option<String>,
    ended: Option<String>,
}

/// The records of one runner's jobs; none are kept where `state_storage` is off. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct JobRecords(Option<Section>);

impl JobRecords {
    pub fn new(section: Section) -> Self {
        Self(Some(section))
    }

    /// Writes a record; it is synced when this returns.
    ///
    /// # Errors
    /// It could not be written within [`KEEP_WITHIN`].
    pub async fn keep(&self, job: &JobRecord) -> Result<(), JournalError> {
        let Some(section) = &self.0 else { return Ok(()) };
        let change = Change::put(KIND, job.key.as_str(), &stored(section, job)?)?;
        let give_up = crate::time::now().instant + KEEP_WITHIN;
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        loop {
            match section.write(vec![change.clone()]).await {
                Err(fault) if crate::time::now().instant < give_up => {
                    error!(error = %Chain(&fault), "a job cannot be written down; it waits");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                result => return result,
            }
        }
    }

    /// Notes by what the job's stage can be found again. A crash within the next moment may lose it.
    pub fn note_stage(&self, key: &ReservationKey, stage: &StageHandle) {
        self.note(key, STAGE, stage);
    }

    /// Notes how the job ended, before GitLab is told. A crash within the next moment may lose it.
    pub fn note_end(&self, key: &ReservationKey, ended: &Ended) {
        self.note(key, ENDED, ended);
    }

    fn note(&self, key: &ReservationKey, field: &'static str, value: &impl Serialize) {
        let Some(section) = &self.0 else { return };
        match serde_json::to_string(value) {
            Ok(text) => section.write_soon(Change::amend(KIND, key.as_str(), field, text)),
            Err(fault) => warn!(error = %fault, field, "a note on a job cannot be written down"),
        }
    }

    /// Nothing is left to do for the job. Where a crash loses this, GitLab is told once more what it knows.
    pub fn forget(&self, key: &ReservationKey) {
        if let Some(section) = &self.0 {
            section.write_soon(Change::remove(KIND, key.as_str()));
        }
    }

    /// All records. May block.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn load(&self) -> Result<Vec<JobRecord>, JournalError> {
        let Some(section) = &self.0 else { return Ok(Vec::new()) };
        section.load(KIND)?.into_iter().map(|stored| recalled(section, stored)).collect()
    }
}

fn stored(section: &Section, job: &JobRecord) -> Result<Stored, JournalError> {
    let JobRecord { key, credentials, url, executor, name, accepted_at, stage, ended } = job.clone();
    Ok(Stored {
        sealed_token: section.seal(key.as_str(), &credentials.token)?,
        key,
        id: credentials.id,
        url,
        executor,
        name,
        accepted_at,
        stage: stage.and_then(|stage| serde_json::to_string(&stage).ok()),
        ended: ended.and_then(|ended| serde_json::to_string(&ended).ok()),
    })
}

fn recalled(section: &Section, stored: Stored) -> Result<JobRecord, JournalError> {
    let Stored { key, id, sealed_token, url, executor, name, accepted_at, stage, ended } = stored;
    let token = section.unseal(key.as_str(), &sealed_token)?;
    let stage = stage.and_then(|text| serde_json::from_str(&text).ok());
    let ended = ended.and_then(|text| serde_json::from_str(&text).ok());
    Ok(JobRecord { key, credentials: JobCredentials { id, token }, url, executor, name, accepted_at, stage, ended })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detached::{Place, StageFolder, records::Position};
    use crate::ids::InstanceId;
    use crate::journal::Journal;
    use crate::secret::Secret;

    fn job(key: &str) -> JobRecord {
        JobRecord {
            key: ReservationKey::new(key),
            credentials: JobCredentials { id: JobId(7), token: Secret::new("glcbt-64_secret") },
            url: "https://gitlab.example".to_owned(),
            executor: "instance".to_owned(),
            name: format!("7-{key}"),
            accepted_at: SystemTime::UNIX_EPOCH,
            stage: None,
            ended: None,
        }
    }

    fn records(folder: &tempfile::TempDir) -> JobRecords {
        JobRecords::new(Journal::open(&folder.path().join("journal.redb")).unwrap().section("jobs"))
    }

    #[tokio::test]
    async fn a_job_is_known_to_the_next_manager_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let kept = records(&folder);
        let stage = StageHandle {
            instance: InstanceId::new("i-1"),
            place: Place::Instance { root: "/jobs".to_owned() },
            folder: StageFolder::new("7-a", "step_script", 0),
            position: Position::default(),
        };
        kept.keep(&job("a")).await.unwrap();
        kept.keep(&job("b")).await.unwrap();
        kept.note_stage(&job("a").key, &stage);
        let ended = Ended { failure_reason: Some("script_failure".to_owned()), exit_code: Some(3) };
        kept.note_end(&job("a").key, &ended);
        kept.forget(&job("b").key);
        kept.note_stage(&job("b").key, &stage);
        drop(kept);
        let found = records(&folder).load().unwrap();
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!((found.key.as_str(), found.name.as_str()), ("a", "7-a"));
        assert_eq!(found.credentials.token, Secret::new("glcbt-64_secret"));
        assert_eq!((found.stage.as_ref(), found.ended.as_ref()), (Some(&stage), Some(&ended)));
    }

    #[tokio::test]
    async fn without_state_storage_nothing_is_kept() {
        let kept = JobRecords::default();
        kept.keep(&job("a")).await.unwrap();
        assert!(kept.load().unwrap().is_empty());
    }
}
