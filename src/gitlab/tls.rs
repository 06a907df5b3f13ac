//! The TLS files of a runner: an extra authority, a client certificate and its key.
//!
//! They are read anew when they change on disk. A file that cannot be used is warned about and left out,
//! since another may still do: the system's authorities always count. Where the files lie is the caller's
//! to find out.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use reqwest::{Certificate, Identity};

use super::error::TlsFileError;
use crate::secret::Secret;

/// A bundle of authorities has a few hundred kilobytes; what is larger is a mistake.
const FILE_LIMIT: u64 = 4 << 20;

/// Where the files lie. Clients with equal paths share their connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsFiles {
    /// Authorities in PEM, beside the system's.
    pub ca: Option<PathBuf>,
    /// The client certificate in PEM; only together with its key.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What a job needs for its own connections to GitLab (git, artifacts): the contents of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobTls {
    pub ca_chain: Option<String>,
    pub cert: Option<String>,
    pub key: Option<Secret>,
}

/// Which contents were read; differs once a file changes, comes or goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp([Option<(SystemTime, u64)>; 3]);

/// The files, read.
#[derive(Debug, Default)]
pub(super) struct Material {
    pub(super) authorities: Vec<Certificate>,
    pub(super) identity: Option<Identity>,
    pub(super) job: JobTls,
    pub(super) problems: Vec<TlsFileError>,
}

impl TlsFiles {
    /// Looks at the files without reading them.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp([&self.ca, &self.cert, &self.key].map(|path| {
            let metadata = fs::metadata(path.as_deref()?).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        }))
    }

    pub(super) fn read(&self) -> Material {
        let mut material = Material::default();
        if let Some(path) = &self.ca {
            material.add_authorities(path);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            material.add_identity(cert, key);
        }
        material
    }
}

impl Material {
    fn add_authorities(&mut self, path: &Path) {
        match read_text(path) {
            Err(problem) => self.problems.push(problem),
            Ok(text) => match Certificate::from_pem_bundle(text.as_bytes()) {
                Ok(authorities) if !authorities.is_empty() => {
                    self.authorities = authorities;
                    self.job.ca_chain = Some(text);
                }
                Ok(_) | Err(_) => self.problems.push(TlsFileError::Certificate { path: path.to_owned() }),
            },
        }
    }

    fn add_identity(&mut self, cert: &Path, key: &Path) {
        let (cert_text, key_text) = match (read_text(cert), read_text(key)) {
            (Ok(cert), Ok(key)) => (cert, key),
            (cert, key) => return self.problems.extend(cert.err().into_iter().chain(key.err())),
        };
        match Identity::from_pem(format!("{cert_text}\n{key_text}").as_bytes()) {
            Ok(identity) => {
                self.identity = Some(identity);
                self.job.cert = Some(cert_text);
                self.job.key = Some(key_text.into());
            }
            Err(source) => {
                let problem = TlsFileError::Identity { cert: cert.to_owned(), key: key.to_owned(), source };
                self.problems.push(problem);
            }
        }
    }
}

fn read_text(path: &Path) -> Result<String, TlsFileError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT + 1).read_to_string(&mut text))
        .map_err(|source| TlsFileError::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(TlsFileError::TooLarge { path: path.to_owned(), limit: FILE_LIMIT });
    }
    Ok(text)
}
