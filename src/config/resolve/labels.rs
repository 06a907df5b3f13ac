//! Labels of runners: their letters, and how many there may be.

use std::collections::BTreeMap;

use crate::config::raw::At;
use crate::config::resolve::context::Context;

/// Global and own labels of a runner together.
pub(crate) const MAX_LABELS: usize = 32;

/// The labels of one table, each checked.
pub(crate) fn resolve(
    table: &Option<At<BTreeMap<String, At<String>>>>,
    context: &mut Context<'_>,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in table.iter().flat_map(|table| &table.value) {
        if !is_key(key) {
            let message = format!("{key:?} is no name of a label");
            context.error(&value.spot, message).help("it has 3 to 65 letters, digits, and . _ - after the first");
        }
        if !is_value(&value.value) {
            let message = format!("{:?} is no value of a label", value.value);
            context.error(&value.spot, message).help("it has 1 to 256 letters, digits and . _ -");
        }
        labels.insert(key.clone(), value.value.clone());
    }
    labels
}

fn is_key(key: &str) -> bool {
    let first = key.bytes().next();
    (3..=65).contains(&key.len())
        && first.is_some_and(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
        && key.bytes().all(is_label_byte)
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(is_label_byte)
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_have_their_letters_and_lengths() {
        for (key, fits) in
            [("abc", true), ("_a.b-c", true), ("ab", false), ("-abc", false), ("a b", false), ("äbc", false)]
        {
            assert_eq!(is_key(key), fits, "{key}");
        }
        assert!(is_key(&"a".repeat(65)) && !is_key(&"a".repeat(66)));
        assert!(is_value(&"a".repeat(256)) && !is_value(&"a".repeat(257)) && !is_value("") && is_value("-"));
    }
}
