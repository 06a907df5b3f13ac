//! The time before each line, in the form that GitLab reads.
//!
//! A line begins with 32 bytes: `2026-11-21T01:07:45.859936Z 01O `. The last of them is `+` where the text
//! continues the stream's line before. A line is written when its end has come; what does not end for long
//! is written in pieces, and a progress bar (a write with a carriage return and no line feed) at once.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::sink::Stream;

/// A line without an end is written after so many bytes.
const LONGEST_PIECE: usize = 8 * 1024;

const HEADER: usize = 32;

/// Puts times before the lines of one stream.
#[derive(Debug)]
pub(super) struct Timestamps {
    /// Header with the time of the newest write; its first 20 bytes change once a second.
    header: [u8; HEADER],
    header_second: Option<u64>,
    /// Header and text of a line whose end has not come yet; empty between lines.
    line: Vec<u8>,
    /// The next piece belongs to the line before.
    continues: bool,
}

impl Timestamps {
    pub(super) fn new(stream: Stream) -> Self {
        let mut header = *b"1970-01-01T00:00:00.000000Z 000 ";
        let [high, low] = stream.number_hex();
        header[28..31].copy_from_slice(&[high, low, stream.letter()]);
        Self { header, header_second: None, line: Vec::new(), continues: false }
    }

    /// Takes one write of valid UTF-8 that arrived at `now`.
    pub(super) fn feed(&mut self, text: &[u8], now: SystemTime, out: &mut Vec<u8>) {
        self.set_time(now);
        let mut rest = text;
        let mut ended = false;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            self.add(line, out);
            self.end_line(out);
            (rest, ended) = (after, true);
        }
        self.add(rest, out);
        if !ended && rest.contains(&b'\r') {
            self.end_piece(out);
        }
    }

    /// The end of the stream: what has no line end gets one, and what comes later begins a new line.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        self.end_piece(out);
        self.continues = false;
    }

    /// Adds text with at most one line feed, at its end; writes pieces that have become long.
    fn add(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while !text.is_empty() {
            if self.line.is_empty() {
                self.header[HEADER - 1] = if self.continues { b'+' } else { b' ' };
                if text.ends_with(b"\n") && text.len() <= LONGEST_PIECE {
                    // The usual case, a whole line, needs no copy of its own.
                    out.extend_from_slice(&self.header);
                    return out.extend_from_slice(text);
                }
                self.line.extend_from_slice(&self.header);
            }
            let room = HEADER + LONGEST_PIECE - self.line.len();
            let (piece, rest) = text.split_at(room_for_characters(text, room));
            self.line.extend_from_slice(piece);
            text = rest;
            if !text.is_empty() && text != b"\n" {
                self.end_piece(out);
            } else if !text.is_empty() {
                self.line.extend_from_slice(text);
                text = &[];
            }
        }
    }

    /// A line feed was added.
    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.line);
        self.continues = false;
    }

    /// Writes what there is of a line; more of it may come.
    fn end_piece(&mut self, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            out.append(&mut self.line);
            out.push(b'\n');
            self.continues = true;
        }
    }

    fn set_time(&mut self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.header_second != Some(since.as_secs()) {
            self.header_second = Some(since.as_secs());
            let timestamp = i64::try_from(since.as_secs()).ok().and_then(|second| Timestamp::from_second(second).ok());
            let time = TimeZone::UTC.to_datetime(timestamp.unwrap_or_default());
            put_digits(&mut self.header[0..4], u32::from(time.year().unsigned_abs()));
            for (at, value) in
                [(5, time.month()), (8, time.day()), (11, time.hour()), (14, time.minute()), (17, time.second())]
            {
                put_digits(&mut self.header[at..at + 2], u32::from(value.unsigned_abs()));
            }
        }
        put_digits(&mut self.header[20..26], since.subsec_micros());
    }
}

/// Writes a number into all of `place`, with leading zeros.
fn put_digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
}

/// How much of the text fits into `room` bytes without cutting a character.
fn room_for_characters(text: &[u8], room: usize) -> usize {
    let mut end = room.min(text.len());
    while end > 0 && text.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    end
}

#[cfg(test)]
mod tests;
