//! Who this program says it is.

/// The version of GitLab Runner whose behaviour this program has: told to GitLab, shown in traces and
/// used as the tag of upstream's helper image.
pub const COMPATIBLE_VERSION: &str = "19.4.0";

/// Our own name and version, as they stand beside [`COMPATIBLE_VERSION`].
pub const REVISION: &str = concat!("flotilla-", env!("CARGO_PKG_VERSION"));

/// The operating system as Go names it.
pub(super) fn platform() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// The processor's architecture as Go names it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// As the reference's, with ourselves in the place of its branch.
pub(super) fn user_agent() -> String {
    format!("gitlab-runner {COMPATIBLE_VERSION} ({REVISION}; rust; {}/{})", platform(), architecture())
}
