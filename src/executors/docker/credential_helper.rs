//! Running one credential helper on the manager's host.
//!
//! The program is the operator's, its input may be a job's: it gets no more than one server's name, a bounded time
//! and room for a bounded answer. Nothing of a job's variables reaches its environment, and when it is stopped,
//! what it has started is stopped with it.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config::environment::Environment;
use crate::config::types::credential_helper::CredentialHelper;
use crate::excerpt::excerpt_of_bytes;

/// How long one helper may take. It may ask a cloud, which answers within seconds.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How much a helper may answer: a store with thousands of servers lists them in less.
const ANSWER_LIMIT: u64 = 1 << 20;

/// What a helper that a job has named gets of the manager's own environment: how to find programs, files, proxies and
/// certificates, and the services where a desktop's or a password manager's secrets are.
const PASSED_ON: [&str; 29] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "PASSWORD_STORE_DIR",
    "DOCKER_CONFIG",
    "GCE_METADATA_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
    "MSI_SECRET",
];

/// Beginnings of the names by which clouds configure their helpers; the last is for helpers of an operator's own.
const PASSED_ON_BEGINNINGS: [&str; 7] =
    ["AWS_", "AZURE_", "ACR_", "ECS_", "GOOGLE_", "CLOUDSDK_", "DOCKER_CREDENTIAL_"];

/// Who has named a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedBy {
    /// Its environment is the manager's, as with Docker's own client.
    Operator,
    Job,
}

/// Why a helper has given no answer. The words may contain secrets: they are for our own log, masked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it did not answer within {} s", TIME_LIMIT.as_secs())]
    Slow,
    #[error("its answer has more than {ANSWER_LIMIT} bytes")]
    TooMuch,
    #[error("it ended with {status}: {said}")]
    Failed { status: std::process::ExitStatus, said: String },
}

/// Runs the helper with `verb`, writes `input` to it and returns its answer.
pub(crate) async fn run(
    helper: &CredentialHelper,
    verb: &str,
    input: &str,
    named_by: NamedBy,
    environment: &Environment,
) -> Result<Vec<u8>, RunError> {
    let mut child = Command::new(helper.program())
        .arg(verb)
        .env_clear()
        .envs(environment.variables().filter(|(name, _)| named_by == NamedBy::Operator || is_passed_on(name)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    // Dropped before the child, while its number cannot be another's yet.
    let mut group = Group::of(&child);
    let ended = timeout(TIME_LIMIT, converse(&mut child, input)).await;
    let (answer, status) = ended.map_err(|_| RunError::Slow)??;
    group.0 = None;
    if status.success() { Ok(answer) } else { Err(RunError::Failed { status, said: excerpt_of_bytes(&answer) }) }
}

fn is_passed_on(name: &str) -> bool {
    PASSED_ON.contains(&name) || PASSED_ON_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

async fn converse(child: &mut Child, input: &str) -> Result<(Vec<u8>, std::process::ExitStatus), RunError> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let written = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        match stdin.write_all(input.as_bytes()).await {
            // It need not read what it does not want to know.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    };
    let read = async {
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(ANSWER_LIMIT + 1).read_to_end(&mut answer).await?;
        }
        if answer.len() as u64 > ANSWER_LIMIT { Err(RunError::TooMuch) } else { Ok(answer) }
    };
    let ((), answer) = tokio::try_join!(written, read)?;
    Ok((answer, child.wait().await?))
}

/// The process group of a helper that has not been waited for: it is killed where the helper is given up.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    /// Helpers that are small scripts, on a search path of their own.
    pub(crate) struct Scripts(tempfile::TempDir);

    impl Scripts {
        pub(crate) fn new(scripts: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, script) in scripts {
                let path = folder.path().join(format!("docker-credential-{name}"));
                let folder = folder.path().display();
                fs::write(&path, format!("#!/bin/sh\ncd {folder}\n{script}\n")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self(folder)
        }

        /// A file that a script has written.
        pub(crate) fn file(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        pub(crate) fn environment(&self) -> Environment {
            let path = format!("{}:/usr/bin:/bin", self.0.path().display());
            Environment::from_iter([
                ("PATH", path.as_str()),
                ("HOME", self.0.path().to_str().unwrap()),
                ("AWS_PROFILE", "ci"),
                ("GITLAB_ADMIN_TOKEN", "hunter2"),
            ])
        }

        async fn run(&self, name: &str, input: &str, named_by: NamedBy) -> Result<Vec<u8>, RunError> {
            run(&name.parse().unwrap(), "get", input, named_by, &self.environment()).await
        }
    }

    #[tokio::test]
    async fn helper_that_a_job_names_gets_little_of_the_managers_environment() {
        let scripts = Scripts::new(&[("env", "env")]);
        for (named_by, has_all) in [(NamedBy::Job, false), (NamedBy::Operator, true)] {
            let said = String::from_utf8(scripts.run("env", "", named_by).await.unwrap()).unwrap();
            assert!(said.contains("AWS_PROFILE=ci") && said.contains("HOME="), "{said}");
            assert_eq!(said.contains("hunter2"), has_all, "{said}");
        }
    }

    #[tokio::test]
    async fn helper_that_reads_nothing_is_no_failure() {
        let scripts = Scripts::new(&[("deaf", "exec <&-; echo answer")]);
        let answer = scripts.run("deaf", &"x".repeat(1 << 20), NamedBy::Job).await.unwrap();
        assert_eq!(answer, b"answer\n");
    }

    #[tokio::test]
    async fn helper_that_prints_without_end_is_stopped() {
        let scripts = Scripts::new(&[("endless", "echo $$ >pid; yes")]);
        let error = scripts.run("endless", "", NamedBy::Job).await.unwrap_err();
        assert!(matches!(error, RunError::TooMuch), "{error}");
        ends(&scripts).await;
    }

    #[tokio::test]
    async fn helper_that_hangs_is_stopped_with_what_it_has_started() {
        let scripts = Scripts::new(&[("hangs", "sleep 1000 & echo $! >pid; mv pid started; wait")]);
        let started = scripts.file("started");
        let pending = scripts.run("hangs", "", NamedBy::Job);
        let mut pending = std::pin::pin!(pending);
        while !started.exists() {
            assert!(timeout(Duration::from_millis(10), &mut pending).await.is_err());
        }
        fs::rename(&started, scripts.file("pid")).unwrap();
        tokio::time::pause();
        let error = pending.await.unwrap_err();
        tokio::time::resume();
        assert!(matches!(error, RunError::Slow), "{error}");
        ends(&scripts).await;
    }

    /// The process whose number is in the file `pid` runs no more.
    async fn ends(scripts: &Scripts) {
        let pid = fs::read_to_string(scripts.file("pid")).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        let runs = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let ended = async {
            while runs() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), ended).await.expect("the process runs on");
    }

    #[tokio::test]
    async fn words_of_a_failed_helper_are_kept_for_the_log() {
        let scripts = Scripts::new(&[("fails", "echo no such thing; exit 3")]);
        let error = scripts.run("fails", "", NamedBy::Job).await.unwrap_err();
        assert_eq!(error.to_string(), "it ended with exit status: 3: no such thing");
        assert!(matches!(scripts.run("absent", "", NamedBy::Job).await.unwrap_err(), RunError::Io(_)));
    }
}
