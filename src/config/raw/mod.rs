//! The file as it is written: one struct a section, every key optional, each value with its place.
//!
//! Only shapes are checked here: types, keys that nobody knows, keys that stand twice. What a value means is
//! `config::resolve`'s business. Keys are matched without regard to case, as the reference does.

mod autoscaler;
mod cache;
mod docker;
mod flat;
mod global;
mod hints;
mod machine;
mod reader;
mod runner;
mod syntax;
mod tree;
mod value;

pub(crate) use autoscaler::{
    Autoscaler, AwsPlugin, AzurePlugin, ConnectorConfig, GoogleCloudPlugin, LocalPlugin, Policy, StaticInstance,
    StaticPlugin,
};
pub(crate) use cache::{Cache, CacheS3};
pub(crate) use docker::{Docker, Service};
pub(crate) use flat::{Flat, flatten};
pub(crate) use global::{Config, SessionServer, ShutdownDrain};
pub(crate) use machine::{Machine, MachineAutoscaling};
pub(crate) use reader::{At, Decode, Reader, Section};
pub(crate) use runner::{BootVerify, JobQueuingDuration, Runner};
pub(crate) use syntax::read;
pub(crate) use value::{Deferred, OneOrMany};
