//! Who may dial an instance, and when: a few handshakes at once, one back-off for all.
//!
//! sshd's default `MaxStartups 10:30:100` begins to drop connections when ten handshakes are under way, so at
//! most [`HANDSHAKES`] of ours are. A failed attempt makes everybody wait who dials the same instance; the
//! first success ends the wait. How to reach the instance is asked once and again when the answer has expired
//! or did not work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::DialError;

use super::ssh::Connection;
use crate::backoff::Backoff;
use crate::config::resolved::Protocol;
use crate::fleeting::access::Settings;
use crate::fleeting::group::{ConnectInfo, GroupError, InstanceGroup, Operation};
use crate::fleeting::host_keys::HostKeys;
use crate::ids::InstanceId;
use crate::time;

/// Handshakes with one instance at once; two managers together stay below the ten of `MaxStartups`.
const HANDSHAKES: usize = 4;

/// How long a provider may take to say how an instance is reached.
const INFO_WITHIN: Duration = Duration::from_secs(60);

/// Between attempts. The longest is short, so that an instance is found soon after it has booted.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Dials one instance.
#[derive(Debug)]
pub(super) struct Dialer {
    id: InstanceId,
    group: Arc<dyn InstanceGroup>,
    host_keys: HostKeys,
    handshakes: Semaphore,
    state: Mutex<State>,
    /// A login that worked once is not refused for want of time to boot.
    was_in: AtomicBool,
    /// Ends everything, connections too.
    gone: CancellationToken,
    /// Nobody holds the instance any more.
    unused: CancellationToken,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    info: Option<Arc<ConnectInfo>>,
    pause: Pause,
}

/// The back-off that all share.
#[derive(Debug)]
struct Pause {
    backoff: Backoff,
    until: Option<Instant>,
    /// When `until` was set: attempts that began before fail for the same reason and do not lengthen it.
    set_at: Option<Instant>,
}

impl Pause {
    fn new() -> Self {
        Self { backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), until: None, set_at: None }
    }

    fn failed(&mut self, began: Instant, now: Instant) {
        if self.set_at.is_none_or(|set_at| set_at <= began) {
            self.set_at = Some(now);
            self.until = Some(now + self.backoff.next_wait());
        }
    }
}

impl Dialer {
    pub(super) fn new(
        id: InstanceId,
        group: Arc<dyn InstanceGroup>,
        settings: Settings,
        host_keys: HostKeys,
        gone: CancellationToken,
        unused: CancellationToken,
    ) -> Self {
        Self {
            id,
            group,
            host_keys,
            handshakes: Semaphore::new(HANDSHAKES),
            state: Mutex::new(State { settings, info: None, pause: Pause::new() }),
            was_in: AtomicBool::new(false),
            gone,
            unused,
        }
    }

    pub(super) fn settings(&self) -> Settings {
        self.state().settings
    }

    /// The next dial uses these, and asks anew how to reach the instance. Connections stay as they are.
    pub(super) fn reconfigure(&self, settings: Settings) {
        let mut state = self.state();
        state.settings = settings;
        state.info = None;
    }

    /// Dials until it works, fails for good, or `patience` is over.
    pub(super) async fn dial(&self, patience: Duration) -> Result<Arc<Connection>, DialError> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(DialError::Gone { id: self.id.clone() }),
            () = self.unused.cancelled() => Err(DialError::Gone { id: self.id.clone() }),
            dialed = self.dial_with_retries(patience) => dialed,
        }
    }

    /// What is known about reaching the instance, asked for where it is not known or not valid any more.
    pub(super) async fn info(&self) -> Result<Arc<ConnectInfo>, DialError> {
        let known = self.state().info.clone();
        if let Some(info) = known
            && info.expires.is_none_or(|expires| time::now().utc < expires)
        {
            return Ok(info);
        }
        let asked = tokio::time::timeout(INFO_WITHIN, self.group.connect_info(&self.id)).await;
        let silent = |_| GroupError::failed(Operation::ConnectInfo, format!("no answer in {INFO_WITHIN:?}"));
        let info = asked.unwrap_or_else(|elapsed| Err(silent(elapsed)));
        let info = Arc::new(info.map_err(|error| DialError::ConnectInfo(Arc::new(error)))?);
        self.state().info = Some(Arc::clone(&info));
        Ok(info)
    }

    async fn dial_with_retries(&self, patience: Duration) -> Result<Arc<Connection>, DialError> {
        let started = time::now().instant;
        let mut attempts = 0;
        loop {
            let _handshake = self.handshakes.acquire().await;
            self.wait_for_pause().await;
            let began = time::now().instant;
            attempts += 1;
            let error = match self.attempt().await {
                Ok(connection) => {
                    self.state().pause = Pause::new();
                    self.was_in.store(true, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => error,
            };
            let now = time::now().instant;
            let during = now.duration_since(started);
            let resume = {
                let mut state = self.state();
                state.info = None;
                state.pause.failed(began, now);
                state.pause.until.unwrap_or(now)
            };
            if !self.is_worth_retrying(&error) {
                return Err(error);
            }
            if resume.duration_since(started) >= patience {
                return Err(DialError::GaveUp { attempts, during, last: Box::new(error) });
            }
        }
    }

    async fn attempt(&self) -> Result<Arc<Connection>, DialError> {
        let info = self.info().await?;
        let protocol = match info.protocol {
            Protocol::Ssh => None,
            Protocol::WinRmHttp => Some("winrm+http"),
            Protocol::WinRmHttps => Some("winrm+https"),
        };
        if let Some(protocol) = protocol {
            return Err(DialError::Protocol { id: self.id.clone(), protocol });
        }
        let settings = self.settings();
        let address = settings.address_of(&info).ok_or_else(|| DialError::NoAddress { id: self.id.clone() })?;
        Connection::connect(&info, address, settings.keepalive, &self.host_keys, &self.gone).await
    }

    fn is_worth_retrying(&self, error: &DialError) -> bool {
        let refused_a_known_login =
            matches!(error, DialError::LoginRefused { .. }) && self.was_in.load(Ordering::Relaxed);
        error.is_retryable() && !refused_a_known_login
    }

    async fn wait_for_pause(&self) {
        loop {
            let until = self.state().pause.until;
            match until {
                Some(until) if until > time::now().instant => tokio::time::sleep_until(until.into()).await,
                Some(_) | None => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_together_lengthen_the_pause_once() {
        let start = time::now().instant;
        let mut pause = Pause::new();
        pause.failed(start, start + Duration::from_millis(10));
        let first = pause.until;
        pause.failed(start, start + Duration::from_millis(12));
        assert_eq!(pause.until, first);
        let later = start + Duration::from_secs(1);
        pause.failed(later, later);
        assert!(pause.until > first);
    }
}
