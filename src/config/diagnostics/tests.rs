use super::*;

fn spot(source: &Source, found: &str, path: KeyPath) -> Spot {
    let start = source.text().find(found).unwrap();
    Spot { span: start..start + found.len(), path }
}

fn sample() -> (Source, Diagnostics) {
    let source = Source::new("config.toml", "[[runners]]\ntoken = \"glrt-ü-secret\"\nlimit = \"7\"\n");
    let runner = KeyPath::root().key("runners").element("0");
    let mut diagnostics = Diagnostics::default();
    diagnostics.hide(spot(&source, "\"glrt-ü-secret\"", KeyPath::root()).span);
    diagnostics
        .error(&spot(&source, "\"7\"", runner.key("limit")), "an integer is expected, not text")
        .help("write limit = 7");
    diagnostics.warning(&spot(&source, "\"glrt-ü-secret\"", runner.key("token")), "it looks odd");
    diagnostics.sort();
    (source, diagnostics)
}

#[test]
fn secrets_never_show_in_the_lines_of_the_file() {
    let (source, diagnostics) = sample();
    insta::assert_snapshot!(diagnostics.to_text(&source, Style::Plain), @r#"
    warning: runners[0].token: it looks odd
     --> config.toml:2:9
      |
    2 | token = "**************"
      |         ^^^^^^^^^^^^^^^^
    
    error: runners[0].limit: an integer is expected, not text
     --> config.toml:3:9
      |
    3 | limit = "7"
      |         ^^^
      |
      = help: write limit = 7
    "#);
}

#[test]
fn the_json_form_has_line_column_and_key() {
    let (source, diagnostics) = sample();
    let json = diagnostics.to_json(&source);
    let second = json.get(1).unwrap();
    assert_eq!(second.get("line").unwrap(), 3);
    assert_eq!(second.get("column").unwrap(), 9);
    assert_eq!(second.get("key").unwrap(), "runners[0].limit");
    assert_eq!(second.get("severity").unwrap(), "error");
    assert_eq!(second.get("help").unwrap(), "write limit = 7");
}

#[test]
fn columns_count_characters() {
    let source = Source::new("c", "ü = 1\nab = 2");
    assert_eq!(source.position("ü = ".len()), (1, 5));
    assert_eq!(source.position(source.text().len()), (2, 7));
    assert_eq!(source.position(999), (2, 7));
}

#[test]
fn key_paths_show_elements_and_keep_a_plain_form() {
    let path = KeyPath::root().key("runners").element("gitlab").key("docker").key("image");
    assert_eq!(path.shown(), "runners[gitlab].docker.image");
    assert_eq!(path.plain(), "runners.docker.image");
    assert_eq!(KeyPath::root().to_string(), "the file");
}
