//! Which values of a file must not be shown, in whatever section they stand.

use crate::config::diagnostics::Diagnostics;
use crate::config::raw::tree::{Node, Value};

/// Keys in lower case whose values are secret, or hold secrets beside other things.
const SECRET_KEYS: [&str; 9] = [
    "accesskey",
    "privatekey",
    "accountkey",
    "sentry_dsn",
    "environment",
    "machineoptions",
    "machineoptionswithname",
    "nesting_config",
    "volume_driver_ops",
];

/// Whether what stands under this key, in any case, must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let sounds_secret = key.ends_with("token") || key.contains("password") || key.contains("secret");
    SECRET_KEYS.contains(&key.as_str()) || (sounds_secret && !key.starts_with("ff_"))
}

/// Covers a text, or every text of a section or a list.
pub(crate) fn hide(node: &Node, diagnostics: &mut Diagnostics) {
    match &node.value {
        Value::Table(entries) => entries.iter().for_each(|entry| hide(&entry.node, diagnostics)),
        Value::List(items) => items.iter().for_each(|item| hide(item, diagnostics)),
        Value::Text(_) => diagnostics.hide(node.span.clone()),
        Value::Integer(_) | Value::Oversized(_) | Value::Float(_) | Value::Boolean(_) | Value::Date(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn keys_that_hold_secrets_are_known_in_any_section_and_case() {
        for key in
            ["token", "bearer_token", "SessionToken", "SecretKey", "AccessKey", "registry_password", "MachineOptions"]
        {
            assert!(is_secret(key), "{key}");
        }
        for key in ["image", "token_expires_at", "key_path", "FF_SECRET_RESOLVING_FAILS_IF_MISSING"] {
            assert!(!is_secret(key), "{key}");
        }
    }
}
