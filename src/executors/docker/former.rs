//! What a job of an earlier manager left on an engine: found by its labels, since nobody has its notes.

use std::collections::HashMap;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder};
use tokio_util::task::TaskTracker;

use super::client::Engine;
use super::engine_id;
use super::errors;
use super::leftovers::Leftovers;
use super::names;
use crate::executors::FormerJob;
use crate::job::failure::Fault;

/// Ends the job's containers and takes away what was only its own.
///
/// # Errors
/// The engine does not answer, or a container resists.
pub(crate) async fn end(
    engine: &Engine,
    job: &FormerJob,
    short_token: &str,
    tasks: &TaskTracker,
    keep_volumes: bool,
) -> Result<(), Fault> {
    let mut leftovers = Leftovers::new(engine.clone(), tasks.clone(), keep_volumes);
    let labels = names::label_filter(job, short_token, &[]);
    containers(engine, &labels).await?.iter().for_each(|id| leftovers.note_container(id));
    let temporary = names::label_filter(job, short_token, &[("reusable", "false")]);
    volumes(engine, &temporary).await?.iter().for_each(|name| leftovers.note_volume(name));
    networks(engine, &labels).await?.iter().for_each(|id| leftovers.note_network(id));
    // What counts is what is there now.
    let _left = leftovers.remove().await;
    let resisting = containers(engine, &labels).await?;
    if resisting.is_empty() {
        return Ok(());
    }
    Err(Fault::unclassified(format!("containers that do not go: {}", resisting.join(", "))))
}

type Filters = HashMap<String, Vec<String>>;

async fn containers(engine: &Engine, labels: &Filters) -> Result<Vec<String>, Fault> {
    let options = ListContainersOptionsBuilder::default().all(true).filters(labels).build();
    let found = engine.api.list_containers(Some(options)).await.map_err(|error| errors::fault(&error))?;
    found.into_iter().filter_map(|container| container.id).map(engine_id::checked).collect()
}

async fn volumes(engine: &Engine, labels: &Filters) -> Result<Vec<String>, Fault> {
    let options = ListVolumesOptionsBuilder::default().filters(labels).build();
    let found = engine.api.list_volumes(Some(options)).await.map_err(|error| errors::fault(&error))?;
    found.volumes.unwrap_or_default().into_iter().map(|volume| engine_id::checked(volume.name)).collect()
}

async fn networks(engine: &Engine, labels: &Filters) -> Result<Vec<String>, Fault> {
    let options = ListNetworksOptionsBuilder::default().filters(labels).build();
    let found = engine.api.list_networks(Some(options)).await.map_err(|error| errors::fault(&error))?;
    found.into_iter().filter_map(|network| network.id).map(engine_id::checked).collect()
}
