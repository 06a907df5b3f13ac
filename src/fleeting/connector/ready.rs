//! Whether an instance can take jobs: SSH, the operator's command, Docker's ping.

use std::time::Duration;

use tokio::time::sleep;

use super::error::{ExecError, ForwardError, ReadyError};
use super::exec::{Command, Lane};
use super::instance::Instance;
use crate::backoff::Backoff;
use crate::fleeting::access::{DockerEndpoint, Readiness};
use crate::time;

/// Between looks at an engine or a machine that is still starting.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Checks an instance until all is well, something fails for good, or the connector's timeout is over.
pub(super) async fn ready(instance: &Instance, readiness: &Readiness) -> Result<(), ReadyError> {
    // A provider that cannot say yet is asked again by the dial.
    let of_instance = instance.info().await.ok().and_then(|info| info.timeout);
    let deadline = time::now().instant + of_instance.unwrap_or_else(|| instance.settings().timeout);
    let remaining = || deadline.saturating_duration_since(time::now().instant);
    instance.dial_control(remaining()).await?;
    if let Some(line) = &readiness.command {
        let command = Command::new(line).on(Lane::Control).tail_only();
        // A command that restarts sshd, or the machine, takes its connection with it.
        while let Err(error) = run(instance, command.clone().timeout(remaining())).await {
            if !error.is_lost() || remaining().is_zero() {
                return Err(ReadyError::Command(error));
            }
            instance.dial_control(remaining()).await?;
        }
    }
    let Some(endpoint) = &readiness.docker else { return Ok(()) };
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    // The engine may start long after sshd.
    while let Err(error) = look_at_engine(instance, endpoint, remaining()).await {
        let wait = backoff.next_wait();
        if !is_worth_waiting(&error) || wait >= remaining() {
            return Err(error);
        }
        sleep(wait).await;
    }
    Ok(())
}

async fn run(instance: &Instance, command: Command) -> Result<(), ExecError> {
    instance.run(command).await?.into_stdout().map(drop)
}

async fn look_at_engine(instance: &Instance, endpoint: &DockerEndpoint, patience: Duration) -> Result<(), ReadyError> {
    let docker = instance.docker_over_control(endpoint.clone(), patience).await?;
    match docker.ping().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(answer)) => Err(ReadyError::DockerPing { answer }),
        Err(error) => Err(ReadyError::Docker(error)),
    }
}

fn is_worth_waiting(error: &ReadyError) -> bool {
    match error {
        ReadyError::Dial(error) => error.is_retryable(),
        ReadyError::Command(error) => error.is_lost(),
        ReadyError::Docker(ForwardError::Dial(error)) => error.is_retryable(),
        ReadyError::Docker(ForwardError::Host { .. }) => false,
        ReadyError::Docker(ForwardError::Lost { .. } | ForwardError::NoWay { .. }) | ReadyError::DockerPing { .. } => {
            true
        }
    }
}
