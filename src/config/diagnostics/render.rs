//! The two forms of output: text with the lines of the file, and JSON.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::json;

use super::{Diagnostic, Diagnostics, Severity, Source};

/// Whether text output has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Coloured,
}

impl Diagnostics {
    /// Every problem with its line of the file, a blank line between two; ends with a line break unless empty.
    pub fn to_text(&self, source: &Source, style: Style) -> String {
        let covered = source.covered(&self.secrets);
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        for item in self.items() {
            let path = source.path().to_string_lossy();
            text.push_str(&renderer.render(&[item.group(&covered, &path)]));
            text.push_str("\n\n");
        }
        text.truncate(text.trim_end().len() + usize::from(!text.is_empty()));
        text
    }

    /// An array with one object a problem.
    pub fn to_json(&self, source: &Source) -> serde_json::Value {
        self.items().iter().map(|item| item.to_json(source)).collect()
    }
}

impl Diagnostic {
    fn group<'a>(&'a self, text: &'a str, path: &'a str) -> Group<'a> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let span = self.spot.span.start.min(text.len())..self.spot.span.end.min(text.len());
        let snippet = Snippet::source(text).path(path).annotation(AnnotationKind::Primary.span(span));
        let title = format!("{}: {}", self.spot.path, self.message);
        let group = level.primary_title(title).element(snippet);
        match &self.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }

    fn to_json(&self, source: &Source) -> serde_json::Value {
        let (line, column) = source.position(self.spot.span.start);
        json!({
            "severity": self.severity.as_str(),
            "file": source.path().to_string_lossy(),
            "line": line,
            "column": column,
            "key": self.spot.path.shown(),
            "message": self.message,
            "help": self.help,
        })
    }
}
