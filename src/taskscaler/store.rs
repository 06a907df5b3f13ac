//! Where a fleet is remembered. The journal implements this; nothing here knows its format.

use std::error::Error;
use std::fmt;

use crate::fleeting::host_keys::HostKey;
use crate::ids::InstanceId;

use super::core::records::{Record, Restored};

/// A durable memory of one runner's fleet.
pub trait Store: fmt::Debug + Send + Sync {
    /// Everything that was kept. Called once, before anything else; may block.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn load(&self) -> Result<Restored, StoreError>;

    /// Keeps these changes, all or none, synced when it returns. May block.
    ///
    /// # Errors
    /// Where they are not kept; the same changes are brought again.
    fn commit(&self, records: &[Record]) -> Result<(), StoreError>;

    /// Keeps the keys by which instances prove themselves, until the instances are forgotten. May block.
    ///
    /// # Errors
    /// Where they are not kept; the next contact after a restart is then a first one again.
    fn keep_host_keys(&self, keys: &[(InstanceId, HostKey)]) -> Result<(), StoreError>;

    /// Whether anything is kept at all. Where not, nobody waits for it.
    fn is_durable(&self) -> bool {
        true
    }
}

/// Remembers nothing: `state_storage.enabled = false`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl Store for Forgetful {
    fn load(&self) -> Result<Restored, StoreError> {
        Ok(Restored::default())
    }

    fn commit(&self, _records: &[Record]) -> Result<(), StoreError> {
        Ok(())
    }

    fn keep_host_keys(&self, _keys: &[(InstanceId, HostKey)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

/// The state of a fleet could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[error("keeping the state of the fleet")]
pub struct StoreError(#[source] pub Box<dyn Error + Send + Sync>);
