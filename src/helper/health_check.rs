//! Waits until a job's services accept connections.
//!
//! Without ports it is asked about one service by variables that a container link has: the address is in
//! `*_TCP_ADDR`, and one of the ports in `*_TCP_PORT` has to answer. With ports all of them have to, on
//! this host. There is no end of its own: who asks knows how long to wait.

use std::io::{self, Write};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::cli::HealthCheckArgs;
use super::environment::Environment;
use super::run::{Failure, block_on};

const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// A packet that nobody answers must not hold the next try.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Which ports have to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Any,
    All,
}

#[derive(Debug, PartialEq, Eq)]
struct Services {
    host: String,
    ports: Vec<String>,
    need: Need,
}

/// The command.
///
/// # Errors
/// There is nothing to wait for.
pub(super) fn wait(args: &HealthCheckArgs, environment: &Environment) -> Result<(), Failure> {
    let services = services(args, environment).ok_or_else(|| Failure::Fatal("No HOST or PORT found".to_owned()))?;
    say(&format!("waiting for TCP connection to {} on [{}]...", services.host, services.ports.join(" ")));
    block_on(answer(services))
}

fn services(args: &HealthCheckArgs, environment: &Environment) -> Option<Services> {
    if !args.ports.is_empty() {
        return Some(Services { host: "localhost".to_owned(), ports: args.ports.clone(), need: Need::All });
    }
    let with_suffix = |suffix: &'static str| {
        environment.iter().filter(move |(name, value)| name.ends_with(suffix) && !value.is_empty())
    };
    let host = with_suffix("_TCP_ADDR").map(|(_, value)| value.to_owned()).last()?;
    let ports: Vec<String> = with_suffix("_TCP_PORT").map(|(_, value)| value.to_owned()).collect();
    (!ports.is_empty()).then_some(Services { host, ports, need: Need::Any })
}

async fn answer(services: Services) {
    let mut dials = JoinSet::new();
    for port in services.ports {
        dials.spawn(dial(format!("{}:{port}", services.host)));
    }
    while dials.join_next().await.is_some() {
        if services.need == Need::Any {
            return;
        }
    }
}

async fn dial(address: String) {
    loop {
        say(&format!("dialing {address}..."));
        if let Ok(Ok(_)) = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(&address)).await {
            say(&format!("dial succeeded on {address}. Exiting..."));
            return;
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// The manager shows these lines when a service does not come up; one that is lost is no loss.
fn say(line: &str) {
    writeln!(io::stdout(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ports: &[&str], variables: &[(&str, &str)]) -> Option<Services> {
        let args = HealthCheckArgs { ports: ports.iter().map(|port| (*port).to_owned()).collect() };
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        services(&args, &Environment::new(variables, "/".into()))
    }

    #[test]
    fn a_service_is_found_by_the_variables_of_its_link() {
        let variables = [
            ("WAIT_FOR_SERVICE_TCP_ADDR", "0123456789ab"),
            ("WAIT_FOR_SERVICE_5432_TCP_PORT", "5432"),
            ("WAIT_FOR_SERVICE_80_TCP_PORT", "80"),
            ("OTHER", "1"),
        ];
        let ports = vec!["5432".to_owned(), "80".to_owned()];
        assert_eq!(found(&[], &variables), Some(Services { host: "0123456789ab".into(), ports, need: Need::Any }));
        assert_eq!(
            found(&["9"], &variables),
            Some(Services { host: "localhost".into(), ports: vec!["9".into()], need: Need::All })
        );
        assert_eq!(found(&[], &variables[..1]), None);
        assert_eq!(found(&[], &variables[1..]), None);
    }

    #[tokio::test]
    async fn one_answering_port_is_enough_for_a_service() {
        let (open, closed) = (listener().await, listener().await);
        let ports = vec![port(&closed), port(&open)];
        drop(closed);
        answer(Services { host: "127.0.0.1".into(), ports, need: Need::Any }).await;
    }

    #[tokio::test]
    async fn all_ports_have_to_answer_where_they_are_named() {
        let (open, closed) = (listener().await, listener().await);
        let ports = vec![port(&closed), port(&open)];
        drop(closed);
        let waiting = answer(Services { host: "127.0.0.1".into(), ports, need: Need::All });
        assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
        answer(Services { host: "127.0.0.1".into(), ports: vec![port(&open), port(&open)], need: Need::All }).await;
    }

    async fn listener() -> tokio::net::TcpListener {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    fn port(listener: &tokio::net::TcpListener) -> String {
        listener.local_addr().unwrap().port().to_string()
    }
}
