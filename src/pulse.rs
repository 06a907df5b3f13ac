//! Signs of life of the process's loops: what stands still has no other way to say so (promise G11).
//!
//! A loop has a [`Pulse`] and beats with it at each turn, at the latest every [`BEAT`], saying what it waits for. Work
//! that has no turns is watched for as long as it takes, with a limit of its own ([`Pulses::during`]).
//! [`Pulses::standing_still`] says who has not beaten for too long; it is up to others to look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::time;

/// A loop wakes this often, though it has nothing to do.
pub const BEAT: Duration = Duration::from_secs(20);
/// A loop that has not beaten for so long stands still.
pub const LOOP_LIMIT: Duration = Duration::from_secs(60);

/// All pulses of the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<Beats>>);

#[derive(Debug, Default)]
struct Beats {
    next: u64,
    by_id: BTreeMap<u64, Beat>,
}

#[derive(Debug)]
struct Beat {
    name: String,
    waiting_for: &'static str,
    last: Instant,
    limit: Duration,
    is_loop: bool,
}

/// The pulse of one loop, until it is dropped. One that is dropped by a panic stands still for ever.
#[derive(Debug)]
pub struct Pulse {
    pulses: Pulses,
    id: u64,
}

/// What stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Still {
    pub id: u64,
    /// Of the loop or the work.
    pub name: String,
    pub waiting_for: &'static str,
    /// Its last sign of life.
    pub since: Instant,
    /// A loop of the process, not the work for one job or poll.
    pub is_loop: bool,
}

impl Pulses {
    /// The pulse of a loop, which has just beaten.
    pub fn of(&self, name: impl Into<String>) -> Pulse {
        self.begin(name.into(), "its first turn", LOOP_LIMIT, true)
    }

    /// Watches one piece of work, which is expected to end within `limit`.
    pub async fn during<T>(
        &self,
        name: impl Into<String>,
        waiting_for: &'static str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let _pulse = self.begin(name.into(), waiting_for, limit, false);
        work.await
    }

    /// Who has not given a sign of life within its limit.
    pub fn standing_still(&self, now: Instant) -> Vec<Still> {
        let beats = self.beats();
        let still = beats.by_id.iter().filter(|(_, beat)| now.saturating_duration_since(beat.last) > beat.limit);
        still.map(|(id, beat)| beat.still(*id)).collect()
    }

    /// The whole process stood still for so long: that is nobody's own doing.
    pub fn forgive(&self, gap: Duration) {
        self.beats().by_id.values_mut().for_each(|beat| beat.last += gap);
    }

    fn begin(&self, name: String, waiting_for: &'static str, limit: Duration, is_loop: bool) -> Pulse {
        let mut beats = self.beats();
        let id = beats.next;
        beats.next += 1;
        let beat = Beat { name, waiting_for, last: time::now().instant, limit, is_loop };
        beats.by_id.insert(id, beat);
        Pulse { pulses: self.clone(), id }
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    fn still(&self, id: u64) -> Still {
        let Self { waiting_for, last, is_loop, .. } = *self;
        Still { id, name: self.name.clone(), waiting_for, since: last, is_loop }
    }
}

impl Pulse {
    /// A sign of life, and what comes next.
    pub fn beat(&self, waiting_for: &'static str) {
        if let Some(beat) = self.pulses.beats().by_id.get_mut(&self.id) {
            beat.last = time::now().instant;
            beat.waiting_for = waiting_for;
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let mut beats = self.pulses.beats();
        if !std::thread::panicking() {
            beats.by_id.remove(&self.id);
        } else if let Some(beat) = beats.by_id.get_mut(&self.id) {
            beat.waiting_for = "nothing: it has panicked";
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn still(pulses: &Pulses) -> Vec<(String, &'static str)> {
        let still = pulses.standing_still(time::now().instant).into_iter();
        still.map(|still| (still.name, still.waiting_for)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_no_sign_of_life_stands_still_until_it_does() {
        let pulses = Pulses::default();
        let (one, other) = (pulses.of("one"), pulses.of("other"));
        one.beat("godot");
        tokio::time::advance(LOOP_LIMIT).await;
        other.beat("work");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(still(&pulses), [("one".to_owned(), "godot")]);
        one.beat("work");
        assert_eq!(still(&pulses), []);
        tokio::time::advance(LOOP_LIMIT * 2).await;
        drop((one, other));
        assert_eq!(still(&pulses), [], "both have ended well");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_no_good_end() {
        let pulses = Pulses::default();
        let pulse = pulses.of("one");
        let panicking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _pulse = pulse;
            panic!("in a test");
        }));
        assert!(panicking.is_err());
        tokio::time::advance(LOOP_LIMIT * 2).await;
        assert_eq!(still(&pulses), [("one".to_owned(), "nothing: it has panicked")]);
    }

    #[tokio::test(start_paused = true)]
    async fn work_has_a_limit_of_its_own() {
        let pulses = Pulses::default();
        let hour = Duration::from_secs(3600);
        let mut work = Box::pin(pulses.during("job 1", "an answer", hour, std::future::pending::<()>()));
        assert!(work.as_mut().now_or_never().is_none());
        tokio::time::advance(hour).await;
        assert_eq!(still(&pulses), []);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(still(&pulses), [("job 1".to_owned(), "an answer")]);
        drop(work);
        assert_eq!(still(&pulses), []);
    }
}
