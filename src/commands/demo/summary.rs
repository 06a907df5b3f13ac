//! The end of the demo: a table of the jobs, and the verdict.

use super::fleet::Counts;
use super::plan::Part;
use super::screen::{Paint, Screen, seconds};
use super::traces::{JobView, Result};

const HEADINGS: [&str; 5] = ["job", "executor", "expected", "got", "took"];

/// All that the verdict is about.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) jobs: Vec<Result>,
    pub(super) fleet: Vec<(Part, Counts)>,
    /// Instances that could not be deleted.
    pub(super) left: usize,
    /// What ran side by side, in words.
    pub(super) parallel: Vec<String>,
    /// What is wrong beside the jobs.
    pub(super) problems: Vec<String>,
    /// Why there are no Docker jobs.
    pub(super) skipped: Option<String>,
}

impl Summary {
    /// Whether everything is as it must be.
    pub(super) fn is_good(&self) -> bool {
        self.left == 0 && self.problems.is_empty() && self.jobs.iter().all(|job| job.problems.is_empty())
    }

    pub(super) fn show(&self, screen: &mut Screen) {
        screen.line("");
        for line in self.table(screen) {
            screen.line(&line);
        }
        screen.line("");
        for text in &self.parallel {
            screen.line(text);
        }
        for (part, counts) in &self.fleet {
            let Counts { peak, created } = counts;
            screen.line(&format!("{}: {created} instances created, {peak} at most at once", part.executor()));
        }
        if let Some(skipped) = &self.skipped {
            screen.line(&format!("docker-autoscaler: skipped, because {skipped}"));
        }
        screen.line(&format!("{} instances are left", self.left));
        for problem in &self.problems {
            screen.line(&screen.paint(Paint::Bad, &format!("problem: {problem}")));
        }
        screen.line("");
        let (paint, verdict) = self.verdict();
        screen.line(&screen.paint(paint, &verdict));
    }

    fn verdict(&self) -> (Paint, String) {
        let all = self.jobs.len();
        let wrong = self.jobs.iter().filter(|job| !job.problems.is_empty()).count();
        if self.is_good() {
            (Paint::Good, format!("All {all} jobs ended as they should, and the fleet is back at 0 instances."))
        } else if wrong > 0 {
            (Paint::Bad, format!("{wrong} of {all} jobs did not end as they should."))
        } else {
            (Paint::Bad, format!("All {all} jobs ended as they should, but the rest did not."))
        }
    }

    fn table(&self, screen: &Screen) -> Vec<String> {
        let rows: Vec<[String; 5]> = self.jobs.iter().map(cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(HEADINGS.get(column).map(|heading| heading.len())).max().unwrap_or_default()
        };
        let widths = [0, 1, 2, 3, 4].map(width);
        let line = |cells: &[String; 5]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut lines = vec![screen.paint(Paint::Bold, &format!("  {}", line(&HEADINGS.map(str::to_owned))))];
        for (job, row) in self.jobs.iter().zip(&rows) {
            let (paint, mark) = if job.problems.is_empty() { (Paint::Good, "+") } else { (Paint::Bad, "x") };
            lines.push(format!("{} {}", screen.paint(paint, mark), line(row)));
            lines.extend(job.problems.iter().map(|problem| screen.paint(Paint::Bad, &format!("    {problem}"))));
        }
        lines
    }
}

fn cells(job: &Result) -> [String; 5] {
    let took = job.took.map_or_else(|| "-".to_owned(), seconds);
    let name = job.label.split_once('/').map_or(job.label.as_str(), |(_, name)| name);
    [name.to_owned(), job.executor.to_owned(), job.expected.clone(), job.got.clone(), took]
}

/// How long the two parallel jobs of each executor ran side by side.
pub(super) fn parallel(jobs: &[JobView], parts: &[Part]) -> Vec<String> {
    let overlap = |part: Part| {
        let mut both = jobs.iter().filter(|job| job.part == part && job.name().starts_with("parallel-"));
        let (one, other) = (both.next()?.ran()?, both.next()?.ran()?);
        let together = one.1.min(other.1).checked_sub(one.0.max(other.0)).filter(|together| !together.is_zero());
        Some(match together {
            Some(together) => {
                format!("{}: parallel-1 and parallel-2 ran side by side for {}", part.executor(), seconds(together))
            }
            None => format!("{}: parallel-1 and parallel-2 did not run at the same time", part.executor()),
        })
    };
    parts.iter().filter_map(|part| overlap(*part)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().map_or(Ok(0), |mut paper| paper.write(bytes))
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn job(name: &str, problems: &[&str]) -> Result {
        Result {
            label: format!("instance/{name}"),
            executor: "instance",
            expected: "failed, exit code 3".to_owned(),
            got: if problems.is_empty() { "failed, exit code 3" } else { "success" }.to_owned(),
            took: Some(Duration::from_millis(1240)),
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
        }
    }

    fn shown(summary: &Summary) -> String {
        let paper = Paper::default();
        summary.show(&mut Screen::new(Box::new(paper.clone()), false, crate::time::now().instant, 10));
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    fn summary(jobs: Vec<Result>, problems: &[&str]) -> Summary {
        Summary {
            left: 0,
            jobs,
            fleet: vec![(Part::Instance, Counts { peak: 3, created: 4 })],
            parallel: vec!["instance: parallel-1 and parallel-2 ran side by side for 2.9s".to_owned()],
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
            skipped: Some("no Docker Engine answers".to_owned()),
        }
    }

    #[test]
    fn a_good_end_names_every_job() {
        let summary = summary(vec![job("hello", &[]), job("a-longer-name", &[])], &[]);
        assert!(summary.is_good());
        insta::assert_snapshot!(shown(&summary), @r"
          job            executor  expected             got                  took
        + hello          instance  failed, exit code 3  failed, exit code 3  1.2s
        + a-longer-name  instance  failed, exit code 3  failed, exit code 3  1.2s

        instance: parallel-1 and parallel-2 ran side by side for 2.9s
        instance: 4 instances created, 3 at most at once
        docker-autoscaler: skipped, because no Docker Engine answers
        0 instances are left

        All 2 jobs ended as they should, and the fleet is back at 0 instances.
        ");
    }

    #[test]
    fn one_wrong_job_spoils_the_verdict_and_says_why() {
        let summary = summary(vec![job("hello", &[]), job("fails", &["exit code 0, not 3"])], &[]);
        assert!(!summary.is_good());
        let text = shown(&summary);
        assert!(text.contains("x fails") && text.contains("    exit code 0, not 3\n"), "{text}");
        assert!(text.ends_with("1 of 2 jobs did not end as they should.\n"), "{text}");
    }

    #[test]
    fn instances_that_stay_and_other_problems_spoil_it_too() {
        let left = Summary { left: 2, ..summary(vec![job("hello", &[])], &[]) };
        assert!(!left.is_good());
        assert!(shown(&left).contains("2 instances are left\n"));
        let interrupted = summary(vec![job("hello", &[])], &["it was interrupted"]);
        assert!(!interrupted.is_good());
        assert!(shown(&interrupted).contains("problem: it was interrupted\n"));
    }
}
