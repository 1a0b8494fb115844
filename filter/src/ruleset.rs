//! Rules that validation has accepted.

use std::fmt;
use std::sync::Arc;

use tidegate_packet::Family;

use crate::base::Base;
use crate::classify::Classifier;
use crate::counters::Counters;
use crate::extension::{Match, MatchSpec, Target, TargetSpec};
use crate::query::{Hook, TableName};
use crate::sets::Sets;

/// All tables of one family. Only validation makes one, so whoever holds it holds rules that can be
/// honoured.
pub struct Ruleset {
    pub(crate) family: Family,
    /// In the order they first appeared; they are saved the other way round. A table that a change
    /// leaves alone is shared with the ruleset before.
    pub(crate) tables: Vec<Arc<Table>>,
    pub(crate) initial: Counters,
    /// The sets that rules may name.
    pub(crate) sets: Sets,
}

/// A table's chains, in the order they are saved: built-in ones by hook, then the user's by name.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub name: TableName,
    pub chains: Vec<Chain>,
    /// Whether a rule looks at connections.
    pub uses_conntrack: bool,
    /// Whether a rule asks what connections have carried.
    pub needs_accounting: bool,
    /// The matches of rules that remember under a name.
    pub remembering: Vec<Arc<[NamedMatch]>>,
}

impl Table {
    pub fn new(name: TableName, chains: Vec<Chain>) -> Self {
        let rules = || chains.iter().flat_map(|c| &c.rules);
        let uses_conntrack = rules().any(|rule| {
            rule.matches.iter().any(|m| m.test.uses_conntrack())
                || matches!(&rule.action, Action::Target(_, t) if t.uses_conntrack())
        });
        let needs_accounting =
            rules().any(|rule| rule.matches.iter().any(|m| m.test.needs_accounting()));
        let remembers = |m: &NamedMatch| m.test.recent().is_some() || m.test.hashlimit().is_some();
        let remembering = rules().map(|rule| &rule.matches).filter(|m| m.iter().any(remembers));
        let remembering = remembering.cloned().collect();
        Self { name, chains, uses_conntrack, needs_accounting, remembering }
    }
}

/// A chain.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub name: Arc<str>,
    pub builtin: Option<Builtin>,
    pub rules: Vec<Rule>,
    /// Finds the rules that a packet can match, where there are many. A chain that a change leaves
    /// alone shares it with the one before.
    pub classifier: Option<Arc<Classifier>>,
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

/// A rule. A copy shares its matches and target, and so what they remember (the bucket of a `limit`).
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub base: Base,
    pub matches: Arc<[NamedMatch]>,
    pub action: Action,
    /// Its place in the counters, which it keeps as long as it is in force.
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
#[derive(Clone, Debug)]
pub(crate) enum Action {
    None,
    Accept,
    Drop,
    Return,
    /// To the chain of this number, and back.
    Jump(usize),
    /// To the chain of this number, and not back.
    Goto(usize),
    Target(&'static TargetSpec, Arc<dyn Target>),
}

impl Ruleset {
    /// No tables: every packet passes and nothing is counted.
    pub fn empty(family: Family, sets: &Sets) -> Self {
        let sets = sets.clone();
        Self { family, tables: Vec::new(), initial: Counters::default(), sets }
    }

    /// Rules made by a change, with room for `len` counters.
    pub(crate) fn changed(&self, tables: Vec<Arc<Table>>, len: usize) -> Self {
        let sets = self.sets.clone();
        Self { family: self.family, tables, initial: Counters::zero(len), sets }
    }

    /// The family whose packets the rules are for.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The number of the changes to the sets that its rules name.
    pub fn set_changes(&self) -> &crate::sets::Changes {
        self.sets.changes()
    }

    /// Whether the table is loaded and has a chain at the hook.
    pub fn has_rules(&self, table: TableName, hook: Hook) -> bool {
        self.table(table).is_some_and(|t| t.builtin(hook).is_some())
    }

    /// Whether a rule makes the kernel track connections of this family (and so reassemble
    /// fragments): one that translates or that looks at connections. A nat table without such a
    /// rule doesn't, and no packet passes its chains then (nf_nat_inet_fn wants a connection).
    pub fn uses_conntrack(&self) -> bool {
        self.tables.iter().any(|table| table.uses_conntrack)
    }

    /// The names of interfaces that rules ask for with `-i` and `-o`. Beginnings of names (`eth+`) and
    /// what stands behind `!` aren't among them.
    pub fn interfaces(&self) -> std::collections::BTreeSet<&str> {
        let rules = self.tables.iter().flat_map(|table| &table.chains).flat_map(|c| &c.rules);
        rules
            .flat_map(|rule| [&rule.base.input, &rule.base.output])
            .flatten()
            .filter(|interface| !interface.prefix && !interface.inverted)
            .map(|interface| &*interface.name)
            .collect()
    }

    /// Whether a rule asks how much connections have carried.
    pub fn needs_accounting(&self) -> bool {
        self.tables.iter().any(|table| table.needs_accounting)
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
        self.tables.iter().map(Arc::as_ref).find(|t| t.name == name)
    }

    /// The matches of all rules that remember under a name, in order.
    pub(crate) fn remembering(&self) -> impl Iterator<Item = &dyn Match> {
        let rules = self.tables.iter().flat_map(|t| &t.remembering);
        rules.flat_map(|matches| matches.iter()).map(|m| m.test.as_ref())
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
    /// The places of its counters.
    pub(crate) fn counters(&self) -> impl Iterator<Item = usize> {
        let policies = self.chains.iter().filter_map(|c| c.builtin.map(|b| b.counter));
        policies.chain(self.chains.iter().flat_map(|c| &c.rules).map(|r| r.counter))
    }

    pub(crate) fn builtin(&self, hook: Hook) -> Option<(&Chain, Builtin)> {
        self.chains.iter().find_map(|c| c.builtin.filter(|b| b.hook == hook).map(|b| (c, b)))
    }

    /// The place of a hook's chain; built-in chains come first.
    #[inline]
    pub(crate) fn builtin_at(&self, hook: Hook) -> Option<usize> {
        self.chains.iter().position(|c| c.builtin.is_some_and(|b| b.hook == hook))
    }
}
