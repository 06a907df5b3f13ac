//! `volumes`: `[source:]/destination[:options]` of Linux engines.
//!
//! Only the shape is checked here: variables of the job are expanded in the destination later. A text in the
//! grammar of Windows engines is recognised and left alone.

use std::str::FromStr;

/// One volume of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// A folder of the engine's host or a volume's name; `None` for a volume that is made for the job.
    pub source: Option<String>,
    pub destination: String,
    /// Mode, label and propagation as in the file.
    pub options: Vec<String>,
}

const MODES: [&str; 3] = ["ro", "rw", "O"];
const LABELS: [&str; 2] = ["z", "Z"];
const PROPAGATIONS: [&str; 6] = ["shared", "rshared", "slave", "rslave", "private", "rprivate"];

impl FromStr for Volume {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, options) = match *parts.as_slice() {
            [source, destination, ref options @ ..] if destination.starts_with('/') => {
                (Some(source), destination, options)
            }
            [destination, ref options @ ..] if destination.starts_with('/') => (None, destination, options),
            _ => return Err(VolumeError::Destination),
        };
        if destination == "/" {
            return Err(VolumeError::Root);
        }
        if let Some(source) = source {
            check_source(source)?;
        }
        let options: Vec<&str> = options.iter().flat_map(|part| part.split(',')).collect();
        check_options(&options)?;
        Ok(Self {
            source: source.map(str::to_owned),
            destination: destination.to_owned(),
            options: options.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// Whether a text is written for a Windows engine: a drive's letter or a pipe.
pub fn is_windows(text: &str) -> bool {
    let drive = |part: &str| {
        let mut letters = part.chars();
        letters.next().is_some_and(|letter| letter.is_ascii_alphabetic())
            && letters.next() == Some(':')
            && matches!(letters.next(), Some('\\' | '/'))
    };
    text.starts_with(r"\\.\pipe\") || drive(text) || text.split_once(':').is_some_and(|(_, rest)| drive(rest))
}

fn check_source(source: &str) -> Result<(), VolumeError> {
    let is_name = !source.is_empty() && !source.contains(['\\', '/', '*', '?', '"', '<', '>', '|']);
    if source.starts_with('/') || is_name { Ok(()) } else { Err(VolumeError::Source { found: source.to_owned() }) }
}

/// Each kind of option occurs at most once.
fn check_options(options: &[&str]) -> Result<(), VolumeError> {
    let mut seen = [false; 3];
    for option in options {
        let kinds = [MODES.contains(option), LABELS.contains(option), PROPAGATIONS.contains(option)];
        let Some(kind) = kinds.iter().position(|known| *known) else {
            return Err(VolumeError::Option { found: (*option).to_owned() });
        };
        if let Some(seen) = seen.get_mut(kind) {
            if *seen {
                return Err(VolumeError::Twice { found: (*option).to_owned() });
            }
            *seen = true;
        }
    }
    Ok(())
}

/// Why a text is no volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    #[error("no part of it is an absolute path in the container")]
    Destination,
    #[error("a volume cannot lie at /")]
    Root,
    #[error("the source {found:?} is neither an absolute path nor a volume's name")]
    Source { found: String },
    #[error("the option {found:?} is none of ro, rw, z, Z, shared, slave, private, rshared, rslave, rprivate")]
    Option { found: String },
    #[error("the option {found:?} contradicts one before it")]
    Twice { found: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, source: Option<&str>, destination: &str, options: &[&str]) {
        let expected = Volume {
            source: source.map(str::to_owned),
            destination: destination.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }

    #[test]
    fn source_and_options_may_be_missing() {
        check("/cache", None, "/cache", &[]);
        check("/cache:ro", None, "/cache", &["ro"]);
        check("/srv:/cache", Some("/srv"), "/cache", &[]);
        check("data:/cache:rw", Some("data"), "/cache", &["rw"]);
        check("/srv:/cache:ro,z,rslave", Some("/srv"), "/cache", &["ro", "z", "rslave"]);
        check("/srv:/cache:ro:Z", Some("/srv"), "/cache", &["ro", "Z"]);
        check("/cache/$CI_PROJECT_ID", None, "/cache/$CI_PROJECT_ID", &[]);
    }

    #[test]
    fn what_no_engine_takes_is_refused() {
        for (text, error) in [
            ("", VolumeError::Destination),
            ("cache", VolumeError::Destination),
            ("data:cache", VolumeError::Destination),
            ("/", VolumeError::Root),
            ("/srv:/", VolumeError::Root),
            ("./srv:/cache", VolumeError::Source { found: "./srv".into() }),
            (":/cache", VolumeError::Source { found: String::new() }),
            ("/srv:/cache:rx", VolumeError::Option { found: "rx".into() }),
            ("/srv:/cache:ro,rw", VolumeError::Twice { found: "rw".into() }),
        ] {
            assert_eq!(text.parse::<Volume>(), Err(error), "{text}");
        }
    }

    #[test]
    fn windows_volumes_are_recognised() {
        for text in [r"c:\cache", r"c:\src:c:\dst:ro", r"name:d:\dst", r"\\.\pipe\x:\\.\pipe\y"] {
            assert!(is_windows(text), "{text}");
        }
        for text in ["/cache", "data:/cache", "c:/cache:ro".trim_start_matches("c:")] {
            assert!(!is_windows(text), "{text}");
        }
    }
}
