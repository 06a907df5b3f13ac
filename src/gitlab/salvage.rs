//! What can still be learned from a job that cannot be read: its number and token, so that GitLab can be
//! told that it failed instead of waiting for it. Pure.

use serde_json::Value;

use super::credentials::JobCredentials;
use crate::ids::JobId;

/// Finds `id` and `token` of the outermost object, also where the text breaks off later or is spoilt
/// after them. GitLab writes both first.
pub(super) fn credentials(body: &[u8]) -> Option<JobCredentials> {
    let mut fields = Fields { rest: body };
    let (mut id, mut token) = (None, None);
    while let Some((name, value)) = fields.next_field() {
        match name.as_str() {
            "id" => id = whole_number(&value),
            "token" => token = value.as_str().filter(|token| !token.is_empty()).map(str::to_owned),
            _ => {}
        }
        if let (Some(id), Some(token)) = (id, &token) {
            return Some(JobCredentials { id: JobId(id), token: token.clone().into() });
        }
    }
    None
}

fn whole_number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Fields of one object, as far as they are well formed.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn next_field(&mut self) -> Option<(String, Value)> {
        self.skip(b"{, \t\r\n");
        let name = self.value()?.as_str()?.to_owned();
        self.skip(b": \t\r\n");
        Some((name, self.value()?))
    }

    fn skip(&mut self, bytes: &[u8]) {
        let count = self.rest.iter().take_while(|byte| bytes.contains(byte)).count();
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// The next value; a number at the very end may have lost digits and does not count.
    fn value(&mut self) -> Option<Value> {
        let mut values = serde_json::Deserializer::from_slice(self.rest).into_iter::<Value>();
        let value = values.next()?.ok()?;
        let read = values.byte_offset();
        self.rest = self.rest.get(read..).filter(|rest| !rest.is_empty())?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"id":42,"token":"glcbt-x","job_info":{"id":7,"token":"other"},"steps":[{"name":"script"}]}"#;

    fn found(body: &str) -> Option<(i64, String)> {
        credentials(body.as_bytes()).map(|job| (job.id.0, job.token.expose().to_owned()))
    }

    #[test]
    fn a_text_that_breaks_off_anywhere_after_the_token_still_names_the_job() {
        let token_ends = BODY.find("glcbt-x\"").unwrap() + "glcbt-x\"".len();
        for end in 0..=BODY.len() {
            let expected = (end > token_ends).then(|| (42, "glcbt-x".to_owned()));
            assert_eq!(found(BODY.get(..end).unwrap()), expected, "{end}");
        }
    }

    #[test]
    fn fields_inside_of_others_are_not_taken_for_the_jobs_own() {
        assert_eq!(
            found(r#"{"job_info":{"id":7,"token":"other"},"token":"glcbt-x","id":"42"}"#),
            Some((42, "glcbt-x".into()))
        );
        assert_eq!(found(r#"{"job_info":{"id":7,"token":"other"}}"#), None);
    }

    #[test]
    fn other_texts_name_no_job() {
        for body in [
            "",
            "[]",
            "null",
            "<html>",
            r#"{"id":1}"#,
            r#"{"id":1,"token":""}"#,
            r#"{"id":null,"token":"x"}"#,
            r#"{"id" "token"}"#,
        ] {
            assert_eq!(found(body), None, "{body}");
        }
    }
}
