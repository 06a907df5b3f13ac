//! What a job prints, on its way through the masker.

use super::run;
use crate::trace::{CompiledMasks, Masker, Masks};

/// Secrets that overlap, repeat themselves, and are parts of each other.
const SECRETS: [&str; 4] = ["hunter2hunter2", "abababab", "bababx", "pass\nword"];

#[test]
fn no_output_gets_a_secret_through_the_masker_however_it_is_cut() {
    let mut masks = Masks::with_default_prefixes(true);
    for secret in SECRETS {
        masks.add_phrase(secret);
    }
    let compiled = CompiledMasks::new(&masks);
    let seeds = [
        &b"\x05a hunter2hunter2 b glpat-aaaaaaaaaaaaaaaaaaaa\n"[..],
        b"\x01abababababababx\n",
        b"\x03pass\nwordpass\nword\xff\xc3",
        b"\x02hunter2hunterhunter2hunter2",
    ];
    run("masker", &seeds, |input| {
        let Some((size, text)) = input.split_first() else { return };
        let mut masker = Masker::new(compiled.clone());
        let mut out = Vec::new();
        for chunk in text.chunks(usize::from(*size).max(1)) {
            masker.feed(chunk, &mut out);
        }
        masker.flush(&mut out);
        for secret in SECRETS {
            let found = memchr::memmem::find(&out, secret.as_bytes());
            assert_eq!(found, None, "{secret:?} is in the output");
        }
        // The cuts make no difference.
        let (mut whole, mut at_once) = (Masker::new(compiled.clone()), Vec::new());
        whole.feed(text, &mut at_once);
        whole.flush(&mut at_once);
        assert_eq!(out, at_once);
    });
}
