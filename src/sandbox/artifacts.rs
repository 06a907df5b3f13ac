//! Uploaded files, kept in a folder that goes with the sandbox.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

/// The largest file that is taken.
pub(super) const FILE_LIMIT: u64 = 1 << 30;

/// One uploaded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArtifact {
    pub filename: String,
    /// `zip`, `gzip`, `raw`, …; empty where the runner did not say, as the next two.
    pub format: String,
    /// `archive`, `junit`, …
    pub artifact_type: String,
    pub expire_in: String,
    pub size: u64,
    path: PathBuf,
}

impl StoredArtifact {
    pub(super) fn new(path: PathBuf, filename: String, size: u64, query: &[(String, String)]) -> Self {
        let of =
            |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default();
        Self {
            format: of("artifact_format"),
            artifact_type: of("artifact_type"),
            expire_in: of("expire_in"),
            filename,
            size,
            path,
        }
    }

    /// Where its bytes are while the sandbox lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is what later jobs download.
    pub(super) fn is_archive(&self) -> bool {
        matches!(self.artifact_type.as_str(), "" | "archive")
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct Storage {
    folder: TempDir,
    next: AtomicU64,
}

impl Storage {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { folder: TempDir::with_prefix("flotilla-sandbox-")?, next: AtomicU64::new(0) })
    }

    /// A fresh file to write to.
    pub(super) fn create(&self) -> io::Result<(tokio::fs::File, PathBuf)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(number.to_string());
        Ok((tokio::fs::File::from_std(File::create(&path)?), path))
    }
}
