//! What is wrong with a group's settings at the cloud: what cannot work is an error, what costs jobs or money a warning.
//!
//! The rules are those of the reference's documentation of the plugin (scaling policy none, AZRebalance suspended,
//! scale-in protection, a maximum that covers `max_instances`).

use super::listing::Group;

/// What makes the group unusable, with what to change.
pub(super) fn problem(name: &str, group: &Group) -> Option<String> {
    let suspended = |process: &str| group.suspended.contains(process);
    if let Some(status) = &group.status {
        return Some(format!("the Auto Scaling group {name} is going away: {status}"));
    }
    if group.max == 0 {
        return Some(format!("the Auto Scaling group {name} holds no instance: raise its MaxSize to max_instances"));
    }
    if group.is_weighted {
        let fix = "set DesiredCapacityType to units and remove WeightedCapacity from its overrides";
        return Some(format!("the Auto Scaling group {name} does not count its size in instances: {fix}"));
    }
    ["Launch", "Terminate"].into_iter().find(|process| suspended(process)).map(|process| {
        let command = command("resume-processes", name, process);
        format!("the process {process} of the Auto Scaling group {name} is suspended: {command}")
    })
}

/// What works against the runner.
pub(super) fn warnings(name: &str, group: &Group, policies: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    if group.zones > 1 && !group.suspended.contains("AZRebalance") {
        let command = command("suspend-processes", name, "AZRebalance");
        found.push(format!("AZRebalance may terminate instances that run jobs: {command}"));
    }
    if !group.protects_new_instances {
        let command = format!(
            "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {name} \
             --new-instances-protected-from-scale-in"
        );
        found.push(format!("new instances are not protected from scale-in: {command}"));
    }
    if group.capacity_rebalance {
        found.push(
            "capacity rebalancing replaces spot instances that run jobs: switch CapacityRebalance off".to_owned(),
        );
    }
    if let Some(seconds) = group.max_instance_lifetime {
        found.push(format!("instances are replaced after {seconds} s, with their jobs: unset MaxInstanceLifetime"));
    }
    if group.min > 0 {
        found.push(format!("the group never has fewer than {} instances: set MinSize to 0", group.min));
    }
    if !policies.is_empty() && !group.suspended.contains("AlarmNotification") {
        let policies = policies.join(", ");
        found.push(format!("scaling policies change the group's size as well: delete or disable {policies}"));
    }
    found
}

fn command(verb: &str, name: &str, process: &str) -> String {
    format!("aws autoscaling {verb} --auto-scaling-group-name {name} --scaling-processes {process}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Group {
        Group {
            max: 5,
            zones: 2,
            protects_new_instances: true,
            suspended: ["AZRebalance".to_owned()].into(),
            ..Group::default()
        }
    }

    #[test]
    fn a_group_as_documented_is_good() {
        assert_eq!(problem("g", &good()), None);
        assert_eq!(warnings("g", &good(), &[]), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_work_names_the_setting() {
        let suspended = |process: &str| [process.to_owned()].into();
        for (group, word) in [
            (Group { max: 0, ..good() }, "MaxSize"),
            (Group { is_weighted: true, ..good() }, "WeightedCapacity"),
            (Group { status: Some("Delete in progress".to_owned()), ..good() }, "Delete in progress"),
            (Group { suspended: suspended("Launch"), ..good() }, "--scaling-processes Launch"),
            (Group { suspended: suspended("Terminate"), ..good() }, "resume-processes"),
        ] {
            let said = problem("g", &group).unwrap();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn what_works_against_the_runner_is_said_with_the_command_that_ends_it() {
        let group = Group {
            min: 1,
            suspended: [].into(),
            protects_new_instances: false,
            capacity_rebalance: true,
            max_instance_lifetime: Some(86_400),
            ..good()
        };
        let said = warnings("g", &group, &["cpu".to_owned()]);
        let words = [
            "suspend-processes --auto-scaling-group-name g --scaling-processes AZRebalance",
            "--new-instances-protected-from-scale-in",
            "CapacityRebalance",
            "MaxInstanceLifetime",
            "MinSize",
            "delete or disable cpu",
        ];
        assert_eq!(said.len(), words.len(), "{said:?}");
        for (said, word) in said.iter().zip(words) {
            assert!(said.contains(word), "{said}");
        }
        let one_zone = Group { zones: 1, suspended: ["AlarmNotification".to_owned()].into(), ..good() };
        assert_eq!(warnings("g", &one_zone, &["cpu".to_owned()]), Vec::<String>::new());
    }
}
