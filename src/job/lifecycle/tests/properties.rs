use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::job::failure::FailureReason;

/// What the world does to a job at one moment.
#[derive(Clone, Debug)]
enum Move {
    /// What is under way ends in this way.
    Answer(Answer),
    Event(Event),
    Pass(u64),
}

#[derive(Clone, Debug)]
enum Answer {
    Good,
    Exit(i32),
    Gone,
    Unclassified,
    Configuration,
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => Just(Answer::Good),
        2 => (1..255).prop_map(Answer::Exit),
        1 => Just(Answer::Gone),
        1 => Just(Answer::Unclassified),
        1 => Just(Answer::Configuration),
    ]
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        10 => answers().prop_map(Move::Answer),
        3 => (0_u64..400).prop_map(Move::Pass),
        1 => Just(Move::Event(Event::CancelRequested)),
        1 => Just(Move::Event(Event::Aborted)),
        1 => Just(Move::Event(Event::Interrupted { signal: "terminated".to_owned() })),
        1 => Just(Move::Event(Event::InstanceLost { cause: "gone".to_owned() })),
    ]
}

prop_compose! {
    fn any_settings()(
        bits in any::<[bool; 10]>(), get_sources in 1_u32..4, section in 1_u32..3, job in 1_u64..2000, script in prop::option::of(1_u64..500),
    ) -> LifecycleSettings {
        let job_timeout = Duration::from_secs(job);
        LifecycleSettings {
            plan: Plan {
                restore_cache: bits[0],
                download_artifacts: bits[1],
                steps: settings().plan.steps.into_iter().take(usize::from(bits[2]) + usize::from(bits[3])).collect(),
                after_script: bits[4],
                archive_cache_on_success: bits[5],
                archive_cache_on_failure: bits[6],
                upload_artifacts_on_success: bits[7],
                upload_artifacts_on_failure: bits[8],
            },
            after_script_ignore_errors: bits[9],
            attempts: Attempts { get_sources, restore_cache: get_sources, section, ..settings().attempts },
            job_timeout,
            prepare_timeout: Duration::from_secs(200).min(job_timeout),
            get_sources_timeout: Duration::from_secs(300).min(job_timeout),
            script_timeout: script.map(Duration::from_secs),
            ..settings()
        }
    }
}

fn without_limits(settings: &mut LifecycleSettings) {
    let long = Duration::from_secs(100_000);
    settings.job_timeout = long;
    settings.prepare_timeout = long;
    settings.get_sources_timeout = long;
    settings.after_script_timeout = long;
    settings.script_timeout = None;
}

/// What a driver of the world knows, and the rules that each action must keep.
#[derive(Default)]
struct Witness {
    preparing: bool,
    running: Option<Stage>,
    open: Option<Stage>,
    starts: BTreeMap<Stage, u32>,
    finished: Option<FinalResult>,
    log: Vec<String>,
}

impl Witness {
    fn take(&mut self, action: Action) {
        self.log.push(format!("{action:?}"));
        assert!(self.finished.is_none(), "nothing follows the end");
        match action {
            Action::Log { .. } => {}
            Action::SectionStart(stage) => {
                assert_eq!(self.open, None, "sections do not overlap");
                self.open = Some(stage);
            }
            Action::SectionEnd(stage) => {
                assert_eq!(self.open.take(), Some(stage), "the open section ends");
                assert!(self.running.is_none() && !self.preparing, "what runs in a section ends before it");
            }
            Action::PrepareExecutor { .. } => {
                assert!(!self.preparing && self.running.is_none());
                self.preparing = true;
            }
            Action::RunStage { stage, attempt, .. } => {
                assert!(!self.preparing && self.running.is_none(), "one thing at a time");
                assert_eq!(self.open.as_ref(), Some(&stage), "a stage runs in its section");
                let starts = self.starts.entry(stage.clone()).or_insert(0);
                *starts += 1;
                assert_eq!(attempt, *starts, "each start has its own number");
                self.running = Some(stage);
            }
            Action::StopPreparation => assert!(self.preparing),
            Action::StopStage => assert!(self.running.is_some()),
            Action::Abandon => {
                assert!(self.preparing || self.running.is_some());
                self.preparing = false;
                self.running = None;
            }
            Action::Finish(result) => {
                assert!(
                    !self.preparing && self.running.is_none() && self.open.is_none(),
                    "the end leaves nothing open"
                );
                self.finished = Some(result);
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> Option<Event> {
        let fault = match answer {
            Answer::Good => None,
            Answer::Exit(code) => Some(Fault::exit(*code)),
            Answer::Gone => Some(Fault::environment_gone("gone")),
            Answer::Unclassified => Some(Fault::unclassified("broken")),
            Answer::Configuration => Some(Fault::configuration("wrong")),
        };
        if std::mem::take(&mut self.preparing) {
            return Some(fault.map_or(Event::ExecutorPrepared, Event::ExecutorPreparationFailed));
        }
        self.running.take()?;
        Some(fault.map_or(Event::StageSucceeded, Event::StageFailed))
    }
}

fn live(settings: LifecycleSettings, moves: Vec<Move>) -> Witness {
    let section_attempts = settings.attempts.section;
    let mut now = beginning();
    let mut job = Lifecycle::new(settings, now);
    let mut witness = Witness::default();
    // After the given moves everything ends well: the job must come to its end by itself.
    let rest = std::iter::repeat_n([Move::Answer(Answer::Good), Move::Pass(400)], 100).flatten();
    for step in moves.into_iter().chain(rest) {
        while let Some(action) = job.next_action() {
            witness.take(action);
        }
        match step {
            Move::Answer(answer) => {
                if let Some(event) = witness.answer(&answer) {
                    job.handle(event, now);
                }
            }
            Move::Event(event) => job.handle(event, now),
            Move::Pass(seconds) => {
                let end = now.after(Duration::from_secs(seconds));
                while let Some(due) = job.poll_timeout().filter(|due| *due <= end.instant) {
                    now = now.after(due.saturating_duration_since(now.instant));
                    job.handle_timeout(now);
                    while let Some(action) = job.next_action() {
                        witness.take(action);
                    }
                }
                now = end;
            }
        }
    }
    while let Some(action) = job.next_action() {
        witness.take(action);
    }
    assert!(job.has_ended() && witness.finished.is_some(), "every job ends: {:#?}", witness.log);
    for (stage, starts) in &witness.starts {
        if stage.is_user_script() {
            assert!(*starts <= section_attempts, "{stage} started {starts} times");
        }
    }
    witness
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_job_ends_once_and_keeps_the_rules(settings in any_settings(), moves in prop::collection::vec(moves(), 0..40)) {
        live(settings, moves);
    }

    #[test]
    fn a_job_to_which_nothing_bad_happens_succeeds(mut settings in any_settings()) {
        without_limits(&mut settings);
        let witness = live(settings, vec![]);
        prop_assert!(witness.finished.is_some_and(|result| result.is_success()));
    }

    #[test]
    fn a_job_whose_step_failed_never_succeeds(mut settings in any_settings(), code in 1..255, after in prop::collection::vec(answers(), 0..10)) {
        without_limits(&mut settings);
        settings.plan = Plan { restore_cache: false, download_artifacts: false, ..settings.plan };
        settings.plan.steps.truncate(1);
        prop_assume!(!settings.plan.steps.is_empty());
        let moves = [Answer::Good, Answer::Good, Answer::Good, Answer::Exit(code)].into_iter().chain(after);
        let witness = live(settings, moves.map(Move::Answer).collect());
        let failure = witness.finished.and_then(|result| result.failure).expect("failed");
        prop_assert_eq!((failure.reason, failure.exit_code), (FailureReason::ScriptFailure, Some(code)));
    }
}
