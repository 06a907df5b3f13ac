//! `host_key`: the public key that an SSH server must present, as OpenSSH writes it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The kinds of keys that the connector can check.
const KINDS: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// The length of a text's length in the binary form.
const LENGTH: usize = size_of::<u32>();

/// A public key: its kind and its binary form in base64, without a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKeyText(String);

impl HostKeyText {
    /// `ssh-ed25519 AAAA…`
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostKeyText {
    type Err = HostKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_whitespace();
        let Some(kind) = words.next() else { return Err(HostKeyError::Empty) };
        if kind.starts_with("SHA256:") || kind.starts_with("MD5:") {
            return Err(HostKeyError::Fingerprint);
        }
        if kind.contains("PRIVATE") || text.starts_with("-----BEGIN") {
            return Err(HostKeyError::Private);
        }
        let key = words.next();
        if !KINDS.contains(&kind) {
            return Err(match key {
                Some(second) if KINDS.contains(&second) => HostKeyError::WithHost,
                Some(_) | None => HostKeyError::Kind,
            });
        }
        let binary = STANDARD.decode(key.unwrap_or_default()).map_err(|_| HostKeyError::Damaged)?;
        let parts = parts(&binary).ok_or(HostKeyError::Damaged)?;
        match parts.as_slice() {
            [found, _, ..] if *found == kind.as_bytes() => {}
            [..] => return Err(HostKeyError::Damaged),
        }
        Ok(Self(format!("{kind} {}", key.unwrap_or_default())))
    }
}

/// The texts of the binary form, each after its length (RFC 4251); `None` where it is cut off.
fn parts(mut binary: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !binary.is_empty() {
        let (length, rest) = binary.split_first_chunk::<LENGTH>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        found.push(part);
        binary = rest;
    }
    Some(found)
}

/// Why a text is no public key. The text itself is in no message: it may be a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    #[error("it is empty")]
    Empty,
    #[error("a fingerprint is not a key")]
    Fingerprint,
    #[error("this is a private key")]
    Private,
    #[error("it begins with the name of a host")]
    WithHost,
    #[error("it begins with no supported kind of key: ssh-ed25519, ecdsa-sha2-nistp256, -384, -521 or ssh-rsa")]
    Kind,
    #[error("the key is damaged or cut off")]
    Damaged,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_key_is_taken_without_its_comment() {
        let expected = Ok(HostKeyText(format!("ssh-ed25519 {KEY}")));
        for text in [format!("ssh-ed25519 {KEY}"), format!("  ssh-ed25519   {KEY} root@host with words\n")] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_they_are() {
        for (text, error) in [
            (String::new(), HostKeyError::Empty),
            ("SHA256:47DEQpj8HBSa".to_owned(), HostKeyError::Fingerprint),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(), HostKeyError::Private),
            (format!("host ssh-ed25519 {KEY}"), HostKeyError::WithHost),
            (format!("ssh-ed448 {KEY}"), HostKeyError::Kind),
            (KEY.to_owned(), HostKeyError::Kind),
            ("/etc/ssh/ssh_host_ed25519_key.pub".to_owned(), HostKeyError::Kind),
            ("ssh-ed25519".to_owned(), HostKeyError::Damaged),
            (format!("ssh-ed25519 {}", KEY.get(..40).unwrap()), HostKeyError::Damaged),
            (format!("ssh-rsa {KEY}"), HostKeyError::Damaged),
            ("ssh-ed25519 not!base64".to_owned(), HostKeyError::Damaged),
        ] {
            assert_eq!(text.parse::<HostKeyText>(), Err(error), "{text}");
        }
    }
}
