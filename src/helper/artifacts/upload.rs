//! `artifacts-uploader`: selects files and sends them as one archive that is made on the way.
//!
//! Each attempt makes the archive anew, since it is kept nowhere. Which answers are worth another try is
//! GitLab's contract (`UploadOutcome::tries`), and within a try the server may push back.

use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::Job;
use super::body::{BodyWriter, body};
use super::patience::{Patience, Tried};
use crate::backoff::Backoff;
use crate::error_chain::Chain;
use crate::gitlab::artifacts::{ArtifactUpload, UploadOutcome};
use crate::gitlab::retry::Attempts;
use crate::helper::archive::{self, ArchiveError, Compression, Format};
use crate::helper::cli::ArtifactsUploaderArgs;
use crate::helper::console::{Console, Level};
use crate::helper::environment::Environment;
use crate::helper::meter::Meter;
use crate::helper::run::{Failure, runtime};
use crate::helper::selection::{Selection, expand_text, select};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What a timeout of 0, which is none, comes to: no job runs that long.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);

/// The command.
///
/// # Errors
/// The artifacts are not at GitLab. That there is nothing to upload is no error.
pub(in crate::helper) fn upload(
    args: &ArtifactsUploaderArgs,
    environment: &Environment,
    console: &Console,
) -> Result<(), Failure> {
    run(args, environment, console, &Attempts::default(), Backoff::new(FIRST_WAIT, LONGEST_WAIT))
}

pub(super) fn run(
    args: &ArtifactsUploaderArgs,
    environment: &Environment,
    console: &Console,
    attempts: &Attempts,
    waits: Backoff,
) -> Result<(), Failure> {
    let Some(mut job) = Job::new(&args.job, environment)? else {
        return Err(Failure::Fatal("Missing runner credentials".to_owned()));
    };
    job.client = job.client.with_redirect_hosts(args.redirect_hosts.clone());
    let format = Format::parse(args.artifact_format.as_deref().unwrap_or_default()).map_err(Failure::Fatal)?;
    let level = args.compression_level.as_deref().or_else(|| environment.get("ARTIFACT_COMPRESSION_LEVEL"));
    let compression = Compression::parse(level, console);
    if args.provenance.generate_artifacts_metadata.unwrap_or(false) && format == Format::Zip {
        console.warning("artifacts metadata (provenance) is not supported yet and left out");
    }
    let selection = select(&args.files, environment, console);
    if selection.is_empty() {
        console.error("No files to upload");
        return Ok(());
    }
    let upload = ArtifactUpload {
        name: format.file_name(&archive_name(&expand_text(&args.name, environment, console))),
        format: args.artifact_format.clone().unwrap_or_default(),
        artifact_type: args.artifact_type.clone().unwrap_or_default(),
        expire_in: args.expire_in.clone().unwrap_or_default(),
        response_header_timeout: limit(args.response_header_timeout),
    };
    let uploader = Uploader {
        runtime: runtime()?,
        job,
        upload,
        selection,
        format,
        compression,
        timeout: limit(args.timeout),
        meter: Meter::new("Uploading artifacts", &args.meter, environment),
        console,
    };
    uploader.run(attempts, waits)
}

fn limit(timeout: Duration) -> Duration {
    if timeout.is_zero() { NO_TIMEOUT } else { timeout }
}

/// The base name; `default` where there is none.
fn archive_name(name: &str) -> String {
    let base = Path::new(name).file_name().and_then(|base| base.to_str());
    base.filter(|base| !base.is_empty()).unwrap_or("default").to_owned()
}

struct Uploader<'a> {
    runtime: Runtime,
    job: Job,
    upload: ArtifactUpload,
    selection: Selection,
    format: Format,
    compression: Compression,
    timeout: Duration,
    meter: Meter,
    console: &'a Console,
}

impl Uploader<'_> {
    fn run(mut self, attempts: &Attempts, mut waits: Backoff) -> Result<(), Failure> {
        let mut tries = 1;
        loop {
            let patience =
                Patience { runtime: &self.runtime, console: self.console, context: "artifacts-uploader", attempts };
            let Tried { outcome, wish } =
                patience.insist(self.timeout, UploadOutcome::push_back, |left| self.attempt(left))?;
            let Some(problem) = self.tell(&outcome) else { return Ok(()) };
            let allowed = outcome.tries();
            if tries >= allowed {
                return Err(Failure::Fatal(problem));
            }
            tries += 1;
            let fields = [("context", "artifacts-uploader"), ("error", problem.as_str())];
            self.console.line(Level::Warning, "Retrying...", &fields);
            patience.wait(waits.next_wait().max(wish.min(self.timeout)));
            if let UploadOutcome::Redirected(client) = outcome {
                self.job.client = client;
            }
        }
    }

    /// One attempt. An archive that cannot be made ends the command: the next would fail as well.
    fn attempt(&self, limit: Duration) -> Result<UploadOutcome, Failure> {
        self.meter.reset();
        let stopped = CancellationToken::new();
        let (writer, stream) = body(self.runtime.handle(), stopped.clone(), self.meter.clone());
        let (outcome, archived) = thread::scope(|scope| {
            let archiver = scope.spawn(|| self.archive(writer));
            let call = self.job.client.upload(&self.job.credentials, &self.upload, stream);
            let outcome = self.runtime.block_on(self.meter.watch(async {
                match tokio::time::timeout(limit, call).await {
                    Ok(outcome) => outcome,
                    Err(_) => UploadOutcome::Failed {
                        status: None,
                        message: format!("no end within {:?}", self.timeout),
                        push_back: None,
                    },
                }
            }));
            stopped.cancel();
            (outcome, archiver.join())
        });
        match archived {
            Ok(Ok(())) | Ok(Err(ArchiveError::Write(_) | ArchiveError::Zip(_))) => Ok(outcome),
            Ok(Err(error @ (ArchiveError::Read { .. } | ArchiveError::NotOneFile))) => Err(Failure::fatal(&error)),
            Err(_) => Err(Failure::Fatal("the archiver has panicked".to_owned())),
        }
    }

    fn archive(&self, mut writer: BodyWriter) -> Result<(), ArchiveError> {
        match archive::write(&self.selection, self.format, self.compression, &mut writer, self.console) {
            Ok(()) => writer.finish().map_err(ArchiveError::Write),
            Err(error) => {
                writer.fail(&Chain(&error).to_string());
                Err(error)
            }
        }
    }

    /// Says what came of a try, and returns the problem where there was one.
    fn tell(&self, outcome: &UploadOutcome) -> Option<String> {
        let what = match self.upload.artifact_type.as_str() {
            "" => "Uploading artifacts to coordinator...".to_owned(),
            kind => format!("Uploading artifacts as \"{kind}\" to coordinator..."),
        };
        let (level, status, result, problem) = match outcome {
            UploadOutcome::Uploaded => (Level::Info, "201", "201 Created", None),
            UploadOutcome::Redirected(_) => {
                self.console.line(Level::Info, "Upload request redirected", &self.job.fields("307"));
                return Some("request redirected".to_owned());
            }
            UploadOutcome::RefusedRedirect { host } => {
                let refused = format!("redirected to {host}, which is neither GitLab's host nor in redirect_hosts");
                self.console.line(Level::Error, &format!("{what} {refused}"), &self.job.fields("307"));
                return Some(refused);
            }
            UploadOutcome::Forbidden { message } => (Level::Error, "403", message.as_str(), Some("permission denied")),
            UploadOutcome::TooLarge { message } => (Level::Error, "413", message.as_str(), Some("too large")),
            UploadOutcome::Unavailable { message, .. } => {
                (Level::Error, "503", message.as_str(), Some(message.as_str()))
            }
            UploadOutcome::Failed { status, message, .. } => {
                let status = status.map(|status| status.to_string()).unwrap_or_default();
                let (level, result) =
                    if status.is_empty() { (Level::Error, "error") } else { (Level::Warning, message.as_str()) };
                let mut fields = self.job.fields(&status);
                if status.is_empty() {
                    fields.push(("error", message));
                }
                self.console.line(level, &format!("{what} {result}"), &fields);
                return Some(message.clone());
            }
        };
        self.console.line(level, &format!("{what} {result}"), &self.job.fields(status));
        problem.map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_called_by_the_base_name() {
        for (name, expected) in [
            ("artifacts", "artifacts"),
            ("a/b/c", "c"),
            ("", "default"),
            (".", "default"),
            ("a/", "a"),
            ("..", "default"),
            ("/", "default"),
        ] {
            assert_eq!(archive_name(name), expected, "{name}");
        }
    }
}
