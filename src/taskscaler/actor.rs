//! Carries out what the core decides, and tells it what happened.
//!
//! One loop owns the core. It takes the core's commands, keeps what must be kept before it acts, starts each act
//! as a task of its own, and waits for the next message, the end of a task, or the core's timeout. It chooses
//! nothing: even a panic in a task is an event for the core.
//!
//! ```text
//!  handles ──messages──▶ ┌───────┐ ──commands──▶ keep (one commit at a time) ──▶ act
//!  tasks ────events────▶ │ core  │
//!  timer ──────────────▶ └───────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{Instrument, Span, debug, error, info, warn};

use crate::backoff::Backoff;
use crate::error_chain::Chain;
use crate::fleeting::access::InstanceConnector;
use crate::fleeting::group::{InstanceGroup, Lease, ProviderInfo};
use crate::fleeting::host_keys::HostKeys;
use crate::fleeting::registry;
use crate::ids::{InstanceId, ReservationKey};
use crate::pulse::{BEAT, Pulse};
use crate::time;

use super::calls::{self, FormerJobs};
use super::claim::Claim;
use super::core::outbox::{Outbox, Step};
use super::core::reasons::{AcquireError, LossCause, Refusal};
use super::core::records::Record;
use super::core::settings::{Settings as CoreSettings, UnknownInstances};
use super::core::{Command, Core, Event, Place, Ticket};
use super::handle::{Acquisition, Dropped, Handle, Loss, Message, Shared, Snapshot};
use super::log;
use super::opening::{self, Opened};
use super::settings::Settings;
use super::store::Store;
use super::timings::Timings;

/// Messages that may wait: a poll and a job of every runner's request at once stay far below.
const MAILBOX: usize = 256;
/// The first and the longest wait before a start or a commit that failed is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(60);

/// How long giving back a claim may take at the end.
const LETTING_GO: Duration = Duration::from_secs(5);

/// What a taskscaler works with.
#[derive(Debug)]
pub struct Parts {
    pub group: Arc<dyn InstanceGroup>,
    pub settings: Settings,
    pub store: Arc<dyn Store>,
    pub host_keys: HostKeys,
    pub former_jobs: Arc<dyn FormerJobs>,
    /// This manager, to others who may want the same group.
    pub holder: String,
    /// The runner's fields, for the log.
    pub span: Span,
    pub pulse: Pulse,
}

/// The loop of one taskscaler. It runs until [`Handle::shutdown`] or [`Handle::retire`] has come to its end, or
/// every handle is gone.
#[derive(Debug)]
pub struct Actor {
    core: Core,
    parts: Parts,
    timings: Timings,
    unknown: UnknownInstances,
    claim: Claim,
    mailbox: mpsc::Receiver<Message>,
    handle: mpsc::WeakSender<Message>,
    shared: Arc<Shared>,
    tasks: JoinSet<Done>,
    tickets: Tickets,
    losses: BTreeMap<ReservationKey, Arc<Loss>>,
    instances: BTreeMap<InstanceId, Arc<dyn InstanceConnector>>,
    outbox: Outbox,
    /// Somebody was refused capacity since capacity was last announced.
    refused: bool,
    /// Every handle is gone.
    abandoned: bool,
    /// The runner was removed from the configuration.
    retired: bool,
    stopped: Option<u32>,
    shutdown_replies: Vec<oneshot::Sender<u32>>,
}

/// Who waits for an answer of the core.
#[derive(Debug, Default)]
struct Tickets {
    last: u64,
    reservations: BTreeMap<Ticket, oneshot::Sender<Result<(), Refusal>>>,
    acquisitions: BTreeMap<Ticket, (ReservationKey, AcquisitionReply)>,
}

type AcquisitionReply = oneshot::Sender<Result<Acquisition, AcquireError>>;

/// How a task ended.
#[derive(Debug)]
enum Done {
    Event(Event),
    Opened(Box<Opened>),
    Committed,
    HostKeysKept,
    LookedUp(Option<ProviderInfo>),
    Lease(Result<Lease, String>),
}

impl Tickets {
    fn next(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }
}

impl Actor {
    /// An actor and the way to it. The caller runs [`Actor::run`] as a task of its own.
    pub fn new(parts: Parts) -> (Self, Handle) {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let shared = Arc::new(Shared::default());
        let actor = Self {
            core: Core::new(parts.settings.core.clone(), time::now()),
            timings: Timings::new(&parts.settings.buckets),
            parts,
            unknown: UnknownInstances::Report,
            claim: Claim::default(),
            mailbox,
            handle: sender.downgrade(),
            shared: shared.clone(),
            tasks: JoinSet::new(),
            tickets: Tickets::default(),
            losses: BTreeMap::new(),
            instances: BTreeMap::new(),
            outbox: Outbox::default(),
            refused: false,
            abandoned: false,
            retired: false,
            stopped: None,
            shutdown_replies: Vec::new(),
        };
        (actor, Handle::new(sender, shared))
    }

    /// Serves until the end.
    pub async fn run(mut self) {
        let span = self.parts.span.clone();
        self.serve().instrument(span).await;
    }

    async fn serve(&mut self) {
        self.open(Duration::ZERO);
        loop {
            // What is done here may be the last thing that ever happens.
            self.pump();
            self.announce_capacity();
            if self.is_finished() {
                break;
            }
            self.step().await;
        }
        self.finish().await;
    }

    /// Waits for the next thing that happens, and takes it in.
    async fn step(&mut self) {
        self.parts.pulse.beat("its next event");
        let timeout = self.core.poll_timeout();
        let claim = self.claim.poll_timeout(time::now().instant);
        let shared = self.shared.clone();
        let host_keys = self.parts.host_keys.clone();
        tokio::select! {
            message = self.mailbox.recv(), if !self.abandoned => match message {
                Some(message) => self.receive(message),
                None => {
                    // Nobody can ask for anything any more. A runner that was removed gives its fleet up in peace.
                    self.abandoned = true;
                    if !self.retired {
                        self.handle_event(Event::ShutdownRequested);
                    }
                }
            },
            Some(done) = self.tasks.join_next() => match done {
                Ok(done) => self.complete(done),
                // Calls catch their panics, and commits try again: this was an opening, or a lease.
                Err(fault) => self.recover(&fault),
            },
            () = host_keys.recorded() => self.keep_host_keys(),
            () = shared.something_dropped.notified() => self.clear_dropped(),
            () = time::sleep_until(timeout) => self.core.handle_timeout(time::now()),
            () = time::sleep_until(claim) => self.renew_claim(),
            () = tokio::time::sleep(BEAT) => {}
        }
    }

    /// A key that cannot be kept is no reason to stop: at worst it is learnt again.
    fn keep_host_keys(&mut self) {
        let keys = self.parts.host_keys.take_new();
        let store = self.parts.store.clone();
        let keep = move || {
            if let Err(error) = store.keep_host_keys(&keys) {
                warn!(error = %Chain(&error), "the host keys of instances could not be kept");
            }
            Done::HostKeysKept
        };
        self.tasks.spawn_blocking(keep);
    }

    fn is_finished(&self) -> bool {
        self.stopped.is_some() && self.outbox.is_kept()
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Reserve { key, reply } => {
                let ticket = self.tickets.next();
                self.tickets.reservations.insert(ticket, reply);
                self.handle_event(Event::ReservationRequested { ticket, key });
            }
            Message::Unreserve { key } => {
                self.losses.remove(&key);
                self.handle_event(Event::Unreserved { key });
            }
            Message::Acquire { key, reply } => {
                // Whoever asks again has dropped what it had before, and that comes first.
                self.clear_dropped();
                let ticket = self.tickets.next();
                self.tickets.acquisitions.insert(ticket, (key.clone(), reply));
                self.handle_event(Event::AcquisitionRequested { ticket, key });
            }
            Message::Release { key, release } => {
                self.losses.remove(&key);
                self.handle_event(Event::Released { key, release });
            }
            Message::Snapshot { reply } => {
                let fleet = self.core.snapshot(time::now());
                let timings = self.timings.clone();
                let is_kept = !self.shared.is_unkept.load(Ordering::Relaxed);
                // Who asked may have gone.
                drop(reply.send(Snapshot { fleet, timings, is_kept }));
            }
            Message::Reconfigure { settings } => {
                if settings.buckets != self.parts.settings.buckets {
                    self.timings = Timings::new(&settings.buckets);
                }
                for instance in self.instances.values() {
                    instance.reconfigure(settings.connector);
                }
                self.parts.settings = *settings;
                let core = self.core_settings();
                self.handle_event(Event::SettingsChanged(Box::new(core)));
                let group = self.parts.group.clone();
                self.tasks.spawn(async move { Done::LookedUp(calls::look_up(group).await) }.in_current_span());
            }
            Message::Drain => {
                self.retired = true;
                self.handle_event(Event::DrainRequested);
            }
            Message::Shutdown { reply } => {
                self.shutdown_replies.push(reply);
                self.handle_event(Event::ShutdownRequested);
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        self.core.handle(event, time::now());
    }

    fn clear_dropped(&mut self) {
        for dropped in self.shared.take_dropped() {
            match dropped {
                Dropped::Waiter(key) => self.handle_event(Event::AcquisitionCancelled { key }),
                Dropped::Claim(key, release) => {
                    self.losses.remove(&key);
                    self.handle_event(Event::Released { key, release });
                }
            }
        }
    }

    fn complete(&mut self, done: Done) {
        match done {
            Done::Event(event) => self.handle_event(event),
            Done::Opened(opened) => {
                self.unknown = self.parts.settings.unknown_instances(opened.ownership);
                self.claim.granted(opened.lease, time::now().instant);
                let core = self.core_settings();
                info!(group = opened.info.id, max_size = opened.info.max_size, unknown = ?self.unknown, "instance group found");
                self.handle_event(Event::SettingsChanged(Box::new(core)));
                let (group_max, restored) = (opened.info.max_size, opened.restored);
                self.handle_event(Event::Started { group_max, restored });
                self.tell_claim();
            }
            Done::Committed => {
                let acts = self.outbox.kept();
                self.act_all(acts);
            }
            // What was known of the group holds on.
            Done::HostKeysKept | Done::LookedUp(None) => {}
            Done::LookedUp(Some(info)) => self.handle_event(Event::GroupLookedUp { group_max: info.max_size }),
            Done::Lease(Ok(lease)) => {
                self.claim.granted(lease, time::now().instant);
                self.tell_claim();
            }
            Done::Lease(Err(error)) => {
                warn!(error, "the claim on the group could not be renewed");
                self.claim.renewal_failed(time::now().instant);
                self.tell_claim();
            }
        }
    }

    fn recover(&mut self, fault: &tokio::task::JoinError) {
        error!(error = %fault, "a task of the taskscaler ended badly");
        if self.claim.exists() {
            self.claim.renewal_failed(time::now().instant);
        } else {
            self.open(RETRY_FIRST);
        }
    }

    /// Takes the core's commands, and starts what can be started.
    fn pump(&mut self) {
        loop {
            // What was just done may have been an event for the core.
            while let Some(command) = self.core.next_command() {
                self.outbox.put(command);
            }
            match self.outbox.next_step() {
                None => return,
                Some(Step::Act(acts)) => self.act_all(acts),
                Some(Step::Keep(records)) if self.parts.store.is_durable() => {
                    self.forget_host_keys(&records);
                    let store = self.parts.store.clone();
                    self.tasks.spawn(commit(store, records, self.shared.clone()).in_current_span());
                }
                Some(Step::Keep(records)) => {
                    self.forget_host_keys(&records);
                    let acts = self.outbox.kept();
                    self.act_all(acts);
                }
            }
        }
    }

    fn forget_host_keys(&self, records: &[Record]) {
        for record in records {
            if let Record::InstanceForgotten(id) = record {
                self.parts.host_keys.forget(id);
            }
        }
    }

    fn act_all(&mut self, acts: Vec<Command>) {
        for command in acts {
            self.act(command);
        }
    }

    fn act(&mut self, command: Command) {
        let group = self.parts.group.clone();
        match command {
            Command::Record(_) => self.outbox.put(command),
            Command::ListGroup => self.call(calls::list(group)),
            Command::Increase { creation, count, reason: _ } => {
                let time = self.claim.time_for_a_call(time::now().instant);
                self.call(calls::increase(group, creation, count, time));
            }
            Command::Decrease { victims } => {
                let ids = victims.into_iter().map(|victim| victim.instance).collect();
                let time = self.claim.time_for_a_call(time::now().instant);
                self.call(calls::decrease(group, ids, time));
            }
            Command::Prepare { instance } => {
                let instance = self.instance(&instance);
                let (readiness, former_jobs) = (self.parts.settings.readiness.clone(), self.parts.former_jobs.clone());
                self.call(calls::prepare(instance, readiness, former_jobs));
            }
            Command::Check { instance } => {
                let instance = self.instance(&instance);
                self.call(calls::check(instance, group));
            }
            Command::Examine { instance, slot, key } => {
                let instance = self.instance(&instance);
                self.call(calls::examine(instance, slot, key, self.parts.former_jobs.clone()));
            }
            Command::Disconnect { instance } => {
                if let Some(instance) = self.instances.remove(&instance) {
                    instance.mark_gone();
                }
            }
            Command::GrantReservation { ticket, key } => self.grant_reservation(ticket, key),
            Command::RefuseReservation { ticket, refusal } => {
                self.refused = true;
                if let Some(reply) = self.tickets.reservations.remove(&ticket) {
                    drop(reply.send(Err(refusal)));
                }
            }
            Command::GrantAcquisition { ticket, key, place, uses } => self.grant_acquisition(ticket, key, place, uses),
            Command::RejectAcquisition { ticket, error } => {
                if let Some((_, reply)) = self.tickets.acquisitions.remove(&ticket) {
                    drop(reply.send(Err(error)));
                }
            }
            Command::RevokeAcquisition { key, cause } => self.revoke(&key, cause),
            Command::Report(decision) => {
                log::write(&decision);
                self.timings.observe(&decision);
            }
            Command::Stop { remaining } => self.stopped = Some(remaining),
        }
    }

    fn call(&mut self, call: impl Future<Output = Event> + Send + 'static) {
        self.tasks.spawn(async move { Done::Event(call.await) }.in_current_span());
    }

    fn grant_reservation(&mut self, ticket: Ticket, key: ReservationKey) {
        let reply = self.tickets.reservations.remove(&ticket);
        if reply.is_none_or(|reply| reply.send(Ok(())).is_err()) {
            self.handle_event(Event::Unreserved { key });
        }
    }

    fn grant_acquisition(&mut self, ticket: Ticket, key: ReservationKey, place: Place, uses: u32) {
        let Some((_, reply)) = self.tickets.acquisitions.remove(&ticket) else { return };
        let asked_again = self.tickets.acquisitions.values().any(|(waiting, _)| *waiting == key);
        if reply.is_closed() && asked_again {
            // The slot stays taken: the later question is answered with it.
            return;
        }
        let Some(sender) = self.handle.upgrade() else { return };
        let loss = Arc::new(Loss::default());
        self.losses.insert(key.clone(), loss.clone());
        let instance = self.instance(&place.instance);
        let handle = Handle::new(sender, self.shared.clone());
        // Where the one who waited has gone, dropping the acquisition releases it.
        drop(reply.send(Ok(Acquisition::new(key, place, uses, instance, loss, handle))));
    }

    fn revoke(&mut self, key: &ReservationKey, cause: LossCause) {
        if let Some(loss) = self.losses.get(key) {
            loss.happened(cause);
        }
    }

    fn instance(&mut self, id: &InstanceId) -> Arc<dyn InstanceConnector> {
        let Parts { group, settings, host_keys, .. } = &self.parts;
        let new = || registry::connect(id.clone(), group.clone(), settings.connector, host_keys.clone());
        self.instances.entry(id.clone()).or_insert_with(new).clone()
    }

    /// Tells pollers that were refused when it may be worth another try.
    fn announce_capacity(&mut self) {
        if self.refused && self.core.would_admit(time::now()) {
            self.refused = false;
            self.shared.capacity_changed.notify_one();
        }
    }

    fn open(&mut self, delay: Duration) {
        let group = self.parts.group.clone();
        let (store, holder) = (self.parts.store.clone(), self.parts.holder.clone());
        let opening = async move {
            tokio::time::sleep(delay).await;
            Done::Opened(Box::new(opening::open(group, store, holder).await))
        };
        self.tasks.spawn(opening.in_current_span());
    }

    fn renew_claim(&mut self) {
        self.tell_claim();
        let Some(lease) = self.claim.begin_renewal(time::now().instant) else { return };
        let group = self.parts.group.clone();
        let holder = self.parts.holder.clone();
        let renewal = async move { Done::Lease(opening::renew(group, lease, holder).await) };
        self.tasks.spawn(renewal.in_current_span());
    }

    fn tell_claim(&mut self) {
        let held = self.claim.time_for_a_call(time::now().instant).is_some();
        self.handle_event(Event::LeaseChanged { held });
    }

    fn core_settings(&self) -> CoreSettings {
        CoreSettings { unknown: self.unknown, ..self.parts.settings.core.clone() }
    }

    /// The end: whoever waits is answered by the drop of their replies, and the group is let go.
    async fn finish(&mut self) {
        self.tasks.shutdown().await;
        if let Some(Step::Act(acts)) = self.outbox.next_step() {
            self.act_all(acts);
        }
        let group = self.parts.group.clone();
        // What was sent and not answered may yet arrive: then the claim runs out by itself.
        let lease = self.claim.take().filter(|_| !self.core.is_changing_group());
        if tokio::time::timeout(LETTING_GO, opening::let_go(group, lease)).await.is_err() {
            warn!("the group could not be let go in time");
        }
        let remaining = self.stopped.unwrap_or(0);
        for reply in self.shutdown_replies.drain(..) {
            if reply.send(remaining).is_err() {
                debug!("nobody waits for the shutdown any more");
            }
        }
    }
}

/// Keeps records, however often it takes: what they stand for must not happen before.
async fn commit(store: Arc<dyn Store>, records: Vec<Record>, shared: Arc<Shared>) -> Done {
    let records = Arc::new(records);
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    loop {
        let (store, records) = (store.clone(), records.clone());
        match tokio::task::spawn_blocking(move || store.commit(&records)).await {
            Ok(Ok(())) => {
                if shared.is_unkept.swap(false, Ordering::Relaxed) {
                    info!("the fleet's state is kept again");
                }
                return Done::Committed;
            }
            Ok(Err(error)) => {
                error!(error = %Chain(&error), "the fleet's state cannot be kept; nothing is done until it is")
            }
            Err(fault) => error!(error = %fault, "the fleet's state cannot be kept; nothing is done until it is"),
        }
        shared.is_unkept.store(true, Ordering::Relaxed);
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
