//! What it takes to speak about one job.

use serde::{Deserialize, Serialize};

use crate::ids::JobId;
use crate::secret::Secret;

/// A job's number and its token. Small and serializable: the journal keeps it, encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCredentials {
    pub id: JobId,
    pub token: Secret,
}
