//! The jobs on the screen: their traces as they come to GitLab, line by line.

use std::fmt::Write as _;
use std::time::Duration;

use super::plan::{Part, PlannedJob};
use super::screen::{Paint, Screen, seconds};
use crate::sandbox::samples::Sample;
use crate::sandbox::{JobHandle, JobReport, JobStatus, Sandbox, TraceCheck};

/// One job that was queued.
#[derive(Debug)]
pub(super) struct JobView {
    pub(super) part: Part,
    pub(super) label: String,
    paint: Paint,
    handle: JobHandle,
    expected: Expected,
    status: JobStatus,
    /// Bytes of the trace that have been seen.
    position: usize,
    /// The end of what was seen, where its line is not whole yet.
    rest: Vec<u8>,
}

/// How it must end.
#[derive(Debug)]
struct Expected {
    sample: Sample,
    text: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Result {
    pub(super) label: String,
    pub(super) executor: &'static str,
    pub(super) expected: String,
    pub(super) got: String,
    /// From its start to its final state; `None` where it had none.
    pub(super) took: Option<Duration>,
    pub(super) problems: Vec<String>,
}

impl JobView {
    /// Puts the job into the queue.
    pub(super) fn enqueue(planned: PlannedJob, number: usize, sandbox: &Sandbox) -> Self {
        let PlannedJob { part, label, mut sample } = planned;
        let job = std::mem::replace(&mut sample.job, crate::sandbox::SandboxJob::new(sample.name, &[]));
        let text = ending(sample.ends, sample.exit_code);
        Self {
            part,
            label,
            paint: Paint::Job(number),
            handle: sandbox.enqueue(job),
            expected: Expected { sample, text },
            status: JobStatus::Queued,
            position: 0,
            rest: Vec::new(),
        }
    }

    pub(super) fn is_final(&self) -> bool {
        self.status.is_final()
    }

    /// Shows what is new. True where there was something.
    pub(super) fn show(&mut self, screen: &mut Screen) -> bool {
        let Some(report) = self.handle.report().filter(|_| !self.is_final()) else { return false };
        let trace = self.handle.trace_from(self.position);
        self.position += trace.len();
        self.rest.extend_from_slice(&trace);
        for line in whole_lines(&mut self.rest, report.status.is_final()) {
            let line = shown(&line, screen.has_colours());
            if !line.is_empty() {
                screen.fact(&self.label, self.paint, &line);
            }
        }
        let changed = report.status != self.status;
        self.status = report.status;
        if changed && report.status == JobStatus::Offered {
            let text = screen.paint(Paint::Dim, "taken; its instance is not ready yet");
            screen.fact(&self.label, self.paint, &text);
        }
        if changed && report.status.is_final() {
            let took = lasted(&report).map(|took| format!(" after {}", seconds(took))).unwrap_or_default();
            let text = format!("{}{took}", ending(report.status, report.exit_code));
            screen.fact(&self.label, self.paint, &screen.paint(Paint::Bold, &text));
        }
        changed || !trace.is_empty()
    }

    /// How it ended, against how it must.
    pub(super) fn result(&self) -> Result {
        let Some(report) = self.handle.report() else { return self.lost() };
        let trace = self.handle.trace();
        let mut problems = if report.status.is_final() {
            self.expected.sample.problems(report.status, report.exit_code, &String::from_utf8_lossy(&trace))
        } else {
            vec!["it has not ended".to_owned()]
        };
        if report.trace_check == TraceCheck::Differs {
            problems.push("the checksum of its trace is not that of what arrived".to_owned());
        }
        problems.extend(report.violations.iter().cloned());
        Result {
            label: self.label.clone(),
            executor: self.part.executor(),
            expected: self.expected.text.clone(),
            got: ending(report.status, report.exit_code),
            took: lasted(&report),
            problems,
        }
    }

    /// When it ran, since the start of the sandbox.
    pub(super) fn ran(&self) -> Option<(Duration, Duration)> {
        ran(&self.handle.report()?)
    }

    pub(super) fn name(&self) -> &'static str {
        self.expected.sample.name
    }

    fn lost(&self) -> Result {
        Result {
            label: self.label.clone(),
            executor: self.part.executor(),
            expected: self.expected.text.clone(),
            got: "nothing".to_owned(),
            took: None,
            problems: vec!["the sandbox has no such job".to_owned()],
        }
    }
}

/// `failed, exit code 3`.
fn ending(status: JobStatus, exit_code: i32) -> String {
    let mut text = status.wire_name().to_owned();
    if exit_code != 0 {
        // Writing to a string does not fail.
        write!(text, ", exit code {exit_code}").ok();
    }
    text
}

fn ran(report: &JobReport) -> Option<(Duration, Duration)> {
    let end = report.history.iter().rev().find(|moment| moment.status.is_final())?.at;
    Some((report.first(JobStatus::Running)?, end))
}

fn lasted(report: &JobReport) -> Option<Duration> {
    ran(report).map(|(start, end)| end.saturating_sub(start))
}

/// Takes the whole lines out of what has come; the last one too where nothing follows.
fn whole_lines(rest: &mut Vec<u8>, is_all: bool) -> Vec<Vec<u8>> {
    let end = if is_all { Some(rest.len()) } else { rest.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1) };
    let whole: Vec<u8> = rest.drain(..end.unwrap_or(0)).collect();
    whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).filter(|line| !line.is_empty()).collect()
}

/// A line of a trace as a page of GitLab would show it: without the marks of sections, without what a terminal
/// would have written over, and without anything that could move the cursor of ours.
fn shown(line: &[u8], colours: bool) -> String {
    let text = String::from_utf8_lossy(line);
    let text = without_marks(&text);
    let pieces = text.rsplit('\r').map(|piece| printable(piece, colours));
    let last = pieces.into_iter().find(|piece| !piece.trim().is_empty()).unwrap_or_default();
    if colours && last.contains('\x1b') { last + "\x1b[0m" } else { last }
}

/// `section_start:1700000000:name\r` and the erasing of the line after it, wherever they stand.
fn without_marks(text: &str) -> String {
    const END: &str = "\r\x1b[0K";
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = ["section_start:", "section_end:"].iter().filter_map(|mark| rest.find(mark)).min() {
        let (before, mark) = rest.split_at(at);
        let Some((_, after)) = mark.split_once(END) else { break };
        kept.push_str(before);
        rest = after;
    }
    kept + rest
}

/// Without control characters; escape sequences go, but for colours where those are wanted.
fn printable(text: &str, colours: bool) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => {
                let sequence = escape(&mut letters);
                if colours && sequence.ends_with('m') {
                    kept.push('\x1b');
                    kept.push_str(&sequence);
                }
            }
            '\t' => kept.push(letter),
            _ if letter.is_control() => {}
            _ => kept.push(letter),
        }
    }
    kept
}

/// What follows an ESC and belongs to it: `[`, parameters, and a final letter.
fn escape(letters: &mut std::str::Chars<'_>) -> String {
    let mut sequence = String::new();
    if letters.as_str().starts_with('[') {
        sequence.extend(letters.next());
        for letter in letters.by_ref() {
            sequence.push(letter);
            if ('@'..='~').contains(&letter) {
                break;
            }
        }
    }
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_without_what_is_not_text() {
        for (line, plain, coloured) in [
            ("hello", "hello", "hello"),
            (
                "section_start:17:step_script\r\x1b[0K\x1b[0K\x1b[36;1mExecuting\x1b[0;m",
                "Executing",
                "\x1b[36;1mExecuting\x1b[0;m\x1b[0m",
            ),
            ("section_end:17:a\r\x1b[0Ksection_start:18:b\r\x1b[0Ktext", "text", "text"),
            ("section_end:17:a\r\x1b[0K", "", ""),
            ("section_start: of no section", "section_start: of no section", "section_start: of no section"),
            ("10%\r50%\r100%\r", "100%", "100%"),
            ("up\x1b[2Aand\x07 away\x1bc", "upand awayc", "upand awayc"),
            ("a\tb", "a\tb", "a\tb"),
        ] {
            assert_eq!(shown(line.as_bytes(), false), plain);
            assert_eq!(shown(line.as_bytes(), true), coloured);
        }
    }

    #[test]
    fn a_line_waits_until_it_is_whole_or_the_last() {
        let mut rest = b"one\ntwo\n\nthr".to_vec();
        assert_eq!(whole_lines(&mut rest, false), [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(whole_lines(&mut rest, false), [] as [Vec<u8>; 0]);
        rest.extend_from_slice(b"ee");
        assert_eq!(whole_lines(&mut rest, true), [b"three".to_vec()]);
        assert!(rest.is_empty());
    }
}
