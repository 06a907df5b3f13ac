//! How fast instances may be asked for: a token bucket, one token an instance.

use std::time::{Duration, Instant};

use super::settings::ScaleThrottle;

/// A bucket of permits that fills with time. Counted in nanoseconds of filling, so that no fraction is lost.
#[derive(Debug)]
pub(super) struct Throttle {
    settings: ScaleThrottle,
    /// Permits at `at`, in permits × nanoseconds per second.
    level: u128,
    at: Instant,
}

const ONE: u128 = 1_000_000_000;

impl Throttle {
    /// A full bucket.
    pub(super) fn new(settings: ScaleThrottle, now: Instant) -> Self {
        let level = match settings {
            ScaleThrottle::Unlimited => 0,
            ScaleThrottle::Limited { burst, .. } => u128::from(burst.get()) * ONE,
        };
        Self { settings, level, at: now }
    }

    /// Other limits hold from now on; what was used stays used.
    pub(super) fn reconfigure(&mut self, settings: ScaleThrottle, now: Instant) {
        let left = self.available(now);
        let fresh = Self::new(settings, now);
        let was_limited = matches!(self.settings, ScaleThrottle::Limited { .. });
        let level = if was_limited { fresh.level.min(u128::from(left) * ONE) } else { fresh.level };
        *self = Self { level, ..fresh };
    }

    /// Permits there are now.
    pub(super) fn available(&self, now: Instant) -> u32 {
        match self.settings {
            ScaleThrottle::Unlimited => u32::MAX,
            ScaleThrottle::Limited { .. } => u32::try_from(self.level_at(now) / ONE).unwrap_or(u32::MAX),
        }
    }

    /// Uses up `count` permits; the caller has asked [`Throttle::available`] before.
    pub(super) fn take(&mut self, count: u32, now: Instant) {
        self.level = self.level_at(now).saturating_sub(u128::from(count) * ONE);
        self.at = now;
    }

    /// When there will be `count` permits, or as many as the bucket holds.
    pub(super) fn ready_at(&self, count: u32, now: Instant) -> Instant {
        let ScaleThrottle::Limited { limit, burst } = self.settings else { return now };
        let missing = (u128::from(count.min(burst.get())) * ONE).saturating_sub(self.level_at(now));
        let nanos = missing.div_ceil(u128::from(limit.get()));
        now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn level_at(&self, now: Instant) -> u128 {
        let ScaleThrottle::Limited { limit, burst } = self.settings else { return 0 };
        let filled = now.saturating_duration_since(self.at).as_nanos() * u128::from(limit.get());
        (self.level + filled).min(u128::from(burst.get()) * ONE)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limited(limit: u32, burst: u32) -> ScaleThrottle {
        ScaleThrottle::Limited { limit: NonZeroU32::new(limit).unwrap(), burst: NonZeroU32::new(burst).unwrap() }
    }

    #[test]
    fn bucket_empties_by_use_and_fills_by_time_up_to_its_burst() {
        let start = crate::time::now().instant;
        let mut throttle = Throttle::new(limited(2, 5), start);
        assert_eq!(throttle.available(start), 5);
        throttle.take(5, start);
        assert_eq!(throttle.available(start), 0);
        assert_eq!(throttle.ready_at(1, start), start + Duration::from_millis(500));
        assert_eq!(throttle.ready_at(99, start), start + Duration::from_millis(2500));
        assert_eq!(throttle.available(start + Duration::from_millis(1499)), 2);
        assert_eq!(throttle.available(start + Duration::from_secs(60)), 5);
    }

    #[test]
    fn fractions_of_a_permit_are_not_lost_by_asking_often() {
        let start = crate::time::now().instant;
        let mut throttle = Throttle::new(limited(1, 1), start);
        throttle.take(1, start);
        for tenth in 1..10 {
            throttle.take(0, start + Duration::from_millis(tenth * 100));
        }
        assert_eq!(throttle.available(start + Duration::from_secs(1)), 1);
    }

    #[test]
    fn a_reload_does_not_refill_the_bucket() {
        let start = crate::time::now().instant;
        let mut throttle = Throttle::new(limited(1, 10), start);
        throttle.take(10, start);
        throttle.reconfigure(limited(5, 20), start);
        assert_eq!(throttle.available(start), 0);
        throttle.reconfigure(ScaleThrottle::Unlimited, start);
        assert_eq!(throttle.available(start), u32::MAX);
    }
}
