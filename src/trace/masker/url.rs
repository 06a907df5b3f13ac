//! Secrets in query strings: which part of `?private_token=…&x=…` is a value to mask.
//!
//! A machine of three states over single bytes. The key is visible, so nothing has to be held back.

/// Keys whose value is masked, in lower case; they are compared without regard to case. The last two
/// are the signatures of pre-signed URLs of Google and Azure, which the reference leaves readable.
const KEYS: [&[u8]; 8] = [
    b"private_token",
    b"authenticity_token",
    b"rss_token",
    b"x-amz-signature",
    b"x-amz-credential",
    b"x-amz-security-token",
    b"x-goog-signature",
    b"sig",
];

/// What the last byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Url {
    #[default]
    Outside,
    /// `length` bytes of a key, which so far is the beginning of each key whose bit is set.
    Key {
        length: u8,
        candidates: u8,
    },
    Value,
}

impl Url {
    /// The state after one more byte.
    pub(super) fn step(self, byte: u8) -> Self {
        match (self, byte) {
            (_, b'?' | b'&') => Self::Key { length: 0, candidates: u8::MAX },
            (Self::Value, byte) if !ends_value(byte) => Self::Value,
            (Self::Key { length, candidates }, b'=') => {
                if keys(candidates).any(|(_, key)| key.len() == usize::from(length)) {
                    Self::Value
                } else {
                    Self::Outside
                }
            }
            (Self::Key { length, candidates }, byte) => {
                let byte = byte.to_ascii_lowercase();
                let fits = keys(candidates).filter(|(_, key)| key.get(usize::from(length)) == Some(&byte));
                match fits.fold(0, |bits, (bit, _)| bits | bit) {
                    0 => Self::Outside,
                    candidates => Self::Key { length: length + 1, candidates },
                }
            }
            (Self::Outside | Self::Value, _) => Self::Outside,
        }
    }
}

fn keys(candidates: u8) -> impl Iterator<Item = (u8, &'static [u8])> {
    KEYS.iter().enumerate().map(|(index, key)| (1 << index, *key)).filter(move |(bit, _)| candidates & bit != 0)
}

/// White space and control characters; `?` and `&` begin a new key.
fn ends_value(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}
