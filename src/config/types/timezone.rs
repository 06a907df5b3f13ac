//! Time zones of periods: the system's, UTC, or one by its IANA name.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A time zone with the name that the file gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Timezone {
    name: String,
    zone: TimeZone,
}

impl Timezone {
    /// The zone of this machine.
    pub fn system() -> Self {
        Self { name: "Local".to_owned(), zone: TimeZone::system() }
    }

    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// `Local`, `UTC` or the IANA name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The calendar and clock of this zone at a time. A time outside of the calendar counts as 1970.
    pub fn local(&self, utc: SystemTime) -> DateTime {
        self.zone.to_datetime(Timestamp::try_from(utc).unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

impl Default for Timezone {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Display for Timezone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Timezone {
    type Err = TimezoneError;

    /// Empty and `Local` are the system's zone.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "Local" => Ok(Self::system()),
            "UTC" => Ok(Self::utc()),
            name => match TimeZone::get(name) {
                Ok(zone) => Ok(Self { name: name.to_owned(), zone }),
                Err(_) => Err(TimezoneError),
            },
        }
    }
}

/// The name is in no list of zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such time zone")]
pub struct TimezoneError;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(unix_seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds)
    }

    #[test]
    fn iana_names_follow_their_summer_time() {
        let berlin: Timezone = "Europe/Berlin".parse().unwrap();
        // 2026-01-15 and 2026-07-15, both 12:00 UTC.
        assert_eq!(berlin.local(at(1_768_478_400)).hour(), 13);
        assert_eq!(berlin.local(at(1_784_116_800)).hour(), 14);
    }

    #[test]
    fn empty_and_local_are_the_system_zone() {
        assert_eq!("".parse::<Timezone>().unwrap(), Timezone::system());
        assert_eq!("Local".parse::<Timezone>().unwrap(), Timezone::system());
        assert_eq!("UTC".parse::<Timezone>().unwrap().local(at(0)).hour(), 0);
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["Europe/Berlinn", "CEST+2", "utc+1", "../etc/passwd"] {
            assert!(name.parse::<Timezone>().is_err(), "{name}");
        }
    }
}
