//! The keepers that one agent has started, and everything that descends from them.
//!
//! A keeper ends what its stage started. A job may kill its keeper, or stop it with SIGSTOP, as both run as one user.
//! The agent is the subreaper above its keepers, so what a killed keeper leaves becomes the agent's child, whatever
//! session or group it made: the agent ends that. A keeper that does not answer keeps its tree together all the same,
//! and ends after it.
//!
//! Of a keeper that another agent had started, nothing becomes ours: where one was killed, nobody can say what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};

use super::folder::Folder;
use super::{processes, removal};
use crate::detached::Ending;
use crate::time;

/// How long a stage that is being removed may take to end by itself, and again by force.
const REMOVE_LIMIT: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(4);

/// How long after its grace a keeper that was asked to stop is left to it: it gives up what does not die after ten
/// seconds, and the manager waits for fifteen.
const STOP_SLACK: Duration = Duration::from_secs(12);

/// What this agent knows of keepers.
#[derive(Debug)]
pub struct Keepers {
    own: i32,
    /// Whether what is orphaned below us is a stage's: not so in a container, whose main process gets all orphans.
    ends_strays: bool,
    /// Children from before: a login shell's, which became ours when the shell became this program.
    inherited: BTreeSet<i32>,
    /// Our children that keep a stage, with its folder.
    living: BTreeMap<i32, PathBuf>,
    /// The folders of the stages that we have started.
    started: BTreeSet<PathBuf>,
    /// The folders of stages that were followed here and started elsewhere.
    foreign: BTreeSet<PathBuf>,
    /// Stages that were asked to stop, and when patience ends.
    stopping: BTreeMap<PathBuf, Instant>,
}

impl Keepers {
    /// Makes this process the subreaper of what it will start.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(ends_strays: bool) -> io::Result<Self> {
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own))?;
        let own = Pid::as_raw(Some(own));
        Ok(Self {
            own,
            ends_strays,
            inherited: processes::children(own)?.into_iter().collect(),
            living: BTreeMap::new(),
            started: BTreeSet::new(),
            foreign: BTreeSet::new(),
            stopping: BTreeMap::new(),
        })
    }

    /// A child of ours keeps this stage from now on.
    pub fn add(&mut self, keeper: u32, folder: &Folder) {
        self.living.insert(i32::try_from(keeper).unwrap_or_default(), folder.path().to_owned());
        self.started.insert(folder.path().to_owned());
    }

    /// A stage is followed here, whoever started it.
    pub fn note_followed(&mut self, folder: &Folder) {
        if !self.started.contains(folder.path()) {
            self.foreign.insert(folder.path().to_owned());
        }
    }

    /// Collects children that have ended, and ends what a keeper left that did not see to it.
    pub fn reap(&mut self) {
        let mut ended = false;
        while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            self.inherited.remove(&pid);
            ended |= self.living.remove(&pid).is_some();
        }
        if ended {
            // Usually nothing: one look.
            self.end_strays().unwrap_or_default();
        }
    }

    /// To be called every second or so: lets stopped keepers go on, and ends stages whose time to stop is over.
    pub fn care(&mut self) {
        for pid in self.living.keys().filter(|pid| processes::stat(**pid).is_some_and(processes::Stat::is_stopped)) {
            signal(*pid, Signal::CONT);
        }
        let now = time::now().instant;
        let over: Vec<PathBuf> =
            self.stopping.iter().filter(|(_, by)| **by <= now).map(|(folder, _)| folder.clone()).collect();
        for folder in over {
            self.stopping.remove(&folder);
            for (pid, folder) in self.find(&folder).unwrap_or_default() {
                self.force(pid, &folder).unwrap_or_default();
            }
        }
    }

    /// Asks a stage's keeper to end it. One that does not answer is ended by [`Keepers::care`].
    pub fn stop(&mut self, folder: &Folder, grace: Duration) {
        // A stage that cannot be asked has no keeper, or one that is found by other means.
        folder.request_stop(grace).unwrap_or_default();
        for (pid, _) in self.find(folder.path()).unwrap_or_default() {
            signal(pid, Signal::CONT);
            let by = time::now().instant + grace + STOP_SLACK;
            self.stopping.entry(folder.path().to_owned()).and_modify(|known| *known = by.min(*known)).or_insert(by);
        }
    }

    /// How a stage ended, if it has. A keeper that was killed leaves no file; what it kept is ended first.
    ///
    /// # Errors
    /// The stage's files cannot be read.
    pub fn ending_of(&mut self, folder: &Folder) -> io::Result<Option<Ending>> {
        if let Some(ending) = folder.read_ending()? {
            return Ok(Some(ending));
        }
        let is_own = self.started.contains(folder.path());
        // What a file says can be the job's doing. Of our own children we know.
        let is_kept = if is_own { self.is_living(folder.path()) } else { folder.is_kept()? };
        if is_kept {
            return Ok(None);
        }
        // It may have ended between the two looks.
        if let Some(ending) = folder.read_ending()? {
            return Ok(Some(ending));
        }
        let ending = Ending::Failed("the stage's keeper was killed".to_owned());
        folder.kill_orphans();
        if is_own && self.end_strays().is_ok() && self.ends_strays {
            // It holds for the agents to come: nothing is left.
            folder.write_ending(&ending).unwrap_or_default();
        }
        Ok(Some(ending))
    }

    /// Ends what runs of a job, then deletes its folder. A folder that is gone is as wanted.
    ///
    /// # Errors
    /// Something of the job may still run, or its folder cannot be deleted.
    pub fn remove(&mut self, job: &Path) -> io::Result<()> {
        let keepers = self.find(job)?;
        for (pid, folder) in &keepers {
            Folder::at(folder).request_stop(Duration::ZERO).unwrap_or_default();
            signal(*pid, Signal::CONT);
        }
        self.wait_until(REMOVE_LIMIT, |_| keepers.iter().all(|(pid, folder)| !is_keeper_of(*pid, folder)));
        for (pid, folder) in keepers.iter().filter(|(pid, folder)| is_keeper_of(*pid, folder)) {
            self.force(*pid, folder)?;
        }
        self.reap();
        self.end_strays()?;
        let killed = self.killed_elsewhere(job);
        for stage in &killed {
            stage.kill_orphans();
        }
        if let Some(stage) = killed.first() {
            // Its folder is how the next one to clean up finds it.
            let stage = stage.path().display();
            return Err(io::Error::other(format!("the keeper of {stage} was killed: what it kept may still run")));
        }
        for known in [&mut self.started, &mut self.foreign] {
            known.retain(|folder| !folder.starts_with(job));
        }
        self.stopping.retain(|folder, _| !folder.starts_with(job));
        removal::remove(job)
    }

    /// The living keepers of a stage, or of all stages of a job, with their folders.
    fn find(&self, below: &Path) -> io::Result<Vec<(i32, PathBuf)>> {
        let is_below = |folder: &&PathBuf| folder.starts_with(below);
        let is_ours = self.started.iter().any(|folder| is_below(&folder))
            && !self.foreign.iter().any(|folder| is_below(&folder))
            && stages(below).all(|stage| self.started.contains(stage.path()));
        if is_ours {
            let ours = self.living.iter().filter(|(_, folder)| is_below(folder));
            return Ok(ours.map(|(pid, folder)| (*pid, folder.clone())).collect());
        }
        processes::keepers_below(below)
    }

    fn is_living(&self, folder: &Path) -> bool {
        self.living.values().any(|kept| kept == folder)
    }

    /// Ends a keeper that does not answer. Its descendants stay below it for as long as it lives, stopped or not, so
    /// they go first.
    fn force(&mut self, keeper: i32, folder: &Path) -> io::Result<()> {
        let is_done = self.wait_until(REMOVE_LIMIT, |_| {
            processes::signal_descendants(keeper, Signal::KILL).is_ok_and(processes::Signalled::is_none_reached)
        });
        if !is_done {
            return Err(io::Error::other(format!("{} still runs", folder.display())));
        }
        signal(keeper, Signal::KILL);
        if !self.wait_until(REMOVE_LIMIT, |_| !is_keeper_of(keeper, folder)) {
            return Err(io::Error::other(format!("the keeper of {} does not end", folder.display())));
        }
        let ending = Ending::Failed("the stage's keeper did not answer and was ended".to_owned());
        let stage = Folder::at(folder);
        match stage.read_ending() {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => stage.write_ending(&ending),
        }
    }

    /// Ends our children that are no keepers, with all below them.
    fn end_strays(&mut self) -> io::Result<()> {
        if !self.ends_strays {
            return Ok(());
        }
        // A child that ends may hide another from one look.
        for _ in 0..2 {
            let is_done = self.wait_until(REMOVE_LIMIT, |keepers| {
                let strays: Vec<i32> = keepers.strays().unwrap_or_default();
                strays.iter().all(|stray| {
                    let below = processes::descendants(*stray).unwrap_or_default();
                    let all = std::iter::once(*stray).chain(below);
                    processes::signal_each(all, Signal::KILL).is_ok_and(processes::Signalled::is_none_reached)
                })
            });
            if !is_done {
                return Err(io::Error::other("what a killed keeper left still runs"));
            }
        }
        Ok(())
    }

    fn strays(&self) -> io::Result<Vec<i32>> {
        let is_stray = |pid: &i32| {
            !self.inherited.contains(pid)
                && !self.living.contains_key(pid)
                && processes::stat(*pid).is_some_and(|stat| !stat.has_ended())
        };
        Ok(processes::children(self.own)?.into_iter().filter(is_stray).collect())
    }

    /// Stages of the job that another agent started, and whose keepers ended without a word: they were killed. A
    /// machine that has started since has nothing left of them.
    fn killed_elsewhere(&self, job: &Path) -> Vec<Folder> {
        let is_killed = |stage: &Folder| {
            !self.started.contains(stage.path())
                && !matches!(stage.read_ending(), Ok(Some(_)))
                && !processes::is_of_earlier_boot(stage.path())
        };
        stages(job).filter(is_killed).collect()
    }

    /// Waits until something holds, and reaps meanwhile; whether it does.
    fn wait_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let deadline = time::now().instant + limit;
        loop {
            while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::NOHANG) {
                let pid = pid.as_raw_nonzero().get();
                self.inherited.remove(&pid);
                self.living.remove(&pid);
            }
            if holds(self) {
                return true;
            }
            if time::now().instant >= deadline {
                return false;
            }
            if let Ok(pause) = Timespec::try_from(LOOK_INTERVAL) {
                poll(&mut [], Some(&pause)).unwrap_or_default();
            }
        }
    }
}

/// The folders of the stages that are in a job's folder.
fn stages(job: &Path) -> impl Iterator<Item = Folder> {
    let entries = fs::read_dir(job).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| Folder::at(entry.path()))
}

/// Whether this process lives and keeps that stage: another one may have its number by now.
fn is_keeper_of(pid: i32, folder: &Path) -> bool {
    processes::stat(pid).is_some_and(|stat| !stat.has_ended()) && processes::is_keeper(pid, folder)
}

/// It may be gone in this moment, which is as wanted.
fn signal(pid: i32, signal: Signal) {
    processes::signal_each([pid], signal).map(drop).unwrap_or_default();
}
