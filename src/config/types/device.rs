//! `devices`: `host[:container[:permissions]]`.

use std::str::FromStr;

/// A device of the engine's host in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub host: String,
    /// The host's path where the file has none.
    pub container: String,
    /// Some of `r`, `w` and `m`; all three where the file has none.
    pub permissions: String,
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let host = parts.next().filter(|host| !host.is_empty()).ok_or(DeviceError::Empty)?;
        let container = parts.next().unwrap_or(host);
        let permissions = parts.next().unwrap_or("rwm");
        if parts.next().is_some() {
            return Err(DeviceError::Parts);
        }
        if permissions.is_empty() || !permissions.chars().all(|letter| "rwm".contains(letter)) {
            return Err(DeviceError::Permissions { found: permissions.to_owned() });
        }
        Ok(Self { host: host.to_owned(), container: container.to_owned(), permissions: permissions.to_owned() })
    }
}

/// Why a text is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("it names no device")]
    Empty,
    #[error("it has more than three parts")]
    Parts,
    #[error("permissions are some of r, w and m, not {found:?}")]
    Permissions { found: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_follow_the_host() {
        for (text, container, permissions) in [
            ("/dev/kvm", "/dev/kvm", "rwm"),
            ("/dev/kvm:/dev/x", "/dev/x", "rwm"),
            ("/dev/kvm:/dev/x:r", "/dev/x", "r"),
        ] {
            let expected =
                Device { host: "/dev/kvm".into(), container: container.into(), permissions: permissions.into() };
            assert_eq!(text.parse(), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert_eq!("".parse::<Device>(), Err(DeviceError::Empty));
        assert_eq!("a:b:r:w".parse::<Device>(), Err(DeviceError::Parts));
        assert_eq!("a:b:rx".parse::<Device>(), Err(DeviceError::Permissions { found: "rx".into() }));
        assert_eq!("a:b:".parse::<Device>(), Err(DeviceError::Permissions { found: String::new() }));
    }
}
