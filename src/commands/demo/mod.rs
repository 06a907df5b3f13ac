//! `flotilla demo`: the main job with no account and no cloud. In this one process are an embedded GitLab with a
//! queue of sample jobs and a manager as `run` has it; instances are processes of this machine that come and go.
//!
//! ```text
//!  Jobs ──all final──▶ ScalingBack ──no instance left──▶ Stopping ──▶ summary, exit code
//!    └──── nothing happens for long, a signal ────────────▶ │
//! ```
//!
//! Whatever happens, no instance is left when it ends.

mod docker;
mod engine;
mod fleet;
mod image;
mod leftovers;
mod plan;
mod screen;
mod summary;
mod traces;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::run::helpers;
use super::{Surroundings, runtime, start_log};
use crate::cli::{DemoArgs, LogArgs};
use crate::config::resolved::Config;
use crate::config::system_id::SystemId;
use crate::executors::Helpers;
use crate::gitlab::Connections;
use crate::gitlab::proxy::ProxySettings;
use crate::journal::Journals;
use crate::manager::metrics::Metrics;
use crate::manager::{Assembly, Control, Ended, InUse, Manager, Observer};
use crate::pulse::Pulses;
use crate::sandbox::{Options, Sandbox};
use fleet::Fleet;
use plan::Plan;
use screen::{Paint, Screen};
use summary::Summary;
use traces::JobView;

/// The manager's own log stays quiet unless it is asked for: the screen tells the story. The jobs that are to fail
/// would be warnings.
const LOG_LEVEL: &str = "error";
/// How often the screen is brought up to date.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// No change of any job or trace for so long means that there will be none.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// Idle instances go after three seconds; this is ample.
const SCALES_BACK_WITHIN: Duration = Duration::from_secs(60);
/// Signals and our own wish to stop.
const CONTROLS: usize = 4;
/// Ends the manager. A drain would wait for the answers of polls that bring nothing any more.
const END: Control = Control::Abort("terminated");

/// Runs the sample jobs and shows how; success where each ended as it must.
///
/// # Errors
/// It could not start.
pub fn run(args: &DemoArgs, log: &LogArgs, surroundings: &Surroundings) -> anyhow::Result<ExitCode> {
    start_log(log, LOG_LEVEL)?;
    let good = runtime()?.block_on(demo(args, surroundings))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn demo(args: &DemoArgs, surroundings: &Surroundings) -> anyhow::Result<bool> {
    let helpers = Arc::new(helpers(surroundings));
    let docker = docker::prepare(&helpers).await;
    let plan = Plan::new(args.jobs, docker.as_ref().ok());
    let folder = tempfile::Builder::new().prefix("flotilla-demo-").tempdir().context("making a folder")?;
    let signals = Signals::new().context("taking over the signals")?;
    let options = Options { trace_update_interval: 1, ..Options::default() };
    let sandbox = Sandbox::start_with(([127, 0, 0, 1], 0).into(), options).await?;
    plan.add_runners(&sandbox);
    let config = plan.config(&sandbox.url(), folder.path())?;
    let assembly = assembly(&config, helpers, folder.path(), surroundings)?;
    let jobs = plan.jobs();
    let mut screen = screen(&plan, &jobs, surroundings);
    introduce(&mut screen, &plan, &sandbox, &docker);

    let (manager, observer) = Manager::new(config, assembly);
    let (controls, receiver) = mpsc::channel(CONTROLS);
    let jobs = jobs.into_iter().enumerate().map(|(number, job)| JobView::enqueue(job, number, &sandbox)).collect();
    let mut show =
        Show { jobs, fleet: Fleet::new(&plan.parts), screen, observer, controls, problems: Vec::new(), left: 0 };
    let mut managing = JoinSet::new();
    managing.spawn(manager.run(receiver));
    show.run(signals, &mut managing).await;
    managing.shutdown().await;
    show.left = leftovers::remove(&folder.path().join(STATE).join("local"), &surroundings.executable).await;
    Ok(show.conclude(&plan, docker.err()))
}

/// The manager's folder within the demo's.
const STATE: &str = "state";

fn assembly(
    config: &Config,
    helpers: Arc<Helpers>,
    folder: &Path,
    surroundings: &Surroundings,
) -> anyhow::Result<Assembly> {
    let pulses = Pulses::default();
    Ok(Assembly {
        metrics: Arc::new(Metrics::new()?),
        // The sandbox is in this process: no proxy leads there.
        connections: Connections::new(ProxySettings::default(), config.connection_max_age.unwrap_or_default()),
        helpers,
        system_id: SystemId::random().to_string(),
        host_name: surroundings.host_name.clone(),
        state: folder.join(STATE),
        journals: Arc::new(Journals::new(folder.join(STATE), pulses.clone())),
        environment: surroundings.environment.clone(),
        pulses,
        in_use: InUse::default(),
        spill: folder.to_owned(),
        certificates: Vec::new(),
    })
}

fn screen(plan: &Plan, jobs: &[plan::PlannedJob], surroundings: &Surroundings) -> Screen {
    let out = std::io::stdout();
    let colours = out.is_terminal() && surroundings.environment.get("NO_COLOR").is_none();
    let labels = jobs.iter().map(|job| job.label.len()).chain(plan.parts.iter().map(|part| fleet::label(*part).len()));
    Screen::new(Box::new(out), colours, crate::time::now().instant, labels.max().unwrap_or_default())
}

fn introduce(screen: &mut Screen, plan: &Plan, sandbox: &Sandbox, docker: &Result<docker::Ready, docker::Skipped>) {
    let title = format!("flotilla {} demo", env!("CARGO_PKG_VERSION"));
    screen.line(&screen.paint(Paint::Bold, &title));
    screen.line(&format!(
        "  GitLab: a sandbox of our own on {}, with {} jobs for each executor",
        sandbox.url(),
        plan.jobs_each
    ));
    let most = plan.max_instances;
    screen.line(&format!(
        "  instance: jobs in a shell; 0 to {most} instances on this machine, one job at a time on each"
    ));
    screen.line(&match docker {
        Ok(docker::Ready { image, version }) => format!(
            "  docker-autoscaler: jobs in containers of {image}, on the Docker Engine {version} of this machine, through \
             0 to {most} instances"
        ),
        Err(skipped) => format!("  docker-autoscaler: skipped, because {}", skipped.text()),
    });
    screen.line("");
}

/// What ends the demo early.
#[derive(Debug)]
struct Signals([Signal; 4]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        let [interrupt, terminate, hangup, quit] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?, quit?]))
    }

    async fn next(&mut self) {
        let Self([interrupt, terminate, hangup, quit]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}

/// How far the demo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Jobs { quiet_since: Instant },
    ScalingBack { since: Instant },
    Stopping,
}

/// The running demo.
struct Show {
    jobs: Vec<JobView>,
    fleet: Fleet,
    screen: Screen,
    observer: Observer,
    controls: mpsc::Sender<Control>,
    problems: Vec<String>,
    /// Instances that could not be deleted.
    left: usize,
}

impl Show {
    /// Shows everything until the manager has ended.
    async fn run(&mut self, mut signals: Signals, managing: &mut JoinSet<Ended>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut step = Step::Jobs { quiet_since: crate::time::now().instant };
        loop {
            tokio::select! {
                _ = looks.tick() => step = self.look(step).await,
                () = signals.next() => step = self.interrupted(step).await,
                ended = managing.join_next() => {
                    self.catch_up().await;
                    match ended {
                        Some(Ok(Ended::Clean)) | None => {}
                        Some(Ok(Ended::LeftBehind { jobs })) => self.problems.push(format!("{jobs} jobs were left behind")),
                        Some(Ok(Ended::Hurried)) => self.problems.push("instances were left behind".to_owned()),
                        Some(Err(panic)) => self.problems.push(format!("the manager ended: {panic}")),
                    }
                    return;
                }
            }
        }
    }

    /// Brings the screen up to date; true where a job has moved.
    async fn catch_up(&mut self) -> bool {
        let mut moved = false;
        for job in &mut self.jobs {
            moved |= job.show(&mut self.screen);
        }
        self.fleet.show(&self.observer, &mut self.screen).await;
        moved
    }

    async fn look(&mut self, step: Step) -> Step {
        let moved = self.catch_up().await;
        let now = crate::time::now().instant;
        match step {
            Step::Jobs { .. } if self.jobs.iter().all(JobView::is_final) => {
                self.screen.line(
                    &self
                        .screen
                        .paint(Paint::Dim, "all jobs have ended; instances go when they have been idle for 3 s"),
                );
                Step::ScalingBack { since: now }
            }
            Step::Jobs { .. } if moved => Step::Jobs { quiet_since: now },
            Step::Jobs { quiet_since } if now.saturating_duration_since(quiet_since) > STUCK_AFTER => {
                self.problems.push(format!("nothing has happened for {} s", STUCK_AFTER.as_secs()));
                self.stop(END, "nothing moves any more: stopping").await
            }
            Step::ScalingBack { .. } if self.fleet.is_empty() => self.stop(END, "the fleet is back at 0").await,
            Step::ScalingBack { since } if now.saturating_duration_since(since) > SCALES_BACK_WITHIN => {
                let limit = SCALES_BACK_WITHIN.as_secs();
                self.problems.push(format!("the fleet was not back at 0 within {limit} s of the last job"));
                self.stop(END, "stopping").await
            }
            Step::Jobs { .. } | Step::ScalingBack { .. } | Step::Stopping => step,
        }
    }

    /// A further signal changes nothing: the way out takes a moment, and leaves nothing behind.
    async fn interrupted(&mut self, step: Step) -> Step {
        if step == Step::Stopping {
            self.screen.line(&self.screen.paint(Paint::Dim, "still stopping"));
            return step;
        }
        self.problems.push("it was interrupted".to_owned());
        self.stop(Control::Abort("interrupt"), "stopping: running jobs are ended, instances deleted").await
    }

    async fn stop(&mut self, control: Control, text: &str) -> Step {
        self.screen.line(&self.screen.paint(Paint::Dim, text));
        // A manager that has ended needs no more telling.
        self.controls.send(control).await.ok();
        Step::Stopping
    }

    /// Says how it went.
    fn conclude(mut self, plan: &Plan, skipped: Option<docker::Skipped>) -> bool {
        let summary = Summary {
            jobs: self.jobs.iter().map(JobView::result).collect(),
            fleet: self.fleet.counts().collect(),
            left: self.left,
            parallel: summary::parallel(&self.jobs, &plan.parts),
            problems: self.problems,
            skipped: skipped.map(|skipped| skipped.text()),
        };
        summary.show(&mut self.screen);
        summary.is_good()
    }
}
