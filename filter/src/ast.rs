//! A rules file as it was written, with the places of its words.

use std::ops::{Deref, Range};

use crate::base::Interface;
use crate::counters::Count;
use crate::diagnostic::Problem;
use crate::extension::{MatchSpec, Opt, TargetSpec};
use crate::lex::Word;
use crate::query::TableName;
use crate::values::Network;

/// A file: its tables in the order they stand.
#[derive(Debug, Default)]
pub(crate) struct FileAst<'t> {
    pub tables: Vec<TableAst<'t>>,
    /// Legal and still odd.
    pub warnings: Vec<Problem>,
}

/// What stands between `*table` and `COMMIT`.
#[derive(Debug)]
pub(crate) struct TableAst<'t> {
    pub name: TableName,
    pub items: Vec<ItemAst<'t>>,
}

/// A line inside a table.
#[derive(Debug)]
pub(crate) enum ItemAst<'t> {
    /// `:CHAIN POLICY [p:b]`.
    Chain { name: Word<'t>, policy: Word<'t>, count: Count },
    /// `-N CHAIN`.
    New(Word<'t>),
    /// `-X [CHAIN]`.
    DeleteChain(Option<Word<'t>>),
    /// `-F [CHAIN]`.
    Flush(Option<Word<'t>>),
    /// `-Z [CHAIN [NUMBER]]`.
    Zero(Option<Word<'t>>, Option<Word<'t>>),
    /// `-E OLD NEW`.
    Rename(Word<'t>, Word<'t>),
    /// `-P CHAIN POLICY`.
    Policy { name: Word<'t>, policy: Word<'t>, count: Count },
    /// `-A`, `-I`, `-R`, `-D`, `-C` with a rule.
    Rule { chain: Word<'t>, place: Place, rule: Box<RuleAst<'t>> },
    /// `-D CHAIN NUMBER`.
    DeleteNumber { chain: Word<'t>, number: Word<'t> },
}

/// Where a rule goes.
#[derive(Debug)]
pub(crate) enum Place {
    Append,
    /// Before the rule of this number, counted from 1.
    Insert(u32, Range<usize>),
    Replace(u32, Range<usize>),
    /// Removes the first rule like it.
    Delete,
    /// Only looks for a rule like it.
    Check,
}

/// A rule as written.
#[derive(Debug)]
pub(crate) struct RuleAst<'t> {
    /// The whole line.
    pub span: Range<usize>,
    pub sources: Option<Addresses>,
    pub destinations: Option<Addresses>,
    pub input: Option<(Interface, Word<'t>)>,
    pub output: Option<(Interface, Word<'t>)>,
    pub protocol: Option<ProtocolAst<'t>>,
    /// `-f` and whether it was negated.
    pub fragment: Option<bool>,
    pub matches: Vec<MatchAst<'t>>,
    pub action: ActionAst<'t>,
    pub count: Count,
}

/// `-s` or `-d`.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub networks: Vec<Network>,
    pub inverted: bool,
}

/// `-p`.
#[derive(Debug)]
pub(crate) struct ProtocolAst<'t> {
    pub number: u8,
    pub inverted: bool,
    pub word: Word<'t>,
}

/// `-m name` and its options.
#[derive(Debug)]
pub(crate) struct MatchAst<'t> {
    pub spec: &'static MatchSpec,
    pub extension: ExtensionAst<'t>,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum ActionAst<'t> {
    /// Neither `-j` nor `-g`: the rule only counts.
    None,
    /// `-j` with a standard verdict or a chain.
    Jump(Word<'t>),
    /// `-g`.
    Goto(Word<'t>),
    /// `-j` with an extension.
    Target { spec: &'static TargetSpec, extension: ExtensionAst<'t> },
}

/// The name and options of an extension.
#[derive(Debug)]
pub(crate) struct ExtensionAst<'t> {
    pub name: Word<'t>,
    pub options: Vec<OptionAst<'t>>,
}

/// One option as given.
#[derive(Debug)]
pub(crate) struct OptionAst<'t> {
    pub opt: &'static Opt,
    pub span: Range<usize>,
    pub inverted: bool,
    pub values: Values<'t>,
}

/// The values of an option: there are two at most, which need no memory of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values<'t> {
    words: [Word<'t>; 2],
    len: usize,
}

impl<'t> Values<'t> {
    /// Adds one; a third has no place.
    pub fn push(&mut self, word: Word<'t>) {
        if let Some(place) = self.words.get_mut(self.len) {
            *place = word;
            self.len += 1;
        }
    }

    pub fn as_slice(&self) -> &[Word<'t>] {
        &self.words[..self.len]
    }
}

impl<'t> Deref for Values<'t> {
    type Target = [Word<'t>];

    fn deref(&self) -> &[Word<'t>] {
        self.as_slice()
    }
}
