//! Which parts of a file must not be shown: values of secret keys and the logins of URLs, found in the text alone.
//!
//! A broken file has no tree, or a wrong one: a token whose quote is missing is part of no value. What this scan finds
//! is covered before any line of a file is shown, whatever the parser made of the file. In doubt it covers too much.

use crate::config::diagnostics::Span;

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

/// Keys in lower case that hold commands, in which operators write secrets too.
const COMMAND_KEYS: [&str; 3] = ["command", "entrypoint", "instance_ready_command"];

/// What tokens of GitLab begin with, with the default prefixes.
const TOKEN_PREFIXES: [&str; 8] = ["glrt-", "glrtr-", "glpat-", "gldt-", "glcbt-", "glptt-", "glft-", "GR1348941"];

/// What stands in the place of a login.
const REDACTED: &str = "[redacted]";

/// Whether what stands under this key, in any case, must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let sounds_secret = key.ends_with("token") || key.contains("password") || key.contains("secret");
    SECRET_KEYS.contains(&key.as_str()) || (sounds_secret && !key.starts_with("ff_"))
}

/// Whether a difference of two files says only that this value has changed: secrets, scripts and commands.
pub(crate) fn is_hidden_in_differences(key: &str) -> bool {
    let lower = key.to_lowercase();
    is_secret(key) || lower.contains("script") || COMMAND_KEYS.contains(&lower.as_str())
}

/// The text with `[redacted]` in the place of each URL's user and password.
pub(crate) fn without_logins(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut end = 0;
    for span in logins(text) {
        shown.push_str(text.get(end..span.start).unwrap_or_default());
        shown.push_str(REDACTED);
        end = span.end;
    }
    shown.push_str(text.get(end..).unwrap_or_default());
    shown
}

/// The users and passwords of all URLs of a text, each without its `@`; of those too whose scheme is missing.
fn logins(text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    let mut start = 0;
    for part in text.split_inclusive(|letter: char| letter.is_whitespace() || "\"'`,<>".contains(letter)) {
        found.extend(login(part).map(|span| start + span.start..start + span.end));
        start += part.len();
    }
    found
}

fn login(part: &str) -> Option<Span> {
    if let Some(scheme) = part.find("://") {
        let start = scheme + "://".len();
        // A password may contain what should have been escaped in it: the last `@` ends it.
        let end = part.rfind('@').filter(|end| *end > start)?;
        return Some(start..end);
    }
    let (before, after) = part.rsplit_once('@')?;
    // `name:tag@sha256:…` is an image.
    let is_digest = ["sha256:", "sha512:"].iter().any(|kind| after.starts_with(kind));
    (before.contains(':') && !is_digest).then_some(0..before.len())
}

/// Everything of a file's text that must not be shown.
pub(crate) fn secrets(text: &str) -> Vec<Span> {
    let mut scan = Scan { found: logins(text), ..Scan::default() };
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        scan.line(line, start);
        start += line.len();
    }
    scan.found
}

/// What the lines so far leave open.
#[derive(Debug, Default)]
struct Scan {
    found: Vec<Span>,
    /// The section's name sounds secret: all of its values are.
    in_secret_section: bool,
    open: Open,
}

/// What of a secret value goes on in the next line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    /// The key stands alone, or with `=`.
    Value,
    /// Text within these three quotes.
    Text(&'static str),
    /// So many brackets.
    Brackets(usize),
}

impl Scan {
    fn line(&mut self, line: &str, start: usize) {
        let content = line.trim_end();
        self.open = match self.open {
            Open::Text(quotes) => {
                self.cover(start, content.len());
                if content.contains(quotes) { Open::Nothing } else { Open::Text(quotes) }
            }
            Open::Brackets(_) | Open::Value if header(content).is_some() => self.fresh(content, start),
            Open::Brackets(depth) => {
                self.cover(start, content.len());
                match depth.checked_add_signed(brackets(content)) {
                    Some(0) | None => Open::Nothing,
                    Some(depth) => Open::Brackets(depth),
                }
            }
            Open::Value if content.trim().is_empty() => Open::Value,
            Open::Value if !assigns(content) => {
                self.cover(start, content.len());
                opened(content)
            }
            Open::Value | Open::Nothing => self.fresh(content, start),
        };
    }

    /// A line that continues nothing.
    fn fresh(&mut self, line: &str, start: usize) -> Open {
        if let Some(name) = header(line) {
            self.in_secret_section = name.split('.').any(|part| is_secret(part.trim_matches(['"', '\'', ' '])));
        }
        for (at, word) in words(line) {
            if TOKEN_PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
                self.cover(start + at, word.len());
            }
        }
        let Some(value) = secret_value(line, self.in_secret_section) else { return Open::Nothing };
        let after = line.get(value..).unwrap_or_default();
        let rest = after.trim_start();
        self.cover(start + value + after.len() - rest.len(), rest.len());
        if rest.is_empty() { Open::Value } else { opened(rest) }
    }

    fn cover(&mut self, start: usize, length: usize) {
        self.found.push(start..start + length);
    }
}

/// Where the value begins on a line with a secret key: after the `=`, or after a key without one.
fn secret_value(line: &str, in_secret_section: bool) -> Option<usize> {
    let words = words(line);
    let first = words.first().map(|(at, _)| *at);
    words.iter().find_map(|(at, word)| {
        let end = at + word.len();
        let key = word.rsplit('.').next().unwrap_or(word);
        let rest = line.get(end..)?;
        let after_quote = rest.trim_start_matches(['"', '\'']).trim_start();
        let is_key = after_quote.starts_with(['=', ':']);
        let stands_first = Some(*at) == first && header(line).is_none();
        let hides = is_secret(key) || in_secret_section;
        (hides && (is_key || stands_first)).then(|| {
            let sign = usize::from(is_key);
            end + rest.len() - after_quote.len() + sign
        })
    })
}

/// What a value that begins here leaves open at the end of its line.
fn opened(value: &str) -> Open {
    for quotes in ["\"\"\"", "'''"] {
        if let Some((_, rest)) = value.split_once(quotes) {
            return if rest.contains(quotes) { Open::Nothing } else { Open::Text(quotes) };
        }
    }
    usize::try_from(brackets(value)).map_or(Open::Nothing, |depth| match depth {
        0 => Open::Nothing,
        depth => Open::Brackets(depth),
    })
}

/// Brackets opened less brackets closed, outside of quotes.
fn brackets(text: &str) -> isize {
    let mut quote = None;
    let mut depth = 0;
    let mut is_escaped = false;
    for letter in text.chars() {
        match (quote, letter) {
            (Some('"'), '\\') if !is_escaped => {
                is_escaped = true;
                continue;
            }
            (Some(open), letter) if open == letter && !is_escaped => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, '#') => break,
            (None, _) => {}
        }
        is_escaped = false;
    }
    depth
}

/// The name of `[name]` or `[[name]]`.
fn header(line: &str) -> Option<&str> {
    let line = line.trim().split('#').next()?.trim_end();
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).trim();
    let is_name = |letter: char| letter.is_alphanumeric() || "_-. ".contains(letter);
    (name.starts_with(char::is_alphabetic) && name.chars().all(is_name)).then_some(name)
}

/// Whether the line begins with a bare key and `=`.
fn assigns(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty() && key.chars().all(|letter| letter.is_alphanumeric() || "_-.".contains(letter))
    })
}

/// The words of a line, of the letters that keys and tokens have, with their places.
fn words(line: &str) -> Vec<(usize, &str)> {
    let is_part = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    let mut found = Vec::new();
    let mut start = None;
    for (at, letter) in line.char_indices().chain([(line.len(), ' ')]) {
        match start {
            None if is_part(letter) => start = Some(at),
            Some(from) if !is_part(letter) => {
                found.extend(line.get(from..at).map(|word| (from, word)));
                start = None;
            }
            None | Some(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn logins_of_urls_are_replaced_and_all_else_stays() {
        for (text, expected) in [
            ("https://user:pass@host/x", "https://[redacted]@host/x"),
            ("https://user:p@ss/w#o?rd@host", "https://[redacted]@host"),
            ("\"ssh://git@a\", \"https://b/c@d\"", "\"ssh://[redacted]@a\", \"https://[redacted]@d\""),
            ("url = \"me:pass@host\"", "url = \"[redacted]@host\""),
            ("git@host:path", "git@host:path"),
            ("alpine:3@sha256:00", "alpine:3@sha256:00"),
            ("https://host me@example.com", "https://host me@example.com"),
            ("https://@host", "https://@host"),
            ("://", "://"),
        ] {
            assert_eq!(without_logins(text), expected);
        }
    }

    /// The file with all that must not be shown taken out.
    fn check(text: &str, shown: &str) {
        let spans = secrets(text);
        let left: String =
            text.char_indices().filter(|(at, _)| !spans.iter().any(|span| span.contains(at))).map(|(_, c)| c).collect();
        assert_eq!(left, shown, "{text}");
    }

    #[test]
    fn values_of_secret_keys_are_found_where_the_file_is_no_toml() {
        for (text, shown) in [
            ("token = \"x\"\nname = \"a\"", "token = \nname = \"a\""),
            ("token = \"x", "token = "),
            ("token x\nname = 1", "token \nname = 1"),
            ("token\nname = 1", "token\nname = 1"),
            ("token =\n\"x\"\nname = 1", "token =\n\nname = 1"),
            ("\"token\" = x", "\"token\" = "),
            ("runners.0.token = x", "runners.0.token = "),
            ("a = { name = \"n\", token = \"x\" }", "a = { name = \"n\", token = "),
            ("token = \"\"\"\nx\n[y]\nz=1\n\"\"\"\nname = 1", "token = \n\n\n\n\nname = 1"),
            ("environment = [\n\"A=x\",\n\"B=y]\"\n]\nname = 1", "environment = \n\n\n\nname = 1"),
            ("environment = [\n\"A=x\"\n[runners.docker]\nimage = 1", "environment = \n\n[runners.docker]\nimage = 1"),
            ("[x.nesting_config]\nany = \"x\"\n[y]\nany = \"x\"", "[x.nesting_config]\nany = \n[y]\nany = \"x\""),
            ("name = glrt-x y", "name =  y"),
            ("url = \"https://me:x@host\"", "url = \"https://@host\""),
            ("token_expires_at = 1", "token_expires_at = 1"),
        ] {
            check(text, shown);
        }
    }
}
