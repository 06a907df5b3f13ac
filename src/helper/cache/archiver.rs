//! `cache-archiver`: makes the archive anew where a file is newer, and uploads it where a URL is given.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::extractor::base_name;
use super::remote::{Remote, RemoteError, clean_url};
use super::{NOT_SERVED, modified, time_limit, with_env_file, write_metadata};
use crate::helper::archive::{self, Compression, Format};
use crate::helper::cli::CacheArchiverArgs;
use crate::helper::console::{Console, Level};
use crate::helper::environment::Environment;
use crate::helper::meter::Meter;
use crate::helper::regular::open_regular;
use crate::helper::run::{Failure, block_on};
use crate::helper::selection::{Selection, select};

/// The command.
///
/// # Errors
/// The archive cannot be made or uploaded. That there is nothing to archive is no error.
pub(in crate::helper) fn archive(
    args: &CacheArchiverArgs,
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    let given = |file: &Option<std::path::PathBuf>| {
        file.as_ref().filter(|file| !file.as_os_str().is_empty()).map(|file| environment.absolute(file))
    };
    let file = given(&args.file).ok_or_else(|| Failure::Fatal("Missing --file".to_owned()))?;
    let alternate = given(&args.alternate_file);
    let environment = &with_env_file(environment, args.env_file.as_deref(), console);
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| Failure::fatal(&error))?;
    }
    if let Some(alternate) = &alternate
        && !file.exists()
        && fs::rename(alternate, &file).is_ok()
    {
        console.info("Renamed alternate cache file to primary");
    }
    let selection = select(&args.files, environment, console);
    if selection.is_empty() {
        console.warning("No files to cache.");
        return Ok(());
    }
    let upload = Upload { args, environment, file: &file, console };
    if is_current(&file, &selection) {
        return upload.current(alternate.is_some());
    }
    make(args, &file, &selection, environment, console)?;
    upload.run()
}

/// Whether no selected file is newer than the archive.
fn is_current(file: &Path, selection: &Selection) -> bool {
    match modified(file) {
        Ok(made) => selection.entries().all(|(_, entry)| entry.modified <= made),
        Err(_) => false,
    }
}

/// Makes the archive beside its place and moves it there, so that a reader finds the old one or the new.
fn make(
    args: &CacheArchiverArgs,
    file: &Path,
    selection: &Selection,
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    let level = args.compression_level.as_deref().or_else(|| environment.get("CACHE_COMPRESSION_LEVEL"));
    let compression = Compression::parse(level, console);
    let format = args.compression_format.as_deref().or_else(|| environment.get("CACHE_COMPRESSION_FORMAT"));
    if let Some(format) = format.filter(|format| !format.is_empty() && *format != "zip") {
        // Any cache can be extracted whatever its form, so the job loses nothing.
        console.warning(&format!("compression format \"{format}\" is not supported yet, falling back to zip"));
    }
    let fatal = |error: io::Error| Failure::fatal(&error);
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    let temporary = tempfile::Builder::new().prefix("archive_").tempfile_in(folder).map_err(fatal)?;
    archive::write(selection, Format::Zip, compression, temporary.as_file(), console)
        .map_err(|error| Failure::fatal(&error))?;
    temporary.persist(file).map_err(|error| fatal(error.error))?;
    let metadata = metadata(args, environment, console);
    write_metadata(file, metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())), console);
    Ok(())
}

fn metadata(args: &CacheArchiverArgs, environment: &Environment, console: &Console) -> Vec<(String, String)> {
    let Some(text) = args.metadata.as_deref().or_else(|| environment.get("CACHE_METADATA")) else { return Vec::new() };
    match serde_json::from_str::<std::collections::BTreeMap<String, String>>(text) {
        Ok(metadata) => metadata.into_iter().collect(),
        Err(error) => {
            console.warning(&format!("cache metadata left out: {error}"));
            Vec::new()
        }
    }
}

struct Upload<'a> {
    args: &'a CacheArchiverArgs,
    environment: &'a Environment,
    file: &'a Path,
    console: &'a Console,
}

impl Upload<'_> {
    /// For an archive that is as new as its files. Where it had another name, the store may lack it.
    fn current(&self, may_be_renamed: bool) -> Result<(), Failure> {
        if !may_be_renamed || self.url().is_none() {
            self.console.info("Archive is up to date!");
            return Ok(());
        }
        if self.is_there()? {
            self.console.info("Primary cache already exists remotely, skipping upload");
            return Ok(());
        }
        self.console.info("Primary cache does not exist remotely, uploading existing archive");
        self.run()
    }

    fn url(&self) -> Option<&str> {
        self.args.url.as_deref().filter(|url| !url.is_empty())
    }

    fn is_there(&self) -> Result<bool, Failure> {
        let Some(url) = self.args.check_url.as_deref().filter(|url| !url.is_empty()) else { return Ok(false) };
        let remote = self.remote()?;
        Ok(block_on(remote.head(url))?.is_ok())
    }

    fn remote(&self) -> Result<Remote, Failure> {
        Remote::new(self.environment, time_limit(self.args.timeout)).map_err(|error| Failure::fatal(&error))
    }

    fn run(&self) -> Result<(), Failure> {
        let size = fs::symlink_metadata(self.file).map_err(|error| Failure::fatal(&error))?.len();
        let limit = self.args.max_uploaded_archive_size;
        let limit = limit.or_else(|| self.environment.get("CACHE_MAX_UPLOADED_ARCHIVE_SIZE")?.parse().ok());
        if let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| (1..size).contains(limit))
        {
            self.console.info(&format!(
                "Cache archive size ({size}) is too big (Limit is set to {limit}). Cache will be stored only locally."
            ));
            return Ok(());
        }
        let Some(url) = self.url() else {
            if self.args.gocloud_url.as_ref().is_some_and(|url| !url.is_empty()) {
                return Err(Failure::Fatal(NOT_SERVED.to_owned()));
            }
            self.console.info(
                "No URL provided, cache will not be uploaded to shared cache server. Cache will be stored only locally.",
            );
            return Ok(());
        };
        self.console.info("Using presigned URL for cache upload");
        let remote = self.remote()?;
        let meter = Meter::new("Uploading cache", &self.args.meter, self.environment).with_total(size);
        block_on(self.send(&remote, url, &meter))?.map_err(|error| Failure::fatal(&error))
    }

    async fn send(&self, remote: &Remote, url: &str, meter: &Meter) -> Result<(), RemoteError> {
        let mut tries = 0;
        loop {
            self.console.info(&format!("Uploading {} to {}", base_name(self.file), clean_url(url)));
            meter.reset();
            let sent = meter.watch(remote.put(url, open_regular(self.file)?, &self.args.headers, meter)).await;
            let Err(error) = sent else { return Ok(()) };
            if !error.is_retryable() || tries >= self.args.retry.retry {
                return Err(error);
            }
            tries += 1;
            let fields = [("context", "cache-archiver"), ("error", &*error.to_string())];
            self.console.line(Level::Warning, "Retrying...", &fields);
            tokio::time::sleep(self.args.retry.retry_time).await;
        }
    }
}
