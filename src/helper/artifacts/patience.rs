//! The attempts of one try: a server that says "not now" is asked again after the wait that it names.
//!
//! The rule is that of every request ([`Attempts`]). Unlike the manager, a command of the helper holds nothing
//! that others need, so it waits as long as it is asked to, such as the minute of a migration, while its own
//! time lasts.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::gitlab::artifacts::PushBack;
use crate::gitlab::retry::{Attempts, Verdict};
use crate::helper::console::{Console, Level};
use crate::helper::run::Failure;
use crate::time;

/// What came of a try.
pub(super) struct Tried<O> {
    pub(super) outcome: O,
    /// How long the server wants to be left alone before the next.
    pub(super) wish: Duration,
}

/// Where attempts wait, and who hears of it.
pub(super) struct Patience<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) console: &'a Console,
    /// The command, for the job's reader.
    pub(super) context: &'static str,
    /// A fresh row of attempts, for each try.
    pub(super) attempts: &'a Attempts,
}

impl Patience<'_> {
    /// Attempts until an answer is final or the time is over. `attempt` is told how much time is left, and
    /// `push_back` tells where its answer was a refusal of the moment.
    ///
    /// # Errors
    /// Those of `attempt`.
    pub(super) fn insist<O>(
        &self,
        limit: Duration,
        push_back: impl Fn(&O) -> Option<PushBack>,
        mut attempt: impl FnMut(Duration) -> Result<O, Failure>,
    ) -> Result<Tried<O>, Failure> {
        let start = time::now().instant;
        let mut attempts = self.attempts.clone();
        loop {
            let outcome = attempt(left(start, limit))?;
            let Some(PushBack { status, wish }) = push_back(&outcome) else {
                return Ok(Tried { outcome, wish: Duration::ZERO });
            };
            match attempts.judge_within(left(start, limit), status, wish, rand::random()) {
                Verdict::Final => return Ok(Tried { outcome, wish: Duration::ZERO }),
                Verdict::FinalWithWish(wish) => return Ok(Tried { outcome, wish }),
                Verdict::TryAgainAfter(wait) => {
                    if wish.is_some() {
                        self.tell(status, wait);
                    }
                    self.wait(wait);
                }
            }
        }
    }

    /// Before the next try or attempt.
    pub(super) fn wait(&self, wait: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(wait).await });
    }

    /// A wait of which nobody knows looks like a command that hangs.
    fn tell(&self, status: u16, wait: Duration) {
        let (status, wait) = (status.to_string(), format!("{}s", wait.as_secs_f32().ceil()));
        let fields = [("context", self.context), ("status", status.as_str()), ("wait", wait.as_str())];
        self.console.line(Level::Warning, "Waiting as the server asks...", &fields);
    }
}

fn left(start: Instant, limit: Duration) -> Duration {
    limit.saturating_sub(time::now().instant.saturating_duration_since(start))
}
