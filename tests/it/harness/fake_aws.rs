//! A small AWS in the test's process, for what moto cannot do: answers that refuse, instances that are reached.
//!
//! The forms of requests and answers are those of the Query protocol of Auto Scaling (2011-01-01) and EC2
//! (2016-11-15), and of the JSON protocol of EC2 Instance Connect.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What instances answer to.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    pub(crate) max: u32,
    pub(crate) desired: u32,
    /// The lifecycle state of each member, and its address.
    pub(crate) members: BTreeMap<String, (String, String)>,
    /// Addresses of instances to come.
    pub(crate) addresses: Vec<String>,
    /// Where a key that is sent is written.
    pub(crate) authorized_keys: Option<PathBuf>,
    /// Answers in place of the right ones, each used once.
    pub(crate) refusals: Vec<Refusal>,
    /// XML of the group's activities.
    pub(crate) activities: String,
    /// The actions that were asked for, with the parameters that matter.
    pub(crate) calls: Vec<String>,
    /// What the last caller said it is.
    pub(crate) user_agent: String,
    /// So many had a name.
    pub(crate) launched: u32,
}

/// An answer that refuses.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) action: &'static str,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
    pub(crate) retry_after: Option<&'static str>,
}

/// The server. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct FakeAws {
    pub(crate) url: String,
    cloud: Arc<Mutex<Cloud>>,
    _server: JoinSet<()>,
}

impl FakeAws {
    pub(crate) async fn start(cloud: Cloud) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let cloud = Arc::new(Mutex::new(cloud));
        let router = Router::new().fallback(serve).with_state(Arc::clone(&cloud));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the server ends with the test") });
        Self { url, cloud, _server: server }
    }

    pub(crate) fn cloud(&self) -> MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often an action was asked for.
    pub(crate) fn calls(&self, action: &str) -> usize {
        self.cloud().calls.iter().filter(|call| call.split(' ').next() == Some(action)).count()
    }
}

async fn serve(State(cloud): State<Arc<Mutex<Cloud>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = to_bytes(body, 1 << 20).await.expect("a body");
    let mut cloud = cloud.lock().unwrap_or_else(PoisonError::into_inner);
    header("user-agent").clone_into(&mut cloud.user_agent);
    if let Some((_, action)) = header("x-amz-target").rsplit_once('.') {
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        return cloud.send_key(action, &body).into_response();
    }
    let form: BTreeMap<String, String> = fields(&body);
    cloud.answer(&form)
}

impl Cloud {
    fn answer(&mut self, form: &BTreeMap<String, String>) -> Response {
        let get = |name: &str| form.get(name).cloned().unwrap_or_default();
        let action = get("Action");
        let (size, id) = (get("DesiredCapacity"), get("InstanceId"));
        self.calls.push(format!("{action} {size}{id}").trim_end().to_owned());
        if let Some(refused) = self.refuse(&action) {
            return refused;
        }
        match action.as_str() {
            "DescribeAutoScalingGroups" => self.describe_group(&get("AutoScalingGroupNames.member.1")),
            "DescribeInstances" => self.describe_instances(),
            "DescribePolicies" => result(&action, "<ScalingPolicies/>"),
            "DescribeScalingActivities" => result(&action, &format!("<Activities>{}</Activities>", self.activities)),
            "SetDesiredCapacity" => {
                self.desired = size.parse().expect("a number");
                self.launch();
                result(&action, "")
            }
            "TerminateInstanceInAutoScalingGroup" if self.members.remove(&id).is_some() => {
                assert_eq!(get("ShouldDecrementDesiredCapacity"), "true");
                self.desired -= 1;
                result(&action, "")
            }
            "TerminateInstanceInAutoScalingGroup" => {
                let message = format!("Instance Id not found - No managed instance found for instance ID: {id}");
                error(&action, 400, "ValidationError", &message, None)
            }
            other => panic!("{other} is not played"),
        }
    }

    fn refuse(&mut self, action: &str) -> Option<Response> {
        let place = self.refusals.iter().position(|refusal| refusal.action == action)?;
        let Refusal { status, code, message, retry_after, .. } = self.refusals.remove(place);
        Some(error(action, status, code, message, retry_after))
    }

    /// Gives the group what it wants, as far as there are addresses.
    pub(crate) fn launch(&mut self) {
        while self.members.len() < self.desired as usize && !self.addresses.is_empty() {
            self.launched += 1;
            let (id, address) = (format!("i-{:017x}", self.launched), self.addresses.remove(0));
            self.members.insert(id, ("InService".to_owned(), address));
        }
    }

    fn describe_group(&self, name: &str) -> Response {
        let member = |(id, (state, _)): (&String, &(String, String))| {
            format!(
                "<member><InstanceId>{id}</InstanceId><AvailabilityZone>eu-central-1a</AvailabilityZone>\
                 <LifecycleState>{state}</LifecycleState><HealthStatus>Healthy</HealthStatus></member>"
            )
        };
        let members: String = self.members.iter().map(member).collect();
        let group = format!(
            "<AutoScalingGroups><member><AutoScalingGroupName>{name}</AutoScalingGroupName>\
             <AutoScalingGroupARN>arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:u:n</AutoScalingGroupARN>\
             <MinSize>0</MinSize><MaxSize>{}</MaxSize><DesiredCapacity>{}</DesiredCapacity>\
             <AvailabilityZones><member>eu-central-1a</member></AvailabilityZones>\
             <NewInstancesProtectedFromScaleIn>true</NewInstancesProtectedFromScaleIn>\
             <Instances>{members}</Instances></member></AutoScalingGroups>",
            self.max, self.desired
        );
        result("DescribeAutoScalingGroups", &group)
    }

    fn describe_instances(&self) -> Response {
        let instance = |(id, (_, address)): (&String, &(String, String))| {
            format!(
                "<item><instancesSet><item><instanceId>{id}</instanceId><architecture>x86_64</architecture>\
                 <instanceState><code>16</code><name>running</name></instanceState>\
                 <privateIpAddress>{address}</privateIpAddress>\
                 <placement><availabilityZone>eu-central-1a</availabilityZone></placement></item></instancesSet></item>"
            )
        };
        let instances: String = self.members.iter().map(instance).collect();
        xml(
            200,
            &format!(
                "<DescribeInstancesResponse><reservationSet>{instances}</reservationSet></DescribeInstancesResponse>"
            ),
            None,
        )
    }

    fn send_key(&mut self, action: &str, body: &serde_json::Value) -> Response {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        self.calls.push(format!("{action} {} {}", text("InstanceId"), text("InstanceOSUser")));
        if let Some(path) = &self.authorized_keys {
            fs::write(path, text("SSHPublicKey") + "\n").expect("the instance's keys");
        }
        ([("content-type", "application/x-amz-json-1.1")], r#"{"RequestId":"r","Success":true}"#).into_response()
    }
}

fn result(action: &str, content: &str) -> Response {
    let answer = format!("<{action}Response><{action}Result>{content}</{action}Result></{action}Response>");
    xml(200, &answer, None)
}

fn error(action: &str, status: u16, code: &str, message: &str, retry_after: Option<&str>) -> Response {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let answer = if action == "DescribeInstances" {
        format!("<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>")
    } else {
        format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>")
    };
    xml(status, &answer, retry_after)
}

fn xml(status: u16, content: &str, retry_after: Option<&str>) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let mut response = (status, [("content-type", "text/xml")], content.to_owned()).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.parse().expect("a header"));
    }
    response
}

/// A form's fields.
fn fields(body: &[u8]) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://x/?{}", super::text(body))).expect("a form");
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}
