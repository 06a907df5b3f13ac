//! The connector against OpenSSH, and against peers that misbehave.

mod peers;
mod sshd;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::*;
use crate::config::resolved::StaticHost;
use crate::error_chain::Chain;
use crate::fleeting::access::*;
use crate::fleeting::host_keys::{HostKey, HostKeys};
use crate::ids::InstanceId;
use crate::time;
use sshd::Sshd;

fn elapsed(since: Instant) -> Duration {
    time::now().instant - since
}

async fn run(instance: &Instance, line: &str) -> Output {
    instance.run(Command::new(line)).await.unwrap()
}

/// Waits for a fact about other processes.
pub(crate) async fn eventually(fact: impl Fn() -> bool) {
    let waiting = async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_command_has_its_streams_and_its_exit_status() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let output = instance.run(Command::new("cat; echo err >&2; exit 7").stdin("in")).await.unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("in", "err\n"));
    assert_eq!(output.status, ExitStatus::Code(7));
    assert_eq!(run(&instance, "kill -TERM $$").await.status, ExitStatus::Signal("TERM".to_owned()));
    assert_eq!(run(&instance, "exit 255").await.status, ExitStatus::Code(255));
    let silent = Command::new("exec sleep 60").timeout(Duration::from_millis(300));
    assert!(matches!(instance.run(silent).await, Err(ExecError::TimedOut { .. })));
    let loud = Command::new("head -c 3000000 /dev/zero");
    assert!(matches!(instance.run(loud.clone()).await, Err(ExecError::TooLong { .. })));
    assert_eq!(instance.run(loud.tail_only()).await.unwrap().stdout.len(), 2048);
}

#[tokio::test]
async fn a_stream_to_a_command_goes_both_ways_and_ends_with_its_status() {
    let sshd = Sshd::start("");
    let mut stream = sshd.instance().stream("cat; echo oops >&2; exit 3").await.unwrap();
    let mut echoed = [0; 4];
    for _ in 0..3 {
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"ping");
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut echoed).await.unwrap(), 0);
    assert_eq!(stream.exit().await.unwrap(), ExitStatus::Code(3));
    assert_eq!(stream.stderr_tail(), "oops\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_users_at_once_stay_below_the_limits_of_sshd() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let mut users = JoinSet::new();
    for n in 0..60 {
        let instance = instance.clone();
        users.spawn(async move { run(&instance, &format!("sleep 0.3; echo {n}")).await });
    }
    for _ in 0..20 {
        let instance = instance.clone();
        users.spawn(async move {
            let docker = instance.docker(DockerEndpoint::default()).await.unwrap();
            assert!(!docker.is_lost());
            run(&instance, "true").await
        });
    }
    let mut done = 0;
    while let Some(output) = users.join_next().await {
        assert!(output.unwrap().status.success());
        done += 1;
    }
    assert_eq!(done, 80);
    let connections = instance.pooled_connections();
    assert!((2..=11).contains(&connections), "{connections} connections for 80 commands");
    // A session may outlive its channel for a moment, so "no more sessions" can happen; nobody was to notice it.
    let log = sshd.log();
    assert!(!log.contains("MaxStartups"), "{log}");
}

#[tokio::test]
async fn a_lower_limit_of_sessions_is_found_out() {
    let sshd = Sshd::start("MaxSessions 3");
    let instance = sshd.instance();
    let mut users = JoinSet::new();
    for _ in 0..12 {
        let instance = instance.clone();
        users.spawn(async move { run(&instance, "sleep 0.5").await.status });
    }
    assert_eq!(users.join_all().await, vec![ExitStatus::Code(0); 12]);
}

#[tokio::test]
async fn connections_are_used_again() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    for _ in 0..20 {
        run(&instance, "true").await;
    }
    assert_eq!(instance.pooled_connections(), 1);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_stops_no_other_channel() {
    const SIZE: usize = 50_000_000;
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let mut slow = instance.stream(&format!("head -c {SIZE} /dev/zero; exec sleep 60")).await.unwrap();
    let mut quickest = Duration::MAX;
    for _ in 0..30 {
        let started = time::now().instant;
        assert_eq!(text(&run(&instance, "echo here").await.stdout), "here\n");
        quickest = quickest.min(elapsed(started));
    }
    assert_eq!(instance.pooled_connections(), 1, "both are on the same connection");
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    let mut buffer = vec![1; 1 << 20];
    let mut read = 0;
    while read < SIZE {
        let count = slow.read(&mut buffer).await.unwrap();
        assert!(count > 0 && buffer.iter().take(count).all(|byte| *byte == 0), "after {read}");
        read += count;
    }
    assert_eq!(read, SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_never_read_fails_alone() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let mut process = instance.exec("echo $$; exec cat /dev/zero").await.unwrap();
    let mut other = instance.stream("cat").await.unwrap();
    let Some(Chunk::Stdout(pid)) = process.output.next().await else { panic!("no pid") };
    let pid = text(&pid).lines().next().unwrap().to_owned();
    // The command ends when its channel is closed.
    eventually(|| !fs::exists(format!("/proc/{pid}")).unwrap()).await;
    let ended = process.output.exit().await;
    assert!(matches!(ended, Err(ExecError::Overrun { .. })), "{ended:?}");
    let mut echoed = [0; 2];
    other.write_all(b"ok").await.unwrap();
    other.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ok");
}

#[tokio::test]
async fn a_connection_that_is_killed_is_lost_and_not_at_its_end() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let mut process = instance.exec("echo $PPID; exec sleep 60").await.unwrap();
    let Some(Chunk::Stdout(pid)) = process.output.next().await else { panic!("no pid") };
    run_locally(&["kill", "-KILL", text(&pid).trim()]);
    assert_eq!(process.output.next().await, None);
    let error = process.output.exit().await.unwrap_err();
    assert!(error.is_lost(), "{error}");
    assert!(run(&instance, "true").await.status.success(), "the next command gets a new connection");
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_dead_after_two_missed_keepalives() {
    let mut sshd = Sshd::start("");
    sshd.settings.keepalive = Duration::from_millis(200);
    let instance = sshd.instance();
    let mut stream = instance.stream("echo $PPID; exec sleep 60").await.unwrap();
    let mut pid = String::new();
    while !pid.ends_with('\n') {
        pid.push(char::from(stream.read_u8().await.unwrap()));
    }
    run_locally(&["kill", "-STOP", pid.trim()]);
    let stopped = time::now().instant;
    let error = stream.read_u8().await.unwrap_err();
    run_locally(&["kill", "-KILL", pid.trim()]);
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("no answer to keepalives"), "{error}");
    assert!(elapsed(stopped) < Duration::from_secs(3), "{:?}", elapsed(stopped));
}

#[tokio::test]
async fn a_writer_that_waits_for_a_dead_connection_is_woken() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let mut process = instance.exec("echo $PPID; exec sleep 60").await.unwrap();
    let Some(Chunk::Stdout(pid)) = process.output.next().await else { panic!("no pid") };
    let mut stdin = process.stdin;
    let writing = JoinSet::from_iter([async move { stdin.write_all(&vec![0; 32 << 20]).await }]);
    run_locally(&["kill", "-KILL", text(&pid).trim()]);
    assert!(writing.join_all().await.pop().unwrap().is_err());
}

#[tokio::test]
async fn another_host_key_is_refused_at_once() {
    let sshd = Sshd::start("");
    let other = sshd.other_key("other_host_key");
    let id = InstanceId::new("host");
    let instance = sshd.instance_with(HostKeys::preloaded([(id.clone(), HostKey::new(&other))]));
    let started = time::now().instant;
    let error = instance.run(Command::new("true")).await.unwrap_err();
    assert!(matches!(error, ExecError::Dial(DialError::HostKeyChanged { .. })), "{error:?}");
    assert!(!error.is_lost() && elapsed(started) < Duration::from_secs(3));

    let host_keys = HostKeys::default();
    let instance = sshd.instance_with(host_keys.clone());
    run(&instance, "true").await;
    let own = fs::read_to_string(sshd.folder.path().join("host_key")).unwrap();
    let own = russh::keys::PrivateKey::from_openssh(&own).unwrap().public_key().to_openssh().unwrap();
    assert_eq!(host_keys.take_new(), [(id, HostKey::new(&own))]);
}

#[tokio::test]
async fn a_host_whose_key_is_pinned_is_reached_under_no_other_key() {
    let sshd = Sshd::start("");
    let own = fs::read_to_string(sshd.folder.path().join("host_key")).unwrap();
    let own = russh::keys::PrivateKey::from_openssh(&own).unwrap().public_key().to_openssh().unwrap();
    let other = sshd.other_key("other_host_key");
    let pinned = |key: &str| StaticHost { host_key: Some(key.parse().unwrap()), ..sshd.host() };
    let id = InstanceId::new("host");

    // The pinned key counts, whatever was met before.
    let met = HostKeys::preloaded([(id.clone(), HostKey::new(&other))]);
    let instance = sshd::instance(pinned(&own), sshd.settings, met.clone());
    run(&instance, "true").await;
    assert_eq!(met.take_new(), [(id, HostKey::new(&own))]);

    let instance = sshd::instance(pinned(&other), sshd.settings, HostKeys::default());
    let error = instance.run(Command::new("true")).await.unwrap_err();
    let ExecError::Dial(error @ DialError::HostKeyUnexpected { .. }) = error else { panic!("{error:?}") };
    assert!(!error.is_retryable(), "{error:?}");
    let shown = Chain(&error).to_string();
    let expected = [HostKey::new(&own).fingerprint(), HostKey::new(&other).fingerprint(), "host_key".to_owned()];
    assert!(expected.iter().all(|part| shown.contains(part)), "{shown}");
    assert!(!sshd.log().contains("session opened"));
}

#[tokio::test]
async fn a_server_with_several_keys_presents_the_pinned_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rsa");
    run_locally(&["ssh-keygen", "-q", "-N", "", "-t", "rsa", "-f", path.to_str().unwrap()]);
    let sshd = Sshd::start(&format!("HostKey {}", path.display()));
    let rsa = fs::read_to_string(path.with_extension("pub")).unwrap();
    let host = StaticHost { host_key: Some(rsa.parse().unwrap()), ..sshd.host() };
    run(&sshd::instance(host, sshd.settings, HostKeys::default()), "true").await;
    // A key that was met first is asked for again.
    let met = HostKeys::preloaded([(InstanceId::new("host"), HostKey::new(&rsa))]);
    run(&sshd.instance_with(met), "true").await;
}

#[tokio::test]
async fn a_refused_login_is_retried_while_the_instance_may_still_be_booting_and_never_later() {
    let mut sshd = Sshd::start("");
    let authorized = sshd.folder.path().join("authorized_keys");
    let right = fs::read(&authorized).unwrap();
    fs::write(&authorized, "").unwrap();
    sshd.settings.timeout = Duration::from_secs(3);
    let error = sshd.instance().ready(&Readiness::default()).await.unwrap_err();
    let ReadyError::Dial(error @ DialError::GaveUp { attempts, .. }) = error else { panic!("{error:?}") };
    assert!(attempts > 1 && error.is_refused() && !error.is_dead(), "{}", Chain(&error));
    assert!(Chain(&error).to_string().ends_with(&format!("refused the login of {} (tried: key)", sshd.username)));

    sshd.settings.timeout = Duration::from_secs(20);
    let instance = sshd.instance();
    let becomes_ready = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fs::write(&authorized, &right).unwrap();
    };
    let readiness = Readiness::default();
    let (ready, ()) = tokio::join!(instance.ready(&readiness), becomes_ready);
    ready.unwrap();

    fs::write(&authorized, "").unwrap();
    let error = instance.docker(DockerEndpoint::default()).await.unwrap_err();
    assert!(matches!(error, DialError::LoginRefused { .. }), "{error:?}");
}

#[tokio::test]
async fn changed_settings_count_from_the_next_dial_and_open_connections_stay() {
    let sshd = Sshd::start("");
    // Nobody listens there.
    let host = StaticHost { external_addr: Some("127.0.0.1:1".to_owned()), ..sshd.host() };
    let external = Settings { use_external_addr: true, timeout: Duration::from_millis(300), ..sshd.settings };
    let instance = sshd::instance(host, external, HostKeys::default());
    let error = instance.ready(&Readiness::default()).await.unwrap_err();
    assert!(matches!(error, ReadyError::Dial(DialError::GaveUp { .. })), "{error:?}");
    instance.reconfigure(sshd.settings);
    assert_eq!(instance.settings(), sshd.settings);
    instance.ready(&Readiness::default()).await.unwrap();
    run(&instance, "true").await;
    instance.reconfigure(external);
    run(&instance, "true").await;
    assert_eq!(instance.pooled_connections(), 1);
}

#[tokio::test]
async fn keys_of_every_kind_and_form_log_in() {
    let sshd = Sshd::start("");
    let authorized = sshd.folder.path().join("authorized_keys");
    for (kind, form) in [("rsa", "RFC4716"), ("rsa", "PEM"), ("rsa", "PKCS8"), ("ecdsa", "PKCS8"), ("ecdsa", "RFC4716")]
    {
        let path = sshd.folder.path().join(format!("{kind}-{form}"));
        run_locally(&["ssh-keygen", "-q", "-N", "", "-t", kind, "-m", form, "-f", path.to_str().unwrap()]);
        fs::copy(path.with_extension("pub"), &authorized).unwrap();
        let host = StaticHost { key_path: Some(path), ..sshd.host() };
        let instance = sshd::instance(host, sshd.settings, HostKeys::default());
        assert!(run(&instance, "true").await.status.success(), "{kind} {form}");
    }
}

#[tokio::test]
async fn a_new_channel_waits_for_no_delayed_acknowledgement() {
    let sshd = Sshd::start("");
    let path = sshd.folder.path().join("socket");
    let _server = shouting(UnixListener::bind(&path).unwrap());
    let docker = sshd.instance().docker(DockerEndpoint::default()).await.unwrap();
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let started = time::now().instant;
        let mut stream = docker.forward_unix(path.to_str().unwrap()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        quickest = quickest.min(elapsed(started));
    }
    // Without TCP_QUICKACK each takes 46 ms.
    assert!(quickest < Duration::from_millis(20), "{quickest:?}");
}

#[tokio::test]
async fn a_file_is_uploaded_whole_or_not_at_all() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let path = sshd.folder.path().join("it's a file");
    let content = Bytes::from((0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    instance.upload(path.to_str().unwrap(), 0o750, content.clone()).await.unwrap();
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o750);
    let before: Vec<_> = fs::read_dir(sshd.folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!before.iter().any(|name| name.to_string_lossy().contains(".part")), "{before:?}");
    let missing = sshd.folder.path().join("no/such/folder/x");
    let error = instance.upload(missing.to_str().unwrap(), 0o644, content).await.unwrap_err();
    assert!(matches!(&error, ExecError::Failed { stderr, .. } if stderr.contains("no/such/folder")), "{error}");
}

/// Answers each connection with what it was sent, in capitals.
fn shouting(listener: UnixListener) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut said = Vec::new();
            socket.read_to_end(&mut said).await.unwrap();
            socket.write_all(&said.to_ascii_uppercase()).await.unwrap();
        }
    });
    tasks
}

#[tokio::test]
async fn a_unix_socket_is_forwarded_with_half_closes() {
    let sshd = Sshd::start("");
    let path = sshd.folder.path().join("socket");
    let _server = shouting(UnixListener::bind(&path).unwrap());
    let docker = sshd.instance().docker(DockerEndpoint::default()).await.unwrap();
    for size in [5, 1_000_000] {
        let mut stream = docker.forward_unix(path.to_str().unwrap()).await.unwrap();
        stream.write_all(&vec![b'a'; size]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert!(heard == vec![b'A'; size]);
    }
    let missing = sshd.folder.path().join("missing");
    let error = docker.forward_unix(missing.to_str().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("does not exist; is the Docker Engine installed and running?"), "{error}");
}

/// Installs a `docker` with this script.
fn install_docker(folder: &Path, script: &str) {
    let program = folder.join("docker");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn where_sockets_are_not_forwarded_dial_stdio_is_used() {
    let programs = tempfile::tempdir().unwrap();
    let variables = format!("PATH={}:/usr/bin:/bin", programs.path().display());
    let sshd = Sshd::start_with(&variables, "AllowStreamLocalForwarding no");
    let socket = sshd.folder.path().join("engine");
    let _listener = UnixListener::bind(&socket).unwrap();
    let endpoint = DockerEndpoint { host: Some(format!("unix://{}", socket.display())), transport: Transport::Auto };
    let instance = sshd.instance();
    let docker = instance.docker(endpoint.clone()).await.unwrap();

    install_docker(programs.path(), "echo no engine here >&2; exit 1");
    let error = docker.open().await.unwrap_err().to_string();
    assert!(error.contains("AllowStreamLocalForwarding") && error.ends_with("either: no engine here"), "{error}");

    let expected = format!("-H unix://{} system dial-stdio", socket.display());
    let answers = "read -r request; printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK'";
    install_docker(programs.path(), &format!("[ \"$*\" = '{expected}' ] || exit 9; {answers}"));
    assert_eq!(docker.ping().await.unwrap(), Ok(()));
    let second = instance.docker(endpoint.clone()).await.unwrap();
    assert_eq!(second.ping().await.unwrap(), Ok(()));
    let readiness = Readiness { command: Some("true".to_owned()), docker: Some(endpoint.clone()) };
    instance.ready(&readiness).await.unwrap();

    let forward = DockerEndpoint { transport: Transport::Forward, ..endpoint };
    assert!(instance.docker(forward).await.unwrap().open().await.is_err(), "an explicit choice has no fallback");
}

#[tokio::test]
async fn an_engine_that_was_not_up_yet_is_forwarded_to_by_the_next_connection() {
    let programs = tempfile::tempdir().unwrap();
    let variables = format!("PATH={}:/usr/bin:/bin", programs.path().display());
    let sshd = Sshd::start_with(&variables, "");
    let socket = sshd.folder.path().join("engine");
    let endpoint = DockerEndpoint { host: Some(format!("unix://{}", socket.display())), transport: Transport::Auto };
    let instance = sshd.instance();
    let answers = "read -r request; printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK'";
    install_docker(programs.path(), answers);
    assert_eq!(instance.docker(endpoint.clone()).await.unwrap().ping().await.unwrap(), Ok(()));

    let _server = shouting(UnixListener::bind(&socket).unwrap());
    install_docker(programs.path(), "exit 1");
    let mut stream = instance.docker(endpoint).await.unwrap().open().await.unwrap();
    stream.write_all(b"forwarded").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"FORWARDED");
}

#[tokio::test]
async fn a_ready_command_that_fails_says_so() {
    let sshd = Sshd::start("");
    let readiness = Readiness { command: Some("echo no disk >&2; exit 4".to_owned()), docker: None };
    let error = sshd.instance().ready(&readiness).await.unwrap_err();
    let said = Chain(&error).to_string();
    assert_eq!(said, "ready command: the command ended with exit status 4: no disk");
}

#[tokio::test]
async fn a_live_instance_answers_and_one_that_is_gone_fails_at_once() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    instance.liveness().await.unwrap();
    let mut stream = instance.stream("exec sleep 60").await.unwrap();
    let docker = instance.docker(DockerEndpoint::default()).await.unwrap();
    instance.mark_gone();
    docker.lost().await;
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let error = instance.liveness().await.unwrap_err();
    assert!(matches!(error, ExecError::Dial(DialError::Gone { .. })), "{error:?}");
}

#[tokio::test]
async fn connections_that_died_unnoticed_cost_no_command() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    instance.liveness().await.unwrap();
    for lane in [Lane::Pool, Lane::Control] {
        let output = instance.run(Command::new("echo $PPID").on(lane)).await.unwrap();
        let pid = text(&output.stdout).trim().to_owned();
        run_locally(&["kill", "-KILL", &pid]);
        assert!(instance.run(Command::new("true").on(lane)).await.unwrap().status.success());
    }
    instance.liveness().await.unwrap();
}

#[tokio::test]
async fn dropping_a_stream_gives_its_place_back_whether_the_command_ends_or_not() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let started = time::now().instant;
    for line in ["exec cat", "exec cat", "exec cat", "exec sleep 5"] {
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(instance.stream(line).await.unwrap());
        }
        assert_eq!(instance.commands_under_way(), 8);
        drop(streams);
        eventually(|| instance.commands_under_way() == 0).await;
    }
    assert_eq!(instance.pooled_connections(), 1);
    assert!(elapsed(started) < Duration::from_secs(5), "{:?}", elapsed(started));
    // Their sessions live on at the server, which soon refuses more; that costs another connection and no command.
    for _ in 0..4 {
        assert!(run(&instance, "true").await.status.success());
    }
}

#[tokio::test]
async fn a_connection_is_replaced_after_long_service() {
    let sshd = Sshd::start("");
    let instance = sshd.instance();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        instance.wear_out();
        seen.insert(run(&instance, "echo $PPID").await.stdout);
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(instance.pooled_connections(), 1);
}

fn run_locally(command: &[&str]) {
    let (program, arguments) = command.split_first().unwrap();
    assert!(std::process::Command::new(program).args(arguments).status().unwrap().success());
}
