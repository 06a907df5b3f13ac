//! `artifacts-downloader`: fetches a job's archive into a temporary file and extracts it into the project.

use std::io::{self, Seek, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::Job;
use super::patience::{Patience, Tried};
use crate::gitlab::artifacts::{DownloadOutcome, Route};
use crate::gitlab::retry::{Attempts, LONGEST_WISH};
use crate::helper::archive;
use crate::helper::cli::ArtifactsDownloaderArgs;
use crate::helper::console::{Console, Level};
use crate::helper::environment::Environment;
use crate::helper::meter::Meter;
use crate::helper::run::{Failure, runtime};

/// The command.
///
/// # Errors
/// The archive is not there, cannot be had or cannot be extracted.
pub(in crate::helper) fn download(
    args: &ArtifactsDownloaderArgs,
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    run(args, environment, console, &Attempts::default())
}

pub(super) fn run(
    args: &ArtifactsDownloaderArgs,
    environment: &Environment,
    console: &Console,
    attempts: &Attempts,
) -> Result<(), Failure> {
    let Some(job) = Job::new(&args.job, environment)? else {
        return Err(Failure::Fatal("Incomplete arguments".to_owned()));
    };
    let staging = args
        .archiver_staging_dir
        .clone()
        .or_else(|| environment.get("ARCHIVER_STAGING_DIR").map(Into::into))
        .map_or_else(|| environment.temporary_folder(), |folder| environment.absolute(folder));
    // Without a name, so it goes away however this ends. A minimal image may have no folder for such files.
    let file = tempfile::tempfile_in(staging).or_else(|_| tempfile::tempfile_in(environment.folder()));
    let mut file = file.map_err(|error| Failure::fatal(&error))?;
    let direct = args.direct_download.unwrap_or_else(|| environment.is_true("FF_USE_DIRECT_DOWNLOAD"));
    let meter = Meter::new("Downloading artifacts", &args.meter, environment);
    let runtime = runtime()?;
    let patience = Patience { runtime: &runtime, console, context: "artifacts-downloader", attempts };
    let mut tries = 1;
    loop {
        let route = if direct && tries == 1 { Route::Direct } else { Route::ThroughGitlab };
        // The command has no time of its own but the job's: any wait that is believed is waited for.
        let Tried { outcome, wish } = patience.insist(LONGEST_WISH, DownloadOutcome::push_back, |_| {
            meter.reset();
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(|error| Failure::fatal(&error))?;
            let copy = file.try_clone().map_err(|error| Failure::fatal(&error))?;
            let mut to = Metered { file: tokio::fs::File::from_std(copy), meter: meter.clone() };
            Ok(runtime.block_on(meter.watch(job.client.download(&job.credentials, route, &mut to))))
        })?;
        let Some(problem) = tell(&outcome, &job, console) else { break };
        if outcome.tries() == 1 || tries > args.retry.retry {
            return Err(Failure::Fatal(problem));
        }
        tries += 1;
        let fields = [("context", "artifacts-downloader"), ("error", problem.as_str())];
        console.line(Level::Warning, "Retrying...", &fields);
        patience.wait(args.retry.retry_time.max(wish));
    }
    archive::extract(file, environment.folder(), args.max_extracted_size).map_err(|error| Failure::fatal(&error))
}

/// Says what came of a try, and returns the problem where there was one.
fn tell(outcome: &DownloadOutcome, job: &Job, console: &Console) -> Option<String> {
    let failed_status;
    let (level, status, result, problem) = match outcome {
        DownloadOutcome::Downloaded { .. } => (Level::Info, "200", "ok", None),
        DownloadOutcome::Unauthorized { .. } => (Level::Error, "401", "unauthorized", Some("permission denied")),
        DownloadOutcome::Forbidden { .. } => (Level::Error, "403", "forbidden", Some("permission denied")),
        DownloadOutcome::NotFound { .. } => (Level::Error, "404", "not found", Some("file does not exist")),
        DownloadOutcome::Unwritable(error) => return Some(format!("writing the archive: {error}")),
        DownloadOutcome::Failed { status, message, .. } => {
            failed_status = status.map(|status| status.to_string()).unwrap_or_default();
            let (level, result) =
                if failed_status.is_empty() { (Level::Error, "error") } else { (Level::Warning, "failed") };
            (level, failed_status.as_str(), result, Some(message.as_str()))
        }
    };
    let mut fields = job.fields(status);
    if let DownloadOutcome::Failed { message, .. } = outcome {
        fields.push(("error", message));
    }
    console.line(level, &format!("Downloading artifacts from coordinator... {result}"), &fields);
    problem.map(str::to_owned)
}

/// A file that counts what is written.
struct Metered {
    file: tokio::fs::File,
    meter: Meter,
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.file).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.meter.add(*count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}
