//! The manager's loop: it does what [`Admission`] says, owns every poll and job as a task, and follows
//! the operator's [`Control`]s.
//!
//! One turn: start the polls that may go out → wait for a task's end, a control, capacity, or the next
//! time something is due → turn it into an event for the deciders. The loop ends when it was told to stop
//! and nothing runs any more, or when [`Phase::Exiting`] is reached.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::admission::{Admission, Limits, Poll, PollOutcome, RunnerLimits};
use super::observe::{Observed, Observer};
use super::poller::{self, Polled, Received};
use super::registry::Registry;
use super::served::{Assembly, ServedRunner};
use super::shutdown::{Control, Phase};
use super::telling::{Outbox, Untold};
use super::worker::{self, JobDeps};
use crate::config::resolved::{Config, FleetRunner, Runner};
use crate::gitlab::JobCredentials;
use crate::ids::{ReservationKey, RunnerKey};
use crate::pulse::{BEAT, Pulse};
use crate::taskscaler::{self, Release};

/// How often a stopping manager says what it waits for.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How long polls may go on after a drain began: their answer may already be on its way.
const POLLS_END_WITHIN: Duration = Duration::from_secs(2);
/// A poll that takes longer stands still: it is long after each of its limits.
const POLLS_END_ANYWAY: Duration = Duration::from_secs(2 * 60 * 60);
/// How long a manager that has ended waits for GitLab to hear of jobs: the next one tells what is left.
const TELL_AT_END: Duration = Duration::from_secs(2);

/// How the manager ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every job has ended and told its state.
    Clean,
    /// Jobs were left behind: the time was up, or a further signal came.
    LeftBehind { jobs: usize },
    /// No job was, but a further signal came before the instances were given up as their settings say.
    Hurried,
}

/// The end of one of the manager's tasks.
#[derive(Debug)]
enum TaskEnd {
    /// The runner as it was when it asked: a job that comes is run, whatever was reloaded meanwhile.
    Poll {
        runner: RunnerKey,
        served: Arc<ServedRunner>,
        polled: Polled,
    },
    Job {
        runner: RunnerKey,
        untold: Option<Box<Untold>>,
    },
    Capacity {
        runner: RunnerKey,
    },
}

/// What a task is, to be known even when it panics.
#[derive(Debug)]
enum TaskKind {
    Poll(RunnerKey, Holding),
    Job(RunnerKey, JobCredentials, Holding),
    Capacity,
}

/// What a task has of its runner's capacity.
#[derive(Debug)]
struct Holding {
    capacity: taskscaler::Handle,
    key: ReservationKey,
}

impl Holding {
    fn new(served: &ServedRunner, key: &ReservationKey) -> Self {
        Self { capacity: served.capacity.clone(), key: key.clone() }
    }

    /// The task is gone without a word: what it did on its instance is not known.
    async fn forfeit(self) {
        self.capacity.release(&self.key, Release::Broken).await;
    }
}

/// The actor. It owns the running jobs and polls.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    admission: Admission,
    served: BTreeMap<RunnerKey, Arc<ServedRunner>>,
    /// No longer in the configuration, with polls or jobs under way: their capacity stays until those have ended.
    leaving: BTreeMap<RunnerKey, Arc<ServedRunner>>,
    /// No longer in the configuration, with nothing under way: their instances are given up.
    retiring: Vec<Arc<ServedRunner>>,
    /// In the configuration, and could not be served as it says; with what was said of it.
    unserved: BTreeMap<RunnerKey, String>,
    assembly: Assembly,
    jobs: JobDeps,
    registry: Registry,
    tasks: JoinSet<TaskEnd>,
    scalers: JoinSet<()>,
    outbox: Outbox,
    kinds: BTreeMap<Id, TaskKind>,
    /// The tasks that wait for capacity, one a runner.
    watchers: BTreeMap<RunnerKey, AbortHandle>,
    phase: Phase,
    phase_sender: watch::Sender<Phase>,
    observed: Arc<RwLock<Observed>>,
    end_polls: CancellationToken,
    next_report: Option<Instant>,
    pulse: Pulse,
}

impl Manager {
    /// A manager that serves nothing yet; [`Manager::run`] takes the configuration up.
    pub fn new(config: Config, assembly: Assembly) -> (Self, Observer) {
        let limits = Limits { concurrent: config.concurrent, check_interval: config.check_interval };
        let registry = Registry::default();
        let (phase_sender, phase) = watch::channel(Phase::Running);
        let observed = Arc::new(RwLock::new(Observed::default()));
        let pulse = assembly.pulses.of("the manager");
        let observer = Observer::new(&assembly, registry.clone(), phase.clone(), observed.clone());
        let jobs = JobDeps::new(&assembly, registry.clone(), phase);
        let manager = Self {
            config,
            admission: Admission::new(limits),
            served: BTreeMap::new(),
            leaving: BTreeMap::new(),
            retiring: Vec::new(),
            unserved: BTreeMap::new(),
            assembly,
            jobs,
            registry,
            tasks: JoinSet::new(),
            scalers: JoinSet::new(),
            outbox: Outbox::default(),
            kinds: BTreeMap::new(),
            watchers: BTreeMap::new(),
            phase: Phase::Running,
            phase_sender,
            observed,
            end_polls: CancellationToken::new(),
            next_report: None,
            pulse,
        };
        (manager, observer)
    }

    /// Serves until it is told to stop.
    pub async fn run(mut self, mut controls: mpsc::Receiver<Control>) -> Ended {
        self.take_up(self.config.clone()).await;
        while !self.is_done() {
            let now = crate::time::now().instant;
            self.start_polls(now);
            self.publish();
            self.pulse.beat("its next event");
            let wake = self.wake_at();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.task_ended(ended),
                Some(ended) = self.scalers.join_next(), if !self.scalers.is_empty() => {
                    if let Err(panic) = ended {
                        error!(error = %panic, "a taskscaler panicked: its runner gets no more jobs until a restart");
                    }
                    self.retiring.retain(|gone| !gone.capacity.has_ended());
                }
                () = self.outbox.told() => {}
                control = controls.recv() => self.control(control).await,
                () = crate::time::sleep_until(wake) => self.time_passed(),
                () = tokio::time::sleep(BEAT) => {}
            }
        }
        self.end(controls).await
    }

    fn is_done(&self) -> bool {
        match self.phase {
            Phase::Running => false,
            Phase::Exiting => true,
            Phase::Draining | Phase::Aborting { .. } => self.running_tasks() == 0,
        }
    }

    /// Polls and jobs; waiting for capacity is no work.
    fn running_tasks(&self) -> usize {
        self.kinds.values().filter(|kind| !matches!(kind, TaskKind::Capacity)).count()
    }

    fn wake_at(&self) -> Option<Instant> {
        [self.admission.poll_timeout(), self.phase.timeout(), self.next_report].into_iter().flatten().min()
    }

    fn start_polls(&mut self, now: Instant) {
        while let Some(Poll { runner, long }) = self.admission.next_poll(now) {
            let Some(served) = self.served.get(&runner).cloned() else {
                self.admission.poll_finished(&runner, PollOutcome::Refused, now);
                continue;
            };
            let (cancel, pulses) = (self.end_polls.clone(), self.assembly.pulses.clone());
            let span = info_span!("poll", runner = served.labels.runner);
            let key = runner.clone();
            let reservation = ReservationKey::random(served.config.token.expose());
            let holding = Holding::new(&served, &reservation);
            let poll = async move {
                let polling = poller::poll(&served, reservation, long, &cancel);
                let name = format!("a poll of {}", served.labels.runner);
                let polled = pulses.during(name, "GitLab", POLLS_END_ANYWAY, polling).await;
                TaskEnd::Poll { runner, served, polled }
            };
            self.spawn(TaskKind::Poll(key, holding), poll.instrument(span));
        }
    }

    fn spawn(&mut self, kind: TaskKind, task: impl Future<Output = TaskEnd> + Send + 'static) -> AbortHandle {
        let task = self.tasks.spawn(task);
        self.kinds.insert(task.id(), kind);
        task
    }

    fn task_ended(&mut self, ended: Result<(Id, TaskEnd), JoinError>) {
        let now = crate::time::now().instant;
        match ended {
            Ok((id, end)) => {
                self.kinds.remove(&id);
                match end {
                    TaskEnd::Poll { runner, served, polled } => self.poll_ended(runner, served, polled, now),
                    TaskEnd::Job { runner, untold } => {
                        self.admission.job_finished(&runner);
                        self.tell(untold);
                    }
                    TaskEnd::Capacity { runner } => {
                        self.admission.capacity_changed(&runner, now);
                        self.watch_capacity(&runner);
                    }
                }
            }
            // Jobs catch their own panics, so that their state is told; this is the last line.
            Err(panic) => match self.kinds.remove(&panic.id()) {
                Some(TaskKind::Job(runner, _, holding)) => {
                    error!(error = %panic, runner = %runner, "a job's task panicked");
                    self.scalers.spawn(holding.forfeit());
                    self.admission.job_finished(&runner);
                }
                Some(TaskKind::Poll(runner, holding)) => {
                    error!(error = %panic, runner = %runner, "a poll panicked");
                    self.scalers.spawn(holding.forfeit());
                    self.admission.poll_finished(&runner, PollOutcome::Refused, now);
                }
                Some(TaskKind::Capacity) if panic.is_cancelled() => {}
                Some(TaskKind::Capacity) | None => error!(error = %panic, "a task panicked"),
            },
        }
        self.retire_leaving();
    }

    /// Gives up the capacity of runners that have left and have nothing under way.
    fn retire_leaving(&mut self) {
        let is_busy = |kind: &TaskKind, runner: &RunnerKey| match kind {
            TaskKind::Poll(of, _) | TaskKind::Job(of, _, _) => of == runner,
            TaskKind::Capacity => false,
        };
        let is_idle = |runner: &RunnerKey| !self.kinds.values().any(|kind| is_busy(kind, runner));
        for (_, gone) in self.leaving.extract_if(.., |runner, _| is_idle(runner)) {
            let capacity = gone.capacity.clone();
            self.scalers.spawn(async move { capacity.retire().await });
            self.retiring.push(gone);
        }
    }

    fn poll_ended(&mut self, runner: RunnerKey, served: Arc<ServedRunner>, polled: Polled, now: Instant) {
        self.admission.poll_finished(&runner, polled.outcome, now);
        self.tell(polled.untold);
        if let Some(received) = polled.received {
            self.start_job(runner, served, received);
        }
    }

    fn tell(&mut self, untold: Option<Box<Untold>>) {
        if let Some(untold) = untold {
            self.outbox.tell(*untold);
        }
    }

    fn start_job(&mut self, key: RunnerKey, served: Arc<ServedRunner>, received: Received) {
        let credentials = received.job.credentials.clone();
        // A server that doubts whether its answer arrived may hand the same job out again: it runs once.
        let is_here = |kind: &TaskKind| matches!(kind, TaskKind::Job(_, known, _) if *known == credentials);
        let is_here = self.kinds.values().any(is_here);
        let deps = self.jobs.clone();
        let span = info_span!(
            "job",
            runner = served.labels.runner,
            job = %received.job.credentials.id,
            project = received.job.payload.job_info.project_id
        );
        let runner = key.clone();
        let holding = Holding::new(&served, &received.reservation);
        let job = async move {
            if is_here {
                warn!("the job was received again: it is here already");
                served.capacity.unreserve(&received.reservation).await;
                return TaskEnd::Job { runner, untold: None };
            }
            let untold = worker::run(served, received, deps).await;
            TaskEnd::Job { runner, untold }
        };
        self.spawn(TaskKind::Job(key, credentials, holding), job.instrument(span));
    }

    fn watch_capacity(&mut self, runner: &RunnerKey) {
        let Some(served) = self.served.get(runner).cloned() else { return };
        let key = runner.clone();
        let watcher = self.spawn(TaskKind::Capacity, async move {
            served.capacity.capacity_changed().await;
            TaskEnd::Capacity { runner: key }
        });
        if let Some(before) = self.watchers.insert(runner.clone(), watcher) {
            before.abort();
        }
    }

    async fn control(&mut self, control: Option<Control>) {
        // Whoever steers the process is gone: nothing could stop it any more.
        let control = control.unwrap_or(Control::Abort("terminated"));
        self.pulse.beat("a control to be followed");
        let now = crate::time::now().instant;
        self.set_phase(self.phase.after(&control, self.config.shutdown_timeout, now), now);
        match control {
            Control::Reload(config) if self.phase == Phase::Running => self.take_up(*config).await,
            Control::Reload(_) => warn!("the process is stopping: the changed configuration is not taken up"),
            Control::LookAgain if self.phase == Phase::Running => self.serve_the_rest().await,
            Control::LookAgain | Control::Drain | Control::Abort(_) => {}
        }
    }

    fn set_phase(&mut self, phase: Phase, now: Instant) {
        if phase == self.phase {
            return;
        }
        match phase {
            Phase::Running => {}
            Phase::Draining => {
                info!("Starting graceful shutdown, waiting for builds to finish");
                self.admission.drain();
                let end_polls = self.end_polls.clone();
                self.spawn(TaskKind::Capacity, async move {
                    tokio::time::sleep(POLLS_END_WITHIN).await;
                    end_polls.cancel();
                    std::future::pending().await
                });
            }
            Phase::Aborting { .. } => {
                info!("Starting forceful shutdown");
                self.admission.drain();
                self.end_polls.cancel();
            }
            Phase::Exiting => warn!("leaving now"),
        }
        self.phase = phase;
        self.next_report = Some(now + REPORT_EVERY);
        self.phase_sender.send_replace(phase);
    }

    fn time_passed(&mut self) {
        let now = crate::time::now().instant;
        self.set_phase(self.phase.at(now), now);
        if self.next_report.is_some_and(|at| at <= now) {
            self.next_report = Some(now + REPORT_EVERY);
            let jobs: Vec<_> =
                self.registry.snapshot().into_iter().map(|job| format!("{} {}", job.id, job.stage)).collect();
            info!(jobs = jobs.len(), waiting_for = jobs.join(", "), "still stopping");
        }
    }

    /// Serves what this configuration says: new runners are assembled, changed ones replaced, gone ones dropped when
    /// their last poll and job have ended.
    async fn take_up(&mut self, config: Config) {
        let mut served = BTreeMap::new();
        self.unserved.clear();
        for runner in config.runnable() {
            let key = runner.key();
            if served.contains_key(&key) {
                let reason = "another entry above is the same runner";
                error!(runner_name = runner.name, reason, "this entry is not served");
                continue;
            }
            let before = self.served.remove(&key);
            if let Some(unchanged) = before.as_ref().filter(|before| *before.config == runner) {
                served.insert(key, unchanged.clone());
                continue;
            }
            let left = before.is_none();
            let before = before.or_else(|| self.leaving.remove(&key));
            let assembled = self.assemble(&runner, before.as_deref()).await;
            if let (None, Some(back), true) = (&assembled, &before, left) {
                self.assembly.resume(back).await;
            }
            // A runner that served before goes on as it was where it cannot be served as it is now.
            if let Some(runner) = assembled.or(before) {
                served.insert(key, runner);
            }
        }
        for refused in config.refused() {
            let reasons: Vec<_> = refused.refusals.iter().map(ToString::to_string).collect();
            error!(runner_name = refused.name, reason = reasons.join("; "), "this runner is not served");
            // Its entry is still there: what is wrong with it may be over soon, and its fleet goes on as it was.
            let key = refused.key();
            if let Some(before) = self.served.remove(&key) {
                served.insert(key, before);
            }
        }
        for (key, gone) in std::mem::replace(&mut self.served, served) {
            info!(runner = gone.labels.runner, "runner is no longer in the configuration");
            self.assembly.wind_down(&gone).await;
            if let Some(watcher) = self.watchers.remove(&key) {
                watcher.abort();
            }
            self.leaving.insert(key, gone);
        }
        self.retire_leaving();
        self.config = config;
        self.configure_admission();
        for key in self.served.keys().cloned().collect::<Vec<_>>() {
            self.watch_capacity(&key);
        }
    }

    /// Tries again what could not be served when the configuration was taken up.
    async fn serve_the_rest(&mut self) {
        let is_left = |runner: &FleetRunner| self.unserved.contains_key(&runner.key());
        let rest: Vec<_> = self.config.runnable().filter(is_left).collect();
        for runner in rest {
            let key = runner.key();
            let before = self.served.get(&key).cloned();
            let Some(served) = self.assemble(&runner, before.as_deref()).await else { continue };
            info!(runner = served.labels.runner, "this runner is served now");
            self.served.insert(key.clone(), served);
            self.configure_admission();
            if before.is_none() {
                self.watch_capacity(&key);
            }
        }
    }

    /// The runner as its configuration has it; says why where it cannot be served, once for each reason.
    async fn assemble(&mut self, runner: &FleetRunner, before: Option<&ServedRunner>) -> Option<Arc<ServedRunner>> {
        match self.assembly.serve(runner, before).await {
            Ok((served, scaler)) => {
                self.unserved.remove(&served.key);
                if let Some(scaler) = scaler {
                    self.scalers.spawn(scaler.run());
                }
                Some(Arc::new(served))
            }
            Err(error) => {
                let reason = crate::error_chain::Chain(&error).to_string();
                if self.unserved.insert(runner.key(), reason.clone()).as_ref() != Some(&reason) {
                    match before {
                        Some(_) => {
                            error!(
                                runner_name = runner.name,
                                error = reason,
                                "the changed entry is not taken up: this runner goes on as it was"
                            );
                        }
                        None => error!(runner_name = runner.name, error = reason, "this runner is not served"),
                    }
                }
                None
            }
        }
    }

    fn configure_admission(&mut self) {
        let runners: Vec<_> =
            self.served.iter().map(|(key, served)| (key.clone(), runner_limits(&served.config))).collect();
        let limits = Limits { concurrent: self.config.concurrent, check_interval: self.config.check_interval };
        self.admission.configure(limits, &runners, crate::time::now().instant);
    }

    /// Shows others what only this loop knows.
    fn publish(&self) {
        let mut observed = self.observed.write().unwrap_or_else(PoisonError::into_inner);
        observed.concurrent = self.config.concurrent;
        observed.runners.clear();
        observed.runners.extend(self.served.iter().map(|(key, served)| (served.clone(), self.admission.load(key))));
        observed.leaving.clear();
        observed.leaving.extend(self.leaving.values().chain(&self.retiring).cloned());
    }

    /// Everything that is left to do once nothing runs: instances, by their own rules. A further signal ends that too.
    async fn end(mut self, mut controls: mpsc::Receiver<Control>) -> Ended {
        let jobs = self.registry.snapshot().len();
        if jobs == 0 {
            info!("All workers stopped.");
        }
        let limit = self.config.shutdown_timeout;
        let mut shutdowns = JoinSet::new();
        let leaving = std::mem::take(&mut self.leaving).into_values().chain(std::mem::take(&mut self.retiring));
        let served = std::mem::take(&mut self.served).into_values();
        for (served, stays) in served.map(|served| (served, true)).chain(leaving.map(|gone| (gone, false))) {
            shutdowns.spawn(async move {
                served.executor.shutdown().await;
                if !stays {
                    // No later manager knows of it.
                    served.capacity.retire().await;
                }
                served.capacity.shutdown().await
            });
        }
        let mut hurried = false;
        if self.phase != Phase::Exiting {
            tokio::select! {
                _ = shutdowns.join_all() => info!("All executor providers shut down."),
                () = tokio::time::sleep(limit) => warn!(?limit, "Executor providers shutdown timeout exceeded"),
                () = told_to_leave(self.phase, &mut controls) => {
                    warn!("leaving now");
                    hurried = true;
                }
            }
        }
        self.outbox.close(if self.phase == Phase::Exiting { Duration::ZERO } else { TELL_AT_END }).await;
        self.tasks.shutdown().await;
        self.scalers.shutdown().await;
        match jobs {
            0 if hurried => Ended::Hurried,
            0 => Ended::Clean,
            _ => Ended::LeftBehind { jobs },
        }
    }
}

/// Resolves when the signals since this phase say to leave at once.
async fn told_to_leave(mut phase: Phase, controls: &mut mpsc::Receiver<Control>) {
    while phase != Phase::Exiting {
        match controls.recv().await {
            Some(control) => phase = phase.after(&control, Duration::ZERO, crate::time::now().instant),
            None => std::future::pending().await,
        }
    }
}

fn runner_limits(runner: &Runner) -> RunnerLimits {
    RunnerLimits {
        limit: runner.limit,
        request_concurrency: runner.request_concurrency,
        adaptive: runner.feature_flag("FF_USE_ADAPTIVE_REQUEST_CONCURRENCY").unwrap_or(true),
        strict_check_interval: runner.strict_check_interval,
        unhealthy_requests_limit: runner.unhealthy_requests_limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn leaves(phase: Phase, signals: &[Control]) -> bool {
        let (sender, mut controls) = mpsc::channel(signals.len());
        for signal in signals {
            sender.send(signal.clone()).await.unwrap();
        }
        drop(sender);
        tokio::select! {
            biased;
            () = told_to_leave(phase, &mut controls) => true,
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test]
    async fn while_instances_are_given_up_a_further_signal_leaves_at_once() {
        let abort = Control::Abort("terminated");
        let aborting = Phase::Running.after(&abort, Duration::ZERO, crate::time::now().instant);
        assert!(leaves(aborting, std::slice::from_ref(&abort)).await);
        assert!(!leaves(aborting, &[Control::Drain]).await);
        assert!(!leaves(Phase::Draining, std::slice::from_ref(&abort)).await, "the first one only aborts");
        assert!(leaves(Phase::Draining, &[abort.clone(), abort]).await);
    }
}
