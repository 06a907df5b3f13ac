//! Values of documents that stand for the operator's own, such as `<token>`.

/// Whether a value still has to be filled in.
pub fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    let bracketed = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    bracketed.is_some_and(|inner| !inner.is_empty() && !inner.contains(['<', '>', '\n']))
        || text == "__REDACTED__"
        || text == "XXXX"
        || text.ends_with("=XXXX")
        || text.ends_with("=__REDACTED__")
}

#[cfg(test)]
mod tests {
    use super::is_placeholder;

    #[test]
    fn only_what_documents_write_is_a_placeholder() {
        for text in ["<token>", "<URL of your GitLab instance>", "__REDACTED__", "XXXX", "amazonec2-access-key=XXXX"] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["", "<>", "glrt-x", "a < b > c", "<a><b>", "XXXXY", "cat <file >other"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
