//! Stages in real shells, through real agents and keepers.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flotilla::detached::records::Position;
use flotilla::detached::session::{Event, Session};
use flotilla::detached::wire::{self, Answer, Request};
use flotilla::detached::{Exit, StageFolder};
use flotilla::executors::follow::{AgentLink, RemoveError, Task};
use flotilla::job::failure::{FailureReason, Fault, FaultClass};
use tokio_util::sync::CancellationToken;

use super::agents::{AgentProcess, BreakingAgents, Recorded, start};

/// Takes most of a second, prints what is no UTF-8, and fails.
pub(crate) const SLOW_AND_INVALID: &str = "for j in 1 2 3 4 5 6 7 8; do for i in $(seq 100); do printf 'line %s \\377\\300\\n' $i; done; sleep 0.1; done; exit 3";

/// Runs one stage over streams that break after so many bytes each. The result, the trace, the streams used.
async fn run(root: &Path, script: &str, breaks: &[usize]) -> (Result<Exit, Fault>, Recorded, usize) {
    let opened = Arc::new(AtomicUsize::new(0));
    let dialer = BreakingAgents { root: root.to_owned(), breaks: breaks.to_vec(), opened: Arc::clone(&opened) };
    let mut link = AgentLink::new(dialer, None, Duration::from_secs(15));
    let trace = Recorded::default();
    let result = link.run(Task::Start(start(script)), &trace, &CancellationToken::new(), &mut |_| ()).await;
    (result, trace, opened.load(Ordering::SeqCst))
}

#[tokio::test]
async fn output_and_exit_code_arrive_as_the_script_made_them() {
    let root = tempfile::tempdir().unwrap();
    let (exit, trace, _) = run(root.path(), "echo out; printf 'e\\377r' >&2; cat; exit 7", &[]).await;
    assert_eq!(exit.unwrap(), Exit::Code(7));
    assert_eq!(trace.stdout(), b"out\n");
    assert_eq!(trace.stderr(), b"e\xffr");
}

#[tokio::test]
async fn broken_streams_lose_and_repeat_nothing() {
    let script = "for i in $(seq 400); do printf 'line %s \\377\\300\\n' $i; done; sleep 0.3; \
                  for i in $(seq 400); do printf 'more %s \\376\\n' $i; done; exit 3";
    let undisturbed = tempfile::tempdir().unwrap();
    let (exit, expected, streams) = run(undisturbed.path(), script, &[]).await;
    assert_eq!((exit.unwrap(), streams), (Exit::Code(3), 1));
    for first in [400, 1000, 5000] {
        let root = tempfile::tempdir().unwrap();
        let (exit, trace, streams) = run(root.path(), script, &[first, first + 333, 777, 2000, 900]).await;
        assert_eq!(exit.unwrap(), Exit::Code(3));
        assert!(streams >= 2, "{streams}");
        assert!(trace.stdout() == expected.stdout(), "the trace of a disturbed run differs");
    }
}

#[tokio::test]
async fn stage_starts_once_however_often_it_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let count = root.path().join("count");
    let script = format!("echo x >> {}; sleep 0.2", count.display());
    // The streams break after the agent's introduction, in the middle of its answer to the start.
    let broken = introduction(root.path()).await + 8;
    let (exit, _, streams) = run(root.path(), &script, &[broken, broken, broken]).await;
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!(streams, 4);
    assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n");
}

#[tokio::test]
async fn foreign_fence_is_an_error_and_runs_nothing() {
    let root = tempfile::tempdir().unwrap();
    run(root.path(), "true", &[]).await.0.unwrap();
    let (result, _, _) = run(root.path(), "echo again", &[]).await;
    assert!(result.unwrap_err().message.contains("started before"));
}

#[tokio::test]
async fn cancel_ends_all_processes_also_those_that_left_the_group() {
    let root = tempfile::tempdir().unwrap();
    let dialer = BreakingAgents { root: root.path().to_owned(), breaks: vec![], opened: Arc::default() };
    let mut link = AgentLink::new(dialer, None, Duration::from_secs(15));
    let trace = Recorded::default();
    let cancel = CancellationToken::new();
    let marker = format!("31{}", std::process::id());
    // The shell is told before its children: otherwise it would go on after `wait`, to a good end.
    let script = format!("trap 'exit 1' TERM; setsid sleep {marker} & sleep {marker} & echo ready; wait");
    let stopper = async {
        until(|| trace.stdout() == b"ready\n").await;
        cancel.cancel();
    };
    let mut progress = |_| ();
    let (exit, ()) = tokio::join!(link.run(Task::Start(start(&script)), &trace, &cancel, &mut progress), stopper);
    assert_eq!(exit.unwrap(), Exit::Code(1));
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn background_processes_end_with_the_shell() {
    let root = tempfile::tempdir().unwrap();
    let marker = format!("32{}", std::process::id());
    let (exit, _, _) =
        run(root.path(), &format!("(setsid sleep {marker} >/dev/null 2>&1 &); sleep {marker} & true"), &[]).await;
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn killed_shell_is_told_by_its_signal() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(run(root.path(), "kill -KILL $$", &[]).await.0.unwrap(), Exit::Signal(9));
}

#[tokio::test]
async fn killed_keeper_is_noticed_within_seconds_and_leaves_no_shell() {
    let root = tempfile::tempdir().unwrap();
    let marker = format!("35{}", std::process::id());
    let started = flotilla::time::now().instant;
    let script = format!("echo before; sleep 0.5; kill -KILL $PPID; sleep {marker}");
    let (result, trace, _) = run(root.path(), &script, &[]).await;
    let fault = result.unwrap_err();
    assert!(fault.message.contains("keeper was killed"));
    // The script's own doing: nothing that would cost the instance.
    assert_eq!(fault.class, FaultClass::Reason(FailureReason::RunnerSystemFailure));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(trace.stdout(), b"before\n");
    until(|| processes_with(&marker) == 0).await;
}

#[tokio::test]
async fn shell_that_is_not_there_fails_the_stage() {
    let root = tempfile::tempdir().unwrap();
    let dialer = BreakingAgents { root: root.path().to_owned(), breaks: vec![], opened: Arc::default() };
    let mut link = AgentLink::new(dialer, None, Duration::from_secs(15));
    let mut start = start("true");
    start.shell = vec!["/no/such/shell".to_owned()];
    let cancel = CancellationToken::new();
    let trace = Recorded::default();
    let exit = link.run(Task::Start(start), &trace, &cancel, &mut |_| ()).await.unwrap();
    assert_eq!(exit, Exit::Code(127), "as a shell says it of a command that is not there");
    let said = String::from_utf8(trace.stderr()).unwrap();
    assert!(said.contains("/no/such/shell"), "{said}");
}

#[tokio::test]
async fn stage_outlives_its_agent_and_is_resumed_by_its_handle() {
    let root = tempfile::tempdir().unwrap();
    let folder = StageFolder::new("job", "step_script", 0);
    let mut delivered = Position::default();
    let trace = Recorded::default();
    {
        let mut session =
            Session::open(Box::pin(AgentProcess::spawn(root.path(), usize::MAX)), &mut |_| ()).await.unwrap();
        let mut start = start("echo one; sleep 0.5; echo two");
        start.id = session.next_id();
        let follow = Request::Follow { id: start.id, folder: folder.clone(), from: 0 };
        session.send(&[Request::Start(start), follow]).await.unwrap();
        let mut decoder = flotilla::detached::records::Decoder::new(delivered);
        while trace.stdout() != b"one\n" {
            if let Event::Output { bytes, .. } = session.next().await.unwrap() {
                use flotilla::executors::JobTrace as _;
                decoder.decode(&bytes, |stream, bytes| trace.output(stream, bytes)).unwrap();
                delivered = decoder.delivered();
            }
        }
    }
    let dialer = BreakingAgents { root: root.path().to_owned(), breaks: vec![], opened: Arc::default() };
    let mut link = AgentLink::new(dialer, None, Duration::from_secs(15));
    let exit = link.run(Task::Resume(folder, delivered), &trace, &CancellationToken::new(), &mut |_| ()).await;
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!(trace.stdout(), b"one\ntwo\n");
}

#[tokio::test]
async fn removed_job_leaves_neither_files_nor_processes() {
    let root = tempfile::tempdir().unwrap();
    let marker = format!("33{}", std::process::id());
    let mut session = Session::open(Box::pin(AgentProcess::spawn(root.path(), usize::MAX)), &mut |_| ()).await.unwrap();
    let mut start = start(&format!("trap '' TERM; echo ready; sleep {marker}"));
    start.id = session.next_id();
    let folder = start.folder.clone();
    let follow = Request::Follow { id: start.id, folder, from: 0 };
    session.send(&[Request::Start(start), follow]).await.unwrap();
    while !matches!(session.next().await.unwrap(), Event::Output { .. }) {}
    session.send(&[Request::Remove { id: 9, job: "job".to_owned() }]).await.unwrap();
    while !matches!(session.next().await.unwrap(), Event::Answer(Answer::Removed { id: 9 })) {}
    assert_eq!(processes_with(&marker), 0);
    assert!(!root.path().join("job").exists());
}

#[tokio::test]
async fn stop_right_after_the_start_is_not_lost() {
    let root = tempfile::tempdir().unwrap();
    let mut session = Session::open(Box::pin(AgentProcess::spawn(root.path(), usize::MAX)), &mut |_| ()).await.unwrap();
    for attempt in 0..20 {
        let mut start = start("sleep 60");
        start.id = session.next_id();
        start.folder = StageFolder::new("job", "step_script", attempt);
        let (id, folder) = (start.id, start.folder.clone());
        let follow = Request::Follow { id, folder: folder.clone(), from: 0 };
        session.send(&[Request::Start(start), Request::Stop { folder, grace_ms: 0 }, follow]).await.unwrap();
        let ended = async { while !matches!(session.next().await.unwrap(), Event::Answer(Answer::Exited { .. })) {} };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the stage is stopped");
    }
}

#[tokio::test]
async fn removal_that_fails_is_not_called_done() {
    let root = tempfile::tempdir().unwrap();
    // A mount point cannot be deleted.
    let job = root.path().join("job");
    std::fs::create_dir(&job).unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&job).status();
    assert!(mounted.unwrap().success());
    let dialer = BreakingAgents { root: root.path().to_owned(), breaks: vec![], opened: Arc::default() };
    let mut link = AgentLink::new(dialer, None, Duration::from_secs(15));
    let session = link.session().await.unwrap();
    link.give_back(session);
    link.remove("none").await.unwrap();
    let removed = link.remove("job").await;
    assert!(std::process::Command::new("umount").arg(&job).status().unwrap().success());
    assert!(matches!(removed, Err(RemoveError::Refused(_))), "{removed:?}");
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let root = tempfile::tempdir().unwrap();
    let (exit, trace, _) =
        run(root.path(), "head -c 20000000 /dev/zero; head -c 1000000 /dev/zero >&2", &[5_000_000]).await;
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!((trace.stdout().len(), trace.stderr().len()), (20_000_000, 1_000_000));
}

#[tokio::test]
async fn an_agent_without_notifications_looks_ever_more_rarely_at_a_silent_stage() {
    let root = tempfile::tempdir().unwrap();
    let agent = AgentProcess::spawn_unnotified(root.path());
    let status = format!("/proc/{}/status", agent.pid());
    let wakes = || -> u32 {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    let session = Session::open(Box::pin(agent), &mut |_| ()).await.unwrap();
    let dialer = BreakingAgents { root: root.path().to_owned(), breaks: vec![], opened: Arc::default() };
    let mut link = AgentLink::new(dialer, Some(session), Duration::from_secs(15));
    let trace = Recorded::default();
    let before = wakes();
    let script = start("echo one; sleep 3; echo two; exit 3");
    let exit = link.run(Task::Start(script), &trace, &CancellationToken::new(), &mut |_| ()).await;
    let wakes = wakes() - before;
    assert_eq!((exit.unwrap(), trace.stdout()), (Exit::Code(3), b"one\ntwo\n".to_vec()));
    assert!((10..100).contains(&wakes), "{wakes}; every 4 ms they would be 750");
}

#[tokio::test]
async fn delivered_output_leaves_the_disk_of_the_instance() {
    const MUCH: usize = 100 << 20;
    let root = tempfile::tempdir().unwrap();
    let script = format!("head -c {MUCH} /dev/zero | tr '\\0' x; echo end");
    // A stream that breaks has another go on where nothing is released yet.
    let (exit, trace, streams) = run(root.path(), &script, &[30 << 20, 1 << 20]).await;
    assert_eq!((exit.unwrap(), streams), (Exit::Code(0), 3));
    let stdout = trace.stdout();
    let (printed, end) = stdout.split_at(MUCH);
    assert!(printed.iter().all(|byte| *byte == b'x') && end == b"end\n", "the trace is not what was printed");
    let output = root.path().join("job/step_script-0/output");
    let room = || std::fs::metadata(&output).unwrap().blocks() * 512;
    until(|| room() < 8 << 20).await;
    assert!(std::fs::metadata(&output).unwrap().len() > MUCH as u64, "positions stay");
    let dialer = BreakingAgents { root: root.path().to_owned(), breaks: vec![], opened: Arc::default() };
    let mut link = AgentLink::new(dialer, None, Duration::from_secs(15));
    let again = Task::Resume(StageFolder::new("job", "step_script", 0), Position::default());
    let fault = link.run(again, &trace, &CancellationToken::new(), &mut |_| ()).await.unwrap_err();
    assert!(fault.message.contains("was delivered and is gone"), "{}", fault.message);
}

/// How many bytes an agent says before it is asked anything.
async fn introduction(root: &Path) -> usize {
    let session = Session::open(Box::pin(AgentProcess::spawn(root, usize::MAX)), &mut |_| ()).await.expect("works");
    let mut frame = bytes::BytesMut::new();
    wire::put_answer(&mut frame, &Answer::Hello(session.hello().clone())).expect("works");
    wire::MAGIC.len() + frame.len()
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not become true");
}

/// Processes with this word in their command line.
pub(crate) fn processes_with(word: &str) -> usize {
    let commands = std::fs::read_dir("/proc").expect("works").flatten();
    let commands = commands.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())).count()
}
