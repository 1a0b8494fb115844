//! What is wrong with a rules file, and where.

use crate::ast::{ExtensionAst, OptionAst};
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
        let problem = problem.nearest_expected();
        let Problem { span, message, help, told: _ } = problem;
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
    pub told: Told,
}

/// How iptables puts a complaint: programs read its words and its exit status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Told {
    /// A mistake in the command line, in our words.
    #[default]
    Usage,
    /// A mistake in the command line, in iptables' words.
    Words(String),
    /// The same, without the program's name before it.
    Bare(String),
    /// The value of an option isn't a number, or none between these. Which option, only the reader
    /// of its rule can tell ([`Problem::of_option`]).
    Number(u64, u64),
    /// A file ends where more was to come.
    Unfinished,
    /// The line is right, and the rules as they are don't allow it.
    Refused(Refusal),
}

/// What libiptc calls the reasons that rules can't be changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoChain,
    NoBuiltin,
    NoRule,
    ChainExists,
    NameTaken,
    NotEmpty,
    Linked,
    NoInsertion,
    NoReplacement,
    NoDeletion,
    NoCounter,
    Policy,
    Loop,
    Invalid,
    OutOfRange,
}

impl Refusal {
    /// The text behind `iptables: `.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoChain => "No chain/target/match by that name.",
            Self::NoBuiltin => "Bad built-in chain name.",
            Self::NoRule => "Bad rule (does a matching rule exist in that chain?).",
            Self::ChainExists => "Chain already exists.",
            Self::NameTaken => "File exists.",
            Self::NotEmpty => "Directory not empty.",
            Self::Linked => "Too many links.",
            Self::NoInsertion => "Index of insertion too big.",
            Self::NoReplacement => "Index of replacement too big.",
            Self::NoDeletion => "Index of deletion too big.",
            Self::NoCounter => "Index of counter too big.",
            Self::Policy => "Bad policy name. Run `dmesg' for more information.",
            Self::Loop => "Too many levels of symbolic links.",
            Self::OutOfRange => "Numerical result out of range.",
            Self::Invalid => "Invalid argument. Run `dmesg' for more information.",
        }
    }
}

/// Options whose value may be a range: what is said of them names the place.
const RANGES: [&str; 3] = ["length", "mss", "ctexpire"];

impl Problem {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None, told: Told::Usage }
    }

    /// How iptables puts it.
    pub fn told(mut self, told: Told) -> Self {
        self.told = told;
        self
    }

    /// What iptables says to it when rules are changed by command.
    pub fn words(mut self, words: impl Into<String>) -> Self {
        self.told = Told::Words(words.into());
        self
    }

    /// It isn't the line that is wrong.
    pub fn refused(mut self, refusal: Refusal) -> Self {
        self.told = Told::Refused(refusal);
        self
    }

    /// Completes what is said of a number that is out of its bounds.
    pub fn of_option(self, extension: &ExtensionAst<'_>) -> Self {
        let Told::Number(low, high) = self.told else { return self };
        let around =
            |o: &&OptionAst<'_>| o.span.start <= self.span.start && self.span.end <= o.span.end;
        let Some(option) = extension.options.iter().find(around) else { return self };
        let (of, name) = (&extension.name.text, option.opt.names[0]);
        // Marks have a reader of their own.
        let words = if name.ends_with("mark") && high == u64::from(u32::MAX) {
            format!("{of}: bad integer value for option \"--{name}\", or out of range.\n")
        } else if let (true, Some(value)) = (RANGES.contains(&name), option.values.first()) {
            let near = &value.text;
            format!(
                "{of}: bad value for option \"--{name}\" near \"{near}\", or out of range \
                 ({low}-{high}).\n"
            )
        } else {
            format!("{of}: bad value for option \"--{name}\", or out of range ({low}-{high}).\n")
        };
        self.words(words)
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Problem {
    /// Says which known name is near the one that was written, if one is.
    pub fn nearest<'a>(mut self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(name) = nearest(word, known) {
            let meant = format!("did you mean `{name}`?");
            self.help = Some(match self.help {
                Some(help) => format!("{meant} {help}"),
                None => meant,
            });
        }
        self
    }

    /// The same for a message about a `word` whose help lists the words that were expected.
    fn nearest_expected(self) -> Self {
        let word = self.message.split('`').nth(1).map(str::to_owned);
        let list = self.help.as_deref().and_then(|help| help.strip_prefix("expected "));
        let (Some(word), Some(list)) = (word, list.map(str::to_owned)) else { return self };
        let known = list.split(", ").flat_map(|part| part.split(" or "));
        self.nearest(&word, known.filter(|name| !name.contains(' ')))
    }
}

/// The known name nearest to `word`, if one is near enough to be meant. Case doesn't count.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer ones are no slip of the finger, and would take long to compare.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    known
        .into_iter()
        .filter(|name| name.len().abs_diff(word.len()) <= 3 && *name != word)
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

pub(crate) type Outcome<T> = Result<T, Problem>;
