//! AWS as others wrote it: a moto server on loopback, with a network and a launch template.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually;

/// A moto server of its own, in one region. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Moto {
    pub(crate) url: String,
    subnet: String,
    server: Child,
    client: reqwest::Client,
}

pub(crate) const REGION: &str = "eu-central-1";

impl Moto {
    pub(crate) async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let program = program();
        let server = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; packaging/setup installs it", program.display()));
        let address = ([127, 0, 0, 1], port).into();
        eventually("moto answers", || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());
        let url = format!("http://{address}");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut moto = Self { url, subnet: String::new(), server, client };
        let vpc = tag(&moto.ec2("CreateVpc", &[("CidrBlock", "10.9.0.0/16")]).await, "vpcId");
        let subnet = [("VpcId", vpc.as_str()), ("CidrBlock", "10.9.0.0/20")];
        moto.subnet = tag(&moto.ec2("CreateSubnet", &subnet).await, "subnetId");
        let image = [
            ("LaunchTemplateName", "runners"),
            ("LaunchTemplateData.ImageId", "ami-760aaa0f"),
            ("LaunchTemplateData.InstanceType", "t3.micro"),
        ];
        moto.ec2("CreateLaunchTemplate", &image).await;
        moto
    }

    /// Makes an Auto Scaling group as the reference wants it.
    pub(crate) async fn make_group(&self, name: &str, max: u32) {
        let max = max.to_string();
        let group = [
            ("AutoScalingGroupName", name),
            ("MinSize", "0"),
            ("MaxSize", &max),
            ("DesiredCapacity", "0"),
            ("VPCZoneIdentifier", &self.subnet),
            ("NewInstancesProtectedFromScaleIn", "true"),
            ("LaunchTemplate.LaunchTemplateName", "runners"),
            ("LaunchTemplate.Version", "$Latest"),
        ];
        self.autoscaling("CreateAutoScalingGroup", &group).await;
    }

    /// Another program than the manager calls Auto Scaling.
    pub(crate) async fn autoscaling(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        self.call("autoscaling", "2011-01-01", action, parameters).await
    }

    /// The size that the group works towards.
    pub(crate) async fn desired(&self, name: &str) -> u32 {
        let described =
            self.autoscaling("DescribeAutoScalingGroups", &[("AutoScalingGroupNames.member.1", name)]).await;
        tag(&described, "DesiredCapacity").parse().expect("a number")
    }

    /// Another program than the manager calls EC2.
    pub(crate) async fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        self.call("ec2", "2016-11-15", action, parameters).await
    }

    /// Makes an account that may do this and nothing else, and checks signatures and permissions from then on.
    /// Returns the account's key and secret.
    pub(crate) async fn enforce(&self, allowed: &[&str]) -> (String, String) {
        let statement = serde_json::json!({ "Effect": "Allow", "Action": allowed, "Resource": "*" });
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
        let user = ("UserName", "manager");
        self.call("iam", "2010-05-08", "CreateUser", &[user]).await;
        let policy = [user, ("PolicyName", "runners"), ("PolicyDocument", policy.as_str())];
        self.call("iam", "2010-05-08", "PutUserPolicy", &policy).await;
        let made = self.call("iam", "2010-05-08", "CreateAccessKey", &[user]).await;
        let switch = self.client.post(format!("{}/moto-api/reset-auth", self.url)).header("content-type", "text/plain");
        let switched = switch.body("0").send().await.expect("moto answers");
        assert!(switched.status().is_success(), "{switched:?}");
        (tag(&made, "AccessKeyId"), tag(&made, "SecretAccessKey"))
    }

    async fn call(&self, service: &str, version: &str, action: &str, parameters: &[(&str, &str)]) -> String {
        let form: Vec<_> = [("Action", action), ("Version", version)].into_iter().chain(parameters.to_vec()).collect();
        let scope = format!("x/20260101/{REGION}/{service}/aws4_request");
        let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x");
        let request = self.client.post(&self.url).header("authorization", authorization).form(&form);
        let answer = request.send().await.expect("moto answers");
        let status = answer.status();
        let text = answer.text().await.expect("moto answers");
        assert!(status.is_success(), "{action}: {status}: {text}");
        text
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // Already gone is as good.
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// Where `packaging/setup` has put it.
fn program() -> PathBuf {
    let beside = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("moto").join("bin/moto_server");
    std::env::var_os("FLOTILLA_MOTO").map_or_else(beside, PathBuf::from)
}

/// The text of the first element of this name.
fn tag(xml: &str, name: &str) -> String {
    let after = xml.split_once(&format!("<{name}>")).map(|(_, after)| after);
    let text = after.and_then(|after| after.split_once("</")).map(|(text, _)| text);
    text.unwrap_or_else(|| panic!("no {name} in {xml}")).to_owned()
}
