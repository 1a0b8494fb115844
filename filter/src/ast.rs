//! A rules file as it was written, with the places of its words.

use std::ops::Range;

use crate::base::Interface;
use crate::counters::Count;
use crate::diagnostic::Problem;
use crate::extension::{MatchSpec, Opt, TargetSpec};
use crate::lex::Word;
use crate::query::TableName;
use crate::values::Network;

/// A file: its tables in the order they stand.
#[derive(Debug, Default)]
pub(crate) struct FileAst {
    pub tables: Vec<TableAst>,
    /// Legal and still odd.
    pub warnings: Vec<Problem>,
}

/// What stands between `*table` and `COMMIT`.
#[derive(Debug)]
pub(crate) struct TableAst {
    pub name: TableName,
    pub items: Vec<ItemAst>,
}

/// A line inside a table.
#[derive(Debug)]
pub(crate) enum ItemAst {
    /// `:CHAIN POLICY [p:b]`.
    Chain { name: Word, policy: Word, count: Count },
    /// `-N CHAIN`.
    New(Word),
    /// `-X [CHAIN]`.
    DeleteChain(Option<Word>),
    /// `-F [CHAIN]`.
    Flush(Option<Word>),
    /// `-Z [CHAIN]`.
    Zero(Option<Word>),
    /// `-E OLD NEW`.
    Rename(Word, Word),
    /// `-P CHAIN POLICY`.
    Policy { name: Word, policy: Word },
    /// `-A`, `-I`, `-R`, `-D`, `-C` with a rule.
    Rule { chain: Word, place: Place, rule: Box<RuleAst> },
    /// `-D CHAIN NUMBER`.
    DeleteNumber { chain: Word, number: Word },
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
}

/// A rule as written.
#[derive(Debug)]
pub(crate) struct RuleAst {
    /// The whole line.
    pub span: Range<usize>,
    pub sources: Option<Addresses>,
    pub destinations: Option<Addresses>,
    pub input: Option<(Interface, Word)>,
    pub output: Option<(Interface, Word)>,
    pub protocol: Option<ProtocolAst>,
    /// `-f` and whether it was negated.
    pub fragment: Option<bool>,
    pub matches: Vec<MatchAst>,
    pub action: ActionAst,
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
pub(crate) struct ProtocolAst {
    pub number: u8,
    pub inverted: bool,
    pub word: Word,
}

/// `-m name` and its options.
#[derive(Debug)]
pub(crate) struct MatchAst {
    pub spec: &'static MatchSpec,
    pub extension: ExtensionAst,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum ActionAst {
    /// Neither `-j` nor `-g`: the rule only counts.
    None,
    /// `-j` with a standard verdict or a chain.
    Jump(Word),
    /// `-g`.
    Goto(Word),
    /// `-j` with an extension.
    Target { spec: &'static TargetSpec, extension: ExtensionAst },
}

/// The name and options of an extension.
#[derive(Debug)]
pub(crate) struct ExtensionAst {
    pub name: Word,
    pub options: Vec<OptionAst>,
}

/// One option as given.
#[derive(Debug)]
pub(crate) struct OptionAst {
    pub opt: &'static Opt,
    pub span: Range<usize>,
    pub inverted: bool,
    pub values: Vec<Word>,
}
