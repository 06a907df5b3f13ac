use super::*;
use crate::job::failure::{FailureReason, FaultClass};

fn timeout_line(stage: &str) -> String {
    format!(
        "Warning: {stage} could not run to completion because the timeout was exceeded. For more control over job and script \
         timeouts see: https://docs.gitlab.com/ci/runners/configure_runners/#set-script-and-after_script-timeouts"
    )
}

#[test]
fn a_good_job_runs_every_stage_once_in_order() {
    let mut driver = Driver::new(settings());
    driver.event(Event::ExecutorPrepared).rest();
    assert_eq!(
        driver.all(),
        [
            "Plain: Running",
            "[prepare_executor",
            "prepare 1",
            "prepare_executor]",
            "[prepare_script",
            "run prepare_script 1 running",
            "prepare_script]",
            "[get_sources",
            "run get_sources 1 running",
            "get_sources]",
            "[restore_cache",
            "run restore_cache 1 running",
            "restore_cache]",
            "[download_artifacts",
            "run download_artifacts 1 running",
            "download_artifacts]",
            "[step_script",
            "run step_script 1 running",
            "step_script]",
            "[step_release",
            "run step_release 1 running",
            "step_release]",
            "[after_script",
            "run after_script 1 success",
            "after_script]",
            "[archive_cache",
            "run archive_cache 1 success",
            "archive_cache]",
            "[upload_artifacts_on_success",
            "run upload_artifacts_on_success 1 success",
            "upload_artifacts_on_success]",
            "[cleanup_file_variables",
            "run cleanup_file_variables 1 success",
            "cleanup_file_variables]",
            "Info: Job succeeded",
            "finish success",
        ]
    );
}

#[test]
fn stages_with_nothing_to_do_have_no_section() {
    let mut driver = Driver::new(bare());
    driver.event(Event::ExecutorPrepared).rest();
    assert_eq!(
        driver.seen(),
        [
            "Plain: Running",
            "prepare 1",
            "run prepare_script 1 running",
            "run get_sources 1 running",
            "run step_script 1 running",
            "run cleanup_file_variables 1 success",
            "Info: Job succeeded",
            "finish success",
        ]
    );
}

#[test]
fn header_and_warnings_come_before_the_first_section_and_policy_lines_before_the_steps() {
    let warned = LifecycleSettings {
        warnings: vec!["careful".to_owned()],
        policy_lines: vec!["by policy".to_owned()],
        ..bare()
    };
    let mut driver = Driver::new(warned);
    driver.event(Event::ExecutorPrepared).rest();
    let lines = driver.all();
    assert_eq!(
        lines.first_chunk::<3>().map(|first| first.each_ref().map(String::as_str)),
        Some(["Plain: Running", "Warning: careful", "[prepare_executor"])
    );
    let at = lines.iter().position(|line| line == "Info: by policy").expect("said");
    assert_eq!((lines[at - 1].as_str(), lines[at + 1].as_str()), ("get_sources]", "[step_script"));
}

#[test]
fn an_unclassified_preparation_failure_is_tried_three_times_three_seconds_apart() {
    let mut driver = Driver::new(bare());
    driver.event(Event::ExecutorPreparationFailed(Fault::unclassified("dial: refused"))).pass(2);
    assert_eq!(
        driver.seen(),
        ["Plain: Running", "prepare 1", "Error: Preparation failed: dial: refused", "Info: Will be retried in 3s ..."]
    );
    driver.pass(1).event(Event::ExecutorPreparationFailed(Fault::unclassified("again"))).pass(3);
    driver.event(Event::ExecutorPreparationFailed(Fault::unclassified("at last")));
    assert_eq!(
        driver.seen(),
        [
            "prepare 2",
            "Error: Preparation failed: again",
            "Info: Will be retried in 3s ...",
            "prepare 3",
            "Error: Preparation failed: at last",
            "Error: Job failed (system failure): at last",
            "finish failed runner_system_failure",
        ]
    );
}

#[test]
fn a_classified_preparation_failure_ends_the_job_at_once() {
    for (reason, line) in [
        (FailureReason::RunnerConfigurationError, "Error: Job failed: no such image"),
        (FailureReason::ImagePullFailure, "Error: Job failed: no such image"),
        (FailureReason::RunnerExternalDependencyFailure, "Error: Job failed: no such image"),
        (FailureReason::RunnerSystemFailure, "Error: Job failed (system failure): no such image"),
    ] {
        let mut driver = Driver::new(bare());
        driver.event(Event::ExecutorPreparationFailed(Fault::of(reason, "no such image")));
        assert_eq!(driver.seen(), ["Plain: Running", "prepare 1", line, &format!("finish failed {}", reason.as_str())]);
    }
}

#[test]
fn a_refused_job_ends_at_once_with_its_code() {
    let class = FaultClass::Coded { reason: FailureReason::RunnerSystemFailure, exit_code: 3 };
    let mut driver = Driver::new(bare());
    driver.event(Event::ExecutorPreparationFailed(Fault { message: "unsupported".to_owned(), class }));
    assert_eq!(
        driver.seen().split_off(2),
        ["Error: Job failed (system failure): unsupported", "finish failed runner_system_failure 3"]
    );
}

#[test]
fn a_second_try_may_succeed() {
    let mut driver = Driver::new(bare());
    driver
        .event(Event::ExecutorPreparationFailed(Fault::unclassified("x")))
        .pass(3)
        .event(Event::ExecutorPrepared)
        .rest();
    assert_eq!(driver.seen().last().map(String::as_str), Some("finish success"));
}

#[test]
fn a_failing_prepare_script_ends_the_job_without_cleanup() {
    let mut driver = Driver::at(settings(), "prepare_script");
    driver.exit(1);
    assert_eq!(
        driver.seen(),
        [
            "Error: Job failed: prepare environment: exit code 1. Check https://docs.gitlab.com/runner/shells/#shell-profile-loading for \
             more information",
            "finish failed script_failure 1",
        ]
    );
}

#[test]
fn failures_before_the_steps_skip_steps_and_after_script_but_not_what_follows() {
    for stage in ["get_sources", "restore_cache", "download_artifacts"] {
        let mut driver = Driver::at(settings(), stage);
        driver.exit(128).rest();
        assert_eq!(
            driver.seen(),
            [
                "run archive_cache_on_failure 1 running",
                "run upload_artifacts_on_failure 1 running",
                "run cleanup_file_variables 1 running",
                "Error: Job failed: exit code 128",
                "finish failed script_failure 128",
            ],
            "{stage}"
        );
    }
}

#[test]
fn a_failing_step_skips_the_other_steps_and_runs_the_failure_variants() {
    let mut driver = Driver::at(settings(), "step_script");
    driver.exit(2).rest();
    assert_eq!(
        driver.seen(),
        [
            "run after_script 1 failed",
            "run archive_cache_on_failure 1 failed",
            "run upload_artifacts_on_failure 1 failed",
            "run cleanup_file_variables 1 failed",
            "Error: Job failed: exit code 2",
            "finish failed script_failure 2",
        ]
    );
}

#[test]
fn an_error_of_the_system_in_a_step_is_a_system_failure() {
    let mut driver = Driver::at(bare(), "step_script");
    driver.event(Event::StageFailed(Fault::unclassified("engine: broken pipe"))).rest();
    assert_eq!(
        driver.seen().split_off(1),
        ["Error: Job failed (system failure): engine: broken pipe", "finish failed runner_system_failure"]
    );
}

#[test]
fn after_script_errors_count_only_where_asked_for() {
    let mut driver = Driver::at(settings(), "after_script");
    driver.exit(4).rest();
    let seen = driver.seen();
    assert_eq!(seen[0], "Warning: after_script failed, but job will continue unaffected: exit code 4");
    assert_eq!(seen.last().map(String::as_str), Some("finish success"));

    let strict = LifecycleSettings { after_script_ignore_errors: false, ..settings() };
    let mut driver = Driver::at(strict.clone(), "after_script");
    driver.exit(4).rest();
    let seen = driver.seen();
    assert_eq!(seen[0], "run archive_cache_on_failure 1 success");
    assert_eq!(seen.last().map(String::as_str), Some("finish failed script_failure 4"));

    let mut driver = Driver::at(strict, "step_script");
    driver.exit(2).exit(4).rest();
    assert_eq!(
        driver.seen().last().map(String::as_str),
        Some("finish failed script_failure 2"),
        "the first error counts"
    );
}

#[test]
fn a_failing_archive_or_upload_fails_a_good_job_and_the_archive_counts_first() {
    for (archive, upload, last) in [
        (0, 0, "finish success"),
        (5, 0, "finish failed script_failure 5"),
        (0, 6, "finish failed script_failure 6"),
        (5, 6, "finish failed script_failure 5"),
    ] {
        let mut driver = Driver::at(settings(), "archive_cache");
        for code in [archive, upload] {
            if code == 0 {
                driver.ok()
            } else {
                driver.exit(code)
            };
        }
        driver.rest();
        let seen = driver.seen();
        assert_eq!(seen[0], "run upload_artifacts_on_success 1 success", "a failed cache does not change the variant");
        assert_eq!(seen.last().map(String::as_str), Some(last));
    }
}

#[test]
fn a_failing_cleanup_changes_nothing() {
    let mut driver = Driver::at(settings(), "cleanup_file_variables");
    driver.exit(1);
    assert_eq!(driver.seen(), ["Info: Job succeeded", "finish success"]);
}

#[test]
fn attempts_are_sections_of_their_own_with_growing_pauses() {
    let attempts = Attempts { restore_cache: 3, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..settings() }, "restore_cache");
    driver.exit(1).pass(4);
    assert_eq!(driver.all(), ["restore_cache]", "Warning: Retrying..."]);
    driver.pass(1);
    assert_eq!(driver.all(), ["[restore_cache", "run restore_cache 2 running"]);
    driver.exit(1).pass(9);
    assert_eq!(driver.seen(), ["Warning: Retrying..."]);
    driver.pass(1).exit(1);
    assert_eq!(driver.seen(), ["run restore_cache 3 running", "run archive_cache_on_failure 1 running"]);
}

#[test]
fn pauses_double_to_five_minutes_or_without_the_flag_to_five_seconds() {
    for (exponential, pauses) in [(true, [5, 10, 20, 40, 80, 160, 300, 300, 300]), (false, [1, 2, 4, 5, 5, 5, 5, 5, 5])]
    {
        let attempts = Attempts { download_artifacts: 10, ..settings().attempts };
        let patient = LifecycleSettings { exponential_backoff: exponential, attempts, ..settings() };
        let mut driver = Driver::at(patient, "download_artifacts");
        for pause in pauses {
            driver.exit(1).pass(pause - 1);
            assert_eq!(driver.running(), None, "{pause}");
            driver.pass(1);
            assert_eq!(driver.running().as_deref(), Some("download_artifacts"), "{pause}");
        }
    }
}

#[test]
fn only_the_second_attempt_at_the_sources_begins_with_a_clean_worktree() {
    let attempts = Attempts { get_sources: 3, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..bare() }, "get_sources");
    driver.exit(1).pass(5).exit(9).exit(1).pass(10).exit(1).rest();
    assert_eq!(
        driver.seen(),
        [
            "Warning: Retrying...",
            "run clear_worktree 1 running",
            "run get_sources 2 running",
            "Warning: Retrying...",
            "run get_sources 3 running",
            "run cleanup_file_variables 1 running",
            "Error: Job failed: exit code 1",
            "finish failed script_failure 1",
        ]
    );
}

#[test]
fn a_vanished_container_is_replaced_only_where_the_job_opted_in() {
    let gone = || Event::StageFailed(Fault::environment_gone("Container \"c\" not found or removed."));
    let mut driver = Driver::at(bare(), "step_script");
    driver.event(gone()).rest();
    assert_eq!(driver.seen().last().map(String::as_str), Some("finish failed runner_system_failure"));

    let attempts = Attempts { section: 2, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..bare() }, "step_script");
    driver.event(gone());
    assert_eq!(
        driver.all(),
        ["Warning: Container \"c\" not found or removed. Will retry...", "run step_script 2 running"],
        "in the same section"
    );
    driver.event(gone()).rest();
    assert_eq!(driver.seen().last().map(String::as_str), Some("finish failed runner_system_failure"));
}

#[test]
fn starts_of_a_stage_are_numbered_without_a_repetition() {
    let attempts = Attempts { get_sources: 2, section: 2, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..bare() }, "get_sources");
    driver.event(Event::StageFailed(Fault::environment_gone("gone"))).exit(1).pass(5).ok();
    driver.event(Event::StageFailed(Fault::environment_gone("gone")));
    let runs: Vec<String> = driver.seen().into_iter().filter(|line| line.starts_with("run")).collect();
    assert_eq!(
        runs,
        [
            "run get_sources 2 running",
            "run clear_worktree 1 running",
            "run get_sources 3 running",
            "run get_sources 4 running"
        ]
    );
}

#[test]
fn canceling_before_the_steps_ends_the_job() {
    for stage in ["prepare_script", "get_sources", "restore_cache", "download_artifacts"] {
        let mut driver = Driver::at(settings(), stage);
        driver.event(Event::CancelRequested);
        assert_eq!(driver.seen(), ["stop"], "{stage}");
        driver.exit(1);
        assert_eq!(driver.seen(), ["Error: Job failed: canceled", "finish canceled job_canceled"], "{stage}");
    }
    let mut driver = Driver::new(settings());
    driver.event(Event::CancelRequested).event(Event::ExecutorPrepared);
    assert_eq!(
        driver.seen(),
        [
            "Plain: Running",
            "prepare 1",
            "stop preparation",
            "Error: Job failed: canceled",
            "finish canceled job_canceled"
        ]
    );
}

#[test]
fn canceling_during_the_steps_runs_after_script_and_the_failure_variants() {
    let mut driver = Driver::at(settings(), "step_script");
    driver.event(Event::CancelRequested).event(Event::CancelRequested).exit(143).rest();
    assert_eq!(
        driver.seen(),
        [
            "stop",
            "Warning: script canceled externally (UI, API)",
            "run after_script 1 canceled",
            "run archive_cache_on_failure 1 canceled",
            "run upload_artifacts_on_failure 1 canceled",
            "run cleanup_file_variables 1 canceled",
            "Error: Job failed: canceled",
            "finish failed job_canceled",
        ]
    );
}

#[test]
fn canceling_after_the_steps_changes_nothing() {
    for stage in ["after_script", "archive_cache", "upload_artifacts_on_success", "cleanup_file_variables"] {
        let mut driver = Driver::at(settings(), stage);
        driver.event(Event::CancelRequested);
        assert_eq!(driver.all(), Vec::<String>::new(), "{stage}");
        driver.rest();
        assert_eq!(driver.seen().last().map(String::as_str), Some("finish success"), "{stage}");
    }
}

#[test]
fn what_ends_the_whole_job_skips_everything_from_any_stage() {
    let events: [(Event, &str, &str); 3] = [
        (Event::Aborted, "Error: Job failed: canceled", "finish canceled job_canceled"),
        (
            Event::Interrupted { signal: "terminated".to_owned() },
            "Error: Job failed: aborted: terminated",
            "finish terminated runner_interrupted",
        ),
        (
            Event::InstanceLost { cause: "instance i-1 is gone".to_owned() },
            "Error: Job failed (system failure): instance i-1 is gone",
            "finish failed runner_system_failure",
        ),
    ];
    for stage in [
        "prepare_script",
        "get_sources",
        "restore_cache",
        "step_script",
        "after_script",
        "archive_cache",
        "upload_artifacts_on_success",
    ] {
        let moves = ["prepare_script", "get_sources", "restore_cache"].contains(&stage);
        for (event, line, last) in &events {
            if moves && matches!(event, Event::InstanceLost { .. }) {
                continue;
            }
            let mut driver = Driver::at(settings(), stage);
            driver.event(event.clone());
            let stop = if matches!(event, Event::InstanceLost { .. }) { "abandon" } else { "stop" };
            if stop == "stop" {
                driver.exit(1);
            }
            assert_eq!(driver.all(), [stop, &format!("{stage}]"), line, last], "{stage}");
        }
    }
}

#[test]
fn a_job_whose_instance_is_lost_before_its_script_moves_to_another_while_tries_are_left() {
    for stage in ["prepare_script", "get_sources", "restore_cache", "download_artifacts"] {
        let mut driver = Driver::at(settings(), stage);
        for attempt in 2..=PREPARE_ATTEMPTS {
            driver.event(Event::InstanceLost { cause: "gone".to_owned() });
            let moved = [
                "abandon",
                &format!("{stage}]"),
                "Warning: The instance is lost: gone",
                "Info: Nothing of the script has run, so the job moves to another instance.",
                "[prepare_executor",
                &format!("prepare {attempt}"),
            ];
            assert_eq!(driver.all(), moved, "{stage}");
            driver.event(Event::ExecutorPrepared);
            assert_eq!(driver.seen(), [format!("run prepare_script {attempt} running")]);
            while driver.running().as_deref() != Some(stage) {
                driver.ok();
            }
            driver.lines.clear();
        }
        driver.event(Event::InstanceLost { cause: "gone".to_owned() });
        assert_eq!(driver.seen().last().map(String::as_str), Some("finish failed runner_system_failure"), "{stage}");
    }
}

#[test]
fn a_pause_between_attempts_at_the_sources_ends_with_the_instance() {
    let attempts = Attempts { get_sources: 3, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..settings() }, "get_sources");
    driver.exit(1).event(Event::InstanceLost { cause: "gone".to_owned() });
    assert_eq!(driver.seen().last().map(String::as_str), Some("prepare 2"));
}

#[test]
fn the_result_is_known_before_the_cleanup() {
    for event in [
        Event::InstanceLost { cause: "gone".to_owned() },
        Event::Interrupted { signal: "terminated".to_owned() },
        Event::CancelRequested,
    ] {
        let mut driver = Driver::at(settings(), "cleanup_file_variables");
        driver.event(event).ok();
        assert_eq!(driver.seen().last().map(String::as_str), Some("finish success"));
    }
    let mut driver = Driver::at(settings(), "cleanup_file_variables");
    driver.event(Event::Aborted).ok();
    assert_eq!(driver.seen().last().map(String::as_str), Some("finish canceled job_canceled"));
}

#[test]
fn an_abort_outranks_a_cancel_that_is_under_way() {
    let mut driver = Driver::at(settings(), "step_script");
    driver.event(Event::CancelRequested).event(Event::Aborted).exit(1);
    assert_eq!(driver.seen(), ["stop", "Error: Job failed: canceled", "finish canceled job_canceled"]);
}

#[test]
fn a_loss_while_stopping_waits_no_longer() {
    let mut driver = Driver::at(settings(), "step_script");
    driver.event(Event::Interrupted { signal: "interrupt".to_owned() });
    driver.event(Event::InstanceLost { cause: "gone".to_owned() });
    assert_eq!(
        driver.seen(),
        ["stop", "abandon", "Error: Job failed: aborted: interrupt", "finish terminated runner_interrupted"]
    );
}

#[test]
fn pauses_end_at_once_when_the_job_does() {
    let attempts = Attempts { get_sources: 2, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..settings() }, "get_sources");
    driver.exit(1).event(Event::CancelRequested);
    assert_eq!(driver.seen(), ["Warning: Retrying...", "Error: Job failed: canceled", "finish canceled job_canceled"]);
    let mut driver = Driver::new(bare());
    driver.event(Event::ExecutorPreparationFailed(Fault::unclassified("x"))).event(Event::Aborted);
    assert_eq!(
        driver.all().split_off(5),
        ["prepare_executor]", "Error: Job failed: canceled", "finish canceled job_canceled"]
    );
}

#[test]
fn the_job_timeout_ends_everything() {
    let mut driver = Driver::at(settings(), "step_script");
    driver.pass(3599);
    assert_eq!(driver.all(), Vec::<String>::new());
    driver.pass(1).exit(143);
    assert_eq!(
        driver.seen(),
        [
            "stop",
            &timeout_line("step_script"),
            "Error: Job failed: execution took longer than 1h0m0s seconds",
            "finish timedout job_execution_timeout",
        ]
    );
}

#[test]
fn the_prepare_timeout_covers_the_tries_and_prepare_script() {
    let line = "Error: Job failed: prepare timeout: exceeded timeout of 5m0s";
    let last = "finish failed job_execution_timeout";
    let mut driver = Driver::new(settings());
    driver.pass(300).event(Event::ExecutorPreparationFailed(Fault::unclassified("stopped")));
    assert_eq!(driver.seen().split_off(2), ["stop preparation", &timeout_line("prepare_executor"), line, last]);

    let mut driver = Driver::new(settings());
    driver.pass(200).event(Event::ExecutorPrepared).pass(100).exit(1);
    assert_eq!(
        driver.seen().split_off(2),
        ["run prepare_script 1 running", "stop", &timeout_line("prepare_script"), line, last]
    );
}

#[test]
fn the_sources_timeout_covers_all_attempts_and_nothing_follows() {
    let attempts = Attempts { get_sources: 5, ..settings().attempts };
    let mut driver = Driver::at(LifecycleSettings { attempts, ..settings() }, "get_sources");
    driver.pass(590).exit(1).pass(5).ok().pass(5).exit(1);
    assert_eq!(
        driver.seen(),
        [
            "Warning: Retrying...",
            "run clear_worktree 1 running",
            "run get_sources 2 running",
            "stop",
            &timeout_line("get_sources"),
            "Error: Job failed: get sources timeout: exceeded timeout of 10m0s",
            "finish failed job_execution_timeout",
        ]
    );
}

#[test]
fn the_script_timeout_covers_all_steps_and_runs_after_script() {
    let script_timeout = Some(Duration::from_secs(60));
    let mut driver = Driver::at(LifecycleSettings { script_timeout, ..settings() }, "step_script");
    driver.pass(50).ok().pass(10).exit(143).rest();
    assert_eq!(
        driver.seen(),
        [
            "run step_release 1 running",
            "stop",
            &timeout_line("step_release"),
            "run after_script 1 timedout",
            "run archive_cache_on_failure 1 timedout",
            "run upload_artifacts_on_failure 1 timedout",
            "run cleanup_file_variables 1 timedout",
            "Error: Job failed: script timeout: context deadline exceeded",
            "finish failed job_execution_timeout",
        ]
    );
}

#[test]
fn after_script_has_its_own_timeout() {
    let mut driver = Driver::at(settings(), "after_script");
    driver.pass(300).exit(143).rest();
    assert_eq!(
        driver.seen(),
        [
            "stop",
            &timeout_line("after_script"),
            "Warning: after_script failed, but job will continue unaffected: context deadline exceeded",
            "run archive_cache 1 success",
            "run upload_artifacts_on_success 1 success",
            "run cleanup_file_variables 1 success",
            "Info: Job succeeded",
            "finish success",
        ]
    );
}

#[test]
fn a_stage_that_does_not_end_is_left_behind() {
    let mut driver = Driver::at(bare(), "step_script");
    driver.event(Event::Aborted).pass(300);
    assert_eq!(
        driver.seen(),
        [
            "stop",
            "Warning: Timed out waiting for the build to finish",
            "abandon",
            "Error: Job failed: canceled",
            "finish canceled job_canceled",
        ]
    );
}

#[test]
fn the_job_timeout_still_holds_while_a_canceled_script_ends() {
    let mut driver = Driver::at(settings(), "step_script");
    driver.pass(3590).event(Event::CancelRequested).pass(10).exit(1);
    assert_eq!(driver.seen().last().map(String::as_str), Some("finish timedout job_execution_timeout"));
}

#[test]
fn late_and_foreign_events_change_nothing() {
    let mut driver = Driver::at(bare(), "step_script");
    driver.event(Event::ExecutorPrepared).event(Event::ExecutorPreparationFailed(Fault::exit(1)));
    assert_eq!(driver.all(), Vec::<String>::new());
    driver.rest();
    driver.all();
    driver.ok().exit(1).event(Event::Aborted).event(Event::InstanceLost { cause: String::new() }).pass(10_000);
    assert_eq!(driver.all(), Vec::<String>::new());
    assert_eq!(driver.job.poll_timeout(), None);
}
