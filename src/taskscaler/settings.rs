//! From the resolved configuration to what the taskscaler needs.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::resolved::{Autoscaler, Buckets, Policy as PolicyEntry, ScaleThrottle as ThrottleEntry};
use crate::fleeting::access::{self, DockerEndpoint, Readiness};
use crate::fleeting::group::Ownership;

use super::core::policy::{Always, Periods, Policy, Target};
use super::core::settings::{OnShutdown, ScaleThrottle, Settings as CoreSettings, UnknownInstances};

/// Between checks of an idle instance, as in the reference's heartbeat.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(300);
/// How far ahead a policy's next edge is looked for. Where there is none, it is looked for again then.
const HORIZON: Duration = Duration::from_secs(24 * 3600);
/// Periods are sets of minutes.
const MINUTE: u64 = 60;

/// What may change while a taskscaler runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The rules of the fleet. What to do with unknown instances is completed when the group is known.
    pub core: CoreSettings,
    /// How instances are reached.
    pub connector: access::Settings,
    /// What an instance has to show before it gets jobs.
    pub readiness: Readiness,
    /// `state_storage.enabled = false`: the group is declared ours.
    pub stateless: bool,
    /// Of the histograms. Where they change, the histograms begin anew.
    pub buckets: Buckets,
}

impl Settings {
    /// The settings of one runner. `docker` is where jobs use the engine of the instance.
    pub fn new(autoscaler: &Autoscaler, docker: Option<DockerEndpoint>) -> Self {
        Self {
            core: core_settings(autoscaler),
            connector: access::Settings::from(&autoscaler.connector_config),
            readiness: Readiness { command: autoscaler.instance_ready_command.clone(), docker },
            stateless: autoscaler.state_storage.enabled == Some(false),
            buckets: autoscaler.buckets.clone(),
        }
    }

    /// The same for a runner that is no longer in the configuration: no instance is kept for jobs that may yet come,
    /// nor for a next start.
    #[must_use]
    pub fn winding_down(mut self, autoscaler: &Autoscaler) -> Self {
        self.core.on_shutdown = deletion_at_shutdown(autoscaler);
        let target = Target { idle_count: 0, idle_time: Duration::ZERO, scale_factor: 0.0, scale_factor_limit: 0 };
        self.core.policies = vec![Policy { periods: Arc::new(Always), target, preemptive_mode: None }];
        self
    }

    /// What is done with members of the group that nobody knows.
    pub fn unknown_instances(&self, ownership: Ownership) -> UnknownInstances {
        match ownership {
            Ownership::Fixed => UnknownInstances::Adopt,
            Ownership::Ours => UnknownInstances::Remove,
            Ownership::Unmarked if self.stateless => UnknownInstances::Remove,
            Ownership::Unmarked => UnknownInstances::Report,
        }
    }
}

/// The part that the core reads.
pub fn core_settings(autoscaler: &Autoscaler) -> CoreSettings {
    let max_instances = NonZeroU32::new(autoscaler.max_instances);
    CoreSettings {
        capacity_per_instance: NonZeroU32::new(autoscaler.capacity_per_instance).unwrap_or(NonZeroU32::MIN),
        max_use_count: NonZeroU32::new(autoscaler.max_use_count),
        max_instances,
        policies: autoscaler.policies.iter().map(policy).collect(),
        reservation_throttling: autoscaler.reservation_throttling,
        scale_throttle: throttle(autoscaler.scale_throttle),
        acquire_timeout: autoscaler.instance_acquire_timeout,
        update_interval: autoscaler.update_interval,
        update_interval_when_expecting: autoscaler.update_interval_when_expecting,
        deletion_retry_interval: autoscaler.deletion_retry_interval,
        failure_threshold: NonZeroU32::new(autoscaler.failure_threshold).unwrap_or(NonZeroU32::MIN),
        liveness_interval: LIVENESS_INTERVAL,
        on_shutdown: if autoscaler.delete_instances_on_shutdown {
            deletion_at_shutdown(autoscaler)
        } else {
            OnShutdown::Keep
        },
        unknown: UnknownInstances::Report,
    }
}

fn deletion_at_shutdown(autoscaler: &Autoscaler) -> OnShutdown {
    let interval = autoscaler.shutdown_deletion_interval;
    OnShutdown::Delete { interval, retries: autoscaler.shutdown_deletion_retries }
}

fn throttle(entry: ThrottleEntry) -> ScaleThrottle {
    match (entry.limit.and_then(NonZeroU32::new), NonZeroU32::new(entry.burst)) {
        (Some(limit), burst) => ScaleThrottle::Limited { limit, burst: burst.unwrap_or(limit) },
        (None, _) => ScaleThrottle::Unlimited,
    }
}

fn policy(entry: &PolicyEntry) -> Policy {
    let always = entry.periods.iter().any(|period| period.as_str() == "* * * * *");
    Policy {
        periods: if always { Arc::new(Always) } else { Arc::new(Calendar(entry.clone())) },
        target: Target {
            idle_count: entry.idle_count,
            idle_time: entry.idle_time,
            scale_factor: entry.scale_factor,
            scale_factor_limit: entry.scale_factor_limit,
        },
        preemptive_mode: entry.preemptive_mode,
    }
}

/// The periods of a policy in its time zone.
#[derive(Debug)]
struct Calendar(PolicyEntry);

impl Periods for Calendar {
    fn contains(&self, at: SystemTime) -> bool {
        self.0.is_active(at)
    }

    fn next_change(&self, at: SystemTime) -> Option<SystemTime> {
        let active = self.contains(at);
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        let minutes = (seconds / MINUTE + 1)..=((seconds + HORIZON.as_secs()) / MINUTE);
        let moment = |minute: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(minute * MINUTE);
        Some(minutes.map(moment).find(|at| self.contains(*at) != active).unwrap_or(at + HORIZON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn calendar(period: &str, zone: &str) -> Calendar {
        let period = crate::config::types::period::Period::parse_policy(period).unwrap().period;
        Calendar(PolicyEntry {
            periods: vec![period],
            timezone: zone.parse().unwrap(),
            idle_count: 5,
            idle_time: Duration::from_secs(60),
            scale_factor: 0.0,
            scale_factor_limit: 0,
            preemptive_mode: None,
        })
    }

    #[test]
    fn next_change_is_the_edge_of_the_period_in_its_zone() {
        // 2026-03-27 is a Friday; Berlin is an hour ahead of UTC until Sunday the 29th, then two.
        let office = calendar("* 8-17 * * mon-fri", "Europe/Berlin");
        let midnight = 1_774_569_600;
        let hour = 3600;
        assert_eq!(office.next_change(at(midnight)), Some(at(midnight + 7 * hour)));
        assert!(office.contains(at(midnight + 7 * hour)));
        assert_eq!(office.next_change(at(midnight + 7 * hour)), Some(at(midnight + 17 * hour)));
        let saturday = midnight + 24 * hour;
        assert_eq!(office.next_change(at(saturday)), Some(at(saturday + 24 * hour)), "nothing for a day: look again");
        let monday = midnight + 3 * 24 * hour;
        assert_eq!(office.next_change(at(monday)), Some(at(monday + 6 * hour)), "summer time has begun");
    }

    #[test]
    fn an_hour_that_a_clock_change_repeats_counts_twice_and_one_that_it_skips_not_at_all() {
        let night = calendar("* 2 * * *", "Europe/Berlin");
        let minutes_of = |midnight: u64| (0..240).filter(|minute| night.contains(at(midnight + minute * 60))).count();
        let (march_28, october_25) = (1_774_656_000, 1_792_886_400);
        let day = 24 * 3600;
        assert_eq!(minutes_of(march_28), 60, "an ordinary night");
        assert_eq!(minutes_of(march_28 + day), 0, "from two to three in one step");
        assert_eq!(minutes_of(october_25), 120, "from three back to two");
    }
}
