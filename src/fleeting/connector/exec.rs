//! Commands on an instance: with streams, or run to the end with their output.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::backlog::Source;
use super::channel::{ByteStream, Event, ExitStatus, Writer};
use super::error::ExecError;
use crate::shell_quote;

/// A one-off command that takes longer is given up.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// A one-off command that writes more is not one.
const RUN_OUTPUT: usize = 1024 * 1024;

/// Standard error in a message.
const MESSAGE: usize = 2 * 1024;

/// Which connection carries a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// Shared with other commands.
    #[default]
    Pool,
    /// The instance's control connection: checks, and what must get through when the pool is full, such as a cancel.
    Control,
}

/// A one-off command.
#[derive(Clone, Debug)]
pub struct Command {
    pub(super) line: String,
    pub(super) stdin: Bytes,
    pub(super) lane: Lane,
    pub(super) timeout: Duration,
    pub(super) keep: Keep,
}

/// What becomes of a one-off command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All of it; more than this many bytes of a stream are an error.
    All(usize),
    /// The last bytes of each stream.
    Tail(usize),
}

impl Command {
    /// A command line for the user's shell on the instance.
    pub fn new(line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            stdin: Bytes::new(),
            lane: Lane::Pool,
            timeout: RUN_TIMEOUT,
            keep: Keep::All(RUN_OUTPUT),
        }
    }

    /// What the command reads; without this, nothing.
    #[must_use]
    pub fn stdin(self, stdin: impl Into<Bytes>) -> Self {
        Self { stdin: stdin.into(), ..self }
    }

    /// The connection it goes over.
    #[must_use]
    pub fn on(self, lane: Lane) -> Self {
        Self { lane, ..self }
    }

    /// How long it may take after it was started; without this, a minute.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Keeps only the last kilobytes of each stream, for a command whose status counts.
    #[must_use]
    pub fn tail_only(self) -> Self {
        Self { keep: Keep::Tail(MESSAGE), ..self }
    }
}

/// How a one-off command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// The standard output of a command that had to succeed.
    ///
    /// # Errors
    /// [`ExecError::Failed`] with the end of its standard error where it did not.
    pub fn into_stdout(self) -> Result<Vec<u8>, ExecError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let tail = self.stderr.get(self.stderr.len().saturating_sub(MESSAGE)..).unwrap_or_default();
        Err(ExecError::Failed { status: self.status, stderr: String::from_utf8_lossy(tail).into_owned() })
    }
}

/// A piece of what a command wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// A running command with its streams. Dropping it closes the channel: the command then reads an end of file and
/// cannot write, but is not killed.
#[derive(Debug)]
pub struct Process {
    pub stdin: Stdin,
    pub output: OutputReader,
}

impl Process {
    pub(super) fn new(stream: ByteStream) -> Self {
        let (events, writer) = stream.into_parts();
        Self { stdin: Stdin(writer), output: OutputReader { events, end: None } }
    }
}

/// A command's standard input. Shutting it down is its end of file; dropping it is not.
pub struct Stdin(Writer);

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdin").finish_non_exhaustive()
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What a command writes, both streams in the order of arrival, and how it ended.
#[derive(Debug)]
pub struct OutputReader {
    events: mpsc::Receiver<Event>,
    end: Option<Result<ExitStatus, ExecError>>,
}

impl OutputReader {
    /// The next piece; `None` when there is no more. That is no success yet: see [`OutputReader::exit`].
    pub async fn next(&mut self) -> Option<Chunk> {
        while self.end.is_none() {
            match self.events.recv().await {
                Some(Event::Data(Source::Stdout, data)) => return Some(Chunk::Stdout(data)),
                Some(Event::Data(Source::Stderr, data)) => return Some(Chunk::Stderr(data)),
                Some(Event::Eof) => {}
                Some(Event::End(end)) => self.end = Some(end),
                None => self.end = Some(Err(ExecError::NoStatus)),
            }
        }
        None
    }

    /// Waits for the end, dropping what was not read.
    ///
    /// # Errors
    /// Where the connection was lost first, or there was no status.
    pub async fn exit(&mut self) -> Result<ExitStatus, ExecError> {
        while self.next().await.is_some() {}
        self.end.clone().unwrap_or(Err(ExecError::NoStatus))
    }
}

/// Feeds a command its input and collects its output, within its limits.
pub(super) async fn collect(process: Process, command: &Command) -> Result<Output, ExecError> {
    let Process { mut stdin, mut output } = process;
    let feed = async {
        // A command may end without reading all of its input; its status says whether that is well.
        drop(stdin.write_all(&command.stdin).await);
        drop(stdin.shutdown().await);
    };
    let read = async {
        let (mut stdout, mut stderr) = (Vec::<u8>::new(), Vec::<u8>::new());
        while let Some(chunk) = output.next().await {
            let (kept, data) = match &chunk {
                Chunk::Stdout(data) => (&mut stdout, data),
                Chunk::Stderr(data) => (&mut stderr, data),
            };
            kept.extend_from_slice(data);
            match command.keep {
                Keep::All(limit) if kept.len() > limit => return Err(ExecError::TooLong { limit }),
                Keep::All(_) => {}
                Keep::Tail(limit) => drop(kept.drain(..kept.len().saturating_sub(limit))),
            }
        }
        Ok(Output { status: output.exit().await?, stdout, stderr })
    };
    let both = async {
        tokio::pin!(feed, read);
        tokio::select! {
            () = &mut feed => read.await,
            output = &mut read => output,
        }
    };
    timeout(command.timeout, both).await.unwrap_or(Err(ExecError::TimedOut { after: command.timeout }))
}

/// Reads at most `limit` bytes of a stream, to its end or to a full buffer.
pub(super) async fn read_some(stream: &mut ByteStream, limit: u64) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    stream.take(limit).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The shell line that writes its standard input to `path`, whole or not at all, with these permissions.
pub(super) fn upload_line(path: &str, mode: u32) -> String {
    let target = quote(path);
    format!(
        "umask 077; f={target}; t=\"$f.$$.part\"; \
         cat > \"$t\" && chmod {mode:o} \"$t\" && mv -f \"$t\" \"$f\" || {{ s=$?; rm -f \"$t\"; exit $s; }}"
    )
}

/// A word for a POSIX shell that means exactly this text; a leading `~/` stays the home folder.
pub(super) fn quote(text: &str) -> String {
    let (home, rest) = text.strip_prefix("~/").map_or(("", text), |rest| ("\"$HOME\"/", rest));
    format!("{home}{}", shell_quote::quote(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_keeps_its_meaning() {
        for (text, quoted) in [
            ("/tmp/a b", "'/tmp/a b'"),
            ("it's", r"'it'\''s'"),
            ("~/bin/x", r#""$HOME"/bin/x"#),
            ("~/bin/x y", r#""$HOME"/'bin/x y'"#),
            ("$(reboot)", "'$(reboot)'"),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }

    #[test]
    fn failed_output_carries_the_end_of_stderr() {
        let output = Output { status: ExitStatus::Code(3), stdout: vec![], stderr: b"no such file\n".to_vec() };
        assert_eq!(output.into_stdout().unwrap_err().to_string(), "the command ended with exit status 3: no such file");
    }
}
