//! Secrets are on no disk in clear and in no log, while a job runs and after it.

use std::fs;
use std::path::Path;

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::harness::local::LocalRig;
use crate::harness::{contains, finish, shows};

const SECRET: &str = "correct-horse-battery-staple";

/// Files below a folder, the kernel's own excepted, that contain one of these texts. Instances are left out: scripts
/// and variables have to be there while a job runs.
fn files_with(folder: &Path, secrets: &[&str], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() && !path.ends_with(".flotilla/local") {
            files_with(&path, secrets, found);
        } else if kind.is_file() && entry.file_name() != "config.toml" {
            let bytes = fs::read(&path).unwrap_or_default();
            found.extend(
                secrets
                    .iter()
                    .filter(|secret| contains(&bytes, secret))
                    .map(|secret| format!("{secret} in {}", path.display())),
            );
        }
    }
}

/// Files that the manager has open and that have no name any more.
fn unnamed_files_with(pid: u32, secrets: &[&str], found: &mut Vec<String>) {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the manager runs").flatten() {
        let is_unnamed = fs::read_link(entry.path()).is_ok_and(|name| name.to_string_lossy().ends_with(" (deleted)"));
        if is_unnamed && let Ok(bytes) = fs::read(entry.path()) {
            found.extend(
                secrets
                    .iter()
                    .filter(|secret| contains(&bytes, secret))
                    .map(|secret| format!("{secret} in {}", entry.path().display())),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_job_are_in_no_file_of_the_manager_and_in_no_log() {
    let rig = LocalRig::start("log_level = \"debug\"\nlisten_address = \"127.0.0.1:0\"", "").await;
    let release = rig.manager.folder().join("release");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", release.display());
    // Enough output that the trace leaves memory.
    let token_file = tempfile::NamedTempFile::new().expect("a file");
    let token_line = format!("printf %s \"$CI_JOB_TOKEN\" > {}", token_file.path().display());
    let script = [
        &token_line,
        "echo \"it is $PASSWORD\"",
        "head -c 2000000 /dev/zero | tr '\\0' x | fold -w 100",
        "echo started",
        &wait,
    ];
    let job = rig.enqueue(SandboxJob::new("secretive", &script).masked("PASSWORD", SECRET));
    shows(&job, "started\n").await;
    let look = || {
        let token = fs::read_to_string(token_file.path()).expect("the job's token");
        assert!(token.len() > 10, "{token:?}");
        let secrets = [SECRET, token.as_str(), flotilla::sandbox::RUNNER_TOKEN];
        let mut found = Vec::new();
        files_with(rig.manager.folder(), &secrets, &mut found);
        unnamed_files_with(rig.manager.pid(), &secrets, &mut found);
        assert_eq!(found, Vec::<String>::new());
    };
    look();
    fs::write(&release, "").expect("a file");
    let (report, trace) = finish(&job).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains("it is [MASKED]"), "{}", trace.chars().take(2_000).collect::<String>());
    look();
}
