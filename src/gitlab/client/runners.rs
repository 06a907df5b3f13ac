//! Calls about the runner itself: verifying, registering, removing, and a fresh token.

use reqwest::Method;

use super::super::call::Call;
use super::super::observer::Endpoint;
use super::super::outcome::{RegisterOutcome, ResetTokenOutcome, UnregisterOutcome, VerifyOutcome};
use super::super::wire::{
    RegisterRequest, ResetTokenRequest, UnregisterManagerRequest, UnregisterRequest, VerifyRequest, header,
};
use super::{Answered, Client, json_body};
use crate::secret::Secret;

/// What begins the tokens of runners that were created in GitLab, not registered by the runner.
const CREATED_TOKEN_PREFIX: &str = "glrt-";

impl Client {
    /// `POST runners/verify`: whether the runner's token is good; also how a created runner is taken into use.
    pub async fn verify(&self) -> VerifyOutcome {
        let body = VerifyRequest {
            info: self.inner.info.clone(),
            token: self.inner.token.clone(),
            system_id: self.inner.system_id.clone(),
        };
        let call = self.runner_call(Method::POST, "runners/verify", &body).accept_json();
        let answered = self.send(Endpoint::Verify, &call).await;
        match answered.status() {
            // Old servers say `200` in plain text, which tells all that it can.
            Some(200) => VerifyOutcome::Valid(answered.json().unwrap_or_default()),
            Some(403) => VerifyOutcome::Invalid,
            status => VerifyOutcome::Unknown { status, message: answered.message() },
        }
    }

    /// `POST runners`: registers with a registration token, which is this client's token. The request's
    /// `info` and `token` are filled in.
    pub async fn register(&self, request: RegisterRequest) -> RegisterOutcome {
        let body = RegisterRequest { info: self.inner.info.clone(), token: self.inner.token.clone(), ..request };
        let call = self.runner_call(Method::POST, "runners", &body).accept_json();
        let answered = self.send(Endpoint::Register, &call).await;
        match (answered.status(), answered.json()) {
            (Some(201), Some(registered)) => RegisterOutcome::Registered(registered),
            (Some(403), _) => RegisterOutcome::Forbidden,
            (Some(410), _) => RegisterOutcome::Gone,
            (status, _) => RegisterOutcome::Failed { status, message: answered.message() },
        }
    }

    /// Takes this manager (created runners) or the runner itself (registered ones) off the server.
    pub async fn unregister(&self) -> UnregisterOutcome {
        let token = self.inner.token.clone();
        let call = if token.expose().starts_with(CREATED_TOKEN_PREFIX) {
            let body = UnregisterManagerRequest { token, system_id: self.inner.system_id.clone() };
            self.runner_call(Method::DELETE, "runners/managers", &body)
        } else {
            self.runner_call(Method::DELETE, "runners", &UnregisterRequest { token })
        };
        let answered = self.send(Endpoint::Unregister, &call).await;
        match answered.status() {
            Some(204) => UnregisterOutcome::Removed,
            Some(403) => UnregisterOutcome::Forbidden,
            status => UnregisterOutcome::Failed { status, message: answered.message() },
        }
    }

    /// `POST runners/reset_authentication_token`: the server makes a new token and forgets this client's.
    pub async fn reset_token(&self) -> ResetTokenOutcome {
        let body = json_body(&ResetTokenRequest { token: self.inner.token.clone() });
        let call = Call::new(Method::POST, "runners/reset_authentication_token").body("application/json", body);
        reset_outcome(&self.send(Endpoint::ResetToken, &call.accept_json()).await)
    }

    /// As [`Client::reset_token`], for the runner with this number, on behalf of the user of a personal
    /// access token.
    pub async fn reset_token_of(&self, runner_id: i64, personal_token: &Secret) -> ResetTokenOutcome {
        let call = Call::new(Method::POST, format!("runners/{runner_id}/reset_authentication_token"))
            .token(header::PRIVATE_TOKEN, personal_token)
            .body("application/json", json_body(&()));
        reset_outcome(&self.send(Endpoint::ResetToken, &call.accept_json()).await)
    }

    fn runner_call(&self, method: Method, path: &str, body: &impl serde::Serialize) -> Call {
        Call::new(method, path).token(header::RUNNER_TOKEN, &self.inner.token).body("application/json", json_body(body))
    }
}

fn reset_outcome(answered: &Answered) -> ResetTokenOutcome {
    match (answered.status(), answered.json()) {
        (Some(201), Some(reset)) => ResetTokenOutcome::Reset(reset),
        (Some(403), _) => ResetTokenOutcome::Forbidden,
        (status, _) => ResetTokenOutcome::Failed { status, message: answered.message() },
    }
}
