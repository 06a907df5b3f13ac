//! The frames between manager and agent.
//!
//! The agent's side begins with [`MAGIC`], so that whatever an image's entrypoint or a login shell
//! prints before it can be told from frames. After it both sides send frames: a length (`u32`, big
//! endian, of what follows), a kind byte, and a body. Requests and answers are JSON; output is binary,
//! as it is most of the traffic.
//!
//! Shared by both sides, so it needs only what the small helper has.

use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Exit, StageFolder};

/// The agent's first bytes. They begin with NUL, which no line of text contains.
pub const MAGIC: &[u8; 16] = b"\0flotilla agent\n";

/// Goes up when frames change in a way that the other side must know.
pub const PROTOCOL: u32 = 1;

/// The longest frame either side takes. A stage's script with all its variables is the longest there
/// is; GitLab's own limit on variables keeps it far below.
pub const MAX_FRAME: usize = 32 * 1024 * 1024;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const OUTPUT: u8 = 3;

/// What the manager asks. `id` is the manager's choice; what is said about the stage carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Makes the stage's folder and starts its shell, unless the folder exists.
    Start(Start),
    /// Sends the stage's output from byte `from` of its file, then how it ended.
    Follow { id: u32, folder: StageFolder, from: u64 },
    /// Nobody will ask for the stage's output before byte `before` of its file again: its room on the disk may go.
    /// Not to be sent to an agent that does not say in [`Hello`] that it knows this.
    Release { folder: StageFolder, before: u64 },
    /// TERM to all processes of the stage, KILL to what is left after `grace_ms`.
    Stop { folder: StageFolder, grace_ms: u64 },
    /// Ends what still runs of the job and deletes its folder.
    Remove { id: u32, job: String },
}

/// A stage to start.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub id: u32,
    pub folder: StageFolder,
    /// The shell and its arguments; empty for the first shell found on the machine (see [`SHELLS`]).
    pub shell: Vec<String>,
    /// Its standard input.
    pub script: String,
    /// Where it starts; the agent's own folder when absent.
    pub directory: Option<PathBuf>,
    /// The file mode mask; the agent's own when absent.
    pub umask: Option<u32>,
    /// Added to the agent's own environment.
    pub environment: Vec<(String, String)>,
}

impl std::fmt::Debug for Start {
    /// Scripts and environments hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("id", &self.id).field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The first frame.
    Hello(Hello),
    /// The stage runs.
    Started { id: u32 },
    /// The stage's folder existed: it was started before.
    AlreadyStarted { id: u32 },
    /// The stage ended, and all its output has been sent.
    Exited { id: u32, exit: Exit },
    /// The stage will have no exit status: it could not be started, or its keeper was killed. Of a removal:
    /// the job's folder is still there.
    Lost {
        id: u32,
        reason: String,
        /// The machine has no room left, so the next job would fare no better. Agents of before say nothing of it.
        #[serde(default)]
        machine_is_full: bool,
    },
    /// Nothing runs in the job's folder, and it is gone.
    Removed { id: u32 },
}

/// What the agent knows of the place where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub uid: u32,
    pub gid: u32,
    /// The folder it was started in: the login folder on an instance.
    pub directory: PathBuf,
    /// Where the jobs' folders are.
    pub root: PathBuf,
    /// The agent's own executable, for scripts that call the artifact and cache commands.
    pub executable: PathBuf,
    /// The first of [`SHELLS`] that is there.
    pub shell: Option<String>,
    /// Whether the search path has a git.
    pub git: bool,
    /// It takes [`Request::Release`]. Agents of before say nothing of it.
    #[serde(default)]
    pub releases: bool,
}

/// Where a job's shell is looked for, the best first, as the reference does it.
pub const SHELLS: [&str; 7] =
    ["/usr/local/bin/bash", "/usr/bin/bash", "/bin/bash", "/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh", "/busybox/sh"];

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Request(Request),
    Answer(Answer),
    /// Bytes of the output file of the stage followed as `id`, which begin at `at`.
    Output {
        id: u32,
        at: u64,
        bytes: Bytes,
    },
}

/// The other side does not speak our frames.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame is cut short")]
    Short,
    #[error("reading a frame")]
    Json(#[from] serde_json::Error),
}

/// Appends a request's frame to `out`.
pub fn put_request(out: &mut BytesMut, request: &Request) -> Result<(), WireError> {
    put_json(out, REQUEST, request)
}

/// Appends an answer's frame to `out`.
pub fn put_answer(out: &mut BytesMut, answer: &Answer) -> Result<(), WireError> {
    put_json(out, ANSWER, answer)
}

/// Appends the frame of a piece of output to `out`.
pub fn put_output(out: &mut BytesMut, id: u32, at: u64, bytes: &[u8]) -> Result<(), WireError> {
    put_length(out, 1 + 4 + 8 + bytes.len())?;
    out.put_u8(OUTPUT);
    out.put_u32(id);
    out.put_u64(at);
    out.put_slice(bytes);
    Ok(())
}

fn put_json(out: &mut BytesMut, kind: u8, body: &impl Serialize) -> Result<(), WireError> {
    let body = serde_json::to_vec(body)?;
    put_length(out, 1 + body.len())?;
    out.put_u8(kind);
    out.put_slice(&body);
    Ok(())
}

fn put_length(out: &mut BytesMut, length: usize) -> Result<(), WireError> {
    match u32::try_from(length) {
        Ok(short) if length <= MAX_FRAME => {
            out.put_u32(short);
            Ok(())
        }
        _ => Err(WireError::TooLong(length)),
    }
}

/// Takes the first frame from `buffer`, if it is there whole.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    let Some(&[a, b, c, d]) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_FRAME {
        return Err(WireError::TooLong(length));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let mut body = buffer.split_to(length).freeze();
    let kind = body.try_get_u8().map_err(|_| WireError::Short)?;
    match kind {
        REQUEST => Ok(Some(Frame::Request(serde_json::from_slice(&body)?))),
        ANSWER => Ok(Some(Frame::Answer(serde_json::from_slice(&body)?))),
        OUTPUT => {
            let id = body.try_get_u32().map_err(|_| WireError::Short)?;
            let at = body.try_get_u64().map_err(|_| WireError::Short)?;
            Ok(Some(Frame::Output { id, at, bytes: body }))
        }
        unknown => Err(WireError::UnknownKind(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Request {
        Request::Start(Start {
            id: 1,
            folder: StageFolder::new("7", "step_script", 0),
            shell: vec![],
            script: "echo secret\n".to_owned(),
            directory: None,
            umask: Some(0),
            environment: vec![("A".to_owned(), "b".to_owned())],
        })
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let mut sent = BytesMut::new();
        put_request(&mut sent, &start()).unwrap();
        put_answer(&mut sent, &Answer::Exited { id: 1, exit: Exit::Signal(9) }).unwrap();
        put_output(&mut sent, 1, 77, b"\xff\x00bytes").unwrap();
        let mut buffer = BytesMut::new();
        let mut frames = vec![];
        for byte in sent {
            buffer.put_u8(byte);
            while let Some(frame) = take_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(
            frames,
            [
                Frame::Request(start()),
                Frame::Answer(Answer::Exited { id: 1, exit: Exit::Signal(9) }),
                Frame::Output { id: 1, at: 77, bytes: Bytes::from_static(b"\xff\x00bytes") },
            ]
        );
    }

    #[test]
    fn text_in_place_of_frames_is_an_error_and_not_a_wait() {
        assert!(matches!(take_frame(&mut BytesMut::from(&b"sh: not found"[..])), Err(WireError::TooLong(_))));
        assert!(matches!(take_frame(&mut BytesMut::from(&[0, 0, 0, 1, 9][..])), Err(WireError::UnknownKind(9))));
        assert!(matches!(take_frame(&mut BytesMut::from(&[0, 0, 0, 2, 3, 0][..])), Err(WireError::Short)));
    }

    #[test]
    fn scripts_do_not_print() {
        assert!(!format!("{:?}", start()).contains("secret"));
    }
}
