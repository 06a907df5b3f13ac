//! Chance that is the same for a seed, on every machine and in every release.

/// Pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without either.
    pub(super) fn fraction(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "the upper 53 bits fit a float")]
        let bits = (self.next() >> 11) as f64;
        (bits + 0.5) / 9_007_199_254_740_992.0
    }

    /// Exponentially distributed, of this mean.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -self.fraction().ln() * mean
    }

    /// Log-normally distributed, of this mean: most are shorter, and a few are much longer.
    pub(super) fn log_normal(&mut self, mean: f64, sigma: f64) -> f64 {
        let angle = std::f64::consts::TAU * self.fraction();
        let normal = (-2.0 * self.fraction().ln()).sqrt() * angle.cos();
        mean * (sigma * normal - sigma * sigma / 2.0).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_have_their_means() {
        let mut chance = Chance::new(7);
        let mut mean = |draw: fn(&mut Chance) -> f64| (0..50_000).map(|_| draw(&mut chance)).sum::<f64>() / 50_000.0;
        assert!((mean(Chance::fraction) - 0.5).abs() < 0.01);
        assert!((mean(|chance| chance.exponential(10.0)) - 10.0).abs() < 0.3);
        assert!((mean(|chance| chance.log_normal(10.0, 1.0)) - 10.0).abs() < 0.5);
    }
}
