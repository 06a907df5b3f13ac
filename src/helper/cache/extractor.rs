//! `cache-extractor`: gets the archive where it is newer than the local one, and extracts it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::remote::{Download, Found, Remote, RemoteError, clean_url};
use super::{NOT_SERVED, modified, time_limit, with_env_file, write_metadata};
use crate::helper::archive;
use crate::helper::calendar::http_date;
use crate::helper::cli::CacheExtractorArgs;
use crate::helper::console::{Console, Level};
use crate::helper::environment::Environment;
use crate::helper::meter::Meter;
use crate::helper::regular::open_regular;
use crate::helper::run::{Failure, block_on};

/// The command.
///
/// # Errors
/// There is no archive, or it cannot be had or extracted. The job goes on without.
pub(in crate::helper) fn extract(
    args: &CacheExtractorArgs,
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    let file = args.file.as_deref().filter(|file| !file.as_os_str().is_empty());
    let file = environment.absolute(file.ok_or_else(|| Failure::Fatal("Missing cache file".to_owned()))?);
    let environment = &with_env_file(environment, args.env_file.as_deref(), console);
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| Failure::fatal(&error))?;
    }
    let given = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
    let primary = given(&args.url).map(|url| Source { url, head_url: given(&args.head_url) });
    let alternate = given(&args.alternate_url).map(|url| Source { url, head_url: given(&args.alternate_head_url) });
    if primary.is_none() && alternate.is_none() && (args.gocloud_url.is_some() || args.alternate_gocloud_url.is_some())
    {
        return Err(Failure::Fatal(NOT_SERVED.to_owned()));
    }
    if primary.is_none() && alternate.is_none() {
        console.info(
            "No URL provided, cache will not be downloaded from shared cache server. \
             Instead a local version of cache will be extracted.",
        );
    } else {
        console.info("Using presigned URL for cache download");
        let remote = Remote::new(environment, time_limit(args.timeout)).map_err(|error| Failure::fatal(&error))?;
        let meter = Meter::new("Downloading cache", &args.meter, environment);
        let fetch = Fetch { args, remote, meter, file: &file, console };
        match block_on(fetch.run(primary, alternate))? {
            Ok(()) => {}
            Err(RemoteError::NotFound) => {
                console.warning("file does not exist");
                return Err(Failure::Said);
            }
            Err(error) => return Err(Failure::fatal(&error)),
        }
    }
    let archive = match open_regular(&file) {
        Ok(archive) => archive,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            console.warning("Cache file does not exist");
            return Err(Failure::Said);
        }
        Err(error) => return Err(Failure::fatal(&error)),
    };
    archive::extract(archive, environment.folder(), args.max_extracted_size).map_err(|error| Failure::fatal(&error))
}

/// A place where the archive may be.
struct Source {
    url: String,
    head_url: Option<String>,
}

struct Fetch<'a> {
    args: &'a CacheExtractorArgs,
    remote: Remote,
    meter: Meter,
    file: &'a Path,
    console: &'a Console,
}

impl Fetch<'_> {
    /// Tries as often as the flags say; what is missing is not looked for again.
    async fn run(&self, primary: Option<Source>, alternate: Option<Source>) -> Result<(), RemoteError> {
        let sources = self.in_order(primary, alternate).await;
        let mut tries = 0;
        loop {
            let error = match self.attempt(&sources).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !error.is_retryable() || tries >= self.args.retry.retry {
                return Err(error);
            }
            tries += 1;
            let fields = [("context", "cache-extractor"), ("error", &*error.to_string())];
            self.console.line(Level::Warning, "Retrying...", &fields);
            tokio::time::sleep(self.args.retry.retry_time).await;
        }
    }

    /// The newer one first. The names of an archive differ between naming schemes, so both may be there.
    async fn in_order(&self, primary: Option<Source>, alternate: Option<Source>) -> Vec<Source> {
        let (Some(primary), Some(alternate)) = (&primary, &alternate) else {
            return primary.into_iter().chain(alternate).collect();
        };
        let (first, second) = (self.modified(primary).await, self.modified(alternate).await);
        let shown = |at: Option<SystemTime>| at.map(http_date).unwrap_or_default();
        let (first_shown, second_shown) = (shown(first), shown(second));
        let (primary_url, alternate_url) = (clean_url(&primary.url), clean_url(&alternate.url));
        let fields = [
            ("primary_modified", first_shown.as_str()),
            ("primary_url", primary_url.as_str()),
            ("alternate_modified", second_shown.as_str()),
            ("alternate_url", alternate_url.as_str()),
        ];
        let copy = |source: &Source| Source { url: source.url.clone(), head_url: None };
        let (message, order) = match (first, second) {
            (None, Some(_)) => ("Selecting alternate cache URL: primary not available", [alternate, primary]),
            (Some(first), Some(second)) if second > first => {
                ("Selecting alternate cache URL: newer timestamp", [alternate, primary])
            }
            (None | Some(_), None | Some(_)) => ("Selecting primary cache URL", [primary, alternate]),
        };
        self.console.line(Level::Info, message, &fields);
        order.map(copy).into()
    }

    async fn modified(&self, source: &Source) -> Option<SystemTime> {
        let found = self.remote.head(source.head_url.as_deref()?).await.ok()?;
        // One without a time is there, and older than any other.
        Some(found.modified.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    async fn attempt(&self, sources: &[Source]) -> Result<(), RemoteError> {
        for source in sources {
            match self.remote.get(&source.url).await {
                Err(RemoteError::NotFound) => {}
                Err(error) => return Err(error),
                Ok(download) => return self.take(&source.url, download).await,
            }
        }
        Err(RemoteError::NotFound)
    }

    async fn take(&self, url: &str, download: Download) -> Result<(), RemoteError> {
        let found = download.found.clone();
        if is_current(self.file, &found) {
            self.console.info(&format!("{} is up to date", base_name(self.file)));
            return Ok(());
        }
        let fields: Vec<_> = found.etag.as_deref().map(|etag| ("etag", etag)).into_iter().collect();
        self.console.line(
            Level::Info,
            &format!("Downloading {} from {}", base_name(self.file), clean_url(url)),
            &fields,
        );
        let folder = self.file.parent().map_or_else(PathBuf::new, Path::to_owned);
        let temporary = tempfile::Builder::new().prefix("cache_").tempfile_in(&folder)?;
        self.meter.reset();
        let meter = match found.size {
            Some(size) => self.meter.clone().with_total(size),
            None => self.meter.clone(),
        };
        meter.watch(download.write_to(temporary.reopen()?, &meter)).await?;
        if let Some(modified) = found.modified {
            temporary.as_file().set_modified(modified)?;
        }
        temporary.persist(self.file).map_err(|error| error.error)?;
        let metadata = found.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        write_metadata(self.file, metadata, self.console);
        Ok(())
    }
}

/// Whether the local archive is at least as new.
fn is_current(file: &Path, found: &Found) -> bool {
    matches!((modified(file), found.modified), (Ok(local), Some(remote)) if remote <= local)
}

pub(super) fn base_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
