//! The top of the file, `[session_server]`, `[machine]` and `[experimental]`.

use std::collections::BTreeMap;

use crate::config::raw::reader::{At, section};
use crate::config::raw::runner::Runner;
use crate::config::raw::value::Foreign;
use crate::go_duration::GoDuration;
use crate::secret::Secret;

section! {
    /// The whole file.
    Config {
        concurrent: i64,
        check_interval: i64,
        log_level: String,
        log_format: String,
        listen_address: String,
        /// Removed in 12.0: `listen_address`.
        metrics_server: String,
        shutdown_timeout: i64,
        connection_max_age: GoDuration,
        sentry_dsn: Secret,
        labels: BTreeMap<String, At<String>>,
        session_server: SessionServer,
        machine: MachineGlobal,
        runners: Vec<At<Runner>>,
    }
    unused {
        user: String,
        experimental: Experimental,
    }
}

section! {
    /// `[session_server]`
    SessionServer {
        listen_address: String,
        advertise_address: String,
        session_timeout: i64,
    }
}

section! {
    /// `[machine]`
    MachineGlobal {
        shutdown_drain: ShutdownDrain,
    }
}

section! {
    /// `[machine.shutdown_drain]`
    ShutdownDrain {
        enabled: bool,
        concurrency: i64,
        max_retries: i64,
        retry_backoff: GoDuration,
    }
}

section! {
    /// `[experimental]`
    Experimental {}
    unused {
        usage_logger: Foreign,
    }
}
