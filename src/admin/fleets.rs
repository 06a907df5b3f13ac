//! What the fleets are and why: for people as text, a line a fact, and for programs as JSON.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::manager::Observer;
use crate::manager::metrics::{FleetReading, RunnerLabels};
use crate::taskscaler::core::Decision;
use crate::taskscaler::core::instance::{Instance, Standing, State as InstanceState};
use crate::taskscaler::core::snapshot::Snapshot;
use crate::time::{Now, rfc3339};

/// How the answer is wanted.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    /// `json`; anything else is text.
    format: Option<String>,
}

impl Wanted {
    fn is_json(&self, headers: &HeaderMap) -> bool {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        self.format.as_deref().map_or_else(|| accept.contains("application/json"), |format| format == "json")
    }
}

/// The latest decisions of all fleets, the newest last.
pub(super) async fn decisions(
    State(manager): State<Arc<Observer>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    let fleets = manager.fleets().await;
    let decisions = shown_decisions(&fleets);
    if wanted.is_json(&headers) { Json(decisions).into_response() } else { lines(&decisions).into_response() }
}

/// All fleets, instance by instance.
pub(super) async fn instances(
    State(manager): State<Arc<Observer>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    let (fleets, now) = (manager.fleets().await, crate::time::now());
    let fleets: Vec<ShownFleet<'_>> =
        fleets.iter().map(|FleetReading { labels, snapshot }| ShownFleet::of(labels, &snapshot.fleet, now)).collect();
    if wanted.is_json(&headers) { Json(fleets).into_response() } else { fleet_lines(&fleets).into_response() }
}

/// One decision as it is shown.
#[derive(Debug, Serialize)]
struct ShownDecision<'a> {
    time: String,
    runner: &'a str,
    runner_name: &'a str,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    why: String,
}

fn shown_decisions(fleets: &[FleetReading]) -> Vec<ShownDecision<'_>> {
    let all = fleets.iter().flat_map(|fleet| {
        let decisions = fleet.snapshot.fleet.decisions.iter();
        decisions.map(|(at, decision)| (*at, &fleet.labels, decision))
    });
    let mut all: Vec<(SystemTime, &RunnerLabels, &Decision)> = all.collect();
    all.sort_by_key(|(at, _, _)| *at);
    all.into_iter()
        .map(|(at, labels, decision)| ShownDecision {
            time: rfc3339(at, 3),
            runner: &labels.runner,
            runner_name: &labels.runner_name,
            what: decision.kind(),
            instance: decision.instance().map(crate::ids::InstanceId::as_str),
            why: decision.to_string(),
        })
        .collect()
}

fn lines(decisions: &[ShownDecision<'_>]) -> String {
    let mut text = String::new();
    for ShownDecision { time, runner, what, instance, why, runner_name: _ } in decisions {
        // Writing to a String cannot fail.
        write!(text, "{time} runner={runner} {what}").ok();
        if let Some(instance) = instance {
            write!(text, " instance={instance}").ok();
        }
        writeln!(text, ": {}", one_line(why)).ok();
    }
    text
}

/// One fleet as it is shown.
#[derive(Debug, Serialize)]
struct ShownFleet<'a> {
    runner: &'a str,
    runner_name: &'a str,
    /// How reservations are treated now.
    mode: &'static str,
    idle_count: u32,
    idle_time_seconds: u64,
    desired: u32,
    /// Absent: no limit.
    max_instances: Option<u32>,
    /// Jobs that wait for a slot.
    pending: u32,
    reserved: u32,
    instances: Vec<ShownInstance<'a>>,
}

/// One instance as it is shown.
#[derive(Debug, Serialize)]
struct ShownInstance<'a> {
    id: &'a str,
    state: &'static str,
    cause: &'static str,
    uses: u32,
    slots: Vec<ShownSlot<'a>>,
    health: &'static str,
    /// Failed checks in a row.
    failures: u32,
    /// Since when it has had no job, where it could take one.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_since: Option<String>,
    /// Why it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownSlot<'a> {
    slot: u32,
    key: &'a str,
}

impl<'a> ShownFleet<'a> {
    fn of(labels: &'a RunnerLabels, fleet: &'a Snapshot, now: Now) -> Self {
        Self {
            runner: &labels.runner,
            runner_name: &labels.runner_name,
            mode: fleet.mode.as_str(),
            idle_count: fleet.policy.target.idle_count,
            idle_time_seconds: fleet.policy.target.idle_time.as_secs(),
            desired: fleet.desired,
            max_instances: (fleet.max_instances < u32::MAX).then_some(fleet.max_instances),
            pending: fleet.tasks.pending,
            reserved: fleet.tasks.reserved,
            instances: fleet
                .fleet
                .iter()
                .map(|(id, instance, standing)| ShownInstance::of(id.as_str(), instance, *standing, now))
                .collect(),
        }
    }
}

impl<'a> ShownInstance<'a> {
    fn of(id: &'a str, instance: &'a Instance, standing: Standing, now: Now) -> Self {
        let is_idle = instance.is_ready() && instance.slots.is_empty();
        let reason = match &instance.state {
            InstanceState::Leaving(leaving) => Some(leaving.reason.explained()),
            InstanceState::Creating
            | InstanceState::Preparing { .. }
            | InstanceState::Ready
            | InstanceState::Foreign => None,
        };
        let slot = |(slot, occupant): (u32, &'a crate::taskscaler::core::slots::Occupant)| ShownSlot {
            slot,
            key: occupant.key().as_str(),
        };
        Self {
            id,
            state: instance.state.as_str(),
            cause: instance.cause.as_str(),
            uses: instance.uses,
            slots: instance.slots.iter().map(slot).collect(),
            health: standing.as_str(),
            failures: instance.health.failures,
            idle_since: is_idle.then(|| rfc3339(utc(now, instance.idle_since), 3)),
            reason,
        }
    }
}

fn fleet_lines(fleets: &[ShownFleet<'_>]) -> String {
    let mut text = String::new();
    for fleet in fleets {
        let max = fleet.max_instances.map_or_else(|| "none".to_owned(), |max| max.to_string());
        // Writing to a String cannot fail.
        writeln!(
            text,
            "runner={} runner_name={:?} mode={:?} idle_count={} idle_time={}s instances={} desired={} max_instances={max} \
             pending={} reserved={}",
            fleet.runner,
            fleet.runner_name,
            fleet.mode,
            fleet.idle_count,
            fleet.idle_time_seconds,
            fleet.instances.len(),
            fleet.desired,
            fleet.pending,
            fleet.reserved
        )
        .ok();
        for instance in &fleet.instances {
            writeln!(text, "{}", instance_line(fleet.runner, instance)).ok();
        }
    }
    text
}

fn instance_line(runner: &str, instance: &ShownInstance<'_>) -> String {
    let ShownInstance { id, state, cause, uses, slots, health, failures, idle_since, reason } = instance;
    let slots: Vec<String> = slots.iter().map(|ShownSlot { slot, key }| format!("{slot}:{key}")).collect();
    let idle_since = idle_since.as_deref().unwrap_or_default();
    let mut line = format!(
        "runner={runner} instance={id} state={state} cause={cause} uses={uses} slots=[{}] health={health} \
         failures={failures} idle_since={idle_since}",
        slots.join(" ")
    );
    if let Some(reason) = reason {
        // Writing to a String cannot fail.
        write!(line, " reason={reason:?}").ok();
    }
    line
}

/// Errors of others may have several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The wall clock's time of an earlier moment of the monotonic one.
fn utc(now: Now, then: Instant) -> SystemTime {
    let passed = now.instant.saturating_duration_since(then);
    now.utc.checked_sub(passed).unwrap_or(now.utc)
}
