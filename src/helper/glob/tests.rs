use proptest::prelude::*;

use super::*;

fn check(pattern: &str, matching: &[&str], other: &[&str]) {
    let compiled = Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    for path in matching {
        assert!(compiled.matches(path), "{pattern} should match {path}");
    }
    for path in other {
        assert!(!compiled.matches(path), "{pattern} should not match {path}");
    }
}

#[test]
fn a_star_matches_within_one_segment() {
    check("*", &["", "a", ".git", "a b"], &["a/b"]);
    check("*.txt", &["a.txt", ".txt"], &["a/b.txt", "a.txt.gz"]);
    check("a/*", &["a/b", "a/.b", "a/"], &["a", "a/b/c"]);
    check("a*b", &["ab", "axxb"], &["a/b", "axx"]);
    check("a*b*c", &["abc", "abbcbc"], &["acb", "ab/c"]);
}

#[test]
fn a_question_mark_matches_one_character_and_no_slash() {
    check("?", &["a", "ä", "日"], &["", "/", "ab"]);
    check("a?b", &["axb", "a.b"], &["ab", "a/b"]);
}

#[test]
fn two_stars_match_any_number_of_folders() {
    check("**", &["", "a", "a/b/c", ".git/config"], &[]);
    check("a/**", &["a", "a/b", "a/b/c", "a/.b"], &["ab", "b", "ab/c", "x/a"]);
    check("**/a", &["a", "b/a", "c/b/a"], &["a/b", "ba", "b/ba"]);
    check("**/*.txt", &["a.txt", "a/b.txt", ".hidden/a.txt"], &["a.txt/b"]);
    check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb", "a/b/c", "x/a/b"]);
    check("a/**/*", &["a/b", "a/b/c"], &["a", "b/c"]);
    check("**/a/**", &["a", "x/a", "a/y", "x/a/y"], &["xa", "x/ay"]);
    check("*/**", &["a", "a/b", "a/b/c"], &[]);
}

#[test]
fn repeated_double_stars_are_one() {
    check("**/**", &["", "a", "a/b/c"], &[]);
    check("a/**/**", &["a", "a/b", "a/b/c"], &["b"]);
    check("a/**/**/b", &["a/b", "a/x/y/b"], &["a"]);
}

#[test]
fn two_stars_within_a_segment_are_one_star() {
    check("a**b", &["ab", "axb"], &["a/b", "a/x/b"]);
    check("**b", &["b", "ab"], &["a/b"]);
    check("a/b**", &["a/b", "a/bc"], &["a", "a/b/c"]);
    check("a/***/b", &["a/x/b"], &["a/b", "a/x/y/b"]);
}

#[test]
fn braces_are_alternatives() {
    check("{a,b}", &["a", "b"], &["", "c", "a,b", "{a,b}"]);
    check("a{,b,cd}", &["a", "ab", "acd"], &["ac", "abcd"]);
    check("{,x}y", &["y", "xy"], &["x"]);
    check("a{/b,}/c", &["a/b/c", "a/c"], &["a//c", "ac"]);
    check("{a,{b,c}d}", &["a", "bd", "cd"], &["b", "c", "ad"]);
    check("{a,b/**}", &["a", "b", "b/c/d"], &["a/c"]);
    check(r"{a\,b,c}", &["a,b", "c"], &["a", "b"]);
    check("*.{png,jp{e,}g}", &["x.png", "x.jpg", "x.jpeg"], &["x.gif"]);
    check("a}", &["a}"], &["a"]);
    check("a,b", &["a,b"], &["a", "b"]);
    check("[{]a", &["{a"], &["a"]);
}

#[test]
fn ranges_of_numbers_are_no_alternatives() {
    check("{a..c}", &["a..c"], &["a", "b", "c"]);
}

#[test]
fn classes_match_one_character() {
    check("[abc]", &["a", "c"], &["d", "", "ab"]);
    check("[a-c]x", &["ax", "cx"], &["dx", "-x"]);
    check("[!a]", &["b", "-"], &["a"]);
    check("[^a-c]", &["d"], &["a", "b"]);
    check("[a!^]", &["!", "^", "a"], &["b"]);
    check("[-]", &["-"], &["a"]);
    check("[a-]", &["a", "-"], &["b"]);
    check("[a-b-d]", &["a", "b", "-", "d"], &["c"]);
    check(r"[\]a]", &["]", "a"], &["\\"]);
    check(r"[\-x]", &["-", "x"], &["\\"]);
    check("[ä-ö]", &["ä", "ö"], &["a"]);
    check("a[/]b", &["a/b"], &["ab"]);
    check("[:alpha:]", &["a", ":"], &["b"]);
}

#[test]
fn a_backslash_takes_the_meaning_away() {
    check(r"we\[i\]rd.txt", &["we[i]rd.txt"], &["weird.txt", r"we\[i\]rd.txt"]);
    check("we[i]rd.txt", &["weird.txt"], &["we[i]rd.txt"]);
    check(r"\*", &["*"], &["a"]);
    check(r"\{a,b\}", &["{a,b}"], &["a"]);
    check(r"a\b", &["ab"], &[r"a\b"]);
}

#[test]
fn what_is_no_pattern_elsewhere_is_literal_here() {
    check("!x", &["!x"], &["y", "x"]);
    check("@(a|b)", &["@(a|b)"], &["a"]);
    check("A", &["A"], &["a"]);
    // Composed and decomposed forms are different names.
    check("\u{e9}", &["\u{e9}"], &["e\u{301}"]);
    check(".", &["."], &["a"]);
}

#[test]
fn broken_patterns_are_refused() {
    for (pattern, error) in [
        ("[", PatternError::Class),
        ("[a", PatternError::Class),
        ("[]a]", PatternError::Class),
        ("[!]", PatternError::Class),
        ("[a-", PatternError::Class),
        (r"[a\", PatternError::Class),
        ("{a,b", PatternError::Brace),
        ("{a,{b}", PatternError::Brace),
        (r"a\", PatternError::Escape),
        ("{a,b}{c,d}{e,f}{g,h}{i,j}{k,l}{m,n}{o,p}{q,r}{s,t}", PatternError::TooManyAlternatives),
    ] {
        assert_eq!(Pattern::new(pattern).map(|_| ()), Err(error), "{pattern}");
    }
}

#[test]
fn a_walk_learns_where_nothing_can_match() {
    let pattern = Pattern::new("a/*/c").unwrap();
    let below = |folder: &str| pattern.advance(&pattern.start(), folder);
    assert!(below("a/").can_match() && below("a/b/").can_match());
    assert!(!below("b/").can_match() && !below("a/b/d/").can_match());
    assert!(pattern.is_match(&pattern.advance(&below("a/"), "b/c")));
}

#[test]
fn the_literal_folder_ends_before_the_first_meta_character() {
    for (pattern, folder) in [
        ("a/b/*.txt", "a/b"),
        ("*.txt", ""),
        ("a/b*/c/d", "a"),
        ("a/{b,c}", "a"),
        ("a/b/c", "a/b"),
        (r"a/\*b/c", "a"),
        ("a", ""),
    ] {
        assert_eq!(literal_folder(pattern), folder, "{pattern}");
    }
}

/// The same rules, written down as slowly and plainly as they can be.
fn reference(pattern: &[char], path: &[char], segment_start: bool) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*'] if segment_start => true,
        ['/', '*', '*'] => path.is_empty() || path.first() == Some(&'/'),
        ['*', '*', '/', rest @ ..] if segment_start => {
            reference(rest, path, true)
                || path
                    .iter()
                    .position(|c| *c == '/')
                    .is_some_and(|at| at > 0 && reference(pattern, &path[at + 1..], true))
        }
        ['*', rest @ ..] => {
            reference(rest, path, false)
                || path.first().is_some_and(|c| *c != '/') && reference(pattern, &path[1..], false)
        }
        ['?', rest @ ..] => path.first().is_some_and(|c| *c != '/') && reference(rest, &path[1..], false),
        [c, rest @ ..] => path.first() == Some(c) && reference(rest, &path[1..], *c == '/'),
    }
}

proptest! {
    #[test]
    fn the_automaton_agrees_with_the_plain_rules(pattern in "([ab?*]{1,3}|\\*\\*)(/([ab?*]{1,2}|\\*\\*)){0,3}", path in "[ab]{0,2}(/[ab]{1,2}){0,4}") {
        // Three stars, and runs of whole `**` segments, are normalised before matching.
        prop_assume!(!pattern.contains("***") && !pattern.contains("**/**"));
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&path), reference(&chars(&pattern), &chars(&path), true));
    }

    #[test]
    fn no_pattern_panics(pattern in "\\PC{0,12}", path in "\\PC{0,12}") {
        if let Ok(pattern) = Pattern::new(&pattern) {
            let _matched = pattern.matches(&path);
        }
    }
}
