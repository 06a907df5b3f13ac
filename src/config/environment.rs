//! The environment as a value: read once where the program starts, handed on from there.

use std::collections::BTreeMap;

/// Names and values of environment variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// A variable that is set to something.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables, also those that are set to nothing: for libraries that look for their own.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `$NAME` and `${NAME}` replaced by their values, nothing where a variable is not set; other dollars as Go's
    /// `os.ExpandEnv` treats them.
    pub fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            let (reference, remaining) = reference(after);
            match reference {
                Reference::Name(name) => expanded.push_str(self.get(name).unwrap_or_default()),
                Reference::Dollar => expanded.push('$'),
                Reference::Malformed => {}
            }
            rest = remaining;
        }
        expanded + rest
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Values may be secret; only the names show.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

enum Reference<'a> {
    Name(&'a str),
    /// A dollar that begins no reference.
    Dollar,
    /// `${}` or a brace that is never closed: it goes.
    Malformed,
}

/// What follows a dollar: the reference, and the text after it.
fn reference(text: &str) -> (Reference<'_>, &str) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            Some(("", after)) => (Reference::Malformed, after),
            Some((name, after)) => (Reference::Name(name), after),
            None => (Reference::Malformed, braced),
        };
    }
    if let Some(special) = text.get(..1).filter(|first| "*#$@!?-0123456789".contains(first)) {
        return (Reference::Name(special), text.get(1..).unwrap_or_default());
    }
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    match text.split_at(end) {
        ("", after) => (Reference::Dollar, after),
        (name, after) => (Reference::Name(name), after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_values_and_unset_ones_nothing() {
        let environment = Environment::from_iter([("TOKEN", "glrt-1"), ("HOST", "git.example"), ("EMPTY", "")]);
        for (text, expanded) in [
            ("plain", "plain"),
            ("$TOKEN", "glrt-1"),
            ("${TOKEN}x", "glrt-1x"),
            ("https://$HOST/ci", "https://git.example/ci"),
            ("$MISSING", ""),
            ("a$EMPTY-b", "a-b"),
            ("100$", "100$"),
            ("a$.b", "a$.b"),
            ("a$$b", "ab"),
            ("a$1b", "ab"),
            ("a${}b", "ab"),
            ("a${TOKEN", "aTOKEN"),
            ("${a-b}c", "c"),
            ("$ü", "$ü"),
        ] {
            assert_eq!(environment.expand(text), expanded, "{text}");
        }
    }

    #[test]
    fn values_do_not_show() {
        assert_eq!(format!("{:?}", Environment::from_iter([("TOKEN", "secret")])), "{\"TOKEN\"}");
    }
}
