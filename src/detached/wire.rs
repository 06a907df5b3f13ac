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

use super::records::MAX_BODY;
use super::{Exit, StageFolder};
use crate::decode_error::DecodeError;
use crate::excerpt::excerpt;

/// The agent's first bytes. They begin with NUL, which no line of text contains.
pub const MAGIC: &[u8; 16] = b"\0flotilla agent\n";

/// Goes up when frames change in a way that the other side must know.
pub const PROTOCOL: u32 = 1;

/// The longest frame that an agent takes. A stage's script with all its variables is the longest there
/// is; GitLab's own limit on variables keeps it far below.
pub const MAX_FRAME: usize = 32 * 1024 * 1024;

/// The longest answer that a manager takes. The longest that an agent has to send is its [`Hello`] with four paths
/// ([`MAX_PATH`]), or a reason; both are far below. A job can put its own program in the agent's place, and there is a
/// stream for each job, so this is also what each job can make the manager keep.
pub const MAX_ANSWER: usize = 64 * 1024;

/// The most output that one frame carries: what an agent reads of the file at once.
pub const MAX_PIECE: usize = MAX_BODY;

/// Linux's own limit on a path; a longer one is no path.
const MAX_PATH: usize = 4096;

/// Kind, number and position before the bytes of output.
const OUTPUT_HEAD: usize = 1 + 4 + 8;

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

impl Answer {
    /// The answer with a reason that is not longer than worth showing.
    fn bounded(self) -> Result<Self, WireError> {
        match self {
            Self::Hello(hello) => hello.checked().map(Self::Hello),
            Self::Lost { id, reason, machine_is_full } => {
                Ok(Self::Lost { id, reason: excerpt(reason), machine_is_full })
            }
            Self::Started { .. } | Self::AlreadyStarted { .. } | Self::Exited { .. } | Self::Removed { .. } => Ok(self),
        }
    }
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

impl Hello {
    fn checked(self) -> Result<Self, WireError> {
        let paths = [&self.directory, &self.root, &self.executable].map(|path| path.as_os_str().len());
        let shell = self.shell.as_ref().map_or(0, String::len);
        match paths.into_iter().chain([shell]).find(|length| *length > MAX_PATH) {
            Some(length) => Err(WireError::PathTooLong(length)),
            None => Ok(self),
        }
    }
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
    #[error("a frame of {length} bytes is longer than {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame is cut short")]
    Short,
    #[error("the agent's introduction has a path of {0} bytes")]
    PathTooLong(usize),
    #[error("reading a frame")]
    Decode(#[from] DecodeError),
    #[error("writing a frame")]
    Encode(#[source] serde_json::Error),
}

/// Appends a request's frame to `out`.
pub fn put_request(out: &mut BytesMut, request: &Request) -> Result<(), WireError> {
    put_json(out, REQUEST, request)
}

/// Appends an answer's frame to `out`. A long reason is cut, as a manager would do it.
pub fn put_answer(out: &mut BytesMut, answer: &Answer) -> Result<(), WireError> {
    put_json(out, ANSWER, &answer.clone().bounded()?)
}

/// Appends the frame of a piece of output to `out`.
pub fn put_output(out: &mut BytesMut, id: u32, at: u64, bytes: &[u8]) -> Result<(), WireError> {
    put_length(out, OUTPUT, OUTPUT_HEAD + bytes.len())?;
    out.put_u32(id);
    out.put_u64(at);
    out.put_slice(bytes);
    Ok(())
}

fn put_json(out: &mut BytesMut, kind: u8, body: &impl Serialize) -> Result<(), WireError> {
    let body = serde_json::to_vec(body).map_err(WireError::Encode)?;
    put_length(out, kind, 1 + body.len())?;
    out.put_slice(&body);
    Ok(())
}

/// Appends a frame's length and kind.
fn put_length(out: &mut BytesMut, kind: u8, length: usize) -> Result<(), WireError> {
    let limit = longest(kind);
    match u32::try_from(length) {
        Ok(short) if length <= limit => {
            out.put_u32(short);
            out.put_u8(kind);
            Ok(())
        }
        _ => Err(WireError::TooLong { length, limit }),
    }
}

/// The longest frame of a kind.
fn longest(kind: u8) -> usize {
    match kind {
        REQUEST => MAX_FRAME,
        ANSWER => MAX_ANSWER,
        _ => OUTPUT_HEAD + MAX_PIECE,
    }
}

/// Takes the first frame of a manager from `buffer`, if it is there whole.
pub fn take_from_manager(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    take_frame(buffer, &[REQUEST, ANSWER, OUTPUT])
}

/// Takes the first frame of an agent from `buffer`, if it is there whole. Who plays the agent may be a job: a frame that
/// is longer than an agent's, or a request, is refused by its header, and a long reason is cut.
pub fn take_from_agent(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    match take_frame(buffer, &[ANSWER, OUTPUT])? {
        Some(Frame::Answer(answer)) => Ok(Some(Frame::Answer(answer.bounded()?))),
        other => Ok(other),
    }
}

fn take_frame(buffer: &mut BytesMut, kinds: &[u8]) -> Result<Option<Frame>, WireError> {
    let Some(&[a, b, c, d]) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    // The kind comes next and has its own limit; whatever it is, these are no frames.
    let limit = kinds.iter().map(|kind| longest(*kind)).max().unwrap_or(0);
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    if length == 0 {
        return Err(WireError::Short);
    }
    let Some(&kind) = buffer.get(4) else { return Ok(None) };
    if !kinds.contains(&kind) {
        return Err(WireError::UnknownKind(kind));
    }
    let limit = longest(kind);
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(5);
    let mut body = buffer.split_to(length - 1).freeze();
    match kind {
        REQUEST => Ok(Some(Frame::Request(serde_json::from_slice(&body).map_err(DecodeError::from)?))),
        ANSWER => Ok(Some(Frame::Answer(serde_json::from_slice(&body).map_err(DecodeError::from)?))),
        _ => {
            let id = body.try_get_u32().map_err(|_| WireError::Short)?;
            let at = body.try_get_u64().map_err(|_| WireError::Short)?;
            Ok(Some(Frame::Output { id, at, bytes: body }))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn lost(reason: &str) -> Answer {
        Answer::Lost { id: 1, reason: reason.to_owned(), machine_is_full: false }
    }

    /// An answer's frame as a hostile agent writes it.
    fn hostile(body: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_u32(u32::try_from(1 + body.len()).unwrap());
        frame.put_u8(ANSWER);
        frame.put_slice(body);
        frame
    }

    fn frames_of(sent: &[u8]) -> Vec<Frame> {
        let mut buffer = BytesMut::new();
        let mut frames = vec![];
        for byte in sent {
            buffer.put_u8(*byte);
            while let Some(frame) = take_from_manager(&mut buffer).unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn frames_come_back_however_they_are_cut() {
        let mut sent = BytesMut::new();
        put_request(&mut sent, &start()).unwrap();
        put_answer(&mut sent, &Answer::Exited { id: 1, exit: Exit::Signal(9) }).unwrap();
        put_output(&mut sent, 1, 77, b"\xff\x00bytes").unwrap();
        assert_eq!(
            frames_of(&sent),
            [
                Frame::Request(start()),
                Frame::Answer(Answer::Exited { id: 1, exit: Exit::Signal(9) }),
                Frame::Output { id: 1, at: 77, bytes: Bytes::from_static(b"\xff\x00bytes") },
            ]
        );
    }

    #[test]
    fn text_in_place_of_frames_is_an_error_and_not_a_wait() {
        let take = |bytes: &[u8]| take_from_manager(&mut BytesMut::from(bytes));
        assert!(matches!(take(b"sh: not found"), Err(WireError::TooLong { .. })));
        assert!(matches!(take(&[0, 0, 0, 1, 9]), Err(WireError::UnknownKind(9))));
        assert!(matches!(take(&[0, 0, 0, 0]), Err(WireError::Short)));
        assert!(matches!(take(&[0, 0, 0, 2, 3, 0]), Err(WireError::Short)));
    }

    #[test]
    fn frame_that_no_agent_sends_is_refused_by_its_header() {
        let check = |kind: u8, length: usize, is_refused: bool| {
            let mut buffer = BytesMut::new();
            buffer.put_u32(u32::try_from(length).unwrap());
            buffer.put_u8(kind);
            assert_eq!(take_from_agent(&mut buffer).is_err(), is_refused, "kind {kind}, {length} bytes");
            assert!(buffer.capacity() < 2 * MAX_ANSWER, "kind {kind}, {length} bytes: {}", buffer.capacity());
        };
        check(ANSWER, MAX_ANSWER, false);
        check(ANSWER, MAX_ANSWER + 1, true);
        check(ANSWER, 31 << 20, true);
        check(OUTPUT, OUTPUT_HEAD + MAX_PIECE, false);
        check(OUTPUT, OUTPUT_HEAD + MAX_PIECE + 1, true);
        check(OUTPUT, 31 << 20, true);
        check(REQUEST, 100, true);
        check(9, 31 << 20, true);
        // Even before the kind has come.
        let mut buffer = BytesMut::from(&(31_u32 << 20).to_be_bytes()[..]);
        assert!(matches!(take_from_agent(&mut buffer), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn reason_is_cut_whoever_sends_it() {
        let long = "é".repeat(20_000);
        let mut sent = hostile(&serde_json::to_vec(&lost(&long)).unwrap());
        let Some(Frame::Answer(Answer::Lost { reason, .. })) = take_from_agent(&mut sent).unwrap() else { panic!() };
        assert_eq!(reason, excerpt(long.as_str()));
        let mut sent = BytesMut::new();
        put_answer(&mut sent, &lost(&"x".repeat(31 << 20))).unwrap();
        assert!(sent.len() < 2 * crate::excerpt::LONGEST, "{}", sent.len());
        put_answer(&mut BytesMut::new(), &lost("short")).unwrap();
    }

    #[test]
    fn introduction_with_a_path_that_is_none_is_refused() {
        let hello = |length: usize| {
            format!(
                r#"{{"answer":"hello","protocol":1,"uid":0,"gid":0,"directory":"/","root":"/{}","executable":"/h","shell":null,"git":true}}"#,
                "x".repeat(length - 1)
            )
        };
        assert!(take_from_agent(&mut hostile(hello(MAX_PATH).as_bytes())).is_ok());
        let refused = take_from_agent(&mut hostile(hello(MAX_PATH + 1).as_bytes()));
        assert!(matches!(refused, Err(WireError::PathTooLong(4097))));
    }

    #[test]
    fn decoders_words_quote_nothing_of_a_frame() {
        for body in [r#"{"answer":"started","id":"hunter2"}"#, r#"{"answer":"hunter2"}"#, "hunter2"] {
            let error = take_from_agent(&mut hostile(body.as_bytes())).unwrap_err();
            let shown = format!("{} {error:?}", crate::error_chain::Chain(&error));
            assert!(!shown.contains("hunter2") && shown.contains("reading a frame: "), "{shown}");
        }
    }

    #[test]
    fn scripts_do_not_print() {
        assert!(!format!("{:?}", start()).contains("secret"));
    }

    proptest! {
        /// Whatever an agent sends in whatever pieces, the manager keeps little of it and ends at the first mistake.
        #[test]
        fn bytes_of_a_hostile_agent_are_taken_or_refused_in_little_memory(
            heads in prop::collection::vec((any::<u32>(), 0_u32..200_000, any::<bool>(), 0_u8..5), 1..6),
            body in prop::collection::vec(any::<u8>(), 0..300),
            pieces in prop::collection::vec(1_usize..5_000, 1..20),
        ) {
            let mut sent = Vec::new();
            for (any_length, length, is_wild, kind) in heads {
                sent.put_u32(if is_wild { any_length } else { length });
                sent.push(kind);
                sent.extend(body.iter().cycle().take(length as usize % 70_000));
            }
            let mut buffer = BytesMut::new();
            let mut rest = &sent[..];
            for piece in pieces.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                let mut before = usize::MAX;
                loop {
                    prop_assert!(buffer.len() < before, "a frame was taken without its bytes");
                    before = buffer.len();
                    match take_from_agent(&mut buffer) {
                        Ok(Some(Frame::Output { bytes, .. })) => prop_assert!(bytes.len() <= MAX_PIECE),
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(buffer.len() <= 4 + MAX_ANSWER + 5_000, "{} bytes are kept", buffer.len());
                prop_assert!(buffer.capacity() <= 4 * MAX_ANSWER, "{} bytes of memory", buffer.capacity());
            }
        }

        #[test]
        fn frames_of_an_agent_come_back_from_any_pieces(
            outputs in prop::collection::vec((any::<u32>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..50)), 0..8),
            reason in "\\PC{0,40}",
            pieces in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let mut sent = BytesMut::new();
            let mut expected = Vec::new();
            for (id, at, bytes) in outputs {
                put_output(&mut sent, id, at, &bytes).unwrap();
                put_answer(&mut sent, &lost(&reason)).unwrap();
                expected.push(Frame::Output { id, at, bytes: bytes.into() });
                expected.push(Frame::Answer(lost(&reason)));
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in pieces.iter().cycle() {
                if sent.is_empty() { break; }
                buffer.extend_from_slice(&sent.split_to((*piece).min(sent.len())));
                while let Some(frame) = take_from_agent(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, expected);
        }
    }
}
