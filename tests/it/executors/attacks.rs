//! What a hostile job tries on a real engine: to be the helper of later jobs, to run an image that is not allowed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use flotilla::config::environment::Environment;
use flotilla::detached::Exit;
use flotilla::executors::{CleanUp, Helpers};
use flotilla::job::failure::FailureReason;
use serde_json::json;

use super::agents::HELPER;
use super::bench::{Bench, stage, static_helpers};
use crate::harness::{run, text};

const QUIET: &str = "image=\"flotilla-test/busybox\"\npull_policy=\"if-not-present\"\nnetwork_mode=\"host\"";

/// Where the helper is in containers.
const PROGRAM: &str = ".flotilla/bin/flotilla-helper";

/// A helper with content of its own: the engine's volume with it is nobody else's.
struct OwnHelper {
    folder: tempfile::TempDir,
    volume: String,
}

impl OwnHelper {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut program = fs::read(static_helpers().folder.join("flotilla-helper")).expect("the helper");
        program.extend_from_slice(&rand::random::<[u8; 16]>());
        fs::write(folder.path().join("flotilla-helper"), program).expect("a file");
        let volume =
            helpers(folder.path()).for_architecture(std::env::consts::ARCH).await.expect("a helper").name.clone();
        Self { folder, volume }
    }

    fn bench(&self, lines: &str) -> Bench {
        Bench::new("docker-autoscaler", lines, helpers(self.folder.path()))
    }
}

impl Drop for OwnHelper {
    fn drop(&mut self) {
        run("docker", &["volume", "rm", "-f", &self.volume]);
    }
}

fn helpers(folder: &Path) -> Helpers {
    Helpers::new(HELPER.into(), folder.to_owned(), Environment::default())
}

/// An image of one static shell with further files.
struct Image(String);

impl Image {
    fn with_file(path: &str, content: &[u8]) -> Self {
        Self::of(path, content, None, 0)
    }

    /// All of the image is this user's.
    fn of(path: &str, content: &[u8], link: Option<(&str, &str)>, owner: u32) -> Self {
        let name = format!("flotilla-attack/{:016x}", rand::random::<u64>());
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, content).expect("a file");
        fs::create_dir_all(root.path().join("bin")).expect("a folder");
        let busybox = text(&Command::new("sh").args(["-c", "command -v busybox"]).output().expect("a shell").stdout);
        fs::copy(busybox.trim(), root.path().join("bin/busybox")).expect("a copy");
        for applet in ["sh", "cat", "chmod", "id", "mv", "rm", "mkdir", "truncate", "sleep", "kill"] {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(applet)).expect("a link");
        }
        if let Some((link, target)) = link {
            std::os::unix::fs::symlink(target, root.path().join(link)).expect("a link");
        }
        fs::create_dir_all(root.path().join("home")).expect("a folder");
        let owner = [format!("--owner={owner}"), format!("--group={owner}")];
        let archive = ["-C", root.path().to_str().expect("text"), "--mode=a+rx", &owner[0], &owner[1], "-c", "."];
        let mut tar = Command::new("tar").args(archive).stdout(Stdio::piped()).spawn().expect("tar");
        let imported = Command::new("docker")
            .args(["import", "-c", "ENV PATH=/bin", "-", &name])
            .stdin(tar.stdout.take().expect("a pipe"))
            .stdout(Stdio::null())
            .status();
        assert!(imported.expect("docker").success() && tar.wait().expect("tar").success());
        Self(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        Command::new("docker").args(["rmi", "-f", &self.0]).output().ok();
    }
}

/// The volume's program as the engine has it.
fn program_in(volume: &str) -> Vec<u8> {
    let mount = format!("{volume}:/v:ro");
    let read = Command::new("docker")
        .args(["run", "--rm", "--network", "none", "-v", &mount, "flotilla-test/busybox", "cat", "/v/flotilla-helper"])
        .output();
    read.expect("docker").stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn program_in_a_jobs_image_is_never_the_helper_of_later_jobs() {
    let helper = OwnHelper::new().await;
    let image = Image::with_file(PROGRAM, b"#!/bin/sh\necho the attacker's\n");
    let bench = helper.bench(QUIET);
    let mut environment = bench.prepare(json!({"image": {"name": image.0}})).await.unwrap();
    assert_eq!(stage(&mut environment, "step_script", "id -u").await.unwrap(), Exit::Code(0));
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    let ours = fs::read(helper.folder.path().join("flotilla-helper")).unwrap();
    assert!(program_in(&helper.volume) == ours, "the volume holds another program");
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_that_an_earlier_job_has_filled_is_replaced_by_the_next_manager() {
    let helper = OwnHelper::new().await;
    let forge = "printf forged > /v/flotilla-helper; chmod 755 /v/flotilla-helper";
    let mount = format!("{}:/v", helper.volume);
    run("docker", &["run", "--rm", "--network", "none", "-v", &mount, "flotilla-test/busybox", "sh", "-c", forge]);
    let bench = helper.bench(QUIET);
    let mut environment = bench.prepare(json!({})).await.unwrap();
    assert_eq!(stage(&mut environment, "step_script", "true").await.unwrap(), Exit::Code(0));
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    assert!(program_in(&helper.volume) == fs::read(helper.folder.path().join("flotilla-helper")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_own_program_in_our_programs_place_is_never_roots() {
    let ids = tempfile::tempdir().unwrap();
    fs::set_permissions(ids.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Our folder is made in a folder of the user's, who moves it away with the volume in it.
    let entrypoint = "mv /home/ours /home/was && mkdir -p /home/ours/bin && cat /imposter > /home/ours/bin/flotilla-helper \
        && chmod 755 /home/ours/bin/flotilla-helper && exec \"$@\"";
    let imposter = b"#!/bin/sh\nid -u >> /ids/users\nexec /home/was/bin/flotilla-helper \"$@\"\n";
    let made = Image::of("imposter", imposter, Some((".flotilla", "/home/ours")), 1000);
    let lines = format!("{QUIET}\nuser = \"1000\"\nvolumes = [\"{}:/ids\"]", ids.path().display());
    let bench = Bench::new("docker-autoscaler", &lines, static_helpers());
    let image = json!({"name": made.0, "entrypoint": ["/bin/sh", "-c", entrypoint, "sh"]});
    let mut environment = bench.prepare(json!({"image": image})).await.unwrap();
    for name in ["prepare_script", "get_sources", "step_script", "archive_cache", "cleanup_file_variables"] {
        bench.machine.cut();
        let exit = stage(&mut environment, name, "id -u >> /ids/users").await.unwrap();
        assert_eq!(exit, Exit::Code(0), "{name}: {}", text(&bench.trace.stderr()));
    }
    assert_eq!(environment.cleanup().await, CleanUp::Done);
    let users = fs::read_to_string(ids.path().join("users")).unwrap();
    assert!(users.lines().count() >= 8, "agents by exec are the image's own program: {users}");
    assert!(users.lines().all(|user| user == "1000"), "{users}");
}

#[tokio::test(flavor = "multi_thread")]
async fn image_name_that_leads_to_another_image_is_refused() {
    let check = async |lines: &str, name: &str| {
        let bench = Bench::new("docker-autoscaler", lines, static_helpers());
        let fault = bench.prepare(json!({"image": {"name": name}})).await.unwrap_err();
        assert_eq!(fault.reason(), FailureReason::ImagePullFailure, "{name}: {fault:?}");
        assert!(fault.message.contains("invalid image name"), "{name}: {fault:?}");
    };
    let allowed = format!("{QUIET}\nallowed_images=[\"ok.example/team/**\", \"ruby:*\"]");
    let privileged = format!("{QUIET}\nprivileged=true\nallowed_privileged_images=[\"ok.example/**\"]");
    for name in [
        "ok.example/team/../../../images/flotilla-test/busybox:latest",
        "ruby:x\\..\\..\\images\\flotilla-test\\busybox:latest",
        "ok.example/team/%2e%2e/%2e%2e/flotilla-test/busybox",
        "ok.example/team/x?fromImage=flotilla-test/busybox",
        "ok.example/team/x#/../../flotilla-test/busybox",
    ] {
        check(&allowed, name).await;
        check(&privileged, name).await;
    }
}
