//! One SSH connection to a local instance: commands and the Docker socket.
//!
//! It behaves as sshd does where that matters: a command runs in the user's shell without a terminal, its exit is
//! told at once, and its channel ends when its outputs are closed, by whatever process holds them. A client that
//! closes a channel takes away the command's streams and not its life.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use russh::keys::PublicKey;
use russh::server::{self, Auth, ChannelOpenHandle, Handle, Msg, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::group::PATH;
use super::inside::MARK;
use crate::fleeting::connector::backlog::{Backlog, Source};

/// Read from a command at once; one SSH packet.
const PIECE: usize = 32 * 1024;

/// What an instance's commands find around them.
#[derive(Debug)]
pub(super) struct Environment {
    pub authorized_key: PublicKey,
    pub folder: PathBuf,
    pub home: PathBuf,
    pub username: String,
    pub shell: String,
    pub docker_socket: Option<PathBuf>,
}

impl Environment {
    fn command(&self, line: &[u8]) -> Command {
        let mut command = Command::new(&self.shell);
        command
            .arg("-c")
            .arg(String::from_utf8_lossy(line).as_ref())
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.home)
            .env("USER", &self.username)
            .env("LOGNAME", &self.username)
            .env("SHELL", &self.shell)
            .env(MARK, &self.folder)
            .current_dir(&self.home)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// One connection.
pub(super) struct Session {
    environment: Arc<Environment>,
    /// Opened and without a command yet.
    idle: BTreeMap<ChannelId, Channel<Msg>>,
    /// The process groups of running commands, for signals.
    groups: Arc<Mutex<BTreeMap<ChannelId, Pid>>>,
    tasks: TaskTracker,
}

impl Session {
    pub(super) fn new(environment: Arc<Environment>) -> Self {
        Self { environment, idle: BTreeMap::new(), groups: Arc::default(), tasks: TaskTracker::new() }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Pid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, channel: Channel<Msg>, mut child: Child, handle: Handle) {
        let id = channel.id();
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            self.groups().insert(id, pid);
        }
        let groups = Arc::clone(&self.groups);
        self.tasks.spawn(async move {
            run(channel, &mut child, &handle).await;
            groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }
}

impl server::Handler for Session {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let known = key.public_key.key_data() == self.environment.authorized_key.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        self.idle.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        let Some(channel) = self.idle.remove(&id) else { return session.channel_failure(id) };
        match self.environment.command(line).spawn() {
            Ok(child) => {
                session.channel_success(id)?;
                self.start(channel, child, session.handle());
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "starting a command");
                session.channel_failure(id)
            }
        }
    }

    async fn signal(&mut self, id: ChannelId, name: Sig, _session: &mut server::Session) -> Result<(), russh::Error> {
        if let (Some(group), Some(signal)) = (self.groups().get(&id).copied(), number_of(&name))
            && kill_process_group(group, signal).is_err()
        {
            tracing::debug!("a signal for a command that has ended");
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        if self.environment.docker_socket.as_deref() != Some(Path::new(path)) {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        }
        match UnixStream::connect(path).await {
            Ok(socket) => {
                reply.accept().await;
                self.tasks.spawn(forward(channel, socket));
            }
            Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut server::Session) -> Result<(), russh::Error> {
        self.idle.remove(&id);
        Ok(())
    }
}

/// Runs a command's streams to their end. Its channel is closed when it has exited and its outputs are closed.
async fn run(channel: Channel<Msg>, child: &mut Child, handle: &Handle) {
    let id = channel.id();
    let (read, write) = channel.split();
    let gone = CancellationToken::new();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { return };
    let over = CancellationToken::new();
    let outputs = async {
        let exited = async {
            if let Ok(status) = child.wait().await {
                report(id, status, &write, handle).await;
            }
        };
        tokio::join!(exited, send(stdout, &write, None, &gone), send(stderr, &write, Some(1), &gone));
        // A client that has gone needs no farewell.
        drop(write.eof().await);
        drop(write.close().await);
        over.cancel();
    };
    tokio::join!(outputs, feed(read, stdin, &gone, &over));
}

/// Copies between a channel and a socket until both sides have nothing more to say.
async fn forward(channel: Channel<Msg>, socket: UnixStream) {
    let (read, write) = channel.split();
    let (from_socket, to_socket) = socket.into_split();
    let (gone, over) = (CancellationToken::new(), CancellationToken::new());
    let outward = async {
        send(from_socket, &write, None, &gone).await;
        drop(write.eof().await);
        drop(write.close().await);
        over.cancel();
    };
    tokio::join!(outward, feed(read, to_socket, &gone, &over));
}

async fn report(id: ChannelId, status: ExitStatus, write: &ChannelWriteHalf<Msg>, handle: &Handle) {
    let told = match (status.code(), status.signal()) {
        (Some(code), _) => write.exit_status(u32::try_from(code).unwrap_or(255)).await.is_ok(),
        (None, signal) => {
            let (name, core) = (name_of(signal.unwrap_or_default()), status.core_dumped());
            handle.exit_signal_request(id, name, core, String::new(), String::new()).await.is_ok()
        }
    };
    if !told {
        tracing::debug!("the client did not wait for an exit status");
    }
}

/// Sends what a command writes, as fast as the client takes it.
async fn send(
    mut output: impl AsyncRead + Unpin,
    write: &ChannelWriteHalf<Msg>,
    ext: Option<u32>,
    gone: &CancellationToken,
) {
    let copy = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match output.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let piece = buffer.split().freeze();
            let sent = match ext {
                None => write.data_bytes(piece).await,
                Some(ext) => write.extended_data_bytes(ext, piece).await,
            };
            if sent.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = copy => {}
        () = gone.cancelled() => {}
    }
}

/// Gives a command what the client sends. It always reads the channel, so that a command that does not read its
/// input stops no other; `gone` is cancelled when the client has closed the channel.
async fn feed(
    mut read: ChannelReadHalf,
    input: impl AsyncWrite + Unpin,
    gone: &CancellationToken,
    over: &CancellationToken,
) {
    let _gone = gone.clone().drop_guard();
    let (mut backlog, mut current, mut eof) = (Backlog::default(), Bytes::new(), false);
    let mut input = Some(input);
    loop {
        if current.is_empty() {
            match backlog.pop().await {
                Ok(Some((_, next))) => current = next,
                Ok(None) if !eof => {}
                Ok(None) | Err(_) => close(&mut input).await,
            }
        }
        tokio::select! {
            message = read.wait() => {
                match message {
                    Some(ChannelMsg::Data { data }) if input.is_some() => {
                        // More than is kept, for a command that does not read, is an end of its input.
                        if backlog.push(Source::Stdout, data).await.is_err() {
                            input = None;
                        }
                    }
                    Some(ChannelMsg::Eof) => eof = true,
                    Some(ChannelMsg::Close) | None => return,
                    Some(_) => {}
                }
            }
            written = write_some(&mut input, &current), if input.is_some() && !current.is_empty() => match written {
                Ok(count) => current.advance(count),
                Err(_) => input = None,
            },
            () = over.cancelled() => return,
        }
    }
}

async fn close(input: &mut Option<impl AsyncWrite + Unpin>) {
    if let Some(mut input) = input.take() {
        // A reader that has gone needs no end of input.
        drop(input.shutdown().await);
    }
}

async fn write_some(input: &mut Option<impl AsyncWrite + Unpin>, bytes: &[u8]) -> std::io::Result<usize> {
    match input {
        Some(input) => input.write(bytes).await,
        None => std::future::pending().await,
    }
}

fn number_of(name: &Sig) -> Option<Signal> {
    match name {
        Sig::ABRT => Some(Signal::ABORT),
        Sig::ALRM => Some(Signal::ALARM),
        Sig::FPE => Some(Signal::FPE),
        Sig::HUP => Some(Signal::HUP),
        Sig::ILL => Some(Signal::ILL),
        Sig::INT => Some(Signal::INT),
        Sig::KILL => Some(Signal::KILL),
        Sig::PIPE => Some(Signal::PIPE),
        Sig::QUIT => Some(Signal::QUIT),
        Sig::SEGV => Some(Signal::SEGV),
        Sig::TERM => Some(Signal::TERM),
        Sig::USR1 => Some(Signal::USR1),
        Sig::Custom(_) => None,
    }
}

fn name_of(number: i32) -> Sig {
    let named = [
        Sig::ABRT,
        Sig::ALRM,
        Sig::FPE,
        Sig::HUP,
        Sig::ILL,
        Sig::INT,
        Sig::KILL,
        Sig::PIPE,
        Sig::QUIT,
        Sig::SEGV,
        Sig::TERM,
        Sig::USR1,
    ];
    let of_number = |name: &Sig| number_of(name).is_some_and(|signal| signal.as_raw() == number);
    named.into_iter().find(of_number).unwrap_or_else(|| Sig::Custom(number.to_string()))
}
