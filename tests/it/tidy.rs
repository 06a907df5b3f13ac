//! The rules of the tree that no compiler checks: who may use whom, what only one module may do, how
//! large a file may grow, which crates never come in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use of the others, in the order of the map in `src/lib.rs`. Leaves may be
/// used by all and use only each other.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("gitlab", &["config"]),
    ("job", &["config", "gitlab"]),
    ("shells", &["config", "job"]),
    ("detached", &[]),
    ("trace", &["gitlab", "job", "journal"]),
    ("cache", &["config"]),
    ("journal", &[]),
    ("fleeting", &["config"]),
    ("taskscaler", &["config", "fleeting", "journal"]),
    ("executors", &["config", "job", "shells", "trace", "detached", "fleeting", "taskscaler", "cache"]),
    (
        "manager",
        &[
            "config",
            "gitlab",
            "job",
            "shells",
            "trace",
            "journal",
            "fleeting",
            "taskscaler",
            "executors",
            "cache",
            "detached",
        ],
    ),
    ("admin", &["manager", "taskscaler"]),
    ("helper", &["gitlab", "detached"]),
    ("sandbox", &["gitlab"]),
];

const LEAVES: &[&str] = &[
    "time",
    "ids",
    "secret",
    "backoff",
    "byte_stream",
    "go_duration",
    "error_chain",
    "decode_error",
    "excerpt",
    "pulse",
    "shell_quote",
    "logging",
];

/// Files that decide: no async, no clock of their own.
const DECIDERS: &[&str] = &[
    "taskscaler/core/",
    "manager/admission/",
    "manager/health.rs",
    "manager/adaptive.rs",
    "manager/offer.rs",
    "job/",
    "config/",
    "trace/masker",
    "trace/pacing",
    "trace/finishing",
];

const LONGEST_FILE: usize = 1_200;

struct Source {
    path: PathBuf,
    /// Relative to `src`, with `/`.
    name: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let is_fuzz = self.name.starts_with("fuzz/") || self.name.ends_with("/fuzz.rs");
        is_fuzz || self.name.ends_with("tests.rs") || self.name.contains("/tests/")
    }

    /// The code without what is only compiled for tests at the end of the file.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&self.text)
    }

    fn module(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or(&self.name)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() > 20, "the tree was not read");
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of src") {
        let path = entry.expect("an entry of src").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below src").to_string_lossy().replace('\\', "/");
            let text = fs::read_to_string(&path).expect("a source file");
            found.push(Source { path, name, text });
        }
    }
}

/// The crate's modules that a text names as `crate::NAME`.
fn used_modules(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for rest in line.split("crate::").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            used.insert(name);
        }
    }
    used.remove("");
    used
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn each_module_uses_only_what_it_may() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let module = source.module();
        let allowed: &[&str] = if LEAVES.contains(&module) {
            &[]
        } else if let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) {
            allowed
        } else if ["main", "lib", "bin", "cli", "commands"].contains(&module) {
            continue;
        } else {
            problems.push(format!("{}: the module {module} has no row in MAY_USE", source.name));
            continue;
        };
        for used in used_modules(source.code()) {
            if used != module && !LEAVES.contains(&used.as_str()) && !allowed.contains(&used.as_str()) {
                problems.push(format!("{}: {module} may not use {used}", source.name));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_taskscalers_core_knows_nothing_outside() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.name.starts_with("taskscaler/core/") && !source.is_test()) {
        for word in ["tokio", "crate::config", "crate::fleeting", "crate::journal", "tracing::"] {
            if source.code().contains(word) {
                problems.push(format!("{}: {word}", source.name));
            }
        }
    }
    report(&problems);
}

#[test]
fn deciders_do_not_wait() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        if DECIDERS.iter().any(|decider| source.name.starts_with(decider)) {
            let code = source.code().lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in
                code.enumerate().filter(|(_, line)| line.contains("async ") || line.contains(".await"))
            {
                problems.push(format!("{}:{number}: {}", source.name, line.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut problems = Vec::new();
    for source in sources() {
        if !source.is_test() && !source.text.starts_with("//!") {
            problems.push(format!("{}: no //! at the top", source.path.display()));
        }
        let lines = source.text.lines().count();
        if lines > LONGEST_FILE && !source.is_test() {
            problems.push(format!("{}: {lines} lines", source.name));
        }
        for banned in ["util", "utils", "common", "helpers", "misc"] {
            if source.name.split(['/', '.']).any(|part| part == banned) {
                problems.push(format!("{}: a module named {banned}", source.name));
            }
        }
    }
    report(&problems);
}

#[test]
fn one_module_alone_knows_each_outside_thing() {
    // (crate, who may name it)
    let owners: &[(&str, &[&str])] = &[
        ("toml::", &["config"]),
        ("toml_edit::", &["config"]),
        ("bollard::", &["executors/docker"]),
        ("russh::", &["fleeting/connector", "fleeting/group.rs", "fleeting/host_keys.rs", "fleeting/local"]),
        ("aws_sdk_", &["fleeting/aws"]),
        ("redb::", &["journal"]),
        ("axum::", &["admin", "sandbox"]),
        ("prometheus::", &["admin", "manager/metrics", "manager/observe.rs"]),
        ("std::env::var", &["commands", "main.rs", "bin"]),
    ];
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (name, allowed) in owners {
            let named = source.code().lines().any(|line| !line.trim_start().starts_with("//") && line.contains(name));
            if named && !allowed.iter().any(|owner| source.name.starts_with(owner)) {
                problems.push(format!("{}: names {name}", source.name));
            }
        }
    }
    report(&problems);
}

/// Adding a provider touches its folder, the registry, the settings and the feature list, and nothing else: what follows
/// from the kind of a group is asked of its facts.
#[test]
fn only_providers_and_their_registry_know_which_provider_a_group_has() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let may = ["config/", "fleeting/"].iter().any(|room| source.name.starts_with(room));
        let names = ["PluginConfig::", "Plugin::"].iter().any(|name| source.code().contains(name));
        if names && !may {
            problems.push(format!("{}: chooses by the kind of provider", source.name));
        }
    }
    report(&problems);
}

#[test]
fn one_tls_stack_and_one_crypto_provider() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("\nrustls v"), "the tree was not read");
    for banned in ["openssl-sys", "native-tls", "ring", "async-std"] {
        assert!(!tree.contains(&format!("\n{banned} v")), "{banned} came in: cargo tree -i {banned}");
    }
}

#[test]
fn the_map_names_every_module() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("src/lib.rs");
    let map: String = lib.lines().filter(|line| line.starts_with("//!")).collect();
    for line in lib.lines() {
        if let Some(module) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            assert!(map.contains(&format!("`{module}`")), "src/lib.rs: the map does not name `{module}`");
        }
    }
}
