//! How the process stops, as a pure machine over the operator's signals.
//!
//! ```text
//!   Running ──QUIT──▶ Draining ──TERM/INT──▶ Aborting ──TERM/INT──▶ Exiting
//!      └─────────────TERM/INT───────────────────▲  └──shutdown_timeout──▲
//! ```
//!
//! Draining takes no new job and waits for those that run, for as long as they take. Aborting ends
//! running jobs, whose final updates go out before anything is cleaned up. A repeated QUIT changes nothing.

use std::time::{Duration, Instant};

use crate::config::resolved::Config;

/// Everything from outside that steers the process: signals, the config file, its own commands.
#[derive(Clone, Debug)]
pub enum Control {
    /// SIGHUP, or the file has changed: what it says now, where it could be loaded.
    Reload(Box<Config>),
    /// A while has passed without a change: what kept a runner from being served may be over.
    LookAgain,
    /// SIGQUIT.
    Drain,
    /// SIGTERM or SIGINT; the text is what the job's trace says (`terminated`, `interrupt`).
    Abort(&'static str),
}

/// Where the process stands between running and gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    Draining,
    Aborting {
        until: Instant,
        signal: &'static str,
    },
    /// Leave now, whatever still runs.
    Exiting,
}

impl Phase {
    /// The phase after a signal. Reloading changes no phase.
    #[must_use]
    pub fn after(self, control: &Control, shutdown_timeout: Duration, now: Instant) -> Self {
        match (self, control) {
            (_, Control::Reload(_) | Control::LookAgain)
            | (Self::Draining | Self::Aborting { .. } | Self::Exiting, Control::Drain) => self,
            (Self::Running, Control::Drain) => Self::Draining,
            (Self::Running | Self::Draining, Control::Abort(signal)) => {
                Self::Aborting { until: now + shutdown_timeout, signal }
            }
            (Self::Aborting { .. } | Self::Exiting, Control::Abort(_)) => Self::Exiting,
        }
    }

    /// The phase when time has passed.
    #[must_use]
    pub fn at(self, now: Instant) -> Self {
        match self {
            Self::Aborting { until, .. } if now >= until => Self::Exiting,
            Self::Running | Self::Draining | Self::Aborting { .. } | Self::Exiting => self,
        }
    }

    /// When [`Phase::at`] changes by itself.
    pub fn timeout(self) -> Option<Instant> {
        match self {
            Self::Aborting { until, .. } => Some(until),
            Self::Running | Self::Draining | Self::Exiting => None,
        }
    }

    /// The signal that ends running jobs, as their traces name it.
    pub fn signal(self) -> &'static str {
        match self {
            Self::Aborting { signal, .. } => signal,
            Self::Running | Self::Draining | Self::Exiting => "terminated",
        }
    }

    /// The name that `/debug/process/state` and the metric have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "graceful-shutdown",
            Self::Aborting { .. } | Self::Exiting => "forceful-shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn after(controls: &[Control]) -> Phase {
        let now = crate::time::now().instant;
        controls.iter().fold(Phase::Running, |phase, control| phase.after(control, TIMEOUT, now))
    }

    #[test]
    fn a_repeated_quit_changes_nothing() {
        assert_eq!(after(&[Control::Drain]), Phase::Draining);
        assert_eq!(after(&[Control::Drain, Control::Drain]), Phase::Draining);
    }

    #[test]
    fn terminate_aborts_also_during_a_drain_and_only_a_further_one_exits() {
        let abort = Control::Abort("terminated");
        assert!(matches!(after(std::slice::from_ref(&abort)), Phase::Aborting { .. }));
        assert!(matches!(after(&[Control::Drain, abort.clone()]), Phase::Aborting { .. }));
        assert!(matches!(after(&[Control::Drain, abort.clone(), Control::Drain]), Phase::Aborting { .. }));
        assert_eq!(after(&[Control::Drain, abort.clone(), abort]), Phase::Exiting);
    }

    #[test]
    fn aborting_ends_with_the_timeout() {
        let now = crate::time::now().instant;
        let phase = Phase::Running.after(&Control::Abort("terminated"), TIMEOUT, now);
        assert_eq!(phase.at(now + TIMEOUT - Duration::from_millis(1)), phase);
        assert_eq!(phase.at(now + TIMEOUT), Phase::Exiting);
    }
}
