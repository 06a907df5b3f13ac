//! The job as GitLab hands it out: the body of a 201 answer to `POST jobs/request`.
//!
//! A job that was handed out is never lost by the decoder. So everything but the job's id and token
//! is optional: absent and `null` are the default, unknown fields are passed over, unknown words of
//! an enumeration are kept as they are, and a value of the wrong type becomes the default and is
//! remembered as a [`Note`] with its path. What a note means for the job is decided by
//! `job::payload`, not here.
//!
//! The payload serializes to the same shape that it was read from, so that it can be journalled.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::secret::Secret;

/// At most this many notes are kept: a payload that is wrong everywhere needs no longer list.
const MAX_NOTES: usize = 100;

/// Why a body cannot be a job at all: nothing could be reported for it.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the job payload is not JSON")]
    NotJson(#[source] serde_json::Error),
    #[error("the job payload is not an object")]
    NotAnObject,
    #[error("the job payload has no id")]
    NoId,
    #[error("the payload of job {id} has no token")]
    NoToken { id: i64 },
}

/// One value that could not be used as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Where it stands, such as `steps[0].script[2]`.
    pub path: String,
    /// What was wanted and what was found, without the value itself, which may be a secret.
    pub problem: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// Where the reader stands, and what it had to give up so far.
#[derive(Debug, Default)]
struct Reader {
    path: Vec<String>,
    notes: Vec<Note>,
}

impl Reader {
    fn note(&mut self, problem: String) {
        if self.notes.len() < MAX_NOTES {
            let mut path = String::new();
            for part in &self.path {
                if !path.is_empty() && !part.starts_with('[') {
                    path.push('.');
                }
                path.push_str(part);
            }
            self.notes.push(Note { path, problem });
        }
    }

    fn wrong_type<T: Default>(&mut self, wanted: &str, found: &Value) -> T {
        self.note(format!("expected {wanted}, found {}", type_name(found)));
        T::default()
    }

    fn at<T>(&mut self, part: String, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(part);
        let value = read(self);
        self.path.pop();
        value
    }

    /// The field `name` of `object`; absent and `null` are the default.
    fn field<T: Wire>(&mut self, object: &Map<String, Value>, name: &str) -> T {
        match object.get(name) {
            None | Some(Value::Null) => T::default(),
            Some(value) => self.at(name.to_owned(), |reader| T::read(value, reader)),
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A type of the wire that can always be read from some JSON value.
trait Wire: Default {
    fn read(value: &Value, reader: &mut Reader) -> Self;
}

impl Wire for String {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        match value {
            Value::String(text) => text.clone(),
            // A number or boolean has one obvious text: `user` of an image may be either.
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => reader.wrong_type("a string", value),
        }
    }
}

impl Wire for Secret {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        Self::new(String::read(value, reader))
    }
}

impl Wire for bool {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        match value {
            Value::Bool(flag) => *flag,
            Value::String(text) if text == "true" => true,
            Value::String(text) if text == "false" => false,
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                reader.wrong_type("a boolean", value)
            }
        }
    }
}

impl Wire for i64 {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let number = match value {
            // Some JSON writers send whole numbers as 3.0; the cast saturates and loses only fractions.
            #[expect(clippy::cast_possible_truncation, reason = "saturating, and whole numbers are exact")]
            Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|float| float as Self)),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        number.unwrap_or_else(|| reader.wrong_type("a whole number", value))
    }
}

impl Wire for f64 {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        value.as_f64().unwrap_or_else(|| reader.wrong_type("a number", value))
    }
}

impl Wire for Value {
    fn read(value: &Value, _reader: &mut Reader) -> Self {
        value.clone()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let noted = reader.notes.len();
        let inner = T::read(value, reader);
        // An optional value that could not be read is absent, not a default that claims something.
        if reader.notes.len() > noted && !value.is_object() { None } else { Some(inner) }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Value::Array(elements) = value else { return reader.wrong_type("a list", value) };
        elements
            .iter()
            .enumerate()
            .filter_map(|(index, element)| {
                reader.at(format!("[{index}]"), |reader| {
                    if element.is_null() {
                        reader.note("expected an element, found null".to_owned());
                        return None;
                    }
                    Option::<T>::read(element, reader)
                })
            })
            .collect()
    }
}

impl<T: Wire> Wire for BTreeMap<String, T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Value::Object(object) = value else { return reader.wrong_type("an object", value) };
        object
            .iter()
            .map(|(key, value)| (key.clone(), reader.at(key.clone(), |reader| T::read(value, reader))))
            .collect()
    }
}

/// Declares a JSON object of the wire: the struct and how it is read. A field whose wire name is no
/// Rust name gives it after `=`.
macro_rules! wire_object {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident $(= $wire:literal)? : $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize)]
        pub struct $name {
            $($(#[$field_meta])* $(#[serde(rename = $wire)])? pub $field: $type,)*
        }

        impl Wire for $name {
            fn read(value: &Value, reader: &mut Reader) -> Self {
                let Value::Object(object) = value else { return reader.wrong_type("an object", value) };
                Self { $($field: reader.field(object, wire_object!(@name $field $($wire)?)),)* }
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $wire:literal) => { $wire };
}

/// Declares an enumeration of the wire. A word it does not know is kept.
macro_rules! wire_words {
    ($(#[$meta:meta])* pub enum $name:ident { $(#[$first_meta:meta])* $first:ident = $first_word:literal $(| $first_alias:literal)*, $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            #[default]
            $(#[$first_meta])* $first,
            $($(#[$variant_meta])* $variant,)*
            /// A word that this version does not know.
            Unknown(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)*
                    Self::Unknown(word) => word,
                }
            }
        }

        impl Wire for $name {
            fn read(value: &Value, reader: &mut Reader) -> Self {
                let word = String::read(value, reader);
                match word.as_str() {
                    $first_word $(| $first_alias)* => Self::$first,
                    $($word => Self::$variant,)*
                    _ => Self::Unknown(word),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

wire_object! {
    /// A job as it was handed out.
    pub struct JobPayload {
        pub id: i64,
        /// The job's token: it authenticates every call for this job.
        pub token: Secret,
        /// Whether an existing checkout may be updated instead of cloned anew.
        pub allow_git_fetch: bool,
        pub job_info: JobInfo,
        pub git_info: GitInfo,
        pub runner_info: RunnerInfo,
        pub inputs: Vec<Input>,
        pub variables: Vec<JobVariable>,
        pub steps: Vec<JobStep>,
        pub image: Option<JobImage>,
        pub services: Vec<JobImage>,
        pub artifacts: Vec<JobArtifacts>,
        pub cache: Vec<JobCache>,
        pub credentials: Vec<JobCredential>,
        pub dependencies: Vec<JobDependency>,
        pub features: JobFeatures,
        /// Definitions of secrets of outside stores, by the name of their variable.
        pub secrets: BTreeMap<String, Value>,
        pub hooks: Vec<JobHook>,
        /// The steps of the `run:` keyword: a JSON list, as text.
        pub run: String,
        pub policy_options: PolicyOptions,
        pub suspend_options: SuspendOptions,
        /// What could not be used as it was sent; empty for a payload as the documentation has it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub notes = "flotilla_notes": Vec<Note>,
    }
}

wire_object! {
    /// Names and numbers of the job at GitLab.
    pub struct JobInfo {
        pub name: String,
        pub stage: String,
        pub pipeline_id: i64,
        pub project_id: i64,
        pub project_name: String,
        pub project_full_path: String,
        pub namespace_id: i64,
        pub root_namespace_id: i64,
        pub organization_id: i64,
        pub instance_id: String,
        pub instance_uuid: String,
        pub user_id: i64,
        pub scoped_user_id: Option<i64>,
        pub time_in_queue_seconds: f64,
        /// A number, `+Inf` or such as `1000+`.
        pub project_jobs_running_on_instance_runners_count: String,
        pub queue_size: i64,
        pub queue_depth: i64,
    }
}

wire_object! {
    /// What to check out.
    pub struct GitInfo {
        /// With the user `gitlab-ci-token` and the job's token in it.
        pub repo_url: Secret,
        /// The object format of the repository; empty means sha1.
        pub repo_object_format: String,
        pub ref_name = "ref": String,
        pub sha: String,
        pub before_sha: String,
        /// `branch` or `tag`.
        pub ref_type: String,
        pub refspecs: Vec<String>,
        /// How much history to fetch; 0 is all of it.
        pub depth: i64,
        pub protected: Option<bool>,
    }
}

wire_object! {
    pub struct RunnerInfo {
        /// The job's timeout in seconds; 0 and less mean the default.
        pub timeout: i64,
        pub uuid: String,
    }
}

wire_object! {
    /// One variable of the job. Later ones win; duplicates are allowed.
    pub struct JobVariable {
        pub key: String,
        /// Any variable may hold a secret, whether it is marked as masked or not.
        pub value: Secret,
        pub public: bool,
        pub file: bool,
        pub masked: bool,
        pub raw: bool,
    }
}

wire_object! {
    /// One list of commands: `script`, `after_script`, `release` or another name.
    pub struct JobStep {
        pub name: String,
        pub script: Vec<String>,
        pub timeout: i64,
        pub when: When,
        pub allow_failure: bool,
    }
}

wire_object! {
    /// The image of the job or of a service.
    pub struct JobImage {
        pub name: String,
        /// Host names of a service, separated by spaces or commas.
        pub alias: String,
        pub command: Vec<String>,
        pub entrypoint: Vec<String>,
        pub ports: Vec<Port>,
        pub variables: Vec<JobVariable>,
        pub pull_policy: Vec<String>,
        pub executor_opts: ExecutorOptions,
    }
}

wire_object! {
    pub struct Port {
        pub number: i64,
        pub protocol: String,
        pub name: String,
    }
}

/// `image: docker:` and its like. Options that are not known are kept by name, because a job that
/// asks for one must fail instead of running without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExecutorOptions {
    pub docker: DockerOptions,
    pub kubernetes: KubernetesOptions,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DockerOptions {
    pub platform: String,
    /// A name or number, with or without a group.
    pub user: String,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KubernetesOptions {
    pub user: String,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

impl Wire for ExecutorOptions {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Value::Object(object) = value else { return reader.wrong_type("an object", value) };
        Self {
            docker: reader.field(object, "docker"),
            kubernetes: reader.field(object, "kubernetes"),
            unknown: others(object, &["docker", "kubernetes"]),
        }
    }
}

impl Wire for DockerOptions {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Value::Object(object) = value else { return reader.wrong_type("an object", value) };
        Self {
            platform: reader.field(object, "platform"),
            user: reader.field(object, "user"),
            unknown: others(object, &["platform", "user"]),
        }
    }
}

impl Wire for KubernetesOptions {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Value::Object(object) = value else { return reader.wrong_type("an object", value) };
        Self { user: reader.field(object, "user"), unknown: others(object, &["user"]) }
    }
}

fn others(object: &Map<String, Value>, known: &[&str]) -> BTreeMap<String, Value> {
    object
        .iter()
        .filter(|(key, _)| !known.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

wire_object! {
    /// One archive or report to upload at the end.
    pub struct JobArtifacts {
        pub name: String,
        pub untracked: bool,
        pub paths: Vec<String>,
        pub exclude: Vec<String>,
        pub when: When,
        pub artifact_type: String,
        /// `zip`, `gzip`, `raw`, `zipzstd`, `tarzstd`, or empty for zip; passed on as it is.
        pub artifact_format: String,
        pub expire_in: String,
    }
}

wire_object! {
    /// One cache to restore before and to save after the scripts.
    pub struct JobCache {
        pub key: String,
        pub untracked: bool,
        /// `pull-push`, `pull`, `push` or empty, once its variables are expanded.
        pub policy: String,
        pub paths: Vec<String>,
        pub when: When,
        pub fallback_keys: Vec<String>,
    }
}

wire_object! {
    /// A login, of a registry as far as known.
    pub struct JobCredential {
        pub kind = "type": String,
        pub url: String,
        pub username: String,
        pub password: Secret,
    }
}

wire_object! {
    /// An earlier job whose artifacts may be wanted.
    pub struct JobDependency {
        pub id: i64,
        pub token: Secret,
        pub name: String,
        pub artifacts_file: ArtifactsFile,
    }
}

wire_object! {
    pub struct ArtifactsFile {
        /// Empty where the job left no artifacts.
        pub filename: String,
        pub size: i64,
    }
}

wire_object! {
    /// What the server understands, for this job.
    pub struct JobFeatures {
        pub trace_sections: bool,
        pub token_mask_prefixes: Vec<String>,
        /// The failure reasons that the server knows.
        pub failure_reasons: Vec<String>,
        pub tracing: Option<Value>,
    }
}

wire_object! {
    /// Commands around the fetching of the sources.
    pub struct JobHook {
        pub name: HookName,
        pub script: Vec<String>,
    }
}

wire_object! {
    /// One input of the job, for interpolation.
    pub struct Input {
        pub key: String,
        pub value: InputValue,
    }
}

wire_object! {
    pub struct InputValue {
        pub kind = "type": String,
        pub content: Value,
        pub sensitive: bool,
    }
}

wire_object! {
    pub struct PolicyOptions {
        pub execution_policy_job: bool,
        pub policy_name: String,
        pub policy_variables_override_allowed: Option<bool>,
        pub policy_variables_override_exceptions: Vec<String>,
    }
}

wire_object! {
    pub struct SuspendOptions {
        pub suspend_on_success: bool,
        pub suspend_on_failure: bool,
        pub runtime_environment_key: String,
    }
}

wire_words! {
    /// After which result of the scripts something is done.
    pub enum When {
        OnSuccess = "on_success" | "",
        OnFailure = "on_failure",
        Always = "always",
    }
}

wire_words! {
    /// Where a hook's commands run.
    pub enum HookName {
        PreGetSources = "pre_get_sources_script",
        PostGetSources = "post_get_sources_script",
    }
}

impl Wire for Note {
    fn read(value: &Value, _reader: &mut Reader) -> Self {
        Self::deserialize(value).unwrap_or_default()
    }
}

impl Default for Note {
    fn default() -> Self {
        Self { path: "flotilla_notes".to_owned(), problem: "unreadable".to_owned() }
    }
}

impl JobPayload {
    /// Reads the body of a 201 answer.
    ///
    /// # Errors
    /// Only where not even a failure could be reported: the body is no JSON object, or has no id or token.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        Self::from_value(&serde_json::from_slice(body).map_err(DecodeError::NotJson)?)
    }

    /// As [`JobPayload::decode`], from JSON that is already parsed.
    ///
    /// # Errors
    /// As [`JobPayload::decode`].
    pub fn from_value(body: &Value) -> Result<Self, DecodeError> {
        if !body.is_object() {
            return Err(DecodeError::NotAnObject);
        }
        let mut reader = Reader::default();
        let mut payload = Self::read(body, &mut reader);
        payload.notes.append(&mut reader.notes);
        if payload.id == 0 {
            return Err(DecodeError::NoId);
        }
        if payload.token.is_empty() {
            return Err(DecodeError::NoToken { id: payload.id });
        }
        Ok(payload)
    }
}

impl<'de> Deserialize<'de> for JobPayload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
