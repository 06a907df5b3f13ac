//! The processes that descend from one, found in `/proc`, and signals to all of them.
//!
//! A keeper is the subreaper of its stage: a process that is orphaned anywhere below it becomes its
//! child, so nothing that a script started can leave the tree, whatever session or group it makes.
//! The agent is a subreaper too: what a keeper leaves that was killed becomes the agent's.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// What `/proc/PID/stat` says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub state: char,
    pub parent: i32,
    /// Clock ticks after boot.
    pub started: u64,
}

impl Stat {
    /// Whether it has ended and is only not reaped yet.
    pub fn has_ended(self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it was stopped by a signal, as by SIGSTOP.
    pub fn is_stopped(self) -> bool {
        self.state == 'T'
    }
}

/// Reads `/proc/PID/stat`; `None` where the process is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name may hold spaces and brackets, so fields are counted after the last bracket:
/// state, parent, … and the start time as the twentieth.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}

/// The environment that the first agent of this container (`--stay`) was started with: an image's entrypoint may
/// have added to it. `None` where there is no such process, or it is another user's.
pub fn environment_of_first_agent() -> Option<Vec<(OsString, OsString)>> {
    let is_first = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"agent") && words.any(|word| word == b"--stay")
    };
    let first = all().ok()?.filter(|pid| is_first(*pid)).min()?;
    Some(parse_environment(&fs::read(format!("/proc/{first}/environ")).ok()?))
}

/// `NAME=VALUE`, each with a NUL after it.
fn parse_environment(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|variable| {
            let end = variable.iter().position(|byte| *byte == b'=')?;
            Some((text(variable.get(..end)?), text(variable.get(end + 1..)?)))
        })
        .collect()
}

/// All living descendants of `ancestor`, parents before their children, as signals are sent in that order: a shell
/// must not see its child die and start the next command before its own signal arrives. Numbers say nothing about
/// age: they wrap.
pub fn descendants(ancestor: i32) -> io::Result<Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<(i32, Stat)>> = BTreeMap::new();
    for pid in all()? {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push((pid, stat));
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = parents.get(next).copied() {
        // Each process has one parent in this list, so none is found twice. One that has ended has no children.
        let living = children.remove(&parent).into_iter().flatten().filter(|(_, stat)| !stat.has_ended());
        let before = found.len();
        found.extend(living.map(|(pid, _)| pid));
        parents.extend(found.get(before..).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

/// The children of `parent`, living or not. One that ends in this moment may hide another from this look.
pub fn children(parent: i32) -> io::Result<Vec<i32>> {
    match fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) {
        Ok(text) => Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()),
        // The kernel was built without this file.
        Err(_) => Ok(all()?.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent)).collect()),
    }
}

/// The keepers of stages below a job's folder, whoever started them, by their command lines, each with its stage's
/// folder.
pub fn keepers_below(job: &Path) -> io::Result<Vec<(i32, PathBuf)>> {
    Ok(all()?
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut words = line.split(|byte| *byte == 0).skip(1);
            if words.next() != Some(b"keep") {
                return None;
            }
            let folder = words.map(|word| Path::new(OsStr::from_bytes(word))).find(|word| word.starts_with(job))?;
            Some((pid, folder.to_owned()))
        })
        .collect())
}

/// Whether this process's command line is that of the keeper of this stage.
pub fn is_keeper(pid: i32, folder: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"keep") && words.any(|word| Path::new(OsStr::from_bytes(word)) == folder)
}

/// Whether something was last changed before this machine started: whatever ran then does not run any more.
pub fn is_of_earlier_boot(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    let changed = fs::symlink_metadata(path).map(|metadata| metadata.ctime());
    matches!((boot, changed), (Some(boot), Ok(changed)) if changed < boot)
}

fn all() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Who got a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signalled {
    reached: usize,
    /// Those of another user, such as what `sudo` has started.
    forbidden: usize,
}

impl Signalled {
    /// Whether nobody is left whom a signal of ours can reach.
    pub fn is_none_reached(self) -> bool {
        self.reached == 0
    }

    /// Whether some are left, and no signal of ours can reach any of them.
    pub fn is_all_forbidden(self) -> bool {
        self.reached == 0 && self.forbidden > 0
    }

    fn note(&mut self, sent: Result<(), Errno>) -> io::Result<()> {
        match sent {
            Ok(()) => self.reached += 1,
            // The others still get theirs.
            Err(Errno::PERM) => self.forbidden += 1,
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Sends `signal` to all descendants of `ancestor`. One that has ended meanwhile is no error, nor is one of
/// another user.
pub fn signal_descendants(ancestor: i32, signal: Signal) -> io::Result<Signalled> {
    signal_each(descendants(ancestor)?, signal)
}

/// Sends `signal` to each of these. One that has ended meanwhile is no error, nor is one of another user.
pub fn signal_each(processes: impl IntoIterator<Item = i32>, signal: Signal) -> io::Result<Signalled> {
    let mut signalled = Signalled::default();
    for pid in processes.into_iter().filter_map(Pid::from_raw) {
        signalled.note(rustix::process::kill_process(pid, signal))?;
    }
    Ok(signalled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_brackets_and_spaces() {
        let text = "41 (a) b (c) S 7 41 41 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 2 3";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', parent: 7, started: 987_654 }));
        assert_eq!(parse_stat("41 (a"), None);
    }

    #[test]
    fn processes_of_others_are_all_that_is_left_when_none_was_reached() {
        let check = |sent: &[Result<(), Errno>], expected| {
            let mut signalled = Signalled::default();
            sent.iter().for_each(|sent| signalled.note(*sent).unwrap());
            assert_eq!(signalled.is_all_forbidden(), expected, "{sent:?}");
        };
        check(&[], false);
        check(&[Err(Errno::SRCH)], false);
        check(&[Err(Errno::PERM), Ok(())], false);
        check(&[Err(Errno::SRCH), Err(Errno::PERM)], true);
    }

    #[test]
    fn environment_is_read_with_empty_values_and_equals_signs_in_them() {
        let pairs = parse_environment(b"A=1\0B=\0C=x=y\0none\0");
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", ""), ("C", "x=y")]);
    }

    #[test]
    fn own_parent_is_the_one_of_proc() {
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(stat(own).unwrap().parent, parent);
    }
}
