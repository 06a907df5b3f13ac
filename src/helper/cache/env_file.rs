//! Variables of a file, as scripts write it for a transfer: `NAME="value"`, one a line.

/// The variables in their order. Within quotes, `\n`, `\r`, `\"` and `\\` stand for what they do in C; a
/// line that is none of this is passed over.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(variable).collect()
}

fn variable(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    valid.then(|| (name.to_owned(), unquote(value.trim())))
}

fn unquote(value: &str) -> String {
    let Some(inside) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value).to_owned();
    };
    let mut plain = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some(escaped @ ('"' | '\\' | '$')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unquoted() {
        let text = "A=\"x\"\nB=\"a\\\\b\\\"c\\nd\\re\"\n# no\nexport C='$x'\nD=plain\n\n1 2=3\nE=\"\"\nF=\"{\\\"k\\\":\\\"v\\\"}\"\n";
        let parsed = parse(text);
        let parsed: Vec<_> = parsed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            parsed,
            [("A", "x"), ("B", "a\\b\"c\nd\re"), ("C", "$x"), ("D", "plain"), ("E", ""), ("F", "{\"k\":\"v\"}")]
        );
    }
}
