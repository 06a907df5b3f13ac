//! A job's variables: an ordered list in which the last one of a name wins.
//!
//! Expansion is one pass over each value against the list as it was before (`expansion`), as GitLab
//! Runner has it: a value that refers to another variable gets that one's text, not its expansion.
//! What the runner adds, and in which order, is in [`crate::job::resolved`].

mod expansion;

use std::fmt;

use crate::gitlab::wire::payload::JobVariable;

/// The directory of file variables, beside the project directory.
pub const TEMP_PROJECT_DIR: &str = "RUNNER_TEMP_PROJECT_DIR";

/// One variable.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variable {
    pub key: String,
    pub value: String,
    /// Services may see it.
    pub public: bool,
    /// The value is the content of a file, and the variable its path.
    pub file: bool,
    /// The value must not appear in the trace.
    pub masked: bool,
    /// The value is not expanded.
    pub raw: bool,
    /// Set by the runner; services see it.
    pub internal: bool,
}

impl Variable {
    /// A variable with no mark.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), ..Self::default() }
    }

    /// One that the runner sets and services see.
    pub fn internal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { public: true, internal: true, ..Self::new(key, value) }
    }

    /// One whose value is the content of a file; it is not expanded.
    pub fn file(key: impl Into<String>, content: impl Into<String>) -> Self {
        Self { file: true, raw: true, internal: true, ..Self::new(key, content) }
    }

    /// Whether a shell can have a variable of this name.
    pub fn has_shell_name(&self) -> bool {
        let mut bytes = self.key.bytes();
        bytes.next().is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
            && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    }
}

impl From<JobVariable> for Variable {
    fn from(wire: JobVariable) -> Self {
        Self {
            value: wire.value.expose().to_owned(),
            public: wire.public,
            file: wire.file,
            masked: wire.masked,
            raw: wire.raw,
            internal: false,
            key: wire.key,
        }
    }
}

/// Shows the name and the marks. Any value may be a secret.
impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        for (mark, set) in [
            ("public", self.public),
            ("file", self.file),
            ("masked", self.masked),
            ("raw", self.raw),
            ("internal", self.internal),
        ] {
            if set {
                write!(f, " {mark}")?;
            }
        }
        Ok(())
    }
}

/// Variables in order; duplicates are kept, the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<Variable>);

impl Variables {
    pub fn push(&mut self, variable: Variable) {
        self.0.push(variable);
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Variable> {
        self.0.iter()
    }

    pub fn as_slice(&self) -> &[Variable] {
        &self.0
    }

    /// The variable that counts for `key`.
    pub fn find(&self, key: &str) -> Option<&Variable> {
        self.0.iter().rev().find(|variable| variable.key == key)
    }

    /// The value that counts for `key`; for a file variable its content. Empty where there is none.
    pub fn value(&self, key: &str) -> &str {
        self.find(key).map_or("", |variable| &variable.value)
    }

    /// What a script sees for `key`: as [`Variables::value`], but the path of a file variable.
    pub fn get(&self, key: &str) -> String {
        self.find(key).map_or_else(String::new, |variable| {
            if variable.file { self.file_path(key) } else { variable.value.clone() }
        })
    }

    /// Where the content of the file variable `key` is.
    pub fn file_path(&self, key: &str) -> String {
        format!("{}/{key}", self.value(TEMP_PROJECT_DIR))
    }

    /// All variables with their values expanded once; `raw` ones as they are.
    #[must_use]
    pub fn expanded(&self) -> Self {
        Self(
            self.0
                .iter()
                .map(|variable| {
                    if variable.raw || !variable.value.contains('$') {
                        variable.clone()
                    } else {
                        Variable { value: self.expand(&variable.value), ..variable.clone() }
                    }
                })
                .collect(),
        )
    }

    /// `text` with the references in it replaced.
    pub fn expand(&self, text: &str) -> String {
        expansion::expand(text, |name| self.get(name))
    }

    /// The texts that must not appear in the trace: values of masked variables without the blanks
    /// around them, each once, longest first.
    pub fn masked_phrases(&self) -> Vec<String> {
        let mut phrases: Vec<String> = self
            .0
            .iter()
            .filter(|variable| variable.masked)
            .map(|variable| variable.value.trim().to_owned())
            .filter(|phrase| !phrase.is_empty())
            .collect();
        phrases.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        phrases.dedup();
        phrases
    }

    /// What a service container may see of these.
    pub fn for_services(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter().filter(|variable| variable.public || variable.internal)
    }

    /// Sets `key` for all later readers, without a mark.
    pub fn overwrite(&mut self, key: &str, value: &str) {
        self.0.retain(|variable| variable.key != key);
        self.0.push(Variable::internal(key, value));
    }
}

impl FromIterator<Variable> for Variables {
    fn from_iter<I: IntoIterator<Item = Variable>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl Extend<Variable> for Variables {
    fn extend<I: IntoIterator<Item = Variable>>(&mut self, variables: I) {
        self.0.extend(variables);
    }
}

impl<'a> IntoIterator for &'a Variables {
    type Item = &'a Variable;
    type IntoIter = std::slice::Iter<'a, Variable>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests;
