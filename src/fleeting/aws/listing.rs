//! What the cloud says of a group and its machines, and what follows from that. Nothing here calls anybody.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::resolved::{ConnectorConfig, Protocol};
use crate::fleeting::group::{GroupListing, InstanceState};
use crate::ids::InstanceId;

/// An Auto Scaling group as it was described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// Its number at the cloud, part of its ARN.
    pub account: Option<String>,
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    /// Set while it is being deleted.
    pub status: Option<String>,
    pub zones: usize,
    pub protects_new_instances: bool,
    pub capacity_rebalance: bool,
    /// Seconds.
    pub max_instance_lifetime: Option<u32>,
    /// Names of processes, such as `AZRebalance`.
    pub suspended: BTreeSet<String>,
    /// Instances count for more than one, or the size is counted in something else.
    pub is_weighted: bool,
    pub members: Vec<Member>,
}

/// An instance as the group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub id: InstanceId,
    pub stage: Stage,
    /// The cloud's word, such as `Terminating:Wait`.
    pub lifecycle: String,
    pub is_healthy: bool,
}

/// Where a member is in its life, of the two dozen states of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Coming,
    InService,
    Going,
    Gone,
    /// It is held apart from the group's work: stopped in a warm pool, in standby, detached.
    Aside,
    /// The cloud keeps it for a look at what went wrong.
    Broken,
}

impl Stage {
    /// Reads `LifecycleState` (API reference of Auto Scaling, data type `Instance`). An unknown state is on its way up.
    pub(super) fn parse(lifecycle: &str) -> Self {
        match lifecycle {
            "InService" => Self::InService,
            "Terminated" => Self::Gone,
            "Standby" | "Detached" => Self::Aside,
            "EnteringStandby" | "Detaching" => Self::Going,
            "Quarantined" => Self::Broken,
            warmed if warmed.starts_with("Warmed:") => Self::Aside,
            going if going.starts_with("Terminating") => Self::Going,
            _ => Self::Coming,
        }
    }
}

/// An instance as EC2 sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub power: Power,
    pub internal_addr: Option<String>,
    pub external_addr: Option<String>,
    pub zone: Option<String>,
    /// As Go names it.
    pub os: &'static str,
    /// As Go names it.
    pub arch: &'static str,
    pub is_spot: bool,
    /// Why it stops or ends, such as `Server.SpotInstanceTermination: …`.
    pub reason: Option<String>,
}

impl Machine {
    fn has_address(&self) -> bool {
        self.internal_addr.is_some() || self.external_addr.is_some()
    }
}

/// State of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Pending,
    Running,
    /// Stopping or stopped.
    Stopped,
    /// Shutting down or terminated.
    Ended,
}

impl Power {
    /// Reads `InstanceStateName` of EC2.
    pub(super) fn parse(name: &str) -> Self {
        match name {
            "running" => Self::Running,
            "stopping" | "stopped" => Self::Stopped,
            "shutting-down" | "terminated" => Self::Ended,
            _ => Self::Pending,
        }
    }
}

/// The operating system as Go names it.
pub(super) fn operating_system(architecture: &str, platform: Option<&str>) -> &'static str {
    if architecture.ends_with("_mac") {
        "darwin"
    } else if platform.is_some_and(|platform| platform.eq_ignore_ascii_case("windows")) {
        "windows"
    } else {
        "linux"
    }
}

/// The architecture as Go names it.
pub(super) fn architecture(name: &str) -> &'static str {
    match name.trim_end_matches("_mac") {
        "i386" => "386",
        "arm64" => "arm64",
        _ => "amd64",
    }
}

/// One listing: the members with their machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fleet {
    pub desired: u32,
    pub members: BTreeMap<InstanceId, Known>,
}

/// What is known of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub member: Member,
    /// `None`: EC2 does not show it yet.
    pub machine: Option<Machine>,
}

impl Fleet {
    /// Puts both descriptions together. A machine that EC2 leaves out for once is as it was `before`.
    pub(super) fn new(group: Group, mut machines: BTreeMap<InstanceId, Machine>, before: Option<&Self>) -> Self {
        let known = |member: Member| {
            let machine = machines.remove(&member.id);
            let remembered = || before?.members.get(&member.id)?.machine.clone();
            (member.id.clone(), Known { machine: machine.or_else(remembered), member })
        };
        Self { desired: group.desired, members: group.members.into_iter().map(known).collect() }
    }

    /// The fleet in the words of the taskscaler.
    pub(super) fn listing(&self) -> GroupListing {
        let instances = self.members.iter().filter_map(|(id, known)| Some((id.clone(), known.state()?)));
        GroupListing { target_size: Some(self.desired), instances: instances.collect() }
    }
}

impl Known {
    /// `None`: it does none of the group's work.
    fn state(&self) -> Option<InstanceState> {
        let power = self.machine.as_ref().map(|machine| machine.power);
        match (self.member.stage, power) {
            (Stage::Aside, _) => None,
            (Stage::Gone, _) => Some(InstanceState::Deleted),
            (Stage::Going, _) | (Stage::Coming, Some(Power::Ended)) => Some(InstanceState::Deleting),
            // Somebody else ended it and the group has not seen that: deleting it keeps the group from replacing it.
            (Stage::InService, Some(Power::Stopped | Power::Ended)) | (Stage::Broken, _) => {
                Some(InstanceState::Timeout)
            }
            (Stage::Coming, _) => Some(InstanceState::Creating),
            // Nobody can reach it yet.
            (Stage::InService, None) => Some(InstanceState::Creating),
            (Stage::InService, Some(Power::Pending | Power::Running)) => Some(InstanceState::Running),
        }
    }

    /// Whether it does the group's work.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn health(&self) -> Result<(), String> {
        let reason = self.machine.as_ref().and_then(|machine| machine.reason.as_deref());
        let with_reason = |what: &str| reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}"));
        match self.machine.as_ref().map(|machine| (machine.power, machine.is_spot)) {
            Some((Power::Ended, true)) => return Err(with_reason("the spot instance was taken away")),
            Some((Power::Ended, false)) => return Err(with_reason("the instance was terminated")),
            Some((Power::Stopped, _)) => return Err(with_reason("the instance was stopped")),
            Some((Power::Pending | Power::Running, _)) | None => {}
        }
        match self.member.stage {
            Stage::Going | Stage::Gone | Stage::Aside | Stage::Broken => {
                Err(with_reason(&format!("its lifecycle state is {}", self.member.lifecycle)))
            }
            Stage::Coming | Stage::InService if !self.member.is_healthy => {
                Err(with_reason("the Auto Scaling group calls it unhealthy"))
            }
            Stage::Coming | Stage::InService => Ok(()),
        }
    }

    /// The machine, where it can be dialed.
    pub(super) fn reachable(&self) -> Option<&Machine> {
        self.machine.as_ref().filter(|machine| machine.has_address())
    }
}

impl Group {
    /// Instances that the group wants and does not have yet.
    pub(super) fn missing(&self) -> u32 {
        let working = self.members.iter().filter(|member| matches!(member.stage, Stage::Coming | Stage::InService));
        self.desired.saturating_sub(u32::try_from(working.count()).unwrap_or(u32::MAX))
    }

    /// How many of `count` more instances the group takes.
    pub(super) fn room_for(&self, count: u32) -> u32 {
        count.min(self.max.saturating_sub(self.desired))
    }
}

/// Who logs in, and by what protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    pub os: String,
    pub arch: String,
    pub protocol: Protocol,
    pub port: u16,
    pub username: String,
}

/// What the configuration says, else what the machine tells.
pub(super) fn login(machine: &Machine, connector: &ConnectorConfig) -> Login {
    let os = connector.os.clone().unwrap_or_else(|| machine.os.to_owned());
    let is_windows = os == "windows";
    let protocol = connector.protocol.unwrap_or(if is_windows { Protocol::WinRmHttp } else { Protocol::Ssh });
    let username = if is_windows { "Administrator" } else { "ec2-user" };
    Login {
        arch: connector.arch.clone().unwrap_or_else(|| machine.arch.to_owned()),
        port: connector.port.unwrap_or_else(|| protocol.default_port()),
        username: connector.username.clone().unwrap_or_else(|| username.to_owned()),
        protocol,
        os,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(power: Power) -> Machine {
        Machine {
            power,
            internal_addr: Some("10.0.0.1".to_owned()),
            external_addr: None,
            zone: Some("eu-central-1a".to_owned()),
            os: "linux",
            arch: "amd64",
            is_spot: false,
            reason: None,
        }
    }

    fn known(lifecycle: &str, machine: Option<Machine>) -> Known {
        let stage = Stage::parse(lifecycle);
        let member = Member { id: InstanceId::new("i-1"), stage, lifecycle: lifecycle.to_owned(), is_healthy: true };
        Known { member, machine }
    }

    #[test]
    fn a_state_is_what_group_and_machine_say_together() {
        use InstanceState::{Creating, Deleted, Deleting, Running, Timeout};
        for (lifecycle, power, state) in [
            ("Pending", None, Some(Creating)),
            ("Pending:Wait", Some(Power::Running), Some(Creating)),
            ("Pending", Some(Power::Ended), Some(Deleting)),
            ("InService", Some(Power::Running), Some(Running)),
            ("InService", Some(Power::Pending), Some(Running)),
            ("InService", None, Some(Creating)),
            ("InService", Some(Power::Stopped), Some(Timeout)),
            ("InService", Some(Power::Ended), Some(Timeout)),
            ("Terminating", Some(Power::Running), Some(Deleting)),
            ("Terminating:Wait", Some(Power::Running), Some(Deleting)),
            ("Terminating:Proceed", Some(Power::Ended), Some(Deleting)),
            ("Terminated", Some(Power::Ended), Some(Deleted)),
            ("EnteringStandby", Some(Power::Running), Some(Deleting)),
            ("Standby", Some(Power::Running), None),
            ("Detaching", Some(Power::Running), Some(Deleting)),
            ("Detached", Some(Power::Running), None),
            ("Quarantined", Some(Power::Running), Some(Timeout)),
            ("Warmed:Stopped", Some(Power::Stopped), None),
            ("Warmed:Pending:Wait", Some(Power::Running), None),
            ("SomethingNew", Some(Power::Running), Some(Creating)),
        ] {
            assert_eq!(known(lifecycle, power.map(machine)).state(), state, "{lifecycle} {power:?}");
        }
    }

    #[test]
    fn what_makes_an_instance_unhealthy_is_said() {
        assert_eq!(known("InService", Some(machine(Power::Running))).health(), Ok(()));
        let spot = Machine {
            is_spot: true,
            reason: Some("Server.SpotInstanceTermination: Spot instance termination".to_owned()),
            ..machine(Power::Ended)
        };
        let said = known("InService", Some(spot)).health().unwrap_err();
        assert!(said.starts_with("the spot instance was taken away: Server.SpotInstanceTermination"), "{said}");
        let said = known("Terminating:Wait", Some(machine(Power::Running))).health().unwrap_err();
        assert_eq!(said, "its lifecycle state is Terminating:Wait");
        let mut unhealthy = known("InService", Some(machine(Power::Running)));
        unhealthy.member.is_healthy = false;
        assert_eq!(unhealthy.health().unwrap_err(), "the Auto Scaling group calls it unhealthy");
    }

    #[test]
    fn a_machine_that_one_answer_leaves_out_is_as_it_was() {
        let group = || Group { desired: 2, members: vec![known("InService", None).member], ..Group::default() };
        let first = Fleet::new(group(), [(InstanceId::new("i-1"), machine(Power::Running))].into(), None);
        let second = Fleet::new(group(), BTreeMap::new(), Some(&first));
        assert_eq!(second, first);
        let listing = second.listing();
        assert_eq!(listing.target_size, Some(2));
        assert_eq!(listing.instances, [(InstanceId::new("i-1"), InstanceState::Running)]);
        assert_eq!(Fleet::new(group(), BTreeMap::new(), None).listing().instances[0].1, InstanceState::Creating);
    }

    #[test]
    fn members_that_go_leave_a_place_that_is_missing() {
        let members = ["InService", "Pending", "Terminating", "Standby"].map(|state| known(state, None).member);
        let group = Group { desired: 3, max: 5, members: members.into(), ..Group::default() };
        assert_eq!(group.missing(), 1);
        assert_eq!((group.room_for(1), group.room_for(2), group.room_for(9)), (1, 2, 2));
    }

    #[test]
    fn the_configuration_comes_before_what_the_machine_tells() {
        let found = login(&machine(Power::Running), &ConnectorConfig::default());
        assert_eq!((found.username.as_str(), found.port, found.arch.as_str()), ("ec2-user", 22, "amd64"));
        let connector = ConnectorConfig {
            username: Some("ci".to_owned()),
            port: Some(2222),
            arch: Some("arm64".to_owned()),
            ..ConnectorConfig::default()
        };
        let found = login(&machine(Power::Running), &connector);
        assert_eq!((found.username.as_str(), found.port, found.arch.as_str()), ("ci", 2222, "arm64"));
        let windows = login(&Machine { os: "windows", ..machine(Power::Running) }, &ConnectorConfig::default());
        assert_eq!((windows.protocol, windows.username.as_str()), (Protocol::WinRmHttp, "Administrator"));
    }

    #[test]
    fn systems_and_architectures_are_named_as_go_names_them() {
        for (name, platform, os, arch) in [
            ("x86_64", None, "linux", "amd64"),
            ("i386", None, "linux", "386"),
            ("arm64", None, "linux", "arm64"),
            ("x86_64", Some("Windows"), "windows", "amd64"),
            ("arm64_mac", None, "darwin", "arm64"),
            ("x86_64_mac", None, "darwin", "amd64"),
        ] {
            assert_eq!((operating_system(name, platform), architecture(name)), (os, arch), "{name}");
        }
    }
}
