//! One regular file of a container, read through the engine piece by piece.
//!
//! The engine packs what it is asked for into an archive: headers, then the content. A job may have put anything under
//! the file's name. Only a regular file is read, nothing is kept but the piece in hand, and whoever reads decides
//! how much to take.

use std::io;

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tar::{EntryType, Header, PaxExtensions};

use super::client::Engine;
use super::errors;

/// Archives are made of blocks.
const BLOCK: usize = 512;

/// The most that is read of a header's extension, which has a long name or a large size.
const LONGEST_EXTENSION: u64 = 64 * 1024;

/// An open file.
pub(crate) struct ContainerFile {
    pieces: BoxStream<'static, io::Result<Bytes>>,
    /// What arrived and was not passed on.
    arrived: BytesMut,
    /// Bytes of the file that were not passed on.
    left: u64,
}

impl std::fmt::Debug for ContainerFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerFile").field("left", &self.left).finish_non_exhaustive()
    }
}

impl ContainerFile {
    /// Opens a file; `None` where nothing has the name.
    ///
    /// # Errors
    /// The engine does not answer, or what has the name is no regular file ([`io::ErrorKind::InvalidData`]).
    pub(crate) async fn open(engine: &Engine, container: &str, path: &str) -> io::Result<Option<Self>> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let pieces =
            engine.api.download_from_container(container, Some(options)).map_err(|error| {
                match errors::status(&error) {
                    Some(404) => io::ErrorKind::NotFound.into(),
                    Some(_) | None => io::Error::other(errors::message(&error)),
                }
            });
        let pieces = pieces.boxed();
        let mut file = Self { pieces, arrived: BytesMut::new(), left: 0 };
        match file.read_headers().await {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file's length as the engine says it.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The stream breaks off.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.arrived.is_empty() && !self.fill().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.arrived.len());
        let piece = self.arrived.split_to(most).freeze();
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }

    /// Skips the next bytes.
    ///
    /// # Errors
    /// The file is shorter, or the stream breaks off.
    pub(crate) async fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let Some(mut piece) = self.next().await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let skipped = count.min(piece.len() as u64);
            piece.advance(usize::try_from(skipped).unwrap_or(piece.len()));
            count -= skipped;
            self.give_back(piece);
        }
        Ok(())
    }

    /// The whole file, if it is no longer than `limit`.
    ///
    /// # Errors
    /// It is longer, or the stream breaks off.
    pub(crate) async fn read_all(mut self, limit: u64) -> io::Result<Vec<u8>> {
        if self.left > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut content = Vec::new();
        while let Some(piece) = self.next().await? {
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }

    fn give_back(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left += piece.len() as u64;
            let mut first = BytesMut::from(piece);
            first.extend_from_slice(&self.arrived);
            self.arrived = first;
        }
    }

    /// To the first byte of the content. A size that the header has no room for is in an extension before it.
    async fn read_headers(&mut self) -> io::Result<()> {
        let mut size = None;
        loop {
            let block = self.take(BLOCK).await?;
            let header = Header::from_byte_slice(&block);
            let length = header.entry_size()?;
            let kind = header.entry_type();
            if matches!(kind, EntryType::Regular | EntryType::Continuous) {
                self.left = size.unwrap_or(length);
                return Ok(());
            }
            let is_about_the_next = matches!(
                kind,
                EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
            );
            if !is_about_the_next {
                let message = format!("not a regular file: {kind:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            let extension = self.extension(length).await?;
            if kind.is_pax_local_extensions() {
                size = size_of(&extension)?.or(size);
            }
        }
    }

    async fn extension(&mut self, length: u64) -> io::Result<BytesMut> {
        if length > LONGEST_EXTENSION {
            return Err(io::Error::other("a header's extension is too long"));
        }
        let length = usize::try_from(length).unwrap_or_default();
        let mut whole = self.take(length.next_multiple_of(BLOCK)).await?;
        whole.truncate(length);
        Ok(whole)
    }

    async fn take(&mut self, length: usize) -> io::Result<BytesMut> {
        while self.arrived.len() < length {
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.arrived.split_to(length))
    }

    /// False at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        match self.pieces.try_next().await? {
            Some(piece) => self.arrived.extend_from_slice(&piece),
            None => return Ok(false),
        }
        Ok(true)
    }
}

fn size_of(extension: &[u8]) -> io::Result<Option<u64>> {
    for record in PaxExtensions::new(extension) {
        let record = record?;
        if record.key_bytes() == b"size" {
            let size = record.value().ok().and_then(|text| text.parse().ok());
            return size.map(Some).ok_or_else(|| io::Error::other("a header's size is no number"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    /// What an engine answers when it is asked for a file with this content.
    fn packed(kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "step_script-0/output", content).unwrap();
        archive.into_inner().unwrap()
    }

    fn of(archive: &[u8], piece: usize) -> ContainerFile {
        let pieces: Vec<io::Result<Bytes>> =
            archive.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        ContainerFile { pieces: futures_util::stream::iter(pieces).boxed(), arrived: BytesMut::new(), left: 0 }
    }

    #[tokio::test]
    async fn content_is_the_same_however_the_archive_is_cut() {
        for piece in [1, 7, 511, 512, 513, 4096] {
            let mut file = of(&packed(EntryType::Regular, b"0123456789"), piece);
            file.read_headers().await.unwrap();
            assert_eq!(file.left(), 10);
            file.skip(3).await.unwrap();
            assert_eq!(file.read_all(7).await.unwrap(), b"3456789", "{piece}");
        }
    }

    #[tokio::test]
    async fn only_regular_files_are_read() {
        for kind in [EntryType::Symlink, EntryType::Fifo, EntryType::Char, EntryType::Directory, EntryType::Link] {
            let mut file = of(&packed(kind, b""), 512);
            assert!(file.read_headers().await.unwrap_err().to_string().starts_with("not a regular file"), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn size_beyond_the_headers_digits_is_in_its_extension() {
        let record = b"21 size=500000000000\n";
        let mut archive = packed(EntryType::XHeader, record);
        archive.truncate(1024);
        archive.extend_from_slice(&packed(EntryType::Regular, b""));
        let mut file = of(&archive, 512);
        file.read_headers().await.unwrap();
        assert_eq!(file.left(), 500_000_000_000);
    }

    #[tokio::test]
    async fn too_long_a_file_is_refused_before_it_is_read() {
        let mut file = of(&packed(EntryType::Regular, b"0123456789"), 512);
        file.read_headers().await.unwrap();
        assert_eq!(file.read_all(9).await.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[tokio::test]
    async fn broken_archive_is_an_error_and_no_short_file() {
        let whole = packed(EntryType::Regular, b"0123456789");
        for length in [0, 100, 512, 515] {
            let mut file = of(&whole[..length], 100);
            let read = async {
                file.read_headers().await?;
                file.read_all(100).await
            };
            assert_eq!(read.await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }

    #[tokio::test]
    async fn file_that_is_not_there_is_told_from_an_engine_that_fails() {
        for (status, missing) in [(404, true), (500, false)] {
            let engine = FakeEngine::start(move |_| Reply::Status(status, "{\"message\":\"no\"}".to_owned()));
            let opened = ContainerFile::open(&engine, "c", "/output").await;
            assert_eq!(matches!(opened, Ok(None)), missing, "{status}");
        }
    }
}
