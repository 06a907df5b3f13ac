//! The figures of the fleets, made from their snapshots at the moment of reading.
//!
//! Names and labels are those of the reference's taskscaler and fleeting. A runner that is gone is in no snapshot,
//! and so on no dashboard.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::{Name, RunnerLabels};
use crate::taskscaler::{Snapshot, timings};

/// A runner's fleet at the moment of reading.
#[derive(Clone, Debug)]
pub struct FleetReading {
    pub labels: RunnerLabels,
    pub snapshot: Snapshot,
}

/// One line of the text, or the lines of one histogram.
#[derive(Clone, Debug)]
struct Series<'a> {
    name: Name,
    /// The label beside those of the runner.
    label: Option<(&'static str, &'static str)>,
    value: Value<'a>,
}

#[derive(Clone, Debug)]
enum Value<'a> {
    Gauge(f64),
    Counter(u64),
    Histogram(&'a timings::Histogram),
}

/// All figures of these fleets, by name.
pub(super) fn families(fleets: &[FleetReading]) -> Vec<MetricFamily> {
    let mut families: BTreeMap<&'static str, MetricFamily> = BTreeMap::new();
    for FleetReading { labels, snapshot } in fleets {
        for series in gauges(snapshot).into_iter().chain(counters(snapshot)).chain(histograms(snapshot)) {
            let (name, help) = series.name.describe();
            let (kind, metric) = metric(labels, &series);
            let family = families.entry(name).or_default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family.mut_metric().push(metric);
        }
    }
    families.into_values().collect()
}

fn gauges(snapshot: &Snapshot) -> Vec<Series<'static>> {
    let fleet = &snapshot.fleet;
    let (tasks, instances) = (fleet.tasks, fleet.instances);
    let running = instances.preparing + instances.ready;
    let asked_for = instances.requested + instances.creating + running;
    let by_state = |name, states: &[(&'static str, u32)]| {
        let series = |(state, count): &(&'static str, u32)| gauge(name, Some(("state", *state)), (*count).into());
        states.iter().map(series).collect::<Vec<_>>()
    };
    let mut found = by_state(
        Name::FleetTasks,
        &[
            ("idle", tasks.idle),
            ("reserved", tasks.reserved),
            ("pending", tasks.pending),
            ("acquired", tasks.acquired),
            ("unavailable", tasks.unavailable),
            ("unhealthy", tasks.unhealthy),
            ("unready", tasks.unready),
        ],
    );
    found.extend(by_state(
        Name::FleetInstances,
        &[
            // Missing, and not asked for yet.
            ("pending", fleet.desired.saturating_sub(asked_for)),
            ("requested", instances.requested),
            ("creating", instances.creating),
            ("running", running),
            ("deleting", instances.deleting),
            ("foreign", instances.foreign),
        ],
    ));
    // Where there is no limit, a share of it is nothing.
    let max = if fleet.max_instances == u32::MAX { f64::INFINITY } else { fleet.max_instances.into() };
    found.extend([
        gauge(Name::FleetDesiredInstances, None, fleet.desired.into()),
        gauge(Name::FleetMaxInstances, None, max),
        gauge(Name::FleetStateKept, None, u32::from(snapshot.is_kept).into()),
        gauge(Name::FleetMaxTasksPerInstance, None, fleet.capacity_per_instance.into()),
        gauge(Name::FleetMaxUseCountPerInstance, None, fleet.max_use_count.unwrap_or(0).into()),
    ]);
    found
}

fn counters(snapshot: &Snapshot) -> Vec<Series<'static>> {
    let totals = &snapshot.fleet.totals;
    let by = |name, label, counts: &[(&'static str, u64)]| {
        let series = |(value, count): &(&'static str, u64)| Series {
            name,
            label: Some((label, *value)),
            value: Value::Counter(*count),
        };
        counts.iter().map(series).collect::<Vec<_>>()
    };
    let tasks = [
        ("reserve", totals.reserve),
        ("unreserve", totals.unreserve),
        ("acquire", totals.acquire),
        ("release", totals.release),
        ("reserve_iop_capacity_failure", totals.reserve_iop_capacity_failure),
        ("reserve_available_capacity_failure", totals.reserve_available_capacity_failure),
    ];
    // A turn of the reference's provisioner is one call here.
    let calls = [("provision", totals.scale_up), ("reconcile", totals.listings), ("removal", totals.scale_down)];
    let failures = [
        ("increase", totals.increase_failed),
        ("decrease", totals.decrease_failed),
        ("ready_up", totals.ready_up_failed),
        ("unexpected_removal", totals.unexpectedly_removed),
    ];
    let reasons = |counts: &BTreeMap<&'static str, u64>| counts.iter().map(|(why, count)| (*why, *count)).collect();
    let (removals, refusals): (Vec<_>, Vec<_>) = (reasons(&totals.removals), reasons(&totals.refusals));
    let missed = Series { name: Name::FleetMissedUpdates, label: None, value: Value::Counter(totals.listings_failed) };
    [
        by(Name::FleetTaskOperations, "operation", &tasks),
        by(Name::FleetScaleOperations, "operation", &[("up", totals.scale_up), ("down", totals.scale_down)]),
        by(Name::FleetInstanceOperations, "operation", &[("create", totals.created), ("delete", totals.deleted)]),
        by(Name::FleetInternalOperations, "operation", &calls),
        by(Name::FleetFailures, "operation", &failures),
        by(Name::FleetRemovals, "reason", &removals),
        by(Name::FleetRefusals, "reason", &refusals),
        vec![missed],
    ]
    .concat()
}

fn histograms(snapshot: &Snapshot) -> [Series<'_>; 5] {
    let timings = &snapshot.timings;
    [
        (Name::FleetInstanceCreationTime, &timings.creation),
        (Name::FleetInstanceIsRunningTime, &timings.is_running),
        (Name::FleetInstanceReadinessTime, &timings.readiness),
        (Name::FleetInstanceDeletionTime, &timings.deletion),
        (Name::FleetInstanceLife, &timings.life),
    ]
    .map(|(name, histogram)| Series { name, label: None, value: Value::Histogram(histogram) })
}

fn gauge(name: Name, label: Option<(&'static str, &'static str)>, value: f64) -> Series<'static> {
    Series { name, label, value: Value::Gauge(value) }
}

fn metric(labels: &RunnerLabels, series: &Series<'_>) -> (MetricType, Metric) {
    let own = super::RUNNER.into_iter().zip(labels.values());
    let mut pairs: Vec<LabelPair> = own.chain(series.label).map(pair).collect();
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    let mut metric = Metric::from_label(pairs);
    let kind = match series.value {
        Value::Gauge(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
            MetricType::GAUGE
        }
        Value::Counter(value) => {
            let mut counter = Counter::default();
            #[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
            counter.set_value(value as f64);
            metric.set_counter(counter);
            MetricType::COUNTER
        }
        Value::Histogram(times) => {
            let mut histogram = Histogram::default();
            histogram.set_sample_count(times.count());
            histogram.set_sample_sum(times.sum());
            histogram.set_bucket(times.cumulative().map(bucket).collect());
            metric.set_histogram(histogram);
            MetricType::HISTOGRAM
        }
    };
    (kind, metric)
}

fn pair((name, value): (&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn bucket((bound, count): (f64, u64)) -> Bucket {
    let mut bucket = Bucket::default();
    bucket.set_upper_bound(bound);
    bucket.set_cumulative_count(count);
    bucket
}
