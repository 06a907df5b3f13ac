//! What jobs left on instances that stay, and nobody could take away: the instance could not be reached when they
//! ended.
//!
//! A cloud destroys such an instance, with all that runs on it. A static host is only put aside, and comes back with
//! the script of the lost job still running; and a local instance that is gone leaves its containers on this machine's
//! engine. So the job is remembered, over restarts too, and what is left of it is ended before that host, or the next
//! instance on that engine, counts as ready: no job runs beside the remains of another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::executors::{Executor, FormerJob};
use crate::fleeting::access::InstanceAccess;
use crate::ids::{InstanceId, JobId};
use crate::journal::{Change, JournalError, Section};

const KIND: &str = "remains";

/// Remembered of one instance. More are the oldest's loss: a host that fails this often is looked at by then.
const MOST: usize = 100;

/// How often an instance that answers may fail to end the same job's remains. It must not be kept from service for
/// good by, say, a container that its engine cannot remove.
const TRIES: u32 = 3;

/// The jobs of one runner that left something. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Remains(Option<Arc<Kept>>);

#[derive(Debug)]
struct Kept {
    section: Option<Section>,
    through: Through,
    left: Mutex<BTreeMap<InstanceId, Vec<Left>>>,
}

/// Where what a job left can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// It is on that instance, which comes back.
    ItsInstance,
    /// It is on an engine that all instances of the group use.
    AnyInstance,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Left {
    instance: InstanceId,
    job: JobId,
    /// As the executor knows the job.
    name: String,
    /// The executor's name in the configuration.
    executor: String,
    /// How often it could not be ended.
    #[serde(skip)]
    failures: u32,
}

impl Left {
    fn key(&self) -> String {
        format!("{}/{}", self.name, self.instance)
    }
}

impl Remains {
    /// Of a runner whose instances or engine stay; kept in `section`, where there is one.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub fn load(section: Option<Section>, through: Through) -> Result<Self, JournalError> {
        let kept: Vec<Left> = section.as_ref().map_or(Ok(Vec::new()), |section| section.load(KIND))?;
        let mut left: BTreeMap<InstanceId, Vec<Left>> = BTreeMap::new();
        for one in kept {
            left.entry(one.instance.clone()).or_default().push(one);
        }
        Ok(Self(Some(Arc::new(Kept { section, through, left: Mutex::new(left) }))))
    }

    /// Of a runner whose provider destroys instances: nothing is kept.
    pub fn none() -> Self {
        Self::default()
    }

    /// Remembers a job that may have left something on an instance. Twice is once.
    pub fn note(&self, instance: &InstanceId, job: JobId, name: &str, executor: &str) {
        let Some(kept) = &self.0 else { return };
        let (name, executor) = (name.to_owned(), executor.to_owned());
        let one = Left { instance: instance.clone(), job, name, executor, failures: 0 };
        let mut left = kept.left();
        let of_instance = left.entry(instance.clone()).or_default();
        if of_instance.iter().any(|known| known.name == one.name) {
            return;
        }
        kept.write(Change::put(KIND, one.key(), &one));
        of_instance.push(one);
        while of_instance.len() > MOST {
            kept.write(Ok(Change::remove(KIND, of_instance.remove(0).key())));
        }
    }

    /// Ends everything that is known to be left where an instance that answers can end it.
    ///
    /// # Errors
    /// Something could not be ended; it is tried again when the instance is ready the next time.
    pub async fn end(
        &self,
        instance: Arc<dyn InstanceAccess>,
        executor: &Executor,
        system_id: &str,
    ) -> Result<(), String> {
        let Some(kept) = &self.0 else { return Ok(()) };
        let left = kept.within_reach_of(instance.id());
        let ended = join_all(left.into_iter().map(|one| {
            let instance = instance.clone();
            async move {
                let result = end_one(&one, instance, executor, system_id).await;
                kept.tried(&one, result)
            }
        }));
        ended.await.into_iter().collect()
    }
}

async fn end_one(
    left: &Left,
    instance: Arc<dyn InstanceAccess>,
    executor: &Executor,
    system_id: &str,
) -> Result<(), String> {
    if left.executor != executor.name() {
        return Err(format!("job {} ran with the executor {}", left.job, left.executor));
    }
    let job = FormerJob { id: left.job, name: left.name.clone(), system_id: system_id.to_owned() };
    executor.end_former(instance, job).await.map_err(|fault| fault.message)
}

impl Kept {
    fn left(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Vec<Left>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn within_reach_of(&self, instance: &InstanceId) -> Vec<Left> {
        let left = self.left();
        match self.through {
            Through::ItsInstance => left.get(instance).cloned().unwrap_or_default(),
            Through::AnyInstance => left.values().flatten().cloned().collect(),
        }
    }

    fn write(&self, change: Result<Change, JournalError>) {
        let Some(section) = &self.section else { return };
        match change {
            Ok(change) => section.write_soon(change),
            Err(fault) => warn!(error = %fault, "what a job left cannot be written down"),
        }
    }

    /// Notes what came of a try.
    fn tried(&self, one: &Left, result: Result<(), String>) -> Result<(), String> {
        let (job, instance) = (one.job, &one.instance);
        let Err(fault) = result else {
            info!(%job, %instance, "what a job had left was ended");
            self.forget(one);
            return Ok(());
        };
        let failures = self.failed(one);
        if failures < TRIES {
            warn!(%job, %instance, error = fault, failures, "what a job left could not be ended: the instance takes no job");
            return Err(format!("what job {job} left: {fault}"));
        }
        error!(%job, %instance, error = fault, failures, name = one.name, "what a job left could not be ended and is given up: end it by hand");
        self.forget(one);
        Ok(())
    }

    fn failed(&self, one: &Left) -> u32 {
        let mut left = self.left();
        let of_instance = left.get_mut(&one.instance);
        let known = of_instance.and_then(|left| left.iter_mut().find(|known| known.name == one.name));
        known.map_or(TRIES, |known| {
            known.failures += 1;
            known.failures
        })
    }

    fn forget(&self, one: &Left) {
        let mut left = self.left();
        if let Some(of_instance) = left.get_mut(&one.instance) {
            of_instance.retain(|known| known.name != one.name);
            if of_instance.is_empty() {
                left.remove(&one.instance);
            }
        }
        self.write(Ok(Change::remove(KIND, one.key())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    fn open(folder: &tempfile::TempDir) -> Remains {
        let journal = Journal::open(&folder.path().join("journal.redb")).unwrap();
        Remains::load(Some(journal.section("jobs")), Through::ItsInstance).unwrap()
    }

    fn on(remains: &Remains, instance: &str) -> Vec<Left> {
        remains.0.as_ref().unwrap().left().get(&InstanceId::new(instance)).cloned().unwrap_or_default()
    }

    fn tried(remains: &Remains, one: &Left, result: Result<(), &str>) -> Result<(), String> {
        remains.0.as_ref().unwrap().tried(one, result.map_err(str::to_owned))
    }

    #[tokio::test]
    async fn what_was_left_is_known_to_the_next_manager_until_it_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (host, other) = (InstanceId::new("host"), InstanceId::new("other"));
        let remains = open(&folder);
        for (instance, job) in [(&host, 1), (&host, 2), (&host, 1), (&other, 3)] {
            remains.note(instance, JobId(job), &format!("{job}-x"), "instance");
        }
        assert_eq!(on(&remains, "host").len(), 2);
        tried(&remains, &on(&remains, "host")[0].clone(), Ok(())).unwrap();
        drop(remains);
        let again = open(&folder);
        assert_eq!(on(&again, "host").iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), ["2-x"]);
        assert_eq!(on(&again, "other").len(), 1);
    }

    #[test]
    fn an_instance_takes_no_job_until_the_remains_are_ended_or_given_up() {
        let remains = Remains::load(None, Through::ItsInstance).unwrap();
        remains.note(&InstanceId::new("host"), JobId(7), "7-x", "instance");
        let one = on(&remains, "host")[0].clone();
        for _ in 1..TRIES {
            assert_eq!(tried(&remains, &one, Err("busy")).unwrap_err(), "what job 7 left: busy");
        }
        tried(&remains, &one, Err("busy")).unwrap();
        assert!(on(&remains, "host").is_empty());
    }

    #[test]
    fn what_is_on_a_shared_engine_is_ended_through_any_instance() {
        for (through, names) in [(Through::ItsInstance, vec![]), (Through::AnyInstance, vec!["7-x"])] {
            let remains = Remains::load(None, through).unwrap();
            remains.note(&InstanceId::new("gone"), JobId(7), "7-x", "docker-autoscaler");
            let within_reach = remains.0.as_ref().unwrap().within_reach_of(&InstanceId::new("next"));
            assert_eq!(within_reach.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn no_more_is_remembered_of_an_instance_than_its_limit() {
        let remains = Remains::load(None, Through::ItsInstance).unwrap();
        for (job, _) in (0..).zip(0..=MOST) {
            remains.note(&InstanceId::new("host"), JobId(job), &format!("{job}-x"), "instance");
        }
        let left = on(&remains, "host");
        assert_eq!((left.len(), left[0].job), (MOST, JobId(1)));
    }
}
