//! Auto Scaling groups of Amazon EC2, `plugin = "aws"`.
//!
//! The cloud holds the desired size; this provider raises it by `SetDesiredCapacity` and lowers it by
//! `TerminateInstanceInAutoScalingGroup` with its victim's name. One listing is one description of the group and one of
//! its machines; how to reach an instance and how it is comes from the last listing, so that an outage of the API costs
//! no instance that runs.
//!
//! | file | what it is for |
//! |---|---|
//! | `group` | the provider: which calls make an operation |
//! | `api` | single calls, within the budget, as plain data and typed errors |
//! | `wire` | from the SDK's types to plain data |
//! | `client` | the SDKs' clients: credentials, region, proxies |
//! | `listing` | what follows from a description; pure |
//! | `checks` | what is wrong with a group's settings; pure |
//! | `call` | the calls: permission, limits, urgency |
//! | `errors` | from the SDK's errors to those of a group |
//! | `budget` | how many calls are made, and whose turn it is |
//! | `keys` | EC2 Instance Connect: a key on an instance for a minute |

mod api;
mod budget;
mod call;
mod checks;
mod client;
mod errors;
mod group;
mod keys;
mod listing;
mod wire;

pub use group::AwsGroup;
