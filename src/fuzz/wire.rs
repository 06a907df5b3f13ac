//! What an agent sends, and the files of a stage's folder, which the job can replace.

use bytes::BytesMut;

use super::run;
use crate::detached::wire::{self, Answer, Frame};
use crate::helper::stage::folder::Folder;

#[test]
fn no_bytes_of_an_agent_make_taking_frames_panic() {
    let mut sent = BytesMut::new();
    wire::put_answer(&mut sent, &Answer::Started { id: 1 }).unwrap();
    wire::put_output(&mut sent, 1, 0, b"a line\n").unwrap();
    let lost = Answer::Lost { id: 1, reason: "it went".to_owned(), machine_is_full: false };
    wire::put_answer(&mut sent, &lost).unwrap();
    run("frames", &[&sent, b"\0\0\0\x01\x09", b"\0\0\0\x02\x03\0"], |input| {
        let mut buffer = BytesMut::from(input);
        let mut taken = 0;
        while let Ok(Some(frame)) = wire::take_from_agent(&mut buffer) {
            if let Frame::Output { bytes, .. } = frame {
                taken += bytes.len();
            }
        }
        assert!(taken + buffer.len() <= input.len(), "more came out than went in");
    });
}

#[test]
fn no_content_of_a_stage_folder_makes_reading_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Folder::at(folder.path());
    let seeds =
        [&br#"{"Exited":{"Code":3}}"#[..], br#"{"exited":{"signal":9}}"#, b"4096", b"18446744073709551616", b"-1"];
    run("stage files", &seeds, |input| {
        std::fs::write(folder.path().join("exit"), input).unwrap();
        std::fs::write(folder.path().join("released"), input).unwrap();
        drop(stage.read_ending());
        drop(stage.released());
    });
}
