//! What is wrong with a command about sets, in ipset's words: programs look for them.

use std::ops::Range;

use crate::diagnostic::Problem;
use crate::lex::Word;

/// Why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub class: Class,
    pub message: String,
    /// Where it stands in the text, if one word is to blame.
    pub span: Option<Range<usize>>,
}

/// How ipset tells of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The command line isn't one: exit status 2.
    Usage,
    /// A word can't be read.
    Syntax,
    /// The sets as they are don't allow it.
    Refused,
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub fn usage(message: impl Into<String>) -> Self {
        Self { class: Class::Usage, message: message.into(), span: None }
    }

    pub fn syntax(message: impl Into<String>) -> Self {
        Self { class: Class::Syntax, message: message.into(), span: None }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self { class: Class::Refused, message: message.into(), span: None }
    }

    /// The word that is to blame, unless a part of it is known already.
    pub fn at(mut self, word: &Word) -> Self {
        self.span.get_or_insert_with(|| word.span.clone());
        self
    }

    /// The text behind the program's name.
    pub fn words(&self) -> String {
        match self.class {
            Class::Syntax => format!("Syntax error: {}", self.message),
            Class::Usage | Class::Refused => self.message.clone(),
        }
    }

    /// The same as a complaint about a file, of which the whole line is to blame if no word is.
    pub fn problem(self, line: Range<usize>) -> Problem {
        // Of several lines the last is the one that says it.
        let message = self.message.lines().next_back().unwrap_or_default().to_owned();
        Problem::new(self.span.unwrap_or(line), message)
    }
}
