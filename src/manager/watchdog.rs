//! Says which loops stand still, and when they go on. It only looks: what stands still is for the log, `/metrics` and
//! whoever restarts the process.
//!
//! It is a thread, so that it sees a runtime of which all threads are blocked.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::pulse::{Pulses, Still};
use crate::time;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);
/// A look that comes later than this says that the whole process stood still (a stopped process, a suspended machine).
const LATE: Duration = Duration::from_secs(10);

/// The watching thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    _end: Sender<()>,
}

impl Watchdog {
    /// # Errors
    /// The system gives no thread.
    pub fn start(pulses: Pulses) -> std::io::Result<Self> {
        let (sender, end) = mpsc::channel();
        let watch = move || {
            let mut watch = Watch::new(time::now().instant);
            while end.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                watch.look(&pulses, time::now().instant).iter().for_each(log);
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        Ok(Self { _end: sender })
    }
}

/// What has changed since the look before.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    StandsStill { name: String, waiting_for: &'static str, since: Duration },
    GoesOn { name: String, after: Duration },
}

/// What was seen at the look before.
#[derive(Debug)]
struct Watch {
    last: Instant,
    still: BTreeMap<u64, Still>,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { last: now, still: BTreeMap::new() }
    }

    fn look(&mut self, pulses: &Pulses, now: Instant) -> Vec<Change> {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.last, now));
        if passed > LATE {
            pulses.forgive(passed);
        }
        let found: BTreeMap<_, _> = pulses.standing_still(now).into_iter().map(|still| (still.id, still)).collect();
        let gone = self.still.values().filter(|before| !found.contains_key(&before.id));
        let gone = gone.map(|before| Change::GoesOn { name: before.name.clone(), after: now - before.since });
        let new = found.values().filter(|still| !self.still.contains_key(&still.id));
        let new = new.map(|still| Change::StandsStill {
            name: still.name.clone(),
            waiting_for: still.waiting_for,
            since: now - still.since,
        });
        let changes = gone.chain(new).collect();
        self.still = found;
        changes
    }
}

fn log(change: &Change) {
    match change {
        Change::StandsStill { name, waiting_for, since } => {
            error!(name, waiting_for, since_s = since.as_secs(), "a loop stands still");
        }
        Change::GoesOn { name, after } => info!(name, after_s = after.as_secs(), "a loop that stood still goes on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulse::{BEAT, LOOP_LIMIT};

    /// Looks after each of the pauses; beats where it says so.
    async fn changes(script: &[(Duration, bool)]) -> Vec<Vec<Change>> {
        let pulses = Pulses::default();
        let pulse = pulses.of("a");
        pulse.beat("godot");
        let mut watch = Watch::new(time::now().instant);
        let mut seen = Vec::new();
        for (pause, beats) in script {
            tokio::time::advance(*pause).await;
            if *beats {
                pulse.beat("work");
            }
            seen.push(watch.look(&pulses, time::now().instant));
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_said_once_and_its_going_on_too() {
        let still_for = LOOP_LIMIT + EVERY;
        let mut script = vec![(EVERY, false); usize::try_from(still_for.as_secs() / EVERY.as_secs()).unwrap() + 2];
        script.push((EVERY, true));
        let said: Vec<Change> = changes(&script).await.into_iter().flatten().collect();
        let since = still_for;
        let stands = Change::StandsStill { name: "a".to_owned(), waiting_for: "godot", since };
        assert_eq!(said, [stands, Change::GoesOn { name: "a".to_owned(), after: still_for + 3 * EVERY }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_accuses_no_loop() {
        let stopped = LOOP_LIMIT * 2;
        let said = changes(&[(BEAT / 4, false), (stopped, false), (EVERY, true)]).await;
        assert_eq!(said, [vec![], vec![], vec![]]);
    }
}
