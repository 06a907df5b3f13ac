//! The config file on the disk: where it is looked for, reading it, and the files that it names.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::environment::Environment;

/// The file's name in each of the folders.
const NAME: &str = "config.toml";

/// Who runs the process: root has its folders under `/etc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Root,
    Other,
}

/// Where the path of the file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--config`.
    Argument,
    /// `FLOTILLA_CONFIG` or `CONFIG_FILE`.
    Environment(&'static str),
    /// A file that exists in one of the usual folders.
    Found,
    /// Nothing exists: where a new file would go.
    Default,
}

/// The file to use. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub path: PathBuf,
    pub origin: Origin,
}

impl Location {
    /// The folder of the file: `.runner_system_id`, `certs` and the state lie there.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

/// The variables that may name the file, the first one first.
const VARIABLES: [&str; 2] = ["FLOTILLA_CONFIG", "CONFIG_FILE"];

/// Chooses the file: the argument, the environment, the first of the usual folders that has one, else the first.
pub fn locate(
    argument: Option<&Path>,
    environment: &Environment,
    user: User,
    exists: impl Fn(&Path) -> bool,
) -> Location {
    if let Some(path) = argument {
        return Location { path: path.to_owned(), origin: Origin::Argument };
    }
    for name in VARIABLES {
        if let Some(path) = environment.get(name) {
            return Location { path: path.into(), origin: Origin::Environment(name) };
        }
    }
    let candidates = folders(environment, user).map(|folder| folder.join(NAME));
    let found = candidates.iter().find(|path| exists(path)).cloned();
    let origin = if found.is_some() { Origin::Found } else { Origin::Default };
    let [first, _] = candidates;
    Location { path: found.unwrap_or(first), origin }
}

/// Where certificates are looked for: beside the file, then in the reference's folder.
pub fn certificate_folders(location: &Location, environment: &Environment, user: User) -> [PathBuf; 2] {
    let [_, reference] = folders(environment, user);
    [location.folder().join("certs"), reference.join("certs")]
}

/// Ours, then the reference's.
fn folders(environment: &Environment, user: User) -> [PathBuf; 2] {
    match user {
        User::Root => ["/etc/flotilla".into(), "/etc/gitlab-runner".into()],
        User::Other => {
            let home = PathBuf::from(environment.get("HOME").unwrap_or("."));
            [home.join(".flotilla"), home.join(".gitlab-runner")]
        }
    }
}

/// Reads the file's text. `None` where it does not exist: `run`, `register` and `list` take that as an empty one.
pub fn read(path: &Path) -> Result<Option<String>, ReadError> {
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(ReadError::Encoding { path: path.to_owned(), offset: error.utf8_error().valid_up_to() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReadError::Read { path: path.to_owned(), source }),
    }
}

/// Whether others than the owner may read the file: it holds tokens.
pub fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0)
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not UTF-8 at byte {offset}", path.display())]
    Encoding { path: PathBuf, offset: usize },
}

/// The files that a config names: keys, certificates, profiles. A trait so that resolving stays pure in tests.
pub trait Files {
    /// The contents of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        argument: Option<&str>,
        variables: &[(&str, &str)],
        user: User,
        existing: &[&str],
        expected: (&str, Origin),
    ) {
        let environment = Environment::from_iter(variables.iter().copied());
        let exists = |path: &Path| existing.iter().any(|known| Path::new(known) == path);
        let location = locate(argument.map(Path::new), &environment, user, exists);
        assert_eq!((location.path.to_str().unwrap(), location.origin), expected);
    }

    #[test]
    fn the_argument_wins_then_the_environment_then_the_folders() {
        let home = ("HOME", "/home/u");
        let both = ["/etc/flotilla/config.toml", "/etc/gitlab-runner/config.toml"];
        check(Some("c.toml"), &[("FLOTILLA_CONFIG", "f")], User::Root, &both, ("c.toml", Origin::Argument));
        let variables = [("FLOTILLA_CONFIG", "f"), ("CONFIG_FILE", "g")];
        check(None, &variables, User::Root, &both, ("f", Origin::Environment("FLOTILLA_CONFIG")));
        check(None, &[("CONFIG_FILE", "g")], User::Root, &both, ("g", Origin::Environment("CONFIG_FILE")));
        check(None, &[("CONFIG_FILE", "")], User::Root, &both, (both[0], Origin::Found));
        check(None, &[], User::Root, &both[1..], (both[1], Origin::Found));
        check(None, &[], User::Root, &[], (both[0], Origin::Default));
        let reference = "/home/u/.gitlab-runner/config.toml";
        check(None, &[home], User::Other, &[reference], (reference, Origin::Found));
        check(None, &[home], User::Other, &[], ("/home/u/.flotilla/config.toml", Origin::Default));
    }

    #[test]
    fn certificates_lie_beside_the_file_or_in_the_folder_of_the_reference() {
        let location = Location { path: "c.toml".into(), origin: Origin::Argument };
        let folders = certificate_folders(&location, &Environment::default(), User::Root);
        assert_eq!(folders, [PathBuf::from("./certs"), PathBuf::from("/etc/gitlab-runner/certs")]);
    }

    #[test]
    fn a_missing_file_is_nothing_and_a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(&folder.path().join("none.toml")), Ok(None)));
        assert!(matches!(read(folder.path()), Err(ReadError::Read { .. })));
        let path = folder.path().join("bad.toml");
        std::fs::write(&path, b"a = \"\xff\"").unwrap();
        assert!(matches!(read(&path), Err(ReadError::Encoding { offset: 5, .. })));
    }

    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::fs::write(&path, "").unwrap();
        for (mode, others) in [(0o600, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_others(&path), others, "{mode:o}");
        }
    }
}
