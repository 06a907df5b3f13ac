//! What GitLab answers to a request for a job.

use super::run;
use crate::gitlab::wire::JobPayload;
use crate::job::payload::Job;

const PAYLOAD: &[u8] = br#"{"id":7,"token":"t","allow_git_fetch":true,"job_info":{"id":7,"name":"test","stage":"test",
"project_id":1,"project_name":"p","timeout":3600,"queue_duration":1.5},"git_info":{"repo_url":"https://a:b@host/p.git",
"ref":"main","sha":"0000000000000000000000000000000000000000","before_sha":"","ref_type":"branch","refspecs":["+refs/heads/*"],
"depth":50},"runner_info":{"timeout":3600},"variables":[{"key":"A","value":"b","public":true,"masked":true,"file":false,
"raw":false}],"steps":[{"name":"script","script":["echo a"],"timeout":3600,"when":"on_success","allow_failure":false}],
"image":{"name":"alpine:3","entrypoint":["sh"],"ports":[],"pull_policy":["always"],"executor_opts":{"docker":{"user":"a"}}},
"services":[{"name":"redis","alias":"r","command":["x"]}],"artifacts":[{"name":"a","untracked":true,"paths":["a/*"],
"exclude":[],"when":"always","expire_in":"1 week","artifact_type":"archive","artifact_format":"zip"}],"cache":[{"key":"k",
"untracked":false,"policy":"pull-push","paths":["c/"],"when":"on_success","fallback_keys":["f"]}],"credentials":[{"type":
"registry","url":"host","username":"u","password":"p"}],"dependencies":[{"id":6,"token":"t","name":"b","artifacts_file":
{"filename":"a.zip","size":9}}],"features":{"trace_sections":true,"token_mask_prefixes":["glpat-"]},"hooks":[{"name":
"pre_get_sources_script","script":["x"]}]}"#;

const FEW: &[u8] =
    br#"{"id":1,"token":"t","runner_info":{"timeout":9223372036854775807},"steps":null,"variables":"no"}"#;

#[test]
fn no_payload_makes_reading_a_job_panic() {
    run("payload", &[PAYLOAD, FEW], |input| {
        if let Ok(payload) = JobPayload::decode(input) {
            drop(Job::from_wire(payload, "docker-autoscaler"));
        }
    });
}
