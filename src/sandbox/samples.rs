//! The demo's jobs: one of each thing that a runner has to get right, with what must come of it.

use super::{JobStatus, SandboxJob};

/// A value that must never be seen in a trace.
pub const SECRET: &str = "correct-horse-battery-staple";

/// A job and what must come of it.
#[derive(Debug)]
pub struct Sample {
    pub job: SandboxJob,
    pub name: &'static str,
    pub ends: JobStatus,
    /// 0 where the report carries none.
    pub exit_code: i32,
    /// Must stand in the trace.
    pub shows: Vec<&'static str>,
    /// Must not stand in the trace.
    pub hides: Vec<&'static str>,
}

impl Sample {
    /// What is wrong with how it ended; empty where all is as it must be.
    pub fn problems(&self, status: JobStatus, exit_code: i32, trace: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if status != self.ends {
            problems.push(format!("ended as {}, not {}", status.wire_name(), self.ends.wire_name()));
        }
        if exit_code != self.exit_code {
            problems.push(format!("exit code {exit_code}, not {}", self.exit_code));
        }
        problems.extend(
            self.shows.iter().filter(|text| !trace.contains(**text)).map(|text| format!("the trace lacks {text:?}")),
        );
        problems.extend(
            self.hides.iter().filter(|text| trace.contains(**text)).map(|text| format!("the trace shows {text:?}")),
        );
        problems
    }
}

/// The demo's queue: the six of every run, then further ones up to `count`.
pub fn samples(count: usize) -> Vec<Sample> {
    let mut samples = vec![success(), failure(), after_script(), masked(), parallel(1), parallel(2)];
    for number in samples.len()..count {
        samples.push(filler(number));
    }
    samples.truncate(count);
    samples
}

fn sample(name: &'static str, job: SandboxJob, shows: &[&'static str]) -> Sample {
    Sample { job, name, ends: JobStatus::Success, exit_code: 0, shows: shows.to_vec(), hides: Vec::new() }
}

fn success() -> Sample {
    let script = ["echo \"Hello from $CI_JOB_NAME on $(uname -s)\"", "echo 'a line on stderr' >&2", "pwd"];
    let shows = ["Hello from hello on ", "a line on stderr", "Job succeeded"];
    sample("hello", SandboxJob::new("hello", &script), &shows)
}

fn failure() -> Sample {
    let script = ["echo 'about to fail'", "exit 3", "echo \"not\" reached"];
    let shows = ["about to fail", "ERROR: Job failed", "exit code 3"];
    Sample {
        ends: JobStatus::Failed,
        exit_code: 3,
        hides: vec!["not reached"],
        ..sample("fails", SandboxJob::new("fails", &script), &shows)
    }
}

fn after_script() -> Sample {
    let job = SandboxJob::new("cleans-up", &["echo 'the main script'", "false"])
        .after_script(&["echo \"after the script: $CI_JOB_STATUS\""]);
    let shows = ["the main script", "after the script: failed", "ERROR: Job failed"];
    Sample { ends: JobStatus::Failed, exit_code: 1, ..sample("cleans-up", job, &shows) }
}

fn masked() -> Sample {
    // The value is also printed in two writes, with a pause between them.
    let script = [
        "echo \"the secret is $DEMO_SECRET\"",
        "printf 'in two parts: %s' \"${DEMO_SECRET%-staple}\"; sleep 0.3; printf '%s\\n' '-staple'",
    ];
    let job = SandboxJob::new("keeps-secrets", &script).masked("DEMO_SECRET", SECRET);
    let shows = ["the secret is [MASKED]", "in two parts: [MASKED]", "Job succeeded"];
    Sample { hides: vec![SECRET], ..sample("keeps-secrets", job, &shows) }
}

fn parallel(number: u32) -> Sample {
    let name = if number == 1 { "parallel-1" } else { "parallel-2" };
    let script = ["for step in 1 2 3; do echo \"$CI_JOB_NAME, step $step\"; sleep 1; done"];
    let shows: &[&str] = if number == 1 { &["parallel-1, step 3"] } else { &["parallel-2, step 3"] };
    sample(name, SandboxJob::new(name, &script), shows)
}

fn filler(number: usize) -> Sample {
    let job =
        SandboxJob::new("more", &["echo \"job number $NUMBER\"", "sleep 1"]).variable("NUMBER", &number.to_string());
    sample("more", job, &["job number ", "Job succeeded"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_has_as_many_jobs_as_asked_for() {
        for count in [0, 2, 6, 20] {
            assert_eq!(samples(count).len(), count);
        }
    }

    #[test]
    fn a_job_that_ended_otherwise_is_told_with_all_that_is_wrong() {
        let sample = masked();
        let trace = format!("the secret is {SECRET}");
        let problems = sample.problems(JobStatus::Failed, 1, &trace);
        assert_eq!(problems.len(), 6, "{problems:?}");
        let good = "the secret is [MASKED]\nin two parts: [MASKED]\nJob succeeded";
        assert_eq!(sample.problems(JobStatus::Success, 0, good), Vec::<String>::new());
    }
}
