use super::*;

fn list() -> Variables {
    [
        Variable::new("A", "first"),
        Variable::new("A", "va"),
        Variable::new("B", "$C"),
        Variable::new("C", "vc"),
        Variable::new("REF", "$B and $A"),
        Variable { raw: true, ..Variable::new("RAW", "$A") },
        Variable { file: true, ..Variable::new("CONF", "key=$A") },
        Variable::new("USES_FILE", "--config=$CONF"),
        Variable::internal(TEMP_PROJECT_DIR, "/builds/g/p.tmp"),
    ]
    .into_iter()
    .collect()
}

#[test]
fn references_are_replaced_as_gos_expand_does_it() {
    for (text, expected) in [
        ("", ""),
        ("plain", "plain"),
        ("$A", "va"),
        ("x$A-y", "xva-y"),
        ("${A}b", "vab"),
        ("$Ab", ""),
        ("$UNKNOWN|$PATH", "|"),
        ("${A:-d}", ""),
        ("$$", "$"),
        ("$$A", "$A"),
        ("${$}", "$"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$.", "$."),
        ("$é", "$é"),
        ("$1$9$*$#$@$!$?$0$-.", "."),
        ("$12", "2"),
        ("${*}x", "x"),
        ("${", ""),
        ("${}", ""),
        ("a${}b", "ab"),
        ("${A", "A"),
        ("${A$A", "Ava"),
        ("\\$A", "\\va"),
        ("%A%", "%A%"),
        ("$(A)", "$(A)"),
        ("${A}${A}$A", "vavava"),
    ] {
        assert_eq!(list().expand(text), expected, "{text}");
    }
}

#[test]
fn values_are_expanded_once_against_the_list_as_it_was() {
    let expanded = list().expanded();
    assert_eq!(expanded.value("B"), "vc");
    assert_eq!(expanded.value("REF"), "$C and va");
    assert_eq!(expanded.value("RAW"), "$A", "raw values stay");
    assert_eq!(expanded.value("CONF"), "key=va", "the content of a file is expanded too");
}

#[test]
fn a_file_variable_expands_to_its_path() {
    assert_eq!(list().expanded().value("USES_FILE"), "--config=/builds/g/p.tmp/CONF");
    assert_eq!(list().get("CONF"), "/builds/g/p.tmp/CONF");
    assert_eq!(list().value("CONF"), "key=$A");
}

#[test]
fn the_last_variable_of_a_name_wins_and_duplicates_stay() {
    assert_eq!(list().value("A"), "va");
    assert_eq!(list().iter().filter(|variable| variable.key == "A").count(), 2);
    assert_eq!(list().value("NONE"), "");
}

#[test]
fn masked_phrases_are_trimmed_unique_and_longest_first() {
    let masked = |value: &str| Variable { masked: true, ..Variable::new("M", value) };
    let variables: Variables =
        [masked("ab"), masked(" abcd\n"), masked(""), masked("  "), masked("ab"), Variable::new("open", "xyz")]
            .into_iter()
            .collect();
    assert_eq!(variables.masked_phrases(), ["abcd", "ab"]);
}

#[test]
fn services_see_what_is_public_or_the_runners() {
    let variables: Variables = [
        Variable::new("PRIVATE", "1"),
        Variable { public: true, ..Variable::new("PUBLIC", "2") },
        Variable::internal("CI_SERVER", "yes"),
    ]
    .into_iter()
    .collect();
    assert_eq!(
        variables.for_services().map(|variable| variable.key.as_str()).collect::<Vec<_>>(),
        ["PUBLIC", "CI_SERVER"]
    );
}

#[test]
fn debug_output_has_no_values() {
    assert_eq!(format!("{:?}", Variable { masked: true, ..Variable::new("K", "s3cret") }), "K masked");
    assert!(!format!("{:?}", list()).contains("va\""));
}

#[test]
fn shell_names_have_letters_digits_and_underscores() {
    for (name, valid) in
        [("A", true), ("_a1", true), ("", false), ("1A", false), ("A-B", false), ("A.B", false), ("É", false)]
    {
        assert_eq!(Variable::new(name, "").has_shell_name(), valid, "{name}");
    }
}
