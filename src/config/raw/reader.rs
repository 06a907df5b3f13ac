//! The walk over the tree: the types that a section's struct can have, and the macro that makes such structs.

use std::collections::BTreeMap;

use crate::config::diagnostics::{Diagnostic, Diagnostics, KeyPath, Spot};
use crate::config::raw::hints;
use crate::config::raw::tree::{Entry, Node, Value};
use crate::config::secrecy::is_secret;

/// A value of the file with its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) spot: Spot,
}

/// What the walk collects besides values.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) diagnostics: Diagnostics,
    /// Every key of the file that has a value other than false, zero or nothing.
    pub(crate) present: Vec<Spot>,
    /// Whether the file has a `[[runners]]`.
    pub(crate) has_runners: bool,
}

/// A key that a section knows, with the keys of the section below it.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) below: fn() -> Vec<Self>,
    /// How its section is headed; nothing for a key that is no section.
    pub(crate) heading: Option<Heading>,
}

impl Key {
    pub(crate) fn of<T: Decode>(name: &'static str) -> Self {
        Self { name, below: T::keys, heading: T::HEADING }
    }
}

/// `[x]` or `[[x]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heading {
    Single,
    Repeated,
}

/// What can stand in a key's place.
pub(crate) trait Decode: Sized {
    /// "an integer", as a message says it.
    const EXPECTED: &'static str;

    /// How it is headed, where it is a section.
    const HEADING: Option<Heading> = None;

    /// The value, or `None` and a diagnostic.
    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self>;

    /// The keys of a section; nothing for other values.
    fn keys() -> Vec<Key> {
        Vec::new()
    }
}

/// A section's struct, as the macro below makes it.
pub(crate) trait Section: Decode {
    /// Where its heading stands.
    fn spot(&self) -> &Spot;

    /// The section with none of its keys.
    fn empty(spot: Spot) -> Self;
}

impl Reader {
    /// Says that another type is expected here.
    pub(crate) fn wrong_type<T: Decode>(&mut self, value: &Value, spot: &Spot) -> &mut Diagnostic {
        self.diagnostics.error(spot, format!("{} is expected, not {}", T::EXPECTED, value.kind()))
    }

    /// Covers a text, or every text of a section or a list.
    fn hide(&mut self, node: &Node) {
        match &node.value {
            Value::Table(entries) => entries.iter().for_each(|entry| self.hide(&entry.node)),
            Value::List(items) => items.iter().for_each(|item| self.hide(item)),
            Value::Text(_) => self.diagnostics.hide(node.span.clone()),
            Value::Integer(_) | Value::Oversized(_) | Value::Float(_) | Value::Boolean(_) | Value::Date(_) => {}
        }
    }

    fn at<T: Decode>(&mut self, node: &Node, path: KeyPath) -> Option<At<T>> {
        let spot = Spot { span: node.span.clone(), path };
        let value = T::decode(&node.value, &spot, self)?;
        Some(At { value, spot })
    }
}

/// A section that is being read: what is left of it when all known keys are taken is unknown.
pub(crate) struct Table<'t> {
    entries: &'t [Entry],
    spot: Spot,
    taken: Vec<&'t str>,
}

impl<'t> Table<'t> {
    pub(crate) fn open<T: Decode>(value: &'t Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        let Value::Table(entries) = value else {
            hints::not_a_section(value, &spot.path, reader.wrong_type::<T>(value, spot));
            return None;
        };
        Some(Self { entries, spot: spot.clone(), taken: Vec::new() })
    }

    /// The value of a key: the exact spelling first, then any other case.
    pub(crate) fn take<T: Decode>(&mut self, key: &'static str, reader: &mut Reader) -> Option<At<T>> {
        let lower = key.to_lowercase();
        let mut spellings: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.key.to_lowercase() == lower).collect();
        spellings.sort_by_key(|entry| entry.key != key);
        let mut spellings = spellings.into_iter();
        let first = spellings.next()?;
        self.taken.push(&first.key);
        for other in spellings {
            self.taken.push(&other.key);
            if is_secret(key) {
                reader.hide(&other.node);
            }
            let spot = Spot { span: other.key_span.clone(), path: self.spot.path.key(&other.key) };
            let message = format!("the key stands here twice, as {} and as {}", first.key, other.key);
            reader.diagnostics.error(&spot, message).help(format!("keep one of them, spelled {key}"));
        }
        if is_secret(key) {
            reader.hide(&first.node);
        }
        let path = self.spot.path.key(key);
        if !first.node.value.is_nothing() {
            reader.present.push(Spot { span: first.key_span.clone(), path: path.clone() });
        }
        reader.at(&first.node, path)
    }

    /// Reports the keys that were not asked for. What they are nobody knows, so that their values are not shown.
    pub(crate) fn finish<T: Decode>(self, reader: &mut Reader) {
        let unknown = self.entries.iter().filter(|entry| !self.taken.contains(&entry.key.as_str()));
        for entry in unknown {
            let spot = Spot { span: entry.key_span.clone(), path: self.spot.path.key(&entry.key) };
            reader.hide(&entry.node);
            hints::unknown_key(&spot, entry, &T::keys(), reader);
        }
    }
}

/// The label of an element in key paths: its name where no other has the same, else its number from 0.
pub(crate) fn label(items: &[Node], index: usize) -> String {
    let name_of = |item: &Node| item.value.get("name").and_then(Value::as_text).map(str::to_owned);
    let name = items.get(index).and_then(name_of).filter(|name| !name.is_empty());
    let alone = |name: &String| items.iter().filter(|item| name_of(item).as_ref() == Some(name)).count() == 1;
    name.filter(alone).unwrap_or_else(|| index.to_string())
}

/// A list of values, or an array of tables.
impl<T: Decode> Decode for Vec<At<T>> {
    const EXPECTED: &'static str = if T::HEADING.is_some() { "a list of sections" } else { "a list" };
    const HEADING: Option<Heading> = if T::HEADING.is_some() { Some(Heading::Repeated) } else { None };

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = value else {
            let problem = reader.wrong_type::<Self>(value, spot);
            hints::not_a_list::<T>(value, spot, problem);
            return None;
        };
        let mut values = Self::new();
        for (index, item) in items.iter().enumerate() {
            values.extend(reader.at(item, spot.path.element(&label(items, index))));
        }
        Some(values)
    }

    fn keys() -> Vec<Key> {
        T::keys()
    }
}

/// A table whose keys are the operator's own.
impl<T: Decode> Decode for BTreeMap<String, At<T>> {
    const EXPECTED: &'static str = "a table";
    const HEADING: Option<Heading> = Some(Heading::Single);

    fn decode(value: &Value, spot: &Spot, reader: &mut Reader) -> Option<Self> {
        let Value::Table(entries) = value else {
            reader.wrong_type::<Self>(value, spot);
            return None;
        };
        let mut values = Self::new();
        for entry in entries {
            if let Some(value) = reader.at(&entry.node, spot.path.key(&entry.key)) {
                values.insert(entry.key.clone(), value);
            }
        }
        Some(values)
    }
}

/// Makes the struct of a section: each line is a key, its spelling where that is no Rust name, and its type. Keys
/// that are `unused` are known and their type is checked, but nothing here asks for their value.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$note:meta])* $field:ident $(as $key:literal)? : $type:ty),* $(,)? }
        $(unused { $($idle:ident : $idle_type:ty),* $(,)? })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name {
            spot: crate::config::diagnostics::Spot,
            $($(#[$note])* pub(crate) $field: Option<crate::config::raw::reader::At<$type>>,)*
        }

        impl crate::config::raw::reader::Section for $name {
            fn spot(&self) -> &crate::config::diagnostics::Spot {
                &self.spot
            }

            fn empty(spot: crate::config::diagnostics::Spot) -> Self {
                Self { spot, $($field: None,)* }
            }
        }

        impl crate::config::raw::reader::Decode for $name {
            const EXPECTED: &'static str = "a section";
            const HEADING: Option<crate::config::raw::reader::Heading> =
                Some(crate::config::raw::reader::Heading::Single);

            fn decode(
                value: &crate::config::raw::tree::Value,
                spot: &crate::config::diagnostics::Spot,
                reader: &mut crate::config::raw::reader::Reader,
            ) -> Option<Self> {
                let mut table = crate::config::raw::reader::Table::open::<Self>(value, spot, reader)?;
                let section = Self {
                    spot: spot.clone(),
                    $($field: table.take(crate::config::raw::reader::section!(@key $field $($key)?), reader),)*
                };
                $($(table.take::<$idle_type>(stringify!($idle), reader);)*)?
                table.finish::<Self>(reader);
                Some(section)
            }

            fn keys() -> Vec<crate::config::raw::reader::Key> {
                vec![
                    $(crate::config::raw::reader::Key::of::<$type>(
                        crate::config::raw::reader::section!(@key $field $($key)?)
                    ),)*
                    $($(crate::config::raw::reader::Key::of::<$idle_type>(stringify!($idle)),)*)?
                ]
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}
pub(crate) use section;
