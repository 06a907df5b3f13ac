//! The parsed file as a tree of our own: owned, in the order of the file, every key and value with its bytes.

use crate::config::diagnostics::Span;

/// What Go writes for a date that was never set.
pub(crate) const ZERO_DATE: &str = "0001-01-01T00:00:00Z";

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    /// An integer beyond 64 bits, as it is written.
    Oversized(String),
    Float(f64),
    Boolean(bool),
    Date(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Value {
    /// "an integer", as a message says it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) | Self::Oversized(_) => "an integer",
            Self::Float(_) => "a number with a fraction",
            Self::Boolean(_) => "a boolean",
            Self::Date(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A key of a table, in its exact spelling.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Table(entries) = self else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.value)
    }

    /// Whether it is a table, or a list of tables: something with a heading of its own.
    pub(crate) fn is_section(&self) -> bool {
        match self {
            Self::Table(_) => true,
            Self::List(items) => items.iter().any(|item| item.value.is_section()),
            Self::Text(_)
            | Self::Integer(_)
            | Self::Oversized(_)
            | Self::Float(_)
            | Self::Boolean(_)
            | Self::Date(_) => false,
        }
    }

    /// False, zero, never and nothing: what a registered file is full of.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Integer(number) => *number == 0,
            Self::Float(number) => *number == 0.0,
            Self::Boolean(value) => !value,
            Self::Date(text) => text == ZERO_DATE,
            Self::Oversized(_) => false,
            Self::List(items) => items.is_empty(),
            Self::Table(entries) => entries.iter().all(|entry| entry.node.value.is_nothing()),
        }
    }

    /// As JSON, for what is passed on.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) | Self::Date(text) | Self::Oversized(text) => text.as_str().into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Boolean(value) => (*value).into(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.node.value.to_json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }
}
