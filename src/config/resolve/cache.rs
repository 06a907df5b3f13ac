//! `[runners.cache]`. What does not suffice for a store is a warning: jobs go on with caches on the instance.

use std::path::PathBuf;

use crate::config::diagnostics::Spot;
use crate::config::raw::{self, At, Section};
use crate::config::resolve::context::{Context, flag, optional_flag, secret, text};
use crate::config::resolved::{Azure, Cache, Gcs, GcsCredentials, S3, S3Authentication, S3Encryption, Store};

/// Concurrent requests for a role where the file does not say.
const DEFAULT_ROLE_CONCURRENCY: u32 = 5;

/// An absent section has the defaults.
pub(crate) fn resolve(raw: Option<&raw::Cache>, context: &mut Context<'_>) -> Cache {
    let Some(raw) = raw else { return Cache::default() };
    Cache {
        path: text(&raw.path).unwrap_or_default(),
        shared: flag(&raw.shared),
        max_uploaded_archive_size: max_size(&raw.max_uploaded_archive_size, context),
        store: store(raw, context),
    }
}

/// Bytes; an absent value is 0.
pub(super) fn max_size(value: &Option<At<i64>>, context: &mut Context<'_>) -> u64 {
    let Some(value) = value else { return 0 };
    u64::try_from(value.value).unwrap_or_else(|_| {
        context.error(&value.spot, format!("it cannot be negative: {}", value.value));
        0
    })
}

fn store(raw: &raw::Cache, context: &mut Context<'_>) -> Option<Store> {
    let kind = raw.kind.as_ref().filter(|kind| !kind.value.is_empty());
    if kind.is_none_or(|kind| kind.value != "s3") {
        let texts = [&raw.server_address, &raw.bucket_name, &raw.bucket_location].into_iter().flatten();
        let secrets = [&raw.access_key, &raw.secret_key].into_iter().flatten();
        for spot in texts.map(|value| &value.spot).chain(secrets.map(|value| &value.spot)) {
            context.warning(spot, "this old key counts only with Type = \"s3\"; it is ignored");
        }
    }
    let Some(kind) = kind else {
        let bucket = raw.s3.as_ref().and_then(|s3| s3.value.bucket_name.as_ref()).filter(|name| !name.value.is_empty());
        if let Some(bucket) = bucket {
            context.warning(&bucket.spot, "without a Type there is no store: caches stay on the instance");
        }
        return None;
    };
    match kind.value.as_str() {
        "s3" => s3(raw, &kind.spot, context).map(Store::S3),
        "gcs" => gcs(raw, &kind.spot, context).map(Store::Gcs),
        "azure" => azure(raw, &kind.spot, context).map(Store::Azure),
        _ => {
            let message = format!("{:?} is no kind of store", kind.value);
            context.error(&kind.spot, message).help("write \"s3\", \"gcs\" or \"azure\"");
            None
        }
    }
}

/// Says that a store cannot be used, and why.
fn unusable<T>(spot: &Spot, what: &str, context: &mut Context<'_>) -> Option<T> {
    context.warning(spot, format!("{what}, so caches stay on the instance"));
    None
}

fn s3(raw: &raw::Cache, kind: &Spot, context: &mut Context<'_>) -> Option<S3> {
    let s3 = migrated(raw, context);
    let Some(bucket_name) = text(&s3.bucket_name) else {
        return unusable(&s3.spot().missing("BucketName"), "the key is missing", context);
    };
    let access_key = secret(&s3.access_key);
    let secret_key = secret(&s3.secret_key);
    if access_key.is_some() != secret_key.is_some() {
        context.warning(kind, "AccessKey and SecretKey belong together; only one of them is set");
    }
    let has_keys = access_key.is_some() && secret_key.is_some();
    let server_address = text(&s3.server_address);
    Some(S3 {
        authentication: authentication(&s3.authentication_type, has_keys && server_address.is_some(), context),
        server_address,
        access_key: access_key.unwrap_or_default(),
        secret_key: secret_key.unwrap_or_default(),
        session_token: secret(&s3.session_token).unwrap_or_default(),
        bucket_name,
        bucket_location: text(&s3.bucket_location),
        insecure: flag(&s3.insecure),
        encryption: encryption(&s3, context),
        dual_stack: optional_flag(&s3.dual_stack).unwrap_or(true),
        path_style: optional_flag(&s3.path_style),
        accelerate: flag(&s3.accelerate),
        role_arn: text(&s3.role_arn),
        upload_role_arn: text(&s3.upload_role_arn),
        assume_role_max_concurrency: role_concurrency(&s3.assume_role_max_concurrency),
        disable_assume_role_credentials_caching: flag(&s3.disable_assume_role_credentials_caching),
    })
}

/// The section with the six keys that stood one level up before 12.0.
fn migrated(raw: &raw::Cache, context: &mut Context<'_>) -> raw::CacheS3 {
    let spot = raw.s3.as_ref().map_or_else(|| raw.spot().clone(), |s3| s3.spot.clone());
    let mut s3 = raw.s3.as_ref().map_or_else(|| raw::CacheS3::empty(spot), |s3| s3.value.clone());
    move_down(&raw.server_address, &mut s3.server_address, "ServerAddress", context);
    move_down(&raw.access_key, &mut s3.access_key, "AccessKey", context);
    move_down(&raw.secret_key, &mut s3.secret_key, "SecretKey", context);
    move_down(&raw.bucket_name, &mut s3.bucket_name, "BucketName", context);
    move_down(&raw.bucket_location, &mut s3.bucket_location, "BucketLocation", context);
    move_down(&raw.insecure, &mut s3.insecure, "Insecure", context);
    s3
}

fn move_down<T: Clone + PartialEq>(old: &Option<At<T>>, new: &mut Option<At<T>>, key: &str, context: &mut Context<'_>) {
    let Some(old) = old else { return };
    match new {
        Some(new) if new.value != old.value => {
            let message = format!("this differs from the {key} of [runners.cache.s3]");
            context.error(&old.spot, message).help("delete it here: its place is [runners.cache.s3]");
        }
        Some(_) | None => {
            let message = "the reference has ignored this key at this place since 12.0; it is used here";
            context.warning(&old.spot, message).help(format!("move {key} into [runners.cache.s3]"));
            *new = Some(old.clone());
        }
    }
}

fn authentication(value: &Option<At<String>>, complete: bool, context: &mut Context<'_>) -> S3Authentication {
    let default = if complete { S3Authentication::AccessKey } else { S3Authentication::Iam };
    let Some(value) = value.as_ref().filter(|value| !value.value.is_empty()) else { return default };
    match value.value.to_ascii_lowercase().as_str() {
        "iam" => S3Authentication::Iam,
        "access-key" => S3Authentication::AccessKey,
        _ => {
            let message = format!("{:?} is no kind of authentication", value.value);
            context.error(&value.spot, message).help("write \"iam\" or \"access-key\"");
            default
        }
    }
}

fn encryption(s3: &raw::CacheS3, context: &mut Context<'_>) -> Option<S3Encryption> {
    let value = s3.server_side_encryption.as_ref().filter(|value| !value.value.is_empty())?;
    let key_id = text(&s3.server_side_encryption_key_id);
    match value.value.to_ascii_lowercase().as_str() {
        "s3" | "aes256" => Some(S3Encryption::S3),
        "kms" | "aws:kms" => Some(S3Encryption::Kms { key_id }),
        "dsse-kms" | "aws:kms:dsse" => Some(S3Encryption::DsseKms { key_id }),
        _ => {
            let message = format!("{:?} is no encryption that is known; none is used", value.value);
            context.warning(&value.spot, message).help("write \"S3\", \"KMS\" or \"DSSE-KMS\"");
            None
        }
    }
}

/// -1 is no limit.
fn role_concurrency(value: &Option<At<i64>>) -> Option<u32> {
    match value.as_ref().map_or(0, |value| value.value) {
        0 => Some(DEFAULT_ROLE_CONCURRENCY),
        limit => u32::try_from(limit).ok(),
    }
}

fn gcs(raw: &raw::Cache, kind: &Spot, context: &mut Context<'_>) -> Option<Gcs> {
    let Some(At { value: gcs, spot }) = &raw.gcs else {
        return unusable(kind, "there is no [runners.cache.gcs]", context);
    };
    let Some(bucket_name) = text(&gcs.bucket_name) else {
        return unusable(&spot.missing("BucketName"), "the key is missing", context);
    };
    let file = text(&gcs.credentials_file)
        .or_else(|| context.environment.get("GOOGLE_APPLICATION_CREDENTIALS").map(str::to_owned));
    let credentials = match (file, text(&gcs.access_id), secret(&gcs.private_key)) {
        (Some(file), _, _) => GcsCredentials::File(PathBuf::from(file)),
        (None, Some(access_id), Some(private_key)) => GcsCredentials::Key { access_id, private_key },
        (None, Some(_), None) | (None, None, Some(_)) => {
            context.warning(spot, "AccessID and PrivateKey belong together; only one of them is set");
            GcsCredentials::ApplicationDefault
        }
        (None, None, None) => GcsCredentials::ApplicationDefault,
    };
    let universe_domain = text(&gcs.universe_domain).unwrap_or_else(|| "googleapis.com".to_owned());
    Some(Gcs { bucket_name, universe_domain, credentials })
}

fn azure(raw: &raw::Cache, kind: &Spot, context: &mut Context<'_>) -> Option<Azure> {
    let Some(At { value: azure, spot }) = &raw.azure else {
        return unusable(kind, "there is no [runners.cache.azure]", context);
    };
    let Some(account_name) = text(&azure.account_name) else {
        return unusable(&spot.missing("AccountName"), "the key is missing", context);
    };
    let Some(container_name) = text(&azure.container_name) else {
        return unusable(&spot.missing("ContainerName"), "the key is missing", context);
    };
    Some(Azure {
        account_name,
        account_key: secret(&azure.account_key),
        container_name,
        storage_domain: text(&azure.storage_domain).unwrap_or_else(|| "blob.core.windows.net".to_owned()),
    })
}
