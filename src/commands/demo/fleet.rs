//! The instances on the screen: what becomes of each, and why there are more or fewer.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::plan::Part;
use super::screen::{Paint, Screen};
use crate::ids::InstanceId;
use crate::manager::Observer;
use crate::taskscaler::core::decision::Decision;
use crate::taskscaler::core::instance::{Instance, State};
use crate::taskscaler::core::snapshot::Snapshot;

/// The screen goes on without a taskscaler that does not answer.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(1);

/// An instance as far as the screen tells it apart.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Booting,
    Checked,
    Idle,
    Busy { jobs: u32 },
    Leaving { reason: String },
    Foreign,
}

impl Shown {
    fn of(instance: &Instance) -> Self {
        match &instance.state {
            State::Creating => Self::Booting,
            State::Preparing { .. } => Self::Checked,
            State::Ready if instance.slots.is_empty() => Self::Idle,
            State::Ready => Self::Busy { jobs: instance.slots.taken() },
            State::Leaving(leaving) => Self::Leaving { reason: leaving.reason.to_string() },
            State::Foreign => Self::Foreign,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Booting => f.write_str("is booting"),
            Self::Checked => f.write_str("is up and being checked"),
            Self::Idle => f.write_str("is ready and idle"),
            Self::Busy { jobs: 1 } => f.write_str("runs a job"),
            Self::Busy { jobs } => write!(f, "runs {jobs} jobs"),
            Self::Leaving { reason } => write!(f, "is being deleted: {reason}"),
            Self::Foreign => f.write_str("is not ours"),
        }
    }
}

/// The instances of one executor.
#[derive(Debug)]
struct Group {
    part: Part,
    known: BTreeMap<InstanceId, Shown>,
    /// The latest decision that was shown.
    shown_to: SystemTime,
    /// Instances there are, those asked for too.
    now: u32,
    counts: Counts,
}

/// What the summary says of the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// The most that there were at once.
    pub(super) peak: u32,
    /// Created since the start.
    pub(super) created: u64,
}

impl Group {
    fn new(part: Part) -> Self {
        Self { part, known: BTreeMap::new(), shown_to: SystemTime::UNIX_EPOCH, now: 0, counts: Counts::default() }
    }

    fn show(&mut self, snapshot: &Snapshot, screen: &mut Screen) {
        let mut lines: Vec<String> = Vec::new();
        let shown_to = self.shown_to;
        for (at, decision) in snapshot.decisions.iter().filter(|(at, _)| *at > shown_to) {
            self.shown_to = *at;
            if let Decision::Increasing { reason } = decision {
                lines.push(format!("more instances: {reason}"));
            }
        }
        let seen: BTreeMap<InstanceId, Shown> =
            snapshot.fleet.iter().map(|(id, instance, _)| (id.clone(), Shown::of(instance))).collect();
        let changed = seen.iter().filter(|(id, shown)| self.known.get(*id) != Some(*shown));
        lines.extend(changed.map(|(id, shown)| format!("{id} {shown}")));
        let gone = self.known.keys().filter(|id| !seen.contains_key(*id));
        lines.extend(gone.map(|id| format!("{id} is gone")));
        self.known = seen;
        // What was asked for may be on the list already, so only the list tells how many there were.
        let listed = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let counts = snapshot.instances;
        self.now = counts.requested + counts.creating + counts.preparing + counts.ready + counts.deleting;
        self.counts = Counts { peak: self.counts.peak.max(listed), created: snapshot.totals.created };
        let label = label(self.part);
        for line in lines {
            screen.fact(&label, Paint::Bold, &line);
        }
    }
}

/// All instances of the demo.
#[derive(Debug)]
pub(super) struct Fleet {
    groups: Vec<Group>,
}

impl Fleet {
    pub(super) fn new(parts: &[Part]) -> Self {
        Self { groups: parts.iter().map(|part| Group::new(*part)).collect() }
    }

    /// Shows what has changed. A taskscaler that has ended is left as it was seen last.
    pub(super) async fn show(&mut self, observer: &Observer, screen: &mut Screen) {
        for runner in observer.runners() {
            let group = self.groups.iter_mut().find(|group| group.part.executor() == runner.config.executor.as_str());
            let snapshot = tokio::time::timeout(SNAPSHOT_LIMIT, runner.capacity.snapshot()).await;
            if let (Some(group), Ok(Some(snapshot))) = (group, snapshot) {
                group.show(&snapshot.fleet, screen);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.now == 0)
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (Part, Counts)> {
        self.groups.iter().map(|group| (group.part, group.counts))
    }
}

/// What the lines about a group begin with.
pub(super) fn label(part: Part) -> String {
    format!("{} fleet", part.word())
}
