//! Rules that validation has accepted.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use tidegate_packet::Family;

use crate::base::Base;
use crate::classify::Classifier;
use crate::counters::{Counters, Places};
use crate::extension::{Match, MatchSpec, Target, TargetSpec};
use crate::gate::Gate;
use crate::query::{Hook, TableName};
use crate::sets::Sets;
use crate::verdict::Verdict;

/// All tables of one family. Only validation makes one, so whoever holds it holds rules that can be
/// honoured.
pub struct Ruleset {
    pub(crate) family: Family,
    /// In the order they first appeared; they are saved the other way round. A table that a change
    /// leaves alone is shared with the ruleset before.
    pub(crate) tables: Vec<Arc<Table>>,
    /// What the file said; nothing after a change.
    pub(crate) initial: Counters,
    /// Which places in the counters are taken.
    pub(crate) places: Places,
    /// The sets that rules may name.
    pub(crate) sets: Sets,
}

/// A table's chains.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub name: TableName,
    /// By the numbers that jumps know them by, which they keep as long as they are there; built-in
    /// ones come first. A number that is free belongs to an empty chain without a name.
    pub chains: Vec<Chain>,
    /// The numbers of the built-in chains, by hook.
    builtins: [Option<usize>; 5],
    /// The numbers in the order chains are saved: built-in ones by hook, then the user's by name.
    pub order: Arc<[usize]>,
    /// The numbers by name.
    pub index: Arc<ChainIndex>,
    /// Whether a rule looks at connections.
    pub uses_conntrack: bool,
    /// Whether a rule asks what connections have carried.
    pub needs_accounting: bool,
    /// The rules with matches that remember under a name.
    pub remembering: Vec<Rule>,
}

/// Numbers of chains by name: published rulesets have thousands.
pub(crate) type ChainIndex = HashMap<Arc<str>, usize, foldhash::fast::FixedState>;

impl Table {
    pub fn new(
        name: TableName,
        chains: Vec<Chain>,
        order: Arc<[usize]>,
        index: Arc<ChainIndex>,
    ) -> Self {
        let contents = || order.iter().map(|&at| &chains[at].content);
        let uses_conntrack = contents().any(|c| c.uses_conntrack);
        let needs_accounting = contents().any(|c| c.needs_accounting);
        let remembering = contents().flat_map(|c| &c.remembering).cloned().collect();
        let mut builtins = [None; 5];
        for (at, chain) in chains.iter().enumerate() {
            if let Some(builtin) = chain.builtin {
                builtins[builtin.hook as usize] = Some(at);
            }
        }
        Self { name, chains, builtins, order, index, uses_conntrack, needs_accounting, remembering }
    }

    /// The chains in the order they are saved.
    pub fn ordered(&self) -> impl Iterator<Item = &Chain> {
        self.order.iter().map(|&at| &self.chains[at])
    }
}

/// A chain.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub name: Arc<str>,
    pub builtin: Option<Builtin>,
    /// The hooks from which it can be reached.
    pub hooks: u8,
    /// A chain that a change leaves alone shares it with the one before.
    pub content: Arc<Content>,
}

/// A chain's rules and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub rules: Vec<Rule>,
    /// Finds the rules that a packet can match, where there are many.
    pub classifier: Option<Classifier>,
    /// Tells packets that no rule can match.
    pub gate: Gate,
    /// The chains that rules lead to, and the first rule to each, in the order of these.
    pub leads: Vec<(usize, usize)>,
    /// Whether a rule is particular about the hooks it can be reached from.
    pub tied: bool,
    uses_conntrack: bool,
    needs_accounting: bool,
    remembering: Vec<Rule>,
}

impl Content {
    /// `base` is what the chain was before, most of which may have stayed.
    pub fn new(rules: Vec<Rule>, leads: Vec<(usize, usize)>, base: Option<&Self>) -> Self {
        let remembers = |m: &NamedMatch| m.test.recent().is_some() || m.test.hashlimit().is_some();
        let mut this = Self { leads, ..Self::default() };
        for rule in &rules {
            for m in &rule.matches {
                this.uses_conntrack |= m.test.uses_conntrack();
                this.needs_accounting |= m.test.needs_accounting();
            }
            if let Action::Target(_, target) = &rule.action {
                this.uses_conntrack |= target.uses_conntrack();
            }
            this.tied |= rule.tied;
            if rule.matches.iter().any(remembers) {
                this.remembering.push(rule.clone());
            }
        }
        this.classifier = match base {
            Some(base) => Classifier::follow(base.classifier.as_ref(), &base.rules, &rules),
            None => Classifier::new(&rules),
        };
        this.gate = Gate::new(&rules);
        this.rules = rules;
        this
    }

    /// Whether these are its rules, counted where they were.
    pub fn has(&self, rules: &[Rule]) -> bool {
        let same = |(a, b): (&Rule, &Rule)| a.is(b) && a.counter == b.counter;
        self.rules.len() == rules.len() && self.rules.iter().zip(rules).all(same)
    }
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
pub enum Policy {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
}

impl From<Policy> for Verdict {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Accept => Self::Accept,
            Policy::Drop => Self::Drop,
        }
    }
}

/// A rule. A copy shares its matches and target, and so what they remember (the bucket of a `limit`).
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    body: Arc<RuleBody>,
    /// Its place in the counters, which it keeps as long as it is in force.
    pub counter: usize,
}

/// What a rule says.
#[derive(Debug)]
pub(crate) struct RuleBody {
    pub base: Base,
    pub matches: Box<[NamedMatch]>,
    pub action: Action,
    /// Whether a match or the target is particular about hooks.
    pub tied: bool,
}

impl Rule {
    /// One that isn't counted yet.
    pub fn new(base: Base, matches: Box<[NamedMatch]>, action: Action) -> Self {
        // The more hooks, the less can be right.
        let all = Hook::ALL.iter().fold(0, |all, hook| all | hook.bit());
        let only_syn = matches.iter().any(|m| m.test.only_syn());
        let tied =
            matches.iter().any(|m| !m.spec.hooks.is_empty() || m.test.check_hooks(all).is_err())
                || match &action {
                    Action::Target(spec, target) => {
                        !spec.hooks.is_empty() || target.check_rule(all, only_syn).is_err()
                    }
                    _ => false,
                };
        Self { body: Arc::new(RuleBody { base, matches, action, tied }), counter: 0 }
    }

    /// The chain that it jumps or goes to.
    pub fn leads_to(&self) -> Option<usize> {
        match self.action {
            Action::Jump(to) | Action::Goto(to) => Some(to),
            _ => None,
        }
    }

    /// Whether both are the same rule, not only alike.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Deref for Rule {
    type Target = RuleBody;

    fn deref(&self) -> &RuleBody {
        &self.body
    }
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
    pub fn empty(family: Family, sets: &Sets) -> Self {
        let sets = sets.clone();
        let (initial, places) = Default::default();
        Self { family, tables: Vec::new(), initial, places, sets }
    }

    /// Rules made by a change.
    pub(crate) fn changed(&self, tables: Vec<Arc<Table>>, places: Places) -> Self {
        let sets = self.sets.clone();
        Self { family: self.family, tables, initial: Counters::default(), places, sets }
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
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        chains
            .flat_map(|chain| &chain.content.rules)
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
        let mut counters = self.initial.clone();
        counters.resize(self.places.len());
        counters
    }

    /// Counters for this ruleset, all zero: what `iptables-restore` without `-c` starts from, and
    /// what every worker but one starts from.
    pub fn zero_counters(&self) -> Counters {
        Counters::zero(self.places.len())
    }

    pub(crate) fn table(&self, name: TableName) -> Option<&Table> {
        self.tables.iter().map(Arc::as_ref).find(|t| t.name == name)
    }

    /// The matches of all rules that remember under a name, in order.
    pub(crate) fn remembering(&self) -> impl Iterator<Item = &dyn Match> {
        let rules = self.tables.iter().flat_map(|t| &t.remembering);
        rules.flat_map(|rule| &rule.matches).map(|m| m.test.as_ref())
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
        self.builtins[hook as usize]
    }
}
