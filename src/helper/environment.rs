//! The environment of a command, as a value: read once by `main`, given to everything below.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The variables and the working folder that a command was started with.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    folder: PathBuf,
}

impl Environment {
    /// From the variables as the process has them. Names and values that are no UTF-8 are left out: they
    /// can neither be flags' defaults nor be named in a path.
    ///
    /// `folder` is the working folder as the kernel tells it. Where `PWD` names the same folder, that name
    /// is taken, so that absolute paths that lead through a symlink are known to lie within.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>, folder: PathBuf) -> Self {
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let folder = match variables.get("PWD").map(Path::new) {
            Some(named) if named.is_absolute() && same_folder(named, &folder) => named.to_owned(),
            Some(_) | None => folder,
        };
        Self { variables, folder }
    }

    /// With more variables, which win over those that are there.
    #[must_use]
    pub fn with(&self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut all = self.clone();
        all.variables.extend(variables);
        all
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable as it is, empty ones too: paths are expanded with this.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Whether a variable says yes, as Go's `ParseBool` understands it; anything else is a no.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).and_then(super::cli::parse_bool_text).unwrap_or(false)
    }

    /// All variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The working folder: of a job's commands, the project.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where temporary files go.
    pub fn temporary_folder(&self) -> PathBuf {
        self.get("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
    }

    /// A path of the command line: relative ones start at the working folder.
    pub fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }
}

fn same_folder(one: &Path, other: &Path) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => one.dev() == other.dev() && one.ino() == other.ino(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)], folder: &Path) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())), folder.to_owned())
    }

    #[test]
    fn the_folder_is_called_as_the_shell_calls_it_when_it_is_the_same() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("real");
        let link = root.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(environment(&[("PWD", link.to_str().unwrap())], &real).folder(), link);
        assert_eq!(environment(&[("PWD", "/")], &real).folder(), real);
        assert_eq!(environment(&[("PWD", "link")], &real).folder(), real);
        assert_eq!(environment(&[], &real).folder(), real);
    }

    #[test]
    fn an_empty_variable_gives_no_default_but_expands_to_nothing() {
        let environment = environment(&[("A", ""), ("B", "true"), ("C", "maybe")], Path::new("/"));
        assert_eq!((environment.get("A"), environment.raw("A")), (None, Some("")));
        assert!(environment.is_true("B") && !environment.is_true("C") && !environment.is_true("D"));
    }
}
