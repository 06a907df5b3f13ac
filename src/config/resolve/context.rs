//! What every part of resolving uses: where problems go, what may be asked of the outside, and the readings of
//! single values that occur again and again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::diagnostics::{Diagnostic, Severity, Spot};
use crate::config::environment::Environment;
use crate::config::file::Files;
use crate::config::raw::{At, Reader};
use crate::config::resolved::Refusal;
use crate::config::types::allow_list::AllowList;
use crate::config::types::period::{Parsed, Period, PeriodError};
use crate::config::types::size::ByteSize;
use crate::config::types::timezone::Timezone;
use crate::go_duration::GoDuration;
use crate::secret::Secret;

/// The reader of one of the two cron syntaxes.
pub(crate) type PeriodSyntax = fn(&str) -> Result<Parsed, PeriodError>;

/// The surroundings of resolving one file.
pub(crate) struct Context<'a> {
    pub(crate) reader: Reader,
    pub(crate) environment: &'a Environment,
    pub(crate) files: &'a dyn Files,
    /// Of the runner at hand.
    pub(crate) refusals: Vec<Refusal>,
}

impl Context<'_> {
    pub(crate) fn error(&mut self, spot: &Spot, message: impl Into<String>) -> &mut Diagnostic {
        self.reader.diagnostics.error(spot, message)
    }

    pub(crate) fn warning(&mut self, spot: &Spot, message: impl Into<String>) -> &mut Diagnostic {
        self.reader.diagnostics.warning(spot, message)
    }

    /// A reason not to serve the runner at hand: a warning here, a refusal in `run`. It takes the place of a milder
    /// word about the same value.
    pub(crate) fn refuse(&mut self, spot: &Spot, reason: impl Into<String>) -> &mut Diagnostic {
        let reason = reason.into();
        self.reader.diagnostics.retain(|item| item.spot != *spot || item.severity == Severity::Error);
        self.refusals.push(Refusal(format!("{}: {reason}", spot.path)));
        self.reader.diagnostics.warning(spot, format!("{reason}; run refuses this runner"))
    }

    /// Says that a key is an old one, and gives the new one's value where that is set, else the old one's.
    pub(crate) fn renamed<'v, T>(
        &mut self,
        new: &'v Option<At<T>>,
        old: &'v Option<At<T>>,
        name: &str,
    ) -> &'v Option<At<T>> {
        let Some(old_value) = old else { return new };
        let message =
            if new.is_some() { "this old key is ignored: the new one is set" } else { "this key has a new name" };
        self.warning(&old_value.spot, message).help(format!("write {name}"));
        if new.is_some() { new } else { old }
    }

    /// A text of a type. Nothing where it is missing, empty or wrong; wrong is an error.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&mut self, value: &Option<At<String>>, what: &str) -> Option<T> {
        let value = value.as_ref().filter(|value| !value.value.is_empty())?;
        self.parse_one(value, what)
    }

    pub(crate) fn parse_one<T: FromStr<Err: Display>>(&mut self, value: &At<String>, what: &str) -> Option<T> {
        match value.value.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.error(&value.spot, format!("{:?} is no {what}: {error}", value.value));
                None
            }
        }
    }

    /// Each text of a list as a type; the wrong ones are errors.
    pub(crate) fn parse_all<T: FromStr<Err: Display>>(
        &mut self,
        list: &Option<At<Vec<At<String>>>>,
        what: &str,
    ) -> Vec<T> {
        list.iter().flat_map(|list| &list.value).filter_map(|value| self.parse_one(value, what)).collect()
    }

    /// A size in bytes.
    pub(crate) fn bytes(&mut self, value: &Option<At<String>>) -> Option<u64> {
        self.parse::<ByteSize>(value, "size").map(|size| size.0)
    }

    /// A count; 0 where it is missing or negative, which is an error.
    pub(crate) fn count(&mut self, value: &Option<At<i64>>) -> u32 {
        self.count_or(value, 0)
    }

    /// A count with a default for a missing one.
    pub(crate) fn count_or(&mut self, value: &Option<At<i64>>, default: u32) -> u32 {
        let Some(value) = value else { return default };
        u32::try_from(value.value).unwrap_or_else(|_| {
            let message = if value.value < 0 { "it cannot be negative" } else { "it is too large" };
            self.error(&value.spot, format!("{message}: {}", value.value));
            default
        })
    }

    /// A count of which zero and less mean the default, as the reference has it.
    pub(crate) fn positive_count_or(&mut self, value: &Option<At<i64>>, default: u32) -> u32 {
        match value {
            Some(value) if value.value > 0 => self.count_or(&Some(value.clone()), default),
            _ => default,
        }
    }

    /// A limit, of which zero and less mean that there is none, as the reference has it.
    pub(crate) fn limit(&mut self, value: &Option<At<i64>>) -> u32 {
        if let Some(value) = value.as_ref().filter(|value| value.value < 0) {
            self.warning(&value.spot, format!("{} is taken as no limit, as in the reference", value.value))
                .help("write 0 for no limit");
            return 0;
        }
        self.count(value)
    }

    /// Seconds, of which zero and less mean the default.
    pub(crate) fn seconds_or(&mut self, value: &Option<At<i64>>, default: Duration) -> Duration {
        let seconds = self.positive_count_or(value, 0);
        if seconds == 0 { default } else { Duration::from_secs(seconds.into()) }
    }

    /// A duration of which zero and less mean the default, as the reference has it.
    pub(crate) fn duration_or(&mut self, value: &Option<At<GoDuration>>, default: Duration) -> Duration {
        self.duration(value).unwrap_or(default)
    }

    /// A duration; nothing where it is missing, zero or negative: the default is taken then, as in the reference.
    pub(crate) fn duration(&mut self, value: &Option<At<GoDuration>>) -> Option<Duration> {
        let value = value.as_ref()?;
        if value.value.is_negative() {
            let message = format!("{} is negative: the default is taken, as in the reference", value.value);
            self.warning(&value.spot, message).help("leave the key out");
        }
        value.value.to_std().filter(|duration| !duration.is_zero())
    }

    /// A file that must be readable, else the runner is refused.
    pub(crate) fn readable_file(&mut self, value: &Option<At<String>>) -> Option<PathBuf> {
        let value = value.as_ref().filter(|value| !value.value.is_empty())?;
        let path = PathBuf::from(&value.value);
        if let Err(error) = self.files.read(&path) {
            self.refuse(&value.spot, format!("cannot read {}: {error}", path.display()));
        }
        Some(path)
    }

    pub(crate) fn allow_list(&mut self, list: &Option<At<Vec<At<String>>>>) -> AllowList {
        let mut allowed = AllowList::default();
        for pattern in list.iter().flat_map(|list| &list.value) {
            match allowed.push(&pattern.value) {
                Ok(()) if pattern.value.starts_with('!') => {
                    let message = "a leading ! denies what matches, which the reference does not do";
                    self.warning(&pattern.spot, message);
                }
                Ok(()) => {}
                Err(error) => {
                    self.error(&pattern.spot, format!("{:?} is no pattern: {error}", pattern.value));
                }
            }
        }
        allowed
    }

    /// The periods of a list; the wrong ones are errors.
    pub(crate) fn periods(&mut self, list: &Option<At<Vec<At<String>>>>, syntax: PeriodSyntax) -> Vec<Period> {
        let mut periods = Vec::new();
        for text in list.iter().flat_map(|list| &list.value) {
            match syntax(&text.value) {
                Ok(parsed) => {
                    for remark in parsed.remarks {
                        self.warning(&text.spot, format!("{:?}: {remark}", text.value));
                    }
                    periods.push(parsed.period);
                }
                Err(error) => {
                    self.error(&text.spot, format!("{:?} is no period: {error}", text.value));
                }
            }
        }
        periods
    }

    /// A time zone; the system's where it is missing or wrong, which is an error.
    pub(crate) fn timezone(&mut self, value: &Option<At<String>>) -> Timezone {
        let Some(value) = value else { return Timezone::system() };
        value.value.parse().unwrap_or_else(|error| {
            let problem = self.error(&value.spot, format!("{:?}: {error}", value.value));
            problem.help("write a name of the IANA list such as \"Europe/Berlin\", \"UTC\", or \"Local\"");
            Timezone::system()
        })
    }

    /// `KEY=value` entries in their order; what has no `=` is dropped with a warning.
    pub(crate) fn variables(&mut self, list: &Option<At<Vec<At<String>>>>) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        for entry in list.iter().flat_map(|list| &list.value) {
            match entry.value.split_once('=') {
                Some((key, value)) => variables.push((key.to_owned(), value.to_owned())),
                None => self.warning(&entry.spot, "this entry is dropped: it has no =").help("write \"NAME=value\""),
            }
        }
        variables
    }
}

/// A text; nothing where it is missing or empty.
pub(crate) fn text(value: &Option<At<String>>) -> Option<String> {
    value.as_ref().map(|value| value.value.clone()).filter(|text| !text.is_empty())
}

/// A secret; nothing where it is missing or empty.
pub(crate) fn secret(value: &Option<At<Secret>>) -> Option<Secret> {
    value.as_ref().map(|value| value.value.clone()).filter(|secret| !secret.is_empty())
}

pub(crate) fn flag(value: &Option<At<bool>>) -> bool {
    optional_flag(value).unwrap_or_default()
}

pub(crate) fn optional_flag(value: &Option<At<bool>>) -> Option<bool> {
    value.as_ref().map(|value| value.value)
}

pub(crate) fn number(value: &Option<At<i64>>) -> i64 {
    value.as_ref().map_or(0, |value| value.value)
}

pub(crate) fn texts(list: &Option<At<Vec<At<String>>>>) -> Vec<String> {
    list.iter().flat_map(|list| &list.value).map(|text| text.value.clone()).collect()
}

pub(crate) fn map(map: &Option<At<BTreeMap<String, At<String>>>>) -> BTreeMap<String, String> {
    map.iter().flat_map(|map| &map.value).map(|(key, text)| (key.clone(), text.value.clone())).collect()
}
