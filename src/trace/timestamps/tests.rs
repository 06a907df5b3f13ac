//! The form of lines, byte for byte.

use std::time::Duration;

use super::*;

/// 2026-11-21T01:07:45.859936Z and so many microseconds.
fn at(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_223_265_859_936 + micros)
}

/// Feeds writes one microsecond apart and ends the stream.
fn check(stream: Stream, writes: &[&str], expected: &str) {
    let mut timestamps = Timestamps::new(stream);
    let mut out = Vec::new();
    for (write, micros) in writes.iter().zip(0..) {
        timestamps.feed(write.as_bytes(), at(micros), &mut out);
    }
    timestamps.flush(&mut out);
    assert_eq!(String::from_utf8(out).unwrap(), expected, "{writes:?}");
}

#[test]
fn each_line_has_the_time_of_its_first_byte() {
    check(
        Stream::Stdout,
        &["one\ntw", "o\n", "", "three\n"],
        "2026-11-21T01:07:45.859936Z 01O one\n2026-11-21T01:07:45.859936Z 01O two\n2026-11-21T01:07:45.859939Z 01O three\n",
    );
}

#[test]
fn stream_numbers_are_hexadecimal_and_letters_tell_the_side() {
    check(Stream::Stderr, &["x\n"], "2026-11-21T01:07:45.859936Z 01E x\n");
    check(Stream::Service { number: 0x1f, is_stderr: true }, &["x\n"], "2026-11-21T01:07:45.859936Z 1fE x\n");
    check(Stream::Service { number: 15, is_stderr: false }, &["x\n"], "2026-11-21T01:07:45.859936Z 0fO x\n");
}

#[test]
fn section_marks_are_lines_of_their_own_that_the_next_one_continues() {
    check(
        Stream::Executor,
        &[
            "section_start:1795223265:prepare_executor\r\x1b[0K",
            "\x1b[0K\x1b[36;1mPreparing\x1b[0;m\x1b[0;m\n",
            "section_end:1795223265:prepare_executor\r\x1b[0K",
            "section_start:1795223265:step_script\r\x1b[0K",
            "next\n",
        ],
        "2026-11-21T01:07:45.859936Z 00O section_start:1795223265:prepare_executor\r\x1b[0K\n\
         2026-11-21T01:07:45.859937Z 00O+\x1b[0K\x1b[36;1mPreparing\x1b[0;m\x1b[0;m\n\
         2026-11-21T01:07:45.859938Z 00O section_end:1795223265:prepare_executor\r\x1b[0K\n\
         2026-11-21T01:07:45.859939Z 00O+section_start:1795223265:step_script\r\x1b[0K\n\
         2026-11-21T01:07:45.859940Z 00O+next\n",
    );
}

#[test]
fn a_progress_bar_is_written_at_once_and_goes_on_on_its_line() {
    check(
        Stream::Stdout,
        &["10%\r", "20%\r", "done\n", "next\n"],
        "2026-11-21T01:07:45.859936Z 01O 10%\r\n2026-11-21T01:07:45.859937Z 01O+20%\r\n2026-11-21T01:07:45.859938Z 01O+done\n2026-11-21T01:07:45.859939Z 01O next\n",
    );
}

#[test]
fn an_unfinished_line_waits_for_its_end_or_the_end_of_the_stream() {
    let mut timestamps = Timestamps::new(Stream::Stdout);
    let mut out = Vec::new();
    timestamps.feed(b"prompt> ", at(0), &mut out);
    assert!(out.is_empty());
    timestamps.flush(&mut out);
    timestamps.feed(b"new\n", at(1), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "2026-11-21T01:07:45.859936Z 01O prompt> \n2026-11-21T01:07:45.859937Z 01O new\n"
    );
}

#[test]
fn long_lines_are_written_in_pieces_that_cut_no_character() {
    let line = "é".repeat(LONGEST_PIECE);
    let mut whole = Vec::new();
    let mut timestamps = Timestamps::new(Stream::Stdout);
    timestamps.feed(format!("x{line}\n").as_bytes(), at(0), &mut whole);
    let whole = String::from_utf8(whole).unwrap();
    let pieces: Vec<&str> = whole.lines().collect();
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(|piece| piece.len() <= HEADER + LONGEST_PIECE));
    assert!(pieces[0].contains("01O x") && pieces[1].contains("01O+é") && pieces[2].contains("01O+é"));
    let text: String = pieces.iter().map(|piece| piece.get(HEADER..).unwrap()).collect();
    assert_eq!(text, format!("x{line}"));
}

#[test]
fn a_line_that_just_fits_is_no_two_lines() {
    let line = "x".repeat(LONGEST_PIECE);
    let mut out = Vec::new();
    let mut timestamps = Timestamps::new(Stream::Stdout);
    timestamps.feed(line.as_bytes(), at(0), &mut out);
    timestamps.feed(b"\nnext\n", at(1), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().map(|line| line.get(28..HEADER).unwrap()).collect::<Vec<_>>(), ["01O ", "01O "]);
}

#[test]
fn clocks_of_all_centuries_have_the_same_width() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, "2000-02-28T23:59:59.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
    ] {
        let mut out = Vec::new();
        Timestamps::new(Stream::Stdout).feed(b"\n", SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected} 01O \n"));
    }
}
