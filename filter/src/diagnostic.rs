//! What is wrong with a rules file, and where.

use std::fmt;
use std::ops::Range;

/// One complaint about a rules file, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The bytes of the text that it is about, for a caret.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What was expected instead, or what would help.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(text: &str, problem: Problem) -> Self {
        let Problem { span, message, help } = problem;
        let start = span.start.min(text.len());
        let head = text.get(..start).unwrap_or(text);
        let line_start = head.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: head.matches('\n').count() + 1,
            column: head[line_start..].chars().count() + 1,
            span: start..span.end.min(text.len()).max(start),
            message,
            help,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// A complaint on its way to becoming a [`Diagnostic`].
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl Problem {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

pub(crate) type Outcome<T> = Result<T, Problem>;
