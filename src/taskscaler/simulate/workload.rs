//! The jobs of a simulation: read from a file, or made up from a load.

use std::time::{Duration, SystemTime};

use super::chance::Chance;

/// More jobs than any simulation can want; a larger file is some other file.
const MOST_JOBS: usize = 10_000_000;
/// How far the lengths of generated jobs are spread: a tenth is longer than twice the mean.
const SIGMA: f64 = 1.0;

const HOUR: f64 = 3600.0;
/// Working days relative to their busiest hour, from midnight on: little at night, a dip at noon.
const OFFICE_DAY: [f64; 24] = [
    0.05, 0.04, 0.04, 0.04, 0.05, 0.08, 0.15, 0.35, 0.65, 0.9, 1.0, 0.95, 0.75, 0.85, 1.0, 0.95, 0.85, 0.65, 0.45, 0.3,
    0.2, 0.15, 0.1, 0.07,
];
/// Saturdays and Sundays have this part of a working day.
const WEEKEND: f64 = 0.1;

/// One job: when it can first be picked up, counted from the start, and how long it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    pub arrival: Duration,
    pub duration: Duration,
}

/// A line of the file that is no job.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    #[error("line {line}: {text:?} is not `arrival,duration` in seconds")]
    NotAJob { line: usize, text: String },
    #[error("line {line}: {value:?} is no number of seconds")]
    NotSeconds { line: usize, value: String },
    #[error("more than {MOST_JOBS} jobs")]
    TooMany,
    #[error("there are no jobs")]
    None,
}

/// Reads `arrival,duration` a line, in seconds since the start; blank lines, lines that begin with `#` and a first
/// line of words are passed over. The jobs come out in the order of their arrival.
///
/// # Errors
/// The first line that is no job, or no jobs at all.
pub fn parse(text: &str) -> Result<Vec<Job>, WorkloadError> {
    let mut jobs = Vec::new();
    let mut words_may_come = true;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_header =
            std::mem::take(&mut words_may_come) && line.starts_with(|c: char| c.is_alphabetic() || c == '"');
        if is_header {
            continue;
        }
        let not_a_job = || WorkloadError::NotAJob { line: number, text: line.to_owned() };
        let (arrival, duration) = line.split_once(',').ok_or_else(not_a_job)?;
        let duration = duration.split(',').next().unwrap_or(duration);
        jobs.push(Job { arrival: seconds(arrival, number)?, duration: seconds(duration, number)? });
        if jobs.len() > MOST_JOBS {
            return Err(WorkloadError::TooMany);
        }
    }
    jobs.sort();
    if jobs.is_empty() { Err(WorkloadError::None) } else { Ok(jobs) }
}

fn seconds(value: &str, line: usize) -> Result<Duration, WorkloadError> {
    let wrong = || WorkloadError::NotSeconds { line, value: value.trim().to_owned() };
    let seconds: f64 = value.trim().parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// A load to make jobs from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Jobs an hour, on the average of a week.
    pub per_hour: f64,
    /// For how long jobs arrive.
    pub length: Duration,
    /// How long a job runs on average.
    pub duration: Duration,
    pub spread: Spread,
    pub shape: Shape,
}

/// How the lengths of jobs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Not at all.
    Fixed,
    Exponential,
    /// Most are short and a few are long, as builds are.
    LogNormal,
}

/// How the rate changes with the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Flat,
    /// Busy in office hours (UTC), little at night, a tenth on Saturdays and Sundays.
    Office,
}

impl Shape {
    /// The rate at this time as a part of the greatest.
    fn at(self, utc: SystemTime) -> f64 {
        match self {
            Self::Flat => 1.0,
            Self::Office => {
                let hours = utc.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 3600;
                let hour = usize::try_from(hours % 24).unwrap_or_default();
                // 1 January 1970 was a Thursday.
                let day = (hours / 24 + 3) % 7;
                let rate = OFFICE_DAY.get(hour).copied().unwrap_or(1.0);
                if day < 5 { rate } else { rate * WEEKEND }
            }
        }
    }

    /// The mean over a week.
    fn mean(self) -> f64 {
        let hours = (0..7 * 24_u32).map(|hour| self.at(SystemTime::UNIX_EPOCH + Duration::from_secs(3600) * hour));
        hours.sum::<f64>() / (7.0 * 24.0)
    }
}

/// Makes up jobs that arrive independently of each other, the first at `start` at the earliest.
pub fn generate(load: &Load, start: SystemTime, seed: u64) -> Vec<Job> {
    let mut chance = Chance::new(seed);
    let busiest = load.per_hour / load.shape.mean();
    let mut jobs = Vec::new();
    let mut at = 0.0;
    if busiest <= 0.0 || !busiest.is_finite() {
        return jobs;
    }
    loop {
        at += chance.exponential(HOUR / busiest);
        let arrival = Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX);
        if arrival >= load.length || jobs.len() == MOST_JOBS {
            return jobs;
        }
        if chance.fraction() < load.shape.at(start + arrival) {
            jobs.push(Job { arrival, duration: length(load, &mut chance) });
        }
    }
}

fn length(load: &Load, chance: &mut Chance) -> Duration {
    let mean = load.duration.as_secs_f64();
    let seconds = match load.spread {
        Spread::Fixed => return load.duration,
        Spread::Exponential => chance.exponential(mean),
        Spread::LogNormal => chance.log_normal(mean, SIGMA),
    };
    Duration::try_from_secs_f64(seconds).unwrap_or(load.duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(arrival: f64, duration: f64) -> Job {
        Job { arrival: Duration::from_secs_f64(arrival), duration: Duration::from_secs_f64(duration) }
    }

    #[test]
    fn a_file_is_read_with_or_without_a_header() {
        let jobs = vec![job(0.0, 60.0), job(1.5, 12.0)];
        assert_eq!(parse("1.5,12\n0, 60\n"), Ok(jobs.clone()));
        assert_eq!(parse("arrival,duration\n# a comment\n\n0,60,project\n1.5,12\n"), Ok(jobs));
    }

    #[test]
    fn a_line_that_is_no_job_is_named() {
        let not_a_job = WorkloadError::NotAJob { line: 2, text: "5".to_owned() };
        assert_eq!(parse("0,1\n5\n"), Err(not_a_job));
        for value in ["x", "-1", "NaN", ""] {
            let wrong = WorkloadError::NotSeconds { line: 2, value: value.to_owned() };
            assert_eq!(parse(&format!("0,1\n{value},3")), Err(wrong));
        }
        assert_eq!(parse("arrival,duration\n"), Err(WorkloadError::None));
    }

    #[test]
    fn a_load_has_its_rate_and_its_shape() {
        // 5 January 1970 was a Monday.
        let monday = SystemTime::UNIX_EPOCH + Duration::from_secs(4 * 24 * 3600);
        let week = Duration::from_secs(7 * 24 * 3600);
        let load = Load {
            per_hour: 60.0,
            length: week,
            duration: Duration::from_secs(300),
            spread: Spread::LogNormal,
            shape: Shape::Office,
        };
        let jobs = generate(&load, monday, 1);
        let expected = 60 * 24 * 7;
        assert!(jobs.len().abs_diff(expected) < expected / 20, "{}", jobs.len());
        assert!(jobs.is_sorted_by_key(|job| job.arrival));
        assert!(jobs.iter().all(|job| job.arrival < week));
        let from_to =
            |from: u64, to: u64| jobs.iter().filter(|job| (from..to).contains(&(job.arrival.as_secs() / 3600))).count();
        assert!(from_to(9, 17) > 10 * from_to(0, 5), "a working day");
        assert!(from_to(24, 48) > 5 * from_to(5 * 24, 6 * 24), "a Saturday");
        assert_eq!(jobs, generate(&load, monday, 1));
        assert_ne!(jobs, generate(&load, monday, 2));
    }
}
