//! The output file of a stage: records of one stream byte, a length and that many bytes, in the order
//! in which they arrived.
//!
//! The bytes are the user's own and stay as they are, also where they are no text. A position in the
//! file counts all its bytes, headers too.

use serde::{Deserialize, Serialize};

/// Length of a record's header: the stream, then the length as a big-endian `u32`.
pub const HEADER: usize = 5;

/// The longest body the keeper writes in one record, which is what it reads from a pipe at once.
pub const MAX_BODY: usize = 64 * 1024;

/// Which of the shell's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    /// The byte that stands for it in a header.
    pub fn byte(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// The header of a record of `length` bytes.
pub fn header(stream: OutputStream, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream.byte(), a, b, c, d]
}

/// The file does not hold records where it should: something else wrote to it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the stage's output file is damaged at byte {position}")]
pub struct DamagedOutput {
    pub position: u64,
}

/// Takes the file's bytes in pieces of any size and gives back the records' bodies.
///
/// Bodies are passed on as soon as they arrive, also parts of one; [`Decoder::delivered`] is where
/// another decoder would go on exactly.
#[derive(Debug)]
pub struct Decoder {
    /// Position of the next byte expected.
    position: u64,
    header: [u8; HEADER],
    /// Bytes of the header seen so far.
    seen: usize,
    /// Stream and missing bytes of the body in hand.
    body: Option<(OutputStream, usize)>,
    /// Where the record in hand began.
    record_start: u64,
    /// Bytes of the record in hand that a previous decoder has passed on already.
    skip: usize,
    /// Bytes of the body in hand that came by.
    passed: usize,
}

/// How far a stage's output has been delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Where to read on in the file: the beginning of a record.
    pub record: u64,
    /// How many bytes of that record's body have been delivered already.
    pub skip: usize,
}

impl Decoder {
    pub fn new(from: Position) -> Self {
        Self {
            position: from.record,
            header: [0; HEADER],
            seen: 0,
            body: None,
            record_start: from.record,
            skip: from.skip,
            passed: 0,
        }
    }

    /// Position of the next byte that this decoder wants.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where another decoder goes on without losing or repeating a byte.
    pub fn delivered(&self) -> Position {
        Position { record: self.record_start, skip: self.passed.max(self.skip) }
    }

    /// Decodes `bytes`, which begin at [`Decoder::position`].
    pub fn decode(&mut self, mut bytes: &[u8], mut sink: impl FnMut(OutputStream, &[u8])) -> Result<(), DamagedOutput> {
        while !bytes.is_empty() {
            match self.body {
                None => bytes = self.take_header(bytes)?,
                Some((stream, missing)) => {
                    let (body, rest) = bytes.split_at(missing.min(bytes.len()));
                    let fresh = body.get(self.skip.saturating_sub(self.passed)..).unwrap_or_default();
                    if !fresh.is_empty() {
                        sink(stream, fresh);
                    }
                    self.position += body.len() as u64;
                    self.passed += body.len();
                    self.set_body(stream, missing - body.len());
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], DamagedOutput> {
        let (part, rest) = bytes.split_at((HEADER - self.seen).min(bytes.len()));
        if let Some(place) = self.header.get_mut(self.seen..self.seen + part.len()) {
            place.copy_from_slice(part);
        }
        self.seen += part.len();
        self.position += part.len() as u64;
        if self.seen == HEADER {
            let [stream, a, b, c, d] = self.header;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let damaged = DamagedOutput { position: self.record_start };
            let stream = OutputStream::from_byte(stream).ok_or(damaged)?;
            if length > MAX_BODY {
                return Err(DamagedOutput { position: self.record_start });
            }
            self.passed = 0;
            self.set_body(stream, length);
        }
        Ok(rest)
    }

    fn set_body(&mut self, stream: OutputStream, missing: usize) {
        if missing > 0 {
            self.body = Some((stream, missing));
        } else {
            self.body = None;
            self.seen = 0;
            self.skip = 0;
            self.passed = 0;
            self.record_start = self.position;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(records: &[(bool, Vec<u8>)]) -> Vec<u8> {
        let mut file = Vec::new();
        for (stderr, body) in records {
            let stream = if *stderr { OutputStream::Stderr } else { OutputStream::Stdout };
            file.extend_from_slice(&header(stream, u32::try_from(body.len()).unwrap()));
            file.extend_from_slice(body);
        }
        file
    }

    #[test]
    fn foreign_bytes_are_reported_and_not_passed_on() {
        let mut decoder = Decoder::new(Position::default());
        let error = decoder.decode(b"hello", |_, _| panic!("no output")).unwrap_err();
        assert_eq!(error, DamagedOutput { position: 0 });
        let mut decoder = Decoder::new(Position::default());
        assert!(decoder.decode(&[1, 255, 255, 255, 255], |_, _| ()).is_err());
    }

    proptest! {
        /// A job may write its own output file: whatever it holds, positions stay right and no body is longer than ours.
        #[test]
        fn any_bytes_are_decoded_or_refused_and_positions_count_them(
            bytes in prop::collection::vec(prop_oneof![3 => 0_u8..3, 1 => any::<u8>()], 0..300),
            pieces in prop::collection::vec(1_usize..30, 1..20),
            skip in 0_usize..100_000,
        ) {
            let mut decoder = Decoder::new(Position { record: 0, skip });
            let (mut given, mut passed) = (0, 0);
            for piece in pieces.iter().cycle() {
                let piece = &bytes[given..(given + piece).min(bytes.len())];
                if piece.is_empty() { break; }
                if decoder.decode(piece, |_, body| passed += body.len()).is_err() { break; }
                given += piece.len();
                prop_assert_eq!(decoder.position(), given as u64);
                let delivered = decoder.delivered();
                prop_assert!(delivered.record <= given as u64 && passed <= given);
            }
        }

        /// However the file is cut, and wherever a follower is lost and another goes on, each stream
        /// arrives whole, once and in order.
        #[test]
        fn no_byte_is_lost_or_repeated_across_pieces_and_resumes(
            records in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            pieces in prop::collection::vec((1usize..30, any::<bool>()), 1..60),
        ) {
            let file = file(&records);
            let mut got: Vec<(OutputStream, u8)> = Vec::new();
            let mut decoder = Decoder::new(Position::default());
            let mut pieces = pieces.into_iter().cycle();
            // Each follower gets further than the one before it.
            let mut furthest = 0;
            while (decoder.position() as usize) < file.len() {
                let (length, lose) = pieces.next().unwrap();
                let at = decoder.position() as usize;
                let piece = &file[at..(at + length).min(file.len())];
                decoder.decode(piece, |stream, bytes| got.extend(bytes.iter().map(|byte| (stream, *byte)))).unwrap();
                if lose && decoder.position() > furthest {
                    furthest = decoder.position();
                    decoder = Decoder::new(decoder.delivered());
                }
            }
            let expected: Vec<(OutputStream, u8)> = records.iter().flat_map(|(stderr, body)| {
                let stream = if *stderr { OutputStream::Stderr } else { OutputStream::Stdout };
                body.iter().map(move |byte| (stream, *byte))
            }).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
