//! What the engine sends on attached streams, and names of images.

use std::io::Cursor;

use futures_util::FutureExt;
use tokio::io::AsyncReadExt;

use super::multiplexed::Multiplexed;
use crate::config::types::image_reference::ImageReference;
use crate::fuzz::run;

#[test]
fn no_frames_of_an_engine_make_reading_them_panic() {
    let seeds = [
        &b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c"[..],
        b"\x02\0\0\0\0\0\0\0\x01\0\0\0\xff\xff\xff\xffx",
        b"\x01\0\0",
    ];
    run("engine frames", &seeds, |input| {
        let mut out = Vec::new();
        let mut stream = Multiplexed::new(Cursor::new(input.to_vec()));
        drop(stream.read_to_end(&mut out).now_or_never().expect("all bytes are there"));
        assert!(out.len() <= input.len(), "more came out than went in");
    });
}

#[test]
fn no_name_of_an_image_makes_parsing_it_panic() {
    let seeds = [&b"alpine"[..], b"localhost:5000/a/b:1", b"a/b@sha256:00", b"a/../..\\images:latest", b":@/"];
    run("image names", &seeds, |input| {
        drop(String::from_utf8_lossy(input).parse::<ImageReference>());
    });
}
