//! From text to the tree, and from the tree to the file's struct. The only place that uses the TOML parser.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::diagnostics::{KeyPath, Source, Spot};
use crate::config::raw::hints;
use crate::config::raw::reader::{Decode, Reader};
use crate::config::raw::tree::{Entry, Node, Value};

/// The text is no TOML, or no file of ours; the reader has the reasons.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreadable;

/// Reads a whole file. With errors of syntax, what the parser could still make out is checked as well, but not
/// on the lines that it stumbled over, and the file is unreadable all the same.
pub(crate) fn read<T: Decode>(source: &Source, reader: &mut Reader) -> Result<T, Unreadable> {
    let (document, errors) = DeTable::parse_recoverable(source.text());
    let mut broken_lines: Vec<usize> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let (line, _) = source.position(span.start);
        if !broken_lines.contains(&line) {
            broken_lines.push(line);
            let spot = Spot { span, path: KeyPath::root() };
            hints::syntax(source, line, &spot, error.message(), reader);
        }
    }
    let root = table(document.get_ref());
    let has_runners = matches!(root.get("runners"), Some(Value::List(_)));
    let mut walked = Reader { has_runners, ..Reader::default() };
    let value = T::decode(&root, &Spot::file(), &mut walked);
    walked.diagnostics.retain(|item| !broken_lines.contains(&source.position(item.spot.span.start).0));
    reader.diagnostics.extend(walked.diagnostics);
    reader.present.extend(walked.present);
    value.filter(|_| broken_lines.is_empty()).ok_or(Unreadable)
}

/// The tree of a parsed table.
pub(crate) fn table(table: &DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry { key: key.get_ref().clone().into_owned(), key_span: key.span(), node: node(value) })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Value::Table(entries)
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let tree = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Oversized(number.to_string()),
        },
        // Only a text that the parser has already complained about fails here.
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Node { value: tree, span: value.span() }
}
