//! What a stage printed and how it ended, read from a container that has stopped.
//!
//! The container's files outlive its processes: the record file has every byte that the keeper wrote,
//! and where the shell had ended by itself, its exit status is there too.

use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::agents::ContainerAgents;
use super::helper_volume::JOBS_FOLDER;
use crate::detached::records::{Decoder, OutputStream, Position};
use crate::detached::{Ending, Exit, StageFolder};
use crate::executors::JobTrace;

/// Pieces on their way from the file to the trace.
const QUEUE: usize = 8;

/// How long all of it may take. What the trace then has must do.
const LIMIT: Duration = Duration::from_secs(60);

/// How long it may still take when the job is cancelled.
const LIMIT_AFTER_CANCEL: Duration = Duration::from_secs(10);

/// Bytes decoded at once.
const PIECE: usize = 64 * 1024;

/// Passes on what was not delivered yet and returns the shell's exit, if it had one.
///
/// # Errors
/// The files cannot be had, or not in time; what was passed on until then counts.
pub(crate) async fn salvage(
    agents: &ContainerAgents,
    folder: &StageFolder,
    delivered: Position,
    trace: &impl JobTrace,
    cancel: &CancellationToken,
) -> io::Result<Option<Exit>> {
    let impatience = async {
        cancel.cancelled().await;
        sleep(LIMIT_AFTER_CANCEL).await;
    };
    tokio::select! {
        salvaged = unbounded(agents, folder, delivered, trace) => salvaged,
        () = sleep(LIMIT) => Err(io::ErrorKind::TimedOut.into()),
        () = impatience => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn unbounded(
    agents: &ContainerAgents,
    folder: &StageFolder,
    delivered: Position,
    trace: &impl JobTrace,
) -> io::Result<Option<Exit>> {
    let mut archive = download(agents, &format!("{JOBS_FOLDER}/{folder}")).await?;
    archive.seek(SeekFrom::Start(0))?;
    let (pieces, mut taken) = mpsc::channel(QUEUE);
    let reader = tokio::task::spawn_blocking(move || {
        // Nobody takes pieces any more when the job was abandoned.
        read(archive, delivered, |stream, bytes| drop(pieces.blocking_send((stream, Bytes::copy_from_slice(bytes)))))
    });
    while let Some((stream, bytes)) = taken.recv().await {
        trace.output(stream, &bytes);
    }
    reader.await.map_err(io::Error::other)?
}

async fn download(agents: &ContainerAgents, path: &str) -> io::Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let mut pieces = agents.engine.api.download_from_container(&agents.container, Some(options));
    while let Some(piece) = pieces.next().await {
        file.write_all(&piece.map_err(io::Error::other)?)?;
    }
    Ok(file)
}

fn read(
    archive: impl Read,
    delivered: Position,
    mut sink: impl FnMut(OutputStream, &[u8]),
) -> io::Result<Option<Exit>> {
    let mut archive = tar::Archive::new(archive);
    let mut exit = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().map(|name| name.to_string_lossy().into_owned());
        match name.as_deref() {
            Some("output") => decode(&mut entry, delivered, &mut sink)?,
            Some("exit") => {
                if let Ok(Ending::Exited(found)) = serde_json::from_reader(&mut entry) {
                    exit = Some(found);
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(exit)
}

fn decode(output: &mut impl Read, delivered: Position, sink: &mut impl FnMut(OutputStream, &[u8])) -> io::Result<()> {
    io::copy(&mut output.by_ref().take(delivered.record), &mut io::sink())?;
    let mut decoder = Decoder::new(delivered);
    let mut piece = vec![0; PIECE];
    loop {
        let length = output.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        decoder.decode(piece.get(..length).unwrap_or_default(), &mut *sink).map_err(io::Error::other)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detached::records::header;
    use crate::executors::NoTrace;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, format!("step_script-0/{name}"), *content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn engine_that_gives_nothing_is_waited_for_shorter_after_a_cancel() {
        let engine = FakeEngine::start(|_| Reply::Slow(vec![(LIMIT * 100, String::new())]));
        let agents = ContainerAgents { engine, container: "c".to_owned(), user: None };
        let folder = StageFolder::new("job", "step_script", 0);
        let cancel = CancellationToken::new();
        for limit in [LIMIT, LIMIT_AFTER_CANCEL] {
            let salvaged = salvage(&agents, &folder, Position::default(), &NoTrace, &cancel);
            let salvaged = tokio::time::timeout(limit + Duration::from_secs(1), salvaged).await.unwrap();
            assert_eq!(salvaged.unwrap_err().kind(), io::ErrorKind::TimedOut);
            cancel.cancel();
        }
    }

    #[test]
    fn only_undelivered_bytes_are_passed_on() {
        let output =
            [&header(OutputStream::Stdout, 3)[..], b"one", &header(OutputStream::Stderr, 5), b"t\xffwo!"].concat();
        let exit = serde_json::to_vec(&Ending::Exited(Exit::Code(3))).unwrap();
        for (delivered, rest) in [
            (Position::default(), "1:one 2:t\u{fffd}wo! "),
            (Position { record: 0, skip: 2 }, "1:e 2:t\u{fffd}wo! "),
            (Position { record: 8, skip: 0 }, "2:t\u{fffd}wo! "),
            (Position { record: 18, skip: 0 }, ""),
        ] {
            let files = archive(&[("output", &output), ("exit", &exit), ("lock", b"")]);
            let mut got = String::new();
            let found = read(files.as_slice(), delivered, |stream, bytes| {
                got.extend([
                    stream.byte().to_string(),
                    ":".to_owned(),
                    String::from_utf8_lossy(bytes).into_owned(),
                    " ".to_owned(),
                ]);
            });
            assert_eq!((found.unwrap(), got.as_str()), (Some(Exit::Code(3)), rest), "{delivered:?}");
        }
        assert_eq!(read(archive(&[("output", b"")]).as_slice(), Position::default(), |_, _| ()).unwrap(), None);
    }
}
