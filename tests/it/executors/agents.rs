//! Real agents as child processes, streams that break, and a trace that remembers.

use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use flotilla::byte_stream::BoxStream;
use flotilla::detached::StageFolder;
use flotilla::detached::records::OutputStream;
use flotilla::detached::session::Session;
use flotilla::detached::wire::Start;
use flotilla::executors::JobTrace;
use flotilla::executors::follow::{AgentDialer, OpenError};
use flotilla::job::failure::Fault;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_flotilla-helper");

/// Starts an agent process and gives its streams; it is killed with them.
pub(crate) struct AgentProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Bytes that may still be read before the stream breaks.
    left: usize,
}

impl AgentProcess {
    pub(crate) fn spawn(root: &Path, left: usize) -> Self {
        Self::start(Command::new(HELPER).args(["agent", "--root"]).arg(root), left)
    }

    /// One that the kernel tells nothing of changed files, as where others have all the watchers of its user.
    pub(crate) fn spawn_unnotified(root: &Path) -> Self {
        let script = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$0\" agent --root \"$1\"";
        Self::start(Command::new("unshare").args(["-Ur", "sh", "-c", script, HELPER]).arg(root), usize::MAX)
    }

    fn start(command: &mut Command, left: usize) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the helper starts");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, stdin, stdout, left }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }
}

impl AsyncRead for AgentProcess {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Ok(()));
        }
        let wanted = self.left.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
        let result = Pin::new(&mut self.stdout).poll_read(cx, &mut part);
        let read = part.filled().len();
        buffer.advance(read);
        self.left -= read;
        result
    }
}

impl AsyncWrite for AgentProcess {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

/// Opens agents whose streams break after so many bytes, one after the other; the last never does.
pub(crate) struct BreakingAgents {
    pub(crate) root: std::path::PathBuf,
    pub(crate) breaks: Vec<usize>,
    pub(crate) opened: Arc<AtomicUsize>,
}

impl AgentDialer for BreakingAgents {
    fn open(&self) -> BoxFuture<'_, Result<Session, OpenError>> {
        Box::pin(async {
            let nth = self.opened.fetch_add(1, Ordering::SeqCst);
            let left = self.breaks.get(nth).copied().unwrap_or(usize::MAX);
            let stream: BoxStream = Box::pin(AgentProcess::spawn(&self.root, left));
            Session::open(stream, &mut |_| ())
                .await
                .map_err(|error| OpenError::Retry(Fault::unclassified(error.to_string())))
        })
    }
}

/// What a job's trace was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded(Arc<Mutex<Given>>);

#[derive(Debug, Default)]
struct Given {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    lines: Vec<String>,
}

impl Recorded {
    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.0.lock().expect("works").stdout.clone()
    }

    /// What is there, which is forgotten then.
    pub(crate) fn take_stdout(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().expect("works").stdout)
    }

    pub(crate) fn stderr(&self) -> Vec<u8> {
        self.0.lock().expect("works").stderr.clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("works").lines.clone()
    }
}

impl JobTrace for Recorded {
    fn output(&self, stream: OutputStream, bytes: &[u8]) {
        let mut recorded = self.0.lock().expect("works");
        match stream {
            OutputStream::Stdout => recorded.stdout.extend_from_slice(bytes),
            OutputStream::Stderr => recorded.stderr.extend_from_slice(bytes),
        }
    }

    fn plain(&self, line: &str) {
        self.0.lock().expect("works").lines.push(line.to_owned());
    }

    fn info(&self, line: &str) {
        self.0.lock().expect("works").lines.push(format!("info: {line}"));
    }

    fn warning(&self, line: &str) {
        self.0.lock().expect("works").lines.push(format!("WARNING: {line}"));
    }

    fn masked(&self, text: &str) -> String {
        text.to_owned()
    }
}

/// A stage with this script, in the first shell there is.
pub(crate) fn start(script: &str) -> Start {
    Start {
        id: 0,
        folder: StageFolder::new("job", "step_script", 0),
        shell: Vec::new(),
        script: script.to_owned(),
        directory: None,
        umask: None,
        environment: Vec::new(),
    }
}
