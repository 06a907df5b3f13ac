//! Running one stage through agents: start it behind its fence, follow it, survive lost streams.
//!
//! ```text
//!   open a session ──► Start + Follow ──► output … ──► Exited ──► exit
//!        ▲                                   │
//!        └──── stream lost: within budget ───┘  (Follow from the next byte; Start only if unconfirmed)
//! ```
//!
//! Both executors differ only in how a session is opened ([`AgentDialer`]). Nothing here chooses what
//! a result means for the job.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::JobTrace;
use crate::backoff::Backoff;
use crate::detached::records::{Decoder, Position};
use crate::detached::session::{Event, Session, SessionError};
use crate::detached::wire::{Answer, Request, Start, WireError};
use crate::detached::{Exit, StageFolder};
use crate::error_chain::Chain;
use crate::fleeting::access::AccessError;
use crate::job::failure::{FailureReason, Fault, FaultClass};
use crate::time;

/// How long a lost stream may take to come back, counted from the moment the loss is noticed.
pub const RECONNECT_BUDGET: Duration = Duration::from_secs(15);

/// How much longer the try may take that is under way then: an instance that answers in the last second of the
/// budget is back in time. The connector gives up a connection that is not there within as long.
const LAST_TRY: Duration = Duration::from_secs(2);

/// How long processes have between TERM and KILL.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long after KILL the stage's end may take to reach us.
const STOP_SLACK: Duration = Duration::from_secs(15);

/// How much output is delivered before its room on the instance's disk is given back: a script that prints without
/// end must not fill the disk, while its trace was cut long ago.
const RELEASE_EVERY: u64 = 4 << 20;

/// Waits between tries to open a session, and before one in place of a session that brought nothing.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Opens sessions with agents in one job's environment.
pub trait AgentDialer: Send + Sync {
    /// Opens a session. What is said before the agent's first bytes, such as by a login shell, is no output of
    /// the job.
    fn open(&self) -> BoxFuture<'_, Result<Session, OpenError>>;

    /// A fault that speaks against the machine, by what an agent said or did not do. Who plays the agent may be a job,
    /// so the machine itself is asked: where it is well, the fault is the job's alone.
    fn judge(&self, fault: Fault) -> BoxFuture<'_, Fault> {
        Box::pin(std::future::ready(fault))
    }
}

/// The same fault of a job whose machine is well.
pub fn of_the_job(fault: Fault) -> Fault {
    of_stage(fault.message)
}

/// Why there is no session.
#[derive(Debug)]
pub enum OpenError {
    /// Another try may succeed.
    Retry(Fault),
    /// The environment is gone or refuses us.
    Final(Fault),
}

impl OpenError {
    /// What it means for the job when there is no other try.
    pub fn into_fault(self) -> Fault {
        match self {
            Self::Retry(fault) | Self::Final(fault) => fault,
        }
    }
}

impl From<AccessError> for OpenError {
    fn from(error: AccessError) -> Self {
        let fault = Fault::unclassified(Chain(&error).to_string());
        if error.is_retryable() { Self::Retry(fault) } else { Self::Final(fault) }
    }
}

/// Why a job's folder was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no connection")]
    NoSession,
    #[error("asking the agent")]
    Session(#[from] SessionError),
    /// In the agent's words.
    #[error("{0}")]
    Refused(String),
}

/// The stream to the agents of one environment, kept between stages and replaced when it is lost.
pub struct AgentLink<D> {
    dialer: D,
    session: Option<Session>,
    budget: Duration,
}

impl<D> std::fmt::Debug for AgentLink<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentLink").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What to do with a stage.
#[derive(Debug)]
pub enum Task {
    /// Start it, then follow it. The number in `Start` is filled in here.
    Start(Start),
    /// It was started before; go on after what was delivered.
    Resume(StageFolder, Position),
}

impl Task {
    fn folder(&self) -> &StageFolder {
        match self {
            Self::Start(start) => &start.folder,
            Self::Resume(folder, _) => folder,
        }
    }
}

impl<D: AgentDialer> AgentLink<D> {
    /// `session` is one that was opened already, such as the attached streams of a new container.
    pub fn new(dialer: D, session: Option<Session>, budget: Duration) -> Self {
        Self { dialer, session, budget }
    }

    pub fn dialer(&self) -> &D {
        &self.dialer
    }

    /// Puts back a session that [`AgentLink::session`] gave.
    pub fn give_back(&mut self, session: Session) {
        self.session = Some(session);
    }

    /// The session has turned out to be dead.
    pub fn forget_session(&mut self) {
        self.session = None;
    }

    /// The open session, for another job to use.
    pub fn into_session(self) -> Option<Session> {
        self.session
    }

    /// Runs a stage to its end. Cancelling `cancel` ends its processes; the result is then how they ended.
    ///
    /// # Errors
    /// The stage has no exit status: the stream did not come back in time, the environment is gone, or
    /// the shell could not be started.
    pub async fn run(
        &mut self,
        task: Task,
        sink: &dyn JobTrace,
        cancel: &CancellationToken,
        progress: &mut (dyn FnMut(Position) + Send),
    ) -> Result<Exit, Fault> {
        let position = match &task {
            Task::Start(_) => Position::default(),
            Task::Resume(_, position) => *position,
        };
        let mut run = Run {
            confirmed: matches!(task, Task::Resume(..)),
            offered: false,
            task,
            decoder: Decoder::new(position),
            sink,
            cancel,
            progress,
            give_up_at: None,
            released: position.record,
        };
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let before = (run.decoder.position(), run.confirmed);
            let mut session = self.session().await?;
            match run.with(&mut session).await {
                Ok(result) => {
                    self.session = Some(session);
                    return match result {
                        Err(fault) if fault.class == FaultClass::Unclassified => Err(self.dialer.judge(fault).await),
                        result => result,
                    };
                }
                Err(error) => {
                    // It may quote what the job's image printed in place of an agent.
                    let error = sink.masked(&Chain(&error).to_string());
                    tracing::info!(stage = %run.task.folder(), error, "stream to the stage lost");
                }
            }
            // What fails in the same way again and again must not keep the instance busy.
            if (run.decoder.position(), run.confirmed) == before {
                sleep(backoff.next_wait()).await;
            } else {
                backoff.reset();
            }
        }
    }

    /// Deletes a job's folder, with what still runs in it.
    ///
    /// # Errors
    /// There is no session, nobody answered, or the agent could not.
    pub async fn remove(&mut self, job: &str) -> Result<(), RemoveError> {
        let Some(session) = &mut self.session else { return Err(RemoveError::NoSession) };
        let id = session.next_id();
        session.send(&[Request::Remove { id, job: job.to_owned() }]).await?;
        loop {
            match session.next().await? {
                Event::Answer(Answer::Removed { id: removed }) if removed == id => return Ok(()),
                Event::Answer(Answer::Lost { id: of, reason, .. }) if of == id => {
                    return Err(RemoveError::Refused(reason));
                }
                Event::Answer(_) | Event::Output { .. } => {}
            }
        }
    }

    /// The open session, or a new one within the budget.
    ///
    /// # Errors
    /// There is none in time, or the environment is gone.
    pub async fn session(&mut self) -> Result<Session, Fault> {
        if let Some(session) = self.session.take() {
            return Ok(session);
        }
        let deadline = tokio::time::Instant::from_std(time::now().instant + self.budget);
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut last = Fault::unclassified("the connection was lost and did not come back in time");
        loop {
            match timeout_at(deadline + LAST_TRY, self.dialer.open()).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(OpenError::Final(fault))) => return Err(fault),
                Ok(Err(OpenError::Retry(fault))) => last = fault,
                Err(_) => return Err(last),
            }
            let wait = backoff.next_wait();
            if tokio::time::Instant::from_std(time::now().instant + wait) >= deadline {
                return Err(last);
            }
            sleep(wait).await;
        }
    }
}

/// One stage on its way, across sessions.
struct Run<'a> {
    task: Task,
    /// `Start` was sent at least once.
    offered: bool,
    /// An agent has said that the stage runs.
    confirmed: bool,
    decoder: Decoder,
    sink: &'a dyn JobTrace,
    cancel: &'a CancellationToken,
    progress: &'a mut (dyn FnMut(Position) + Send),
    /// After a cancel: when we stop waiting for the end.
    give_up_at: Option<tokio::time::Instant>,
    /// How much of the output the agent was told nobody needs any more.
    released: u64,
}

impl Run<'_> {
    /// Goes on over this session. An error is the session's; the result in it is the stage's.
    async fn with(&mut self, session: &mut Session) -> Result<Result<Exit, Fault>, SessionError> {
        let id = session.next_id();
        let folder = self.task.folder().clone();
        let offered_before = self.offered;
        let follow = Request::Follow { id, folder: folder.clone(), from: self.decoder.position() };
        match &mut self.task {
            Task::Start(start) if !self.confirmed => {
                start.id = id;
                match session.send(&[Request::Start(start.clone()), follow]).await {
                    // Nothing was sent, and no other session would fare better.
                    Err(SessionError::Wire(error)) => return Ok(Err(cannot_be_sent(&error))),
                    sent => {
                        self.offered = true;
                        sent?;
                    }
                }
            }
            Task::Start(_) | Task::Resume(..) => session.send(&[follow]).await?,
        }
        let mut asked_to_stop = false;
        loop {
            let event = tokio::select! {
                event = session.next() => event?,
                () = self.cancel.cancelled(), if !asked_to_stop => {
                    asked_to_stop = true;
                    let limit = time::now().instant + STOP_GRACE + STOP_SLACK;
                    self.give_up_at.get_or_insert_with(|| tokio::time::Instant::from_std(limit));
                    session.send(&[Request::Stop { folder: folder.clone(), grace_ms: millis(STOP_GRACE) }]).await?;
                    continue;
                }
                () = until(self.give_up_at) => {
                    return Ok(Err(Fault::unclassified("the stage's processes did not end in time")));
                }
            };
            if let Some(result) = self.take(event, id, offered_before) {
                return Ok(result);
            }
            self.release(session).await?;
        }
    }

    /// Gives back the room of what is delivered, up to the record in hand: whoever goes on, over another session or
    /// from a container's files, begins there. A later manager ends what this one leaves, and follows nothing.
    async fn release(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let before = self.decoder.delivered().record;
        if before < self.released + RELEASE_EVERY || !session.hello().releases {
            return Ok(());
        }
        self.released = before;
        session.send(&[Request::Release { folder: self.task.folder().clone(), before }]).await
    }

    fn take(&mut self, event: Event, id: u32, offered_before: bool) -> Option<Result<Exit, Fault>> {
        match event {
            Event::Output { id: of, at, bytes } if of == id => {
                if at != self.decoder.position() {
                    return Some(Err(of_stage("the agent sent output out of order")));
                }
                let sink = self.sink;
                if let Err(damage) = self.decoder.decode(&bytes, |stream, bytes| sink.output(stream, bytes)) {
                    return Some(Err(of_stage(damage.to_string())));
                }
                (self.progress)(self.decoder.delivered());
                None
            }
            Event::Answer(Answer::Started { id: of }) if of == id => {
                self.confirmed = true;
                None
            }
            Event::Answer(Answer::AlreadyStarted { id: of }) if of == id => {
                self.confirmed = true;
                // Ours, if an earlier session may have carried the request; a stranger's otherwise.
                (!offered_before).then(|| Err(of_stage("the stage was started before, by someone else")))
            }
            Event::Answer(Answer::Exited { id: of, exit }) if of == id => Some(Ok(exit)),
            Event::Answer(Answer::Lost { id: of, reason, machine_is_full }) if of == id => {
                Some(Err(if machine_is_full { Fault::unclassified(reason) } else { of_stage(reason) }))
            }
            Event::Output { .. } | Event::Answer(_) => None,
        }
    }
}

/// A stage without an exit status on an instance that answers: nothing speaks against the instance.
fn of_stage(message: impl Into<String>) -> Fault {
    Fault::of(FailureReason::RunnerSystemFailure, message)
}

/// The stage's script with all its variables is more than the agent takes at once.
fn cannot_be_sent(error: &WireError) -> Fault {
    of_stage(format!("the stage's script cannot be sent: {}. Most of it are the job's variables", Chain(error)))
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::BytesMut;
    use tokio::time::timeout;

    use super::*;
    use crate::detached::wire::{self, Hello, MAGIC, PROTOCOL};
    use crate::executors::NoTrace;

    /// Agents that introduce themselves after a while, and say nothing more before their stream ends.
    struct Introductions {
        after: Duration,
        opened: AtomicU32,
    }

    impl Introductions {
        fn new(after: Duration) -> Self {
            Self { after, opened: AtomicU32::new(0) }
        }
    }

    impl AgentDialer for Introductions {
        fn open(&self) -> BoxFuture<'_, Result<Session, OpenError>> {
            Box::pin(async {
                sleep(self.after).await;
                self.opened.fetch_add(1, Ordering::SeqCst);
                let said = std::io::Cursor::new(introduction());
                let session = Session::open(Box::pin(tokio::io::join(said, tokio::io::sink())), &mut |_| ()).await;
                session.map_err(|error| OpenError::Retry(Fault::unclassified(error.to_string())))
            })
        }
    }

    fn introduction() -> BytesMut {
        let mut said = BytesMut::from(&MAGIC[..]);
        let folder = PathBuf::from("/");
        let hello = Hello {
            protocol: PROTOCOL,
            uid: 0,
            gid: 0,
            directory: folder.clone(),
            root: folder.clone(),
            executable: folder,
            shell: None,
            git: false,
            releases: false,
        };
        wire::put_answer(&mut said, &Answer::Hello(hello)).unwrap();
        said
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_bring_nothing_are_not_replaced_without_a_pause() {
        let mut link = AgentLink::new(Introductions::new(Duration::ZERO), None, RECONNECT_BUDGET);
        let task = Task::Resume(StageFolder::new("job", "step_script", 0), Position::default());
        let (cancel, mut progress) = (CancellationToken::new(), |_| ());
        let run = link.run(task, &NoTrace, &cancel, &mut progress);
        assert!(timeout(Duration::from_secs(60), run).await.is_err());
        let opened = link.dialer().opened.load(Ordering::SeqCst);
        assert!((50..150).contains(&opened), "{opened}");
    }

    #[tokio::test(start_paused = true)]
    async fn script_that_no_session_can_carry_fails_the_stage_at_once() {
        let mut link = AgentLink::new(Introductions::new(Duration::ZERO), None, RECONNECT_BUDGET);
        let start = Start {
            id: 0,
            folder: StageFolder::new("job", "step_script", 0),
            shell: Vec::new(),
            script: "x".repeat(wire::MAX_FRAME),
            directory: None,
            umask: None,
            environment: Vec::new(),
        };
        let (cancel, mut progress) = (CancellationToken::new(), |_| ());
        let fault = link.run(Task::Start(start), &NoTrace, &cancel, &mut progress).await.unwrap_err();
        assert_eq!(fault.reason(), FailureReason::RunnerSystemFailure);
        assert!(fault.message.contains("longer than 33554432"), "{}", fault.message);
        assert_eq!(link.dialer().opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn instance_that_answers_in_the_last_second_of_the_budget_is_back_in_time() {
        let check = async |after: Duration| {
            AgentLink::new(Introductions::new(after), None, RECONNECT_BUDGET).session().await.is_ok()
        };
        assert!(check(RECONNECT_BUDGET + LAST_TRY / 2).await);
        assert!(!check(RECONNECT_BUDGET + LAST_TRY * 2).await);
    }

    /// An agent that answers a stage with these bytes, whatever it is asked.
    struct Hostile(Vec<u8>, AtomicU32);

    impl AgentDialer for Hostile {
        fn open(&self) -> BoxFuture<'_, Result<Session, OpenError>> {
            Box::pin(async {
                self.1.fetch_add(1, Ordering::SeqCst);
                let mut said = introduction().to_vec();
                said.extend_from_slice(&self.0);
                let stream = tokio::io::join(std::io::Cursor::new(said), tokio::io::sink());
                let session = Session::open(Box::pin(stream), &mut |_| ()).await;
                session.map_err(|error| OpenError::Retry(Fault::unclassified(error.to_string())))
            })
        }

        fn judge(&self, fault: Fault) -> BoxFuture<'_, Fault> {
            Box::pin(std::future::ready(of_the_job(fault)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agents_word_alone_speaks_against_no_machine() {
        let claim = serde_json::json!({"answer": "lost", "id": 1, "reason": "no space", "machine_is_full": true});
        let fault = attacked(&claim, &secretive()).await.0.unwrap();
        assert_eq!(fault.class, FaultClass::Reason(FailureReason::RunnerSystemFailure), "{fault:?}");
    }

    /// An answer's frame as only a hostile agent writes it.
    fn frame(body: &serde_json::Value) -> Vec<u8> {
        let body = body.to_string();
        let mut frame = u32::try_from(1 + body.len()).unwrap().to_be_bytes().to_vec();
        frame.push(2);
        frame.extend_from_slice(body.as_bytes());
        frame
    }

    /// What comes of a stage whose agent answers so, and the log of it. None where nothing came of it in a minute.
    async fn attacked(answer: &serde_json::Value, sink: &crate::trace::Sink) -> (Option<Fault>, String) {
        let mut link = AgentLink::new(Hostile(frame(answer), AtomicU32::new(0)), None, RECONNECT_BUDGET);
        let task = Task::Resume(StageFolder::new("job", "step_script", 0), Position::default());
        let (cancel, mut progress) = (CancellationToken::new(), |_| ());
        let (log, guard) = crate::logging::captured();
        let run = link.run(task, sink, &cancel, &mut progress);
        let ended = timeout(Duration::from_secs(60), run).await.ok().map(Result::unwrap_err);
        if let Some(fault) = &ended {
            tracing::warn!("Job failed: {}", sink.masked(&fault.message));
        }
        drop(guard);
        (ended, log.text())
    }

    fn secretive() -> crate::trace::Sink {
        let mut masks = crate::trace::Masks::default();
        masks.add_phrase("hunter2hunter2");
        crate::trace::Sink::new(crate::trace::TraceSettings {
            folder: std::env::temp_dir(),
            limit: 1 << 20,
            timestamps: false,
            sections: false,
            masks,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn answer_of_megabytes_is_refused_and_leaves_no_trace_in_the_log() {
        let reason = "x".repeat(31 << 20);
        let (ended, log) =
            attacked(&serde_json::json!({"answer": "lost", "id": 1, "reason": reason}), &secretive()).await;
        assert_eq!(ended, None, "the stream is lost and opened again");
        assert!(log.contains("is longer than"), "{log:.500}");
        assert!(log.lines().all(|line| line.len() < 1_000 && !line.contains("xxx")), "{log:.500}");
    }

    #[tokio::test(start_paused = true)]
    async fn reason_forges_no_line_of_the_log_and_keeps_no_secret() {
        let reason = format!("gone\n2026-12-01 ERROR: forged hunter2hunter2\x1b[2J\u{202e}{}", "y".repeat(40_000));
        let (ended, log) =
            attacked(&serde_json::json!({"answer": "lost", "id": 1, "reason": reason}), &secretive()).await;
        assert!(ended.unwrap().message.len() < 2 * crate::excerpt::LONGEST);
        let [line] = log.lines().collect::<Vec<_>>()[..] else { panic!("not one line: {log}") };
        assert!(line.contains("gone\\n2026-12-01 ERROR: forged [MASKED]\\u{1b}[2J\\u{202e}yyy"), "{line}");
        assert!(line.contains("(cut: it has ") && line.len() < 2 * crate::excerpt::LONGEST, "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn value_that_is_not_expected_is_not_quoted_in_the_log() {
        let (ended, log) =
            attacked(&serde_json::json!({"answer": "started", "id": "hunter2hunter2"}), &secretive()).await;
        assert_eq!(ended, None, "the stream is lost and opened again");
        assert!(log.contains("stream to the stage lost") && log.contains("reading a frame: "), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}
