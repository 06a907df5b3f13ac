//! The progress of a transfer, on stdout, for those who ask for it.

use std::future::Future;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cli::MeterArgs;
use super::duration::parse_duration;
use super::environment::Environment;
use crate::time;

/// The shortest time between two updates.
const MIN_FREQUENCY: Duration = Duration::from_secs(1);
/// Blanks that cover what a longer update before has left on the line.
const PADDING: usize = 16;

/// Counts bytes of a transfer. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    label: &'static str,
    frequency: Option<Duration>,
    total: Option<u64>,
    done: Arc<AtomicU64>,
}

impl Meter {
    /// As the flag or the environment wants it; a value that cannot be read is none.
    pub(super) fn new(label: &'static str, args: &MeterArgs, environment: &Environment) -> Self {
        let frequency = args
            .transfer_meter_frequency
            .or_else(|| environment.get("TRANSFER_METER_FREQUENCY").and_then(|text| parse_duration(text).ok()))
            .filter(|frequency| !frequency.is_zero())
            .map(|frequency| frequency.max(MIN_FREQUENCY));
        Self { label, frequency, total: None, done: Arc::default() }
    }

    /// With a size that is known beforehand.
    pub(super) fn with_total(mut self, total: u64) -> Self {
        self.total = Some(total);
        self
    }

    /// More bytes have gone through.
    pub(super) fn add(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Before another try.
    pub(super) fn reset(&self) {
        self.done.store(0, Ordering::Relaxed);
    }

    /// Runs a transfer, with updates while it runs and one at its end.
    pub(super) async fn watch<F: Future>(&self, transfer: F) -> F::Output {
        self.watch_to(transfer, &mut io::stdout()).await
    }

    async fn watch_to<F: Future>(&self, transfer: F, out: &mut impl Write) -> F::Output {
        let Some(frequency) = self.frequency else { return transfer.await };
        let start = time::now().instant;
        let mut ticks = tokio::time::interval(frequency);
        ticks.tick().await;
        tokio::pin!(transfer);
        let output = loop {
            tokio::select! {
                output = &mut transfer => break output,
                _ = ticks.tick() => self.show(out, start.elapsed_to_now(), ""),
            }
        };
        self.show(out, start.elapsed_to_now(), "\n");
        output
    }

    /// An update that cannot be written is lost; the transfer matters more.
    fn show(&self, out: &mut impl Write, passed: Duration, end: &str) {
        let done = self.done.load(Ordering::Relaxed);
        let total = self.total.map(|total| format!("/{}", size(total))).unwrap_or_default();
        let rate = u128::from(done) * 1_000 / passed.as_millis().max(1);
        let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
        let line = format!("\r{} {}{total} ({rate}/s){:PADDING$}{end}", self.label, size(done), "");
        if out.write_all(line.as_bytes()).is_ok() {
            out.flush().ok();
        }
    }
}

trait ElapsedToNow {
    fn elapsed_to_now(&self) -> Duration;
}

impl ElapsedToNow for std::time::Instant {
    fn elapsed_to_now(&self) -> Duration {
        time::now().instant.saturating_duration_since(*self)
    }
}

/// In units of 1000.
fn size(bytes: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut rest) = (bytes, 0);
    for next in ["kB", "MB", "GB", "TB"] {
        if whole < 1_000 {
            break;
        }
        (whole, rest, unit) = (whole / 1_000, whole % 1_000, next);
    }
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{} {unit}", rest / 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(frequency: &str) -> Meter {
        Meter::new(
            "Uploading cache",
            &MeterArgs::default(),
            &Environment::new([("TRANSFER_METER_FREQUENCY".into(), frequency.into())], "/".into()),
        )
    }

    #[test]
    fn sizes_have_units_of_a_thousand() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_990, "1.9 kB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_shown_at_the_frequency_and_at_the_end() {
        let meter = meter("2s").with_total(4_000);
        let mut out = Vec::new();
        let counted = meter.clone();
        let transfer = async move {
            counted.add(1_000);
            tokio::time::sleep(Duration::from_secs(5)).await;
            counted.add(3_000);
        };
        meter.watch_to(transfer, &mut out).await;
        let blanks = " ".repeat(PADDING);
        let expected = [
            "\rUploading cache 1.0 kB/4.0 kB (500 B/s)",
            "\rUploading cache 1.0 kB/4.0 kB (250 B/s)",
            "\rUploading cache 4.0 kB/4.0 kB (800 B/s)",
        ];
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{}{blanks}{}{blanks}{}{blanks}\n", expected[0], expected[1], expected[2])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_frequency_nothing_is_shown() {
        for frequency in ["", "0", "often"] {
            let mut out = Vec::new();
            meter(frequency).watch_to(tokio::time::sleep(Duration::from_secs(9)), &mut out).await;
            assert!(out.is_empty());
        }
    }
}
