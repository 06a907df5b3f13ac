//! Every option of the autoscaler that a reload changes: the line that the operator reads, and the value that counts
//! from then on.

use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::config::environment::Environment;
use crate::config::{Loaded, reload};

/// A key of the file, in two states.
struct Row {
    /// The section it stands in, with what has to be there beside it.
    section: &'static str,
    /// The section's name in the difference.
    path: &'static str,
    key: &'static str,
    before: &'static str,
    after: &'static str,
    /// What the taskscaler has of it.
    reads: fn(&Settings) -> String,
    /// What that is with the changed file.
    expected: &'static str,
}

const PLUGIN: &str = "plugin = \"local\"\n";
const DELETES: &str = "plugin = \"local\"\ndelete_instances_on_shutdown = true\n";
const THROTTLE: &str = "plugin = \"local\"\n[runners.autoscaler.scale_throttle]\n";
const LIMITED: &str = "plugin = \"local\"\n[runners.autoscaler.scale_throttle]\nlimit = 5\n";
const CONNECTOR: &str = "plugin = \"local\"\n[runners.autoscaler.connector_config]\n";
const POLICY: &str = "plugin = \"local\"\n[[runners.autoscaler.policy]]\n";
const OFFICE: &str =
    "plugin = \"local\"\n[[runners.autoscaler.policy]]\nperiods = [\"* 8-17 * * *\"]\ntimezone = \"UTC\"\n";
const ZONED: &str = "plugin = \"local\"\n[[runners.autoscaler.policy]]\nperiods = [\"* 8-17 * * *\"]\n";

/// Noon on a Thursday, in UTC.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3600)
}

fn in_force(settings: &Settings) -> String {
    settings.core.policies[0].periods.contains(noon()).to_string()
}

fn target(settings: &Settings) -> Target {
    settings.core.policies[0].target
}

fn load(row: &Row, value: &str) -> Loaded {
    let text = format!("[[runners]]\nname = \"r\"\n[runners.autoscaler]\n{}{} = {value}\n", row.section, row.key);
    crate::config::load(Path::new("c"), &text, &Environment::default())
}

fn settings_of(loaded: &Loaded) -> Settings {
    let runner = &loaded.resolved.as_ref().unwrap().runners[0];
    Settings::new(runner.autoscaler().unwrap(), None)
}

#[track_caller]
fn check(row: &Row) {
    let (old, new) = (load(row, row.before), load(row, row.after));
    let said: Vec<String> = reload::diff(&old, &new).iter().map(ToString::to_string).collect();
    let Row { path, key, before, after, .. } = row;
    // Commands may hold secrets: of them it says only that they changed.
    let (before, after) =
        if *key == "instance_ready_command" { ("[redacted]", "[redacted]") } else { (*before, *after) };
    assert_eq!(said, [format!("runners[r].autoscaler.{path}{key}: {before} → {after}")]);
    let (was, is) = (settings_of(&old), settings_of(&new));
    assert_eq!((row.reads)(&is), row.expected, "{key}");
    assert_ne!((row.reads)(&was), row.expected, "{key}: the row shows no change");
}

const fn row(
    (section, path, key): (&'static str, &'static str, &'static str),
    (before, after): (&'static str, &'static str),
    reads: fn(&Settings) -> String,
    expected: &'static str,
) -> Row {
    Row { section, path, key, before, after, reads, expected }
}

#[test]
fn every_count_and_time_of_the_autoscaler_is_taken_up_and_said() {
    for row in [
        row((PLUGIN, "", "capacity_per_instance"), ("1", "2"), |s| s.core.capacity_per_instance.to_string(), "2"),
        row((PLUGIN, "", "max_use_count"), ("1", "5"), |s| format!("{:?}", s.core.max_use_count), "Some(5)"),
        row((PLUGIN, "", "max_instances"), ("5", "0"), |s| format!("{:?}", s.core.max_instances), "None"),
        row(
            (PLUGIN, "", "instance_acquire_timeout"),
            ("\"5m0s\"", "\"7m0s\""),
            |s| format!("{:?}", s.core.acquire_timeout),
            "420s",
        ),
        row((PLUGIN, "", "update_interval"), ("\"1m\"", "\"30s\""), |s| format!("{:?}", s.core.update_interval), "30s"),
        row(
            (PLUGIN, "", "update_interval_when_expecting"),
            ("\"2s\"", "\"3s\""),
            |s| format!("{:?}", s.core.update_interval_when_expecting),
            "3s",
        ),
        row(
            (PLUGIN, "", "deletion_retry_interval"),
            ("\"1m\"", "\"2m\""),
            |s| format!("{:?}", s.core.deletion_retry_interval),
            "120s",
        ),
        row((PLUGIN, "", "failure_threshold"), ("3", "4"), |s| s.core.failure_threshold.to_string(), "4"),
        row(
            (PLUGIN, "", "delete_instances_on_shutdown"),
            ("true", "false"),
            |s| format!("{:?}", s.core.on_shutdown),
            "Keep",
        ),
        row(
            (DELETES, "", "shutdown_deletion_interval"),
            ("\"1s\"", "\"2s\""),
            |s| format!("{:?}", s.core.on_shutdown),
            "Delete { interval: 2s, retries: 3 }",
        ),
        row(
            (DELETES, "", "shutdown_deletion_retries"),
            ("4", "5"),
            |s| format!("{:?}", s.core.on_shutdown),
            "Delete { interval: 10s, retries: 5 }",
        ),
        row(
            (PLUGIN, "", "reservation_throttling"),
            ("true", "false"),
            |s| format!("{:?}", s.core.reservation_throttling),
            "Some(false)",
        ),
        row(
            (THROTTLE, "scale_throttle.", "limit"),
            ("5", "7"),
            |s| format!("{:?}", s.core.scale_throttle),
            "Limited { limit: 7, burst: 7 }",
        ),
        row(
            (LIMITED, "scale_throttle.", "burst"),
            ("6", "9"),
            |s| format!("{:?}", s.core.scale_throttle),
            "Limited { limit: 5, burst: 9 }",
        ),
    ] {
        check(&row);
    }
}

#[test]
fn how_instances_are_made_ready_reached_and_measured_is_taken_up_and_said() {
    for row in [
        row(
            (PLUGIN, "", "instance_ready_command"),
            ("\"true\"", "\"docker info\""),
            |s| format!("{:?}", s.readiness.command),
            "Some(\"docker info\")",
        ),
        row(
            (CONNECTOR, "connector_config.", "keepalive"),
            ("\"30s\"", "\"20s\""),
            |s| format!("{:?}", s.connector.keepalive),
            "20s",
        ),
        row(
            (CONNECTOR, "connector_config.", "timeout"),
            ("\"10m\"", "\"5m\""),
            |s| format!("{:?}", s.connector.timeout),
            "300s",
        ),
        row(
            (CONNECTOR, "connector_config.", "use_external_addr"),
            ("false", "true"),
            |s| s.connector.use_external_addr.to_string(),
            "true",
        ),
        row(
            (PLUGIN, "", "instance_readiness_time_buckets"),
            ("[1.0]", "[2.0]"),
            |s| format!("{:?}", s.buckets.readiness_time),
            "Some([2.0])",
        ),
    ] {
        check(&row);
    }
}

#[test]
fn every_key_of_a_policy_is_taken_up_and_said() {
    for row in [
        row((POLICY, "policy[0].", "periods"), ("[\"* * * * *\"]", "[\"* * * * sun\"]"), in_force, "false"),
        // Noon in London is evening in Tokyo.
        row((ZONED, "policy[0].", "timezone"), ("\"UTC\"", "\"Asia/Tokyo\""), in_force, "false"),
        row((OFFICE, "policy[0].", "idle_count"), ("1", "2"), |s| target(s).idle_count.to_string(), "2"),
        row(
            (POLICY, "policy[0].", "idle_time"),
            ("\"1m\"", "\"2m\""),
            |s| format!("{:?}", target(s).idle_time),
            "120s",
        ),
        row((POLICY, "policy[0].", "scale_factor"), ("0.5", "1.5"), |s| target(s).scale_factor.to_string(), "1.5"),
        row(
            (POLICY, "policy[0].", "scale_factor_limit"),
            ("5", "6"),
            |s| target(s).scale_factor_limit.to_string(),
            "6",
        ),
        row(
            (POLICY, "policy[0].", "preemptive_mode"),
            ("true", "false"),
            |s| format!("{:?}", s.core.policies[0].preemptive_mode),
            "Some(false)",
        ),
    ] {
        check(&row);
    }
}

#[tokio::test]
async fn changed_settings_reach_a_running_fleet_and_the_instances_that_it_has() {
    let mut rig = Rig::new();
    let handle = rig.start(settings(1));
    let key = reserved(&handle, "a").await;
    let acquisition = acquired(&handle, &key).await;
    let mut changed = settings(3);
    changed.core.capacity_per_instance = std::num::NonZeroU32::new(2).unwrap();
    changed.core.max_use_count = std::num::NonZeroU32::new(7);
    changed.core.max_instances = std::num::NonZeroU32::new(3);
    changed.connector.timeout = Duration::from_secs(77);
    handle.reconfigure(changed.clone()).await;
    let Snapshot { fleet, .. } = handle.snapshot().await.unwrap();
    assert_eq!((fleet.capacity_per_instance, fleet.max_use_count, fleet.max_instances), (2, Some(7), 3));
    assert_eq!(fleet.policy.target, target(&changed));
    assert_eq!(acquisition.instance().settings(), changed.connector, "a known instance is dialed by them too");
    acquisition.release(Release::Finished).await;
    handle.shutdown().await;
}
