//! Connections that commands share: several to one instance, a few sessions on each.
//!
//! sshd takes ten sessions on a connection (`MaxSessions`); we use [`SESSIONS_PER_CONNECTION`], because one whose
//! channel we closed lives on while its process does. Who finds no room waits in line, and as many connections
//! are dialed as the line needs. A connection on which the server refused a session is not asked for as many
//! for a while: it may allow fewer, or some may be slow to end. The mutex is held for moments only and never across an await.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::channel::ByteStream;
use super::dialer::Dialer;
use super::error::{DialError, ExecError};
use super::ssh::{Connection, Open, OpenError};
use crate::time;

/// Commands on one connection at once (issue: connections).
pub(super) const SESSIONS_PER_CONNECTION: usize = 8;

/// A spare connection is closed when it was idle for this long.
const IDLE: Duration = Duration::from_secs(60);

/// Commands on one connection before it is replaced: russh keeps a few kilobytes of each channel that our side closed.
const SERVICE: usize = 1000;

/// How long a refusal limits a connection.
const LIMITED: Duration = Duration::from_secs(10);

/// Connections that take no session at all before we give up on one command.
const REFUSALS: usize = 3;

/// Connections that are found dead before we give up on one command.
const LOSSES: usize = 2;

/// The pool of one instance. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Arc<Dialer>,
    max_connections: usize,
    tasks: TaskTracker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    waiting: VecDeque<Waiter>,
    dialing: usize,
}

#[derive(Debug)]
struct Member {
    connection: Arc<Connection>,
    busy: usize,
    limit: usize,
    limited_at: Option<Instant>,
    /// Places given so far.
    served: usize,
    idle_since: Instant,
}

impl Member {
    fn new(connection: Arc<Connection>, now: Instant) -> Self {
        Self { connection, busy: 0, limit: SESSIONS_PER_CONNECTION, limited_at: None, served: 0, idle_since: now }
    }

    /// Whether it may be given to anybody, now or when others have done.
    fn is_of_use(&self) -> bool {
        !self.connection.is_lost() && self.limit > 0 && self.served < SERVICE
    }
}

#[derive(Debug)]
struct Waiter {
    patience: Duration,
    answer: oneshot::Sender<Result<Slot, DialError>>,
}

/// A place for one session; dropped when the session is over.
#[derive(Debug)]
struct Slot {
    pool: Arc<Inner>,
    connection: Arc<Connection>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.release(&self.connection);
    }
}

/// A dial under way. However it ends, those who wait hear of it.
struct Dialing {
    pool: Arc<Inner>,
    dialed: Result<Arc<Connection>, DialError>,
}

impl Dialing {
    fn end_with(&mut self, dialed: Result<Arc<Connection>, DialError>) {
        self.dialed = dialed;
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.pool.dialed(std::mem::replace(&mut self.dialed, Err(DialError::Abandoned)));
    }
}

impl Pool {
    pub(super) fn new(dialer: Arc<Dialer>, max_connections: usize) -> Self {
        let state = Mutex::new(State::default());
        Self(Arc::new(Inner { dialer, max_connections, tasks: TaskTracker::new(), state }))
    }

    /// Opens a channel on a connection with room, dialing for at most `patience` where there is none.
    pub(super) async fn open(&self, open: Open, patience: Duration) -> Result<ByteStream, ExecError> {
        let (mut refusals, mut losses) = (0, 0);
        loop {
            let slot = self.slot(patience).await?;
            let connection = Arc::clone(&slot.connection);
            match connection.open(open.clone(), slot).await {
                Ok(stream) => return Ok(stream),
                Err((OpenError::Refused, slot)) => {
                    let carries_others = self.0.refused(&connection);
                    drop(slot);
                    if !carries_others {
                        refusals += 1;
                    }
                    if refusals == REFUSALS {
                        return Err(ExecError::Refused);
                    }
                }
                // An idle connection whose end nobody had noticed. The command was not started.
                Err((OpenError::Lost { .. }, _)) if losses < LOSSES => losses += 1,
                Err((error @ OpenError::Lost { .. }, _)) => return Err(error.into()),
            }
        }
    }

    /// A connection of the pool, for what needs no session.
    pub(super) async fn connection(&self, patience: Duration) -> Result<Arc<Connection>, DialError> {
        Ok(Arc::clone(&self.slot(patience).await?.connection))
    }

    /// How many connections are open.
    pub(super) fn connections(&self) -> usize {
        self.0.state().members.iter().filter(|member| !member.connection.is_lost()).count()
    }

    /// How many places are taken.
    pub(super) fn busy(&self) -> usize {
        self.0.state().members.iter().map(|member| member.busy).sum()
    }

    #[cfg(test)]
    pub(super) fn wear_out(&self) {
        self.0.state().members.iter_mut().for_each(|member| member.served = SERVICE);
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self) {
        self.0.state().sweep(time::now().instant);
    }

    async fn slot(&self, patience: Duration) -> Result<Slot, DialError> {
        let answer = {
            let mut state = self.0.state();
            state.sweep(time::now().instant);
            if let Some(connection) = state.take() {
                return Ok(Slot { pool: Arc::clone(&self.0), connection });
            }
            let (answer, answered) = oneshot::channel();
            state.waiting.push_back(Waiter { patience, answer });
            answered
        };
        self.0.dial_for_those_who_wait();
        answer.await.unwrap_or(Err(DialError::Abandoned))
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts as many dials as those who wait need.
    fn dial_for_those_who_wait(self: &Arc<Self>) {
        loop {
            let patience = {
                let mut state = self.state();
                state.waiting.retain(|waiter| !waiter.answer.is_closed());
                let needed = state.waiting.len().div_ceil(SESSIONS_PER_CONNECTION);
                let of_use = state.members.iter().filter(|member| member.is_of_use()).count();
                let room = self.max_connections.saturating_sub(of_use);
                if state.dialing >= needed.min(room) {
                    return;
                }
                state.dialing += 1;
                state.waiting.iter().map(|waiter| waiter.patience).max().unwrap_or_default()
            };
            let mut dialing = Dialing { pool: Arc::clone(self), dialed: Err(DialError::Abandoned) };
            self.tasks.spawn(async move {
                let dialed = dialing.pool.dialer.dial(patience).await;
                dialing.end_with(dialed);
            });
        }
    }

    fn dialed(self: &Arc<Self>, dialed: Result<Arc<Connection>, DialError>) {
        let failed = {
            let mut state = self.state();
            state.dialing -= 1;
            match dialed {
                Ok(connection) => {
                    state.members.push(Member::new(connection, time::now().instant));
                    None
                }
                // Another dial may still succeed for those who wait.
                Err(_) if state.dialing > 0 => None,
                Err(error) => Some((std::mem::take(&mut state.waiting), error)),
            }
        };
        if let Some((waiting, error)) = failed {
            for waiter in waiting {
                drop(waiter.answer.send(Err(error.clone())));
            }
        }
        self.serve();
    }

    /// Gives free places to those who wait, first come first served.
    fn serve(self: &Arc<Self>) {
        loop {
            let (waiter, connection) = {
                let mut state = self.state();
                state.waiting.retain(|waiter| !waiter.answer.is_closed());
                if state.waiting.is_empty() {
                    return;
                }
                let Some(connection) = state.take() else { break };
                let Some(waiter) = state.waiting.pop_front() else { return };
                (waiter, connection)
            };
            // One who has gone in this moment gives the place back by dropping it.
            drop(waiter.answer.send(Ok(Slot { pool: Arc::clone(self), connection })));
        }
        self.dial_for_those_who_wait();
    }

    fn release(self: &Arc<Self>, connection: &Arc<Connection>) {
        {
            let mut state = self.state();
            let now = time::now().instant;
            if let Some(member) = state.member(connection) {
                member.busy -= 1;
                member.idle_since = now;
            }
            state.sweep(now);
        }
        self.serve();
    }

    /// The server took no further session on this connection; says whether it carries any. The refused place is not
    /// given back yet.
    fn refused(&self, connection: &Arc<Connection>) -> bool {
        let mut state = self.state();
        let Some(member) = state.member(connection) else { return false };
        member.limit = member.limit.min(member.busy.saturating_sub(1));
        member.limited_at = Some(time::now().instant);
        member.limit > 0
    }
}

impl State {
    fn member(&mut self, connection: &Arc<Connection>) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| Arc::ptr_eq(&member.connection, connection))
    }

    /// A place on the fullest connection that has one, so that others fall idle.
    fn take(&mut self) -> Option<Arc<Connection>> {
        let open = self.members.iter_mut().filter(|member| member.is_of_use() && member.busy < member.limit);
        let member = open.max_by_key(|member| member.busy)?;
        member.busy += 1;
        member.served += 1;
        Some(Arc::clone(&member.connection))
    }

    /// Forgets connections that are lost or can take nothing, and spare ones that were idle for long.
    fn sweep(&mut self, now: Instant) {
        self.members.retain(|member| member.is_of_use() || (!member.connection.is_lost() && member.busy > 0));
        for member in &mut self.members {
            if member.limited_at.is_some_and(|limited_at| now.duration_since(limited_at) >= LIMITED) {
                (member.limit, member.limited_at) = (SESSIONS_PER_CONNECTION, None);
            }
        }
        let mut open = self.members.len();
        self.members.retain(|member| {
            let spare = open > 1 && member.busy == 0 && now.duration_since(member.idle_since) >= IDLE;
            open -= usize::from(spare);
            !spare
        });
    }
}
