//! Our program inside containers: as a read-only volume that all jobs of an instance share, or, where an
//! instance serves one job only, put into the job's own container.
//!
//! Every later job runs what is in the volume, so nothing of a job may get in. It is filled through a container of an
//! empty image that is made for it, never of the job's, and the engine copies nothing of an image into it. What is
//! there already is compared with the program by its hash, once per instance and manager.
//!
//! A volume cannot be renamed, and an upload may break off. So the program arrives under another name
//! and gets its own by a hard link, the last entry of the archive: where the link is, all of it is.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::client::Engine;
use super::container_file::ContainerFile;
use super::{engine_id, errors};
use crate::config::types::image_reference::ImageReference;
use crate::error_chain::Chain;
use crate::executors::helper_binary::HelperBinary;
use crate::job::failure::Fault;

/// Where the program is in a container.
pub(crate) const AGENT_FOLDER: &str = "/.flotilla/bin";
pub(crate) const AGENT_PATH: &str = "/.flotilla/bin/flotilla-helper";

/// Where stages have their folders in a container.
pub(crate) const JOBS_FOLDER: &str = "/.flotilla/jobs";

const PROGRAM: &str = "flotilla-helper";
const ARRIVING: &str = "flotilla-helper.arriving";

/// A folder to make in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Absolute.
    pub(crate) path: String,
    pub(crate) mode: u32,
}

/// Fills the volume, unless it holds the program already. The container that it takes carries the job's `labels`, so
/// that it is found if nobody removes it.
pub(crate) async fn fill(engine: &Engine, helper: &HelperBinary, labels: HashMap<String, String>) -> Result<(), Fault> {
    let image = import_empty_image(engine).await?;
    let filled = fill_with_image(engine, helper, image.as_str(), labels).await;
    remove_empty_image(engine, &image).await;
    filled
}

pub(crate) async fn remove_empty_image(engine: &Engine, image: &ImageReference) {
    let options = RemoveImageOptionsBuilder::default().build();
    if let Err(error) = engine.api.remove_image(image.as_str(), Some(options), None).await {
        tracing::info!(%image, error = %Chain(&error), "failed to remove an empty image");
    }
}

/// The mount of the volume with our program. The engine copies nothing of an image into it.
pub(crate) fn mount(volume: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(AGENT_FOLDER.to_owned()),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

/// An image with nothing in it, for containers that have nothing but what is mounted.
pub(crate) async fn import_empty_image(engine: &Engine) -> Result<ImageReference, Fault> {
    let nothing = tar::Builder::new(Vec::new()).into_inner().map_err(|error| Fault::unclassified(error.to_string()))?;
    let options = CreateImageOptionsBuilder::default().from_src("-").build();
    let body = bollard::body_full(Bytes::from(nothing));
    let mut progress = std::pin::pin!(engine.api.create_image(Some(options), Some(body), None));
    let mut last = String::new();
    while let Some(step) = progress.next().await {
        last = step.map_err(|error| errors::fault(&error))?.status.unwrap_or_default();
    }
    let imported = last.parse::<ImageReference>().ok().filter(ImageReference::is_id);
    imported.ok_or_else(|| Fault::unclassified("the engine imported an image and did not answer with its id"))
}

async fn fill_with_image(
    engine: &Engine,
    helper: &HelperBinary,
    image: &str,
    labels: HashMap<String, String>,
) -> Result<(), Fault> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec![AGENT_PATH.to_owned()]),
        labels: Some(labels),
        host_config: Some(HostConfig {
            mounts: Some(vec![mount(&helper.name)]),
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let created = engine.api.create_container(None, body).await.map_err(|error| errors::fault(&error))?;
    let container = engine_id::checked(created.id)?;
    let filled = fill_through(engine, helper, &container).await;
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    if let Err(error) = engine.api.remove_container(&container, Some(options)).await {
        tracing::info!(%container, error = %Chain(&error), "failed to remove a container that filled a volume");
    }
    filled
}

/// What stands under the program's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Program,
    SomethingElse,
}

async fn fill_through(engine: &Engine, helper: &HelperBinary, container: &str) -> Result<(), Fault> {
    let found = look(engine, helper, container).await?;
    if found == Found::Program {
        return Ok(());
    }
    if found == Found::SomethingElse {
        tracing::warn!(volume = helper.name, "volume holds another program under the helper's name: replacing it");
    }
    let content = helper.read().await.map_err(|error| Fault::configuration(Chain(&error).to_string()))?;
    let archive = linked_program(&content).map_err(|error| Fault::unclassified(error.to_string()))?;
    upload(engine, container, AGENT_FOLDER, archive).await?;
    match found {
        Found::SomethingElse if look(engine, helper, container).await? != Found::Program => {
            Err(Fault::unclassified(format!("the volume {} does not keep the helper that is put into it", helper.name)))
        }
        Found::Nothing | Found::Program | Found::SomethingElse => Ok(()),
    }
}

/// Compares what is there with the program: a job of an earlier manager, or one with the engine's socket, may have put
/// it there.
async fn look(engine: &Engine, helper: &HelperBinary, container: &str) -> Result<Found, Fault> {
    let unread = |error: std::io::Error| Fault::unclassified(format!("reading the helper's volume: {error}"));
    let mut file = match ContainerFile::open(engine, container, AGENT_PATH).await {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Found::Nothing),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(Found::SomethingElse),
        Err(error) => return Err(unread(error)),
    };
    if file.left() != helper.size {
        return Ok(Found::SomethingElse);
    }
    let mut hash = Sha256::new();
    while let Some(piece) = file.next().await.map_err(unread)? {
        hash.update(&piece);
    }
    let is_program = <[u8; 32]>::from(hash.finalize()) == helper.sha256;
    Ok(if is_program { Found::Program } else { Found::SomethingElse })
}

/// Puts folders, and the program where it is given, into a container that does not run yet.
pub(crate) async fn put(
    engine: &Engine,
    container: &str,
    folders: &[Folder],
    program: Option<&[u8]>,
) -> Result<(), Fault> {
    let archive = archive(folders, program).map_err(|error| Fault::unclassified(error.to_string()))?;
    upload(engine, container, "/", archive).await
}

async fn upload(engine: &Engine, container: &str, path: &str, archive: Vec<u8>) -> Result<(), Fault> {
    let options = UploadToContainerOptionsBuilder::default().path(path).build();
    let body = bollard::body_full(Bytes::from(archive));
    engine.api.upload_to_container(container, Some(options), body).await.map_err(|error| errors::fault(&error))
}

fn linked_program(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::with_capacity(content.len() + 4096));
    append_file(&mut archive, ARRIVING, content)?;
    let mut link = header(tar::EntryType::Link, 0o755, 0);
    archive.append_link(&mut link, PROGRAM, ARRIVING)?;
    archive.into_inner()
}

fn archive(folders: &[Folder], program: Option<&[u8]>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for folder in folders {
        let path = format!("{}/", folder.path.trim_start_matches('/'));
        archive.append_data(&mut header(tar::EntryType::Directory, folder.mode, 0), path, std::io::empty())?;
    }
    if let Some(program) = program {
        append_file(&mut archive, AGENT_PATH.trim_start_matches('/'), program)?;
    }
    archive.into_inner()
}

fn append_file(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o755, content.len() as u64);
    archive.append_data(&mut header, path, content)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};

    #[test]
    fn program_gets_its_name_only_after_all_of_it_arrived() {
        let archive = linked_program(b"program").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let check = |bytes: &[u8], there: bool| {
            let target = tempfile::tempdir_in(folder.path()).unwrap();
            // A broken archive is an error after its whole entries are there.
            tar::Archive::new(bytes).unpack(target.path()).unwrap_or_default();
            let program = target.path().join(PROGRAM);
            assert_eq!(program.exists(), there);
            assert!(!there || std::fs::read(program).unwrap() == b"program");
        };
        check(&archive, true);
        check(&archive[..515], false);
        check(&archive[..1024], false);
    }

    const IMAGE: &str = "sha256:7173b809ca12ec5dee4506cd86be934c4596dd234ee82c0662eac04a8c2c71dc";

    /// Lines and bodies of requests.
    type Asked = Arc<Mutex<Vec<(String, String)>>>;

    /// An engine whose volume holds `content` under the program's name; its requests are kept.
    fn engine_with(content: Option<&'static [u8]>) -> (Engine, Asked) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let engine = FakeEngine::start_by_line(move |line, body| {
            noted.lock().unwrap().push((line.clone(), body));
            let (status, body) = match (line.split_once(' ').unwrap(), content) {
                (("POST", path), _) if path.contains("/images/create") => (200, format!("{{\"status\":\"{IMAGE}\"}}")),
                (("POST", _), _) => (201, "{\"Id\":\"c\",\"Warnings\":[]}".to_owned()),
                (("GET", _), Some(content)) => {
                    let mut archive = tar::Builder::new(Vec::new());
                    append_file(&mut archive, PROGRAM, content).unwrap();
                    (200, String::from_utf8(archive.into_inner().unwrap()).unwrap())
                }
                (("GET", _), None) => (404, "{}".to_owned()),
                (("DELETE", path), _) if path.contains("/images/") => (200, "[]".to_owned()),
                _ => (204, String::new()),
            };
            Reply::Status(status, body)
        });
        (engine, asked)
    }

    fn program() -> (tempfile::NamedTempFile, HelperBinary) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "program").unwrap();
        let helper = HelperBinary::of(file.path().to_owned(), b"program");
        (file, helper)
    }

    #[tokio::test]
    async fn volume_is_filled_from_an_empty_image_and_nothing_of_an_image_is_copied_into_it() {
        let ((engine, asked), (_file, helper)) = (engine_with(None), program());
        fill(&engine, &helper, HashMap::from([("job.id".to_owned(), "7".to_owned())])).await.unwrap();
        let asked = asked.lock().unwrap();
        let created = asked.iter().find(|(line, _)| line.contains("/containers/create")).unwrap();
        let body: serde_json::Value = serde_json::from_str(&created.1).unwrap();
        assert_eq!(body["Image"], IMAGE);
        assert_eq!(body["HostConfig"]["Mounts"][0]["VolumeOptions"]["NoCopy"], true);
        assert_eq!(body["Labels"]["job.id"], "7");
        let removed: Vec<&str> =
            asked.iter().map(|(line, _)| line.as_str()).filter(|line| line.starts_with("DELETE")).collect();
        assert!(removed[0].contains("/containers/c?") && removed[0].contains("v=true"), "{removed:?}");
        assert!(removed[1].contains(IMAGE), "{removed:?}");
    }

    #[tokio::test]
    async fn what_is_under_the_programs_name_counts_by_its_content() {
        let puts = |asked: &Mutex<Vec<(String, String)>>| {
            asked.lock().unwrap().iter().filter(|(line, _)| line.starts_with("PUT")).count()
        };
        let (_file, helper) = program();
        let (engine, asked) = engine_with(Some(b"program"));
        fill(&engine, &helper, HashMap::new()).await.unwrap();
        assert_eq!(puts(&asked), 0);
        for other in [&b"pr0gram"[..], b"longer program", b""] {
            let (engine, asked) = engine_with(Some(other));
            let fault = fill(&engine, &helper, HashMap::new()).await.unwrap_err();
            assert!(fault.message.contains("does not keep the helper"), "{}", fault.message);
            assert_eq!(puts(&asked), 1);
        }
    }

    #[test]
    fn folders_keep_their_modes() {
        let folders = [Folder { path: "/builds".to_owned(), mode: 0o777 }];
        let bytes = archive(&folders, Some(b"program")).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
            })
            .collect();
        assert_eq!(entries, [("builds/".to_owned(), 0o777), (AGENT_PATH.trim_start_matches('/').to_owned(), 0o755)]);
        assert!(Path::new(AGENT_PATH).starts_with(AGENT_FOLDER));
    }
}
