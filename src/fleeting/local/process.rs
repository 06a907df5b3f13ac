//! Which process is meant, when its number may have been given to another.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process, for good: its number, when it started (in clock ticks after the machine) and the machine's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessIdentity {
    pub pid: i32,
    started: u64,
    boot: String,
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub parent: i32,
    started: u64,
    /// It has ended and only waits to be reaped.
    pub ended: bool,
}

impl ProcessIdentity {
    /// The process that has this number now.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, started: stat(pid)?.started, boot: boot_id()? })
    }

    /// Whether it runs. Another process with the same number is not it.
    pub(super) fn is_alive(&self) -> bool {
        stat(self.pid).is_ok_and(|stat| !stat.ended && stat.started == self.started)
            && boot_id().is_ok_and(|boot| boot == self.boot)
    }

    /// Sends it a signal, and to no other process that may have taken its number. One that has ended is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        // The descriptor is opened first: what is alive after that is what it stands for.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads `/proc/PID/stat`.
pub(super) fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))
}

/// The name in parentheses may itself contain spaces and parentheses: fields count from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of the manual page, of which 4 are behind us.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, started, ended: matches!(state, "Z" | "X") })
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let tail = "S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1000 10";
        let stat = parse_stat(&format!("42 (a) b) {tail}")).unwrap();
        assert_eq!(stat, Stat { parent: 7, started: 123_456, ended: false });
        assert!(parse_stat(&format!("42 (x) {}", tail.replacen('S', "Z", 1))).unwrap().ended);
        assert_eq!(parse_stat("42 (x) S 7"), None);
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(identity.is_alive());
        let earlier = ProcessIdentity { started: identity.started - 1, ..identity.clone() };
        assert!(!earlier.is_alive());
        earlier.signal(Signal::KILL).unwrap();
        assert!(identity.is_alive(), "a signal for the earlier process must not reach this one");
        identity.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        while !stat(identity.pid).unwrap().ended {
            std::thread::yield_now();
        }
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }
}
