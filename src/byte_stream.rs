//! A stream of bytes in both directions, whatever it is made of: an SSH channel, a container's attached streams, a
//! child process.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// Reads and writes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> ByteStream for T {}

/// A stream whose kind does not matter any more.
pub type BoxStream = Pin<Box<dyn ByteStream>>;
