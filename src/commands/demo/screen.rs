//! What the person at the terminal sees: one line a fact, each with its time and what it is about. Nothing is
//! ever drawn over, so that it reads the same in a file.

use std::io::Write;
use std::time::{Duration, Instant};

/// Colours of the jobs' names, which take turns.
const JOB_COLOURS: [&str; 6] = ["36", "33", "35", "34", "32", "96"];

/// How a text is set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Bold,
    Dim,
    Good,
    Bad,
    /// The name of the job with this number.
    Job(usize),
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "1;32",
            Self::Bad => "1;31",
            Self::Job(number) => JOB_COLOURS.get(number % JOB_COLOURS.len()).copied().unwrap_or_default(),
        }
    }
}

/// The lines of the demo.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    colours: bool,
    started: Instant,
    label_width: usize,
}

impl Screen {
    /// `label_width` is the length of the longest label.
    pub(super) fn new(out: Box<dyn Write + Send>, colours: bool, started: Instant, label_width: usize) -> Self {
        Self { out, colours, started, label_width }
    }

    /// Whether colours of others, such as those in traces, are shown too.
    pub(super) fn has_colours(&self) -> bool {
        self.colours
    }

    /// A fact about something that has a label.
    pub(super) fn fact(&mut self, label: &str, paint: Paint, text: &str) {
        let passed = crate::time::now().instant.saturating_duration_since(self.started);
        let label = self.paint(paint, &format!("{label:<width$}", width = self.label_width));
        let time = self.paint(Paint::Dim, &format!("{:>6}", seconds(passed)));
        self.line(&format!("{time} {label} | {text}"));
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: &str) {
        // A closed terminal is no reason to leave instances behind.
        writeln!(self.out, "{text}").ok();
        self.out.flush().ok();
    }

    /// The text with its colour, where there are colours.
    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        if self.colours { format!("\x1b[{}m{text}\x1b[0m", paint.code()) } else { text.to_owned() }
    }
}

/// `1.4s`.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
