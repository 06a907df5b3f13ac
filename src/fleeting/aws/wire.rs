//! From the SDK's types to plain data.

use std::collections::BTreeMap;

use aws_sdk_autoscaling::types::{Activity, AutoScalingGroup, Instance as GroupInstance, ScalingActivityStatusCode};
use aws_sdk_ec2::types::Instance;

use super::listing::{Group, Machine, Member, Power, Stage, architecture, operating_system};
use crate::ids::InstanceId;

/// The group. Numbers that the API leaves out count as 0.
pub(super) fn group(wire: &AutoScalingGroup) -> Group {
    let units = wire.desired_capacity_type().unwrap_or("units");
    Group {
        // arn:aws:autoscaling:REGION:ACCOUNT:autoScalingGroup:…
        account: wire.auto_scaling_group_arn().and_then(|arn| arn.split(':').nth(4)).map(str::to_owned),
        min: number(wire.min_size()),
        max: number(wire.max_size()),
        desired: number(wire.desired_capacity()),
        status: wire.status().map(str::to_owned),
        zones: wire.availability_zones().len(),
        protects_new_instances: wire.new_instances_protected_from_scale_in().unwrap_or_default(),
        capacity_rebalance: wire.capacity_rebalance().unwrap_or_default(),
        max_instance_lifetime: wire.max_instance_lifetime().map(|seconds| number(Some(seconds))),
        suspended: wire.suspended_processes().iter().filter_map(|it| it.process_name()).map(str::to_owned).collect(),
        is_weighted: units != "units" || has_weights(wire),
        members: wire.instances().iter().filter_map(member).collect(),
    }
}

fn has_weights(wire: &AutoScalingGroup) -> bool {
    let template = wire.mixed_instances_policy().and_then(|policy| policy.launch_template());
    let overrides = template.map(|template| template.overrides()).unwrap_or_default();
    overrides.iter().any(|it| it.weighted_capacity().is_some_and(|weight| weight != "1"))
}

fn member(wire: &GroupInstance) -> Option<Member> {
    let lifecycle = wire.lifecycle_state().map_or("", |state| state.as_str());
    Some(Member {
        id: InstanceId::new(wire.instance_id()?),
        stage: Stage::parse(lifecycle),
        lifecycle: lifecycle.to_owned(),
        is_healthy: wire.health_status().is_none_or(|health| health.eq_ignore_ascii_case("healthy")),
    })
}

/// Machines by their instance.
pub(super) fn machines<'a>(wire: impl IntoIterator<Item = &'a Instance>) -> BTreeMap<InstanceId, Machine> {
    wire.into_iter()
        .filter_map(|instance| Some((InstanceId::new(instance.instance_id()?), machine(instance))))
        .collect()
}

fn machine(wire: &Instance) -> Machine {
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let name = wire.architecture().map_or("", |architecture| architecture.as_str());
    let reason = wire.state_reason().and_then(|reason| text(reason.message()).or_else(|| text(reason.code())));
    Machine {
        power: Power::parse(wire.state().and_then(|state| state.name()).map_or("", |name| name.as_str())),
        internal_addr: text(wire.private_ip_address()),
        external_addr: text(wire.public_ip_address()),
        zone: wire.placement().and_then(|placement| text(placement.availability_zone())),
        os: operating_system(name, wire.platform().map(|platform| platform.as_str())),
        arch: architecture(name),
        is_spot: wire.instance_lifecycle().is_some_and(|lifecycle| lifecycle.as_str() == "spot"),
        reason: reason.or_else(|| text(wire.state_transition_reason())),
    }
}

/// A try of the group to launch something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    pub failed: bool,
    /// Seconds since 1970.
    pub began: i64,
    pub message: String,
}

/// The launches among a group's activities, the newest first, as the API has them.
pub(super) fn launches(wire: &[Activity]) -> Vec<Launch> {
    let is_launch = |activity: &&Activity| activity.description().is_some_and(|text| text.starts_with("Launching"));
    let launch = |activity: &Activity| Launch {
        failed: activity.status_code() == Some(&ScalingActivityStatusCode::Failed),
        began: activity.start_time().map_or(0, |time| time.secs()),
        message: activity.status_message().or_else(|| activity.description()).unwrap_or_default().to_owned(),
    };
    wire.iter().filter(is_launch).map(launch).collect()
}

fn number(wire: Option<i32>) -> u32 {
    wire.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}
