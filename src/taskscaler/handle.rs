//! The way to a taskscaler for the rest of the program.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::fleeting::access::InstanceConnector;
use crate::ids::{InstanceId, ReservationKey};

use super::core::reasons::{AcquireError, LossCause, Refusal};
use super::core::snapshot::Snapshot as CoreSnapshot;
use super::core::{Place, Release};
use super::settings::Settings;
use super::timings::Timings;

/// A cheap, cloneable way to one runner's taskscaler.
#[derive(Clone, Debug)]
pub struct Handle {
    mailbox: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// What handles, acquisitions and the actor share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// What was dropped where nobody could wait: as many at most as there are claims.
    dropped: Mutex<VecDeque<Dropped>>,
    pub(super) something_dropped: Notify,
    pub(super) capacity_changed: Notify,
    /// The last commit failed: it is tried again, and nothing is done meanwhile.
    pub(super) is_unkept: AtomicBool,
}

/// Something that ended by being dropped.
#[derive(Debug)]
pub(super) enum Dropped {
    /// Nobody waits for this slot any more.
    Waiter(ReservationKey),
    /// A slot, or what a job has of one, was not released in so many words.
    Claim(ReservationKey, Release),
}

impl Shared {
    pub(super) fn take_dropped(&self) -> VecDeque<Dropped> {
        std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn drop_later(&self, dropped: Dropped) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push_back(dropped);
        self.something_dropped.notify_one();
    }
}

/// What can be asked of the actor.
#[derive(Debug)]
pub(super) enum Message {
    Reserve { key: ReservationKey, reply: oneshot::Sender<Result<(), Refusal>> },
    Unreserve { key: ReservationKey },
    Acquire { key: ReservationKey, reply: oneshot::Sender<Result<Acquisition, AcquireError>> },
    Release { key: ReservationKey, release: Release },
    Snapshot { reply: oneshot::Sender<Snapshot> },
    Reconfigure { settings: Box<Settings> },
    Drain,
    Shutdown { reply: oneshot::Sender<u32> },
}

/// The fleet at one moment, with the times that things took so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub fleet: CoreSnapshot,
    pub timings: Timings,
    /// Whether the store keeps what the fleet does. Where it fails, nothing is created, deleted or granted.
    pub is_kept: bool,
}

impl Handle {
    pub(super) fn new(mailbox: mpsc::Sender<Message>, shared: Arc<Shared>) -> Self {
        Self { mailbox, shared }
    }

    /// Reserves capacity for a job that a poll may bring.
    ///
    /// # Errors
    /// The reason why the poll had better not be made.
    pub async fn reserve(&self, key: &ReservationKey) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Reserve { key: key.clone(), reply }).await;
        answer.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Gives a reservation back. An unknown key is fine.
    pub async fn unreserve(&self, key: &ReservationKey) {
        self.send(Message::Unreserve { key: key.clone() }).await;
    }

    /// Waits for a slot. Dropping the future gives up the wait and keeps the reservation; after a failure the
    /// same key may ask again.
    ///
    /// # Errors
    /// Where there was none in `instance_acquire_timeout`, or will be none.
    pub async fn acquire(&self, key: &ReservationKey) -> Result<Acquisition, AcquireError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Acquire { key: key.clone(), reply }).await;
        let waiter = Waiter { key: Some(key.clone()), shared: &self.shared };
        let mut result = answer.await.unwrap_or(Err(AcquireError::Stopping));
        waiter.answered();
        if let Ok(acquisition) = &mut result {
            acquisition.hold = Hold::Held;
        }
        result
    }

    /// As [`Handle::unreserve`], where nobody can wait.
    pub fn abandon(&self, key: &ReservationKey) {
        self.shared.drop_later(Dropped::Claim(key.clone(), Release::Unused));
    }

    /// Ends the claim of a key, whatever state it is in. An unknown key is fine.
    pub async fn release(&self, key: &ReservationKey, release: Release) {
        self.send(Message::Release { key: key.clone(), release }).await;
    }

    /// Resolves when a poll that was refused capacity may be worth another try.
    pub async fn capacity_changed(&self) {
        self.shared.capacity_changed.notified().await;
    }

    /// Whether the taskscaler has ended.
    pub fn has_ended(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// The fleet as it is now; `None` where the taskscaler has ended.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Snapshot { reply }).await;
        answer.await.ok()
    }

    /// Other settings hold from now on.
    pub async fn reconfigure(&self, settings: Settings) {
        self.send(Message::Reconfigure { settings: Box::new(settings) }).await;
    }

    /// The runner is gone from the configuration: no more jobs, and each instance goes when its jobs are done.
    pub async fn retire(&self) {
        self.send(Message::Drain).await;
    }

    /// Ends the taskscaler; instances are kept or deleted as the settings say. How many instances remain.
    pub async fn shutdown(&self) -> u32 {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Shutdown { reply }).await;
        answer.await.unwrap_or(0)
    }

    /// An actor that has ended answers nothing, and dropped replies say so.
    async fn send(&self, message: Message) {
        drop(self.mailbox.send(message).await);
    }
}

/// Tells the actor when the one who waits for a slot has gone.
struct Waiter<'a> {
    key: Option<ReservationKey>,
    shared: &'a Shared,
}

impl Waiter<'_> {
    fn answered(mut self) {
        self.key = None;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.shared.drop_later(Dropped::Waiter(key));
        }
    }
}

/// A job's slot on an instance, until it is released.
#[derive(Debug)]
pub struct Acquisition {
    key: ReservationKey,
    place: Place,
    uses: u32,
    instance: Arc<dyn InstanceConnector>,
    loss: Arc<Loss>,
    handle: Handle,
    hold: Hold,
}

/// Who answers for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The job has not been told yet.
    OnTheWay,
    Held,
    Released,
}

/// Whether and why an acquisition was taken away.
#[derive(Debug, Default)]
pub(super) struct Loss {
    cause: OnceLock<LossCause>,
    token: CancellationToken,
}

impl Loss {
    pub(super) fn happened(&self, cause: LossCause) {
        // The first cause stands.
        self.cause.get_or_init(|| cause);
        self.token.cancel();
    }
}

impl Acquisition {
    pub(super) fn new(
        key: ReservationKey,
        place: Place,
        uses: u32,
        instance: Arc<dyn InstanceConnector>,
        loss: Arc<Loss>,
        handle: Handle,
    ) -> Self {
        Self { key, place, uses, instance, loss, handle, hold: Hold::OnTheWay }
    }

    pub fn key(&self) -> &ReservationKey {
        &self.key
    }

    pub fn instance_id(&self) -> &InstanceId {
        &self.place.instance
    }

    /// The slot's number on its instance, from 0.
    pub fn slot(&self) -> u32 {
        self.place.slot
    }

    /// Which use of the instance this is, from 1.
    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// The way to the instance.
    pub fn instance(&self) -> &Arc<dyn InstanceConnector> {
        &self.instance
    }

    /// Resolves when the instance is gone, with the reason.
    pub async fn lost(&self) -> LossCause {
        self.loss.token.cancelled().await;
        self.loss.cause.get().cloned().unwrap_or_else(|| LossCause::UnexpectedlyRemoved(self.place.instance.clone()))
    }

    /// The reason why the instance is gone, if it is.
    pub fn loss(&self) -> Option<LossCause> {
        self.loss.cause.get().cloned()
    }

    /// Gives the slot back.
    pub async fn release(mut self, release: Release) {
        self.hold = Hold::Released;
        self.handle.release(&self.key, release).await;
    }

    /// The instance could not prepare the job: nothing more is started there, and the job waits for another.
    ///
    /// # Errors
    /// As [`Handle::acquire`].
    pub async fn replaced(self) -> Result<Self, AcquireError> {
        let (handle, key) = (self.handle.clone(), self.key.clone());
        self.release(Release::Broken).await;
        handle.acquire(&key).await
    }
}

/// A slot that is dropped was left by a job that did not end in order: what it left on the instance is not known.
impl Drop for Acquisition {
    fn drop(&mut self) {
        let release = match self.hold {
            Hold::OnTheWay => Release::Unused,
            Hold::Held => Release::Broken,
            Hold::Released => return,
        };
        self.handle.shared.drop_later(Dropped::Claim(self.key.clone(), release));
    }
}
