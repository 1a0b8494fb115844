//! AST → [`Ruleset`]: chains exist, jumps don't loop, extensions stand where they may.

mod hooks;
mod reach;
mod rule;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tidegate_packet::Family;

use crate::ast::*;
use crate::classify::Classifier;
use crate::counters::{Count, Counters, Slots};
use crate::diagnostic::{Outcome, Problem, Refusal};
use crate::lex::Word;
use crate::live::list::told as told_of;
use crate::parse::{self, Event, Reading};
use crate::query::{Hook, TableName};
use crate::ruleset::{Builtin, Chain, Policy, Rule, Ruleset, Table};
use crate::sets::Sets;
use crate::targets;
use rule::{Draft, Tally};

/// The longest chain name (`XT_EXTENSION_MAXNAMELEN` less the final zero).
const MAX_CHAIN_NAME: usize = 28;

const CLASH: &str = "chain name may not clash with target name";

/// What iptables says to a name of more than [`MAX_CHAIN_NAME`] bytes.
fn too_long(name: &str) -> String {
    format!("chain name `{name}' too long (must be under {} chars)", MAX_CHAIN_NAME + 1)
}

/// The line with this byte.
fn line_of(text: &str, at: usize) -> &str {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |n| n + 1);
    text.get(start..).unwrap_or_default()
}

/// Validates a whole file while it is read; on failure gives all problems found.
pub(crate) fn ruleset(
    text: &str,
    family: Family,
    sets: &Sets,
) -> Result<(Ruleset, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut told = Vec::new();
    let mut open: Option<Draftbook> = None;
    let mut tables: Vec<Draftbook> = Vec::new();
    let (mut warnings, unread) =
        parse::stream(text, Reading::all(family), &mut |event| match event {
            Event::Open(name) => open = Some(Draftbook::empty(name, family, sets)),
            Event::Item(item) => {
                if let Some(Err(problem)) = open.as_mut().map(|book| book.item(&item, &mut told)) {
                    problems.push(problem);
                }
            }
            Event::Commit => {
                // A second section of a table replaces the first, which keeps its place in the order.
                let Some(book) = open.take() else { return };
                match tables.iter_mut().find(|t| t.name == book.name) {
                    Some(earlier) => *earlier = book,
                    None => tables.push(book),
                }
            }
        });
    warnings.extend(told);
    // Where a chain's own line can't be read, all the rules that name it would be wrong, too.
    let names_a_chain = |p: &Problem| !line_of(text, p.span.start).starts_with("-A");
    if unread.iter().any(names_a_chain) {
        problems.clear();
    }
    problems.extend(unread);
    if !problems.is_empty() {
        problems.sort_by_key(|p| p.span.start);
        return Err(problems);
    }
    let mut slots = Slots::default();
    let tables = tables
        .into_iter()
        .filter_map(|book| {
            book.finish(&mut slots, &mut warnings).map_err(|p| problems.extend(p)).ok()
        })
        .map(Arc::new)
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let (len, adjust) = slots.done();
    let mut initial = Counters::zero(len);
    for (slot, adjust) in adjust {
        initial.adjust(slot, adjust, Count::default());
    }
    Ok((Ruleset { family, tables, initial, sets: sets.clone() }, warnings))
}

/// A table while it is written.
pub(crate) struct Draftbook {
    name: TableName,
    family: Family,
    sets: Sets,
    chains: Vec<ChainDraft>,
    /// Places in `chains` by name: published rulesets have thousands.
    index: HashMap<Arc<str>, usize>,
    /// `:CHAIN` empties a chain that is there already (`--noflush`).
    redeclare: bool,
    /// What `-v` says of each rule, where it is wanted.
    told: Option<String>,
}

/// A chain while the table's lines are read.
struct ChainDraft {
    name: Arc<str>,
    hook: Option<Hook>,
    policy: Policy,
    /// Of the policy; where it is counted, unless it is new.
    count: Tally,
    counter: usize,
    rules: Vec<Draft>,
    /// That of the rules in force, as long as they are these.
    classifier: Option<Option<Arc<Classifier>>>,
}

impl ChainDraft {
    fn clear(&mut self) {
        self.rules.clear();
        self.classifier = None;
    }
}

impl Draftbook {
    /// A table that has nothing but its built-in chains.
    pub fn empty(name: TableName, family: Family, sets: &Sets) -> Self {
        let builtin = |&hook: &Hook| ChainDraft {
            name: hook.chain_name().into(),
            hook: Some(hook),
            policy: Policy::Accept,
            count: Tally::Fresh(Count::default()),
            counter: 0,
            rules: Vec::new(),
            classifier: None,
        };
        let chains = name.hooks().iter().map(builtin).collect();
        let mut book = Self {
            name,
            family,
            sets: sets.clone(),
            chains,
            index: HashMap::new(),
            redeclare: false,
            told: None,
        };
        book.reindex();
        book
    }

    /// A table that is in force.
    pub fn of(table: &Table, ruleset: &Ruleset) -> Self {
        let draft = |chain: &Chain| ChainDraft {
            name: chain.name.clone(),
            hook: chain.builtin.map(|b| b.hook),
            policy: chain.builtin.map_or(Policy::Accept, |b| b.policy),
            count: Tally::Kept,
            counter: chain.builtin.map_or(0, |b| b.counter),
            rules: {
                let name = |at: usize| table.chains[at].name.clone();
                chain.rules.iter().map(|rule| Draft::present(rule, name)).collect()
            },
            classifier: Some(chain.classifier.clone()),
        };
        let mut book = Self::empty(table.name, ruleset.family, &ruleset.sets);
        book.chains = table.chains.iter().map(draft).collect();
        book.reindex();
        book
    }

    /// Lets `:CHAIN` empty a chain that is there already.
    pub fn redeclares(mut self) -> Self {
        self.redeclare = true;
        self
    }

    /// Notes what `-v` says of the rules that are placed from now on.
    pub fn tell(&mut self) {
        self.told = Some(String::new());
    }

    /// What it said since.
    pub fn told(&mut self) -> String {
        self.told.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The table as it is, which must have no jumps.
    pub fn bare(self) -> Table {
        let name = self.name;
        let chains = self.chains.into_iter().map(|chain| {
            let (policy, counter) = (chain.policy, usize::MAX);
            let builtin = chain.hook.map(|hook| Builtin { hook, policy, counter });
            Chain { name: chain.name, builtin, rules: Vec::new(), classifier: None }
        });
        Table::new(name, chains.collect())
    }

    /// Takes out all rules and all chains but the built-in ones, which keep policy and counters.
    pub fn clear(&mut self) {
        self.chains.retain(|c| c.hook.is_some());
        self.chains.iter_mut().for_each(ChainDraft::clear);
        self.reindex();
    }

    /// The table.
    pub fn name(&self) -> TableName {
        self.name
    }

    /// The names of the chains, in their order.
    pub fn chain_names(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().map(|c| &*c.name)
    }

    /// One line, or one command.
    pub fn item(&mut self, item: &ItemAst<'_>, warnings: &mut Vec<Problem>) -> Outcome<()> {
        match item {
            ItemAst::Chain { name, policy, count } => self.declare(name, policy, *count),
            ItemAst::New(name) => self.new_chain(name),
            ItemAst::Policy { name, policy, count } => self.set_policy(name, policy, *count),
            ItemAst::Rule { chain, place, rule } => self.place(chain, place, rule, warnings),
            ItemAst::DeleteNumber { chain, number } => {
                let n = number.number(1..=u64::from(u32::MAX))? as usize;
                let rules = &mut self.chain(chain)?.rules;
                if n > rules.len() {
                    return Err(number
                        .wrong(format!("{} has no rule {n}", chain.text))
                        .refused(Refusal::NoDeletion));
                }
                rules.remove(n - 1);
                Ok(())
            }
            ItemAst::Flush(Some(name)) => {
                self.chain(name)?.clear();
                Ok(())
            }
            ItemAst::Flush(None) => {
                self.chains.iter_mut().for_each(ChainDraft::clear);
                Ok(())
            }
            ItemAst::Zero(name, number) => self.zero(name.as_ref(), number.as_ref()),
            ItemAst::DeleteChain(name) => self.delete_chain(name.as_ref()),
            ItemAst::Rename(old, new) => self.rename(old, new),
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    fn reindex(&mut self) {
        self.index = self.chains.iter().enumerate().map(|(at, c)| (c.name.clone(), at)).collect();
    }

    fn zero(&mut self, name: Option<&Word<'_>>, number: Option<&Word<'_>>) -> Outcome<()> {
        if let (Some(name), Some(number)) = (name, number) {
            let n = number.number(1..=u64::from(u32::MAX))? as usize;
            let rule = self.chain(name)?.rules.get_mut(n - 1).ok_or_else(|| {
                number.wrong(format!("{} has no rule {n}", name.text)).refused(Refusal::NoCounter)
            })?;
            rule.count = rule.count.zeroed();
            return Ok(());
        }
        if let Some(name) = name {
            self.chain(name)?;
        }
        let named = |c: &&mut ChainDraft| name.is_none_or(|n| n.text == *c.name);
        for chain in self.chains.iter_mut().filter(named) {
            chain.count = chain.count.zeroed();
            chain.rules.iter_mut().for_each(|rule| rule.count = rule.count.zeroed());
        }
        Ok(())
    }

    /// A chain, to be changed.
    fn chain(&mut self, name: &Word<'_>) -> Outcome<&mut ChainDraft> {
        let table = self.name.as_str();
        let Some(at) = self.find(&name.text) else {
            return Err(name
                .wrong(format!("table {table} has no chain `{}`", name.text))
                .help("a chain must be declared before rules use it")
                .nearest(&name.text, self.chain_names())
                .refused(Refusal::NoChain));
        };
        let chain = &mut self.chains[at];
        chain.classifier = None;
        Ok(chain)
    }

    /// `:CHAIN POLICY`: declares the user's own chain or sets a policy.
    fn declare(&mut self, name: &Word<'_>, policy: &Word<'_>, count: Count) -> Outcome<()> {
        let builtin = self.find(&name.text).is_some_and(|at| self.chains[at].hook.is_some());
        if builtin {
            if policy.text == "-" {
                return Ok(());
            }
            return self.set_policy(name, policy, count);
        }
        if policy.text != "-" {
            return Err(policy
                .wrong(format!("`{}` can't have a policy", name.text))
                .help("only built-in chains have one; expected -")
                .refused(Refusal::NoBuiltin));
        }
        if let Some(at) = self.find(&name.text) {
            if self.redeclare {
                self.chains[at].clear();
                return Ok(());
            }
            return Err(name
                .wrong(format!("chain `{}` is declared twice", name.text))
                .words(format!("error creating chain '{}':File exists", name.text)));
        }
        self.add_chain(name)
    }

    fn new_chain(&mut self, name: &Word<'_>) -> Outcome<()> {
        if self.find(&name.text).is_some() {
            return Err(name
                .wrong(format!("there is a chain `{}` already", name.text))
                .refused(Refusal::ChainExists));
        }
        if name.text.starts_with(['-', '!']) {
            let first = name.text.chars().next().unwrap_or('-');
            return Err(name
                .wrong("a chain's name can't start with - or !")
                .words(format!("chain name not allowed to start with `{first}'")));
        }
        if name.text.contains(char::is_whitespace) {
            return Err(name
                .wrong("a chain's name can't contain blanks")
                .words(format!("Invalid chain name `{}'", name.text)));
        }
        if targets::find(&name.text, self.family).is_some() {
            return Err(name
                .wrong(format!("`{}` is the name of a target", name.text))
                .words(CLASH));
        }
        self.add_chain(name)
    }

    fn add_chain(&mut self, name: &Word<'_>) -> Outcome<()> {
        if name.text.is_empty() || name.text.len() > MAX_CHAIN_NAME {
            return Err(name
                .wrong(format!("bad chain name `{}`", name.text))
                .help(format!("expected 1 to {MAX_CHAIN_NAME} characters"))
                .words(too_long(&name.text)));
        }
        // Saved, it couldn't be read again.
        if name.text.contains(char::is_control) {
            return Err(name.wrong("a chain's name can't contain control characters"));
        }
        if rule::is_verdict(&name.text) {
            return Err(name
                .wrong(format!("`{}` is the name of a verdict", name.text))
                .words(CLASH));
        }
        let shared: Arc<str> = (&*name.text).into();
        self.index.insert(shared.clone(), self.chains.len());
        self.chains.push(ChainDraft {
            name: shared,
            hook: None,
            policy: Policy::Accept,
            count: Tally::Kept,
            counter: 0,
            rules: Vec::new(),
            classifier: None,
        });
        Ok(())
    }

    fn set_policy(&mut self, name: &Word<'_>, policy: &Word<'_>, count: Count) -> Outcome<()> {
        let nat = self.name == TableName::Nat;
        let chain = self.chain(name).map_err(|problem| problem.refused(Refusal::NoBuiltin))?;
        if chain.hook.is_none() {
            return Err(name
                .wrong(format!("`{}` can't have a policy", name.text))
                .refused(Refusal::NoBuiltin));
        }
        chain.policy = match &*policy.text {
            "ACCEPT" => Policy::Accept,
            "DROP" if nat => return Err(rule::no_filtering_in_nat(policy)),
            "DROP" => Policy::Drop,
            other => {
                return Err(policy
                    .wrong(format!("bad policy `{other}`"))
                    .help("expected ACCEPT or DROP")
                    .refused(Refusal::Policy));
            }
        };
        chain.count = chain.count.set(count);
        Ok(())
    }

    fn place(
        &mut self,
        name: &Word<'_>,
        place: &Place,
        ast: &RuleAst<'_>,
        warnings: &mut Vec<Problem>,
    ) -> Outcome<()> {
        let drafts = rule::drafts(self, name, ast, warnings)?;
        if let Some(told) = &mut self.told {
            for draft in &drafts {
                let to = draft.to.as_deref().unwrap_or("");
                told.push_str(&told_of(&draft.rule, to));
            }
        }
        let chain = self.chain(name)?;
        let len = chain.rules.len();
        let missing = |n: u32, span: &Range<usize>, refusal| {
            Problem::new(span.clone(), format!("{} has no place {n} for a rule", name.text))
                .help(format!("it has {len} rules"))
                .refused(refusal)
        };
        match place {
            Place::Append => chain.rules.extend(drafts),
            Place::Insert(n, span) => {
                let at = *n as usize - 1;
                if at > len {
                    return Err(missing(*n, span, Refusal::NoInsertion));
                }
                // One after the other at the same place, so that they end up reversed, as with -I.
                drafts.into_iter().for_each(|draft| chain.rules.insert(at, draft));
            }
            Place::Replace(n, span) => {
                let at = *n as usize - 1;
                let mut drafts = drafts.into_iter();
                let (Some(draft), None) = (drafts.next(), drafts.next()) else {
                    return Err(Problem::new(ast.span.clone(), "-R takes a single rule")
                        .words("Replacement rule does not specify a unique address"));
                };
                let old = chain.rules.get_mut(at);
                *old.ok_or_else(|| missing(*n, span, Refusal::NoReplacement))? = draft;
            }
            Place::Delete | Place::Check => {
                for draft in drafts {
                    let at = chain.rules.iter().position(|r| r.same(&draft)).ok_or_else(|| {
                        Problem::new(ast.span.clone(), format!("{} has no such rule", name.text))
                            .refused(draft.absent())
                    })?;
                    if matches!(place, Place::Delete) {
                        chain.rules.remove(at);
                    }
                }
            }
        }
        Ok(())
    }

    fn is_referenced(&self, name: &str) -> bool {
        self.chains.iter().flat_map(|c| &c.rules).any(|r| r.to.as_deref() == Some(name))
    }

    fn delete_chain(&mut self, name: Option<&Word<'_>>) -> Outcome<()> {
        let Some(name) = name else {
            let kept: Vec<bool> = self
                .chains
                .iter()
                .map(|c| c.hook.is_some() || !c.rules.is_empty() || self.is_referenced(&c.name))
                .collect();
            let mut kept = kept.into_iter();
            self.chains.retain(|_| kept.next().unwrap_or(true));
            self.reindex();
            return Ok(());
        };
        let referenced = self.is_referenced(&name.text);
        let chain = self.chain(name)?;
        let (why, refusal) = match chain {
            c if c.hook.is_some() => ("is a built-in chain", Refusal::Invalid),
            _ if referenced => ("is still used by rules", Refusal::Linked),
            c if !c.rules.is_empty() => ("still has rules", Refusal::NotEmpty),
            _ => {
                self.chains.retain(|c| *c.name != *name.text);
                self.reindex();
                return Ok(());
            }
        };
        Err(name.wrong(format!("`{}` {why}", name.text)).refused(refusal))
    }

    fn rename(&mut self, old: &Word<'_>, new: &Word<'_>) -> Outcome<()> {
        if self.find(&new.text).is_some() {
            return Err(new
                .wrong(format!("there is a chain `{}` already", new.text))
                .refused(Refusal::NameTaken));
        }
        if self.chain(old)?.hook.is_some() {
            return Err(old.wrong("a built-in chain can't be renamed").refused(Refusal::NoBuiltin));
        }
        self.new_chain(new)?;
        self.chains.pop();
        let name: Arc<str> = (&*new.text).into();
        for chain in &mut self.chains {
            if *chain.name == *old.text {
                chain.name = name.clone();
            }
            for rule in &mut chain.rules {
                if rule.to.as_deref() == Some(&old.text) {
                    rule.to = Some(name.clone());
                }
            }
        }
        self.reindex();
        Ok(())
    }

    /// The places in the counters that stay taken.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        let policies =
            self.chains.iter().filter(|c| c.hook.is_some()).map(|c| (c.count, c.counter));
        let rules = self.chains.iter().flat_map(|c| &c.rules).map(|r| (r.count, r.rule.counter));
        policies.chain(rules).filter(|(tally, _)| tally.is_old()).map(|(_, counter)| counter)
    }

    /// Settles the order of chains, resolves jumps, checks what depends on where chains hang.
    pub fn finish(
        mut self,
        slots: &mut Slots,
        warnings: &mut Vec<Problem>,
    ) -> Result<Table, Vec<Problem>> {
        let builtins = self.chains.iter().filter(|c| c.hook.is_some()).count();
        self.chains[builtins..].sort_by(|a, b| a.name.cmp(&b.name));
        self.reindex();
        let index = std::mem::take(&mut self.index);
        for chain in &mut self.chains {
            chain.rules.iter_mut().for_each(|rule| rule.resolve(&index));
        }
        hooks::check(&self.chains)?;
        reach::check(self.name, &self.chains, warnings);
        let mut chains = Vec::with_capacity(self.chains.len());
        for draft in self.chains {
            let mut rules: Vec<Rule> = Vec::with_capacity(draft.rules.len());
            for mut rule in draft.rules {
                rule.rule.counter = rule.count.place(rule.rule.counter, slots);
                rules.push(rule.rule);
            }
            let builtin = draft.hook.map(|hook| {
                let counter = draft.count.place(draft.counter, slots);
                Builtin { hook, policy: draft.policy, counter }
            });
            let build = || Classifier::new(&rules).map(Arc::new);
            let classifier = draft.classifier.unwrap_or_else(build);
            chains.push(Chain { name: draft.name, builtin, rules, classifier });
        }
        Ok(Table::new(self.name, chains))
    }
}
