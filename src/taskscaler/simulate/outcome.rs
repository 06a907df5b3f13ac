//! What a simulation came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};

/// The result of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub jobs: Jobs,
    /// From the start of the manager until the last job is final.
    pub length: Duration,
    /// From the arrival of a job to its slot.
    pub wait: Option<Percentiles>,
    /// From the arrival of a job to its end.
    pub total: Option<Percentiles>,
    /// Of each instance from the request for it to the request to delete it.
    pub instance_time: Duration,
    /// Of this, until it took jobs.
    pub booting_time: Duration,
    /// Of this, ready and without any job.
    pub idle_time: Duration,
    pub created: u32,
    /// Instances that were asked for and refused.
    pub refused: u32,
    /// By [`crate::taskscaler::core::reasons::RemovalReason::as_str`].
    pub deletions: BTreeMap<&'static str, u32>,
    pub peak_instances: u32,
    pub peak_running: u32,
    pub hours: Vec<Hour>,
}

/// How the jobs ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    pub arrived: u32,
    pub finished: u32,
    /// Given up at `instance_acquire_timeout`.
    pub without_instance: u32,
    /// Not even begun when nothing happened any more.
    pub unserved: u32,
}

/// One hour of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Hour {
    pub from: SystemTime,
    pub arrivals: u32,
    pub running_max: u32,
    pub instances_max: u32,
    /// Of the jobs that arrived in it.
    pub wait: Option<Percentiles>,
}

/// Durations by their rank: the 50th and the 95th of a hundred, and the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: Duration,
    pub p95: Duration,
    pub max: Duration,
}

impl Percentiles {
    /// Of these, where there are any.
    pub fn of(mut durations: Vec<Duration>) -> Option<Self> {
        durations.sort_unstable();
        let rank = |percent: usize| durations.get((durations.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { p50: rank(50)?, p95: rank(95)?, max: rank(100)? })
    }

    fn to_json(self) -> Value {
        json!({ "p50": self.p50.as_secs_f64(), "p95": self.p95.as_secs_f64(), "max": self.max.as_secs_f64() })
    }
}

impl Outcome {
    /// The same numbers for programs; all times in seconds.
    pub fn to_json(&self) -> Value {
        let percentiles = |of: Option<Percentiles>| of.map(Percentiles::to_json);
        let hour = |hour: &Hour| {
            json!({
                "from": time(hour.from),
                "arrivals": hour.arrivals,
                "running_max": hour.running_max,
                "instances_max": hour.instances_max,
                "wait": percentiles(hour.wait),
            })
        };
        json!({
            "jobs": {
                "arrived": self.jobs.arrived,
                "finished": self.jobs.finished,
                "without_instance": self.jobs.without_instance,
                "unserved": self.jobs.unserved,
            },
            "length": self.length.as_secs_f64(),
            "wait": percentiles(self.wait),
            "total": percentiles(self.total),
            "instance_time": self.instance_time.as_secs_f64(),
            "booting_time": self.booting_time.as_secs_f64(),
            "idle_time": self.idle_time.as_secs_f64(),
            "created": self.created,
            "refused": self.refused,
            "deletions": self.deletions,
            "peak_instances": self.peak_instances,
            "peak_running": self.peak_running,
            "hours": self.hours.iter().map(hour).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Jobs { arrived, finished, without_instance, unserved } = self.jobs;
        writeln!(f, "jobs        {arrived} in {:.2} h: {finished} final", hours(self.length))?;
        if without_instance > 0 {
            writeln!(f, "            {without_instance} had no instance within instance_acquire_timeout")?;
        }
        if unserved > 0 {
            writeln!(f, "            {unserved} were never served: these settings leave no capacity for them")?;
        }
        write_percentiles(f, "wait", "until the job has a slot", self.wait)?;
        write_percentiles(f, "total", "until the job is final", self.total)?;
        let busy = self.instance_time.saturating_sub(self.booting_time + self.idle_time);
        writeln!(
            f,
            "instances   {:.2} h: busy {:.2}, idle {:.2}, booting {:.2}; at most {} at once, for at most {} jobs",
            hours(self.instance_time),
            hours(busy),
            hours(self.idle_time),
            hours(self.booting_time),
            self.peak_instances,
            self.peak_running,
        )?;
        write!(f, "created     {}", self.created)?;
        if self.refused > 0 {
            write!(f, ", and {} refused by the group", self.refused)?;
        }
        let deleted: u32 = self.deletions.values().sum();
        let reasons: Vec<String> = self.deletions.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        writeln!(f, "\ndeleted     {deleted}{reasons}")?;
        writeln!(f, "\nhour (UTC)         arrivals  running max  instances max  wait p95")?;
        for hour in &self.hours {
            let wait = hour.wait.map_or_else(|| "-".to_owned(), |wait| format!("{:.1} s", wait.p95.as_secs_f64()));
            let (from, arrivals) = (minute(hour.from), hour.arrivals);
            writeln!(f, "{from:16} {arrivals:>10}{:>13}{:>15}{wait:>10}", hour.running_max, hour.instances_max)?;
        }
        Ok(())
    }
}

fn write_percentiles(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    what: &str,
    percentiles: Option<Percentiles>,
) -> fmt::Result {
    let Some(Percentiles { p50, p95, max }) = percentiles else { return writeln!(f, "{name:11} -") };
    let [p50, p95, max] = [p50, p95, max].map(|duration| duration.as_secs_f64());
    writeln!(f, "{name:11} p50 {p50:.1} s, p95 {p95:.1} s, max {max:.1} s ({what})")
}

fn hours(duration: Duration) -> f64 {
    duration.as_secs_f64() / 3600.0
}

fn time(at: SystemTime) -> String {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn minute(at: SystemTime) -> String {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let seconds = |range: std::ops::RangeInclusive<u64>| range.rev().map(Duration::from_secs).collect::<Vec<_>>();
        let of = |durations| {
            Percentiles::of(durations).map(|of: Percentiles| (of.p50.as_secs(), of.p95.as_secs(), of.max.as_secs()))
        };
        assert_eq!(of(seconds(1..=100)), Some((50, 95, 100)));
        assert_eq!(of(seconds(1..=80)), Some((40, 76, 80)));
        assert_eq!(of(seconds(7..=7)), Some((7, 7, 7)));
        assert_eq!(of(Vec::new()), None);
    }
}
