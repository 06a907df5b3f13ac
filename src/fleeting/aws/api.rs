//! Single calls: each within the budget, each ending in plain data or a typed error.
//!
//! Nothing is tried again here, but a call that changes nothing and whose connection broke.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_autoscaling::config::http::HttpResponse;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::Filter;

use super::budget::Budget;
use super::call::Call;
use super::client::Clients;
use super::errors::CallError;
use super::listing::{Group, Machine};
use super::wire::{self, Launch};
use crate::config::environment::Environment;
use crate::config::resolved::AwsGroup as Settings;
use crate::fleeting::group::GroupError;
use crate::ids::InstanceId;

/// The most that EC2 gives at once.
const PAGE: i32 = 1_000;
/// A group of more machines than this is no group of ours: an answer that names a next page for ever ends here.
const MOST_PAGES: usize = 50;
/// Enough to see the launches of the last increase.
const ACTIVITIES: i32 = 20;
/// The tag by which EC2 knows the members of a group.
const GROUP_TAG: &str = "tag:aws:autoscaling:groupName";

/// The APIs, for one group.
#[derive(Debug)]
pub(super) struct Api {
    name: String,
    clients: Clients,
    budget: Mutex<Arc<Budget>>,
}

impl Api {
    pub(super) async fn new(settings: &Settings, environment: &Environment) -> Result<Self, GroupError> {
        let clients = Clients::new(settings, environment).await?;
        let budget = Mutex::new(Budget::shared(&clients.endpoint, &clients.region, None));
        Ok(Self { name: settings.name.clone(), clients, budget })
    }

    pub(super) fn region(&self) -> &str {
        &self.clients.region
    }

    /// The group; `None` where there is none of this name.
    pub(super) async fn group(&self) -> Result<Option<Group>, CallError> {
        let request = || self.clients.autoscaling.describe_auto_scaling_groups().auto_scaling_group_names(&self.name);
        let mut found: Option<Group> = None;
        let mut next: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = self.asked(Call::DescribeGroup, || request().set_next_token(next.clone()).send()).await?;
            let same = |group: &&_| aws_name(group) == Some(self.name.as_str());
            for group in page.auto_scaling_groups().iter().filter(same).map(wire::group) {
                match &mut found {
                    Some(found) => found.members.extend(group.members),
                    None => found = Some(group),
                }
            }
            next = page.next_token().map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        if let Some(account) = found.as_ref().and_then(|group| group.account.as_deref()) {
            let shared = Budget::shared(&self.clients.endpoint, &self.clients.region, Some(account));
            *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = shared;
        }
        Ok(found)
    }

    /// The machines of the group.
    pub(super) async fn machines(&self) -> Result<BTreeMap<InstanceId, Machine>, CallError> {
        let filter = Filter::builder().name(GROUP_TAG).values(&self.name).build();
        let request = || self.clients.ec2.describe_instances().filters(filter.clone()).max_results(PAGE);
        let mut found = BTreeMap::new();
        let mut next: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = self.asked(Call::DescribeInstances, || request().set_next_token(next.clone()).send()).await?;
            found.extend(wire::machines(page.reservations().iter().flat_map(|it| it.instances())));
            next = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// The names of the enabled scaling policies.
    pub(super) async fn policies(&self) -> Result<Vec<String>, CallError> {
        let request = || self.clients.autoscaling.describe_policies().auto_scaling_group_name(&self.name).send();
        let answer = self.asked(Call::DescribePolicies, request).await?;
        let enabled = answer.scaling_policies().iter().filter(|policy| policy.enabled().unwrap_or(true));
        Ok(enabled.filter_map(|policy| policy.policy_name()).map(str::to_owned).collect())
    }

    /// The group's latest launches, the newest first.
    pub(super) async fn launches(&self) -> Result<Vec<Launch>, CallError> {
        let request = || {
            let request = self.clients.autoscaling.describe_scaling_activities();
            request.auto_scaling_group_name(&self.name).max_records(ACTIVITIES).send()
        };
        let answer = self.asked(Call::DescribeActivities, request).await?;
        Ok(wire::launches(answer.activities()))
    }

    /// Sets the size that the group works towards.
    pub(super) async fn set_size(&self, size: u32) -> Result<(), CallError> {
        let request = self.clients.autoscaling.set_desired_capacity().auto_scaling_group_name(&self.name);
        let request = request.desired_capacity(i32::try_from(size).unwrap_or(i32::MAX)).honor_cooldown(false);
        self.once(Call::SetDesiredCapacity, request.send()).await.map(drop)
    }

    /// Terminates one instance and lowers the size by one. An instance that is not in the group counts as done.
    pub(super) async fn terminate(&self, id: &InstanceId) -> Result<(), CallError> {
        let request = self.clients.autoscaling.terminate_instance_in_auto_scaling_group().instance_id(id.as_str());
        let request = request.should_decrement_desired_capacity(true);
        match self.once(Call::TerminateInstance, request.send()).await {
            Err(error) if !error.is_unknown_instance() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Puts a public key on an instance for a minute.
    pub(super) async fn send_key(
        &self,
        id: &InstanceId,
        zone: Option<&str>,
        user: &str,
        public: &str,
    ) -> Result<(), CallError> {
        let request = || {
            let request = self.clients.connect.send_ssh_public_key().instance_id(id.as_str());
            let request = request.set_availability_zone(zone.map(str::to_owned));
            request.instance_os_user(user).ssh_public_key(public).send()
        };
        self.asked(Call::SendKey, request).await.map(drop)
    }

    /// A call that may be made twice.
    async fn asked<T, E, F>(&self, call: Call, send: impl Fn() -> F) -> Result<T, CallError>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        match self.once(call, send()).await {
            // A kept connection that the other side has closed meanwhile.
            Err(error) if error.was_cut() => self.once(call, send()).await,
            answered => answered,
        }
    }

    async fn once<T, E, F>(&self, call: Call, sent: F) -> Result<T, CallError>
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let budget = Arc::clone(&self.budget.lock().unwrap_or_else(PoisonError::into_inner));
        budget.take(call.class(), call.priority()).await;
        let answered = sent.await.map_err(|error| CallError::new(call, error));
        if answered.as_ref().is_err_and(CallError::is_throttled) {
            budget.throttled(call.class());
        }
        answered
    }
}

fn aws_name(group: &aws_sdk_autoscaling::types::AutoScalingGroup) -> Option<&str> {
    group.auto_scaling_group_name()
}
