//! The top of the file, `[session_server]` and `[machine.shutdown_drain]`.

use std::time::Duration;

use crate::config::diagnostics::Spot;
use crate::config::raw::{self, At};
use crate::config::resolve::context::{Context, flag, secret, text};
use crate::config::resolve::{labels, runner};
use crate::config::resolved::{Config, LogFormat, LogLevel, SessionServer, ShutdownDrain};
use crate::secret::Secret;

/// The port of the admin server where the address has none.
const ADMIN_PORT: u16 = 9252;

pub(crate) fn resolve(raw: &raw::Config, context: &mut Context<'_>) -> Config {
    let defaults = Config::default();
    let labels = labels::resolve(&raw.labels, context);
    let listen_address = context.renamed(&raw.listen_address, &raw.metrics_server, "listen_address");
    let runners: Vec<&raw::Runner> =
        raw.runners.iter().flat_map(|list| &list.value).map(|entry| &entry.value).collect();
    if runners.is_empty() {
        let spot = raw.runners.as_ref().map_or_else(|| Spot::file().missing("runners"), |list| list.spot.clone());
        context.warning(&spot, "there is none: nothing will run").help("add one with `flotilla register`");
    }
    Config {
        concurrent: concurrent(&raw.concurrent, context),
        check_interval: context.seconds_or(&raw.check_interval, defaults.check_interval),
        log_level: log_level(&raw.log_level, context),
        log_format: log_format(&raw.log_format, context),
        listen_address: text(listen_address).map(|address| address_to_listen_on(&address)),
        shutdown_timeout: context.seconds_or(&raw.shutdown_timeout, defaults.shutdown_timeout),
        connection_max_age: match &raw.connection_max_age {
            Some(age) => age.value.to_std().filter(|age| !age.is_zero()),
            None => defaults.connection_max_age,
        },
        sentry_dsn: secret(&raw.sentry_dsn).or_else(|| context.environment.get("SENTRY_DSN").map(Secret::from)),
        session_server: raw.session_server.as_ref().and_then(|section| session_server(&section.value, context)),
        shutdown_drain: raw
            .machine
            .as_ref()
            .and_then(|machine| machine.value.shutdown_drain.as_ref())
            .map_or_else(ShutdownDrain::default, |section| shutdown_drain(&section.value, context)),
        runners: runner::resolve_all(&runners, &labels, context),
        labels,
    }
}

fn concurrent(value: &Option<At<i64>>, context: &mut Context<'_>) -> u32 {
    let concurrent = context.count_or(value, 1);
    if let Some(value) = value.as_ref().filter(|value| value.value == 0) {
        context.error(&value.spot, "no job could ever run: it is 0").help("write the number of jobs to run at once");
    }
    concurrent.max(1)
}

fn log_level(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<LogLevel> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    match value.value.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => Some(LogLevel::Error),
        "warn" | "warning" => Some(LogLevel::Warn),
        "info" => Some(LogLevel::Info),
        "debug" => Some(LogLevel::Debug),
        "trace" => Some(LogLevel::Trace),
        _ => {
            let message = format!("{:?} is no log level", value.value);
            context.error(&value.spot, message).help("write panic, fatal, error, warn, info, debug or trace");
            None
        }
    }
}

fn log_format(value: &Option<At<String>>, context: &mut Context<'_>) -> Option<LogFormat> {
    let value = value.as_ref().filter(|value| !value.value.is_empty())?;
    match value.value.as_str() {
        "runner" => Some(LogFormat::Runner),
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => {
            let message = format!("{:?} is no log format", value.value);
            context.error(&value.spot, message).help("write runner, text or json");
            None
        }
    }
}

/// An address to listen on, as the reference understands it: a host alone gets the usual port, a port alone every
/// address of the machine. The last colon counts only outside of an IPv6 address.
pub fn address_to_listen_on(address: &str) -> String {
    if let Some(port) = address.strip_prefix(':') {
        let port = if port.is_empty() { ADMIN_PORT.to_string() } else { port.to_owned() };
        return format!("0.0.0.0:{port}");
    }
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
    if has_port { address.to_owned() } else { format!("{}:{ADMIN_PORT}", address.trim_end_matches(':')) }
}

/// Nothing without an address to listen on.
fn session_server(raw: &raw::SessionServer, context: &mut Context<'_>) -> Option<SessionServer> {
    let listen_address = text(&raw.listen_address)?;
    let advertised = text(&raw.advertise_address);
    if let Some(value) = &raw.listen_address
        && advertised.is_none()
        && ["0.0.0.0", "[::]", ":"].iter().any(|any| listen_address.starts_with(any))
    {
        let message = "GitLab would be told this address, which nobody can reach";
        context.warning(&value.spot, message).help("set advertise_address");
    }
    Some(SessionServer {
        advertise_address: advertised.unwrap_or_else(|| listen_address.clone()),
        listen_address,
        session_timeout: context.seconds_or(&raw.session_timeout, Duration::from_secs(1800)),
    })
}

fn shutdown_drain(raw: &raw::ShutdownDrain, context: &mut Context<'_>) -> ShutdownDrain {
    let defaults = ShutdownDrain::default();
    ShutdownDrain {
        enabled: flag(&raw.enabled),
        concurrency: context.positive_count_or(&raw.concurrency, defaults.concurrency),
        max_retries: context.positive_count_or(&raw.max_retries, defaults.max_retries),
        retry_backoff: raw
            .retry_backoff
            .as_ref()
            .and_then(|value| value.value.to_std())
            .filter(|backoff| !backoff.is_zero())
            .unwrap_or(defaults.retry_backoff),
    }
}

#[cfg(test)]
mod tests {
    use super::address_to_listen_on;

    #[test]
    fn a_host_alone_gets_the_port_of_the_admin_server() {
        for (address, full) in [
            ("localhost", "localhost:9252"),
            (":9252", "0.0.0.0:9252"),
            (":", "0.0.0.0:9252"),
            ("localhost:", "localhost:9252"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]", "[::1]:9252"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(address_to_listen_on(address), full);
        }
    }
}
