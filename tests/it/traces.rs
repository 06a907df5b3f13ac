//! What of a job's output reaches GitLab: how much, and what must not.

use std::time::Duration;

use flotilla::sandbox::{JobStatus, SandboxJob, TraceCheck};

use crate::harness::local::LocalRig;
use crate::harness::rig::{Rig, Setup};
use crate::harness::{finish, for_each_executor};

const LIMIT_KIB: usize = 512;
const OUTPUT_BYTES: usize = 100 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_100_mb_is_cut_at_output_limit_in_little_memory() {
    for_each_executor(|executor| async move {
        let limit = format!("output_limit = {LIMIT_KIB}");
        let rig = Rig::boot(Setup { runner: &limit, ..Setup::of(executor) }).await;
        let before = peak_memory_of_a_small_job(&rig).await;
        let line = "a line of a verbose build, which nobody will ever read";
        let flood = format!("yes '{line}' | head -c {OUTPUT_BYTES} || true");
        let job = SandboxJob::new("flood", &["echo first", &flood, "exit 5"]);
        let (report, trace) = rig.run(job).await;
        assert_eq!((report.status, report.exit_code), (JobStatus::Failed, 5), "{}", tail(&trace));
        assert!(trace.contains(" first\n"));
        let notice = "Job's log exceeded limit of 524288 bytes.";
        assert!(trace.contains(notice), "{}", tail(&trace));
        assert!((LIMIT_KIB << 10..(LIMIT_KIB << 10) + 1024).contains(&report.trace_len), "{}", report.trace_len);
        let grown = rig.manager.peak_memory() - before;
        assert!(grown < 16 << 10, "the manager grew by {grown} KiB");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_larger_than_any_buffer_arrives_whole_in_little_memory() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup { runner: "output_limit = 65536", ..Setup::of(executor) }).await;
        let before = peak_memory_of_a_small_job(&rig).await;
        let (report, _) = rig.run(SandboxJob::new("many", &["seq 1 1000000"])).await;
        assert_eq!(report.status, JobStatus::Success);
        let trace = rig.sandbox.job(report.id).trace();
        let numbers = trace.split(|byte| *byte == b'\n').filter_map(|line| {
            let text = std::str::from_utf8(line.get(32..)?).ok()?;
            text.parse::<u32>().ok()
        });
        assert!(numbers.eq(1..=1_000_000), "the output is not what the script wrote");
        let grown = rig.manager.peak_memory() - before;
        assert!(grown < 16 << 10, "the manager grew by {grown} KiB");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_value_in_what_failed_the_job_reaches_neither_gitlab_nor_our_log() {
    let rig = LocalRig::start("", "[runners.custom_build_dir]\n    enabled = true").await;
    let job = SandboxJob::new("secret", &["true"])
        .masked("HUSH", "correct\"horse\\battery")
        .variable("GIT_CLONE_PATH", "/elsewhere/$HUSH");
    let (report, trace) = finish(&rig.enqueue(job)).await;
    assert_eq!(report.status, JobStatus::Failed, "{trace}");
    for text in [trace, rig.manager.log()] {
        assert!(text.contains("the GIT_CLONE_PATH=") && !text.contains("horse"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_masked_however_it_is_written() {
    const SECRET: &str = "correct-horse-battery-staple";
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        let job = SandboxJob::new("secret", &[
            "echo \"whole: $HUSH.\"",
            "printf 'in two writes: %s' \"${HUSH%-staple}\"; sleep 0.5; printf '%s.\\n' '-staple'",
            "printf 'over stderr: '; printf '%s' \"${HUSH%-staple}\" >&2; sleep 0.5; printf '%s.\\n' '-staple' >&2",
            "printf 'byte by byte: '; printf '%s' \"$HUSH\" | while read -r -n 1 byte; do printf '%s' \"$byte\"; done; echo .",
            "echo token glpat-0123456789abcdefghij.",
            "printf 'only the beginning: correct-horse-'; sleep 4; echo riding.",
        ])
        .masked("HUSH", SECRET);
        let (report, trace) = rig.run(job).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        let text = crate::harness::log::lines(&trace).join("\n");
        assert!(!trace.contains(SECRET) && !text.contains(SECRET), "{text}");
        assert!(!text.contains("glpat-0123456789"), "{text}");
        for line in ["whole: [MASKED].", "in two writes: [MASKED].", "byte by byte: [MASKED].", "only the beginning: correct-horse-riding."] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!rig.manager.log().contains(SECRET), "the secret is in the manager's log");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_output_is_at_gitlab_long_before_the_interval_is_over() {
    for_each_executor(|executor| async move {
        let rig = Rig::boot(Setup::of(executor)).await;
        rig.sandbox.change_options(|options| options.trace_update_interval = 60);
        let job = rig.enqueue(SandboxJob::new("slow", &["echo begun", "sleep 8"]));
        crate::harness::shows(&job, " begun\n").await;
        let report = job.report().expect("the job");
        let running = report.first(JobStatus::Running).expect("it runs");
        let first = report.first_trace_at.expect("it has a trace");
        assert!(first.saturating_sub(running) < Duration::from_secs(3), "{report:?}");
        assert_eq!(report.status, JobStatus::Running, "the output came before the job's end");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_update_is_repeated_until_gitlab_has_the_whole_trace() {
    let rig = LocalRig::start("", "").await;
    let slow = rig.enqueue(SandboxJob::new("slow", &["seq 1 20000"]).completes_after(2));
    let refused = rig.enqueue(SandboxJob::new("refused", &["seq 1 20000"]).refuses_trace(1));
    for (job, answers) in [(slow, [202, 202, 200].as_slice()), (refused, &[412, 200])] {
        let (report, trace) = finish(&job).await;
        assert_eq!(report.status, JobStatus::Success, "{}", tail(&trace));
        assert_eq!(report.trace_check, TraceCheck::Matches);
        let finals = report.updates.iter().filter(|update| update.state.is_final());
        assert_eq!(finals.map(|update| update.answered).collect::<Vec<_>>(), answers);
        assert!(trace.contains(" 20000\n"), "{}", tail(&trace));
    }
}

/// In KiB, with the program's own pages that any job touches.
async fn peak_memory_of_a_small_job(rig: &Rig) -> u64 {
    let (report, trace) = rig.run(SandboxJob::new("small", &["seq 1 1000"])).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    rig.manager.peak_memory()
}

fn tail(trace: &str) -> String {
    trace.lines().rev().take(5).collect::<Vec<_>>().join("\n")
}
