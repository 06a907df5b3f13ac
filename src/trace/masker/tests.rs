//! The masker against cases that leak elsewhere, and against a slow model.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The rules stated naively over the whole text: every occurrence of every phrase, the run after every
/// prefix, the value of every key; overlapping intervals merged.
#[derive(Debug)]
struct ReferenceMasker<'a> {
    phrases: &'a [&'a [u8]],
    prefixes: &'a [&'a [u8]],
}

impl ReferenceMasker<'_> {
    fn mask(&self, text: &[u8]) -> Vec<u8> {
        let mut spans = Vec::new();
        for start in 0..text.len() {
            let rest = &text[start..];
            for phrase in self.phrases.iter().filter(|phrase| rest.starts_with(phrase)) {
                spans.push((start, start + phrase.len()));
            }
            for prefix in self.prefixes.iter().filter(|prefix| rest.starts_with(prefix)) {
                let begin = start + prefix.len();
                let run = text[begin..].iter().take_while(|&&byte| is_token_byte(byte)).count();
                if run > 0 {
                    spans.push((begin, begin + run));
                }
            }
            if let Some(value) = value_after_key(rest) {
                let run = text[start + value..]
                    .iter()
                    .take_while(|&&byte| !b"?&".contains(&byte) && byte > b' ' && byte != 0x7f)
                    .count();
                spans.push((start + value, start + value + run));
            }
        }
        spans.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last) if span.0 < last.1 => last.1 = last.1.max(span.1),
                // Two prefixes may end at one place.
                Some(last) if *last == span => {}
                _ => merged.push(span),
            }
        }
        let mut out = Vec::new();
        let mut at = 0;
        for (start, end) in merged {
            out.extend_from_slice(&text[at..start]);
            out.extend_from_slice(b"[MASKED]");
            at = end;
        }
        out.extend_from_slice(&text[at..]);
        out
    }
}

/// Length of `?key=` at the beginning of a text.
fn value_after_key(text: &[u8]) -> Option<usize> {
    let keys = [
        "private_token",
        "authenticity_token",
        "rss_token",
        "x-amz-signature",
        "x-amz-credential",
        "x-amz-security-token",
        "x-goog-signature",
        "sig",
    ];
    let rest = text.strip_prefix(b"?").or_else(|| text.strip_prefix(b"&"))?;
    let end = rest.iter().position(|&byte| byte == b'=')?;
    keys.iter().any(|key| key.as_bytes().eq_ignore_ascii_case(&rest[..end])).then_some(end + 2)
}

fn masks(phrases: &[&str], prefixes: &[&str]) -> Masks {
    let mut masks = Masks::default();
    phrases.iter().for_each(|phrase| masks.add_phrase(phrase));
    prefixes.iter().for_each(|prefix| masks.add_prefix(prefix));
    masks
}

fn masked_with(masks: &Masks, chunks: &[&[u8]]) -> String {
    let mut masker = Masker::new(CompiledMasks::new(masks));
    let mut out = Vec::new();
    chunks.iter().for_each(|chunk| masker.feed(chunk, &mut out));
    masker.flush(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn check(phrases: &[&str], writes: &str, expected: &str) {
    let mut masks = Masks::with_default_prefixes(true);
    phrases.iter().for_each(|phrase| masks.add_phrase(phrase));
    let chunks: Vec<&[u8]> = writes.split('|').map(str::as_bytes).collect();
    assert_eq!(masked_with(&masks, &chunks), expected, "{phrases:?} {writes:?}");
    let bytes = writes.replace('|', "");
    let single: Vec<&[u8]> = bytes.as_bytes().chunks(1).collect();
    assert_eq!(masked_with(&masks, &single), expected, "{phrases:?} {writes:?}, byte by byte");
}

#[test]
fn phrases_are_masked_wherever_the_text_is_cut() {
    check(&["secret"], "a secret word", "a [MASKED] word");
    check(&["secret"], "a sec|re|t word", "a [MASKED] word");
    check(&["secret"], "a secre", "a secre");
    check(&["secret"], "a sec|rXt", "a secrXt");
    check(&["  padded\n"], "padded", "[MASKED]");
    check(&["mask", "prefix_mask"], "prefix_mask mask prefix_|mask", "[MASKED] [MASKED] [MASKED]");
    check(&["enigma", "end"], "overlap: this is the en| foobar", "overlap: this is the en foobar");
    check(&["a\nb"], "x a\n|b y", "x [MASKED] y");
    check(&["ключ"], "это ключ", "это [MASKED]");
    check(&["", "  "], "nothing to mask", "nothing to mask");
}

#[test]
fn what_leaks_in_the_reference_is_masked() {
    check(&["aab"], "aa|ab", "a[MASKED]");
    check(&["aab"], "aaab", "a[MASKED]");
    check(&["aab"], "aa|aab", "aa[MASKED]");
    check(&["abab1"], "abab|ab1", "ab[MASKED]");
    check(&["abc", "bcd"], "abcd", "[MASKED]");
    check(&["abc", "bcd"], "abc|d", "[MASKED]");
}

#[test]
fn a_value_is_masked_as_messages_quote_it() {
    let secret = "it's a\\b\"c";
    let mut masks = Masks::default();
    masks.add_phrase(secret);
    assert_eq!(masked_with(&masks, &[format!("{secret} got {secret:?}.").as_bytes()]), "[MASKED] got \"[MASKED]\".");
}

#[test]
fn overlapping_phrases_are_covered_whole_and_touching_ones_stay_two() {
    check(&["cd", "abcdef"], "abcdef abcdX", "[MASKED] ab[MASKED]X");
    check(&["mask"], "maskmask", "[MASKED][MASKED]");
    check(&["aa"], "aaa", "[MASKED]");
    check(&["abcd", "cdef", "efgh"], "abcdefgh", "[MASKED]");
}

#[test]
fn a_long_phrase_is_found_across_two_writes() {
    let secret: String = ('a'..='z').cycle().take(16_000).collect();
    let (first, second) = secret.split_at(9_000);
    let masks = masks(&[&secret], &[]);
    assert_eq!(masked_with(&masks, &[b"x", first.as_bytes(), second.as_bytes(), b"y"]), "x[MASKED]y");
    assert_eq!(masked_with(&masks, &[first.as_bytes(), b"!"]), format!("{first}!"));
}

#[test]
fn the_run_after_a_token_prefix_is_masked_and_the_prefix_stays() {
    check(&[], "glpat-abc_1.=-Z/x", "glpat-[MASKED]/x");
    check(&[], "gl|pat-|ab|c d", "glpat-[MASKED] d");
    check(&[], "gglpat-abc", "gglpat-[MASKED]");
    check(&[], "glpat- none, GLPAT-abc", "glpat- none, GLPAT-abc");
    check(&[], "glpat-glrt-abc", "glpat-[MASKED]");
    check(&[], "_gitlab_session=0a1b; x", "_gitlab_session=[MASKED]; x");
    check(&["abc"], "glpat-xxabcyy", "glpat-[MASKED]");
    check(&["ab cd"], "glpat-xxab cd!", "glpat-[MASKED]!");
    check(&["glpat-"], "glpat-abc", "[MASKED][MASKED]");
    assert_eq!(masked_with(&Masks::with_default_prefixes(false), &[b"glpat-a glrt-b"]), "glpat-[MASKED] glrt-b");
}

#[test]
fn more_than_fifteen_prefixes_are_all_used() {
    let mut masks = Masks::with_default_prefixes(true);
    (0..100).for_each(|number| masks.add_prefix(&format!("custom{number:03}-")));
    assert_eq!(
        masked_with(&masks, &[b"custom000-x custom099-y glffct-z"]),
        "custom000-[MASKED] custom099-[MASKED] glffct-[MASKED]"
    );
}

#[test]
fn values_of_certain_keys_in_a_query_are_masked() {
    check(&[], "https://x/?private_token=abc&x=1", "https://x/?private_token=[MASKED]&x=1");
    check(&[], "?Private_Token=abc rest", "?Private_Token=[MASKED] rest");
    check(&[], "?a=1&rss_|tok|en=a|b", "?a=1&rss_token=[MASKED]");
    check(&[], "?rss_token=&authenticity_token=\n", "?rss_token=[MASKED]&authenticity_token=[MASKED]\n");
    check(&[], "?private_token=", "?private_token=[MASKED]");
    check(
        &[],
        "?x-amz-signature=a/b%20;&X-Amz-Credential=c?x-amz-security-token=d",
        "?x-amz-signature=[MASKED]&X-Amz-Credential=[MASKED]?x-amz-security-token=[MASKED]",
    );
    check(&[], "?sig=a&X-Goog-Signature=b", "?sig=[MASKED]&X-Goog-Signature=[MASKED]");
    check(
        &[],
        "&amp;private_token=a ?job_token=b ?signal=c ?si=d ?=e",
        "&amp;private_token=a ?job_token=b ?signal=c ?si=d ?=e",
    );
    check(&["tok"], "?private_token=abc", "?private_[MASKED]en=[MASKED]");
    check(&["b&x"], "?private_token=ab&xyz", "?private_token=[MASKED]yz");
}

#[test]
fn a_prefix_that_is_cut_is_not_passed_over_for_a_phrase_inside_it() {
    let filler = "words that have nothing to do with it, long enough for the vector searcher: ";
    check(
        &["a"],
        &format!("{}|glpa|t-b", filler.replace('a', "o")),
        &format!("{}glp[MASKED]t-[MASKED]", filler.replace('a', "o")),
    );
    let masks = masks(&["a"], &["glpat-"]);
    let text = format!("{} glpa", filler.replace('a', "o"));
    assert_eq!(
        masked_with(&masks, &[text.as_bytes(), b"t-b"]),
        format!("{}p[MASKED]t-[MASKED]", text.strip_suffix("pa").unwrap())
    );
}

#[test]
fn no_more_is_held_back_than_could_become_a_secret() {
    let mut masks = Masks::with_default_prefixes(true);
    masks.add_phrase("secret");
    let mut masker = Masker::new(CompiledMasks::new(&masks));
    for (chunk, held) in [
        ("plain text\n", 0),
        ("sec", 3),
        ("X", 0),
        ("secret", 0),
        ("glpa", 4),
        ("t-", 0),
        ("abc", 0),
        ("?private_token=a", 0),
    ] {
        masker.feed(chunk.as_bytes(), &mut Vec::new());
        assert_eq!(masker.held(), held, "{chunk}");
    }
}

#[test]
fn memory_stays_bounded_when_a_secret_never_ends() {
    let mut masker = Masker::new(CompiledMasks::new(&masks(&["aa"], &[])));
    let mut out = Vec::new();
    for _ in 0..1000 {
        masker.feed(&[b'a'; 1000], &mut out);
    }
    masker.flush(&mut out);
    assert_eq!(out, b"[MASKED]");
    assert!(masker.held() <= 1);
}

#[test]
fn new_masks_hold_for_bytes_that_were_held_back() {
    let (old, new) = (masks(&["secret"], &["glpat-"]), masks(&["secret", "ecX", "c"], &["glpat-"]));
    for (before, after, expected) in [
        ("a sec", "Xb", "a s[MASKED]b"),
        ("a sec", "ret", "a [MASKED]"),
        ("a secret", " c", "a [MASKED] [MASKED]"),
        ("glp", "at-x c", "glpat-[MASKED] [MASKED]"),
        ("glpat-x", "y ecX", "glpat-[MASKED] [MASKED]"),
        ("a sec", "!", "a se[MASKED]!"),
        ("?sig=sec", "y", "?sig=[MASKED]"),
    ] {
        let mut masker = Masker::new(CompiledMasks::new(&old));
        let mut out = Vec::new();
        masker.feed(before.as_bytes(), &mut out);
        masker.replace_masks(CompiledMasks::new(&new));
        masker.feed(after.as_bytes(), &mut out);
        masker.flush(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{before}|{after}");
    }
}

#[test]
fn masks_print_no_value() {
    let masks = masks(&["hunter2"], &["glpat-"]);
    let mut masker = Masker::new(CompiledMasks::new(&masks));
    masker.feed(b"hunter", &mut Vec::new());
    let printed = format!("{masks:?} {masker:?}");
    assert!(!printed.contains("hunter") && !printed.contains("104"), "{printed}");
}

#[test]
fn text_that_only_begins_like_secrets_takes_linear_time() {
    // A search that starts again after each failed match needs minutes for this.
    let secret = format!("{}b", "a".repeat(16_000));
    let masks = masks(&[&secret, "a".repeat(8_000).as_str(), "c"], &["glpat-"]);
    let mut masker = Masker::new(CompiledMasks::new(&masks));
    let mut out = Vec::new();
    let begin = crate::time::now().instant;
    for _ in 0..200 {
        masker.feed(&[b'a'; 7_999], &mut out);
        masker.feed(b"X", &mut out);
    }
    masker.flush(&mut out);
    assert_eq!(out.len(), 200 * 8_000);
    assert!(crate::time::now().instant - begin < Duration::from_secs(30));
}

/// Text that is full of near misses.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "ab", "ba", "aab", "g", "gl", "pat-", "glpat-", "xx-", "-", "."]),
        2 => prop::sample::select(vec!["?", "&", "=", "sig", "?sig=", "&SIG=", "rss_token", "?rss_token=", "s", "si"]),
        1 => prop::sample::select(vec![" ", "\n", "é", "[MASKED]", "plain words that have nothing to do with it"]),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat().into_bytes())
}

fn phrase_list() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abc]{1,5}|[ag?=&s]{1,4}|glpat|t-a|g a|=a|\\?sig=a", 0..6)
}

fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at((*length).min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_cut_gives_what_the_reference_gives_for_the_whole(
        text in text(),
        phrases in phrase_list(),
        lengths in prop::collection::vec(1usize..40, 1..20),
    ) {
        let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
        let prefixes = ["glpat-", "xx-", "?sig=", "a-"];
        let expected = {
            let trimmed: Vec<&[u8]> = phrases.iter().map(|phrase| phrase.trim().as_bytes()).filter(|phrase| !phrase.is_empty()).collect();
            let prefixes: Vec<&[u8]> = prefixes.iter().map(|prefix| prefix.as_bytes()).collect();
            ReferenceMasker { phrases: &trimmed, prefixes: &prefixes }.mask(&text)
        };
        let masked = masked_with(&masks(&phrases, &prefixes), &cut(&text, &lengths));
        prop_assert_eq!(masked, String::from_utf8_lossy(&expected).into_owned());
    }

    #[test]
    fn no_phrase_is_left_in_the_output(
        text in text(),
        phrases in prop::collection::vec("[abc]{2,6}", 1..5),
        lengths in prop::collection::vec(1usize..20, 1..20),
    ) {
        let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
        let masked = masked_with(&masks(&phrases, &["glpat-"]), &cut(&text, &lengths));
        for phrase in phrases {
            prop_assert!(!masked.split("[MASKED]").any(|visible| visible.contains(phrase)), "{} in {}", phrase, masked);
        }
    }

    #[test]
    fn masks_that_change_in_between_hide_each_later_phrase(
        before in text(), after in text(), phrases in prop::collection::vec("[abc]{2,6}", 1..5),
    ) {
        let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
        let mut masker = Masker::new(CompiledMasks::new(&masks(&["aabc"], &["glpat-"])));
        let mut out = Vec::new();
        masker.feed(&before, &mut out);
        let border = out.len();
        let mut all = phrases.clone();
        all.push("aabc");
        masker.replace_masks(CompiledMasks::new(&masks(&all, &["glpat-"])));
        masker.feed(&after, &mut out);
        masker.flush(&mut out);
        let later = String::from_utf8_lossy(&out[border..]).into_owned();
        for phrase in phrases {
            prop_assert!(!later.split("[MASKED]").any(|visible| visible.contains(phrase)), "{} in {}", phrase, later);
        }
    }
}

#[test]
fn the_masks_of_a_usual_job_take_a_few_kilobytes() {
    let mut masks = Masks::with_default_prefixes(true);
    for value in [
        "glcbt-64_s3cr3t-t0ken-of-a-job",
        "hunter2hunter2",
        "AKIAIOSFODNN7EXAMPLE",
        "a longer one of forty bytes and a bit more",
    ] {
        masks.add_phrase(value);
    }
    let size = CompiledMasks::new(&masks).0.memory_usage();
    assert!(size < 16 * 1024, "{size}");
}
