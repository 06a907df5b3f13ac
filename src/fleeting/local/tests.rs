//! Local instances as real processes: this test binary serves as their executable.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::process::{ProcessIdentity, stat};
use super::record::{Folder, Record};
use super::*;
use crate::config::resolved::{ConnectorConfig, LocalGroup as GroupSettings};
use crate::fleeting::access::{DockerEndpoint, Readiness, Settings};
use crate::fleeting::connector::tests::eventually;
use crate::fleeting::connector::{Chunk, Command, ExitStatus, Instance};
use crate::fleeting::group::{GroupError, InstanceGroup, InstanceState, Ownership};
use crate::fleeting::host_keys::HostKeys;
use crate::ids::InstanceId;

/// Kills what a test that failed has left behind; those that passed have left nothing.
struct Root {
    folder: TempDir,
    executable: PathBuf,
}

impl Drop for Root {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if let Some(record) = Folder::new(entry.path()).record() {
                drop(record.process.signal(Signal::KILL));
            }
        }
    }
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let executable = folder.path().join("flotilla");
        let own = std::env::current_exe().unwrap();
        // The harness takes no arguments of ours: they go through a file in the instance's folder.
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > arguments\n\
             exec '{}' --ignored --exact --nocapture fleeting::local::tests::is_an_instance\n",
            own.display()
        );
        fs::write(&executable, script).unwrap();
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, executable }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("instances")
    }

    async fn group(&self, settings: GroupSettings) -> Arc<LocalGroup> {
        let place = Place { root: self.path(), executable: self.executable.clone() };
        let group = LocalGroup::new(&settings, place).with_docker_socket(self.folder.path().join("engine"));
        group.init().await.unwrap();
        Arc::new(group)
    }
}

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    LocalInstance(ServeArgs),
}

#[tokio::test]
#[ignore = "not a test but the process that the tests here start"]
async fn is_an_instance() {
    let arguments = fs::read_to_string("arguments").unwrap();
    let arguments = std::iter::once("flotilla").chain(arguments.lines());
    let Subcommand::LocalInstance(args) = Arguments::parse_from(arguments).command;
    serve(args).await.unwrap();
}

async fn listed(group: &LocalGroup) -> Vec<(InstanceId, InstanceState)> {
    group.update().await.unwrap().instances
}

/// Lists until the instances are as wanted.
async fn until(group: &LocalGroup, wanted: impl Fn(&[(InstanceId, InstanceState)]) -> bool) -> Vec<InstanceId> {
    let waiting = async {
        loop {
            let listed = listed(group).await;
            if wanted(&listed) {
                return listed.into_iter().map(|(id, _)| id).collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap()
}

async fn until_running(group: &LocalGroup, count: usize) -> Vec<InstanceId> {
    until(group, |listed| listed.len() == count && listed.iter().all(|(_, state)| *state == InstanceState::Running))
        .await
}

fn connect(group: &Arc<LocalGroup>, id: &InstanceId) -> Instance {
    let group: Arc<dyn InstanceGroup> = Arc::clone(group) as Arc<dyn InstanceGroup>;
    Instance::new(id.clone(), group, Settings::from(&ConnectorConfig::default()), HostKeys::default())
}

async fn delete_all(group: &LocalGroup) {
    let ids: Vec<_> = listed(group).await.into_iter().map(|(id, _)| id).collect();
    let decreased = group.decrease(&ids).await;
    assert!(decreased.error.is_none() && decreased.succeeded == ids);
    until(group, <[_]>::is_empty).await;
}

fn is_running(pid: i32) -> bool {
    stat(pid).is_ok_and(|stat| !stat.ended)
}

async fn stdout(instance: &Instance, line: &str) -> String {
    let output = instance.run(Command::new(line)).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_group_grows_and_shrinks_and_leaves_nothing() {
    let root = Root::new();
    let group = root.group(GroupSettings { max_size: Some(3), ..GroupSettings::default() }).await;
    assert_eq!(group.ownership().await.unwrap(), Ownership::Ours);
    let increased = group.increase(2).await;
    assert_eq!((increased.succeeded, increased.error.is_some()), (2, false));
    let ids = until_running(&group, 2).await;
    let increased = group.increase(2).await;
    assert_eq!(increased.succeeded, 1);
    assert!(matches!(increased.error, Some(GroupError::Full { max: 3 })));
    until_running(&group, 3).await;
    assert_eq!(group.update().await.unwrap().target_size, Some(3));

    let decreased = group.decrease(&[ids[0].clone(), InstanceId::new("local-unknown")]).await;
    assert_eq!(decreased.succeeded.len(), 2, "one that is not there counts as deleted");
    until_running(&group, 2).await;
    delete_all(&group).await;
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["key"]);
}

/// An instance's folder as its process leaves it.
fn leave(root: &Root, name: &str, process: ProcessIdentity) -> Folder {
    let folder = Folder::new(root.path().join(name));
    folder.create().unwrap();
    let (id, address) = (InstanceId::new(name), Some("127.0.0.1:1".to_owned()));
    let record = Record { id, process, username: "ci".to_owned(), address, host_key: String::new() };
    folder.write_record(&record).unwrap();
    folder
}

#[tokio::test]
async fn who_only_looks_at_a_group_ends_no_process_and_removes_no_folder() {
    let root = Root::new();
    let group =
        LocalGroup::new(&GroupSettings::default(), Place { root: root.path(), executable: root.executable.clone() });
    assert_eq!(group.look().await.unwrap().1.instances, []);
    assert!(!root.path().exists(), "not even the group's folder is made");

    group.init().await.unwrap();
    let process = || tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let identity =
        |process: &tokio::process::Child| ProcessIdentity::of(i32::try_from(process.id().unwrap()).unwrap()).unwrap();
    let (mut dead, mut leaving) = (process(), process());
    let dead_folder = leave(&root, "local-dead", identity(&dead));
    let leaving_folder = leave(&root, "local-leaving", identity(&leaving));
    dead.kill().await.unwrap();
    fs::write(leaving_folder.path().join("deleting"), "").unwrap();

    let states = [
        (InstanceId::new("local-dead"), InstanceState::Deleted),
        (InstanceId::new("local-leaving"), InstanceState::Deleting),
    ];
    let (info, listing) = group.look().await.unwrap();
    assert_eq!((info, listing.target_size), (group.init().await.unwrap(), Some(0)));
    assert_eq!(listing.instances, states);
    assert!(dead_folder.path().exists() && leaving.try_wait().unwrap().is_none());
    assert_eq!(listed(&group).await, states, "the manager sees the same, and acts");
    assert!(!dead_folder.path().exists());
    leaving.wait().await.unwrap();
}

#[tokio::test]
async fn an_instance_runs_commands_as_a_machine_of_its_own() {
    let root = Root::new();
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let instance = connect(&group, &id);
    instance.ready(&Readiness { command: Some("test -d ~".to_owned()), docker: None }).await.unwrap();
    let home = root.path().join(id.as_str()).join("home");
    assert_eq!(stdout(&instance, "pwd; echo $HOME").await, format!("{0}\n{0}", home.display()));
    assert_eq!(stdout(&instance, "env | grep -c CARGO || true").await, "0", "nothing of our environment");

    let output = instance.run(Command::new("cat; echo err >&2; exit 7").stdin("in")).await.unwrap();
    assert_eq!(
        (output.status, &output.stdout[..], &output.stderr[..]),
        (ExitStatus::Code(7), &b"in"[..], &b"err\n"[..])
    );
    let killed = instance.run(Command::new("kill -KILL $$")).await.unwrap();
    assert_eq!(killed.status, ExitStatus::Signal("KILL".to_owned()));
    assert_eq!(instance.run(Command::new("kill -55 $$")).await.unwrap().status, ExitStatus::Signal("55".to_owned()));
    instance.upload("~/file", 0o640, vec![b'x'; 5_000_000].into()).await.unwrap();
    assert_eq!(stdout(&instance, "stat -c '%s %a' file").await, "5000000 640");
    assert_eq!(stdout(&instance, "head -c 1000000 /dev/zero | wc -c").await, "1000000");
    delete_all(&group).await;
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_stops_no_other() {
    let root = Root::new();
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let instance = connect(&group, &id);
    let mut deaf = instance.exec("exec sleep 60").await.unwrap();
    deaf.stdin.write_all(&vec![0; 20 << 20]).await.unwrap();
    assert_eq!(stdout(&instance, "echo here").await, "here");
    assert_eq!(instance.pooled_connections(), 1, "both are on the same connection");
    delete_all(&group).await;
}

#[tokio::test]
async fn closing_a_channel_takes_the_streams_and_not_the_life() {
    let root = Root::new();
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let instance = connect(&group, &id);
    let mut process = instance.exec("echo up; cat >/dev/null; echo ended > ended").await.unwrap();
    assert!(process.output.next().await.is_some());
    drop(process);
    let ended = root.path().join(id.as_str()).join("home/ended");
    eventually(|| ended.exists()).await;
    delete_all(&group).await;
}

#[tokio::test]
async fn an_instance_outlives_its_manager_and_takes_all_its_processes_with_it() {
    let root = Root::new();
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let instance = connect(&group, &id);
    let line = "setsid sh -c 'trap \"\" TERM; echo $$ > pid; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 & \
                env -i setsid sleep 300 </dev/null >/dev/null 2>&1 & while ! test -s pid; do :; done; cat pid; echo $!";
    let pids: Vec<i32> = stdout(&instance, line).await.lines().map(|pid| pid.parse().unwrap()).collect();
    drop(instance);
    drop(group);

    // A manager that starts anew knows only the folder.
    let group = root.group(GroupSettings::default()).await;
    assert_eq!(until_running(&group, 1).await, std::slice::from_ref(&id));
    assert!(pids.iter().all(|pid| is_running(*pid)));
    assert_eq!(stdout(&connect(&group, &id), "cat pid").await, pids[0].to_string());
    delete_all(&group).await;
    assert!(!is_running(pids[0]), "one that ignores SIGTERM and has its own session is killed");
    // The other has neither the mark nor a parent that had it: it is out of reach.
    kill_process(Pid::from_raw(pids[1]).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn an_instance_that_is_killed_is_gone_and_its_processes_too() {
    let root = Root::new();
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let instance = connect(&group, &id);
    let mut process = instance.exec("echo $$; exec sleep 300").await.unwrap();
    let Some(Chunk::Stdout(pid)) = process.output.next().await else { panic!("no pid") };
    let pid: i32 = std::str::from_utf8(&pid).unwrap().trim().parse().unwrap();
    group.heartbeat(&id).await.unwrap();
    let server = Folder::new(root.path().join(id.as_str())).record().unwrap().process;
    server.signal(Signal::KILL).unwrap();
    // Its sockets close a moment before it is dead.
    eventually(|| !server.is_alive()).await;
    assert!(process.output.exit().await.unwrap_err().is_lost());
    assert!(group.heartbeat(&id).await.is_err());
    assert_eq!(listed(&group).await, [(id, InstanceState::Deleted)]);
    assert_eq!(listed(&group).await, []);
    eventually(|| !is_running(pid)).await;
}

#[tokio::test]
async fn an_instance_whose_folder_goes_ends_by_itself() {
    let root = Root::new();
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let folder = Folder::new(root.path().join(id.as_str()));
    let process = folder.record().unwrap().process;
    fs::remove_dir_all(folder.path()).unwrap();
    eventually(|| !process.is_alive()).await;
}

#[tokio::test]
async fn a_booting_instance_is_creating_and_can_be_deleted() {
    let root = Root::new();
    let group = root.group(GroupSettings { boot_time: Duration::from_secs(600), ..GroupSettings::default() }).await;
    group.increase(2).await;
    let listed = listed(&group).await;
    assert!(listed.len() == 2 && listed.iter().all(|(_, state)| *state == InstanceState::Creating), "{listed:?}");
    assert!(matches!(
        group.connect_info(&InstanceId::new("local-none")).await,
        Err(GroupError::UnknownInstance { .. })
    ));
    delete_all(&group).await;
}

#[tokio::test]
async fn only_the_docker_socket_is_forwarded() {
    let root = Root::new();
    let listener = UnixListener::bind(root.folder.path().join("engine")).unwrap();
    let mut engine = JoinSet::new();
    engine.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 19];
            socket.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"GET /_ping HTTP/1.1");
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK").await.unwrap();
        }
    });
    let group = root.group(GroupSettings::default()).await;
    group.increase(1).await;
    let id = until_running(&group, 1).await.remove(0);
    let instance = connect(&group, &id);
    let host =
        |path: &Path| DockerEndpoint { host: Some(format!("unix://{}", path.display())), ..DockerEndpoint::default() };
    let endpoint = host(&root.folder.path().join("engine"));
    instance.ready(&Readiness { command: None, docker: Some(endpoint.clone()) }).await.unwrap();
    let docker = instance.docker(endpoint).await.unwrap();
    assert_eq!(docker.ping().await.unwrap(), Ok(()));
    assert!(docker.forward_unix("/run/systemd/notify").await.is_err());
    delete_all(&group).await;
}

#[tokio::test]
async fn a_group_has_one_manager_at_a_time() {
    let root = Root::new();
    let (one, other) = (root.group(GroupSettings::default()).await, root.group(GroupSettings::default()).await);
    let minute = Duration::from_secs(60);
    let lease = one.acquire_lease("one", minute).await.unwrap();
    let refused = other.acquire_lease("other", minute).await;
    assert!(matches!(refused, Err(GroupError::LeaseHeld { holder }) if holder == "one"));
    one.renew_lease(&lease, minute).await.unwrap();
    one.release_lease(lease).await.unwrap();
    other.acquire_lease("other", minute).await.unwrap();
    drop(other);
    one.acquire_lease("one", minute).await.unwrap();
}

#[tokio::test]
async fn an_executable_that_is_missing_is_named_and_leaves_no_folder() {
    let mut root = Root::new();
    root.executable = "/nonexistent/flotilla".into();
    let group = root.group(GroupSettings::default()).await;
    let increased = group.increase(2).await;
    assert_eq!(increased.succeeded, 0);
    let error = increased.error.unwrap();
    assert!(crate::error_chain::Chain(&error).to_string().contains("starting /nonexistent/flotilla: No such file"));
    assert_eq!(listed(&group).await, []);
}
