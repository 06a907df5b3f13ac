//! The keeper: one process for one stage, from the start of its shell to its exit status.
//!
//! ```text
//!   start shell ──► running ──(shell ended)──► ending ──(no descendant left, pipes drained)──► exit file
//!                      │                          ▲
//!                      └──(stop: TERM)──► stopping ┘ (KILL after the grace)
//! ```
//!
//! It is a session of its own and the subreaper of everything the script starts, so neither the end of
//! a connection nor a daemonising child takes the stage out of its hands. It waits for nobody but the
//! disk. What is left of the stage when its shell ends is killed, as the end of a container would.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::num::ParseIntError;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::folder::{Folder, Process};
use super::processes;
use crate::detached::records::{self, HEADER, MAX_BODY, OutputStream};
use crate::detached::{Ending, Exit};
use crate::time;

/// How often what has to die is killed again: a process may fork while we read the list.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// How long processes may take to die of KILL. One in an uninterruptible wait must not hold the job.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long a full disk is waited for before the stage is given up.
const DISK_LIMIT: Duration = Duration::from_secs(60);

/// How often a full disk is tried.
const DISK_INTERVAL: Duration = Duration::from_millis(200);

/// The keeper's command line, written by an agent.
#[derive(Clone, Debug, Args)]
pub struct KeepArgs {
    /// The file mode mask in octal.
    #[arg(long, value_parser = parse_mask)]
    pub umask: Option<u32>,
    /// The stage's folder.
    pub folder: PathBuf,
    /// The shell and its arguments; none where the agent found no shell.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub shell: Vec<OsString>,
}

fn parse_mask(octal: &str) -> Result<u32, ParseIntError> {
    u32::from_str_radix(octal, 8)
}

/// Runs the stage of a folder that an agent has filled. Environment and working folder are the
/// stage's own already.
pub fn main(arguments: &KeepArgs) -> ExitCode {
    let folder = Folder::at(&arguments.folder);
    let ending =
        keep(&folder, arguments.umask, &arguments.shell).unwrap_or_else(|failure| Ending::Failed(failure.to_string()));
    // Where even this cannot be written, the lock that ends with us tells the agent.
    if folder.write_ending(&ending).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why a stage has no exit status.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("cannot prepare the stage's processes: {0}")]
    Prepare(#[source] io::Error),
    #[error("cannot keep the stage's output: {0}")]
    Output(#[source] io::Error),
    #[error("cannot watch the stage: {0}")]
    Watch(#[source] io::Error),
}

fn keep(folder: &Folder, umask: Option<u32>, shell: &[OsString]) -> Result<Ending, KeepError> {
    detach().map_err(KeepError::Prepare)?;
    let mut output = folder.append_output().map_err(KeepError::Prepare)?;
    let control = folder.open_control().map_err(KeepError::Prepare)?;
    if let Some(mask) = umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    let mut child = match start_shell(folder, shell).map_err(KeepError::Prepare)? {
        Ok(child) => child,
        Err(NoShell { said, code }) => {
            let header = records::header(OutputStream::Stderr, u32::try_from(said.len()).unwrap_or_default());
            append(&mut output, &[&header, said.as_bytes()].concat()).map_err(KeepError::Output)?;
            folder.delete_script().unwrap_or_default();
            return Ok(Ending::Exited(Exit::Code(code)));
        }
    };
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let started = processes::stat(pid).map_or(0, |stat| stat.started);
    // Needed only if this keeper is killed; the stage does not depend on it.
    folder.write_process(Process { group: pid, started }).unwrap_or_default();
    let result = Stage::new(&mut child, control, output).map_err(KeepError::Prepare).and_then(Stage::run);
    if result.is_err() {
        processes::signal_descendants(own_pid(), Signal::KILL).unwrap_or_default();
    }
    folder.delete_script().unwrap_or_default();
    result.map(Ending::Exited)
}

/// A session of our own, which the end of a connection does not signal, and the care for orphans.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// There is no such shell where the job wants to run. It is told as a shell tells of a missing command: the
/// job's own matter.
struct NoShell {
    said: String,
    code: i32,
}

/// The outer error is one of this machine.
fn start_shell(folder: &Folder, shell: &[OsString]) -> io::Result<Result<Child, NoShell>> {
    // As the reference says it.
    let [program, arguments @ ..] = shell else {
        return Ok(Err(NoShell { said: "shell not found\n".to_owned(), code: 1 }));
    };
    let script = folder.open_script()?;
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(script)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let code = match &spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 127,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => 126,
        Ok(_) | Err(_) => return spawned.map(Ok),
    };
    let error = spawned.err().map(|error| error.to_string()).unwrap_or_default();
    Ok(Err(NoShell { said: format!("cannot start the shell {}: {error}\n", program.display()), code }))
}

/// The running stage.
struct Stage {
    /// The shell's outputs, until their end.
    pipes: [Option<(OutputStream, OwnedFd)>; 2],
    control: File,
    /// From the thread that reaps: the shell's status, then the end when no child is left.
    reaped: Option<OwnedFd>,
    output: File,
    /// One record: room for its header, then what a pipe gave.
    buffer: Vec<u8>,
    exit: Option<Exit>,
    /// When processes are killed next; `None` while all may live.
    kill_at: Option<Instant>,
    /// When we stop waiting for processes that do not die.
    give_up_at: Option<Instant>,
}

impl Stage {
    fn new(child: &mut Child, control: File, output: File) -> io::Result<Self> {
        let pipe = |stream, pipe: Option<OwnedFd>| pipe.map(|pipe| (stream, pipe));
        Ok(Self {
            pipes: [
                pipe(OutputStream::Stdout, child.stdout.take().map(OwnedFd::from)),
                pipe(OutputStream::Stderr, child.stderr.take().map(OwnedFd::from)),
            ],
            control,
            reaped: Some(start_reaper(child.id())?),
            output,
            buffer: vec![0; HEADER + MAX_BODY],
            exit: None,
            kill_at: None,
            give_up_at: None,
        })
    }

    fn run(mut self) -> Result<Exit, KeepError> {
        loop {
            let [stdout, stderr, control, reaped] = self.wait().map_err(KeepError::Watch)?;
            if stdout {
                self.take_output(0)?;
            }
            if stderr {
                self.take_output(1)?;
            }
            if control {
                self.take_control();
            }
            if reaped {
                self.take_reaped().map_err(KeepError::Watch)?;
            }
            let now = time::now().instant;
            if self.kill_at.is_some_and(|at| at <= now) {
                let killed = processes::signal_descendants(own_pid(), Signal::KILL).map_err(KeepError::Watch)?;
                self.kill_at = Some(now + KILL_INTERVAL);
                let give_up_at = self.give_up_at.get_or_insert(now + KILL_LIMIT);
                if killed.is_all_forbidden() {
                    // None of them will die of us, so what is waited for is only one that is just ending.
                    *give_up_at = (*give_up_at).min(now + KILL_INTERVAL);
                }
            }
            let all_gone = self.reaped.is_none() || self.give_up_at.is_some_and(|at| at <= now);
            if all_gone && !self.has_output().map_err(KeepError::Watch)? {
                // Without a status the shell was not reaped in time: it is held in the kernel.
                return Ok(self.exit.unwrap_or(Exit::Signal(Signal::KILL.as_raw())));
            }
        }
    }

    /// Waits until something can be done, and says which of the descriptors are ready.
    fn wait(&self) -> io::Result<[bool; 4]> {
        let deadline = [self.kill_at, self.give_up_at].into_iter().flatten().min();
        let patience = deadline.map(|at| at.saturating_duration_since(time::now().instant));
        // When nobody is left, one look at the pipes is enough.
        let patience = if self.reaped.is_none() { Some(Duration::ZERO) } else { patience };
        self.poll(patience)
    }

    fn poll(&self, patience: Option<Duration>) -> io::Result<[bool; 4]> {
        let [stdout, stderr] = &self.pipes;
        let mut fds = vec![(2, PollFd::new(&self.control, PollFlags::IN))];
        for (place, pipe) in [(0, stdout), (1, stderr)] {
            if let Some((_, pipe)) = pipe {
                fds.push((place, PollFd::new(pipe, PollFlags::IN)));
            }
        }
        if let Some(reaped) = &self.reaped {
            fds.push((3, PollFd::new(reaped, PollFlags::IN)));
        }
        let (places, mut fds): (Vec<usize>, Vec<PollFd<'_>>) = fds.into_iter().unzip();
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = [false; 4];
        for (place, fd) in places.into_iter().zip(&fds) {
            if let Some(ready) = ready.get_mut(place) {
                *ready = !fd.revents().is_empty();
            }
        }
        Ok(ready)
    }

    /// Whether a pipe still has bytes, which nobody is left to add to.
    fn has_output(&self) -> io::Result<bool> {
        let [stdout, stderr, _, _] = self.poll(Some(Duration::ZERO))?;
        Ok(stdout || stderr)
    }

    /// Moves what a pipe has into the output file, as one record.
    fn take_output(&mut self, which: usize) -> Result<(), KeepError> {
        let Some(pipe) = self.pipes.get_mut(which) else { return Ok(()) };
        let Some((stream, fd)) = pipe else { return Ok(()) };
        let Some(body) = self.buffer.get_mut(HEADER..) else { return Ok(()) };
        match rustix::io::read(&*fd, body) {
            Ok(0) => *pipe = None,
            Ok(length) => {
                let header = records::header(*stream, u32::try_from(length).unwrap_or_default());
                if let Some(place) = self.buffer.first_chunk_mut() {
                    *place = header;
                }
                let record = self.buffer.get(..HEADER + length).unwrap_or_default();
                append(&mut self.output, record).map_err(KeepError::Output)?;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(KeepError::Output(error.into())),
        }
        Ok(())
    }

    /// A request to stop: `stop MILLISECONDS`. A second one can only shorten the grace.
    fn take_control(&mut self) {
        let mut text = [0; 512];
        let length = self.control.read(&mut text).unwrap_or(0);
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        for grace in text.lines().filter_map(|line| line.strip_prefix("stop ")?.parse().ok()) {
            let at = time::now().instant + Duration::from_millis(grace);
            let first = self.kill_at.is_none();
            self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
            if first {
                processes::signal_descendants(own_pid(), Signal::TERM).unwrap_or_default();
            }
        }
    }

    fn take_reaped(&mut self) -> io::Result<()> {
        let Some(reaped) = &self.reaped else { return Ok(()) };
        let mut status = [0; 5];
        match rustix::io::read(reaped, &mut status) {
            Ok(0) => self.reaped = None,
            Ok(_) => {
                let [kind, a, b, c, d] = status;
                let number = i32::from_be_bytes([a, b, c, d]);
                self.exit = Some(if kind == SIGNALED { Exit::Signal(number) } else { Exit::Code(number) });
                let now = time::now().instant;
                // Often nobody is left, and the reaper says so at once: no need to look through /proc.
                self.kill_at = Some(self.kill_at.map_or(now, |before| before.min(now)) + Duration::from_millis(1));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

const EXITED: u8 = 0;
const SIGNALED: u8 = 1;

/// Starts the thread that waits for children, the shell's and adopted ones alike, until there is none.
fn start_reaper(shell: u32) -> io::Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    thread::Builder::new().name("reaper".to_owned()).stack_size(64 * 1024).spawn(move || {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(shell) => {
                    let (kind, number) = match status.terminating_signal() {
                        Some(signal) => (SIGNALED, signal),
                        None => (EXITED, status.exit_status().unwrap_or_default()),
                    };
                    let [a, b, c, d] = number.to_be_bytes();
                    // The other end is read until we close ours; there is no one else to tell.
                    rustix::io::write(&writer, &[kind, a, b, c, d]).unwrap_or_default();
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    })?;
    Ok(reader)
}

/// Appends a whole record. A disk that is full now may have room when another job has cleaned up.
fn append(output: &mut File, mut record: &[u8]) -> io::Result<()> {
    let mut full_since = None;
    while !record.is_empty() {
        match output.write(record) {
            Ok(written) => {
                record = record.get(written..).unwrap_or_default();
                full_since = None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded =>
            {
                let now = time::now().instant;
                if now.saturating_duration_since(*full_since.get_or_insert(now)) > DISK_LIMIT {
                    return Err(error);
                }
                pause(DISK_INTERVAL);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A wait in a process that has nothing else to do: `poll` on nothing.
fn pause(duration: Duration) {
    if let Ok(timeout) = Timespec::try_from(duration) {
        poll(&mut [], Some(&timeout)).unwrap_or_default();
    }
}

fn own_pid() -> i32 {
    Pid::as_raw(Some(rustix::process::getpid()))
}
