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
    /// All problems of a text, with the places worked out.
    pub(crate) fn all(text: &str, problems: Vec<Problem>) -> Vec<Self> {
        let breaks: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        problems.into_iter().map(|problem| Self::new(text, &breaks, problem)).collect()
    }

    fn new(text: &str, breaks: &[usize], problem: Problem) -> Self {
        let Problem { span, message, help } = problem;
        let start = span.start.min(text.len());
        let line = breaks.partition_point(|at| *at < start);
        let line_start = line.checked_sub(1).and_then(|n| breaks.get(n)).map_or(0, |at| at + 1);
        let before = text.get(line_start..start).unwrap_or("");
        Self {
            line: line + 1,
            column: before.chars().count() + 1,
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
