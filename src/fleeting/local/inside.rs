//! The processes that belong to an instance: everything its commands have started, however it was detached.
//!
//! A command carries the instance's folder in its environment, and what it starts inherits that. A process that
//! cleared its environment is found as long as it descends from one that did not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, getpid};
use tokio::time::sleep;

use super::process::{ProcessIdentity, stat};

/// The variable that marks an instance's processes.
pub(super) const MARK: &str = "FLOTILLA_LOCAL_INSTANCE";

/// Processes may start others while they are being ended; each round finds those.
const ROUNDS: usize = 20;

/// Between looks whether the processes have gone.
const LOOK: Duration = Duration::from_millis(20);

/// Asks all processes inside to end, kills those that have not within `grace`, and returns when none is left.
pub(super) async fn end_all(folder: &Path, grace: Duration) {
    let looks = grace.as_millis() / LOOK.as_millis();
    signal_all(folder, Signal::TERM);
    for _ in 0..looks {
        if processes(folder).is_empty() {
            return;
        }
        sleep(LOOK).await;
    }
    for _ in 0..ROUNDS {
        if !signal_all(folder, Signal::KILL) {
            return;
        }
        sleep(LOOK).await;
    }
    tracing::warn!(folder = %folder.display(), "processes of a local instance cannot be ended");
}

/// Sends a signal to all processes inside and says whether there were any.
pub(super) fn signal_all(folder: &Path, signal: Signal) -> bool {
    let inside = processes(folder);
    for process in &inside {
        if let Err(error) = process.signal(signal) {
            tracing::warn!(pid = process.pid, %error, "signalling a process of a local instance");
        }
    }
    !inside.is_empty()
}

/// The processes inside, this one excepted.
fn processes(folder: &Path) -> Vec<ProcessIdentity> {
    let mark = format!("{MARK}={}", folder.display());
    let (mut inside, mut children) = (BTreeSet::new(), BTreeMap::<i32, Vec<i32>>::new());
    let own = getpid().as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        // Processes come and go while we look; other users' do not concern us.
        let Ok(stat) = stat(pid) else { continue };
        if pid == own || stat.ended {
            continue;
        }
        children.entry(stat.parent).or_default().push(pid);
        if is_marked(pid, mark.as_bytes()) {
            inside.insert(pid);
        }
    }
    let mut unvisited: Vec<i32> = inside.iter().copied().collect();
    while let Some(parent) = unvisited.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if inside.insert(child) {
                unvisited.push(child);
            }
        }
    }
    inside.into_iter().filter_map(|pid| ProcessIdentity::of(pid).ok()).collect()
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|it| it == mark))
}
