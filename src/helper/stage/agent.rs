//! The agent: answers the manager's frames on standard input and output, next to the stages.
//!
//! It starts keepers and reads their files; it owns nothing that would be lost with it. Any number of
//! agents may follow one stage. One loop on `poll` does everything, so a stream that takes nothing more
//! holds back only output, never a request to stop.
//!
//! As the main process of a container (`--stay`) it does not end with its input, since that would end
//! the container, and it reaps what else is orphaned there.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;

use super::folder::{Folder, Inheritance};
use super::keepers::Keepers;
use super::processes;
use crate::backoff::Backoff;
use crate::detached::wire::{self, Answer, Frame, Hello, MAGIC, PROTOCOL, Request, SHELLS, Start, WireError};
use crate::detached::{Ending, StageFolder, path_safe};
use crate::helper::Environment;

/// How much output may wait for the stream before no more is read from the files.
const PENDING_LIMIT: usize = 256 * 1024;

/// How much of a file is sent in one frame.
const PIECE: usize = 64 * 1024;

/// How often files are looked at where the kernel gives us no notification: it does so to 128 agents of a user.
const LOOK_INTERVAL: Duration = Duration::from_millis(4);

/// The same of a stage that has long printed nothing: hundreds of agents must not wear out their machine.
const LONGEST_LOOK: Duration = Duration::from_millis(128);

/// How often we look at things that nothing notifies us of: orphans, and keepers that were killed.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

/// The agent's command line.
#[derive(Clone, Debug, Default, Args)]
pub struct AgentArgs {
    /// The folder of all jobs [default: .flotilla/jobs in the home].
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Be a container's main process: go on when the input ends, and reap orphans.
    #[arg(long)]
    pub stay: bool,
    /// Give stages the environment of this container's main process, as it would itself.
    #[arg(long)]
    pub beside: bool,
}

/// Runs the agent until its input ends.
pub fn main(arguments: &AgentArgs, environment: &Environment) -> ExitCode {
    match Agent::new(Options::new(arguments, environment)).and_then(Agent::run) {
        Ok(()) => ExitCode::SUCCESS,
        // The manager has gone, or does not speak our frames: there is no one to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Why the agent ends before its input does.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error("talking to the manager")]
    Io(#[from] io::Error),
    #[error("talking to the manager")]
    Wire(#[from] WireError),
}

impl From<Errno> for AgentError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

struct Options {
    root: PathBuf,
    stay: bool,
    /// What stages get in place of our own environment.
    environment: Option<Vec<(OsString, OsString)>>,
    /// Where programs are looked for.
    path: String,
}

impl Options {
    fn new(arguments: &AgentArgs, environment: &Environment) -> Self {
        let home = || Path::new(environment.get("HOME").unwrap_or("/")).join(".flotilla/jobs");
        Self {
            root: arguments.root.clone().unwrap_or_else(home),
            stay: arguments.stay,
            environment: if arguments.beside { processes::environment_of_first_agent() } else { None },
            path: environment.get("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin").to_owned(),
        }
    }
}

/// A stage whose output is being sent.
struct Follow {
    folder: Folder,
    output: File,
    /// Next byte of the file to send.
    at: u64,
    /// The watch on the folder, to be taken away afterwards.
    watch: Option<i32>,
}

struct Agent {
    options: Options,
    keepers: Keepers,
    next_care: Instant,
    executable: PathBuf,
    shell: Option<String>,
    input: BytesMut,
    /// Bytes for the manager that the stream has not taken yet.
    pending: BytesMut,
    follows: BTreeMap<u32, Follow>,
    /// Where the kernel tells of changes in followed folders.
    inotify: Option<OwnedFd>,
    /// Where it does not, how often they are looked at.
    looks: Backoff,
    /// Room for what is read of a file.
    piece: Box<[u8]>,
    connected: bool,
}

/// What a wait ended with.
struct Ready {
    input: bool,
    notified: bool,
    writable: bool,
}

impl Agent {
    fn new(options: Options) -> Result<Self, AgentError> {
        let executable = std::env::current_exe()?;
        let shell = SHELLS.iter().find(|path| is_executable(Path::new(path))).map(|path| (*path).to_owned());
        // A stream that takes nothing must not keep us from reading requests.
        let output = rustix::stdio::stdout();
        rustix::fs::fcntl_setfl(output, rustix::fs::fcntl_getfl(output)? | OFlags::NONBLOCK)?;
        Ok(Self {
            keepers: Keepers::new(!options.stay)?,
            next_care: crate::time::now().instant,
            options,
            executable,
            shell,
            input: BytesMut::new(),
            pending: BytesMut::new(),
            follows: BTreeMap::new(),
            inotify: None,
            looks: Backoff::new(LOOK_INTERVAL, LONGEST_LOOK),
            piece: vec![0; PIECE].into_boxed_slice(),
            connected: true,
        })
    }

    fn run(mut self) -> Result<(), AgentError> {
        self.pending.extend_from_slice(MAGIC);
        let hello = self.hello()?;
        wire::put_answer(&mut self.pending, &Answer::Hello(hello))?;
        loop {
            if let Err(error) = self.turn() {
                self.connected = false;
                if !self.options.stay {
                    return Err(error);
                }
            }
            if !self.connected && !self.options.stay {
                return Ok(());
            }
        }
    }

    /// One round: send what can be sent, wait, take what came.
    fn turn(&mut self) -> Result<(), AgentError> {
        if self.connected {
            self.flush()?;
        } else {
            self.follows.clear();
            self.pending.clear();
        }
        let ready = self.wait()?;
        if ready.notified {
            self.drain_notifications();
        }
        self.keepers.reap();
        let now = crate::time::now().instant;
        if now >= self.next_care {
            self.next_care = now + CARE_INTERVAL;
            self.keepers.care();
        }
        if ready.input {
            self.take_input()?;
        }
        if ready.writable {
            self.flush()?;
        }
        self.pump()
    }

    fn hello(&self) -> io::Result<Hello> {
        let git = std::env::split_paths(&self.options.path).any(|folder| is_executable(&folder.join("git")));
        Ok(Hello {
            protocol: PROTOCOL,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            directory: std::env::current_dir()?,
            root: self.options.root.clone(),
            executable: self.executable.clone(),
            shell: self.shell.clone(),
            git,
            releases: true,
        })
    }

    fn wait(&mut self) -> Result<Ready, AgentError> {
        let timeout = Timespec::try_from(self.patience()).ok();
        let input = rustix::stdio::stdin();
        let output = rustix::stdio::stdout();
        let mut fds = Vec::with_capacity(3);
        let mut add = |fd| {
            fds.push(fd);
            fds.len() - 1
        };
        let input = self.connected.then(|| add(PollFd::new(&input, PollFlags::IN)));
        let writable = (!self.pending.is_empty()).then(|| add(PollFd::new(&output, PollFlags::OUT)));
        let notified = self.inotify.as_ref().map(|fd| add(PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: Option<usize>| at.and_then(|at| fds.get(at)).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready { input: is_ready(input), notified: is_ready(notified), writable: is_ready(writable) })
    }

    fn patience(&mut self) -> Duration {
        let watched = self.follows.values().all(|follow| follow.watch.is_some());
        if watched { CARE_INTERVAL } else { self.looks.next_wait() }
    }

    fn take_input(&mut self) -> Result<(), AgentError> {
        let mut piece = [0; 16 * 1024];
        match rustix::io::read(rustix::stdio::stdin(), &mut piece) {
            Ok(0) => self.connected = false,
            Ok(length) => self.input.extend_from_slice(piece.get(..length).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(frame) = wire::take_from_manager(&mut self.input)? {
            match frame {
                Frame::Request(request) => self.handle(request)?,
                // Only the agent sends these; one that comes back is not ours to judge.
                Frame::Answer(_) | Frame::Output { .. } => {}
            }
        }
        Ok(())
    }

    fn handle(&mut self, request: Request) -> Result<(), AgentError> {
        match request {
            Request::Start(start) => {
                let id = start.id;
                let answer = match self.start(&start) {
                    Ok(true) => Answer::Started { id },
                    Ok(false) => Answer::AlreadyStarted { id },
                    Err(error) => {
                        let reason = format!("cannot start the stage: {error}");
                        Answer::Lost { id, reason, machine_is_full: is_full(&error) }
                    }
                };
                self.answer(&answer)
            }
            Request::Follow { id, folder, from } => match self.follow(&folder, from) {
                Ok(follow) => {
                    self.looks.reset();
                    self.follows.insert(id, follow);
                    Ok(())
                }
                Err(error) => self.answer(&lost(id, format!("cannot follow the stage: {error}"))),
            },
            Request::Release { folder, before } => {
                // Where the file system has no holes, the file keeps its room until it is removed.
                Folder::new(&self.options.root, &folder).release_output(before).unwrap_or_default();
                Ok(())
            }
            Request::Stop { folder, grace_ms } => {
                let folder = Folder::new(&self.options.root, &folder);
                self.keepers.stop(&folder, Duration::from_millis(grace_ms));
                Ok(())
            }
            Request::Remove { id, job } => {
                let answer = match self.keepers.remove(&self.options.root.join(path_safe(&job))) {
                    Ok(()) => Answer::Removed { id },
                    Err(error) => lost(id, format!("cannot remove what the job left: {error}")),
                };
                self.answer(&answer)
            }
        }
    }

    /// Raises the fence and starts the keeper behind it. False where the stage was started before.
    fn start(&mut self, start: &Start) -> io::Result<bool> {
        let folder = Folder::new(&self.options.root, &start.folder);
        let shell = match (start.shell.is_empty(), &self.shell) {
            (false, _) => start.shell.clone(),
            (true, Some(shell)) => vec![shell.clone()],
            (true, None) => Vec::new(),
        };
        if !folder.raise_fence()? {
            return Ok(false);
        }
        let filled = folder.fill(&start.script);
        let spawned = filled.and_then(|inherited| self.spawn_keeper(&folder, start, &shell, inherited));
        if spawned.is_err() {
            // Nothing has run, so the fence may go: the error is the whole story.
            fs::remove_dir_all(folder.path()).unwrap_or_default();
        }
        spawned.map(|()| true)
    }

    fn spawn_keeper(
        &mut self,
        folder: &Folder,
        start: &Start,
        shell: &[String],
        inherited: Inheritance,
    ) -> io::Result<()> {
        // This program as it runs: a job may have put another one under its path.
        let own = Path::new("/proc/self/exe");
        let mut command = Command::new(if own.exists() { own } else { &self.executable });
        command.arg("keep");
        if let Some(mask) = start.umask {
            command.arg(format!("--umask={mask:o}"));
        }
        if let Some(environment) = &self.options.environment {
            command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        }
        command.arg(folder.path()).args(shell).envs(start.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &start.directory {
            command.current_dir(directory);
        }
        // Standard input and output of the keeper are what it holds for as long as it lives, and nobody else.
        let keeper = command.stdin(inherited.control).stdout(inherited.lock).stderr(Stdio::null()).spawn()?;
        self.keepers.add(keeper.id(), folder);
        Ok(())
    }

    fn follow(&mut self, folder: &StageFolder, from: u64) -> io::Result<Follow> {
        let folder = Folder::new(&self.options.root, folder);
        let output = folder.open_output()?;
        self.keepers.note_followed(&folder);
        // What is not there any more must not be taken for what the stage printed.
        let released = folder.released()?;
        if from < released {
            return Err(io::Error::other(format!("its output before byte {released} was delivered and is gone")));
        }
        if self.inotify.is_none() {
            self.inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        }
        let watch = self.inotify.as_ref().and_then(|inotify| {
            let flags = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CLOSE_WRITE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::ONLYDIR
                | inotify::WatchFlags::DONT_FOLLOW;
            inotify::add_watch(inotify.as_fd(), folder.path(), flags).ok()
        });
        Ok(Follow { folder, output, at: from, watch })
    }

    /// Moves output of followed stages towards the stream, and says which have ended.
    fn pump(&mut self) -> Result<(), AgentError> {
        let ids: Vec<u32> = self.follows.keys().copied().collect();
        for id in ids {
            let Some(follow) = self.follows.get_mut(&id) else { continue };
            // The ending is looked for first: once it is there, the output is complete.
            let answer = match self.keepers.ending_of(&follow.folder) {
                Ok(ending) => {
                    let before = follow.at;
                    let is_all = send_output(&mut self.pending, id, follow, &mut self.piece)?;
                    if follow.at > before {
                        self.looks.reset();
                    }
                    if !is_all {
                        continue;
                    }
                    match ending {
                        None => continue,
                        Some(Ending::Exited(exit)) => Answer::Exited { id, exit },
                        Some(Ending::Failed(reason)) => lost(id, reason),
                    }
                }
                Err(error) => lost(id, format!("cannot follow the stage: {error}")),
            };
            if let (Some(Follow { watch: Some(watch), .. }), Some(inotify)) = (self.follows.remove(&id), &self.inotify)
            {
                // Gone already where the folder is.
                inotify::remove_watch(inotify, watch).unwrap_or_default();
            }
            self.answer(&answer)?;
        }
        if self.pending.is_empty() || !self.connected { Ok(()) } else { self.flush() }
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), AgentError> {
        Ok(wire::put_answer(&mut self.pending, answer)?)
    }

    fn flush(&mut self) -> Result<(), AgentError> {
        while !self.pending.is_empty() {
            match rustix::io::write(rustix::stdio::stdout(), &self.pending) {
                Ok(written) => self.pending.advance(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn drain_notifications(&self) {
        let Some(inotify) = &self.inotify else { return };
        let mut events = [0; 4096];
        // Which folder changed does not matter: there are few, and each is looked at.
        while rustix::io::read(inotify, &mut events).is_ok_and(|length| length > 0) {}
    }
}

/// A stage without an exit status, through no fault of the machine.
fn lost(id: u32, reason: String) -> Answer {
    Answer::Lost { id, reason, machine_is_full: false }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory)
}

/// Puts output into `pending` up to its limit. True when the file has no more.
fn send_output(pending: &mut BytesMut, id: u32, follow: &mut Follow, piece: &mut [u8]) -> Result<bool, AgentError> {
    while pending.len() < PENDING_LIMIT {
        let length = follow.output.read_at(piece, follow.at)?;
        if length == 0 {
            return Ok(true);
        }
        wire::put_output(pending, id, follow.at, piece.get(..length).unwrap_or_default())?;
        follow.at += length as u64;
    }
    Ok(false)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
