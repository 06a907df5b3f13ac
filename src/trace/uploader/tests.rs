//! The uploader against a GitLab that does as it is told: answers by script, by chance or not at all.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::trace::masker::Masks;
use crate::trace::sink::{Stream, TraceSettings};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// 5xx, or no connection: the call has no effect.
    Refused,
    /// The call has its effect; the answer is lost.
    LostAnswer,
    NotFound,
    /// 403.
    Gone,
    /// 202 to the final update.
    Storing,
    /// 412 to the final update.
    Mismatch,
    /// `Job-Status: canceling`.
    Canceling,
    /// No answer, ever.
    Hang,
    /// 416 with a position that was never sent to.
    Boast,
}

#[derive(Debug)]
struct Call {
    at: Instant,
    /// `PATCH 0-5` or `PUT running`.
    what: String,
}

/// GitLab's side of one job.
#[derive(Debug, Default)]
struct World {
    faults: VecDeque<Fault>,
    /// For calls beyond `faults`.
    then: Option<Fault>,
    copy: Vec<u8>,
    calls: Vec<Call>,
    last_report: Option<JobReport>,
    interval: Option<Duration>,
    retry_after: Option<Duration>,
}

/// A GitLab in memory that keeps the rules of positions: it appends only what begins where its copy ends.
#[derive(Clone, Debug, Default)]
struct SimGitlab(Arc<Mutex<World>>);

impl SimGitlab {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn next_fault(&self, what: String) -> Fault {
        let mut world = self.world();
        world.calls.push(Call { at: time::now().instant, what });
        let fallback = world.then.unwrap_or(Fault::None);
        world.faults.pop_front().unwrap_or(fallback)
    }

    fn calls(&self) -> Vec<String> {
        self.world().calls.iter().map(|call| call.what.clone()).collect()
    }

    fn patched(&self, outcome: PatchOutcome, fault: Fault) -> PatchResult {
        let world = self.world();
        PatchResult {
            outcome,
            cancel_requested: fault == Fault::Canceling,
            trace_update_interval: world.interval,
            retry_after: world.retry_after.filter(|_| fault == Fault::Refused),
        }
    }
}

impl TraceApi for SimGitlab {
    async fn update_job(&self, report: JobReport) -> UpdateResult {
        let state = match &report.result {
            None => "running".to_owned(),
            Some(FinalUpdate::Success) => "success".to_owned(),
            Some(FinalUpdate::Failed { failure_reason, exit_code }) => format!("failed {failure_reason} {exit_code:?}"),
        };
        let fault = self.next_fault(format!("PUT {state}"));
        if fault == Fault::Hang {
            std::future::pending::<()>().await;
        }
        let outcome = match fault {
            Fault::None | Fault::Canceling => UpdateOutcome::Succeeded,
            Fault::Refused | Fault::LostAnswer | Fault::Hang | Fault::Boast => UpdateOutcome::Failed,
            Fault::Gone => UpdateOutcome::Aborted,
            Fault::NotFound => UpdateOutcome::NotFound,
            Fault::Storing => UpdateOutcome::AcceptedNotCompleted,
            Fault::Mismatch => {
                self.world().copy.clear();
                UpdateOutcome::TraceValidationFailed
            }
        };
        let mut world = self.world();
        if matches!(fault, Fault::None | Fault::LostAnswer | Fault::Canceling) {
            world.last_report = Some(report);
        }
        UpdateResult {
            outcome,
            cancel_requested: fault == Fault::Canceling,
            trace_update_interval: world.interval,
            retry_after: world.retry_after.filter(|_| fault == Fault::Refused),
            status: None,
        }
    }

    async fn patch_trace(&self, start: u64, content: Bytes) -> PatchResult {
        assert!(!content.is_empty() && content.len() <= LONGEST_PATCH);
        let fault = self.next_fault(format!("PATCH {start}-{}", start + content.len() as u64));
        match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Refused | Fault::Storing | Fault::Mismatch => return self.patched(PatchOutcome::Failed, fault),
            Fault::NotFound => return self.patched(PatchOutcome::NotFound, fault),
            Fault::Gone => return self.patched(PatchOutcome::Aborted, fault),
            Fault::Boast => return self.patched(PatchOutcome::RangeMismatch { server_has: 1 << 40 }, fault),
            Fault::None | Fault::LostAnswer | Fault::Canceling => {}
        }
        let server_has = self.world().copy.len() as u64;
        if start != server_has {
            return self.patched(PatchOutcome::RangeMismatch { server_has }, fault);
        }
        self.world().copy.extend_from_slice(&content);
        let sent_to = start + content.len() as u64;
        let outcome =
            if fault == Fault::LostAnswer { PatchOutcome::Failed } else { PatchOutcome::Succeeded { sent_to } };
        self.patched(outcome, fault)
    }
}

struct Job {
    gitlab: SimGitlab,
    sink: Sink,
    handle: UploaderHandle,
    give_up: CancellationToken,
    tasks: JoinSet<()>,
}

fn sink() -> Sink {
    Sink::new(TraceSettings {
        folder: std::env::temp_dir(),
        limit: 8 << 20,
        timestamps: false,
        sections: true,
        masks: Masks::with_default_prefixes(true),
    })
}

fn job(faults: &[Fault]) -> Job {
    let gitlab = SimGitlab::default();
    gitlab.world().faults = faults.iter().copied().collect();
    let give_up = CancellationToken::new();
    let settings =
        UploaderSettings { final_update_retry_limit: 10, budget: PatchBudget::default(), give_up: give_up.clone() };
    let sink = sink();
    let (uploader, handle) = Uploader::new(gitlab.clone(), sink.clone(), settings);
    let mut tasks = JoinSet::new();
    tasks.spawn(uploader.run());
    Job { gitlab, sink, handle, give_up, tasks }
}

impl Job {
    fn print(&self, text: &str) {
        self.sink.write(Stream::Stdout, text.as_bytes());
    }

    async fn finish(mut self, update: FinalUpdate) -> FinalOutcome {
        let outcome = self.handle.finish(update).await;
        self.tasks.join_next().await.unwrap().unwrap();
        outcome
    }
}

async fn pass(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

fn failed() -> FinalUpdate {
    FinalUpdate::Failed { failure_reason: "script_failure".to_owned(), exit_code: Some(3) }
}

#[tokio::test(start_paused = true)]
async fn the_header_and_the_scripts_first_lines_leave_at_once() {
    let job = job(&[]);
    pass(1000).await;
    assert_eq!(job.gitlab.calls(), [""; 0]);
    job.sink.plain("header");
    pass(50).await;
    job.print("more\n");
    pass(250).await;
    assert_eq!(job.gitlab.calls(), ["PATCH 0-21"]);
    job.print("Running on vm...\n");
    pass(1000).await;
    assert_eq!(job.gitlab.calls().len(), 1, "ordinary output waits for the interval");
    job.sink.script_output_begins();
    job.print("$ make\n");
    pass(300).await;
    assert_eq!(job.gitlab.calls(), ["PATCH 0-21", "PATCH 21-45"]);
    job.print("output\n");
    pass(300).await;
    assert_eq!(job.gitlab.calls().len(), 3, "the first command's own output is not late either");
    job.print("later\n");
    pass(300).await;
    assert_eq!(job.gitlab.calls().len(), 3);
    pass(3000).await;
    assert_eq!(job.gitlab.calls().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_short_job_sends_its_trace_once() {
    let job = job(&[]);
    job.sink.plain("header");
    job.sink.script_output_begins();
    job.print("$ echo\nhello\n");
    pass(100).await;
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    assert_eq!(gitlab.calls(), ["PATCH 0-29", "PUT success"]);
    let report = gitlab.world().last_report.clone().unwrap();
    assert_eq!((report.bytesize, report.checksum), (29, crc32fast::hash(&gitlab.world().copy)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_claims_more_than_was_sent_loses_nothing_of_the_trace() {
    let job = job(&[Fault::Boast, Fault::Boast]);
    job.sink.plain("header");
    pass(60_000).await;
    job.print("more\n");
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    let report = gitlab.world().last_report.clone().unwrap();
    assert_eq!((report.bytesize, report.checksum), (21, crc32fast::hash(&gitlab.world().copy)));
}

#[tokio::test(start_paused = true)]
async fn patches_follow_the_servers_interval_and_a_silent_job_is_asked_about() {
    let job = job(&[]);
    job.gitlab.world().interval = Some(Duration::from_secs(60));
    job.sink.plain("header");
    pass(200).await;
    job.print("more\n");
    pass(59_000).await;
    let calls = job.gitlab.calls();
    assert_eq!(calls[0], "PATCH 0-16");
    assert_eq!(calls[1..], ["PUT running"; 6], "six times 9.5 s");
    pass(2_000).await;
    assert_eq!(job.gitlab.calls().last().unwrap(), "PATCH 16-21");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_of_a_silent_job_is_noticed_within_ten_seconds() {
    let job = job(&[Fault::None, Fault::None, Fault::Canceling, Fault::None, Fault::Canceling]);
    let mut cancel = job.handle.cancel_state();
    job.sink.plain("header");
    pass(200).await;
    let begin = time::now().instant;
    cancel.changed().await.unwrap();
    assert_eq!(*cancel.borrow_and_update(), CancelState::Canceling);
    assert!(time::now().instant - begin <= Duration::from_secs(20));
    pass(60_000).await;
    assert!(!cancel.has_changed().unwrap(), "a second request is no news");
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(failed()).await, FinalOutcome::Accepted);
    assert_eq!(gitlab.calls().last().unwrap(), "PUT failed script_failure Some(3)");
}

#[tokio::test(start_paused = true)]
async fn after_an_abort_only_the_final_state_is_tried_once() {
    let job = job(&[Fault::Gone]);
    job.gitlab.world().then = Some(Fault::Gone);
    let mut cancel = job.handle.cancel_state();
    job.sink.plain("header");
    cancel.changed().await.unwrap();
    assert_eq!(*cancel.borrow(), CancelState::Aborted);
    job.print("output after the abort\n");
    pass(60_000).await;
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(failed()).await, FinalOutcome::Refused);
    assert_eq!(gitlab.calls(), ["PATCH 0-16", "PUT failed script_failure Some(3)"]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_changes_neither_trace_nor_state() {
    let job = job(&[]);
    job.sink.plain("header");
    pass(1000).await;
    job.gitlab.world().then = Some(Fault::Refused);
    job.print("printed in the outage\n");
    let gitlab = job.gitlab.clone();
    let mut back = JoinSet::new();
    back.spawn(async move {
        pass(60_000).await;
        gitlab.world().then = None;
    });
    let gitlab = job.gitlab.clone();
    let begin = time::now().instant;
    pass(20_000).await;
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    assert!(time::now().instant - begin <= Duration::from_secs(95));
    assert_eq!(gitlab.world().copy, b"\x1b[0Kheader\x1b[0;m\nprinted in the outage\n");
    assert!(gitlab.calls().len() < 25, "{:?}", gitlab.calls());
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_by_patches_and_questions() {
    let job = job(&[Fault::Refused]);
    job.gitlab.world().retry_after = Some(Duration::from_secs(45));
    job.sink.plain("header");
    pass(45_000).await;
    assert_eq!(job.gitlab.calls().len(), 1);
    pass(1_000).await;
    assert_eq!(job.gitlab.calls(), ["PATCH 0-16", "PUT running", "PATCH 0-16"]);
}

#[tokio::test(start_paused = true)]
async fn a_404_to_a_patch_is_tried_again() {
    let job = job(&[Fault::NotFound]);
    job.sink.plain("header");
    pass(2_000).await;
    assert_eq!(job.gitlab.calls(), ["PATCH 0-16", "PATCH 0-16"]);
    job.gitlab.world().faults.push_back(Fault::NotFound);
    job.print("more\n");
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    assert_eq!(gitlab.calls()[2..], ["PATCH 16-21", "PATCH 16-21", "PUT success"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_counts_as_failed() {
    let job = job(&[Fault::Hang]);
    job.sink.plain("header");
    pass(125_000).await;
    assert_eq!(job.gitlab.calls().last().unwrap(), "PATCH 0-16");
    assert_eq!(job.gitlab.world().copy.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_neither_gap_nor_copy() {
    let job = job(&[Fault::LostAnswer]);
    job.sink.plain("header");
    pass(300).await;
    job.print("more\n");
    pass(5_000).await;
    assert_eq!(job.gitlab.calls(), ["PATCH 0-16", "PATCH 0-21", "PATCH 16-21"]);
    assert_eq!(job.gitlab.world().copy, b"\x1b[0Kheader\x1b[0;m\nmore\n");
}

#[tokio::test(start_paused = true)]
async fn storing_and_validation_of_the_trace_are_waited_for() {
    let job = job(&[Fault::None, Fault::Storing, Fault::Mismatch, Fault::None, Fault::Storing, Fault::None]);
    job.print("hello\n");
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    let expected = ["PATCH 0-6", "PUT success", "PUT success", "PATCH 0-6", "PUT success", "PUT success"];
    assert_eq!(gitlab.calls(), expected);
    assert_eq!(gitlab.world().copy, b"hello\n");
}

#[tokio::test(start_paused = true)]
async fn a_long_trace_goes_in_patches_of_a_mebibyte() {
    let job = job(&[]);
    let line = "a line of the trace that is long enough to fill a mebibyte before long\n";
    let count = (3 << 20) / line.len();
    job.print(&line.repeat(count));
    let gitlab = job.gitlab.clone();
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    assert_eq!(gitlab.calls().len(), 4);
    assert_eq!(gitlab.world().copy, line.repeat(count).as_bytes());
}

#[tokio::test(start_paused = true)]
async fn without_a_share_of_the_budget_patches_are_small() {
    let gitlab = SimGitlab::default();
    let settings = UploaderSettings {
        final_update_retry_limit: 10,
        budget: PatchBudget::new(0),
        give_up: CancellationToken::new(),
    };
    let sink = sink();
    let (uploader, handle) = Uploader::new(gitlab.clone(), sink.clone(), settings);
    let mut tasks = JoinSet::new();
    tasks.spawn(uploader.run());
    sink.write(Stream::Stdout, &[b'.'; 100_000]);
    assert_eq!(handle.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    assert_eq!(gitlab.calls(), ["PATCH 0-65536", "PATCH 65536-100000", "PUT success"]);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_ends_does_not_wait_for_gitlab() {
    let job = job(&[]);
    job.gitlab.world().then = Some(Fault::Refused);
    job.print("hello\n");
    let give_up = job.give_up.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        pass(30_000).await;
        give_up.cancel();
    });
    let begin = time::now().instant;
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Interrupted);
    assert_eq!((time::now().instant - begin).as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_ends_does_not_wait_for_a_call_that_hangs() {
    let job = job(&[Fault::Hang]);
    job.sink.plain("header");
    pass(1_000).await;
    job.give_up.cancel();
    let begin = time::now().instant;
    assert_eq!(job.finish(FinalUpdate::Success).await, FinalOutcome::Interrupted);
    assert_eq!(time::now().instant, begin);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handle_ends_the_uploader_without_a_word() {
    let Job { gitlab, handle, mut tasks, .. } = job(&[]);
    drop(handle);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(gitlab.calls(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_trace_that_cannot_be_stored_ends_early_and_the_state_is_told() {
    let gitlab = SimGitlab::default();
    let settings = UploaderSettings {
        final_update_retry_limit: 10,
        budget: PatchBudget::default(),
        give_up: CancellationToken::new(),
    };
    let sink = Sink::new(TraceSettings {
        folder: "/nonexistent".into(),
        limit: 8 << 20,
        timestamps: false,
        sections: true,
        masks: Masks::default(),
    });
    let (uploader, handle) = Uploader::new(gitlab.clone(), sink.clone(), settings);
    let mut tasks = JoinSet::new();
    tasks.spawn(uploader.run());
    sink.write(Stream::Stdout, &[b'.'; 100_000]);
    assert_eq!(handle.finish(FinalUpdate::Success).await, FinalOutcome::Accepted);
    let world = gitlab.world();
    let copy = String::from_utf8_lossy(&world.copy).into_owned();
    assert!(copy.contains("could not be stored: No such file or directory"), "{copy}");
    let report = world.last_report.clone().unwrap();
    assert_eq!((report.bytesize, report.checksum), (copy.len() as u64, crc32fast::hash(copy.as_bytes())));
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        2 => Just(Fault::Refused),
        2 => Just(Fault::LostAnswer),
        1 => Just(Fault::Hang),
        1 => Just(Fault::Storing),
        1 => Just(Fault::Mismatch),
        1 => Just(Fault::Canceling),
    ]
}

/// Something that happens to a job: output, a pause, or the server losing the end of its copy.
#[derive(Clone, Debug)]
enum Step {
    Print(String),
    Pass(u64),
    ServerLoses(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => "[a-z \n]{1,200}".prop_map(Step::Print),
        1 => (1usize..60_000).prop_map(|length| Step::Print("long line ".repeat(length / 10))),
        3 => (0u64..20_000).prop_map(Step::Pass),
        1 => (1usize..2_000).prop_map(Step::ServerLoses),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_goes_wrong_the_servers_copy_is_exact(
        steps in prop::collection::vec(step(), 1..25),
        faults in prop::collection::vec(fault(), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let job = job(&faults);
            let mut printed = String::new();
            for step in steps {
                match step {
                    Step::Print(text) => {
                        job.print(&text);
                        printed.push_str(&text);
                    }
                    Step::Pass(milliseconds) => pass(milliseconds).await,
                    Step::ServerLoses(bytes) => {
                        let mut world = job.gitlab.world();
                        let left = world.copy.len().saturating_sub(bytes);
                        world.copy.truncate(left);
                    }
                }
            }
            // What was lost is only noticed where something is left to send.
            job.print("end\n");
            printed.push_str("end\n");
            let gitlab = job.gitlab.clone();
            let outcome = job.finish(FinalUpdate::Success).await;
            prop_assert_eq!(outcome, FinalOutcome::Accepted);
            let world = gitlab.world();
            prop_assert_eq!(&world.copy, printed.as_bytes());
            let report = world.last_report.clone().unwrap();
            prop_assert_eq!(report.result, Some(FinalUpdate::Success));
            prop_assert_eq!((report.bytesize, report.checksum), (printed.len() as u64, crc32fast::hash(printed.as_bytes())));
            for pair in world.calls.windows(2) {
                prop_assert!(pair[0].at <= pair[1].at);
            }
            Ok(())
        })?;
    }
}
