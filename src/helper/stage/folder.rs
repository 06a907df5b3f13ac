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
//!
//! The job runs as the same user, so it can put anything in the place of these files while an agent or a keeper
//! works: each is opened as [`regular`] says (`control` as a pipe, and nothing else), and no more is read of it than
//! it can have.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::processes;
use crate::decode_error::DecodeError;
use crate::detached::{Ending, StageFolder};
use crate::helper::regular::{self, open_regular, open_with};

/// The longest `exit` file: an exit status, or a reason that one answer to the manager takes.
const LONGEST_EXIT: u64 = 64 * 1024;

/// The longest file with a few numbers in it.
const LONGEST_NUMBERS: u64 = 256;

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
        open_regular(&self.0.join("script"))
    }

    /// The script has served its purpose, and it holds the job's secrets.
    pub fn delete_script(&self) -> io::Result<()> {
        fs::remove_file(self.0.join("script"))
    }

    pub fn open_output(&self) -> io::Result<File> {
        open_regular(&self.0.join("output"))
    }

    pub fn append_output(&self) -> io::Result<File> {
        open_with(&self.0.join("output"), OFlags::WRONLY | OFlags::APPEND)
    }

    /// Gives back the room of the output before this byte. Positions stay what they are, and the keeper appends.
    ///
    /// # Errors
    /// Among others, the file system cannot make holes.
    pub fn release_output(&self, before: u64) -> io::Result<()> {
        if before <= self.released()? {
            return Ok(());
        }
        let output = open_with(&self.0.join("output"), OFlags::WRONLY)?;
        // Never beyond what is there: the keeper writes on where the file ends.
        let before = before.min(output.metadata()?.len());
        // Said before it is done, so that nobody takes a hole for output.
        self.replace("released", before.to_string().as_bytes())?;
        rustix::fs::fallocate(&output, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, before)?;
        Ok(())
    }

    /// Where the output that is still there begins.
    pub fn released(&self) -> io::Result<u64> {
        match self.read("released", LONGEST_NUMBERS) {
            Ok(text) => {
                let number = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                number.ok_or_else(|| io::Error::other("the file `released` holds no number"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The reader's end of the FIFO. Opened for both directions, so it never reports an end.
    pub fn open_control(&self) -> io::Result<File> {
        self.open_pipe(OFlags::RDWR)
    }

    /// Asks the keeper to end the stage. No keeper, no effect.
    pub fn request_stop(&self, grace: Duration) -> io::Result<()> {
        match self.open_pipe(OFlags::WRONLY) {
            Ok(mut control) => control.write_all(format!("stop {}\n", grace.as_millis()).as_bytes()),
            Err(error) if is_no_reader(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a keeper lives.
    pub fn is_kept(&self) -> io::Result<bool> {
        let lock = match open_regular(&self.0.join("lock")) {
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
        let text = self.read("process", LONGEST_NUMBERS).unwrap_or_default();
        let Ok(process) = serde_json::from_slice::<Process>(&text) else { return };
        // A job may have written the file, and the kernel takes 1 for everybody.
        if process.group <= 1 {
            return;
        }
        // Another process may have the number by now; its start tells.
        let is_same = processes::stat(process.group).is_some_and(|stat| stat.started == process.started);
        if let (true, Some(group)) = (is_same, Pid::from_raw(process.group)) {
            // Gone in this moment, which is as wanted.
            rustix::process::kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }

    /// Writes the ending under another name first, so that it is there whole or not at all.
    pub fn write_ending(&self, ending: &Ending) -> io::Result<()> {
        self.replace("exit", &serde_json::to_vec(ending)?)
    }

    pub fn read_ending(&self) -> io::Result<Option<Ending>> {
        match self.read("exit", LONGEST_EXIT) {
            Ok(text) => {
                Ok(Some(serde_json::from_slice(&text).map_err(|error| io::Error::other(DecodeError::from(error)))?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        regular::read_regular(&self.0.join(name), limit)
    }

    fn open_pipe(&self, access: OFlags) -> io::Result<File> {
        let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pipe = File::from(rustix::fs::open(self.0.join("control"), flags, Mode::empty())?);
        if pipe.metadata()?.file_type().is_fifo() { Ok(pipe) } else { Err(io::Error::other("not a pipe")) }
    }

    /// Gives a file new content, which is there whole or not at all. Whatever stands in the way is not written to.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let part = format!("{name}.part");
        match fs::remove_file(self.0.join(&part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.create(&part)?.write_all(content)?;
        fs::rename(self.0.join(part), self.0.join(name))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.0.join(name))
    }
}

/// A FIFO without a reader cannot be opened for writing: its keeper is gone.
fn is_no_reader(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}
