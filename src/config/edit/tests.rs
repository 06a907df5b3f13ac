use std::time::Duration;

use super::*;
use crate::config::environment::Environment;

const FILE: &str = r#"# our fleet
concurrent = 10 # all of them

[[runners]]
  name = "one" # the first
  url = "https://gitlab.example"
  Token = "glrt-one"
  executor = "instance"
  [runners.autoscaler] # big
    plugin = "aws"

[[runners]]
  name = "two"
  url = "https://gitlab.example"
  token = "glrt-two"
  id = 2
"#;

fn moment(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().into()
}

fn new_runner() -> NewRunner {
    NewRunner {
        name: "three".into(),
        url: "https://gitlab.example".into(),
        id: 3,
        token: Secret::new("glrt-three"),
        token_obtained_at: moment("2026-11-21T09:30:00.75Z"),
        token_expires_at: None,
        executor: "docker-autoscaler".into(),
        docker_image: Some("alpine:3".into()),
        tls: TlsFiles { ca_file: Some("/etc/ca.crt".into()), ..TlsFiles::default() },
        settings: Vec::new(),
    }
}

#[test]
fn entries_are_read_in_any_case() {
    let entries = Document::parse(FILE).unwrap().entries();
    let expected = |index, name: &str, id, executor: &str| Entry {
        index,
        name: name.into(),
        url: "https://gitlab.example".into(),
        token: Secret::new(format!("glrt-{name}")),
        id,
        executor: executor.into(),
        tls: TlsFiles::default(),
    };
    assert_eq!(entries, [expected(0, "one", 0, "instance"), expected(1, "two", 2, "")]);
}

#[test]
fn a_new_runner_comes_last_and_the_rest_stays_as_it_was() {
    let mut document = Document::parse(FILE).unwrap();
    document.add(&new_runner(), None).unwrap();
    let text = document.to_string();
    assert!(text.starts_with(FILE), "{text}");
    insta::assert_snapshot!(text.trim_start_matches(FILE), @r#"
    [[runners]]
    name = "three"
    url = "https://gitlab.example"
    id = 3
    token = "glrt-three"
    token_obtained_at = 2026-11-21T09:30:00Z
    token_expires_at = 0001-01-01T00:00:00Z
    executor = "docker-autoscaler"
    tls-ca-file = "/etc/ca.crt"

    [runners.docker]
    image = "alpine:3"
    volumes = ["/cache"]
    "#);
}

#[test]
fn a_new_file_loads_with_its_first_runner() {
    let mut document = Document::parse("").unwrap();
    document
        .add(
            &NewRunner { executor: "instance".into(), docker_image: None, tls: TlsFiles::default(), ..new_runner() },
            Some(TEMPLATE),
        )
        .unwrap();
    let text = document.to_string();
    let loaded = crate::config::load(Path::new("c"), &text, &Environment::default());
    let config = loaded.resolved.unwrap_or_else(|| panic!("{text}\n{:?}", loaded.diagnostics));
    let runner = &config.runners[0];
    assert_eq!((config.runners.len(), runner.token.expose(), runner.limit), (1, "glrt-three", 4));
    assert!(runner.refusals.is_empty(), "{:?}", runner.refusals);
    assert_eq!(runner.token_obtained_at, Some(moment("2026-11-21T09:30:00Z")));
    assert_eq!(runner.token_expires_at, None);
    assert_eq!(runner.autoscaler.as_ref().unwrap().policies.len(), 1);
}

const TEMPLATE: &str = r#"
concurrent = 99
[[runners]]
  token = "of-the-template"
  limit = 4
  name = "of the template"
  [runners.autoscaler]
    plugin = "local"
    max_instances = 4
    [[runners.autoscaler.policy]]
      idle_count = 1
"#;

#[test]
fn a_template_has_exactly_one_runner() {
    let mut document = Document::parse(FILE).unwrap();
    assert!(matches!(document.add(&new_runner(), Some(FILE)), Err(EditError::Template { found: 2 })));
    assert!(matches!(document.add(&new_runner(), Some("concurrent = 1")), Err(EditError::Template { found: 0 })));
    assert_eq!(document.to_string(), FILE, "a failed change changes nothing");
}

#[test]
fn a_removed_runner_goes_with_its_sections_only() {
    let mut document = Document::parse(FILE).unwrap();
    let removed = document.remove(|entry| entry.name == "one");
    assert_eq!(removed.len(), 1);
    assert_eq!(
        document.to_string(),
        "# our fleet\nconcurrent = 10 # all of them\n\n[[runners]]\n  name = \"two\"\n  url = \"https://gitlab.example\"\n  token = \"glrt-two\"\n  id = 2\n"
    );
    assert_eq!(document.remove(|_| true).len(), 1);
    assert_eq!(document.remove(|_| true).len(), 0);
    assert_eq!(document.to_string(), "# our fleet\nconcurrent = 10 # all of them\n");
}

#[test]
fn a_new_token_takes_the_place_of_the_old_one() {
    let mut document = Document::parse(FILE).unwrap();
    let obtained = moment("2026-11-21T09:30:00Z");
    assert!(document.set_token(0, &Secret::new("glrt-new"), obtained, Some(obtained + Duration::from_secs(60))));
    assert!(!document.set_token(2, &Secret::new("glrt-new"), obtained, None));
    let text = document.to_string();
    assert!(text.contains("  Token = \"glrt-new\"\n"), "{text}");
    assert!(text.contains("token_expires_at = 2026-11-21T09:31:00Z\n"), "{text}");
    assert!(text.contains("# the first") && text.contains("[runners.autoscaler] # big"), "{text}");
    assert!(!text.contains("glrt-one"));
}

#[test]
fn what_cannot_be_changed_safely_is_refused() {
    assert!(matches!(Document::parse("a = "), Err(EditError::Syntax { .. })));
    assert!(matches!(Document::parse("runners = [{ name = \"a\" }]"), Err(EditError::Runners)));
    assert!(matches!(Document::parse("[runners]\nname = \"a\""), Err(EditError::Runners)));
}

#[test]
fn a_saved_file_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let document = Document::parse(FILE).unwrap();
    document.save(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), FILE);
}
