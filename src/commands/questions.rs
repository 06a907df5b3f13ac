//! Asking the person at the terminal, or taking what the command line says where nobody may be asked.

use std::io::Write;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// A line longer than this is no answer.
const LONGEST_ANSWER: usize = 64 << 10;

/// Where answers come from.
pub(super) struct Questions<R, W> {
    input: R,
    output: W,
    may_ask: bool,
}

/// One thing to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) text: &'a str,
    /// How the command line answers it.
    pub(super) flag: &'a str,
    /// What an empty answer means.
    pub(super) default: Option<&'a str>,
    pub(super) is_required: bool,
}

impl<R: AsyncBufRead + Unpin, W: Write> Questions<R, W> {
    /// With `may_ask` false, only defaults answer.
    pub(super) fn new(input: R, output: W, may_ask: bool) -> Self {
        Self { input, output, may_ask }
    }

    pub(super) fn may_ask(&self) -> bool {
        self.may_ask
    }

    /// The answer; asked again while it is empty and must not be.
    ///
    /// # Errors
    /// Nobody may be asked and there is no default, or nobody answers.
    pub(super) async fn ask(&mut self, question: Question<'_>) -> anyhow::Result<String> {
        let default = question.default.unwrap_or_default();
        loop {
            let answer = if self.may_ask { self.answer(question).await? } else { String::new() };
            let answer = if answer.is_empty() { default.to_owned() } else { answer };
            if !answer.is_empty() || !question.is_required {
                return Ok(answer);
            }
            if !self.may_ask {
                bail!("{} is needed", question.flag);
            }
        }
    }

    async fn answer(&mut self, question: Question<'_>) -> anyhow::Result<String> {
        writeln!(self.output, "{}", question.text)?;
        if let Some(default) = question.default {
            write!(self.output, "[{default}]: ")?;
        }
        self.output.flush()?;
        let mut line = Vec::new();
        let mut limited = tokio::io::AsyncReadExt::take(&mut self.input, LONGEST_ANSWER as u64);
        let read = limited.read_until(b'\n', &mut line).await.context("reading the answer")?;
        if read == 0 {
            bail!("no answer: {} says it without a question", question.flag);
        }
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question<'_> = Question { text: "Which?", flag: "--which", default: None, is_required: true };

    async fn check(input: &str, question: Question<'_>) -> (Option<String>, String) {
        let mut output = Vec::new();
        let answer = Questions::new(input.as_bytes(), &mut output, true).ask(question).await.ok();
        (answer, String::from_utf8(output).unwrap())
    }

    #[tokio::test]
    async fn an_empty_answer_is_the_default_or_asked_again() {
        let answered = |text: &str| Some(text.to_owned());
        assert_eq!(check(" this \n", QUESTION).await, (answered("this"), "Which?\n".to_owned()));
        assert_eq!(check("\n\nthat\n", QUESTION).await, (answered("that"), "Which?\n".repeat(3)));
        let default = Question { default: Some("it"), ..QUESTION };
        assert_eq!(check("\n", default).await, (answered("it"), "Which?\n[it]: ".to_owned()));
        let optional = Question { is_required: false, ..QUESTION };
        assert_eq!(check("\n", optional).await.0, answered(""));
    }

    #[tokio::test]
    async fn the_end_of_the_input_is_no_answer() {
        assert_eq!(check("", QUESTION).await.0, None);
    }

    #[tokio::test]
    async fn who_may_not_be_asked_is_told_which_flag_is_missing() {
        let mut questions = Questions::new(&b"never read\n"[..], Vec::new(), false);
        assert_eq!(questions.ask(QUESTION).await.unwrap_err().to_string(), "--which is needed");
        assert_eq!(questions.ask(Question { default: Some("it"), ..QUESTION }).await.unwrap(), "it");
        assert!(questions.output.is_empty());
    }
}
