//! Ids and names that an engine answers with, before they become part of the next request's path.
//!
//! `bollard` writes them into URLs as they are, and URLs resolve `..`: an answer must not choose which path the next
//! request goes to.

use crate::job::failure::Fault;

/// The id of a container, exec or network, or the name of a volume, if it is one segment of a path that needs no
/// encoding: letters, digits, `_`, `.` and `-` after a letter or digit, as Docker's own names are.
///
/// # Errors
/// It is anything else.
pub(crate) fn checked(id: String) -> Result<String, Fault> {
    let begins_right = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_right && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
        return Ok(id);
    }
    Err(Fault::unclassified(format!("the engine answers with an id that no engine gives: {id:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_that_would_lead_to_another_path_is_refused() {
        for id in ["0a1b2c", "runner-x-project-1-concurrent-0-build", "flotilla_a.b"] {
            assert_eq!(checked(id.to_owned()).unwrap(), id);
        }
        for id in ["", ".", "..", "../images/x", "a/b", "a\\b", "a%2e", "a?force=1", "a#", "a b", "a\n", "ä"] {
            assert!(checked(id.to_owned()).is_err(), "{id:?}");
        }
    }
}
