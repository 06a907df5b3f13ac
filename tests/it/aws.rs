//! Auto Scaling groups of AWS: against moto, which others wrote, and for refusals and whole jobs against a small AWS of
//! this test's own.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use flotilla::config::environment::Environment;
use flotilla::config::resolved::{AwsGroup, ConnectorConfig, PluginConfig};
use flotilla::fleeting::group::{GroupError, InstanceGroup, InstanceState, Operation};
use flotilla::fleeting::registry::{self, Surroundings};
use flotilla::ids::InstanceId;
use flotilla::sandbox::{JobStatus, Sandbox, SandboxJob};

use crate::harness::fake_aws::{Cloud, FakeAws, Refusal};
use crate::harness::moto::{Moto, REGION};
use crate::harness::namespace::{self, HOST, Namespace, USER};
use crate::harness::process::Manager;
use crate::harness::{eventually, finish};

const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIATEST"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// The provider of a group at this endpoint, which the environment names.
fn provide(endpoint: &str, name: &str, connector: &ConnectorConfig) -> Arc<dyn InstanceGroup> {
    let variables = CREDENTIALS.into_iter().chain([("AWS_ENDPOINT_URL", endpoint)]);
    provide_in(variables.collect(), name, connector)
}

fn provide_in(environment: Environment, name: &str, connector: &ConnectorConfig) -> Arc<dyn InstanceGroup> {
    let settings = AwsGroup {
        name: name.to_owned(),
        profile: None,
        config_file: None,
        credentials_file: None,
        region: Some(REGION.to_owned()),
        endpoint_url: None,
    };
    let (local_root, executable) = ("/nonexistent".into(), "/nonexistent".into());
    let surroundings = Surroundings { local_root, executable, environment };
    registry::provide(&PluginConfig::Aws(settings), connector, &surroundings).expect("the provider")
}

async fn running(group: &dyn InstanceGroup) -> Vec<InstanceId> {
    let listing = group.update().await.expect("a listing");
    let is_running = |(id, state)| (state == InstanceState::Running).then_some(id);
    listing.instances.into_iter().filter_map(is_running).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_at_moto_grows_and_loses_whom_it_is_told_to() {
    let moto = Moto::start().await;
    moto.make_group("runners", 5).await;
    let group = provide(&moto.url, "runners", &ConnectorConfig::default());
    let info = group.init().await.expect("the group");
    assert_eq!((info.id.as_str(), info.max_size), ("aws/eu-central-1/runners", Some(5)));
    let empty = group.update().await.expect("a listing");
    assert_eq!((empty.target_size, empty.instances.len()), (Some(0), 0));

    let increased = group.increase(3).await;
    assert!(increased.error.is_none() && increased.succeeded == 3, "{increased:?}");
    let three = running(&*group).await;
    assert_eq!(three.len(), 3);
    let (_, looked) = group.look().await.expect("a look");
    assert_eq!((looked.target_size, looked.instances.len()), (Some(3), 3));

    let increased = group.increase(9).await;
    assert_eq!(increased.succeeded, 2);
    assert!(matches!(increased.error, Some(GroupError::Full { max: 5 })), "{increased:?}");
    let five = running(&*group).await;
    assert_eq!(five.len(), 5);

    let victims = &five[1..3];
    let decreased = group.decrease(victims).await;
    assert!(decreased.error.is_none() && decreased.succeeded == victims, "{decreased:?}");
    let left: BTreeSet<_> = running(&*group).await.into_iter().collect();
    assert_eq!(left, [0, 3, 4].map(|place: usize| five[place].clone()).into());
    assert_eq!(moto.desired("runners").await, 3);
    for victim in victims {
        let error = group.heartbeat(victim).await.unwrap_err();
        assert!(matches!(error, GroupError::UnknownInstance { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_at_moto_is_reached_with_a_key_of_this_process() {
    let moto = Moto::start().await;
    moto.make_group("runners", 2).await;
    let group = provide(&moto.url, "runners", &ConnectorConfig::default());
    group.init().await.expect("the group");
    group.increase(1).await;
    let [id] = running(&*group).await.try_into().expect("one instance");
    group.heartbeat(&id).await.expect("it is healthy");
    let info = group.connect_info(&id).await.expect("the way");
    assert_eq!((info.username.as_str(), info.os.as_str(), info.arch.as_str()), ("ec2-user", "linux", "amd64"));
    assert!(info.internal_addr.expect("an address").starts_with("10.9."));
    assert!(info.key.is_some() && info.expires.is_some_and(|expires| expires > flotilla::time::now().utc));
    let fixed = ConnectorConfig { use_static_credentials: true, ..ConnectorConfig::default() };
    let group = provide(&moto.url, "runners", &fixed);
    let info = group.connect_info(&id).await.expect("the way, without a listing before");
    assert!(info.key.is_none() && info.expires.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writers_change_of_the_size_is_not_lost() {
    let moto = Moto::start().await;
    moto.make_group("runners", 9).await;
    let group = provide(&moto.url, "runners", &ConnectorConfig::default());
    group.init().await.expect("the group");
    group.increase(1).await;
    assert_eq!(running(&*group).await.len(), 1);
    let theirs = [("AutoScalingGroupName", "runners"), ("DesiredCapacity", "4")];
    moto.autoscaling("SetDesiredCapacity", &theirs).await;
    assert_eq!(group.increase(2).await.succeeded, 2);
    assert_eq!(moto.desired("runners").await, 6);
    let ids = running(&*group).await;
    let (increased, decreased) = tokio::join!(group.increase(2), group.decrease(&ids[..4]));
    assert_eq!((increased.succeeded, decreased.succeeded.len()), (2, 4));
    assert_eq!(moto.desired("runners").await, 4, "changes at the same time both count");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_group_from_working_is_said_with_what_to_change() {
    let moto = Moto::start().await;
    let group = provide(&moto.url, "missing", &ConnectorConfig::default());
    let said = group.init().await.unwrap_err().to_string();
    assert_eq!(
        said,
        "there is no Auto Scaling group missing in eu-central-1 of this account: check name and region in plugin_config"
    );
    moto.make_group("runners", 2).await;
    let launch = [("AutoScalingGroupName", "runners"), ("ScalingProcesses.member.1", "Launch")];
    moto.autoscaling("SuspendProcesses", &launch).await;
    let group = provide(&moto.url, "runners", &ConnectorConfig::default());
    let error = group.init().await.unwrap_err();
    assert!(error.to_string().contains("resume-processes") && !error.is_retryable(), "{error}");
    moto.autoscaling("ResumeProcesses", &launch).await;
    assert_eq!(group.init().await.expect("the group").max_size, Some(2));
}

/// What README.md says that the manager needs.
const NEEDED: [&str; 5] = [
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:SetDesiredCapacity",
    "autoscaling:TerminateInstanceInAutoScalingGroup",
    "ec2:DescribeInstances",
    "ec2-instance-connect:SendSSHPublicKey",
];

#[tokio::test(flavor = "multi_thread")]
async fn five_permissions_are_enough_and_requests_are_signed() {
    let moto = Moto::start().await;
    moto.make_group("runners", 2).await;
    let (key, secret) = moto.enforce(&NEEDED).await;
    let keys = |secret: &str| -> Environment {
        let keys = [("AWS_ACCESS_KEY_ID", key.as_str()), ("AWS_SECRET_ACCESS_KEY", secret)];
        keys.into_iter().chain([("AWS_ENDPOINT_URL", moto.url.as_str())]).collect()
    };
    let group = provide_in(keys(&secret), "runners", &ConnectorConfig::default());
    group.init().await.expect("the group, without a look at its policies");
    let increased = group.increase(1).await;
    assert_eq!(increased.succeeded, 1, "{increased:?}");
    let ids = running(&*group).await;
    group.connect_info(&ids[0]).await.expect("the way");
    let decreased = group.decrease(&ids).await;
    assert_eq!(decreased.succeeded, ids, "{decreased:?}");
    let stranger = provide_in(keys("of somebody else"), "runners", &ConnectorConfig::default());
    let error = stranger.init().await.unwrap_err();
    assert!(matches!(error, GroupError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("the credentials are not accepted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_missing_is_named() {
    let moto = Moto::start().await;
    moto.make_group("runners", 2).await;
    let (key, secret) = moto.enforce(&NEEDED[..1]).await;
    let keys = [("AWS_ACCESS_KEY_ID", key.as_str()), ("AWS_SECRET_ACCESS_KEY", secret.as_str())];
    let environment = keys.into_iter().chain([("AWS_ENDPOINT_URL", moto.url.as_str())]).collect();
    let group = provide_in(environment, "runners", &ConnectorConfig::default());
    group.init().await.expect("the group");
    let error = group.increase(1).await.error.expect("a refusal");
    assert!(error.to_string().contains("the IAM policy must allow autoscaling:SetDesiredCapacity"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_by_the_proxy_of_the_environment() {
    // The small AWS answers whatever address it is asked for, as a proxy is.
    let aws = FakeAws::start(Cloud { max: 5, ..Cloud::default() }).await;
    let proxied = |no_proxy: &'static str| -> Environment {
        let endpoint = ("AWS_ENDPOINT_URL", "http://autoscaling.invalid");
        let proxy = [("HTTP_PROXY", aws.url.as_str()), ("NO_PROXY", no_proxy)];
        CREDENTIALS.into_iter().chain([endpoint]).chain(proxy).collect()
    };
    let group = provide_in(proxied("other.invalid"), "runners", &ConnectorConfig::default());
    group.init().await.expect("the group");
    let direct = provide_in(proxied("autoscaling.invalid"), "runners", &ConnectorConfig::default());
    let error = direct.init().await.unwrap_err();
    assert!(matches!(error, GroupError::Failed { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_shows_a_group_at_moto() {
    let moto = Moto::start().await;
    moto.make_group("runners", 4).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let config = config("https://gitlab.example.com", "glrt-1", "runners", &moto.url, "idle_count = 2");
    std::fs::write(&path, config).expect("the config");
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(["plan", "--config"])
        .arg(&path)
        .envs(CREDENTIALS)
        .output()
        .expect("the binary of this build");
    let said = format!("{}{}", crate::harness::text(&output.stdout), crate::harness::text(&output.stderr));
    assert!(output.status.success() && said.contains("group aws/eu-central-1/runners"), "{said}");
    assert!(said.contains("0 of at most 2"), "{said}");
    assert!(said.contains("+2"), "{said}");
    assert_eq!(moto.desired("runners").await, 0, "a look changes nothing");
}

fn refusal(action: &'static str, status: u16, code: &'static str, message: &'static str) -> Refusal {
    Refusal { action, status, code, message, retry_after: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_typed_and_changes_are_not_tried_again() {
    let aws = FakeAws::start(Cloud { max: 5, ..Cloud::default() }).await;
    let group = provide(&aws.url, "runners", &ConnectorConfig::default());
    group.init().await.expect("the group");
    assert!(aws.cloud().user_agent.contains("lib/flotilla/"), "{}", aws.cloud().user_agent);

    let throttled =
        Refusal { retry_after: Some("7"), ..refusal("SetDesiredCapacity", 400, "Throttling", "Rate exceeded") };
    aws.cloud().refusals = vec![throttled];
    let increased = group.increase(1).await;
    let seven = Some(Duration::from_secs(7));
    assert!(
        matches!(increased.error, Some(GroupError::Throttled { retry_after, .. }) if retry_after == seven),
        "{increased:?}"
    );
    assert_eq!((increased.succeeded, aws.calls("SetDesiredCapacity")), (0, 1));

    let message = "User: arn:aws:iam::1:user/ci is not authorized to perform: autoscaling:SetDesiredCapacity";
    aws.cloud().refusals = vec![refusal("SetDesiredCapacity", 403, "AccessDenied", message)];
    let error = group.increase(1).await.error.expect("a refusal");
    assert!(matches!(error, GroupError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("the IAM policy must allow autoscaling:SetDesiredCapacity"), "{error}");

    aws.cloud().refusals = vec![refusal("SetDesiredCapacity", 500, "InternalFailure", "sorry")];
    let error = group.increase(1).await.error.expect("a refusal");
    assert!(matches!(error, GroupError::Failed { .. }), "it may have been made: {error}");
    assert_eq!(aws.calls("SetDesiredCapacity"), 3, "each was sent once");

    aws.cloud().refusals = vec![refusal("DescribeAutoScalingGroups", 500, "InternalFailure", "sorry")];
    let error = group.increase(1).await.error.expect("a refusal");
    assert!(matches!(error, GroupError::Failed { operation: Operation::Update, .. }), "nothing was changed: {error}");
    assert_eq!(aws.calls("SetDesiredCapacity"), 3);

    aws.cloud().refusals = vec![refusal("DescribeInstances", 503, "RequestLimitExceeded", "Request limit exceeded.")];
    aws.cloud().addresses = vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
    assert_eq!(group.increase(2).await.succeeded, 2);
    assert!(group.update().await.unwrap_err().is_throttled());
    let ids = running(&*group).await;
    assert_eq!(ids.len(), 2);

    // One that is gone counts as deleted.
    let victims = [InstanceId::new("i-of-nobody"), ids[0].clone()];
    let decreased = group.decrease(&victims).await;
    assert!(decreased.error.is_none() && decreased.succeeded == victims, "{decreased:?}");
    let action = "TerminateInstanceInAutoScalingGroup";
    aws.cloud().refusals = vec![refusal(action, 400, "ScalingActivityInProgress", "an activity is in progress")];
    let decreased = group.decrease(&ids[1..]).await;
    assert!(decreased.succeeded.is_empty() && decreased.error.is_some_and(|error| error.is_throttled()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_failed_for_want_of_capacity_is_told_at_the_next_increase() {
    let aws = FakeAws::start(Cloud { max: 5, ..Cloud::default() }).await;
    let group = provide(&aws.url, "runners", &ConnectorConfig::default());
    group.init().await.expect("the group");
    assert_eq!(group.increase(1).await.succeeded, 1);
    assert_eq!(group.update().await.expect("a listing").target_size, Some(1));
    let message = "We currently do not have sufficient c7g.large capacity in eu-central-1a. Launching failed.";
    aws.cloud().activities = format!(
        "<member><Description>Launching a new EC2 instance. Status Reason: x</Description><StatusCode>Failed</StatusCode>\
         <StartTime>2999-01-01T00:00:00Z</StartTime><StatusMessage>{message}</StatusMessage></member>"
    );
    let increased = group.increase(1).await;
    let error = increased.error.expect("no capacity");
    assert!(error.is_capacity() && error.to_string().contains("c7g.large capacity in eu-central-1a"), "{error}");
    assert_eq!((increased.succeeded, aws.calls("SetDesiredCapacity")), (0, 1));
    // What was asked for has come after all.
    aws.cloud().addresses = vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
    aws.cloud().launch();
    assert_eq!(group.increase(1).await.succeeded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_is_not_felt_by_instances_that_run() {
    let aws = FakeAws::start(Cloud { max: 5, addresses: vec!["10.0.0.1".to_owned()], ..Cloud::default() }).await;
    let fixed = ConnectorConfig { use_static_credentials: true, ..ConnectorConfig::default() };
    let group = provide(&aws.url, "runners", &fixed);
    group.init().await.expect("the group");
    group.increase(1).await;
    let [id] = running(&*group).await.try_into().expect("one instance");
    drop(aws);
    for _ in 0..3 {
        group.heartbeat(&id).await.expect("as the last listing has it");
        assert_eq!(group.connect_info(&id).await.expect("the way").internal_addr.as_deref(), Some("10.0.0.1"));
    }
    let error = group.update().await.unwrap_err();
    assert!(matches!(error, GroupError::Failed { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_on_an_instance_of_a_group_and_takes_it_along() {
    namespace::make_network();
    let sandbox = Sandbox::start(format!("{HOST}:0").parse().expect("an address")).await.expect("a sandbox");
    let token = format!("glrt-{:016x}", rand::random::<u64>());
    sandbox.add_runner(&token);
    let instance = Namespace::boot("");
    // Whoever logs in has the key that was sent, and no other.
    let authorized_keys = Some(instance.key.with_extension("pub"));
    std::fs::write(instance.key.with_extension("pub"), "").expect("the instance's keys");
    let addresses = vec![instance.address.clone()];
    let aws = FakeAws::start(Cloud { max: 1, addresses, authorized_keys, ..Cloud::default() }).await;
    let config = config(&sandbox.url(), &token, "runners", &aws.url, "idle_count = 0");
    let environment = CREDENTIALS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let manager = Manager::start_with(&config, environment.into());
    let (report, trace) = finish(&sandbox.enqueue(SandboxJob::new("job", &["echo it runs as $(whoami)"]))).await;
    assert!(report.status == JobStatus::Success, "{trace}");
    assert!(trace.contains(&format!("it runs as {USER}")), "{trace}");
    eventually("the instance is terminated after its one job", || {
        aws.calls("TerminateInstanceInAutoScalingGroup") == 1 && aws.cloud().desired == 0
    });
    assert_eq!(aws.calls("SetDesiredCapacity"), 1, "{:?}", aws.cloud().calls);
    assert!(aws.calls("SendSSHPublicKey") >= 1);
    drop(manager);
}

fn config(url: &str, token: &str, group: &str, endpoint: &str, policy: &str) -> String {
    format!(
        r#"
concurrent = 2
check_interval = 1
[[runners]]
  name = "aws"
  id = 1
  url = "{url}"
  token = "{token}"
  executor = "instance"
  [runners.autoscaler]
    plugin = "aws"
    capacity_per_instance = 1
    max_use_count = 1
    max_instances = 2
    [runners.autoscaler.plugin_config]
      name = "{group}"
      region = "{REGION}"
      endpoint_url = "{endpoint}"
    [runners.autoscaler.connector_config]
      username = "{USER}"
    [[runners.autoscaler.policy]]
      {policy}
      idle_time = "1m"
"#
    )
}
