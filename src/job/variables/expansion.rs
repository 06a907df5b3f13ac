//! `$NAME` and `${NAME}` in a value, the way Go's `os.Expand` reads them: no defaults, no escapes, and
//! the shell's special parameters are empty.

/// `text` with each reference replaced by what `value_of` says.
pub(super) fn expand(text: &str, value_of: impl Fn(&str) -> String) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (reference, remainder) = Reference::parse(after);
        match reference {
            Reference::Name(name) => expanded.push_str(&value_of(name)),
            Reference::Dollar => expanded.push('$'),
            Reference::Nothing => {}
        }
        rest = remainder;
    }
    expanded.push_str(rest);
    expanded
}

enum Reference<'a> {
    Name(&'a str),
    /// `$$`, or a dollar that begins no reference.
    Dollar,
    /// A special parameter, or braces that hold no name.
    Nothing,
}

impl<'a> Reference<'a> {
    /// Reads what follows a dollar; returns the text after the reference too.
    fn parse(after: &'a str) -> (Self, &'a str) {
        if let Some(inner) = after.strip_prefix('{') {
            return match inner.split_once('}') {
                None => (Self::Nothing, inner),
                Some(("", remainder)) => (Self::Nothing, remainder),
                Some((name, remainder)) => (Self::of(name), remainder),
            };
        }
        let length = match after.bytes().next() {
            Some(byte) if is_special(byte) => 1,
            _ => after.bytes().take_while(|byte| *byte == b'_' || byte.is_ascii_alphanumeric()).count(),
        };
        match after.split_at_checked(length) {
            Some((name, remainder)) if length > 0 => (Self::of(name), remainder),
            _ => (Self::Dollar, after),
        }
    }

    fn of(name: &'a str) -> Self {
        match name.as_bytes() {
            [b'$'] => Self::Dollar,
            [byte] if is_special(*byte) => Self::Nothing,
            _ => Self::Name(name),
        }
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9')
}
