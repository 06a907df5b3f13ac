//! What a stage printed and how it ended, read from a container that has stopped.
//!
//! The container's files outlive its processes: the record file has every byte that the keeper wrote, and where the
//! shell had ended by itself, its exit status is there too. The job could write to both, so they are read as they
//! arrive, without a file here, and no further than the job's output may go.

use std::io;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::agents::ContainerAgents;
use super::container_file::ContainerFile;
use super::helper_volume::JOBS_FOLDER;
use crate::detached::records::{Decoder, Position};
use crate::detached::{Ending, Exit, StageFolder};
use crate::executors::JobTrace;

/// How long all of it may take. What the trace then has must do.
const LIMIT: Duration = Duration::from_secs(60);

/// How long it may still take when the job is cancelled.
const LIMIT_AFTER_CANCEL: Duration = Duration::from_secs(10);

/// An exit status with the reason of a failure.
const LONGEST_EXIT: u64 = 64 * 1024;

/// The stage whose container has stopped.
#[derive(Debug)]
pub(crate) struct Stopped<'a> {
    pub(crate) agents: &'a ContainerAgents,
    pub(crate) folder: &'a StageFolder,
    /// Where its output was delivered to.
    pub(crate) delivered: Position,
    /// How many bytes of output are passed on at most: the trace takes no more.
    pub(crate) output_limit: u64,
}

/// Passes on what was not delivered yet and returns the shell's exit, if it had one.
///
/// # Errors
/// The files cannot be had, or not in time; what was passed on until then counts.
pub(crate) async fn salvage(
    stage: &Stopped<'_>,
    trace: &impl JobTrace,
    cancel: &CancellationToken,
) -> io::Result<Option<Exit>> {
    let impatience = async {
        cancel.cancelled().await;
        sleep(LIMIT_AFTER_CANCEL).await;
    };
    let salvaged = async {
        // The exit first: it is short, and the output may be more than there is time for.
        let exit = exit_of(stage).await?;
        pass_on(stage, trace).await?;
        Ok(exit)
    };
    tokio::select! {
        salvaged = salvaged => salvaged,
        () = sleep(LIMIT) => Err(io::ErrorKind::TimedOut.into()),
        () = impatience => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn open(stage: &Stopped<'_>, name: &str) -> io::Result<Option<ContainerFile>> {
    let path = format!("{JOBS_FOLDER}/{}/{name}", stage.folder);
    ContainerFile::open(&stage.agents.engine, &stage.agents.container, &path).await
}

async fn exit_of(stage: &Stopped<'_>) -> io::Result<Option<Exit>> {
    let Some(file) = open(stage, "exit").await? else { return Ok(None) };
    let content = file.read_all(LONGEST_EXIT).await?;
    Ok(match serde_json::from_slice(&content) {
        Ok(Ending::Exited(exit)) => Some(exit),
        Ok(Ending::Failed(_)) | Err(_) => None,
    })
}

async fn pass_on(stage: &Stopped<'_>, trace: &impl JobTrace) -> io::Result<()> {
    let Some(mut output) = open(stage, "output").await? else { return Ok(()) };
    if output.left() < stage.delivered.record {
        return Ok(());
    }
    output.skip(stage.delivered.record).await?;
    let mut decoder = Decoder::new(stage.delivered);
    let mut passed_on: u64 = 0;
    while let Some(piece) = output.next().await? {
        let decoded = decoder.decode(&piece, |stream, bytes| {
            passed_on += bytes.len() as u64;
            trace.output(stream, bytes);
        });
        decoded.map_err(io::Error::other)?;
        if passed_on > stage.output_limit {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::detached::records::{OutputStream, header};
    use crate::executors::NoTrace;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    /// Keeps what it gets as text.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<String>>);

    impl JobTrace for Kept {
        fn output(&self, stream: OutputStream, bytes: &[u8]) {
            let text = String::from_utf8_lossy(bytes);
            write!(self.0.lock().unwrap(), "{}:{text} ", stream.byte()).unwrap();
        }
        fn plain(&self, _: &str) {}
        fn info(&self, _: &str) {}
        fn warning(&self, _: &str) {}
        fn masked(&self, text: &str) -> String {
            text.to_owned()
        }
    }

    fn packed(name: &str, content: &[u8]) -> String {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, name, content).unwrap();
        String::from_utf8(archive.into_inner().unwrap()).unwrap()
    }

    fn stopped(output: Option<String>, exit: Option<String>) -> ContainerAgents {
        let engine = FakeEngine::start_by_line(move |line, _| {
            let file = if line.contains("output") { &output } else { &exit };
            match file {
                Some(file) => Reply::Status(200, file.clone()),
                None => Reply::Status(404, "{}".to_owned()),
            }
        });
        ContainerAgents { engine, container: "c".to_owned() }
    }

    async fn salvaged(
        agents: &ContainerAgents,
        delivered: Position,
        output_limit: u64,
    ) -> (io::Result<Option<Exit>>, String) {
        let (folder, kept) = (StageFolder::new("job", "step_script", 0), Kept::default());
        let stage = Stopped { agents, folder: &folder, delivered, output_limit };
        let exit = salvage(&stage, &kept, &CancellationToken::new()).await;
        let text = kept.0.lock().unwrap().clone();
        (exit, text)
    }

    fn exited(code: i32) -> Option<String> {
        Some(packed("exit", &serde_json::to_vec(&Ending::Exited(Exit::Code(code))).unwrap()))
    }

    fn recorded(records: &[(OutputStream, &[u8])]) -> Vec<u8> {
        let record = |(stream, body): &(OutputStream, &[u8])| {
            [&header(*stream, u32::try_from(body.len()).unwrap())[..], body].concat()
        };
        records.iter().flat_map(record).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn engine_that_gives_nothing_is_waited_for_shorter_after_a_cancel() {
        let engine = FakeEngine::start(|_| Reply::Slow(vec![(LIMIT * 100, String::new())]));
        let agents = ContainerAgents { engine, container: "c".to_owned() };
        let folder = StageFolder::new("job", "step_script", 0);
        let cancel = CancellationToken::new();
        let stage = Stopped { agents: &agents, folder: &folder, delivered: Position::default(), output_limit: 1 };
        for limit in [LIMIT, LIMIT_AFTER_CANCEL] {
            let salvaged = salvage(&stage, &NoTrace, &cancel);
            let salvaged = tokio::time::timeout(limit + Duration::from_secs(1), salvaged).await.unwrap();
            assert_eq!(salvaged.unwrap_err().kind(), io::ErrorKind::TimedOut);
            cancel.cancel();
        }
    }

    #[tokio::test]
    async fn only_undelivered_bytes_are_passed_on() {
        let output = recorded(&[(OutputStream::Stdout, b"one"), (OutputStream::Stderr, b"two!")]);
        for (record, skip, rest) in
            [(0, 0, "1:one 2:two! "), (0, 2, "1:e 2:two! "), (8, 0, "2:two! "), (17, 0, ""), (99, 0, "")]
        {
            let agents = stopped(Some(packed("output", &output)), exited(3));
            let (exit, passed_on) = salvaged(&agents, Position { record, skip }, 1024).await;
            assert_eq!((exit.unwrap(), passed_on.as_str()), (Some(Exit::Code(3)), rest), "{record} {skip}");
        }
        let (exit, passed_on) = salvaged(&stopped(None, None), Position::default(), 1024).await;
        assert_eq!((exit.unwrap(), passed_on.as_str()), (None, ""));
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_trace_takes() {
        // The engine never ends its answer, as with a sparse file of hundreds of gigabytes.
        let record = recorded(&[(OutputStream::Stdout, &[b'x'; 100])]);
        let whole = packed("output", &record.repeat(100));
        let begin = whole.get(..512 + 105 * 20).unwrap().to_owned();
        let exit = exited(0).unwrap();
        let engine = FakeEngine::start_by_line(move |line, _| {
            if line.contains("output") {
                Reply::Slow(vec![(Duration::ZERO, begin.clone()), (LIMIT * 100, String::new())])
            } else {
                Reply::Status(200, exit.clone())
            }
        });
        let agents = ContainerAgents { engine, container: "c".to_owned() };
        let (exit, passed_on) = salvaged(&agents, Position::default(), 1000).await;
        assert_eq!(exit.unwrap(), Some(Exit::Code(0)));
        assert!(passed_on.len() >= 1000);
    }
}
