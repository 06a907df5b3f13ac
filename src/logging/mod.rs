//! Our own log, for operators: one line an event on standard error, in the formats that GitLab
//! Runner has (`runner`, `text`, `json`), so that what reads its log reads ours.
//!
//! Fields of the spans around an event (runner, job, instance) stand in its line; the innermost wins.

mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

pub use line::{Format, Line};

/// The level and format in force can be changed while the process runs: a reload of the file does.
#[derive(Clone)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    format: Arc<RwLock<Format>>,
    /// The format where none is asked for.
    usual: Format,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").field("format", &self.format).finish_non_exhaustive()
    }
}

/// A level that is none of panic, fatal, error, warn, info, debug, trace.
#[derive(Debug, thiserror::Error)]
#[error("log level {0:?} is none of error, warn, info, debug, trace")]
pub struct UnknownLevel(String);

impl LogControl {
    pub fn set_level(&self, level: &str) -> Result<(), UnknownLevel> {
        let filter = filter(level)?;
        // The only failure is that the subscriber is gone, and then nothing is logged any more.
        self.filter.reload(filter).ok();
        Ok(())
    }

    /// `None`: as [`init`] chooses it.
    pub fn set_format(&self, format: Option<Format>) {
        *self.format.write().unwrap_or_else(PoisonError::into_inner) = format.unwrap_or(self.usual);
    }
}

/// Starts logging for the whole process. Without a format: the runner format on a terminal, JSON
/// where the log is read by a machine.
pub fn init(level: &str, format: Option<Format>) -> Result<LogControl, UnknownLevel> {
    let terminal = std::io::stderr().is_terminal();
    let usual = if terminal { Format::Runner } else { Format::Json };
    let (filter, filter_handle) = reload::Layer::new(filter(level)?);
    let format = Arc::new(RwLock::new(format.unwrap_or(usual)));
    // A closed standard error is no reason to stop running jobs.
    let write = |line: &str| drop(std::io::stderr().lock().write_all(line.as_bytes()));
    let lines = Lines { format: format.clone(), color: terminal, write };
    let subscriber = Registry::default().with(filter).with(lines);
    // A test process may have a subscriber already; the first one stays.
    tracing::subscriber::set_global_default(subscriber).ok();
    Ok(LogControl { filter: filter_handle, format, usual })
}

/// Our level words are GitLab Runner's; below warnings the libraries stay silent.
fn filter(level: &str) -> Result<EnvFilter, UnknownLevel> {
    let level = match level.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => "error",
        "warn" | "warning" => "warn",
        "info" => "info",
        "debug" => "debug",
        "trace" => "trace",
        _ => return Err(UnknownLevel(level.to_owned())),
    };
    Ok(EnvFilter::new(format!("warn,flotilla={level}")))
}

/// Writes each event as a line.
struct Lines<W> {
    format: Arc<RwLock<Format>>,
    color: bool,
    write: W,
}

impl<S: Subscriber + for<'span> LookupSpan<'span>, W: Fn(&str) + 'static> Layer<S> for Lines<W> {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten().collect::<Vec<_>>().into_iter().rev() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.values.extend(outer.values.clone());
            }
        }
        event.record(&mut fields);
        let line = Line {
            time: crate::time::now().utc,
            level: *event.metadata().level(),
            message: fields.message.unwrap_or_default(),
            fields: fields.values,
        };
        let format = *self.format.read().unwrap_or_else(PoisonError::into_inner);
        let text = line.render(format, self.color);
        (self.write)(&text);
    }
}

/// The fields of one span or event, as text.
#[derive(Debug, Default)]
struct Fields {
    message: Option<String>,
    values: BTreeMap<&'static str, String>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = Some(value);
        } else {
            self.values.insert(field.name(), value);
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, crate::error_chain::Chain(value).to_string());
    }
}

/// What this thread logs, as the runner format shows it.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Captured(Arc<std::sync::Mutex<String>>);

#[cfg(test)]
impl Captured {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Captures what this thread logs until the guard is dropped.
#[cfg(test)]
pub(crate) fn captured() -> (Captured, tracing::subscriber::DefaultGuard) {
    let captured = Captured::default();
    let into = captured.clone();
    let write = move |line: &str| into.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(line);
    let lines = Lines { format: Arc::new(RwLock::new(Format::Runner)), color: false, write };
    let guard = tracing::subscriber::set_default(Registry::default().with(EnvFilter::new("flotilla=info")).with(lines));
    (captured, guard)
}
