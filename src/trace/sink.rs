//! The writing side of a trace.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

use crate::time::{self, Now};

use super::buffer::{Buffer, Window};
use super::channel::{Channel, Cut};
use super::masker::joined::{Cover, Joined, Scan};
use super::masker::{CompiledMasks, Masker, Masks};
use super::sections;

/// Bytes that begin a trace, and those that begin the script's output, do not wait for the update
/// interval: so many patches each go out as soon as something is there. The script has two, since its
/// first line is the echo of a command and the one after it that command's output.
const PROMPT_AT_START: u8 = 1;
const PROMPT_AT_SCRIPT: u8 = 2;

/// Where bytes of a trace come from. Each stream is made valid by itself: its bytes may be cut anywhere, but those of
/// two streams never mix within a character. A secret may be cut over the two streams of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// The manager's own lines.
    Executor,
    /// What the scripts of the job print.
    Stdout,
    Stderr,
    /// A service container's output. GitLab reserves numbers from 15 on for these.
    Service {
        number: u8,
        is_stderr: bool,
    },
}

impl Stream {
    /// Two hexadecimal digits, as they stand before each line.
    pub(super) fn number_hex(self) -> [u8; 2] {
        let number = match self {
            Self::Executor => 0,
            Self::Stdout | Self::Stderr => 1,
            Self::Service { number, .. } => number,
        };
        [number >> 4, number & 15].map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 })
    }

    pub(super) fn letter(self) -> u8 {
        match self {
            Self::Executor | Self::Stdout | Self::Service { is_stderr: false, .. } => b'O',
            Self::Stderr | Self::Service { is_stderr: true, .. } => b'E',
        }
    }

    /// The program whose standard output and error belong together, by its number. The manager's own lines come whole.
    fn program(self) -> Option<u8> {
        match self {
            Self::Executor => None,
            Self::Stdout | Self::Stderr => Some(1),
            Self::Service { number, .. } => Some(number),
        }
    }

    fn is_script(self) -> bool {
        match self {
            Self::Stdout | Self::Stderr => true,
            Self::Executor | Self::Service { .. } => false,
        }
    }
}

/// How one job's trace is written.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Where a long trace is kept until the job has ended; the file has no name and goes with the process.
    pub folder: PathBuf,
    /// `output_limit`, in bytes.
    pub limit: u64,
    /// `FF_TIMESTAMPS`.
    pub timestamps: bool,
    /// `features.trace_sections` of the payload.
    pub sections: bool,
    pub masks: Masks,
}

/// A handle to one job's trace; clones write to the same one.
///
/// Calls take microseconds, wait neither for GitLab nor for the uploader, and may come from any thread.
/// Bytes of one stream keep their order; streams stand in the order of the calls. After the job's end,
/// after the limit and after a storage failure writes are ignored.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
}

struct Shared {
    sections: bool,
    state: Mutex<State>,
    /// Tells the uploader that its last look at [`Progress`] is out of date.
    wake: Notify,
}

struct State {
    timestamps: bool,
    masks: Masks,
    compiled: CompiledMasks,
    channels: Vec<Channel>,
    /// The streams of each program together.
    joined: BTreeMap<u8, Joined>,
    buffer: Buffer,
    is_closed: bool,
    signals: Signals,
}

/// What the uploader has to know to choose when to send.
#[derive(Debug)]
struct Signals {
    /// When the first byte arrived that the uploader has not yet fetched.
    waiting_since: Option<Instant>,
    prompts: u8,
    script_awaited: bool,
    /// The uploader has seen all there is, so the next byte has to wake it.
    uploader_is_idle: bool,
}

/// A look at a trace from the uploader's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the trace so far, with their CRC-32.
    pub(super) written: u64,
    pub(super) checksum: u32,
    /// When the first byte arrived that was not in any window yet.
    pub(super) waiting_since: Option<Instant>,
    /// The next bytes should go out at once.
    pub(super) is_prompt: bool,
}

impl Sink {
    pub fn new(settings: TraceSettings) -> Self {
        let state = State {
            timestamps: settings.timestamps,
            compiled: CompiledMasks::new(&settings.masks),
            masks: settings.masks,
            channels: Vec::new(),
            joined: BTreeMap::new(),
            buffer: Buffer::new(settings.folder, settings.limit),
            is_closed: false,
            signals: Signals {
                waiting_since: None,
                prompts: PROMPT_AT_START,
                script_awaited: false,
                uploader_is_idle: false,
            },
        };
        Self { shared: Arc::new(Shared { sections: settings.sections, state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Takes output, cut anywhere. A last part that could be the beginning of a secret or a character is
    /// held back until more comes or [`Sink::flush_stream`] is called.
    pub fn write(&self, stream: Stream, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.take(stream, bytes, Cut::Anywhere);
        }
    }

    /// A green line, such as `Job succeeded`.
    pub fn info(&self, text: &str) {
        self.line(&sections::info(text));
    }

    /// A line of the manager.
    pub fn plain(&self, text: &str) {
        self.line(&sections::plain(text));
    }

    /// A stage's title.
    pub fn headline(&self, text: &str) {
        self.line(&sections::headline(text));
    }

    /// A line that begins with `WARNING: `.
    pub fn warning(&self, text: &str) {
        self.line(&sections::warning(text));
    }

    /// A line that begins with `ERROR: `.
    pub fn error(&self, text: &str) {
        self.line(&sections::error(text));
    }

    /// Begins a section that GitLab can fold; nothing where the server does not know sections.
    pub fn section_start(&self, name: &str) {
        if self.shared.sections {
            self.line(&sections::section_start(time::now().unix_seconds(), name));
        }
    }

    pub fn section_end(&self, name: &str) {
        if self.shared.sections {
            self.line(&sections::section_end(time::now().unix_seconds(), name));
        }
    }

    /// Masks more values in all bytes that come from here on or are still held back, such as resolved secrets.
    pub fn add_masks<'a>(&self, values: impl IntoIterator<Item = &'a str>) {
        let mut state = self.lock();
        let mut masks = state.masks.clone();
        values.into_iter().for_each(|value| masks.add_phrase(value));
        if masks == state.masks {
            return;
        }
        let compiled = CompiledMasks::new(&masks);
        for channel in &mut state.channels {
            channel.replace_masks(compiled.clone());
        }
        // What is half matched over several streams is matched by the former masks.
        state.joined.clear();
        (state.masks, state.compiled) = (masks, compiled);
    }

    /// A text as it would show in the trace, for our own logs.
    pub fn masked(&self, text: &str) -> String {
        let mut masker = Masker::new(self.lock().compiled.clone());
        let mut masked = Vec::with_capacity(text.len());
        masker.feed(text.as_bytes(), &mut masked);
        masker.flush(&mut masked);
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// A stage has ended: what was held back of its stream comes out, and the next byte begins anew.
    pub fn flush_stream(&self, stream: Stream) {
        self.take(stream, &[], Cut::End);
    }

    /// The next byte on the script's streams is the first of the user's script, which leaves at once.
    pub fn script_output_begins(&self) {
        self.lock().signals.script_awaited = true;
    }

    /// Bytes of the trace so far, as GitLab counts them.
    pub fn bytes_written(&self) -> u64 {
        self.lock().buffer.len()
    }

    /// Why the trace could not be stored and has ended early; told once.
    pub fn take_storage_failure(&self) -> Option<io::Error> {
        self.lock().buffer.take_failure()
    }

    /// The job has ended: flushes all streams; size and checksum are final.
    pub fn close(&self) {
        let mut state = self.lock();
        let streams: Vec<Stream> = state.channels.iter().map(|channel| channel.stream).collect();
        let now = time::now();
        for stream in streams {
            state.take(stream, &[], Cut::End, now);
        }
        state.is_closed = true;
        state.buffer.close();
    }

    /// Where the trace stands. `sent` bytes of it are at GitLab or on their way: where that is all, the next
    /// write ends [`Sink::changed`].
    pub(super) fn progress(&self, sent: u64) -> Progress {
        let mut state = self.lock();
        let written = state.buffer.len();
        state.signals.uploader_is_idle = written <= sent;
        Progress {
            written,
            checksum: state.buffer.checksum(),
            waiting_since: state.signals.waiting_since,
            is_prompt: state.signals.prompts > 0,
        }
    }

    /// At most `most` bytes from `start` on, for one patch.
    pub(super) fn window(&self, start: u64, most: usize) -> Window {
        let mut state = self.lock();
        let signals = &mut state.signals;
        signals.prompts = signals.prompts.saturating_sub(1);
        signals.waiting_since = None;
        state.buffer.window(start, most)
    }

    /// Waits until [`Sink::progress`] has news worth a look.
    pub(super) async fn changed(&self) {
        self.shared.wake.notified().await;
    }

    fn line(&self, text: &str) {
        self.take(Stream::Executor, text.as_bytes(), Cut::Complete);
    }

    fn take(&self, stream: Stream, bytes: &[u8], cut: Cut) {
        let now = time::now();
        let must_wake = self.lock().take(stream, bytes, cut, now);
        if must_wake {
            self.shared.wake.notify_one();
        }
    }

    /// A panic while the lock was held leaves a trace that is still worth sending.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("bytes_written", &self.bytes_written()).finish_non_exhaustive()
    }
}

impl State {
    /// True where the uploader has to be woken.
    fn take(&mut self, stream: Stream, bytes: &[u8], cut: Cut, now: Now) -> bool {
        if self.is_closed {
            return false;
        }
        let known = self.channels.iter().any(|channel| channel.stream == stream);
        if !known && !bytes.is_empty() {
            self.channels.push(Channel::new(stream, self.compiled.clone(), self.timestamps));
        }
        let before = self.buffer.len();
        if let Some(at) = self.channels.iter().position(|channel| channel.stream == stream) {
            match stream.program() {
                Some(program) => self.write_of_program(program, at, bytes, cut, now.utc),
                None => self.write(at, bytes, 0, cut, now.utc),
            }
        }
        before < self.buffer.len() && self.signals.grew(stream, now.instant)
    }

    /// A write to the stream `at` of a program that may have cut a secret over its streams.
    fn write_of_program(&mut self, program: u8, at: usize, bytes: &[u8], cut: Cut, now: SystemTime) {
        let joined = self.joined.entry(program).or_default();
        let tail_of = |at: usize| self.channels.get(at).map(Channel::tail);
        if !bytes.is_empty() && joined.last() != Some(at) {
            joined.switch(at, joined.last().and_then(tail_of), &self.compiled);
        }
        let scan = if bytes.is_empty() { Scan::default() } else { joined.scan(bytes, &self.compiled) };
        let hold = joined.hold(at);
        if cut == Cut::End
            && let Some(tail) = tail_of(at)
        {
            joined.end(at, tail, &self.compiled);
        }
        let (carried, rest) = bytes.split_at_checked(scan.taken).unwrap_or((bytes, &[]));
        if !carried.is_empty() {
            self.write_carried(program, at, carried, &scan.covers, now);
        }
        self.write(at, rest, hold, cut, now);
    }

    /// Bytes that decide what other streams of the program hold back, which comes out before them.
    fn write_carried(&mut self, program: u8, at: usize, bytes: &[u8], covers: &[Cover], now: SystemTime) {
        self.write(at, bytes, usize::MAX, Cut::Anywhere, now);
        for cover in covers {
            if let Some(channel) = self.channels.get_mut(cover.stream) {
                channel.cover(cover.start, cover.end);
            }
        }
        for other in (0..self.channels.len()).filter(|other| *other != at) {
            if self.channels.get(other).is_some_and(|channel| channel.stream.program() == Some(program)) {
                let hold = self.joined.get(&program).map_or(0, |joined| joined.hold(other));
                self.write(other, &[], hold, Cut::Anywhere, now);
            }
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8], hold: usize, cut: Cut, now: SystemTime) {
        if let Some(channel) = self.channels.get_mut(at) {
            channel.write(bytes, hold, cut, now, &mut self.buffer);
        }
    }
}

impl Signals {
    /// True where the uploader has to be woken.
    fn grew(&mut self, stream: Stream, now: Instant) -> bool {
        self.waiting_since.get_or_insert(now);
        let is_first_of_script = self.script_awaited && stream.is_script();
        if is_first_of_script {
            self.script_awaited = false;
            self.prompts = PROMPT_AT_SCRIPT;
        }
        std::mem::take(&mut self.uploader_is_idle) || is_first_of_script
    }
}

#[cfg(test)]
mod tests;
