//! The folder of one stage, and what its files mean.
//!
//! | file | written by | meaning |
//! |---|---|---|
//! | (the folder itself) | agent | the fence: it exists, so the stage is never started again |
//! | `script` | agent | the shell's standard input; deleted when the shell has ended, as it holds secrets |
//! | `lock` | agent, inherited by the keeper | locked for as long as a keeper lives |
//! | `output` | keeper | [`crate::detached::records`] |
//! | `released` | agent | how much of `output` from its beginning is delivered and gone: a hole |
//! | `control` | anyone | a FIFO into the keeper: a request to stop |
//! | `process` | keeper | process group and start time of the shell |
//! | `exit` | keeper | how the shell ended; appears whole, after all output |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::processes;
use crate::detached::{Ending, StageFolder};

/// The shell's processes, as the `process` file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub group: i32,
    /// Clock ticks after boot, which tell the process from a later one of the same number.
    pub started: u64,
}

/// What a keeper inherits from the agent that starts it. For as long as it lives, others see that.
#[derive(Debug)]
pub struct Inheritance {
    /// The held lock.
    pub lock: File,
    /// The FIFO, open for both directions: a request to stop that comes before the keeper reads it waits there.
    pub control: File,
}

/// The path of a stage's folder, with one method for each of its files.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(root: &Path, folder: &StageFolder) -> Self {
        Self(root.join(folder.to_string()))
    }

    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder. False where it exists, which means that the stage was started before.
    pub fn raise_fence(&self) -> io::Result<bool> {
        if let Some(job) = self.0.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(job)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.0) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what the keeper needs before it starts, and returns what it inherits.
    pub fn fill(&self, script: &str) -> io::Result<Inheritance> {
        self.create("script")?.write_all(script.as_bytes())?;
        self.create("output")?;
        rustix::fs::mkfifoat(CWD, self.0.join("control"), Mode::RUSR | Mode::WUSR)?;
        let lock = self.create("lock")?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Inheritance { lock, control: self.open_control()? })
    }

    pub fn open_script(&self) -> io::Result<File> {
        File::open(self.0.join("script"))
    }

    /// The script has served its purpose, and it holds the job's secrets.
    pub fn delete_script(&self) -> io::Result<()> {
        fs::remove_file(self.0.join("script"))
    }

    pub fn open_output(&self) -> io::Result<File> {
        File::open(self.0.join("output"))
    }

    pub fn append_output(&self) -> io::Result<File> {
        OpenOptions::new().append(true).open(self.0.join("output"))
    }

    /// Gives back the room of the output before this byte. Positions stay what they are, and the keeper appends.
    ///
    /// # Errors
    /// Among others, the file system cannot make holes.
    pub fn release_output(&self, before: u64) -> io::Result<()> {
        if before <= self.released()? {
            return Ok(());
        }
        let output = OpenOptions::new().write(true).open(self.0.join("output"))?;
        // Never beyond what is there: the keeper writes on where the file ends.
        let before = before.min(output.metadata()?.len());
        // Said before it is done, so that nobody takes a hole for output.
        fs::write(self.0.join("released.part"), before.to_string())?;
        fs::rename(self.0.join("released.part"), self.0.join("released"))?;
        rustix::fs::fallocate(&output, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, before)?;
        Ok(())
    }

    /// Where the output that is still there begins.
    pub fn released(&self) -> io::Result<u64> {
        match fs::read_to_string(self.0.join("released")) {
            Ok(text) => text.parse().map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The reader's end of the FIFO. Opened for both directions, so it never reports an end.
    pub fn open_control(&self) -> io::Result<File> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.0.join("control"))
    }

    /// Asks the keeper to end the stage. No keeper, no effect.
    pub fn request_stop(&self, grace: Duration) -> io::Result<()> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        match OpenOptions::new().write(true).custom_flags(flags).open(self.0.join("control")) {
            Ok(mut control) => control.write_all(format!("stop {}\n", grace.as_millis()).as_bytes()),
            Err(error) if is_no_reader(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a keeper lives.
    pub fn is_kept(&self) -> io::Result<bool> {
        let lock = match File::open(self.0.join("lock")) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    pub fn write_process(&self, process: Process) -> io::Result<()> {
        self.create("process")?.write_all(&serde_json::to_vec(&process)?)
    }

    /// Kills the shell's process group where no keeper is left to do it.
    pub fn kill_orphans(&self) {
        let text = fs::read(self.0.join("process")).unwrap_or_default();
        let Ok(process) = serde_json::from_slice::<Process>(&text) else { return };
        // Another process may have the number by now; its start tells.
        let is_same = processes::stat(process.group).is_some_and(|stat| stat.started == process.started);
        if let (true, Some(group)) = (is_same, Pid::from_raw(process.group)) {
            // Gone in this moment, which is as wanted.
            rustix::process::kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }

    /// Writes the ending under another name first, so that it is there whole or not at all.
    pub fn write_ending(&self, ending: &Ending) -> io::Result<()> {
        self.create("exit.part")?.write_all(&serde_json::to_vec(ending)?)?;
        fs::rename(self.0.join("exit.part"), self.0.join("exit"))
    }

    pub fn read_ending(&self) -> io::Result<Option<Ending>> {
        match fs::read(self.0.join("exit")) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.0.join(name))
    }
}

/// A FIFO without a reader cannot be opened for writing: its keeper is gone.
fn is_no_reader(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}
