//! Stages that run detached: the one mechanism under every executor.
//!
//! A stage of a job is started by an *agent* (`flotilla-helper agent`) on the instance or inside the
//! job's container, and from then on belongs to a *keeper* (`flotilla-helper keep`), a process in a
//! session of its own that outlives agent, connection and manager. The keeper appends the output to a
//! file of [`records`]; any agent can follow that file from any byte position. So the connection is
//! not the job: whoever knows a [`StageHandle`] goes on where the last follower stopped, without
//! losing or repeating a byte.
//!
//! The stage's folder is the fence of promise G2. It is made with `mkdir` before anything starts, and
//! where it exists the stage is never started again.
//!
//! - [`wire`]: the frames between manager and agent, shared by both sides.
//! - [`records`]: how stdout and stderr lie in the output file.
//! - [`session`]: the manager's side of one agent stream.
//!
//! This module knows no SSH and no Docker: a session runs over any byte stream.

pub mod records;
#[cfg(feature = "manager")]
pub mod session;
pub mod wire;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::InstanceId;

/// The exit status of `flotilla-helper own` where it has changed an owner.
pub const OWNER_CHANGED: u8 = 3;

/// The name of one attempt at one stage of one job, and of its folder below the agent's root:
/// `job/stage-attempt`. Each part holds only letters that need no care in a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageFolder {
    job: String,
    stage: String,
    attempt: u32,
}

impl StageFolder {
    /// `job` must be unique to one acceptance of one job, or a later job would meet its fence.
    pub fn new(job: &str, stage: &str, attempt: u32) -> Self {
        Self { job: path_safe(job), stage: path_safe(stage), attempt }
    }

    /// The folder that holds all stages of the job.
    pub fn job(&self) -> &str {
        &self.job
    }

    pub fn stage(&self) -> &str {
        &self.stage
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl fmt::Display for StageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.job, self.stage, self.attempt)
    }
}

/// Turns any text into one path component: other bytes than letters, digits, `_` and `-` become
/// `.` and two hex digits, so different names stay different.
pub fn path_safe(name: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut safe = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            safe.push(char::from(byte));
        } else {
            safe.push('.');
            safe.push(char::from(HEX[usize::from(byte >> 4)]));
            safe.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    safe
}

/// Where the agent of a stage can be reached again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    /// On the instance itself; `root` is the folder of all jobs, as the agent is given it.
    Instance { root: String },
    /// In a container of the instance's engine.
    Container { id: String },
}

/// All that is needed to find a running stage again and go on with its output: small, and written to
/// the journal as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageHandle {
    pub instance: InstanceId,
    pub place: Place,
    pub folder: StageFolder,
    /// What of its output has been delivered.
    pub position: records::Position,
}

/// How a stage's shell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The code as a shell would show it: 128 and the signal's number for a killed one. A signal's number that no
    /// kernel has, as a hostile agent may send it, counts as the nearest one.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal.clamp(1, 127),
        }
    }

    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// What a stage's `exit` file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The shell ran and ended.
    Exited(Exit),
    /// The shell could not be started, or its output could not be kept.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_stay_one_component_and_stay_different() {
        let check = |stage: &str, shown: &str| assert_eq!(StageFolder::new("7-abc", stage, 0).to_string(), shown);
        check("step_script", "7-abc/step_script-0");
        check("../../etc", "7-abc/.2e.2e.2f.2e.2e.2fetc-0");
        check("step_ü", "7-abc/step_.c3.bc-0");
        assert_ne!(path_safe("a.b"), path_safe("a/b"));
    }

    #[test]
    fn handle_survives_the_journal() {
        let handle = StageHandle {
            instance: InstanceId::new("i-1"),
            place: Place::Container { id: "c0ffee".to_owned() },
            folder: StageFolder::new("7", "step_script", 1),
            position: records::Position { record: 4096, skip: 17 },
        };
        let text = serde_json::to_string(&handle).unwrap();
        assert_eq!(serde_json::from_str::<StageHandle>(&text).unwrap(), handle);
        assert!(text.len() < 256, "{text}");
    }

    #[test]
    fn killed_shell_has_the_code_a_shell_would_show() {
        assert_eq!(Exit::Signal(9).code(), 137);
        assert_eq!(Exit::Code(7).code(), 7);
        assert!(Exit::Code(0).is_success() && !Exit::Signal(15).is_success());
    }

    #[test]
    fn every_number_of_an_agent_has_a_code_and_no_signal_is_a_success() {
        let check = |sent: &str, code: i32| {
            let Ending::Exited(exit) = serde_json::from_str(sent).unwrap() else { panic!("{sent}") };
            assert_eq!((exit.code(), exit.is_success()), (code, false), "{sent}");
        };
        check(r#"{"exited":{"signal":2147483647}}"#, 255);
        check(r#"{"exited":{"signal":2147483520}}"#, 255);
        check(r#"{"exited":{"signal":-2147483648}}"#, 129);
        check(r#"{"exited":{"signal":-128}}"#, 129);
        check(r#"{"exited":{"code":2147483647}}"#, i32::MAX);
        check(r#"{"exited":{"code":-2147483648}}"#, i32::MIN);
        for beyond in ["2147483648", "-2147483649", "1e400", "1.5", "null", "\"9\""] {
            serde_json::from_str::<Ending>(&format!(r#"{{"exited":{{"signal":{beyond}}}}}"#)).unwrap_err();
        }
    }
}
