//! Jobs of ordinary users: they never become root, and find what earlier jobs of root left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use flotilla::sandbox::{JobStatus, SandboxJob};
use serde_json::json;

use crate::harness::git_server::GitServer;
use crate::harness::rig::{Rig, Setup};
use crate::harness::run;

const GIT_IMAGE: &str = "flotilla-test/git";

/// A folder that the instance mounts as `/ids`, where whatever the job smuggles in says who runs it.
struct Ids(tempfile::TempDir);

impl Ids {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("flotilla-ids-").tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A program that notes its user under `note` and goes on.
    fn program(&self, path: &str, note: &str, rest: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        // Nothing of the job's environment reaches the commands that take the note.
        fs::write(&path, format!("#!/bin/busybox sh\n{}\n{rest}\n", take_note(note))).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// A library that notes the user of each program that loads it.
    fn library(&self) {
        let source = self.path().join("preload.c");
        let text = "#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n\
            __attribute__((constructor)) static void note(void) {\n\
            int f = open(\"/ids/preload.note\", O_WRONLY | O_CREAT | O_APPEND, 0666);\n\
            dprintf(f, \"%d\\n\", (int)geteuid()); close(f); }\n";
        fs::write(&source, text).expect("a source");
        let library = self.path().join("preload.so");
        run("cc", &["-shared", "-fPIC", "-o", library.to_str().expect("text"), source.to_str().expect("text")]);
    }

    /// The users that were noted under a name.
    fn noted(&self, note: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path().join(format!("{note}.note"))).unwrap_or_default();
        let mut users: Vec<String> = text.lines().map(str::to_owned).collect();
        users.sort();
        users.dedup();
        users
    }
}

fn take_note(note: &str) -> String {
    format!("/bin/busybox id -u >> /ids/{note}.note; /bin/busybox chmod 666 /ids/{note}.note 2>/dev/null || :")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_job_of_a_user_brings_along_runs_as_root() {
    let server = GitServer::start().await;
    let ids = Ids::new();
    for (program, note) in [("bin/git", "path"), ("bin/rm", "path-rm"), ("bin/mkdir", "path-mkdir")] {
        let real = program.trim_start_matches("bin/");
        ids.program(program, note, &format!("PATH=/usr/local/bin:/usr/bin:/bin; exec {real} \"$@\""));
    }
    ids.program("bash-env", "bash-env", "");
    ids.program("env", "env", "");
    ids.program("ssh", "ssh", "exit 1");
    ids.program("fsmonitor", "fsmonitor", "exit 1");
    ids.program("hooks/post-checkout", "hook", "");
    ids.library();
    let volume = format!("volumes = [\"{}:/ids\"]", ids.path().display());
    let from_operator = format!("{volume}\nuser = \"1000\"");
    let from_job = format!("{volume}\nallowed_users = [\"1000\"]");
    for (docker, image) in [
        (from_operator, json!({"name": GIT_IMAGE})),
        (from_job, json!({"name": GIT_IMAGE, "executor_opts": {"docker": {"user": "1000"}}})),
    ] {
        let rig = Rig::boot(Setup { docker: &docker, image: GIT_IMAGE, ..Setup::of("docker-autoscaler") }).await;
        let fetch_by_ssh = "git ls-remote ssh://git@127.0.0.1/x.git || true";
        let pre_get_sources = [take_note("pre-get-sources"), fetch_by_ssh.to_owned()];
        let job = SandboxJob::new("hostile", &["git status", &take_note("script")])
            .git(&server.url(), "main", &server.head())
            .cache("main-1", &["README.md"])
            .artifacts(&["README.md"], "on_success")
            .variable("PATH", "/ids/bin:/usr/local/bin:/usr/bin:/bin")
            .variable("BASH_ENV", "/ids/bash-env")
            .variable("ENV", "/ids/env")
            .variable("LD_PRELOAD", "/ids/preload.so")
            .variable("GIT_SSH_COMMAND", "/ids/ssh")
            .variable("GIT_CONFIG_COUNT", "2")
            .variable("GIT_CONFIG_KEY_0", "core.fsmonitor")
            .variable("GIT_CONFIG_VALUE_0", "/ids/fsmonitor")
            .variable("GIT_CONFIG_KEY_1", "core.hooksPath")
            .variable("GIT_CONFIG_VALUE_1", "/ids/hooks")
            .with(|payload| {
                payload["image"] = image;
                payload["hooks"] = json!([
                    {"name": "pre_get_sources_script", "script": pre_get_sources},
                    {"name": "post_get_sources_script", "script": [take_note("post-get-sources")]},
                ]);
            });
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        for note in [
            "script",
            "pre-get-sources",
            "post-get-sources",
            "path",
            "path-rm",
            "path-mkdir",
            "bash-env",
            "ssh",
            "fsmonitor",
            "hook",
            "preload",
        ] {
            assert_eq!(ids.noted(note), ["1000"], "{note}\n{trace}");
        }
        rig.leaves_nothing();
        for entry in fs::read_dir(ids.path()).expect("the folder").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "note") {
                fs::remove_file(entry.path()).expect("a note");
            }
        }
    }
}

fn job_of(user: &str, server: &GitServer, script: &[&str]) -> SandboxJob {
    let image = json!({"name": GIT_IMAGE, "executor_opts": {"docker": {"user": user}}});
    SandboxJob::new("build", script).git(&server.url(), "main", &server.head()).with(|payload| payload["image"] = image)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_left_in_a_volume_is_the_next_users() {
    let server = GitServer::start().await;
    let rig = Rig::boot(Setup { image: GIT_IMAGE, ..Setup::of("docker-autoscaler") }).await;
    let leave = "mkdir -m 755 left-behind && echo x > left-behind/x && chmod 644 left-behind/x README.md .git/config";
    let (report, trace) = rig.run(job_of("", &server, &["id -u", leave])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    let write = ["echo mine >> README.md", "git config job.key value", "stat -c 'owner %u:%g' . .git README.md"];
    let (report, trace) = rig.run(job_of("1000", &server, &write)).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains("Removing left-behind/"), "{trace}");
    assert_eq!(trace.matches(" owner 1000:1000\n").count(), 3, "{trace}");

    // A job of the same user that has become root, as with sudo.
    let label = format!("label=com.gitlab.gitlab-runner.runner.id={}", rig.short_token());
    let volumes = run("docker", &["volume", "ls", "-q", "--filter", &label]);
    let builds = volumes.trim();
    let leave = "cd /v/*/*/.git/.. && mkdir -m 755 roots && echo x > roots/x";
    run("docker", &["run", "--rm", "--network", "none", "-v", &format!("{builds}:/v"), GIT_IMAGE, "sh", "-c", leave]);
    let (report, trace) = rig.run(job_of("1000", &server, &["ls"])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(trace.contains("getting the sources again") && trace.contains("Removing roots/"), "{trace}");
    rig.leaves_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_folder_of_roots_serves_a_user_and_nothing_beside_the_jobs_folders_changes() {
    let server = GitServer::start().await;
    let builds = tempfile::Builder::new().prefix("flotilla-builds-").tempdir().expect("a folder");
    fs::set_permissions(builds.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::write(builds.path().join("others"), "x").expect("a file");
    let docker = format!("volumes = [\"{}:/builds\"]", builds.path().display());
    let rig = Rig::boot(Setup { docker: &docker, image: GIT_IMAGE, ..Setup::of("docker-autoscaler") }).await;
    for strategy in ["fetch", "clone", "fetch"] {
        let job = job_of("1000:1000", &server, &["touch here"]).variable("GIT_STRATEGY", strategy);
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
    }
    let owners = Command::new("stat").args(["-c", "%u"]).arg(builds.path()).arg(builds.path().join("others")).output();
    assert_eq!(owners.expect("stat").stdout, b"0\n0\n");
    rig.leaves_nothing();
}
