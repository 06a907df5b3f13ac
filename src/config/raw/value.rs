//! Single values of the file: what TOML type each may have.

use std::time::SystemTime;

use jiff::Timestamp;

use crate::config::diagnostics::Spot;
use crate::config::raw::reader::{At, Decode, Heading, Reader};
use crate::config::raw::tree::{Value, ZERO_DATE};
use crate::config::secrecy::is_secret;
use crate::config::types::boolean;
use crate::config::types::placeholder::is_placeholder;
use crate::go_duration::GoDuration;
use crate::secret::Secret;

impl Decode for String {
    const EXPECTED: &'static str = "text";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        if let Value::Text(text) = value {
            placeholder(text, spot, reader);
            return Some(text.clone());
        }
        let problem = reader.wrong_type::<Self>(value, spot);
        if let Value::Integer(number) = value {
            problem.help(if is_secret(spot.path.key_name()) {
                "put it into quotes".to_owned()
            } else {
                format!("write \"{number}\"")
            });
        }
        None
    }
}

/// Text that must not be shown.
impl Decode for Secret {
    const EXPECTED: &'static str = "text";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        reader.diagnostics.hide(spot.span.clone());
        let Value::Text(text) = value else {
            reader.wrong_type::<Self>(value, spot).help("put it into quotes");
            return None;
        };
        placeholder(text, spot, reader);
        Some(Self::new(text.clone()))
    }
}

fn placeholder(text: &str, spot: &Spot, reader: &mut Reader) {
    if is_placeholder(text) {
        reader.diagnostics.warning(spot, "a placeholder stands here").help("write the value that it stands for");
    }
}

impl Decode for i64 {
    const EXPECTED: &'static str = "an integer";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        if let Value::Integer(number) = value {
            return Some(*number);
        }
        if let Value::Oversized(number) = value {
            reader.diagnostics.error(spot, format!("{number} does not fit into 64 bits"));
            return None;
        }
        let problem = reader.wrong_type::<Self>(value, spot);
        if let Some(number) = value.as_text().and_then(|text| text.trim().parse::<Self>().ok()) {
            problem.help(format!("write {number} without quotes"));
        }
        None
    }
}

/// Integers will do where fractions are expected, as the reference's decoder has it.
impl Decode for f64 {
    const EXPECTED: &'static str = "a number";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        match value {
            Value::Float(number) if number.is_finite() => Some(*number),
            #[expect(clippy::cast_precision_loss, reason = "what an operator writes is far below 2^53")]
            Value::Integer(number) => Some(*number as Self),
            Value::Float(number) => {
                reader.diagnostics.error(spot, format!("{number} is no number that can be used here"));
                None
            }
            Value::Text(_)
            | Value::Oversized(_)
            | Value::Boolean(_)
            | Value::Date(_)
            | Value::List(_)
            | Value::Table(_) => {
                reader.wrong_type::<Self>(value, spot);
                None
            }
        }
    }
}

impl Decode for bool {
    const EXPECTED: &'static str = "a boolean";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        if let Value::Boolean(value) = value {
            return Some(*value);
        }
        let text = if let Value::Integer(number) = value {
            Some(number.to_string())
        } else {
            value.as_text().map(str::to_owned)
        };
        let meant = text.and_then(|text| boolean::parse(&text));
        let help = meant.map_or_else(|| "write true or false".to_owned(), |meant| format!("write {meant}"));
        reader.wrong_type::<Self>(value, spot).help(help);
        None
    }
}

/// Text in Go's syntax, or nanoseconds as an integer.
impl Decode for GoDuration {
    const EXPECTED: &'static str = "a duration such as \"20m0s\"";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        match value {
            Value::Text(text) => parse_duration(text, spot, reader),
            Value::Integer(nanos) => {
                if *nanos != 0 && nanos.unsigned_abs() < 1_000_000 {
                    let message = format!("the integer {nanos} is read as nanoseconds, as in the reference");
                    reader.diagnostics.warning(spot, message).help(format!("for seconds write \"{nanos}s\""));
                }
                Some(Self::from_nanos(*nanos))
            }
            Value::Oversized(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Date(_)
            | Value::List(_)
            | Value::Table(_) => {
                let problem = reader.wrong_type::<Self>(value, spot);
                if let Value::Float(seconds) = value {
                    problem.help(format!("for seconds write \"{seconds}s\""));
                }
                None
            }
        }
    }
}

fn parse_duration(text: &str, spot: &Spot, reader: &mut Reader) -> Option<GoDuration> {
    match text.parse() {
        Ok(duration) => Some(duration),
        Err(error) => {
            let problem = reader.diagnostics.error(spot, format!("{text:?} is no duration: {error}"));
            problem.help(error.suggestion(text).map_or_else(
                || "a duration is a sequence of numbers with units, such as \"1h30m\" or \"500ms\"".to_owned(),
                |suggestion| format!("write \"{suggestion}\""),
            ));
            None
        }
    }
}

/// One text or a list of them, as `pull_policy` takes it.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMany(pub(crate) Vec<At<String>>);

impl Decode for OneOrMany {
    const EXPECTED: &'static str = "text or a list of texts";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        match value {
            Value::Text(text) => Some(Self(vec![At { value: text.clone(), spot: spot.clone() }])),
            Value::List(_) => Vec::decode(value, spot, reader).map(Self),
            Value::Integer(_)
            | Value::Oversized(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Date(_)
            | Value::Table(_) => {
                reader.wrong_type::<Self>(value, spot);
                None
            }
        }
    }
}

/// A date with a zone; `None` inside is Go's zero date, which means never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub(crate) Option<SystemTime>);

impl Decode for Moment {
    const EXPECTED: &'static str = "a date such as 2026-11-21T09:30:00Z";

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        let (Value::Date(text) | Value::Text(text)) = value else {
            reader.wrong_type::<Self>(value, spot);
            return None;
        };
        if text == ZERO_DATE {
            return Some(Self(None));
        }
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Some(Self(Some(moment.into())));
        }
        let problem = reader.diagnostics.error(spot, format!("{text} is no date with a time zone"));
        problem.help("write it as 2026-11-21T09:30:00Z");
        None
    }
}

/// A table that is kept as it is: its shape depends on other keys, or it is passed on.
#[derive(Clone, Debug)]
pub(crate) struct Deferred(Value);

impl Decode for Deferred {
    const EXPECTED: &'static str = "a table";
    const HEADING: Option<Heading> = Some(Heading::Single);

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        if let Value::Table(_) = value {
            return Some(Self(value.clone()));
        }
        reader.wrong_type::<Self>(value, spot);
        None
    }
}

impl At<Deferred> {
    /// Reads it as a section, now that its kind is known.
    pub(crate) fn read<T: Decode>(&self, reader: &mut Reader) -> Option<T> {
        T::decode(&self.value.0, &self.spot, reader)
    }

    /// As JSON, for what is passed on.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.value.0.to_json()
    }
}

/// A section of an executor or feature that is known by name only: whatever it contains is no unknown key.
#[derive(Clone, Debug)]
pub(crate) struct Foreign;

impl Decode for Foreign {
    const EXPECTED: &'static str = "a section";
    const HEADING: Option<Heading> = Some(Heading::Single);

    fn decode(_value: &Value, _spot: &Spot, _reader: &mut Reader) -> Option<Self> {
        Some(Self)
    }
}
