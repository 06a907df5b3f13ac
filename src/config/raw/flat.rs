//! A file as one list of keys with their values, for comparing two.

use std::collections::BTreeMap;

use toml::de::DeTable;

use crate::config::diagnostics::{KeyPath, Source, Span};
use crate::config::raw::reader::label;
use crate::config::raw::syntax::table;
use crate::config::raw::tree::{Node, Value};

/// One value of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    /// The key as it is written.
    pub(crate) shown: String,
    /// The key in lower case, without the labels of elements.
    pub(crate) plain: String,
    /// The value as JSON writes it.
    pub(crate) text: String,
    /// Where the value stands.
    pub(crate) span: Span,
}

/// Every value of a file by its key in lower case; lists of plain values are one value. Names of runners keep
/// their case in the file.
pub(crate) fn flatten(source: &Source) -> BTreeMap<String, Flat> {
    let (document, _) = DeTable::parse_recoverable(source.text());
    let mut found = BTreeMap::new();
    let root = Node { value: table(document.get_ref()), span: 0..source.text().len() };
    walk(&root, &KeyPath::root(), &mut found);
    found
}

fn walk(node: &Node, path: &KeyPath, found: &mut BTreeMap<String, Flat>) {
    let Node { value, span } = node;
    match value {
        Value::Table(entries) => entries.iter().for_each(|entry| walk(&entry.node, &path.key(&entry.key), found)),
        Value::List(items) if value.is_section() => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &path.element(&label(items, index)), found);
            }
        }
        Value::List(_)
        | Value::Text(_)
        | Value::Integer(_)
        | Value::Oversized(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Date(_) => {
            let shown = path.shown().to_owned();
            let (plain, text) = (path.plain().to_lowercase(), value.to_json().to_string());
            let flat = Flat { plain, text, shown, span: span.clone() };
            found.insert(flat.shown.to_lowercase(), flat);
        }
    }
}
