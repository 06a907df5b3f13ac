//! The GitLab runner API: the one place that knows its paths, headers, status codes and retry rules.
//!
//! A [`Client`] speaks for one runner; clients share connections where their TLS settings are equal
//! ([`Connections`]). Each call ends in a value of [`outcome`] that says what the caller has to do, not in
//! a status code. Retries that the server asks for happen here as long as they are short; a long wait is
//! handed to the caller, who may have something to give back meanwhile.
//!
//! What it must not do: decide when to ask for jobs, know what a job consists of beyond its wire form, or
//! read the environment (proxies are given by the caller).

pub mod artifacts;
mod body;
#[cfg(feature = "manager")]
mod call;
mod chain;
#[cfg(feature = "manager")]
mod client;
mod connections;
mod credentials;
mod date;
pub mod error;
mod identity;
#[cfg(feature = "manager")]
pub mod observer;
#[cfg(feature = "manager")]
pub mod outcome;
pub mod proxy;
mod redirect;
pub mod retry;
#[cfg(feature = "manager")]
mod salvage;
pub mod tls;
mod transport;
pub(crate) mod trust;
mod url;
#[cfg(feature = "manager")]
pub mod wire;

#[cfg(feature = "manager")]
pub use client::{Client, Poll, RunnerSettings};
pub use connections::Connections;
pub use credentials::JobCredentials;
pub use identity::{COMPATIBLE_VERSION, REVISION};

#[cfg(test)]
#[cfg(feature = "manager")]
mod tests;
