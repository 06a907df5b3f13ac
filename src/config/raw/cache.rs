//! `[runners.cache]` and the sections of its stores. The canonical spelling is PascalCase.

use crate::config::raw::reader::section;
use crate::secret::Secret;

section! {
    /// `[runners.cache]`. The six S3 keys at this level were removed in 12.0 and are still understood.
    Cache {
        kind as "Type": String,
        path as "Path": String,
        shared as "Shared": bool,
        max_uploaded_archive_size as "MaxUploadedArchiveSize": i64,
        s3: CacheS3,
        gcs: CacheGcs,
        azure: CacheAzure,
        server_address as "ServerAddress": String,
        access_key as "AccessKey": Secret,
        secret_key as "SecretKey": Secret,
        bucket_name as "BucketName": String,
        bucket_location as "BucketLocation": String,
        insecure as "Insecure": bool,
    }
}

section! {
    /// `[runners.cache.s3]`
    CacheS3 {
        server_address as "ServerAddress": String,
        access_key as "AccessKey": Secret,
        secret_key as "SecretKey": Secret,
        session_token as "SessionToken": Secret,
        bucket_name as "BucketName": String,
        bucket_location as "BucketLocation": String,
        insecure as "Insecure": bool,
        authentication_type as "AuthenticationType": String,
        server_side_encryption as "ServerSideEncryption": String,
        server_side_encryption_key_id as "ServerSideEncryptionKeyID": String,
        dual_stack as "DualStack": bool,
        path_style as "PathStyle": bool,
        accelerate as "Accelerate": bool,
        role_arn as "RoleARN": String,
        upload_role_arn as "UploadRoleARN": String,
        assume_role_max_concurrency as "AssumeRoleMaxConcurrency": i64,
        disable_assume_role_credentials_caching as "DisableAssumeRoleCredentialsCaching": bool,
    }
}

section! {
    /// `[runners.cache.gcs]`
    CacheGcs {
        access_id as "AccessID": String,
        private_key as "PrivateKey": Secret,
        credentials_file as "CredentialsFile": String,
        bucket_name as "BucketName": String,
        universe_domain as "UniverseDomain": String,
    }
}

section! {
    /// `[runners.cache.azure]`
    CacheAzure {
        account_name as "AccountName": String,
        account_key as "AccountKey": Secret,
        container_name as "ContainerName": String,
        storage_domain as "StorageDomain": String,
    }
}
