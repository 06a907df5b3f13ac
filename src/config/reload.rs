//! What a changed file changes, key by key, in the file's own words.
//!
//! The difference is taken between the two texts, so that it shows what the operator did. Secrets, scripts and logins
//! of URLs are compared and never shown, nor are the values of unknown keys.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::Loaded;
use crate::config::raw::{Flat, flatten};
use crate::config::secrecy::{is_hidden_in_differences, without_logins};
use crate::config::types::plugin::Plugin;

/// When a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once, or with the next job.
    Live,
    /// The process has to be started anew.
    Restart,
    /// Not while the entry names another group of instances, which needs a restart: a runner that is served keeps its
    /// group, and an entry is taken up as a whole.
    WithItsGroup,
}

/// One key that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `runners[gitlab].limit`, or `runners[gitlab]` for one that came or went.
    pub key: String,
    /// `None`: it was not there.
    pub before: Option<String>,
    /// `None`: it is gone.
    pub after: Option<String>,
    pub effect: Effect,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{}: {before} → {after}", self.key)?,
            (None, Some(after)) => write!(f, "{}: added, {after}", self.key)?,
            (Some(before), None) => write!(f, "{}: removed, was {before}", self.key)?,
            (None, None) => f.write_str(&self.key)?,
        }
        match self.effect {
            Effect::Live => Ok(()),
            Effect::Restart => f.write_str(" (needs a restart)"),
            Effect::WithItsGroup => f.write_str(" (not taken up: another group needs a restart)"),
        }
    }
}

/// Keys, and sections, that are read once at the start.
const RESTART: [&str; 5] =
    ["listen_address", "metrics_server", "session_server", "connection_max_age", "state_storage"];

/// What makes it another group of instances.
const PLUGIN: &str = "runners.autoscaler.plugin";
/// The folder of `local`.
const ROOT: &str = "runners.autoscaler.plugin_config.root";
/// What makes it another runner, which takes up its entry from the beginning.
const IDENTITY: [&str; 3] = ["url", "id", "token"];

/// The differences of two files, sorted by key.
pub fn diff(before: &Loaded, after: &Loaded) -> Vec<Change> {
    let (old, new) = (flatten(&before.source), flatten(&after.source));
    let shown = |value: &Flat, file: &Loaded| {
        let is_hidden = value.plain.split('.').any(is_hidden_in_differences) || file.diagnostics.hides(&value.span);
        if is_hidden { "[redacted]".to_owned() } else { without_logins(&value.text) }
    };
    let mut changes = Vec::new();
    let came_or_went = whole_runners(&old, &new, &mut changes);
    let refused = with_another_group(&old, &new);
    for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
        let (was, is) = (old.get(key), new.get(key));
        let is_whole = came_or_went.iter().any(|runner| key.starts_with(runner.as_str()));
        if is_whole || was.map(|value| &value.text) == is.map(|value| &value.text) {
            continue;
        }
        let Some(any) = was.or(is) else { continue };
        let effect = if needs_restart(&any.plain, was, is) {
            Effect::Restart
        } else if runner_of(key).is_some_and(|runner| refused.contains(&runner)) {
            Effect::WithItsGroup
        } else {
            Effect::Live
        };
        changes.push(Change {
            key: any.shown.clone(),
            before: was.map(|value| shown(value, before)),
            after: is.map(|value| shown(value, after)),
            effect,
        });
    }
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// Runners that are in one of the files only, as one change each; gives their prefixes.
fn whole_runners(old: &BTreeMap<String, Flat>, new: &BTreeMap<String, Flat>, changes: &mut Vec<Change>) -> Vec<String> {
    let runners = |file: &BTreeMap<String, Flat>| -> Vec<String> {
        let mut found: Vec<String> = file.keys().filter_map(|key| runner_of(key)).collect();
        found.dedup();
        found
    };
    let (before, after) = (runners(old), runners(new));
    let mut prefixes = Vec::new();
    for runner in before.iter().filter(|runner| !after.contains(runner)) {
        changes.push(Change {
            key: runner.clone(),
            before: Some("a runner".to_owned()),
            after: None,
            effect: Effect::Live,
        });
        prefixes.push(format!("{runner}."));
    }
    for runner in after.iter().filter(|runner| !before.contains(runner)) {
        changes.push(Change {
            key: runner.clone(),
            before: None,
            after: Some("a runner".to_owned()),
            effect: Effect::Live,
        });
        prefixes.push(format!("{runner}."));
    }
    prefixes
}

/// `runners[gitlab]` of `runners[gitlab].limit`.
fn runner_of(key: &str) -> Option<String> {
    let rest = key.strip_prefix("runners[")?;
    let (label, _) = rest.split_once("].")?;
    Some(format!("runners[{label}]"))
}

/// Runners whose entry is in both files, for another group of instances.
fn with_another_group(old: &BTreeMap<String, Flat>, new: &BTreeMap<String, Flat>) -> Vec<String> {
    let text = |file: &BTreeMap<String, Flat>, key: &str| file.get(key).map(|value| value.text.clone());
    let is_same = |key: String| text(old, &key) == text(new, &key);
    let changed = old.keys().chain(new.keys()).filter(|key| {
        let (was, is) = (old.get(*key), new.get(*key));
        was.or(is).is_some_and(|any| is_another_group(&any.plain, was, is))
    });
    changed
        .filter_map(|key| runner_of(key))
        .filter(|runner| IDENTITY.iter().all(|part| is_same(format!("{runner}.{part}"))))
        .collect()
}

fn is_another_group(plain: &str, was: Option<&Flat>, is: Option<&Flat>) -> bool {
    match plain {
        PLUGIN => plugin(was) != plugin(is),
        ROOT => was.map(|value| &value.text) != is.map(|value| &value.text),
        _ => false,
    }
}

/// The provider, which may be spelt in more than one way.
fn plugin(value: Option<&Flat>) -> Option<Plugin> {
    let text: String = serde_json::from_str(&value?.text).ok()?;
    Plugin::parse(&text).ok().map(|(plugin, _)| plugin)
}

fn needs_restart(plain: &str, was: Option<&Flat>, is: Option<&Flat>) -> bool {
    plain.split('.').any(|key| RESTART.contains(&key)) || is_another_group(plain, was, is)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::environment::Environment;

    fn check(old: &str, new: &str, expected: &[&str]) {
        let load = |text| crate::config::load(Path::new("c"), text, &Environment::default());
        let changes: Vec<String> = diff(&load(old), &load(new)).iter().map(Change::to_string).collect();
        assert_eq!(changes, expected);
    }

    const RUNNER: &str = "[[runners]]\nname = \"gitlab\"\ntoken = \"t1\"\nlimit = 5\n";

    #[test]
    fn each_key_is_a_line_in_the_words_of_the_file() {
        let new = "[[runners]]\nname = \"gitlab\"\ntoken = \"t1\"\nlimit = 7\n[runners.docker]\nimage = \"a\"\n";
        check(RUNNER, new, &["runners[gitlab].docker.image: added, \"a\"", "runners[gitlab].limit: 5 → 7"]);
        check("concurrent = 1", "# a comment\nConcurrent = 1", &[]);
        check("check_interval = 3", "", &["check_interval: removed, was 3"]);
    }

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let new = "[[runners]]\nname = \"gitlab\"\ntoken = \"t2\"\nlimit = 5\nenvironment = [\"A=secret\"]\n";
        check(
            RUNNER,
            new,
            &["runners[gitlab].environment: added, [redacted]", "runners[gitlab].token: [redacted] → [redacted]"],
        );
        let unknown =
            |value: &str| format!("{RUNNER}api_key = \"{value}\"\n[runners.kubernetes]\nbearer_token = \"{value}\"");
        check(
            &unknown("a"),
            &unknown("b"),
            &[
                "runners[gitlab].api_key: [redacted] → [redacted]",
                "runners[gitlab].kubernetes.bearer_token: [redacted] → [redacted]",
            ],
        );
    }

    #[test]
    fn scripts_commands_and_logins_of_urls_are_compared_and_not_shown() {
        let file = |value: &str| {
            format!(
                "[[runners]]\nname = \"r\"\nurl = \"https://me:{value}@host\"\nclone_url = \"https://{value}@git\"\n\
                 pre_build_script = \"\"\"\nlogin {value}\n\"\"\"\npre_get_sources_script = \"{value}\"\n\
                 post_get_sources_script = \"{value}\"\npost_build_script = \"{value}\"\n\
                 [[runners.docker.services]]\nname = \"redis\"\ncommand = [\"--pass\", \"{value}\"]\n\
                 entrypoint = [\"{value}\"]\nenvironment = [\"P={value}\"]\n\
                 [runners.docker]\nhost = \"tcp://me:{value}@engine\"\n\
                 [runners.autoscaler]\ninstance_ready_command = \"check {value}\"\n\
                 [runners.cache.s3]\nSecretKey = \"{value}\"\nAccessKey = \"{value}\"\nSessionToken = \"{value}\"\n"
            )
        };
        let load = |text: String| crate::config::load(Path::new("c"), &text, &Environment::default());
        let changes = diff(&load(file("hunter2")), &load(file("hunter3")));
        assert_eq!(changes.len(), 14, "{changes:#?}");
        for change in changes {
            let shown = change.to_string();
            assert!(!shown.contains("hunter") && shown.contains("[redacted]"), "{shown}");
        }
    }

    #[test]
    fn what_is_read_once_needs_a_restart() {
        check("", "listen_address = \":1\"", &["listen_address: added, \":1\" (needs a restart)"]);
        check("", "connection_max_age = \"1m\"", &["connection_max_age: added, \"1m\" (needs a restart)"]);
        check(
            "[session_server]\nsession_timeout = 1",
            "[session_server]\nsession_timeout = 2",
            &["session_server.session_timeout: 1 → 2 (needs a restart)"],
        );
        let autoscaler = |lines: &str| format!("{RUNNER}[runners.autoscaler]\n{lines}\n");
        check(
            &autoscaler("plugin = \"static\"\nmax_instances = 1"),
            &autoscaler("plugin = \"local\"\nmax_instances = 2\n[runners.autoscaler.state_storage]\ndir = \"a\""),
            &[
                "runners[gitlab].autoscaler.max_instances: 1 → 2 (not taken up: another group needs a restart)",
                "runners[gitlab].autoscaler.plugin: \"static\" → \"local\" (needs a restart)",
                "runners[gitlab].autoscaler.state_storage.dir: added, \"a\" (needs a restart)",
            ],
        );
    }

    #[test]
    fn an_entry_for_another_group_says_of_each_key_that_it_is_not_taken_up() {
        let other = "[[runners]]\nname = \"other\"\nlimit = ";
        let file = |limit: u32, lines: &str| {
            format!("{other}{limit}\n[[runners]]\nname = \"gitlab\"\nlimit = {limit}\n[runners.autoscaler]\n{lines}")
        };
        let root =
            |folder: &str| format!("plugin = \"local\"\n[runners.autoscaler.plugin_config]\nroot = \"{folder}\"");
        check(
            &file(1, &root("a")),
            &file(2, &root("b")),
            &[
                "runners[gitlab].autoscaler.plugin_config.root: \"a\" → \"b\" (needs a restart)",
                "runners[gitlab].limit: 1 → 2 (not taken up: another group needs a restart)",
                "runners[other].limit: 1 → 2",
            ],
        );
        check(
            &file(1, "plugin = \"aws\""),
            &file(2, "plugin = \"fleeting-plugin-aws\""),
            &[
                "runners[gitlab].autoscaler.plugin: \"aws\" → \"fleeting-plugin-aws\"",
                "runners[gitlab].limit: 1 → 2",
                "runners[other].limit: 1 → 2",
            ],
        );
        // Another runner in the same place takes up its own entry.
        let with_id = |id: u32, plugin: &str| {
            file(1, &format!("plugin = \"{plugin}\"")).replace("limit = 1\n[runners", &format!("id = {id}\n[runners"))
        };
        check(
            &with_id(1, "aws"),
            &with_id(2, "local"),
            &["runners[gitlab].autoscaler.plugin: \"aws\" → \"local\" (needs a restart)", "runners[gitlab].id: 1 → 2"],
        );
    }

    #[test]
    fn a_runner_that_came_or_went_is_one_line() {
        let other = "[[runners]]\nname = \"gitlab2\"\nlimit = 1\n";
        check(RUNNER, "", &["runners[gitlab]: removed, was a runner"]);
        check(RUNNER, &format!("{RUNNER}{other}"), &["runners[gitlab2]: added, a runner"]);
        check(RUNNER, other, &["runners[gitlab2]: added, a runner", "runners[gitlab]: removed, was a runner"]);
    }

    #[test]
    fn entries_of_lists_are_told_apart_by_number() {
        let policy =
            |count| format!("[[runners]]\nname = \"a\"\n[[runners.autoscaler.policy]]\nidle_count = {count}\n");
        check(&policy(1), &policy(2), &["runners[a].autoscaler.policy[0].idle_count: 1 → 2"]);
    }
}
