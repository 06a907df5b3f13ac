//! `gpus`: one device request in the syntax of the `docker` command, a record of comma-separated values.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A request for devices of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// As in the file; GitLab is told this.
    pub text: String,
    pub driver: String,
    /// -1 is all of them; 0 where devices are named.
    pub count: i64,
    pub device_ids: Vec<String>,
    /// `gpu` where the file has none.
    pub capabilities: Vec<String>,
    pub options: BTreeMap<String, String>,
}

impl FromStr for Gpus {
    type Err = GpusError;

    /// `all`, a number, or `key=value` of device, driver, count, capabilities and options; a value with commas
    /// stands in double quotes, together with its key.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut request = Self {
            text: text.to_owned(),
            driver: String::new(),
            count: 0,
            device_ids: Vec::new(),
            capabilities: Vec::new(),
            options: BTreeMap::new(),
        };
        let mut count = None;
        let mut seen = Vec::new();
        for field in record(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.trim().to_ascii_lowercase(), value),
                None => ("count".to_owned(), field.as_str()),
            };
            if seen.contains(&key) {
                return Err(GpusError::Twice { key });
            }
            match key.as_str() {
                "driver" => request.driver = value.to_owned(),
                "count" => count = Some(count_of(value)?),
                "device" => request.device_ids = list(value),
                "capabilities" => request.capabilities = list(value),
                "options" => request.options = options(value)?,
                _ => return Err(GpusError::Key { key }),
            }
            seen.push(key);
        }
        if count.is_some() && !request.device_ids.is_empty() {
            return Err(GpusError::CountAndDevices);
        }
        request.count = count.unwrap_or_else(|| i64::from(request.device_ids.is_empty()));
        if request.capabilities.is_empty() {
            request.capabilities.push("gpu".to_owned());
        }
        Ok(request)
    }
}

fn count_of(text: &str) -> Result<i64, GpusError> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse().map_err(|_| GpusError::Count { found: text.to_owned() })
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn options(text: &str) -> Result<BTreeMap<String, String>, GpusError> {
    let mut options = BTreeMap::new();
    for item in list(text) {
        let (key, value) = item.split_once('=').unwrap_or((&item, ""));
        if options.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(GpusError::Twice { key: key.to_owned() });
        }
    }
    Ok(options)
}

/// Splits at commas outside of double quotes; the quotes go.
fn record(text: &str) -> Result<Vec<String>, GpusError> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(letter);
                }
            }
        }
    }
    if quoted { Err(GpusError::Quote) } else { Ok(fields) }
}

/// Why a text is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpusError {
    #[error("{found:?} is neither a number nor all")]
    Count { found: String },
    #[error("{key:?} is none of device, driver, count, capabilities, options")]
    Key { key: String },
    #[error("{key:?} stands there twice")]
    Twice { key: String },
    #[error("a count and named devices exclude each other")]
    CountAndDevices,
    #[error("a quote is not closed")]
    Quote,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, count: i64, devices: &[&str], capabilities: &[&str]) {
        let gpus: Gpus = text.parse().unwrap();
        assert_eq!(
            (gpus.count, gpus.device_ids, gpus.capabilities),
            (count, owned(devices), owned(capabilities)),
            "{text}"
        );
    }

    fn owned(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[test]
    fn counts_devices_and_capabilities_parse() {
        check("all", -1, &[], &["gpu"]);
        check("2", 2, &[], &["gpu"]);
        check("driver=nvidia", 1, &[], &["gpu"]);
        check("device=0", 0, &["0"], &["gpu"]);
        check("\"device=0,2\"", 0, &["0", "2"], &["gpu"]);
        check("all,\"capabilities=utility,compute\"", -1, &[], &["utility", "compute"]);
    }

    #[test]
    fn what_docker_rejects_is_rejected() {
        assert_eq!("many".parse::<Gpus>(), Err(GpusError::Count { found: "many".into() }));
        assert_eq!("1,count=2".parse::<Gpus>(), Err(GpusError::Twice { key: "count".into() }));
        assert_eq!("1,device=2".parse::<Gpus>(), Err(GpusError::CountAndDevices));
        assert_eq!("vendor=x".parse::<Gpus>(), Err(GpusError::Key { key: "vendor".into() }));
        assert_eq!("\"device=1".parse::<Gpus>(), Err(GpusError::Quote));
    }

    #[test]
    fn options_are_a_map() {
        let gpus: Gpus = "\"options=a=1,b\"".parse().unwrap();
        assert_eq!(gpus.options, BTreeMap::from([("a".into(), "1".into()), ("b".into(), String::new())]));
    }
}
