//! The way to an instance: dial, run commands with streams, forward sockets.
//!
//! [`Instance`] is the cloneable handle of one instance. It keeps
//!
//! * one **control** connection for readiness, liveness and cancel,
//! * a **pool** of connections for commands, at most [`pool::SESSIONS_PER_CONNECTION`] on each, and
//! * hands out **Docker** connections, one for each job,
//!
//! which all dial through one [`dialer`]: few handshakes at once and one back-off, so that sshd's
//! `MaxStartups` is not hit. How the other parts use it:
//!
//! ```text
//! instance.stream("helper agent").await?        a command's stdin and stdout → ByteStream: AsyncRead + AsyncWrite
//! instance.exec("make").await?                  a command with all its streams → Process { stdin, output }
//! instance.run(Command::new("uname -m")).await? a one-off command → Output { status, stdout, stderr }
//! Command::new("kill 7").on(Lane::Control)      the same over the control connection (cancel, probes)
//! instance.upload(path, mode, bytes).await?     a file, whole or not at all
//! instance.docker(&endpoint).await?             a connection of its own → DockerConnection
//!         .open().await?                        a stream to the engine
//! instance.ready(&readiness).await?             SSH, ready command, Docker's ping
//! instance.liveness().await?                    cheap, over the control connection
//! instance.mark_gone()                          the group says so: everything fails at once
//! ```
//!
//! **Reading.** russh gives the peer its window back as soon as bytes arrive, and an unread channel then
//! stops its whole connection. So each channel has a task that always reads ([`channel`]) and keeps what
//! its consumer has not taken: a little in memory, more in a temporary file ([`backlog`]), and beyond
//! that the slow channel alone fails; its consumer attaches again by position.
//!
//! This module knows no jobs and never decides to give an instance up.

mod access;
pub(crate) mod backlog;
mod channel;
mod dialer;
mod docker;
mod error;
mod exec;
mod instance;
mod pool;
mod ready;
mod ssh;
pub(crate) mod wire;

pub use channel::{ByteStream, ExitStatus};
pub use docker::DockerConnection;
pub use error::{DialError, ExecError, ForwardError, ReadyError};
pub use exec::{Chunk, Command, Lane, Output, OutputReader, Process, Stdin};
pub use instance::Instance;

#[cfg(test)]
pub(crate) mod tests;
