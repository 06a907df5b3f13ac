//! `[runners.cache]`: where caches are kept, and how to get at the store.

use std::path::PathBuf;

use crate::secret::Secret;

/// `[runners.cache]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cache {
    /// Prefix of every object's key.
    pub path: String,
    /// Whether runners share caches: the key then has no part of the runner.
    pub shared: bool,
    /// Bytes; 0 is no limit.
    pub max_uploaded_archive_size: u64,
    /// `None`: caches stay on the instance. So does a store whose settings do not suffice, with a warning.
    pub store: Option<Store>,
}

/// The object store of a cache.
#[derive(Clone, Debug, PartialEq)]
pub enum Store {
    S3(S3),
    Gcs(Gcs),
    Azure(Azure),
}

/// `[runners.cache.s3]`.
#[derive(Clone, Debug, PartialEq)]
pub struct S3 {
    /// `host[:port]`; `None` is AWS.
    pub server_address: Option<String>,
    pub access_key: Secret,
    pub secret_key: Secret,
    pub session_token: Secret,
    pub bucket_name: String,
    /// `None`: to be asked of the store, else `us-east-1`.
    pub bucket_location: Option<String>,
    /// HTTP instead of HTTPS.
    pub insecure: bool,
    pub authentication: S3Authentication,
    pub encryption: Option<S3Encryption>,
    pub dual_stack: bool,
    /// `None`: decided by the endpoint.
    pub path_style: Option<bool>,
    pub accelerate: bool,
    pub role_arn: Option<String>,
    pub upload_role_arn: Option<String>,
    /// `None` is no limit.
    pub assume_role_max_concurrency: Option<u32>,
    pub disable_assume_role_credentials_caching: bool,
}

/// `AuthenticationType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Authentication {
    /// The pair of keys in the file.
    AccessKey,
    /// The credentials of the manager's host.
    Iam,
}

/// `ServerSideEncryption`, with the key where it is one of KMS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Encryption {
    S3,
    Kms { key_id: Option<String> },
    DsseKms { key_id: Option<String> },
}

/// `[runners.cache.gcs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gcs {
    pub bucket_name: String,
    /// `googleapis.com` where the file has none.
    pub universe_domain: String,
    pub credentials: GcsCredentials,
}

/// How to sign for Google Cloud Storage.
#[derive(Clone, Debug, PartialEq)]
pub enum GcsCredentials {
    File(PathBuf),
    Key {
        access_id: String,
        private_key: Secret,
    },
    /// Those of the manager's host.
    ApplicationDefault,
}

/// `[runners.cache.azure]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Azure {
    pub account_name: String,
    /// `None`: the credentials of the manager's host.
    pub account_key: Option<Secret>,
    pub container_name: String,
    /// `blob.core.windows.net` where the file has none.
    pub storage_domain: String,
}
