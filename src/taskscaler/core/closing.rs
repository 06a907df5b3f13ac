//! The end of a fleet: the manager stops, or the runner is gone from the configuration.

use std::time::Duration;

use crate::ids::InstanceId;
use crate::time::Now;

use super::instance::{Deletion, State};
use super::reasons::RemovalReason;
use super::settings::OnShutdown;
use super::timers::Timer;
use super::{Command, Core, Decision, Phase};

/// How the fleet is given up. In either way an instance goes only when it has no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// For as long as the jobs take.
    Drain,
    /// Until the tries are used up.
    Shutdown { interval: Duration, retries_left: u32 },
}

impl Closing {
    fn reason(self) -> RemovalReason {
        match self {
            Self::Drain => RemovalReason::Drained,
            Self::Shutdown { .. } => RemovalReason::Shutdown,
        }
    }
}

impl Core {
    /// The runner is gone from the configuration.
    pub(super) fn drain(&mut self, now: Now) {
        match self.phase {
            Phase::Surveying | Phase::Serving => self.begin_closing(Closing::Drain, now),
            Phase::Starting => self.stop(now),
            Phase::Closing(_) | Phase::Stopped => {}
        }
    }

    /// The manager ends.
    pub(super) fn shut_down(&mut self, now: Now) {
        match (&self.phase, self.settings.on_shutdown) {
            (Phase::Stopped, _) => {}
            (Phase::Starting, _) | (_, OnShutdown::Keep) => {
                self.reject_all_waiting();
                self.stop(now);
            }
            (Phase::Surveying | Phase::Serving | Phase::Closing(_), OnShutdown::Delete { interval, retries }) => {
                self.begin_closing(Closing::Shutdown { interval, retries_left: retries }, now);
                self.timers.set(Timer::Shutdown, now.instant + interval);
            }
        }
    }

    /// A round of a shutdown is over: whatever is still there is asked for again, until the tries are used up.
    pub(super) fn shutdown_round(&mut self, now: Now) {
        let Phase::Closing(Closing::Shutdown { interval, retries_left }) = self.phase else { return };
        if retries_left == 0 {
            return self.stop(now);
        }
        self.phase = Phase::Closing(Closing::Shutdown { interval, retries_left: retries_left - 1 });
        self.timers.set(Timer::Shutdown, now.instant + interval);
        for id in self.owned(|state| matches!(state, State::Leaving(leaving) if leaving.deletion != Deletion::InFlight))
        {
            self.set_deletion(&id, Deletion::Due(now.instant));
        }
        self.list(now);
    }

    /// The pass while the fleet is given up.
    pub(super) fn close(&mut self, now: Now) {
        let Phase::Closing(closing) = self.phase else { return };
        let serving = |state: &State| matches!(state, State::Creating | State::Preparing { .. } | State::Ready);
        for id in self.owned(serving) {
            if self.fleet.get(&id).is_some_and(|it| it.slots.is_empty()) {
                self.mark(&id, closing.reason(), now);
            }
        }
        let left = self.remaining();
        if left == 0 && self.calls.surveyed && !self.calls.increasing {
            self.stop(now);
        }
    }

    fn begin_closing(&mut self, closing: Closing, now: Now) {
        self.phase = Phase::Closing(closing);
        for id in self.owned(|state| *state == State::Ready) {
            self.send_back(&id, now);
        }
        self.reject_all_waiting();
        self.timers.stop(&Timer::Growth);
        self.timers.stop(&Timer::Idle);
    }

    fn stop(&mut self, now: Now) {
        let remaining = self.remaining();
        self.phase = Phase::Stopped;
        self.report(Decision::Stopped { remaining }, now);
        self.commands.push_back(Command::Stop { remaining });
    }

    /// Instances of ours that are there or may yet come.
    fn remaining(&self) -> u32 {
        let tally = self.fleet.tally();
        tally.serving() + tally.leaving + self.creations.expected()
    }

    fn owned(&self, wanted: impl Fn(&State) -> bool) -> Vec<InstanceId> {
        self.fleet.iter().filter(|(_, it)| wanted(&it.state)).map(|(id, _)| id.clone()).collect()
    }
}
