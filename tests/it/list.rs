//! `flotilla list` (`config.md` 11): a line of the log for each runner of the file.

use std::fs;

use crate::harness::process::flotilla;

#[test]
fn list_says_name_executor_whole_token_and_url_of_each_runner_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let entry = |name: &str, token: &str, executor: &str| {
        format!(
            "[[runners]]\n  name = \"{name}\"\n  url = \"https://gitlab.example.com\"\n  token = \"{token}\"\n  \
             executor = \"{executor}\"\n  [runners.docker]\n    image = \"debian\"\n  \
             [runners.autoscaler]\n    plugin = \"local\"\n"
        )
    };
    let runners =
        [("first", "glrt-0123456789abcdefghij", "instance"), ("second", "glrt-of-the-other", "docker-autoscaler")];
    let text: String = runners.iter().map(|(name, token, executor)| entry(name, token, executor)).collect();
    fs::write(&path, text).expect("the config");
    let (code, said) = flotilla(&["--log-format", "json", "list", "--config", &path.display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let lines: Vec<_> = lines.iter().filter(|line| !line["Executor"].is_null()).collect();
    assert_eq!(lines.len(), runners.len(), "{said}");
    for (line, (name, token, executor)) in lines.into_iter().zip(runners) {
        let fields = ["msg", "Executor", "Token", "URL"].map(|key| line[key].as_str());
        assert_eq!(fields, [name, executor, token, "https://gitlab.example.com"].map(Some), "{said}");
    }
}

#[test]
fn list_of_no_file_has_no_runners() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let (code, said) = flotilla(&["--log-format", "json", "list", "--config", &path.display().to_string()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("Executor"), "{said}");
    assert!(!path.exists());
}
