//! The TLS files of a runner: an extra authority, a client certificate and its key.
//!
//! They are read anew when they change on disk. A file that cannot be used is warned about and left out,
//! since another may still do: the system's authorities always count. Where the files lie is the caller's
//! to find out.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::error::{IdentityError, TlsFileError};
use super::trust::Authorities;
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

/// What a job needs for its own connections to GitLab (git, artifacts): the contents of the files. Where there is
/// no file with authorities, the chain that GitLab's own connection was trusted by (`protocol.md` 17.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobTls {
    pub ca_chain: Option<String>,
    pub cert: Option<String>,
    pub key: Option<Secret>,
}

/// Which contents were read; differs once a file changes, comes or goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp([Option<(SystemTime, u64)>; 3]);

/// What a client shows of itself.
#[derive(Debug)]
pub(crate) struct ClientIdentity {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// The files, read.
#[derive(Debug, Default)]
pub(super) struct Material {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) identity: Option<ClientIdentity>,
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
            Ok(text) => {
                let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok).collect();
                if Authorities::can_vouch(&found) {
                    self.authorities = found;
                    self.job.ca_chain = Some(text);
                } else {
                    self.problems.push(TlsFileError::Certificate { path: path.to_owned() });
                }
            }
        }
    }

    fn add_identity(&mut self, cert: &Path, key: &Path) {
        let (cert_text, key_text) = match (read_text(cert), read_text(key)) {
            (Ok(cert), Ok(key)) => (cert, key),
            (cert, key) => return self.problems.extend(cert.err().into_iter().chain(key.err())),
        };
        match ClientIdentity::read(&cert_text, &key_text) {
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

impl ClientIdentity {
    fn read(cert: &str, key: &str) -> Result<Self, IdentityError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>()?;
        let identity = Self { certificates, key: PrivateKeyDer::from_pem_slice(key.as_bytes())? };
        // A key that is not the certificate's is noticed here, not at the first connection.
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(identity.certificates.clone(), identity.key.clone_key(), &provider)?;
        Ok(identity)
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
