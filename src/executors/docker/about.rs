//! What an engine says of itself, and whether we can work with it.

use bollard::ClientVersion;
use bollard::models::SystemVersion;

use super::client::API_VERSION;
use crate::job::failure::Fault;

/// An engine that takes our requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// Of its machine, as Go names it, where it says so.
    pub(crate) architecture: Option<String>,
}

impl About {
    /// # Errors
    /// It is too old, or runs containers of another kind. Another instance of the group is no better.
    pub(crate) fn of(said: &SystemVersion) -> Result<Self, Fault> {
        let version = said.version.as_deref().unwrap_or("unknown");
        let api = said.api_version.as_deref().unwrap_or_default();
        let (needed_major, needed_minor) = (API_VERSION.major_version, API_VERSION.minor_version);
        let Some(spoken) = parse(api) else {
            return Err(Fault::configuration(format!(
                "the Docker Engine speaks the API version {api:?}, which is none"
            )));
        };
        if (spoken.major_version, spoken.minor_version) < (needed_major, needed_minor) {
            return Err(Fault::configuration(format!(
                "the Docker Engine {version} speaks API {api}, and {needed_major}.{needed_minor} is needed: \
                 upgrade it to Docker 19.03 or later"
            )));
        }
        match said.os.as_deref() {
            Some("linux" | "") | None => {}
            Some(os) => {
                return Err(Fault::configuration(format!(
                    "unsupported os type: {os}. The Docker Engine must run Linux containers"
                )));
            }
        }
        Ok(Self { architecture: said.arch.clone().filter(|architecture| !architecture.is_empty()) })
    }
}

fn parse(version: &str) -> Option<ClientVersion> {
    let (major, minor) = version.split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_are_too_old_or_of_another_system_are_told_with_what_to_do() {
        let check = |api: &str, os: &str, refusal: Option<&str>| {
            let text = |text: &str| Some(text.to_owned());
            let said = SystemVersion {
                version: text("18.06"),
                api_version: text(api),
                os: text(os),
                arch: text("arm64"),
                ..SystemVersion::default()
            };
            match (About::of(&said), refusal) {
                (Ok(about), None) => assert_eq!(about.architecture.as_deref(), Some("arm64")),
                (Err(fault), Some(said)) => assert!(fault.message.contains(said), "{fault:?}"),
                (result, _) => panic!("{api} {os}: {result:?}"),
            }
        };
        check("1.40", "linux", None);
        check("1.51", "linux", None);
        check("2.0", "linux", None);
        check("1.38", "linux", Some("speaks API 1.38, and 1.40 is needed: upgrade it"));
        check("1.9", "linux", Some("1.40 is needed"));
        check("new", "linux", Some("which is none"));
        check("1.41", "windows", Some("unsupported os type: windows"));
    }
}
