//! The program that runs beside jobs, as a file to send: found next to this program, named by its hash.
//!
//! The name on the far side carries the hash of the content, so that two versions live side by side. What is there
//! under a name may be a job's own work, so its content is compared before it is run.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::config::environment::Environment;

/// Hex digits of the hash in a name: enough that two builds never meet.
const HASH_DIGITS: usize = 16;

/// Where helpers are found. Made once by `commands`.
#[derive(Debug)]
pub struct Helpers {
    /// This program, which has the helper's commands too: enough for instances on this machine.
    pub own_executable: PathBuf,
    /// The folder with `flotilla-helper-<architecture>` or, for this machine's own, `flotilla-helper`.
    pub folder: PathBuf,
    /// Of the manager's process: it tells where Docker's own credentials are, and credential helpers need it.
    pub environment: Environment,
    x86_64: OnceCell<HelperBinary>,
    aarch64: OnceCell<HelperBinary>,
}

/// A helper that can be sent. The file itself is read when it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperBinary {
    pub path: PathBuf,
    /// `flotilla-helper-<hash>`.
    pub name: String,
    /// Of the content.
    pub sha256: [u8; 32],
    /// The content's length in bytes.
    pub size: u64,
}

/// Why there is no helper to send.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("no flotilla-helper for {architecture} next to this program: neither {} nor {} exists", .named.display(), .plain.display())]
    Missing { architecture: String, named: PathBuf, plain: PathBuf },
    #[error("reading {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

impl Helpers {
    pub fn new(own_executable: PathBuf, folder: PathBuf, environment: Environment) -> Self {
        Self { own_executable, folder, environment, x86_64: OnceCell::new(), aarch64: OnceCell::new() }
    }

    /// The helper for a machine, by its architecture as the kernel, the engine or Go calls it.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn for_architecture(&self, architecture: &str) -> Result<&HelperBinary, HelperError> {
        let (cell, name) = match architecture {
            "x86_64" | "amd64" => (&self.x86_64, "x86_64"),
            "aarch64" | "arm64" => (&self.aarch64, "aarch64"),
            other => {
                let named = self.folder.join(format!("flotilla-helper-{other}"));
                return Err(HelperError::Missing { architecture: other.to_owned(), plain: named.clone(), named });
            }
        };
        cell.get_or_try_init(|| find(&self.folder, name)).await
    }
}

impl HelperBinary {
    /// The program with this content.
    pub fn of(path: PathBuf, content: &[u8]) -> Self {
        let sha256: [u8; 32] = Sha256::digest(content).into();
        let name = format!("flotilla-helper-{}", hex::encode(sha256).get(..HASH_DIGITS).unwrap_or_default());
        Self { path, name, sha256, size: content.len() as u64 }
    }

    /// The file's content.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub async fn read(&self) -> Result<Bytes, HelperError> {
        read(&self.path).await.map(Bytes::from)
    }
}

async fn find(folder: &Path, architecture: &str) -> Result<HelperBinary, HelperError> {
    let named = folder.join(format!("flotilla-helper-{architecture}"));
    let plain = folder.join("flotilla-helper");
    let candidates = [Some(&named), (architecture == std::env::consts::ARCH).then_some(&plain)];
    for path in candidates.into_iter().flatten() {
        match read(path).await {
            Ok(content) => {
                return Ok(HelperBinary::of(path.clone(), &content));
            }
            Err(HelperError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(HelperError::Missing { architecture: architecture.to_owned(), named, plain })
}

async fn read(path: &Path) -> Result<Vec<u8>, HelperError> {
    tokio::fs::read(path).await.map_err(|source| HelperError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn helper_of_another_architecture_is_never_sent() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("flotilla-helper"), "own").unwrap();
        std::fs::write(folder.path().join("flotilla-helper-aarch64"), "arm").unwrap();
        let helpers = Helpers::new(PathBuf::from("/flotilla"), folder.path().to_owned(), Environment::default());
        let arm = helpers.for_architecture("arm64").await.unwrap();
        assert_eq!(arm.read().await.unwrap(), "arm");
        let own = helpers.for_architecture(std::env::consts::ARCH).await.unwrap();
        assert!(own.name.starts_with("flotilla-helper-") && own.name.len() == 32, "{}", own.name);
        let missing = helpers.for_architecture("riscv64").await.unwrap_err();
        assert!(missing.to_string().contains("flotilla-helper-riscv64"), "{missing}");
    }
}
