//! What is logged on a test's own thread.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

/// One line.
#[derive(Clone, Debug)]
pub(in crate::taskscaler) struct Line {
    pub level: Level,
    pub message: String,
    pub fields: BTreeMap<&'static str, String>,
}

/// The lines so far.
#[derive(Clone, Debug, Default)]
pub(in crate::taskscaler) struct Said(Arc<Mutex<Vec<Line>>>);

impl Said {
    /// Listens until the guard is dropped.
    pub(in crate::taskscaler) fn listen() -> (Self, DefaultGuard) {
        let said = Self::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(said.clone()));
        (said, guard)
    }

    /// What was said since it was taken last.
    pub(in crate::taskscaler) fn take(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// How often this was said at this level since it was taken last.
    pub(in crate::taskscaler) fn count(&self, level: Level, message: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.level == level && line.message == message).count()
    }
}

impl<S: Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        self.0.lock().unwrap().push(Line { level: *event.metadata().level(), message, fields: fields.0 });
    }
}

#[derive(Debug, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
