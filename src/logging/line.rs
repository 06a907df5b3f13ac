//! One event as the text of its line. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use tracing::Level;

/// The formats of `log_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The message padded to 50 columns, then `key=value` sorted; coloured on a terminal.
    Runner,
    /// `time="…" level=info msg="…" key=value`.
    Text,
    /// One JSON object with `level`, `msg`, `time` and the fields.
    Json,
}

/// An event with everything that its line shows.
#[derive(Debug)]
pub struct Line {
    pub time: SystemTime,
    pub level: Level,
    pub message: String,
    pub fields: BTreeMap<&'static str, String>,
}

/// Where the fields begin in the runner format.
const MESSAGE_COLUMNS: usize = 50;

impl Line {
    /// The line with its newline.
    pub fn render(&self, format: Format, color: bool) -> String {
        match format {
            Format::Runner => self.runner(color),
            Format::Text => self.text(),
            Format::Json => self.json(),
        }
    }

    fn runner(&self, color: bool) -> String {
        let (paint, prefix) = match self.level {
            Level::ERROR => ("\x1b[31;1m", "ERROR: "),
            Level::WARN => ("\x1b[0;33m", "WARNING: "),
            Level::INFO => ("", ""),
            _ => ("\x1b[37;1m", ""),
        };
        let (paint, reset) = if color { (paint, "\x1b[0;m") } else { ("", "") };
        let width = MESSAGE_COLUMNS - prefix.len();
        let mut line = format!("{paint}{prefix}{:<width$}{reset} ", self.message);
        for (key, value) in &self.fields {
            // Writing to a String cannot fail.
            write!(line, " {paint}{key}{reset}={value}").ok();
        }
        line.push('\n');
        line
    }

    fn text(&self) -> String {
        let mut line = format!("time={:?} level={} msg={:?}", timestamp(self.time), level(self.level), self.message);
        for (key, value) in &self.fields {
            let plain =
                !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/@^+:".contains(&b));
            if plain { write!(line, " {key}={value}") } else { write!(line, " {key}={value:?}") }.ok();
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        let mut object: serde_json::Map<String, serde_json::Value> =
            self.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
        object.insert("level".to_owned(), level(self.level).into());
        object.insert("msg".to_owned(), self.message.clone().into());
        object.insert("time".to_owned(), timestamp(self.time).into());
        format!("{}\n", serde_json::Value::Object(object))
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        _ => "trace",
    }
}

/// RFC 3339 in UTC with microseconds.
fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(level: Level, format: Format, expected: &str) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_795_243_559, 250_000);
        let fields = BTreeMap::from([("runner", "abcdefghi".to_owned()), ("reason", "no \"room\"".to_owned())]);
        let line = Line { time, level, message: "instance marked for removal".to_owned(), fields };
        assert_eq!(line.render(format, false), expected);
    }

    #[test]
    fn lines_read_as_gitlab_runners() {
        check(
            Level::WARN,
            Format::Runner,
            "WARNING: instance marked for removal                reason=no \"room\" runner=abcdefghi\n",
        );
        check(
            Level::INFO,
            Format::Text,
            "time=\"2026-11-21T06:45:59.000250Z\" level=info msg=\"instance marked for removal\" reason=\"no \\\"room\\\"\" runner=abcdefghi\n",
        );
        check(
            Level::ERROR,
            Format::Json,
            "{\"level\":\"error\",\"msg\":\"instance marked for removal\",\"reason\":\"no \\\"room\\\"\",\"runner\":\"abcdefghi\",\"time\":\"2026-11-21T06:45:59.000250Z\"}\n",
        );
    }
}
