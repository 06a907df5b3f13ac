//! `plugin`: the provider of an instance group.
//!
//! The reference installs plugins from a registry; ours are compiled in, so every spelling of a known plugin
//! names the provider and a version is ignored.

use std::fmt;

/// A provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    Aws,
    GoogleCloud,
    Azure,
    Static,
    Local,
}

/// Every short name, with what it means.
const NAMES: [(&str, Plugin); 6] = [
    ("aws", Plugin::Aws),
    ("googlecloud", Plugin::GoogleCloud),
    ("googlecompute", Plugin::GoogleCloud),
    ("azure", Plugin::Azure),
    ("static", Plugin::Static),
    ("local", Plugin::Local),
];

/// What the reference puts before a binary's name.
const BINARY_PREFIX: &str = "fleeting-plugin-";

/// Where the reference's own plugins lie.
const REPOSITORY: &str = "gitlab-org/fleeting/plugins/";
const REGISTRY: &str = "registry.gitlab.com/";

impl Plugin {
    /// The providers, by the name to write.
    pub const ALL: [Self; 5] = [Self::Aws, Self::GoogleCloud, Self::Azure, Self::Static, Self::Local];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::GoogleCloud => "googlecloud",
            Self::Azure => "azure",
            Self::Static => "static",
            Self::Local => "local",
        }
    }

    /// Reads `[[registry/]repository/]name[:constraint]`; the constraint is given back to be mentioned.
    pub fn parse(text: &str) -> Result<(Self, Option<&str>), UnknownPlugin> {
        let (reference, constraint) = match text.rsplit_once(':') {
            Some((reference, constraint)) if !constraint.contains('/') => (reference, Some(constraint)),
            _ => (text, None),
        };
        let name = reference.strip_prefix(REGISTRY).unwrap_or(reference);
        let name = name.strip_prefix(REPOSITORY).unwrap_or(name);
        let name = name.strip_prefix(BINARY_PREFIX).unwrap_or(name);
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, plugin)| (*plugin, constraint)).ok_or(UnknownPlugin)
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the providers are aws, googlecloud, azure, static and local")]
pub struct UnknownPlugin;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_its_provider() {
        for (text, plugin, constraint) in [
            ("aws", Plugin::Aws, None),
            ("aws:latest", Plugin::Aws, Some("latest")),
            ("fleeting-plugin-aws", Plugin::Aws, None),
            ("gitlab-org/fleeting/plugins/aws:1.2", Plugin::Aws, Some("1.2")),
            ("registry.gitlab.com/gitlab-org/fleeting/plugins/azure:1", Plugin::Azure, Some("1")),
            ("googlecloud", Plugin::GoogleCloud, None),
            ("fleeting-plugin-googlecloud", Plugin::GoogleCloud, None),
            ("fleeting-plugin-googlecompute", Plugin::GoogleCloud, None),
            ("fleeting-plugin-static", Plugin::Static, None),
            ("local", Plugin::Local, None),
        ] {
            assert_eq!(Plugin::parse(text), Ok((plugin, constraint)), "{text}");
        }
    }

    #[test]
    fn what_is_not_compiled_in_is_unknown() {
        for text in
            ["", "AWS", "openstack", "example.com/team/aws", "registry.example:5000/aws", "fleeting-plugin-", ":1"]
        {
            assert_eq!(Plugin::parse(text), Err(UnknownPlugin), "{text}");
        }
    }

    #[test]
    fn names_round_trip() {
        for plugin in Plugin::ALL {
            assert_eq!(Plugin::parse(plugin.as_str()), Ok((plugin, None)));
        }
    }
}
