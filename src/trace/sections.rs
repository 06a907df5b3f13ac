//! The manager's own lines and section marks, as bytes.

/// A line that tells what happens, green.
pub(super) fn info(text: &str) -> String {
    format!("\x1b[32;1m{text}\x1b[0;m\n")
}

/// A line that does not stand out.
pub(super) fn plain(text: &str) -> String {
    format!("\x1b[0K{text}\x1b[0;m\n")
}

/// A stage's title, cyan.
pub(super) fn headline(text: &str) -> String {
    plain(&format!("\x1b[36;1m{text}\x1b[0;m"))
}

pub(super) fn warning(text: &str) -> String {
    format!("\x1b[0;33mWARNING: {text}\x1b[0;m\n")
}

pub(super) fn error(text: &str) -> String {
    format!("\x1b[31;1mERROR: {text}\x1b[0;m\n")
}

/// Where the part of the trace begins that GitLab can fold. Not a line: what follows stands on it.
pub(super) fn section_start(unix_seconds: u64, name: &str) -> String {
    format!("section_start:{unix_seconds}:{name}\r\x1b[0K")
}

pub(super) fn section_end(unix_seconds: u64, name: &str) -> String {
    format!("section_end:{unix_seconds}:{name}\r\x1b[0K")
}
