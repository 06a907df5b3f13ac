//! Our program inside containers: as a read-only volume that all jobs of an instance share, or, where an
//! instance serves one job only, put into the job's own container.
//!
//! A volume cannot be renamed, and an upload may break off. So the program arrives under another name
//! and gets its own by a hard link, the last entry of the archive: where the link is, all of it is.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;

use super::client::Engine;
use super::errors;
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

/// Fills the volume, unless it is: `image` is any that the engine has; nothing of it is run. The container that it
/// takes carries the job's `labels`, so that it is found if nobody removes it.
pub(crate) async fn fill(
    engine: &Engine,
    helper: &HelperBinary,
    image: &str,
    labels: HashMap<String, String>,
) -> Result<(), Fault> {
    let volume = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(helper.name.clone()),
        target: Some(AGENT_FOLDER.to_owned()),
        ..Mount::default()
    };
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec![AGENT_PATH.to_owned()]),
        labels: Some(labels),
        host_config: Some(HostConfig {
            mounts: Some(vec![volume]),
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let container = engine.api.create_container(None, body).await.map_err(|error| errors::fault(&error))?;
    let filled = fill_through(engine, helper, &container.id).await;
    // The image's own volumes were made for it and serve nobody else.
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    if let Err(error) = engine.api.remove_container(&container.id, Some(options)).await {
        tracing::info!(container = %container.id, error = %Chain(&error), "a container that filled a volume was left");
    }
    filled
}

async fn fill_through(engine: &Engine, helper: &HelperBinary, container: &str) -> Result<(), Fault> {
    let look = ContainerArchiveInfoOptionsBuilder::default().path(AGENT_PATH).build();
    match engine.api.get_container_archive_info(container, Some(look)).await {
        Ok(_) => return Ok(()),
        Err(error) if errors::status(&error) == Some(404) => {}
        Err(error) => return Err(errors::fault(&error)),
    }
    let content = helper.read().await.map_err(|error| Fault::configuration(Chain(&error).to_string()))?;
    let archive = linked_program(&content).map_err(|error| Fault::unclassified(error.to_string()))?;
    upload(engine, container, AGENT_FOLDER, archive).await
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

    #[tokio::test]
    async fn container_that_fills_the_volume_is_found_by_the_jobs_labels() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let engine = FakeEngine::start(move |body| {
            noted.lock().unwrap().push(body);
            Reply::Status(500, "{\"message\":\"enough\"}".to_owned())
        });
        let helper = HelperBinary { path: "/none".into(), name: "flotilla-helper-0".to_owned() };
        let labels = HashMap::from([("job.id".to_owned(), "7".to_owned())]);
        fill(&engine, &helper, "image", labels).await.unwrap_err();
        let body: serde_json::Value = serde_json::from_str(&asked.lock().unwrap()[0]).unwrap();
        assert_eq!(body["Labels"]["job.id"], "7");
    }

    #[tokio::test]
    async fn container_that_fills_the_volume_takes_the_volumes_of_its_image_along() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let engine = FakeEngine::start_by_line(move |line, _| {
            let reply = if line.starts_with("DELETE") { (204, "") } else { (201, "{\"Id\":\"c\",\"Warnings\":[]}") };
            noted.lock().unwrap().push(line);
            Reply::Status(reply.0, reply.1.to_owned())
        });
        let helper = HelperBinary { path: "/none".into(), name: "flotilla-helper-0".to_owned() };
        drop(fill(&engine, &helper, "image", HashMap::new()).await);
        let asked = asked.lock().unwrap();
        let removal = asked.iter().find(|line| line.starts_with("DELETE")).unwrap();
        assert!(removal.contains("/containers/c?") && removal.contains("v=true"), "{removal}");
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
