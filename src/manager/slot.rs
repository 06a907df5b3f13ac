//! A job's claim on capacity, from the reservation of its poll to the release after its clean-up.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::ReusableBoxFuture;
use tracing::warn;

use super::beginning::Beginning;
use super::poller::Received;
use super::served::ServedRunner;
use crate::config::resolved::Autoscaler;
use crate::error_chain::Chain;
use crate::fleeting::registry;
use crate::go_duration::GoDuration;
use crate::ids::{JobId, ReservationKey};
use crate::job::failure::Fault;
use crate::taskscaler::{AcquireError, Acquisition, Release};

/// The claim. It holds a slot on an instance, or is about to; where it is dropped, the capacity is free again.
pub struct Slot {
    runner: Arc<ServedRunner>,
    reservation: ReservationKey,
    job: JobId,
    /// As the executor knows the job.
    job_name: String,
    acquisition: Option<Acquisition>,
    /// The wait for one. It goes on whoever looks at it, so that the place in the queue is kept.
    acquiring: Option<ReusableBoxFuture<'static, Result<Acquisition, AcquireError>>>,
    /// Of the first attempt to acquire; later ones have the whole time again.
    acquire_by: Option<Instant>,
    is_released: bool,
}

impl Slot {
    /// The claim of a job that has just been received.
    pub fn new(runner: Arc<ServedRunner>, received: &Received) -> Self {
        let acquire_by = crate::time::now().instant + acquire_timeout(&runner);
        Self {
            runner,
            reservation: received.reservation.clone(),
            job: received.job.credentials.id,
            job_name: Beginning::name_of(received),
            acquisition: None,
            acquiring: None,
            acquire_by: Some(acquire_by),
            is_released: false,
        }
    }

    /// The claim's key.
    pub fn reservation(&self) -> &ReservationKey {
        &self.reservation
    }

    /// Waits for the slot; may be dropped and called again without losing the place in the queue.
    ///
    /// # Errors
    /// There is none, and will be none of this attempt.
    pub async fn wait(&mut self) -> Result<(), AcquireError> {
        if self.acquisition.is_none() {
            let (capacity, key) = (self.runner.capacity.clone(), self.reservation.clone());
            let acquire = || ReusableBoxFuture::new(async move { capacity.acquire(&key).await });
            let acquired = self.acquiring.get_or_insert_with(acquire).await;
            self.acquiring = None;
            self.acquisition = Some(acquired?);
        }
        Ok(())
    }

    /// Whether the slot is there.
    pub fn is_held(&self) -> bool {
        self.acquisition.is_some()
    }

    /// When the first attempt to acquire it ends.
    pub fn acquire_by(&self) -> Option<Instant> {
        self.acquire_by
    }

    /// The slot, waited for if need be.
    ///
    /// # Errors
    /// There was none in time; another try may have more luck.
    pub async fn hold(&mut self) -> Result<&Acquisition, Fault> {
        let whole = acquire_timeout(&self.runner);
        let now = crate::time::now().instant;
        // The time that passed before the job was accepted counts, but a short try remains.
        let limit =
            self.acquire_by.take().map_or(whole, |by| by.saturating_duration_since(now).max(Duration::from_secs(1)));
        match tokio::time::timeout(limit, self.wait()).await {
            Ok(Ok(())) => self.acquisition.as_ref().ok_or_else(|| Fault::unclassified("no slot")),
            Ok(Err(error)) => Err(Fault::unclassified(format!("unable to acquire instance: {}", Chain(&error)))),
            Err(_) => {
                self.acquiring = None;
                let whole = GoDuration::saturating(whole);
                Err(Fault::unclassified(format!("unable to acquire instance within the configured timeout of {whole}")))
            }
        }
    }

    /// Whether the instance is destroyed after this job, with all that the job leaves on it.
    pub fn is_last_use(&self) -> bool {
        let fleet = &self.runner.config.fleet;
        self.acquisition.as_ref().is_some_and(|acquisition| is_destroyed_after(fleet, acquisition.uses()))
    }

    /// Something of the job may be left on the instance: that is ended before the next job is given to it.
    pub fn note_remains(&self) {
        if let Some(acquisition) = &self.acquisition {
            let executor = self.runner.executor.name();
            self.runner.remains.note(acquisition.instance_id(), self.job, &self.job_name, executor);
        }
    }

    /// Resolves when the instance is gone, with the reason.
    pub async fn lost(&self) -> String {
        match &self.acquisition {
            Some(acquisition) => acquisition.lost().await.to_string(),
            None => std::future::pending().await,
        }
    }

    /// The instance did not serve: the slot is given up, so that the next try gets another instance.
    pub async fn give_up_instance(&mut self) {
        if let Some(acquisition) = self.acquisition.take() {
            warn!(instance = %acquisition.instance_id(), "the job could not begin on this instance: trying another");
            acquisition.release(Release::Broken).await;
        }
    }

    /// The capacity is free again.
    pub async fn release(mut self, release: Release) {
        self.acquiring = None;
        self.is_released = true;
        match self.acquisition.take() {
            Some(acquisition) => acquisition.release(release).await,
            None => self.runner.capacity.unreserve(&self.reservation).await,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A wait that ends leaves the reservation, and an acquisition takes it along.
        self.acquiring = None;
        if !self.is_released && self.acquisition.is_none() {
            self.runner.capacity.abandon(&self.reservation);
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reservation, acquisition, .. } = self;
        f.debug_struct("Slot")
            .field("reservation", reservation)
            .field("acquisition", acquisition)
            .finish_non_exhaustive()
    }
}

/// `instance_acquire_timeout`.
fn acquire_timeout(runner: &ServedRunner) -> Duration {
    runner.config.fleet.instance_acquire_timeout
}

/// Whether nothing of an instance is left after its use number `uses`, its engine included.
fn is_destroyed_after(fleet: &Autoscaler, uses: u32) -> bool {
    let facts = registry::facts(&fleet.plugin_config);
    let destroys = facts.instances_are_destroyed && !facts.engine_survives_instance;
    destroys && fleet.max_use_count > 0 && uses >= fleet.max_use_count && fleet.capacity_per_instance <= 1
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::environment::Environment;

    fn check(plugin: &str, settings: &str, uses: u32, destroyed: bool) {
        let text = format!(
            r#"
[[runners]]
  name = "r"
  url = "http://127.0.0.1"
  token = "glrt-0123456789"
  executor = "docker-autoscaler"
  [runners.docker]
    image = "busybox"
  [runners.autoscaler]
    plugin = "{plugin}"
    capacity_per_instance = 1
    max_use_count = 2
    [runners.autoscaler.plugin_config]
{settings}
    [[runners.autoscaler.policy]]
      idle_count = 1
"#
        );
        let loaded = crate::config::load(Path::new("config.toml"), &text, &Environment::default());
        let config = loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
        let autoscaler = config.runners[0].autoscaler().unwrap();
        assert_eq!(is_destroyed_after(autoscaler, uses), destroyed, "{plugin}, use {uses}");
    }

    #[test]
    fn only_an_instance_that_its_provider_destroys_takes_the_jobs_things_with_it() {
        let static_host = "instances.a.external_addr = \"127.0.0.1\"";
        check("aws", "name = \"asg\"", 1, false);
        check("aws", "name = \"asg\"", 2, true);
        check("static", static_host, 2, false);
        check("local", "", 2, false);
    }
}
