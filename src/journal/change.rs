//! What can be done to a record.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::JournalError;

/// A change to one record of a section.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub(super) kind: &'static str,
    pub(super) key: String,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// The record is this from now on; where both are objects, fields of the old one that are not named here stay.
    Put(Value),
    /// Where there is such a record, these fields of it.
    Amend(Map<String, Value>),
    Remove,
}

impl Change {
    /// Keeps a record, in place of the one with the same kind and key. An object always has to have all of its fields:
    /// one that were left out would be taken for a later version's, and stay as it was.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn put(kind: &'static str, key: impl Into<String>, record: &impl Serialize) -> Result<Self, JournalError> {
        let key = key.into();
        match serde_json::to_value(record) {
            Ok(record) => Ok(Self { kind, key, what: What::Put(record) }),
            Err(source) => Err(JournalError::Unwritable { kind, key, source: Arc::new(source) }),
        }
    }

    /// Gives a field of a record another value. Where there is no such record, nothing happens.
    pub fn amend(kind: &'static str, key: impl Into<String>, field: &'static str, value: String) -> Self {
        let fields = Map::from_iter([(field.to_owned(), Value::String(value))]);
        Self { kind, key: key.into(), what: What::Amend(fields) }
    }

    /// Forgets a record; there may be none.
    pub fn remove(kind: &'static str, key: impl Into<String>) -> Self {
        Self { kind, key: key.into(), what: What::Remove }
    }

    /// What this change and then a later one of the same record come to.
    pub(super) fn follow(&mut self, later: Self) {
        match (&mut self.what, later.what) {
            (What::Put(Value::Object(fields)) | What::Amend(fields), What::Amend(more)) => fields.extend(more),
            // There is nothing to amend.
            (What::Put(_) | What::Remove, What::Amend(_)) => {}
            (what, later @ (What::Put(_) | What::Remove)) => *what = later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &str) -> Change {
        Change::put("kind", "key", &serde_json::json!({"a": text})).unwrap()
    }

    fn amend(text: &str) -> Change {
        Change::amend("kind", "key", "b", text.to_owned())
    }

    #[test]
    fn two_changes_of_a_record_come_to_what_one_after_the_other_would_do() {
        let removal = Change::remove("kind", "key");
        let both = Change::put("kind", "key", &serde_json::json!({"a": "1", "b": "2"})).unwrap();
        for (first, later, sum) in [
            (put("1"), put("2"), put("2")),
            (put("1"), amend("2"), both),
            (amend("1"), amend("2"), amend("2")),
            (amend("1"), put("2"), put("2")),
            (put("1"), removal.clone(), removal.clone()),
            (removal.clone(), amend("1"), removal.clone()),
            (removal, put("1"), put("1")),
        ] {
            let mut change = first.clone();
            change.follow(later.clone());
            assert_eq!(change, sum, "{first:?}, then {later:?}");
        }
    }
}
