//! Parts of a benchmark that words on its command line choose; without words all of them are.

pub(crate) fn is_chosen(part: &str) -> bool {
    // Cargo adds flags of its own.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| word == part)
}
