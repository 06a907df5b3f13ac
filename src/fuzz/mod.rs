//! Fuzzing of everything that reads outside bytes. Each target is a function of bytes that must not panic, whatever the
//! bytes are, and may assert what must hold of its result.
//!
//! [`run`] changes the target's seeds at random for a second, or for `FLOTILLA_FUZZ_SECONDS` (`tests/long` sets
//! minutes). A failure prints the shortest input that it finds, in hexadecimal: add those bytes to the target's seeds,
//! so that they are tried first from then on. Targets of private parsers are beside the parser, in files called
//! `fuzz.rs`; the others are here.

mod config;
mod job;
mod trace;
mod wire;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::time;

/// The time for one target where the environment does not set it.
const DEFAULT_SECONDS: u64 = 1;

/// The longest input. Larger ones find little that smaller ones do not.
const LONGEST: usize = 16 << 10;

/// Changes between a seed and the input made of it.
const MOST_CHANGES: u32 = 8;

/// Bytes that parsers treat specially.
const SPECIAL: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"\"",
    b"'",
    b"\\",
    b"/",
    b"../",
    b":",
    b"@",
    b"=",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"#",
    b"-1",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"1e400",
    b"null",
    b"true",
    b"\"\"",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\\u0000",
    b"\\ud800",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"*",
    b"%2f",
    b"\x1b[0K",
];

/// Gives the target its seeds, then changed ones until the time is over.
///
/// # Panics
/// The target does, with some input; the shortest input found is in the message.
pub(crate) fn run(name: &str, seeds: &[&[u8]], target: impl Fn(&[u8])) {
    for seed in seeds {
        check(name, seed, &target);
    }
    let seconds = std::env::var_os("FLOTILLA_FUZZ_SECONDS").and_then(|text| text.to_str()?.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS));
    // Another start each time finds more over the runs; the failing input itself is printed.
    let mut random = StdRng::seed_from_u64(rand::random());
    let start = time::now().instant;
    let mut runs = 0_u64;
    while time::now().instant.duration_since(start) < limit {
        for _ in 0..16 {
            check(name, &changed(seeds, &mut random), &target);
        }
        runs += 16;
    }
    println!("fuzz {name}: {runs} runs in {limit:?}");
}

fn check(name: &str, input: &[u8], target: &impl Fn(&[u8])) {
    let Err(failure) = catch_unwind(AssertUnwindSafe(|| target(input))) else { return };
    let shortest = shortened(input, target);
    let hex = hex::encode(&shortest);
    panic!("fuzz {name}: {} with {hex}, which is {:?}", words(&*failure), String::from_utf8_lossy(&shortest));
}

fn words(failure: &(dyn Any + Send)) -> &str {
    let text = failure.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| failure.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

/// Takes pieces out, ever smaller ones, for as long as the target still panics.
fn shortened(input: &[u8], target: &impl Fn(&[u8])) -> Vec<u8> {
    let mut shortest = input.to_vec();
    let mut piece = shortest.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < shortest.len() {
            let mut shorter = shortest.clone();
            shorter.drain(at..(at + piece).min(shortest.len()));
            if catch_unwind(AssertUnwindSafe(|| target(&shorter))).is_err() {
                shortest = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    shortest
}

/// A seed, or noise, with a few changes.
fn changed(seeds: &[&[u8]], random: &mut StdRng) -> Vec<u8> {
    let mut input = match seeds.get(random.random_range(0..=seeds.len())) {
        Some(seed) => seed.to_vec(),
        None => (0..random.random_range(0..64)).map(|_| random.random()).collect(),
    };
    for _ in 0..random.random_range(1..=MOST_CHANGES) {
        change(&mut input, seeds, random);
    }
    input.truncate(LONGEST);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[&[u8]], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    let end = (at + random.random_range(0..=32_usize)).min(input.len());
    match random.random_range(0..7) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.random();
            }
        }
        2 => drop(input.drain(at..end)),
        3 => {
            let copy = input[at..end].to_vec();
            drop(input.splice(at..at, copy));
        }
        4 => input.truncate(at),
        5 if !seeds.is_empty() => {
            let other = seeds[random.random_range(0..seeds.len())];
            let from = random.random_range(0..=other.len());
            drop(input.splice(at..end, other[from..].iter().copied()));
        }
        _ => {
            let special = SPECIAL[random.random_range(0..SPECIAL.len())];
            drop(input.splice(at..end, special.iter().copied()));
        }
    }
}

#[test]
fn a_panicking_target_fails_with_the_shortest_input() {
    let target = |input: &[u8]| assert!(!input.windows(2).any(|pair| pair == b"ab"), "found");
    let failure = catch_unwind(|| check("example", b"xxxxxxabyyyyyyy", &target)).unwrap_err();
    assert_eq!(words(&*failure), "fuzz example: found with 6162, which is \"ab\"");
}

#[test]
fn inputs_differ_from_the_seeds_and_reach_a_special_value() {
    let mut random = StdRng::seed_from_u64(1);
    let inputs: Vec<_> = (0..2_000).map(|_| changed(&[b"seed one", b"another"], &mut random)).collect();
    assert!(inputs.iter().any(|input| input.windows(3).any(|part| part == b"../")));
    assert!(inputs.iter().filter(|input| input.as_slice() != b"seed one").count() > 1_900);
}
