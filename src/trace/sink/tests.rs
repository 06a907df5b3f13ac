//! What a trace looks like, and when its uploader is woken.

use std::time::Duration;

use super::*;

fn settings(timestamps: bool) -> TraceSettings {
    TraceSettings {
        folder: std::env::temp_dir(),
        limit: 1 << 20,
        timestamps,
        sections: true,
        masks: Masks::with_default_prefixes(true),
    }
}

fn sink() -> Sink {
    Sink::new(settings(false))
}

fn text(sink: &Sink) -> String {
    String::from_utf8(sink.lock().buffer.window(0, 1 << 20).read().unwrap().to_vec()).unwrap()
}

/// The trace with each section's time as `T`.
fn without_times(text: &str) -> String {
    let mut parts = text.split("section_");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |out, part| {
        let (side, rest) = part.split_once(':').unwrap();
        let (time, rest) = rest.split_once(':').unwrap();
        assert!(time.parse::<u64>().unwrap() > 1_700_000_000);
        format!("{out}section_{side}:T:{rest}")
    })
}

#[test]
fn lines_and_sections_look_as_users_know_them() {
    let sink = sink();
    sink.plain("Running with gitlab-runner 19.4.0 (x)");
    sink.section_start("prepare_executor");
    sink.headline("Preparing the \"instance\" executor");
    sink.section_end("prepare_executor");
    sink.warning("careful");
    sink.error("Job failed: exit code 3");
    sink.info("Job succeeded");
    assert_eq!(
        without_times(&text(&sink)),
        "\x1b[0KRunning with gitlab-runner 19.4.0 (x)\x1b[0;m\n\
         section_start:T:prepare_executor\r\x1b[0K\x1b[0K\x1b[36;1mPreparing the \"instance\" executor\x1b[0;m\x1b[0;m\n\
         section_end:T:prepare_executor\r\x1b[0K\x1b[0;33mWARNING: careful\x1b[0;m\n\
         \x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m\n\
         \x1b[32;1mJob succeeded\x1b[0;m\n"
    );
}

#[test]
fn sections_are_left_out_where_the_server_does_not_know_them() {
    let sink = Sink::new(TraceSettings { sections: false, ..settings(false) });
    sink.section_start("x");
    sink.headline("X");
    sink.section_end("x");
    assert_eq!(text(&sink), "\x1b[0K\x1b[36;1mX\x1b[0;m\x1b[0;m\n");
}

#[test]
fn streams_hold_back_by_themselves_and_keep_one_order() {
    let sink = sink();
    sink.add_masks(["secret"]);
    sink.write(Stream::Stdout, b"out sec");
    sink.write(Stream::Stderr, b"err\n");
    sink.plain("line");
    sink.write(Stream::Stdout, b"ret \xc3");
    sink.write(Stream::Stderr, b"\xa9\n");
    sink.write(Stream::Stdout, b"\xa9\n");
    assert_eq!(text(&sink), "out err\n\x1b[0Kline\x1b[0;m\n[MASKED] \u{fffd}\né\n");
}

#[test]
fn the_end_of_a_stage_brings_out_what_was_held_back() {
    let sink = sink();
    sink.add_masks(["secret"]);
    sink.flush_stream(Stream::Stdout);
    sink.write(Stream::Stdout, b"sec");
    assert_eq!(text(&sink), "");
    sink.flush_stream(Stream::Stdout);
    sink.write(Stream::Stdout, b"re");
    assert_eq!(text(&sink), "sec");
    sink.write(Stream::Stdout, b"Xt");
    assert_eq!(text(&sink), "secreXt");
}

#[test]
fn of_a_secret_that_is_cut_by_a_stages_end_the_rest_is_masked() {
    let sink = sink();
    sink.add_masks(["secret"]);
    sink.write(Stream::Stdout, b"a sec");
    sink.flush_stream(Stream::Stdout);
    sink.flush_stream(Stream::Stderr);
    sink.plain("after_script");
    sink.write(Stream::Stderr, b"re");
    sink.write(Stream::Stdout, b"t b\n");
    assert_eq!(text(&sink), "a sec\x1b[0Kafter_script\x1b[0;m\n[MASKED][MASKED] b\n");
}

#[test]
fn secret_that_is_cut_over_two_streams_is_masked_with_and_without_timestamps() {
    for timestamps in [false, true] {
        for (writes, expected) in [
            (&[(Stream::Stdout, "a sec"), (Stream::Stderr, "ret b\n")][..], "a [MASKED] b\n[MASKED]"),
            (&[(Stream::Stderr, "sec"), (Stream::Stdout, "re"), (Stream::Stderr, "t\n")], "[MASKED][MASKED]\n"),
            (&[(Stream::Stdout, "sec"), (Stream::Service { number: 15, is_stderr: false }, "ret\n")], "ret\nsec"),
        ] {
            let sink = Sink::new(settings(timestamps));
            sink.add_masks(["secret"]);
            writes.iter().for_each(|(stream, text)| sink.write(*stream, text.as_bytes()));
            sink.close();
            let text = text(&sink);
            if timestamps {
                assert_eq!(text.contains("sec"), expected.contains("sec"), "{text}");
            } else {
                assert_eq!(text, expected);
            }
        }
    }
}

#[test]
fn manager_lines_are_masked_and_leave_nothing_behind() {
    let sink = sink();
    sink.add_masks(["\u{1b}[0;m\nx", "name"]);
    sink.plain("file name");
    assert_eq!(text(&sink), "\x1b[0Kfile [MASKED]\x1b[0;m\n");
}

#[test]
fn with_timestamps_each_line_has_its_header() {
    let sink = Sink::new(settings(true));
    sink.section_start("step_script");
    sink.headline("Executing");
    sink.write(Stream::Stdout, b"hello\nwor");
    sink.write(Stream::Stderr, b"oops\n");
    sink.flush_stream(Stream::Stdout);
    let lines: Vec<String> = text(&sink).lines().map(|line| line.get(28..).unwrap().to_owned()).collect();
    assert!(lines[0].starts_with("00O section_start:"));
    assert_eq!(lines[1..], ["00O+\x1b[0K\x1b[36;1mExecuting\x1b[0;m\x1b[0;m", "01O hello", "01E oops", "01O wor"]);
}

#[test]
fn nothing_is_taken_after_the_end() {
    let sink = sink();
    sink.add_masks(["secret"]);
    sink.write(Stream::Stdout, b"sec");
    sink.close();
    let progress = sink.progress(0);
    sink.write(Stream::Stdout, b"later\n");
    sink.plain("later");
    assert_eq!((text(&sink).as_str(), sink.bytes_written()), ("sec", 3));
    assert_eq!(progress.checksum, crc32fast::hash(b"sec"));
    assert_eq!(sink.progress(0), progress);
}

#[test]
fn the_uploader_is_woken_when_it_has_seen_all_and_at_the_scripts_first_byte() {
    let sink = sink();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let woken =
        || runtime.block_on(async { tokio::time::timeout(Duration::from_millis(1), sink.changed()).await.is_ok() });
    assert!(!woken());
    sink.progress(0);
    sink.plain("header");
    assert!(woken(), "the uploader had seen all");
    sink.plain("more");
    assert!(!woken(), "the uploader knows that something waits");
    sink.script_output_begins();
    sink.plain("Executing");
    assert!(!woken());
    sink.write(Stream::Stdout, b"$ echo\n");
    assert!(woken());
    assert!(sink.progress(0).is_prompt);
    sink.write(Stream::Stdout, b"more\n");
    assert!(!woken());
}

#[test]
fn the_first_bytes_and_the_first_two_of_the_script_are_prompt() {
    let sink = sink();
    let take_window = || {
        let was_prompt = sink.progress(0).is_prompt;
        sink.window(0, 1);
        was_prompt
    };
    sink.plain("header");
    assert_eq!([take_window(), take_window()], [true, false]);
    sink.script_output_begins();
    assert!(!take_window());
    sink.write(Stream::Stderr, b"+ echo\n");
    assert_eq!([take_window(), take_window(), take_window()], [true, true, false]);
}

#[test]
fn a_quiet_trace_takes_little_memory() {
    let sink = sink();
    for _ in 0..20 {
        sink.plain("a usual line of a usual length in a usual trace");
    }
    assert!(sink.lock().buffer.capacity() <= 4 * 1024);
    sink.write(Stream::Stdout, &[b'x'; 1_000_000]);
    assert!(sink.lock().buffer.capacity() <= 128 * 1024);
}
