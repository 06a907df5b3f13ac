//! Folders that the job's user may not write to become its own: those of its sources and of its local cache.
//!
//! All stages of a job run as the user of its container. Its folders may lie on storage where an earlier job of
//! another user has left files, or on a folder of the host. Then, before the first stage, our helper's `own` gives
//! them to the job's user. It runs as root, so nothing of the job's is in reach: its container is made from an empty
//! image, without a network and with three capabilities, and has our program and the volumes with those folders.
//!
//! It costs a container start, so it is left out where the volume is new, or where the last job there had the
//! same user.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions};
use bollard::query_parameters::{CreateContainerOptionsBuilder, LogsOptionsBuilder, WaitContainerOptionsBuilder};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::client::Engine;
use super::helper_volume::{self, AGENT_PATH};
use super::volumes::{Made, Plan};
use super::{engine_id, errors};
use crate::config::resolved::Docker;
use crate::config::types::volume::Volume;
use crate::detached::OWNER_CHANGED;
use crate::excerpt::excerpt;
use crate::executors::helper_binary::HelperBinary;
use crate::job::dirs::Dirs;
use crate::job::failure::Fault;

/// How long it may take. A tree of millions of files takes minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// How much of what our helper says is kept: a line or two.
const LOG_LIMIT: usize = 4096;

/// Places of one instance that are remembered; beyond this all are forgotten, which costs a container start each.
const MAX_KNOWN: usize = 4096;

/// Which user the last job of each place had.
#[derive(Debug, Default)]
pub(crate) struct LastUsers(Mutex<BTreeMap<String, u32>>);

impl LastUsers {
    fn of(&self, place: &str) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(place).copied()
    }

    /// `None` where the job's stages have different users.
    pub(crate) fn note(&self, places: &[Place], uid: Option<u32>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for place in places.iter().filter(|place| place.stays) {
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            match uid {
                Some(uid) => known.insert(place.key.clone(), uid),
                None => known.remove(&place.key),
            };
        }
    }
}

/// Some of a job's folders on one volume or one folder of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What the storage is known by between jobs.
    key: String,
    storage: Storage,
    destination: String,
    /// The job's folders, relative to the destination.
    folders: Vec<String>,
    /// Later jobs find it again.
    stays: bool,
    /// The engine makes folders of root's there, as other volumes are mounted below.
    has_mounts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Storage {
    Volume(String),
    /// As the engine gets it.
    Bind(String),
}

impl Place {
    /// Whether later jobs find what is there.
    pub(crate) fn stays(&self) -> bool {
        self.stays
    }
}

/// Where a job's folders lie. Storage that the job may not write to is left out.
pub(crate) fn places(plan: &Plan, dirs: &Dirs) -> Vec<Place> {
    let binds: Vec<(&String, Volume)> =
        plan.binds.iter().filter_map(|bind| Some((bind, bind.parse::<Volume>().ok()?))).collect();
    let destinations: Vec<&str> = plan
        .made
        .iter()
        .map(|made| made.destination.as_str())
        .chain(binds.iter().map(|(_, volume)| volume.destination.as_str()))
        .collect();
    let mut places: Vec<Place> = Vec::new();
    for folder in [&dirs.project_dir, &dirs.tmp_dir, &dirs.cache_dir] {
        let holding = destinations.iter().filter_map(|destination| Some((*destination, below(folder, destination)?)));
        let Some((destination, path)) = holding.max_by_key(|(destination, _)| destination.len()) else { continue };
        let has_mounts = destinations.iter().any(|other| shares_first_folder(other, path, destination));
        if let Some(place) = places.iter_mut().find(|place| place.destination == destination) {
            place.folders.push(path.to_owned());
            place.has_mounts |= has_mounts;
            continue;
        }
        let made = plan.made.iter().find(|made| made.destination == destination);
        let bind = binds.iter().find(|(_, volume)| volume.destination == destination);
        let (key, storage, stays) = match (made, bind) {
            (Some(Made { name, reusable, .. }), _) => (name.clone(), Storage::Volume(name.clone()), *reusable),
            (None, Some((_, volume))) if volume.options.iter().any(|option| option == "ro") => continue,
            (None, Some((text, volume))) => {
                let source = volume.source.as_deref().unwrap_or_default();
                (format!("{source}:{path}"), Storage::Bind((*text).clone()), true)
            }
            (None, None) => continue,
        };
        let folders = vec![path.to_owned()];
        places.push(Place { key, storage, destination: destination.to_owned(), folders, stays, has_mounts });
    }
    places
}

/// The job's folders that are on no volume.
pub(crate) fn folders_of_the_container<'a>(plan: &Plan, dirs: &'a Dirs) -> Vec<&'a str> {
    let is_mounted = |folder: &str| {
        plan.made.iter().any(|made| below(folder, &made.destination).is_some())
            || plan
                .binds
                .iter()
                .any(|bind| bind.parse::<Volume>().is_ok_and(|volume| below(folder, &volume.destination).is_some()))
    };
    [dirs.cache_dir.as_str()].into_iter().filter(|folder| !is_mounted(folder)).collect()
}

/// The rest of a path below a folder, without a leading `/`.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder.trim_end_matches('/'))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Whether `other` lies below `destination`, in the same folder of it as `path` does.
fn shares_first_folder(other: &str, path: &str, destination: &str) -> bool {
    let first = |path: &str| path.split('/').next().map(str::to_owned);
    below(other, destination).filter(|rest| !rest.is_empty()).is_some_and(|rest| first(rest) == first(path))
}

/// The volumes that are not there yet. One that is known needs no question.
pub(crate) async fn new_volumes(engine: &Engine, places: &[Place], known: &LastUsers) -> BTreeSet<String> {
    let unknown = places.iter().filter_map(|place| match &place.storage {
        Storage::Volume(name) if place.stays && known.of(&place.key).is_none() => Some(name.clone()),
        Storage::Volume(_) | Storage::Bind(_) => None,
    });
    let asked = join_all(unknown.map(async |name| {
        let found = engine.api.inspect_volume(&name).await;
        found.is_err_and(|error| errors::status(&error) == Some(404)).then_some(name)
    }));
    asked.await.into_iter().flatten().collect()
}

/// Those of the places that may hold what the user may not change.
pub(crate) fn foreign(places: &[Place], uid: u32, new_volumes: &BTreeSet<String>, known: &LastUsers) -> Vec<Place> {
    let is_foreign = |place: &&Place| {
        if place.has_mounts {
            return true;
        }
        match &place.storage {
            Storage::Volume(name) if !place.stays || new_volumes.contains(name) => false,
            Storage::Volume(_) | Storage::Bind(_) => known.of(&place.key) != Some(uid),
        }
    };
    places.iter().filter(is_foreign).cloned().collect()
}

/// What the container is made with.
#[derive(Debug)]
pub(crate) struct Owning<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) config: &'a Docker,
    pub(crate) helper: &'a HelperBinary,
    /// Whether our program comes from the instance's volume; else it is put into the container.
    pub(crate) has_helper_volume: bool,
    /// The container's, which is removed with the job's others.
    pub(crate) name: &'a str,
    pub(crate) labels: std::collections::HashMap<String, String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) cancel: &'a CancellationToken,
}

impl Owning<'_> {
    /// Gives the folders of these places to the user. Whether something had another owner.
    ///
    /// # Errors
    /// The engine refuses, or a folder's storage does.
    pub(crate) async fn run(self, places: &[Place]) -> Result<bool, Fault> {
        let image = helper_volume::import_empty_image(self.engine).await?;
        let owned = tokio::time::timeout(LIMIT, self.run_with_image(image.as_str(), places)).await;
        let options = bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        // What is left here is removed with the job's containers.
        self.engine.api.remove_container(self.name, Some(options)).await.ok();
        helper_volume::remove_empty_image(self.engine, &image).await;
        owned.unwrap_or_else(|_| Err(Fault::unclassified(format!("it took more than {} s", LIMIT.as_secs()))))
    }

    async fn run_with_image(&self, image: &str, places: &[Place]) -> Result<bool, Fault> {
        let api = &self.engine.api;
        let options = CreateContainerOptionsBuilder::default().name(self.name).build();
        let created = api.create_container(Some(options), self.body(image, places)).await;
        let container = engine_id::checked(created.map_err(|error| errors::create_fault(&error))?.id)?;
        if !self.has_helper_volume {
            let program = self.helper.read().await.map_err(|error| Fault::configuration(error.to_string()))?;
            helper_volume::put(self.engine, &container, &[], Some(&program)).await?;
        }
        api.start_container(&container, None).await.map_err(|error| errors::start_fault(&error))?;
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut ended = std::pin::pin!(api.wait_container(&container, Some(options)));
        let ended = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Fault::unclassified("the job was cancelled")),
            ended = ended.next() => ended,
        };
        match ended {
            Some(Ok(_)) => Ok(false),
            Some(Err(Error::DockerContainerWaitError { code, .. })) if code == i64::from(OWNER_CHANGED) => Ok(true),
            Some(Err(Error::DockerContainerWaitError { .. })) => {
                Err(Fault::unclassified(self.said_by(&container).await))
            }
            Some(Err(error)) => Err(errors::fault(&error)),
            None => Err(Fault::unclassified("the engine did not wait for a container")),
        }
    }

    /// Why our helper failed, in its words.
    async fn said_by(&self, container: &str) -> String {
        let options = LogsOptionsBuilder::default().stderr(true).build();
        let mut lines = std::pin::pin!(self.engine.api.logs(container, Some(options)));
        let mut said = Vec::new();
        while let Some(Ok(line)) = lines.next().await {
            said.extend_from_slice(&line.into_bytes());
            if said.len() > LOG_LIMIT {
                break;
            }
        }
        excerpt(String::from_utf8_lossy(&said).trim())
    }

    fn body(&self, image: &str, places: &[Place]) -> ContainerCreateBody {
        let mut command: Vec<String> =
            [AGENT_PATH, "own"].map(str::to_owned).into_iter().chain(self.owner_arguments()).collect();
        let (mut mounts, mut binds) = (Vec::new(), Vec::new());
        for place in places {
            let option = match &place.storage {
                Storage::Volume(name) => {
                    mounts.push(volume_mount(name, &place.destination));
                    "--volume"
                }
                Storage::Bind(text) => {
                    binds.push(text.clone());
                    "--bind"
                }
            };
            command.extend(place.folders.iter().map(|folder| format!("{option}={}:{folder}", place.destination)));
        }
        if self.has_helper_volume {
            mounts.push(Mount { read_only: Some(true), ..helper_volume::mount(&self.helper.name) });
        }
        ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(command),
            user: Some("0:0".to_owned()),
            labels: Some(self.labels.clone()),
            network_disabled: Some(true),
            host_config: Some(HostConfig {
                mounts: Some(mounts),
                binds: Some(binds),
                network_mode: Some("none".to_owned()),
                log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: None }),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: Some(["CHOWN", "DAC_OVERRIDE", "FOWNER"].map(str::to_owned).into()),
                // Numbers of users and labels of files mean what they mean in the job's container.
                userns_mode: self.config.userns_mode.clone(),
                runtime: self.config.runtime.clone(),
                security_opt: Some(self.config.security_opt.clone()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    fn owner_arguments(&self) -> [String; 2] {
        [format!("--uid={}", self.uid), format!("--gid={}", self.gid)]
    }
}

fn volume_mount(name: &str, destination: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.to_owned()),
        target: Some(destination.to_owned()),
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..MountVolumeOptions::default() }),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(destination: &str, reusable: bool) -> Made {
        let name = format!("volume-of{}", destination.replace('/', "-"));
        Made { name, destination: destination.to_owned(), protected: false, reusable }
    }

    fn dirs() -> Dirs {
        Dirs {
            builds_dir: "/builds".to_owned(),
            project_dir: "/builds/g/p".to_owned(),
            tmp_dir: "/builds/g/p.tmp".to_owned(),
            cache_dir: "/cache/g/p".to_owned(),
        }
    }

    fn plan(binds: &[&str], made: Vec<Made>) -> Plan {
        Plan { binds: binds.iter().map(|bind| (*bind).to_owned()).collect(), made }
    }

    /// The places that are foreign to user 1000, as destinations.
    fn foreign_of(plan: &Plan, new: &[&str], known: &LastUsers) -> Vec<String> {
        let new = new.iter().map(|name| (*name).to_owned()).collect();
        foreign(&places(plan, &dirs()), 1000, &new, known).into_iter().map(|place| place.destination).collect()
    }

    #[test]
    fn each_folder_belongs_to_the_innermost_storage() {
        let plan = plan(&["/srv:/builds", "/data:/builds/g/p:rw"], vec![made("/cache", true)]);
        let found: Vec<(String, Vec<String>)> =
            places(&plan, &dirs()).into_iter().map(|place| (place.destination, place.folders)).collect();
        let expected = [("/builds/g/p", ""), ("/builds", "g/p.tmp"), ("/cache", "g/p")];
        assert_eq!(found, expected.map(|(destination, folder)| (destination.to_owned(), vec![folder.to_owned()])));
    }

    #[test]
    fn storage_that_is_read_only_or_not_mounted_has_no_place() {
        let plan = plan(&["/srv:/builds:ro", "/x:/buildsx"], vec![]);
        assert_eq!(places(&plan, &dirs()), []);
        assert_eq!(folders_of_the_container(&plan, &dirs()), ["/cache/g/p"]);
    }

    #[test]
    fn new_and_temporary_volumes_and_those_of_the_same_user_are_left_alone() {
        let known = LastUsers::default();
        let passing = plan(&[], vec![made("/builds", false)]);
        assert_eq!(foreign_of(&passing, &[], &known), [""; 0]);
        let plan = plan(&[], vec![made("/builds", true), made("/cache", true)]);
        assert_eq!(foreign_of(&plan, &["volume-of-builds"], &known), ["/cache"]);
        let places = places(&plan, &dirs());
        known.note(&places, Some(1000));
        assert_eq!(foreign_of(&plan, &[], &known), [""; 0]);
        known.note(&places, Some(0));
        assert_eq!(foreign_of(&plan, &[], &known), ["/builds", "/cache"]);
        known.note(&places, Some(1000));
        known.note(&places, None);
        assert_eq!(foreign_of(&plan, &[], &known), ["/builds", "/cache"]);
    }

    #[test]
    fn folders_of_the_host_are_known_by_their_source_and_the_jobs_folder() {
        let known = LastUsers::default();
        known.note(&places(&plan(&["/srv:/builds"], vec![]), &dirs()), Some(1000));
        assert_eq!(foreign_of(&plan(&["/srv:/builds"], vec![]), &[], &known), [""; 0]);
        assert_eq!(foreign_of(&plan(&["/other:/builds"], vec![]), &[], &known), ["/builds"]);
    }

    #[test]
    fn volumes_mounted_below_leave_folders_of_roots_in_a_new_one() {
        let known = LastUsers::default();
        for (below, expected) in [("/builds/g/p/modules", true), ("/builds/g/other", true), ("/builds/.m2", false)] {
            let plan = plan(&[], vec![made("/builds", false), made(below, true)]);
            let found = foreign_of(&plan, &[], &known);
            assert_eq!(found.contains(&"/builds".to_owned()), expected, "{below}");
        }
    }

    #[test]
    fn container_has_three_capabilities_and_no_network() {
        let engine = crate::executors::docker::fake_engine::FakeEngine::start(|_| {
            crate::executors::docker::fake_engine::Reply::Silence
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        let owning = Owning {
            engine: &engine,
            config: &Docker::default(),
            helper: &HelperBinary::of(file.path().to_owned(), b"program"),
            has_helper_volume: true,
            name: "own",
            labels: std::collections::HashMap::new(),
            uid: 1000,
            gid: 100,
            cancel: &CancellationToken::new(),
        };
        let plan = plan(&["/srv:/builds"], vec![made("/cache", true), made("/m2", true)]);
        let body = serde_json::to_value(owning.body("sha256:00", &places(&plan, &dirs()))).unwrap();
        let command =
            ["--uid=1000", "--gid=100", "--bind=/builds:g/p", "--bind=/builds:g/p.tmp", "--volume=/cache:g/p"];
        let command: Vec<&str> = [AGENT_PATH, "own"].into_iter().chain(command).collect();
        assert_eq!(body["Cmd"], serde_json::json!(command));
        let host = &body["HostConfig"];
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert_eq!(host["CapAdd"], serde_json::json!(["CHOWN", "DAC_OVERRIDE", "FOWNER"]));
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["Binds"], serde_json::json!(["/srv:/builds"]));
        assert_eq!(host["Mounts"].as_array().unwrap().len(), 2, "{host}");
        assert_eq!((&body["Env"], &host["Privileged"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    }
}
