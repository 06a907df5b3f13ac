//! One event as the text of its line. Pure.
//!
//! Messages and values may quote a job, an engine or a server. None of them can begin a line of its own, send a terminal
//! a command, or turn the direction of the text: control characters, line separators and direction marks show as
//! escapes in every format. Nor can they make a line longer than its limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use tracing::Level;

use crate::excerpt::cut;
use crate::time::rfc3339;

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

/// The longest message or value: four times what is kept of one message from outside, so that an error with several
/// causes stays whole. With the few fields that an event has, it limits the line.
const LONGEST_VALUE: usize = 4 * crate::excerpt::LONGEST;

/// Where the fields begin in the runner format.
const MESSAGE_COLUMNS: usize = 50;

impl Line {
    /// The line with its newline, which is the only one in it.
    pub fn render(mut self, format: Format, color: bool) -> String {
        for text in self.fields.values_mut().chain([&mut self.message]) {
            *text = cut(std::mem::take(text), LONGEST_VALUE);
        }
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
        let mut line = format!("{paint}{prefix}{:<width$}{reset} ", escaped(&self.message));
        for (key, value) in &self.fields {
            // Writing to a String cannot fail.
            write!(line, " {paint}{key}{reset}={}", escaped(value)).ok();
        }
        line.push('\n');
        line
    }

    fn text(&self) -> String {
        let mut line = format!("time={:?} level={} msg={:?}", rfc3339(self.time, 6), level(self.level), self.message);
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
        object.insert("time".to_owned(), rfc3339(self.time, 6).into());
        let mut line = serde_json::Value::Object(object).to_string();
        // JSON allows some of these characters as they are; in a file or on a terminal they do the same harm.
        if line.contains(is_unsafe) {
            line = escape_with(&line, |escape, character| write!(escape, "\\u{:04x}", u32::from(character)));
        }
        line.push('\n');
        line
    }
}

/// The text with its unsafe characters as Rust writes them: `\n`, `\u{1b}`.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    escape_with(text, |escape, character| write!(escape, "{}", character.escape_default())).into()
}

fn escape_with(text: &str, write: impl Fn(&mut String, char) -> std::fmt::Result) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            // Writing to a String cannot fail.
            write(&mut escaped, character).ok();
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Characters that end a line, command a terminal, or change the direction of the text around them.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

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

    fn shown(format: Format, color: bool, message: &str, value: &str) -> String {
        let fields = BTreeMap::from([("error", value.to_owned())]);
        let line = Line { time: SystemTime::UNIX_EPOCH, level: Level::WARN, message: message.to_owned(), fields };
        line.render(format, color)
    }

    const FORMATS: [Format; 3] = [Format::Runner, Format::Text, Format::Json];

    #[test]
    fn nobody_forges_a_line_or_commands_a_terminal() {
        let check = |value: &str, runner: &str, json: &str| {
            let [in_runner, in_text, in_json] = FORMATS.map(|format| shown(format, false, value, value));
            assert_eq!(in_runner, format!("WARNING: {runner:<41}  error={runner}\n"));
            assert_eq!(
                in_json,
                format!(
                    "{{\"error\":\"{json}\",\"level\":\"warning\",\"msg\":\"{json}\",\"time\":\"1970-01-01T00:00:00.000000Z\"}}\n"
                )
            );
            assert!(in_text.contains(&format!(" msg=\"{runner}\" error=\"{runner}\"\n")), "{in_text}");
        };
        check("a\nERROR: forged", "a\\nERROR: forged", "a\\nERROR: forged");
        check("a\r\tb", "a\\r\\tb", "a\\r\\tb");
        check("\x1b[2J\x1b]0;title", "\\u{1b}[2J\\u{1b}]0;title", "\\u001b[2J\\u001b]0;title");
        check("\u{9b}2J", "\\u{9b}2J", "\\u009b2J");
        check("a\u{2028}b\u{2029}c\u{85}d", "a\\u{2028}b\\u{2029}c\\u{85}d", "a\\u2028b\\u2029c\\u0085d");
        check("\u{202e}drawkcab\u{2066}", "\\u{202e}drawkcab\\u{2066}", "\\u202edrawkcab\\u2066");
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["Grüße, 世界 – „ok“ 😀 e\u{301}", "a\\b 'c' [x] {y}: 5 %"] {
            assert_eq!(shown(Format::Runner, false, text, text), format!("WARNING: {text:<41}  error={text}\n"));
            let json: serde_json::Value = serde_json::from_str(&shown(Format::Json, false, text, text)).unwrap();
            assert_eq!((json["msg"].as_str(), json["error"].as_str()), (Some(text), Some(text)));
        }
    }

    #[test]
    fn value_of_megabytes_is_cut() {
        let long = "x".repeat(31 << 20);
        for format in FORMATS {
            let line = shown(format, true, &long, &long);
            assert!(line.len() < 3 * LONGEST_VALUE, "{format:?}: {}", line.len());
            assert!(line.contains("… (cut: it has 32505856 bytes)"), "{format:?}");
        }
    }

    proptest! {
        #[test]
        fn line_has_one_end_and_no_control_characters_but_our_colours(
            message in any::<String>(), value in ".*|[\\x00-\\x1f\\x7f-\\u{9f}\\u{2028}-\\u{202e}a]{0,20}", color: bool,
        ) {
            for format in FORMATS {
                let line = shown(format, color, &message, &value);
                let mut text = line.strip_suffix('\n').unwrap().to_owned();
                if color && format == Format::Runner {
                    prop_assert!(text.starts_with("\x1b[0;33mWARNING: "));
                    text = text.replace("\x1b[0;33m", "").replace("\x1b[0;m", "");
                }
                prop_assert!(!text.contains(is_unsafe), "{:?}: {:?}", format, text);
                if format == Format::Json {
                    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
                    prop_assert_eq!((json["msg"].as_str(), json["error"].as_str()), (Some(&*message), Some(&*value)));
                }
            }
        }
    }
}
