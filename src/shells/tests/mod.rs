//! Scripts are run by real shells, with real git repositories.

mod helper_calls;
mod sources;
mod steps;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::gitlab::wire::JobPayload;
use crate::job::dirs::Roots;
use crate::job::failure::FailureReason;
use crate::job::payload::Job;
use crate::job::resolved::{Facts, TlsData};
use crate::secret::Secret;

/// Shells that may read a script, and the kind that is written for them. `sh` is also given to bash.
const SHELLS: [(&str, ShellKind); 3] = [("bash", ShellKind::Bash), ("dash", ShellKind::Sh), ("bash", ShellKind::Sh)];

/// A place for jobs: directories of its own and nothing of the user's.
struct Place {
    root: TempDir,
}

/// What a script left: its exit code and what it printed, both streams in order.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    text: String,
}

impl Ran {
    /// The lines without colours.
    fn lines(&self) -> Vec<String> {
        let mut plain = self.text.clone();
        for colour in ["\u{1b}[32;1m", "\u{1b}[0;33m", "\u{1b}[31;1m", "\u{1b}[0;m"] {
            plain = plain.replace(colour, "");
        }
        plain.lines().map(str::to_owned).collect()
    }
}

impl Place {
    fn new() -> Self {
        let place = Self { root: TempDir::new().expect("a directory") };
        fs::create_dir(place.path("home")).expect("a home");
        // Submodules of file URLs are off by default.
        fs::write(
            place.path("home/.gitconfig"),
            "[protocol \"file\"]\n\tallow = always\n[user]\n\tname = n\n\temail = e@x\n",
        )
        .expect("settings");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn context(&self, payload: Value, shell: ShellKind) -> ScriptContext {
        self.context_of(payload, shell, |_| ())
    }

    /// The context of a job; `change` adapts what the runner and the instance say.
    fn context_of(&self, fields: Value, shell: ShellKind, change: impl FnOnce(&mut Facts)) -> ScriptContext {
        let mut body = json!({
            "id": 42, "token": "64_job-token", "allow_git_fetch": true,
            "job_info": {"name": "test", "project_id": 7},
            "git_info": {"repo_url": "https://gitlab-ci-token:64_job-token@gitlab.example/g/p.git", "ref": "main", "sha": "0123456789abcdef"},
            "features": {"trace_sections": true},
        });
        if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) {
            body.extend(fields);
        }
        let job = Job::from_wire(JobPayload::from_value(&body).expect("a payload"), "instance").expect("a job");
        let mut facts = Facts {
            token: Secret::new("glrt-abcdefghijkl"),
            system_id: "s_0123456789ab".to_owned(),
            environment: vec![],
            feature_flags: BTreeMap::new(),
            debug_trace_disabled: false,
            roots: Roots {
                builds_dir: self.path("builds").to_string_lossy().into_owned(),
                cache_dir: self.path("cache").to_string_lossy().into_owned(),
                shared: false,
                custom_build_dir: true,
            },
            shared_environment: true,
            concurrent_id: 0,
            concurrent_project_id: 0,
            tls: TlsData::default(),
            version: "19.4.0".to_owned(),
            revision: "abc".to_owned(),
            executable_arch: "linux/amd64".to_owned(),
            secrets: vec![],
            slot_cgroup: None,
        };
        change(&mut facts);
        ScriptContext {
            job: Arc::new(ResolvedJob::resolve(Arc::new(job), &facts).expect("resolves")),
            shell,
            job_status: JobStatus::Running,
            runner: RunnerScript { url: "https://gitlab.example/".to_owned(), ..RunnerScript::default() },
            helper: "flotilla-helper".to_owned(),
            manager_host: "manager".to_owned(),
            correlation_id: "01KCORR".to_owned(),
            git_user_agent: "gitlab-runner 19.4.0 linux/amd64".to_owned(),
            shared_environment: facts.shared_environment,
            remote_caches: BTreeMap::new(),
            provenance: Provenance::default(),
        }
    }

    fn command(&self, shell: &str) -> Command {
        let mut command = Command::new(shell);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display());
        command.env_clear().env("PATH", path).env("HOME", self.path("home")).env("HOSTNAME", "here").current_dir("/");
        command
    }

    /// Runs a stage's script, given to the shell as a file.
    fn run_stage(&self, shell: &str, stage: &str, context: &ScriptContext) -> Ran {
        self.run(self.command(shell), &self.script(stage, context), true)
    }

    fn script(&self, stage: &str, context: &ScriptContext) -> String {
        let stage = Stage::from_id(stage).expect("a stage");
        script(&stage, context).expect("a script").expect("something to do").as_str().to_owned()
    }

    fn run(&self, mut command: Command, script: &str, as_file: bool) -> Ran {
        let file = self.path("script");
        let output = self.path("output");
        fs::write(&file, script).expect("a script");
        let both = fs::File::create(&output).expect("an output");
        if as_file {
            command.arg(&file).stdin(Stdio::null());
        } else {
            command.arg("-s").stdin(fs::File::open(&file).expect("the script"));
        }
        command.stdout(both.try_clone().expect("a handle")).stderr(both);
        let status = command.status().expect("a shell");
        Ran { code: status.code().unwrap_or(-1), text: fs::read_to_string(output).expect("an output") }
    }

    fn project(&self, context: &ScriptContext) -> PathBuf {
        PathBuf::from(&context.job.dirs.project_dir)
    }

    fn make_project(&self, context: &ScriptContext) {
        fs::create_dir_all(self.project(context)).expect("a project directory");
    }

    /// A program on the job's search path.
    fn install(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir_all(self.path("bin")).expect("bin");
        let file = self.path("bin").join(name);
        fs::write(&file, script).expect("a program");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    /// Git in a directory, for what tests prepare and look at.
    fn git(&self, directory: &Path, arguments: &[&str]) -> String {
        fs::create_dir_all(directory).expect("a directory");
        let output = self.command("git").args(arguments).current_dir(directory).output().expect("git");
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}
