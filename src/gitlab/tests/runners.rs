//! Verifying, registering, removing, and fresh tokens.

use super::{client, client_with, features, sandbox};
use crate::gitlab::Poll;
use crate::gitlab::outcome::{RegisterOutcome, RequestOutcome, ResetTokenOutcome, UnregisterOutcome, VerifyOutcome};
use crate::gitlab::wire::RegisterRequest;
use crate::sandbox::{Fault, On, REGISTRATION_TOKEN, RUNNER_TOKEN};

#[tokio::test]
async fn a_good_token_is_valid_and_a_foreign_one_is_not() {
    let sandbox = sandbox().await;
    let VerifyOutcome::Valid(runner) = client(&sandbox).verify().await else { panic!("not valid") };
    assert_eq!((runner.id, runner.token.expose()), (1, RUNNER_TOKEN));
    let (foreign, _) = client_with(&sandbox.url(), "glrt-foreign", features());
    assert!(matches!(foreign.verify().await, VerifyOutcome::Invalid));
    assert_eq!(sandbox.managers().len(), 1);
}

#[tokio::test]
async fn a_server_that_answers_in_plain_text_says_that_the_token_is_good() {
    let sandbox = sandbox().await;
    sandbox.faults().add(Fault::status(On::Runners, 200).body("200"));
    let VerifyOutcome::Valid(runner) = client(&sandbox).verify().await else { panic!("not valid") };
    assert_eq!(runner.id, 0);
}

#[tokio::test]
async fn a_server_in_trouble_says_nothing_about_a_token() {
    let sandbox = sandbox().await;
    for status in [400, 404, 422, 501] {
        sandbox.faults().clear();
        sandbox.faults().add(Fault::status(On::Runners, status).body(r#"{"message":"why"}"#));
        let VerifyOutcome::Unknown { status: told, message } = client(&sandbox).verify().await else { panic!("known") };
        assert_eq!(told, Some(status));
        assert!(message.ends_with("(why)"), "{message}");
    }
}

#[tokio::test]
async fn a_registration_token_makes_a_runner_that_can_ask_and_be_removed() {
    let sandbox = sandbox().await;
    let (registering, _) = client_with(&sandbox.url(), REGISTRATION_TOKEN, features());
    let request = RegisterRequest {
        description: "one".into(),
        tag_list: "a,b".into(),
        locked: true,
        ..RegisterRequest::default()
    };
    let RegisterOutcome::Registered(runner) = registering.register(request).await else { panic!("not registered") };
    assert!(
        sandbox.requests()[0].body.contains(r#""tag_list":"a,b","run_untagged":false,"locked":true,"paused":false"#)
    );
    let (registered, _) = client_with(&sandbox.url(), runner.token.expose(), features());
    assert!(matches!(registered.request_job(Poll::AtOnce).await.outcome, RequestOutcome::NoJob));
    assert_eq!(registered.unregister().await, UnregisterOutcome::Removed);
    assert_eq!(registered.unregister().await, UnregisterOutcome::Forbidden);
    assert_eq!(sandbox.requests().last().unwrap().uri, "/api/v4/runners");
}

#[tokio::test]
async fn registering_is_refused_in_words_of_its_own() {
    let sandbox = sandbox().await;
    let (foreign, _) = client_with(&sandbox.url(), "nothing", features());
    assert!(matches!(foreign.register(RegisterRequest::default()).await, RegisterOutcome::Forbidden));
    sandbox.faults().add(Fault::status(On::Runners, 410));
    assert!(matches!(foreign.register(RegisterRequest::default()).await, RegisterOutcome::Gone));
}

#[tokio::test]
async fn a_created_runner_takes_only_its_manager_away() {
    let sandbox = sandbox().await;
    let client = client(&sandbox);
    client.verify().await;
    assert_eq!(client.unregister().await, UnregisterOutcome::Removed);
    let last = sandbox.requests().pop().unwrap();
    assert_eq!((last.method.as_str(), last.uri.as_str()), ("DELETE", "/api/v4/runners/managers"));
    assert!(last.body.contains(r#""system_id":"s_0123456789ab""#));
    let again = client.unregister().await;
    assert!(matches!(again, UnregisterOutcome::Failed { status: Some(404), .. }), "{again:?}");
}

#[tokio::test]
async fn a_fresh_token_ends_the_old_one() {
    let sandbox = sandbox().await;
    let client = client(&sandbox);
    let ResetTokenOutcome::Reset(fresh) = client.reset_token().await else { panic!("not reset") };
    assert_eq!(sandbox.requests()[0].header("runner-token"), None);
    assert!(matches!(client.request_job(Poll::AtOnce).await.outcome, RequestOutcome::Forbidden));
    assert!(matches!(client.reset_token().await, ResetTokenOutcome::Forbidden));
    let (renewed, _) = client_with(&sandbox.url(), fresh.token.expose(), features());
    assert!(matches!(renewed.request_job(Poll::AtOnce).await.outcome, RequestOutcome::NoJob));
}

#[tokio::test]
async fn a_user_may_reset_a_runners_token_by_its_number() {
    let sandbox = sandbox().await;
    let outcome = client(&sandbox).reset_token_of(1, &"glpat-x".into()).await;
    assert!(matches!(outcome, ResetTokenOutcome::Reset(_)), "{outcome:?}");
    let request = sandbox.requests().pop().unwrap();
    assert_eq!((request.uri.as_str(), request.body.as_str()), ("/api/v4/runners/1/reset_authentication_token", "null"));
    assert_eq!(request.header("private-token"), Some("glpat-x"));
}
