//! A job's trace as its reader sees it.

/// The lines with their colours as `(g)`, `(y)`, `(r)`, `(c)` and sections as `[+name]` and `[-name]` on lines of
/// their own; without timestamps. What the job wrote to stderr is marked with `2> `.
pub(crate) fn lines(trace: &str) -> Vec<String> {
    let mut shown = Vec::new();
    for line in whole_lines(trace) {
        let mut rest = line.as_str();
        while let Some((mark, after)) = section_mark(rest) {
            shown.push(mark);
            rest = after;
        }
        if !rest.is_empty() || line.is_empty() {
            shown.push(coloured(rest));
        }
    }
    shown
}

/// Lines of more than one record are put together again: `+` says that the one before goes on.
fn whole_lines(trace: &str) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for line in trace.strip_suffix('\n').unwrap_or(trace).split('\n') {
        match timestamped(line) {
            Some((true, text)) => match whole.last_mut() {
                Some(last) => last.push_str(text),
                None => whole.push(text.to_owned()),
            },
            Some((false, text)) if is_stderr(line) => whole.push(format!("2> {text}")),
            Some((false, text)) => whole.push(text.to_owned()),
            None => whole.push(line.to_owned()),
        }
    }
    whole
}

/// `2026-11-21T01:07:45.859936Z 00O ` or, where the line before goes on, `…O+`; then the text.
fn timestamped(line: &str) -> Option<(bool, &str)> {
    let (time, rest) = line.split_once("Z ")?;
    if time.len() != "2026-11-21T01:07:45.859936".len() || !time.starts_with("20") {
        return None;
    }
    let (head, text) = rest.split_at_checked(4)?;
    match head.as_bytes() {
        [_, _, b'O' | b'E', b'+'] => Some((true, text)),
        [_, _, b'O' | b'E', b' '] => Some((false, text)),
        _ => None,
    }
}

fn is_stderr(line: &str) -> bool {
    line.split_once("Z ").is_some_and(|(_, rest)| rest.get(2..3) == Some("E"))
}

/// `section_start:1795223265:prepare_executor\r␛[0K` and what follows it.
fn section_mark(text: &str) -> Option<(String, &str)> {
    let (sign, rest) = match text.strip_prefix("section_start:") {
        Some(rest) => ('+', rest),
        None => ('-', text.strip_prefix("section_end:")?),
    };
    let (mark, after) = rest.split_once("\r\x1b[0K")?;
    let (_, name) = mark.split_once(':')?;
    Some((format!("[{sign}{name}]"), after))
}

fn coloured(text: &str) -> String {
    let colours = [("32;1", "(g) "), ("0;33", "(y) "), ("33;1", "(y) "), ("31;1", "(r) "), ("36;1", "(c) ")];
    let mut text = text.replace("\x1b[0K", "").replace("\x1b[0;m", "");
    for (code, name) in colours {
        text = text.replace(&format!("\x1b[{code}m"), name);
    }
    text
}
