//! The calls that this provider makes, with what each needs and how urgent it is.

use super::budget::{Class, Priority};

/// An operation of an AWS API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    DescribeGroup,
    DescribePolicies,
    DescribeActivities,
    SetDesiredCapacity,
    TerminateInstance,
    DescribeInstances,
    SendKey,
}

impl Call {
    /// The permission that allows it, as IAM policies name it.
    pub(super) fn permission(self) -> &'static str {
        match self {
            Self::DescribeGroup => "autoscaling:DescribeAutoScalingGroups",
            Self::DescribePolicies => "autoscaling:DescribePolicies",
            Self::DescribeActivities => "autoscaling:DescribeScalingActivities",
            Self::SetDesiredCapacity => "autoscaling:SetDesiredCapacity",
            Self::TerminateInstance => "autoscaling:TerminateInstanceInAutoScalingGroup",
            Self::DescribeInstances => "ec2:DescribeInstances",
            Self::SendKey => "ec2-instance-connect:SendSSHPublicKey",
        }
    }

    /// Whose limits it counts towards.
    pub(super) fn class(self) -> Class {
        match self {
            Self::DescribeGroup
            | Self::DescribePolicies
            | Self::DescribeActivities
            | Self::SetDesiredCapacity
            | Self::TerminateInstance => Class::AutoScaling,
            Self::DescribeInstances => Class::Ec2,
            Self::SendKey => Class::InstanceConnect,
        }
    }

    /// Whose turn it is when there are fewer calls than callers.
    pub(super) fn priority(self) -> Priority {
        match self {
            Self::SendKey => Priority::Jobs,
            Self::TerminateInstance => Priority::Delete,
            Self::SetDesiredCapacity => Priority::Create,
            Self::DescribeGroup | Self::DescribePolicies | Self::DescribeActivities | Self::DescribeInstances => {
                Priority::List
            }
        }
    }
}
