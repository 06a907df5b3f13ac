//! Lines to the user of a job, in the form that job logs have: the message padded to 50 columns, then the
//! fields in the order of their names.
//!
//! This is no log of ours: the lines are part of the job's trace, so they go to stderr as they are, one
//! write each, and `tracing` is not involved.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Mutex;

use serde_json::{Map, Value};

use super::calendar;
use super::cli::OutputArgs;
use super::environment::Environment;

/// Column at which the fields begin.
const MESSAGE_COLUMNS: usize = 50;

const RESET: &str = "\u{1b}[0;m";
const YELLOW: &str = "\u{1b}[0;33m";
const BOLD_RED: &str = "\u{1b}[31;1m";
const BOLD_WHITE: &str = "\u{1b}[37;1m";

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Runner,
    Text,
    Json,
}

/// A named value of a line.
pub(super) type Field<'a> = (&'a str, &'a str);

/// Where a command's lines go.
pub struct Console {
    least: Level,
    format: Format,
    out: Mutex<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("least", &self.least).field("format", &self.format).finish_non_exhaustive()
    }
}

impl Console {
    /// On stderr, as the flags or the environment want it. A job's variables may mean a level or a format
    /// for the user's own programs, so what is not known is the default.
    pub fn stderr(args: &OutputArgs, environment: &Environment) -> Self {
        let debug = args.debug.unwrap_or_else(|| environment.is_true("RUNNER_DEBUG"));
        let level = args.log_level.as_deref().or_else(|| environment.get("LOG_LEVEL"));
        let format = args.log_format.as_deref().or_else(|| environment.get("LOG_FORMAT"));
        let least = match level {
            _ if debug => Level::Debug,
            Some("debug" | "trace") => Level::Debug,
            Some("warn" | "warning") => Level::Warning,
            Some("error") => Level::Error,
            Some("fatal" | "panic") => Level::Fatal,
            Some(_) | None => Level::Info,
        };
        let format = match format {
            Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(_) | None => Format::Runner,
        };
        Self { least, format, out: Mutex::new(Box::new(io::stderr())) }
    }

    /// In the runner's format from `Info` on, to any writer.
    #[cfg(test)]
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        Self { least: Level::Info, format: Format::Runner, out: Mutex::new(Box::new(out)) }
    }

    pub fn debug(&self, message: &str) {
        self.line(Level::Debug, message, &[]);
    }

    pub fn info(&self, message: &str) {
        self.line(Level::Info, message, &[]);
    }

    pub fn warning(&self, message: &str) {
        self.line(Level::Warning, message, &[]);
    }

    pub fn error(&self, message: &str) {
        self.line(Level::Error, message, &[]);
    }

    /// The last line of a command that failed.
    pub fn fatal(&self, message: &str) {
        self.line(Level::Fatal, message, &[]);
    }

    /// One line with fields. A line that cannot be written is lost: there is nowhere to say so.
    pub fn line(&self, level: Level, message: &str, fields: &[Field<'_>]) {
        if level < self.least {
            return;
        }
        let mut fields = fields.to_vec();
        fields.sort_unstable();
        let line = match self.format {
            Format::Runner => runner_line(level, message, &fields),
            Format::Text => text_line(level, message, &fields),
            Format::Json => json_line(level, message, &fields),
        };
        let mut out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if out.write_all(line.as_bytes()).is_ok() {
            out.flush().ok();
        }
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    fn color_and_prefix(self) -> (&'static str, &'static str) {
        match self {
            Self::Debug => (BOLD_WHITE, ""),
            Self::Info => ("", ""),
            Self::Warning => (YELLOW, "WARNING: "),
            Self::Error => (BOLD_RED, "ERROR: "),
            Self::Fatal => (BOLD_RED, "FATAL: "),
        }
    }
}

fn runner_line(level: Level, message: &str, fields: &[Field<'_>]) -> String {
    let (color, prefix) = level.color_and_prefix();
    let columns = MESSAGE_COLUMNS - prefix.len();
    let mut line = format!("{color}{prefix}{message:<columns$}{RESET} ");
    for (name, value) in fields {
        push(&mut line, format_args!(" {color}{name}{RESET}={value}"));
    }
    line.push('\n');
    line
}

fn text_line(level: Level, message: &str, fields: &[Field<'_>]) -> String {
    let mut line = format!("time={} level={} msg={message:?}", now(), level.name());
    for (name, value) in fields {
        push(&mut line, format_args!(" {name}={value:?}"));
    }
    line.push('\n');
    line
}

fn json_line(level: Level, message: &str, fields: &[Field<'_>]) -> String {
    let mut object = Map::new();
    for (name, value) in [("level", level.name()), ("msg", message)].iter().chain(fields) {
        object.insert((*name).to_owned(), Value::from(*value));
    }
    object.insert("time".to_owned(), Value::from(now()));
    format!("{}\n", Value::Object(object))
}

fn push(line: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a String has no way to fail.
    line.write_fmt(part).ok();
}

fn now() -> String {
    calendar::rfc3339(crate::time::now().utc)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// What a console wrote, for tests of commands.
    #[derive(Clone, Debug, Default)]
    pub(in crate::helper) struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub(in crate::helper) fn console() -> (Console, Self) {
            let written = Self::default();
            (Console::to(written.clone()), written)
        }

        /// The lines without colours and padding.
        pub(in crate::helper) fn lines(&self) -> Vec<String> {
            let text = self.text();
            text.lines().map(|line| plain(line).trim_end().to_owned()).collect()
        }

        pub(in crate::helper) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().map_err(|_| io::Error::other("poisoned"))?.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn plain(line: &str) -> String {
        [RESET, YELLOW, BOLD_RED, BOLD_WHITE].iter().fold(line.to_owned(), |line, code| line.replace(code, ""))
    }

    #[test]
    fn lines_look_like_those_of_the_reference() {
        let (console, written) = Written::console();
        console.info("out/*.log: excluded 1 files");
        console.warning("Cache file does not exist");
        console.info("out/**/*: found 4 matching artifact files and directories");
        console.line(
            Level::Info,
            "Uploading artifacts as \"archive\" to coordinator... 201 Created",
            &[("status", "201"), ("id", "1"), ("token", "rig-00000")],
        );
        console.line(Level::Error, "No", &[("a", "b")]);
        console.debug("not shown");
        assert_eq!(
            written.text(),
            "out/*.log: excluded 1 files                       \u{1b}[0;m \n\
             \u{1b}[0;33mWARNING: Cache file does not exist                \u{1b}[0;m \n\
             out/**/*: found 4 matching artifact files and directories\u{1b}[0;m \n\
             Uploading artifacts as \"archive\" to coordinator... 201 Created\u{1b}[0;m  id\u{1b}[0;m=1 status\u{1b}[0;m=201 token\u{1b}[0;m=rig-00000\n\
             \u{1b}[31;1mERROR: No                                         \u{1b}[0;m  \u{1b}[31;1ma\u{1b}[0;m=b\n"
        );
    }

    #[test]
    fn json_lines_are_objects() {
        let line = json_line(Level::Warning, "a \"b\"", &[("id", "7")]);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["msg"], &value["id"]), (&"warning".into(), &"a \"b\"".into(), &"7".into()));
    }

    #[test]
    fn a_users_own_log_level_does_not_stop_the_helper() {
        let environment = |level: &str| Environment::new([("LOG_LEVEL".into(), level.into())], "/".into());
        assert_eq!(Console::stderr(&OutputArgs::default(), &environment("verbose")).least, Level::Info);
        assert_eq!(Console::stderr(&OutputArgs::default(), &environment("error")).least, Level::Error);
        let debug = OutputArgs { debug: Some(true), ..OutputArgs::default() };
        assert_eq!(Console::stderr(&debug, &environment("error")).least, Level::Debug);
    }
}
