//! Rules that validation has accepted.

use std::fmt;

use tidegate_packet::Family;

use crate::base::Base;
use crate::counters::Counters;
use crate::extension::{Match, MatchSpec, Target, TargetSpec};
use crate::query::{Hook, TableName};

/// All tables of one family. Only validation makes one, so whoever holds it holds rules that can be
/// honoured.
pub struct Ruleset {
    pub(crate) family: Family,
    /// In the order they first appeared; they are saved the other way round.
    pub(crate) tables: Vec<Table>,
    pub(crate) initial: Counters,
}

/// A table's chains, in the order they are saved: built-in ones by hook, then the user's by name.
#[derive(Debug)]
pub(crate) struct Table {
    pub name: TableName,
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug)]
pub(crate) struct Chain {
    pub name: String,
    pub builtin: Option<Builtin>,
    pub rules: Vec<Rule>,
}

/// What makes a chain a built-in one.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Builtin {
    pub hook: Hook,
    pub policy: Policy,
    /// Where the policy is counted.
    pub counter: usize,
}

/// What becomes of a packet that no rule decided about.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub base: Base,
    pub matches: Vec<NamedMatch>,
    pub action: Action,
    pub counter: usize,
}

/// A match and what it is called.
pub(crate) struct NamedMatch {
    pub spec: &'static MatchSpec,
    pub test: Box<dyn Match>,
}

impl fmt::Debug for NamedMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.test.fmt(f)
    }
}

/// What a rule does with a packet that matched.
#[derive(Debug)]
pub(crate) enum Action {
    None,
    Accept,
    Drop,
    Return,
    /// To the chain of this number, and back.
    Jump(usize),
    /// To the chain of this number, and not back.
    Goto(usize),
    Target(&'static TargetSpec, Box<dyn Target>),
}

impl Ruleset {
    /// No tables: every packet passes and nothing is counted.
    pub fn empty(family: Family) -> Self {
        Self { family, tables: Vec::new(), initial: Counters::default() }
    }

    /// The family whose packets the rules are for.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether the table is loaded and has a chain at the hook.
    pub fn has_rules(&self, table: TableName, hook: Hook) -> bool {
        self.table(table).is_some_and(|t| t.builtin(hook).is_some())
    }

    /// Whether a rule makes the kernel track connections of this family (and so reassemble
    /// fragments): any rule in the nat table, or one that looks at connections.
    pub fn uses_conntrack(&self) -> bool {
        self.tables.iter().any(|table| {
            let mut rules = table.chains.iter().flat_map(|c| &c.rules);
            table.name == TableName::Nat
                || rules.any(|rule| {
                    rule.matches.iter().any(|m| m.test.uses_conntrack())
                        || matches!(&rule.action, Action::Target(_, t) if t.uses_conntrack())
                })
        })
    }

    /// Counters for this ruleset, starting from what the file said.
    pub fn new_counters(&self) -> Counters {
        self.initial.clone()
    }

    /// Counters for this ruleset, all zero: what `iptables-restore` without `-c` starts from, and
    /// what every worker but one starts from.
    pub fn zero_counters(&self) -> Counters {
        Counters::zero(self.initial.0.len())
    }

    pub(crate) fn table(&self, name: TableName) -> Option<&Table> {
        self.tables.iter().find(|t| t.name == name)
    }

    /// All matches of all rules.
    pub(crate) fn matches(&self) -> impl Iterator<Item = &dyn Match> {
        self.tables
            .iter()
            .flat_map(|t| &t.chains)
            .flat_map(|c| &c.rules)
            .flat_map(|r| &r.matches)
            .map(|m| m.test.as_ref())
    }
}

impl fmt::Debug for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ruleset")
            .field("family", &self.family)
            .field("tables", &self.tables.iter().map(|t| t.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn builtin(&self, hook: Hook) -> Option<(&Chain, Builtin)> {
        self.chains.iter().find_map(|c| c.builtin.filter(|b| b.hook == hook).map(|b| (c, b)))
    }

    /// The place of a hook's chain; built-in chains come first.
    #[inline]
    pub(crate) fn builtin_at(&self, hook: Hook) -> Option<usize> {
        self.chains.iter().position(|c| c.builtin.is_some_and(|b| b.hook == hook))
    }
}
