//! The manager's side of one agent stream.
//!
//! A [`Session`] speaks frames over any byte stream: an SSH channel, the attached streams of a
//! container, a child process. It keeps no state that matters: when the stream is lost, another
//! session over another stream goes on from the position that the caller kept. The end of the stream
//! therefore never says anything about the stage.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::wire::{self, Answer, Frame, Hello, MAGIC, PROTOCOL, Request, WireError};
use crate::byte_stream::BoxStream;
use crate::excerpt::excerpt_of_bytes;

/// How much may be said before the agent's first bytes. A login message is long; a megabyte is none.
const NOISE_LIMIT: usize = 1024 * 1024;

/// How much of what was said instead of the agent's first bytes is kept for the error.
const NOISE_SHOWN: usize = 2 * 1024;

/// Why a session ended or did not come about.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Something else answered, or nothing.
    #[error("no agent answered{}", said(.0))]
    NoAgent(String),
    #[error("the agent speaks protocol {0}, this manager {PROTOCOL}")]
    Protocol(u32),
    #[error("the stream of the agent ended")]
    Ended,
    #[error("the stream of the agent broke")]
    Broken(#[from] io::Error),
    #[error("the agent is not understood")]
    Wire(#[from] WireError),
}

fn said(noise: &str) -> String {
    if noise.is_empty() { String::new() } else { format!(", but: {noise}") }
}

/// An agent that has introduced itself.
pub struct Session {
    /// Never locked: it makes sessions shareable (`Sync`), as what owns them must be, over streams that are not.
    stream: Mutex<BoxStream>,
    input: BytesMut,
    hello: Hello,
    last_id: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("hello", &self.hello).finish_non_exhaustive()
    }
}

/// What an agent sends once it has introduced itself.
#[derive(Debug)]
pub enum Event {
    Answer(Answer),
    /// Bytes of an output file, which begin at `at`.
    Output {
        id: u32,
        at: u64,
        bytes: bytes::Bytes,
    },
}

impl Session {
    /// Waits for the agent's first frame. What comes before it, such as the output of an image's
    /// entrypoint, goes to `noise`. How long to wait is the caller's choice.
    pub async fn open(mut stream: BoxStream, noise: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Self, SessionError> {
        let mut input = BytesMut::new();
        let mut shown = Vec::new();
        let mut passed = 0;
        while !pass_noise(&mut input, |bytes| {
            passed += bytes.len();
            shown.extend_from_slice(bytes.get(..(NOISE_SHOWN - shown.len()).min(bytes.len())).unwrap_or_default());
            noise(bytes);
        }) {
            if passed > NOISE_LIMIT || stream.read_buf(&mut input).await? == 0 {
                noise(&input);
                shown.extend_from_slice(&input);
                return Err(SessionError::NoAgent(excerpt_of_bytes(&shown)));
            }
        }
        let hello = loop {
            match wire::take_from_agent(&mut input)? {
                Some(Frame::Answer(Answer::Hello(hello))) if hello.protocol == PROTOCOL => break hello,
                Some(Frame::Answer(Answer::Hello(hello))) => return Err(SessionError::Protocol(hello.protocol)),
                Some(Frame::Request(_) | Frame::Answer(_) | Frame::Output { .. }) => {
                    return Err(SessionError::NoAgent("frames without an introduction".to_owned()));
                }
                None if stream.read_buf(&mut input).await? == 0 => return Err(SessionError::Ended),
                None => {}
            }
        };
        Ok(Self { stream: Mutex::new(stream), input, hello, last_id: 0 })
    }

    /// What the agent said of its surroundings.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// A number for the next request, not used before on this stream.
    pub fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends requests, all in one write. Not to be dropped halfway.
    pub async fn send(&mut self, requests: &[Request]) -> Result<(), SessionError> {
        let mut out = BytesMut::new();
        for request in requests {
            wire::put_request(&mut out, request)?;
        }
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&out).await?;
        stream.flush().await?;
        Ok(())
    }

    /// The next thing the agent says. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Event, SessionError> {
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            match wire::take_from_agent(&mut self.input)? {
                Some(Frame::Answer(answer)) => return Ok(Event::Answer(answer)),
                Some(Frame::Output { id, at, bytes }) => return Ok(Event::Output { id, at, bytes }),
                // Only the manager sends these, and they are refused before they come here.
                Some(Frame::Request(_)) => {}
                None if stream.read_buf(&mut self.input).await? == 0 => return Err(SessionError::Ended),
                None => {}
            }
        }
    }
}

/// Passes on what comes before the magic bytes and takes both away. False while they have not come;
/// bytes that may be their beginning stay.
fn pass_noise(input: &mut BytesMut, mut noise: impl FnMut(&[u8])) -> bool {
    let magic_at = memchr::memmem::find(input, MAGIC);
    let noise_end = magic_at.unwrap_or_else(|| {
        let longest = input.len().min(MAGIC.len() - 1);
        (0..=longest)
            .rev()
            .find(|tail| MAGIC.starts_with(input.get(input.len() - tail..).unwrap_or_default()))
            .map_or(0, |tail| input.len() - tail)
    });
    if noise_end > 0 {
        noise(input.get(..noise_end).unwrap_or_default());
        input.advance(noise_end);
    }
    if magic_at.is_some() {
        input.advance(MAGIC.len());
    }
    magic_at.is_some()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn hello(protocol: u32) -> BytesMut {
        let mut bytes = BytesMut::new();
        let hello = Hello {
            protocol,
            uid: 0,
            gid: 0,
            directory: PathBuf::from("/"),
            root: PathBuf::from("/r"),
            executable: PathBuf::from("/h"),
            shell: None,
            git: false,
            releases: false,
        };
        wire::put_answer(&mut bytes, &Answer::Hello(hello)).unwrap();
        bytes
    }

    async fn open(pieces: Vec<Vec<u8>>) -> (Result<Session, SessionError>, Vec<u8>) {
        let (near, mut far) = tokio::io::duplex(7);
        let write = async move {
            for piece in pieces {
                far.write_all(&piece).await.unwrap();
            }
        };
        let mut noise = Vec::new();
        let mut sink = |bytes: &[u8]| noise.extend_from_slice(bytes);
        let (session, ()) = tokio::join!(Session::open(Box::pin(near), &mut sink), write);
        (session, noise)
    }

    #[tokio::test]
    async fn words_before_the_agent_are_passed_on_whole() {
        let said = b"Welcome!\n\0flotilla agen\0\0flotilla\n\xff".to_vec();
        let (session, noise) = open(vec![said.clone(), MAGIC.to_vec(), hello(PROTOCOL).to_vec()]).await;
        assert_eq!(session.unwrap().hello().root, PathBuf::from("/r"));
        assert_eq!(noise, said);
    }

    #[tokio::test]
    async fn stream_that_ends_without_an_agent_is_quoted() {
        let (session, noise) = open(vec![b"sh: flotilla-helper: not found\n".to_vec()]).await;
        assert_eq!(session.unwrap_err().to_string(), "no agent answered, but: sh: flotilla-helper: not found");
        assert_eq!(noise, b"sh: flotilla-helper: not found\n");
    }

    #[tokio::test]
    async fn agent_of_another_protocol_is_refused() {
        let (session, _) = open(vec![MAGIC.to_vec(), hello(PROTOCOL + 1).to_vec()]).await;
        assert!(matches!(session.unwrap_err(), SessionError::Protocol(_)));
    }
}
