//! How long things took, as histograms: filled from the same decisions that are logged.

use std::time::Duration;

use super::core::Decision;

/// Upper bounds of the buckets where the file has none, in seconds: from a container to a bare-metal host.
const OPERATION_BOUNDS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0];
/// The same for lives, from a minute to a week.
const LIFE_BOUNDS: [f64; 10] = [60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0, 604_800.0];

/// Observations by upper bound, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One more than there are bounds: the last is for what is above all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram with these bounds, or the given ones where the file has none.
    pub fn new(bounds: Option<&[f64]>, otherwise: &[f64]) -> Self {
        let mut bounds = bounds.filter(|bounds| !bounds.is_empty()).unwrap_or(otherwise).to_vec();
        bounds.sort_by(f64::total_cmp);
        let counts = vec![0; bounds.len() + 1];
        Self { bounds, counts, sum: 0.0 }
    }

    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum += seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Each bound with the number of observations up to it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.iter().zip(&self.counts).scan(0, |total, (bound, count)| {
            *total += count;
            Some((*bound, *total))
        })
    }
}

/// The histograms of the reference, by its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Timings {
    /// `fleeting_provisioner_instance_creation_time_seconds`: from the request to the first listing.
    pub creation: Histogram,
    /// `fleeting_provisioner_instance_is_running_time_seconds`: from the request to running.
    pub is_running: Histogram,
    /// `fleeting_taskscaler_task_instance_readiness_time_seconds`: from running to ready.
    pub readiness: Histogram,
    /// `fleeting_provisioner_instance_deletion_time_seconds`.
    pub deletion: Histogram,
    /// `fleeting_provisioner_instance_life_duration_seconds`.
    pub life: Histogram,
}

impl Timings {
    /// Empty histograms with the buckets of the file.
    pub fn new(buckets: &crate::config::resolved::Buckets) -> Self {
        let operation = |own: &Option<Vec<f64>>| Histogram::new(own.as_deref(), &OPERATION_BOUNDS);
        Self {
            creation: operation(&buckets.creation_time),
            is_running: operation(&buckets.is_running_time),
            readiness: operation(&buckets.readiness_time),
            deletion: operation(&buckets.deletion_time),
            life: Histogram::new(buckets.life_duration.as_deref(), &LIFE_BOUNDS),
        }
    }

    /// Takes from a decision what it tells about times.
    pub fn observe(&mut self, decision: &Decision) {
        if let Decision::Discovered { took: Some(took), .. } = decision {
            self.creation.observe(*took);
        }
        if let Decision::Running { took: Some(took), .. } = decision {
            self.is_running.observe(*took);
        }
        if let Decision::Ready { took, .. } = decision {
            self.readiness.observe(*took);
        }
        if let Decision::Deleted { took, lived, .. } = decision {
            self.deletion.observe(*took);
            self.life.observe(*lived);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_first_bucket_that_holds_them() {
        let mut histogram = Histogram::new(Some(&[10.0, 1.0]), &OPERATION_BOUNDS);
        for seconds in [0.5, 1.0, 5.0, 60.0] {
            histogram.observe(Duration::from_secs_f64(seconds));
        }
        assert_eq!(histogram.cumulative().collect::<Vec<_>>(), [(1.0, 2), (10.0, 3)]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 66.5).abs() < 1e-9);
    }
}
