//! Agents in a container: the first over its attached streams, later ones by exec.

use std::fmt;
use std::time::Duration;

use bollard::models::ExecConfig;
use bollard::query_parameters::UploadToContainerOptionsBuilder;
use futures_util::future::BoxFuture;
use http::StatusCode;

use super::client::{Engine, HijackError};
use super::engine_id;
use super::errors;
use super::helper_volume::{AGENT_PATH, JOBS_FOLDER};
use crate::byte_stream::BoxStream;
use crate::detached::session::{Session, SessionError};
use crate::error_chain::Chain;
use crate::executors::follow::{AgentDialer, OpenError, of_the_job};
use crate::job::failure::{FailureReason, Fault};

/// How long an engine has to say whether it is well.
const JUDGE_LIMIT: Duration = Duration::from_secs(10);

/// What an engine that is well can write: more than the last free block of a disk.
const PROBE: &[u8] = &[0; 64 * 1024];
const PROBE_NAME: &str = ".flotilla/probe";

/// Opens agents in one container.
#[derive(Clone)]
pub(crate) struct ContainerAgents {
    pub(crate) engine: Engine,
    pub(crate) container: String,
}

impl fmt::Debug for ContainerAgents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerAgents").field("container", &self.container).finish_non_exhaustive()
    }
}

impl AgentDialer for ContainerAgents {
    fn open(&self) -> BoxFuture<'_, Result<Session, OpenError>> {
        Box::pin(self.exec())
    }

    fn judge(&self, fault: Fault) -> BoxFuture<'_, Fault> {
        Box::pin(async move {
            match tokio::time::timeout(JUDGE_LIMIT, self.ask_engine()).await {
                Ok(Ok(())) => of_the_job(fault),
                // Removed, or stopped: the engine is well.
                Ok(Err(error)) if matches!(errors::status(&error), Some(404 | 409)) => {
                    Fault::environment_gone(errors::message(&error))
                }
                Ok(Err(error)) => errors::fault(&error),
                Err(_) => fault,
            }
        })
    }
}

impl ContainerAgents {
    /// Whether the engine is there and can write.
    async fn ask_engine(&self) -> Result<(), bollard::errors::Error> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(PROBE.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, PROBE_NAME, PROBE)?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let body = bollard::body_full(archive.into_inner()?.into());
        self.engine.api.upload_to_container(&self.container, Some(options), body).await
    }

    /// Starts the container. Its main process speaks on the stream that this gives back.
    pub(crate) async fn start(&self) -> Result<BoxStream, Fault> {
        // Attached first, so that nothing of what it says is missed.
        let stream = self.engine.attach(&self.container).await;
        let stream = stream.map_err(|error| Fault::unclassified(Chain(&error).to_string()))?;
        self.engine.api.start_container(&self.container, None).await.map_err(|error| errors::start_fault(&error))?;
        Ok(stream)
    }

    /// Waits for the agent that is the main process of a container that was just started.
    pub(crate) async fn first(
        &self,
        stream: BoxStream,
        noise: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Session, Fault> {
        match Session::open(stream, noise).await {
            Ok(session) => Ok(session),
            Err(SessionError::NoAgent(said)) => Err(self.ended_early(&said).await),
            // The stream alone is lost: the agent is there, or another one is.
            Err(SessionError::Ended | SessionError::Broken(_)) => self.exec().await.map_err(OpenError::into_fault),
            Err(error @ (SessionError::Protocol(_) | SessionError::Wire(_))) => {
                // An agent's words, whoever plays it: the engine has done its part.
                Err(Fault::environment_gone(Chain(&error).to_string()))
            }
        }
    }

    async fn exec(&self) -> Result<Session, OpenError> {
        // It stands in for the main process, with what the image's entrypoint has exported. It is the container's
        // user: an image may have put another program in our program's place.
        let command = [AGENT_PATH, "agent", "--root", JOBS_FOLDER, "--beside"];
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.map(str::to_owned).into()),
            ..ExecConfig::default()
        };
        let exec = match self.engine.api.create_exec(&self.container, config).await {
            Ok(exec) => exec,
            // 404: removed. 409: it does not run.
            Err(error) if matches!(errors::status(&error), Some(404 | 409)) => {
                return Err(OpenError::Final(self.gone().await));
            }
            Err(error) => return Err(OpenError::Retry(errors::fault(&error))),
        };
        let exec = engine_id::checked(exec.id).map_err(OpenError::Final)?;
        let stream = self.engine.start_exec(&exec).await.map_err(OpenError::from)?;
        let opened = Session::open(stream, &mut |_| ()).await;
        opened.map_err(|error| OpenError::Retry(Fault::unclassified(Chain(&error).to_string())))
    }

    /// The container is not there or does not run.
    async fn gone(&self) -> Fault {
        match self.engine.api.inspect_container(&self.container, None).await {
            Ok(found) => {
                let state = found.state.unwrap_or_default();
                let why = if state.oom_killed == Some(true) { " (out of memory)" } else { "" };
                let code = state.exit_code.unwrap_or_default();
                Fault::environment_gone(format!("container {:?} ended with exit code {code}{why}", self.container))
            }
            Err(error) => Fault::environment_gone(errors::message(&error)),
        }
    }

    /// The image's entrypoint ended without running what it was given: the job's own matter.
    async fn ended_early(&self, said: &str) -> Fault {
        let state = self.engine.api.inspect_container(&self.container, None).await.ok().and_then(|found| found.state);
        match state {
            Some(state) if state.running != Some(true) => {
                let code = state.exit_code.unwrap_or_default();
                let message = format!("the image's entrypoint ended with exit code {code} and ran no command");
                Fault::of(FailureReason::ScriptFailure, message)
            }
            // The engine answers, so the image is to blame, or a connection that was lost right then.
            Some(_) => Fault::environment_gone(format!("no agent answered in the container: {said}")),
            None => Fault::unclassified(format!("no agent answered in the container: {said}")),
        }
    }
}

impl From<HijackError> for OpenError {
    fn from(error: HijackError) -> Self {
        match error {
            HijackError::Access(error) => Self::from(error),
            HijackError::Refused { status: StatusCode::NOT_FOUND | StatusCode::CONFLICT, message } => {
                Self::Final(Fault::environment_gone(message))
            }
            // An instance that answers so is well: the container has not what is to be run in it.
            HijackError::Refused { status, message } if status.is_client_error() => {
                Self::Retry(Fault::of(FailureReason::RunnerSystemFailure, message))
            }
            error @ (HijackError::Stream(_)
            | HijackError::Http(_)
            | HijackError::Request(_)
            | HijackError::Silent
            | HijackError::Refused { .. }) => Self::Retry(Fault::unclassified(Chain(&error).to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executors::docker::fake_engine::{FakeEngine, Reply};
    use crate::job::failure::FaultClass;

    async fn judged(reply: impl Fn() -> Reply + Send + Sync + 'static) -> FaultClass {
        let engine = FakeEngine::start_by_line(move |line, _| {
            assert!(line.starts_with("PUT ") && line.contains("/containers/c/archive?path=%2F"), "{line}");
            reply()
        });
        let agents = ContainerAgents { engine, container: "c".to_owned() };
        agents.judge(Fault::unclassified("the agent says so")).await.class
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_agent_says_of_its_machine_counts_if_the_engine_says_so_too() {
        let of_the_job = FaultClass::Reason(FailureReason::RunnerSystemFailure);
        assert_eq!(judged(|| Reply::Status(200, String::new())).await, of_the_job);
        let full = || Reply::Status(500, r#"{"message":"write /x: no space left on device"}"#.to_owned());
        assert_eq!(judged(full).await, FaultClass::Unclassified);
        assert_eq!(judged(|| Reply::Silence).await, FaultClass::Unclassified);
        let gone = || Reply::Status(404, r#"{"message":"No such container: c"}"#.to_owned());
        assert_eq!(judged(gone).await, FaultClass::EnvironmentGone);
    }
}
