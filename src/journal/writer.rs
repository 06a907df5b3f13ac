//! The one thread that has the store. Changes that come while it syncs wait together and share the next sync.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ledger::{Keyed, Ledger};
use super::{Change, JournalError};
use crate::pulse::{BEAT, Pulse};
use crate::time;

/// How long changes without a waiter may wait for company. A crash may lose them.
const SOON: Duration = Duration::from_millis(20);
/// After a failure they are tried again this much later; whoever waits tries again by himself.
const RETRY: Duration = Duration::from_secs(5);

/// Tells who asked. He may have gone.
type Answer<T> = Box<dyn FnOnce(Result<T, JournalError>) + Send>;
type Sections = BTreeMap<String, usize>;
/// The latest change of each record, by section, kind and key.
type Soon = BTreeMap<(Arc<str>, &'static str, String), Change>;

/// The way to the thread. Dropping it writes what waits and ends the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// Bounded by the number of those who wait, and by the number of records.
#[derive(Default)]
struct Queue {
    asked: Vec<Request>,
    /// What nobody waits for, and when it is due.
    soon: Soon,
    due: Option<Instant>,
    closed: bool,
}

enum Request {
    Commit(Commit),
    Load { section: Arc<str>, kind: &'static str, answer: Answer<Vec<Keyed>> },
    Sections { answer: Answer<Sections> },
}

struct Commit {
    section: Arc<str>,
    changes: Vec<Change>,
    answer: Answer<()>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    pub(super) fn start(ledger: Ledger, pulse: Pulse) -> Result<Self, JournalError> {
        let shared = Arc::new(Shared::default());
        let thread = Thread { shared: shared.clone(), path: ledger.path().to_owned(), ledger: Some(ledger), pulse };
        let started = std::thread::Builder::new().name("journal".to_owned()).spawn(move || thread.run());
        let thread = started.map_err(|source| JournalError::Thread(Arc::new(source)))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) async fn commit(&self, section: &Arc<str>, changes: Vec<Change>) -> Result<(), JournalError> {
        let (sender, done) = oneshot::channel();
        let answer = Box::new(|result| drop(sender.send(result)));
        self.ask(Request::Commit(Commit { section: section.clone(), changes, answer }));
        done.await.unwrap_or(Err(JournalError::Closed))
    }

    pub(super) fn commit_blocking(&self, section: &Arc<str>, changes: Vec<Change>) -> Result<(), JournalError> {
        self.wait(|answer| Request::Commit(Commit { section: section.clone(), changes, answer }))
    }

    pub(super) fn commit_soon(&self, section: &Arc<str>, change: Change) {
        let mut queue = self.shared.queue();
        queue.soon(section.clone(), change);
        if queue.due.is_none() {
            queue.due = Some(time::now().instant + SOON);
            self.shared.filled.notify_one();
        }
    }

    pub(super) fn load(&self, section: &Arc<str>, kind: &'static str) -> Result<Vec<Keyed>, JournalError> {
        self.wait(|answer| Request::Load { section: section.clone(), kind, answer })
    }

    pub(super) fn sections(&self) -> Result<Sections, JournalError> {
        self.wait(|answer| Request::Sections { answer })
    }

    fn wait<T: Send + 'static>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, JournalError> {
        let (sender, done) = mpsc::sync_channel(1);
        self.ask(request(Box::new(move |result| drop(sender.send(result)))));
        done.recv().unwrap_or(Err(JournalError::Closed))
    }

    fn ask(&self, request: Request) {
        self.shared.queue().asked.push(request);
        self.shared.filled.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.filled.notify_one();
        // One that has panicked has nothing more to say.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Queue {
    fn soon(&mut self, section: Arc<str>, change: Change) {
        let record = (section, change.kind, change.key.clone());
        match self.soon.get_mut(&record) {
            Some(waiting) => waiting.follow(change),
            None => drop(self.soon.insert(record, change)),
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self, pulse: &Pulse) -> Option<Queue> {
        let mut queue = self.queue();
        loop {
            pulse.beat("something to write");
            let wait = queue.due.map(|due| due.saturating_duration_since(time::now().instant));
            if queue.closed || !queue.asked.is_empty() || wait.is_some_and(|wait| wait.is_zero()) {
                let taken = std::mem::take(&mut *queue);
                queue.closed = taken.closed;
                let is_end = taken.closed && taken.asked.is_empty() && taken.soon.is_empty();
                return (!is_end).then_some(taken);
            }
            let wait = wait.map_or(BEAT, |wait| wait.min(BEAT));
            queue = self.filled.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

struct Thread {
    shared: Arc<Shared>,
    path: PathBuf,
    /// `None` after a failure: a store that has failed once refuses everything until it is opened again.
    ledger: Option<Ledger>,
    pulse: Pulse,
}

impl Thread {
    fn run(mut self) {
        while let Some(Queue { asked, soon, closed, .. }) = self.shared.next(&self.pulse) {
            self.pulse.beat("the disk");
            let (mut commits, mut reads) = (Vec::new(), Vec::new());
            for request in asked {
                match request {
                    Request::Commit(commit) => commits.push(commit),
                    Request::Load { .. } | Request::Sections { .. } => reads.push(request),
                }
            }
            if !commits.is_empty() || !soon.is_empty() {
                let result = self.write(&soon, &commits);
                if result.is_err() && !closed {
                    self.put_back(soon);
                }
                for commit in commits {
                    (commit.answer)(result.clone());
                }
            }
            for request in reads {
                self.read(request);
            }
        }
    }

    fn write(&mut self, soon: &Soon, commits: &[Commit]) -> Result<(), JournalError> {
        let soon = soon.iter().map(|((section, _, _), change)| (&**section, change));
        let asked = commits.iter().flat_map(|commit| commit.changes.iter().map(|change| (&*commit.section, change)));
        let result = self.ledger()?.apply(soon.chain(asked));
        if result.is_err() {
            self.ledger = None;
        }
        result
    }

    fn read(&mut self, request: Request) {
        let ledger = self.ledger();
        match request {
            Request::Load { section, kind, answer } => answer(ledger.and_then(|ledger| ledger.load(&section, kind))),
            Request::Sections { answer } => answer(ledger.and_then(|ledger| ledger.sections())),
            Request::Commit(_) => {}
        }
    }

    fn ledger(&mut self) -> Result<&mut Ledger, JournalError> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => Ledger::open(&self.path)?,
        };
        Ok(self.ledger.insert(ledger))
    }

    /// What nobody waits for is tried again; what came meanwhile is later.
    fn put_back(&self, soon: Soon) {
        let mut queue = self.shared.queue();
        let later = std::mem::replace(&mut queue.soon, soon);
        for ((section, _, _), change) in later {
            queue.soon(section, change);
        }
        if !queue.soon.is_empty() {
            queue.due = Some(time::now().instant + RETRY);
        }
    }
}
