//! `--version` in the reference's lines: scripts probe it, and the compatible version stands where they look.

use crate::gitlab::{COMPATIBLE_VERSION, REVISION};

/// What `--version` prints.
pub fn version_text() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        system => system,
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        architecture => architecture,
    };
    let lines = [
        ("Version:", COMPATIBLE_VERSION),
        ("Git revision:", REVISION),
        ("Git branch:", "flotilla"),
        ("GO version:", "none (Rust)"),
        ("Built:", "unknown"),
        ("OS/Arch:", &format!("{system}/{architecture}")),
    ];
    lines.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_scripts_read_are_there() {
        let text = version_text();
        assert!(text.starts_with(&format!("Version:      {COMPATIBLE_VERSION}\nGit revision: flotilla-")), "{text}");
        let names: Vec<_> = text.lines().map(|line| line.split_once(':').unwrap().0).collect();
        assert_eq!(names, ["Version", "Git revision", "Git branch", "GO version", "Built", "OS/Arch"]);
    }
}
