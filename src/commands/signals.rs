//! The operator's signals and the changes of the config file, as one stream.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the file is looked at, as the reference does.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Reload,
    /// Nothing has happened for a while: what could not be served may be fine by now.
    LookAgain,
    Drain,
    Abort(&'static str),
}

/// Waits for the next wish.
#[derive(Debug)]
pub(super) struct Wishes {
    quit: Signal,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    file: PathBuf,
    seen: Option<SystemTime>,
}

impl Wishes {
    /// Takes the signals over from their defaults.
    ///
    /// # Errors
    /// The system does not allow it.
    pub(super) fn new(file: &Path) -> std::io::Result<Self> {
        Ok(Self {
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            seen: modified(file),
            file: file.to_owned(),
        })
    }

    /// The next signal, or a change of the file.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.quit.recv() => Wish::Drain,
            _ = self.terminate.recv() => Wish::Abort("terminated"),
            _ = self.interrupt.recv() => Wish::Abort("interrupt"),
            _ = self.hangup.recv() => {
                self.seen = modified(&self.file);
                Wish::Reload
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                let now = modified(&self.file);
                // A file that is missing for a moment is being replaced.
                if now.is_none() || now == self.seen {
                    return Wish::LookAgain;
                }
                self.seen = now;
                Wish::Reload
            }
        }
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}
