//! What to say about things that do not fit: where a key belongs, what was probably meant.

use crate::config::diagnostics::{Diagnostic, KeyPath, Source, Spot};
use crate::config::raw::global::Config;
use crate::config::raw::reader::{Decode, Heading, Key, Reader};
use crate::config::raw::tree::{Entry, Value};
use crate::config::secrecy::is_secret;

/// Keys of documents, older versions and slips of the pen, with what to do.
const WELL_KNOWN: [(&str, &str); 7] = [
    ("metric_queries", "the reference's documents call it so, but the key is queries"),
    ("helper_image_autoset_arch_and_os", "this key exists only for the kubernetes executor"),
    ("tls-skip-verify", "this is no longer possible: name the server's authority in tls-ca-file"),
    ("cachepath", "the key is Path"),
    ("cacheshared", "the key is Shared"),
    ("runner", "write [[runners]]"),
    ("policies", "write [[runners.autoscaler.policy]]"),
];

/// Reports a key that its section does not know. At the top of a file without runners it is an error where the
/// key belongs into a runner: the file is a piece of another one.
pub(crate) fn unknown_key(spot: &Spot, entry: &Entry, known: &[Key], reader: &mut Reader) {
    let what = if entry.node.value.is_section() { "section" } else { "key" };
    let key = &entry.key;
    let homes = homes(key);
    let at_top = spot.path.plain() == key;
    let well_known = WELL_KNOWN.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
    let near = nearest(key, known);
    if at_top && !homes.is_empty() && near.is_none() && !reader.has_runners {
        let problem = reader.diagnostics.error(spot, format!("this {what} cannot stand alone"));
        problem.help(format!("it belongs to {}; write that, inside a [[runners]], above it", list(&homes)));
        return;
    }
    let problem = reader.diagnostics.warning(spot, format!("unknown {what}, ignored"));
    if let Some((_, help)) = well_known {
        problem.help(*help);
    } else if let Some(near) = near {
        problem.help(format!("did you mean {near}?"));
    } else if !homes.is_empty() {
        problem.help(format!("it belongs to {}", list(&homes)));
    }
}

/// Says what to write where a list is expected.
pub(crate) fn not_a_list<T: Decode>(value: &Value, spot: &Spot, problem: &mut Diagnostic) {
    let path = spot.path.plain();
    match value {
        Value::Table(entries) if T::HEADING.is_some() => {
            let first = entries.iter().find(|entry| entry.node.value.is_section());
            problem.message = match first {
                Some(entry) => format!("[{path}.{}] stands outside of any [[{path}]]", entry.key),
                None => format!("[{path}] is written as a single section"),
            };
            problem.help(format!("such sections belong into an entry of [[{path}]]: write that line above"));
        }
        Value::Text(_) if is_secret(spot.path.key_name()) => problem.help("put it into brackets: [\"…\"]"),
        Value::Text(text) if T::HEADING.is_none() => problem.help(format!("write [{text:?}]")),
        Value::Text(_)
        | Value::Table(_)
        | Value::Integer(_)
        | Value::Oversized(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Date(_)
        | Value::List(_) => {}
    }
}

/// Says what to write where a section is expected as an element and a value stands there.
pub(crate) fn not_a_section(value: &Value, path: &KeyPath, problem: &mut Diagnostic) {
    let plain = path.plain();
    let is_element = path.shown().ends_with(']');
    match value {
        Value::Text(text) if is_element => problem.help(format!("write [[{plain}]] with name = {text:?} below")),
        Value::List(_) => problem.help(format!("there is only one section of this kind: write [{plain}]")),
        Value::Text(_)
        | Value::Table(_)
        | Value::Integer(_)
        | Value::Oversized(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Date(_) => problem.help(format!("write a section [{plain}] with its keys below")),
    }
}

/// Reports what the parser stumbled over, with a guess at what the line was meant to be.
pub(crate) fn syntax(source: &Source, line: usize, spot: &Spot, message: &str, reader: &mut Reader) {
    let text = source.text().lines().nth(line - 1).unwrap_or_default();
    cover_line(source, line, text, reader);
    let problem = reader.diagnostics.error(spot, format!("this is no TOML: {message}"));
    if let Some(help) = guess(text, message) {
        problem.help(help);
    }
}

fn guess(line: &str, message: &str) -> Option<String> {
    let line = line.trim();
    if line.contains("(...)") {
        return Some("(...) stands for lines that a document left out: write them, or delete it".to_owned());
    }
    if message.starts_with("duplicate") {
        return Some("keep one of them".to_owned());
    }
    if message.contains("array") && (line.starts_with('[') || line.contains('=')) {
        return Some("a list above is not closed: write ] after its last entry".to_owned());
    }
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    if key.starts_with("aws_") {
        return Some(
            "this looks like an AWS credentials file: name it as credentials_file of plugin_config".to_owned(),
        );
    }
    let bare = !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']);
    // A word that is no key of ours may be a piece of a secret.
    let key = if homes(key).is_empty() { "KEY" } else { key };
    bare.then(|| format!("text stands in quotes: {key} = \"…\""))
}

/// Covers what follows `=` on a broken line whose key sounds secret: its value may not have been recognised.
fn cover_line(source: &Source, line: usize, text: &str, reader: &mut Reader) {
    let Some((key, _)) = text.split_once('=') else { return };
    let key_lower = key.trim().to_lowercase();
    if is_secret(&key_lower) || ["token", "key"].iter().any(|word| key_lower.contains(word)) {
        let start: usize = source.text().split_inclusive('\n').take(line - 1).map(str::len).sum();
        reader.diagnostics.hide(start + key.len() + 1..start + text.len());
    }
}

/// Every section that knows the key, as it is headed in a file.
fn homes(key: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect_homes(key, &KeyPath::root(), None, &Config::keys(), &mut found);
    found
}

fn collect_homes(key: &str, path: &KeyPath, heading: Option<Heading>, known: &[Key], found: &mut Vec<String>) {
    for candidate in known {
        if candidate.name.eq_ignore_ascii_case(key) {
            found.push(heading.map_or_else(|| "the top of the file".to_owned(), |heading| headed(path, heading)));
        }
        let below = (candidate.below)();
        if !below.is_empty() {
            collect_homes(key, &path.key(candidate.name), candidate.heading, &below, found);
        }
    }
}

fn headed(path: &KeyPath, heading: Heading) -> String {
    match heading {
        Heading::Single => format!("[{}]", path.plain()),
        Heading::Repeated => format!("[[{}]]", path.plain()),
    }
}

fn list(homes: &[String]) -> String {
    homes.join(" or ")
}

/// The known key that differs by at most two letters, and by less than a third.
fn nearest(key: &str, known: &[Key]) -> Option<&'static str> {
    let lower = key.to_lowercase();
    let distance = |name: &str| distance(&lower, &name.to_lowercase());
    let (near, name) = known.iter().map(|known| (distance(known.name), known.name)).min()?;
    (near <= 2 && near * 3 <= key.chars().count()).then_some(name)
}

/// Letters to insert, delete, change or swap with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX);
            let change = at(&last, j) + usize::from(a != b);
            let swapped = i > 0 && j > 0 && from.get(i - 1) == Some(b) && to.get(j - 1) == Some(a);
            let swap = if swapped { at(&before_last, j - 1) + 1 } else { usize::MAX };
            row.push(change.min(at(&last, j + 1) + 1).min(at(&row, j) + 1).min(swap));
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_slips() {
        for (from, to, slips) in [
            ("image", "image", 0),
            ("imgae", "image", 1),
            ("imge", "image", 1),
            ("imagee", "image", 1),
            ("x", "image", 5),
            ("", "ab", 2),
        ] {
            assert_eq!(distance(from, to), slips, "{from} {to}");
        }
    }

    #[test]
    fn a_key_is_found_in_every_section_that_knows_it() {
        assert_eq!(homes("privileged"), ["[runners.docker]"]);
        assert_eq!(homes("max_instances"), ["[runners.autoscaler]"]);
        assert_eq!(homes("machineoptions"), ["[runners.machine]"]);
        assert_eq!(homes("idle_time"), ["[[runners.autoscaler.policy]]"]);
        assert_eq!(homes("concurrent"), ["the top of the file"]);
        assert!(homes("no_such_key").is_empty());
    }
}
