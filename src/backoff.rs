//! How long to wait before the next try: doubling, capped, with jitter.

use std::time::Duration;

/// A schedule of waits. Pure: the caller sleeps.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first`, doubling up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The next wait: uniformly within the upper half of the current step, so that many clients of
    /// one failure do not come back together.
    pub fn next_wait(&mut self) -> Duration {
        self.next_wait_at(rand::random::<f64>())
    }

    /// As [`Backoff::next_wait`], with the random part given: 0.0 is half the step, 1.0 all of it.
    pub fn next_wait_at(&mut self, random: f64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.cap);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<u64> = (0..5).map(|_| backoff.next_wait_at(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next_wait_at(0.0), Duration::from_millis(500));
    }
}
