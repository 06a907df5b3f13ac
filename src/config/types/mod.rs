//! Types of single values in the file, one a file: what parses, what it means, how it prints.
//!
//! Each is pure and says in its error what to write instead. None knows of TOML, sections or defaults.

pub mod allow_list;
pub mod boolean;
pub mod cpus;
pub mod credential_helper;
pub mod device;
pub mod gpus;
pub mod host_key;
pub mod image_reference;
pub mod period;
pub mod placeholder;
pub mod plugin;
pub mod pull_policy;
pub mod server_url;
pub mod size;
pub mod timezone;
pub mod ulimit;
pub mod volume;
