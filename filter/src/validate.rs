//! AST → [`Ruleset`]: chains exist, jumps don't loop, extensions stand where they may.

mod chain;
mod hooks;
mod reach;
mod rule;

use std::ops::Range;
use std::sync::Arc;

use tidegate_packet::Family;

use crate::ast::*;
use crate::counters::{Count, Counters, Slots};
use crate::diagnostic::{Outcome, Problem, Refusal};
use crate::lex::Word;
use crate::live::list::told as told_of;
use crate::parse::{self, Event, Reading};
use crate::query::{Hook, TableName};
use crate::ruleset::{Chain, ChainIndex, Policy, Ruleset, Table};
use crate::sets::Sets;
use crate::targets;
use chain::ChainDraft;
use rule::Draft;

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
            book.finish(&mut slots, Some(&mut warnings)).map_err(|p| problems.extend(p)).ok()
        })
        .map(Arc::new)
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let (places, adjust) = slots.done();
    let mut initial = Counters::zero(places.len());
    for (slot, adjust) in adjust {
        initial.adjust(slot, adjust, Count::default());
    }
    Ok((Ruleset { family, tables, initial, places, sets: sets.clone() }, warnings))
}

/// A table while it is written.
pub(crate) struct Draftbook {
    name: TableName,
    family: Family,
    sets: Sets,
    /// By their numbers; built-in ones come first.
    chains: Vec<ChainDraft>,
    /// The numbers in the order of the chains, new ones at the end.
    order: Vec<usize>,
    /// The numbers by name.
    index: Arc<ChainIndex>,
    /// Numbers that are free.
    vacant: Vec<usize>,
    /// Places in the counters that rules had which are gone.
    freed: Vec<usize>,
    /// `:CHAIN` empties a chain that is there already (`--noflush`).
    redeclare: bool,
    /// What `-v` says of each rule, where it is wanted.
    told: Option<String>,
    /// Room for the rules of a line.
    line: Vec<Draft>,
}

impl Draftbook {
    /// A table that has nothing but its built-in chains.
    pub fn empty(name: TableName, family: Family, sets: &Sets) -> Self {
        let builtin = |&hook: &Hook| ChainDraft::new(hook.chain_name().into(), Some(hook));
        Self::with(name, family, sets, name.hooks().iter().map(builtin).collect())
    }

    /// One with just these chains.
    fn with(name: TableName, family: Family, sets: &Sets, chains: Vec<ChainDraft>) -> Self {
        let order: Vec<usize> = (0..chains.len()).collect();
        let index = chains.iter().enumerate().map(|(at, c)| (c.name.clone(), at)).collect();
        Self {
            name,
            family,
            sets: sets.clone(),
            chains,
            order,
            index: Arc::new(index),
            vacant: Vec::new(),
            freed: Vec::new(),
            redeclare: false,
            told: None,
            line: Vec::new(),
        }
    }

    /// A table that is in force.
    pub fn of(table: &Table, ruleset: &Ruleset) -> Self {
        let chains: Vec<_> = table.chains.iter().map(ChainDraft::of).collect();
        let vacant = (0..chains.len()).filter(|&at| chains[at].is_vacant()).collect();
        Self {
            chains,
            order: table.order.to_vec(),
            index: table.index.clone(),
            vacant,
            ..Self::with(table.name, ruleset.family, &ruleset.sets, Vec::new())
        }
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

    /// Takes out all rules and all chains but the built-in ones, which keep policy and counters.
    pub fn clear(&mut self) {
        self.chains.iter_mut().for_each(|chain| chain.clear(&mut self.freed));
        let builtins = self.builtins();
        self.chains.truncate(builtins);
        self.order = (0..builtins).collect();
        self.vacant.clear();
        self.reindex();
    }

    fn builtins(&self) -> usize {
        self.name.hooks().len()
    }

    /// The table.
    pub fn name(&self) -> TableName {
        self.name
    }

    /// The names of the chains, in their order.
    pub fn chain_names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|&at| &*self.chains[at].name)
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
                let rules = self.chain(chain)?.open();
                if n > rules.len() {
                    return Err(number
                        .wrong(format!("{} has no rule {n}", chain.text))
                        .refused(Refusal::NoDeletion));
                }
                let gone = rules.remove(n - 1).old_place();
                self.freed.extend(gone);
                Ok(())
            }
            ItemAst::Flush(Some(name)) => {
                let at = self.number(name)?;
                self.chains[at].clear(&mut self.freed);
                Ok(())
            }
            ItemAst::Flush(None) => {
                self.chains.iter_mut().for_each(|chain| chain.clear(&mut self.freed));
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
        let names = self.order.iter().map(|&at| (self.chains[at].name.clone(), at));
        self.index = Arc::new(names.collect());
    }

    fn zero(&mut self, name: Option<&Word<'_>>, number: Option<&Word<'_>>) -> Outcome<()> {
        if let (Some(name), Some(number)) = (name, number) {
            let n = number.number(1..=u64::from(u32::MAX))? as usize;
            let rule = self.chain(name)?.open().get_mut(n - 1).ok_or_else(|| {
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
            chain.open().iter_mut().for_each(|rule| rule.count = rule.count.zeroed());
        }
        Ok(())
    }

    /// A chain, to be changed.
    fn chain(&mut self, name: &Word<'_>) -> Outcome<&mut ChainDraft> {
        let at = self.number(name)?;
        Ok(&mut self.chains[at])
    }

    /// A chain's number.
    fn number(&self, name: &Word<'_>) -> Outcome<usize> {
        self.find(&name.text).ok_or_else(|| {
            let table = self.name.as_str();
            name.wrong(format!("table {table} has no chain `{}`", name.text))
                .help("a chain must be declared before rules use it")
                .nearest(&name.text, self.chain_names())
                .refused(Refusal::NoChain)
        })
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
                self.chains[at].clear(&mut self.freed);
                return Ok(());
            }
            return Err(name
                .wrong(format!("chain `{}` is declared twice", name.text))
                .words(format!("error creating chain '{}':File exists", name.text)));
        }
        self.check_name(name)?;
        self.add_chain(&name.text);
        Ok(())
    }

    fn new_chain(&mut self, name: &Word<'_>) -> Outcome<()> {
        self.check_new_name(name)?;
        self.add_chain(&name.text);
        Ok(())
    }

    /// Whether a command may give a chain this name.
    fn check_new_name(&self, name: &Word<'_>) -> Outcome<()> {
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
        self.check_name(name)
    }

    fn check_name(&self, name: &Word<'_>) -> Outcome<()> {
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
        Ok(())
    }

    fn add_chain(&mut self, name: &str) {
        let name: Arc<str> = name.into();
        let chain = ChainDraft::new(name.clone(), None);
        let at = match self.vacant.pop() {
            Some(at) => {
                self.chains[at] = chain;
                at
            }
            None => {
                self.chains.push(chain);
                self.chains.len() - 1
            }
        };
        Arc::make_mut(&mut self.index).insert(name, at);
        self.order.push(at);
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
        let mut drafts = std::mem::take(&mut self.line);
        drafts.clear();
        rule::drafts(self, name, ast, warnings, &mut drafts)?;
        if let Some(told) = &mut self.told {
            for draft in &drafts {
                let to = draft.rule.leads_to().map_or("", |to| &*self.chains[to].name);
                told.push_str(&told_of(&draft.rule, to));
            }
        }
        let at = self.number(name)?;
        let rules = self.chains[at].open();
        let len = rules.len();
        let missing = |n: u32, span: &Range<usize>, refusal| {
            Problem::new(span.clone(), format!("{} has no place {n} for a rule", name.text))
                .help(format!("it has {len} rules"))
                .refused(refusal)
        };
        match place {
            Place::Append => rules.append(&mut drafts),
            Place::Insert(n, span) => {
                let at = *n as usize - 1;
                if at > len {
                    return Err(missing(*n, span, Refusal::NoInsertion));
                }
                // One after the other at the same place, so that they end up reversed, as with -I.
                rules.splice(at..at, drafts.drain(..).rev());
            }
            Place::Replace(n, span) => {
                let at = *n as usize - 1;
                let mut drafts = drafts.drain(..);
                let (Some(draft), None) = (drafts.next(), drafts.next()) else {
                    return Err(Problem::new(ast.span.clone(), "-R takes a single rule")
                        .words("Replacement rule does not specify a unique address"));
                };
                let old = rules.get_mut(at);
                let old = old.ok_or_else(|| missing(*n, span, Refusal::NoReplacement))?;
                self.freed.extend(old.old_place());
                *old = draft;
            }
            Place::Delete | Place::Check => {
                for draft in drafts.drain(..) {
                    let same = |r: &Draft| r.rule.same(&draft.rule);
                    let at = rules.iter().position(same).ok_or_else(|| {
                        Problem::new(ast.span.clone(), format!("{} has no such rule", name.text))
                            .refused(draft.absent())
                    })?;
                    if matches!(place, Place::Delete) {
                        self.freed.extend(rules.remove(at).old_place());
                    }
                }
            }
        }
        self.line = drafts;
        Ok(())
    }

    fn is_referenced(&self, chain: usize) -> bool {
        self.chains.iter().any(|c| c.leads_to(chain))
    }

    fn delete_chain(&mut self, name: Option<&Word<'_>>) -> Outcome<()> {
        let Some(name) = name else {
            let mut referenced = vec![false; self.chains.len()];
            for chain in &mut self.chains {
                chain.settle_leads();
                chain.leads().iter().for_each(|(to, _)| referenced[*to] = true);
            }
            let users = self.order.iter().copied().filter(|&at| self.chains[at].hook.is_none());
            let gone = users.filter(|&at| self.chains[at].is_empty() && !referenced[at]);
            gone.collect::<Vec<_>>().into_iter().for_each(|at| self.vacate(at));
            self.order.retain(|&at| !self.chains[at].is_vacant());
            return Ok(());
        };
        let at = self.number(name)?;
        let (why, refusal) = match &self.chains[at] {
            c if c.hook.is_some() => ("is a built-in chain", Refusal::Invalid),
            _ if self.is_referenced(at) => ("is still used by rules", Refusal::Linked),
            c if !c.is_empty() => ("still has rules", Refusal::NotEmpty),
            _ => {
                self.vacate(at);
                self.order.retain(|&other| other != at);
                return Ok(());
            }
        };
        Err(name.wrong(format!("`{}` {why}", name.text)).refused(refusal))
    }

    /// Takes a chain out, which must have no rules; its place in the order stays.
    fn vacate(&mut self, at: usize) {
        let vacant = ChainDraft::new("".into(), None);
        let chain = std::mem::replace(&mut self.chains[at], vacant);
        Arc::make_mut(&mut self.index).remove(&chain.name);
        self.vacant.push(at);
    }

    fn rename(&mut self, old: &Word<'_>, new: &Word<'_>) -> Outcome<()> {
        if self.find(&new.text).is_some() {
            return Err(new
                .wrong(format!("there is a chain `{}` already", new.text))
                .refused(Refusal::NameTaken));
        }
        let at = self.number(old)?;
        if self.chains[at].hook.is_some() {
            return Err(old.wrong("a built-in chain can't be renamed").refused(Refusal::NoBuiltin));
        }
        self.check_new_name(new)?;
        let name: Arc<str> = (&*new.text).into();
        let index = Arc::make_mut(&mut self.index);
        index.remove(&*old.text);
        index.insert(name.clone(), at);
        self.chains[at].name = name;
        Ok(())
    }

    /// The places in the counters that are free now.
    pub fn freed(&self) -> impl Iterator<Item = usize> {
        self.freed.iter().copied()
    }

    /// Settles the order of chains, and checks what depends on where chains hang. Warnings are about
    /// tables that were read from a file.
    pub fn finish(
        mut self,
        slots: &mut Slots,
        warnings: Option<&mut Vec<Problem>>,
    ) -> Result<Table, Vec<Problem>> {
        let builtins = self.builtins();
        let chains = &self.chains;
        self.order[builtins..].sort_by(|&a, &b| chains[a].name.cmp(&chains[b].name));
        self.chains.iter_mut().for_each(ChainDraft::settle_leads);
        hooks::check(&mut self.chains)?;
        if let Some(warnings) = warnings {
            reach::check(self.name, &self.chains, &self.order, warnings);
        }
        // In the order of the chains: so rules that were read are counted one after the other.
        let mut chains: Vec<Option<ChainDraft>> = self.chains.into_iter().map(Some).collect();
        let mut done: Vec<Option<Chain>> = vec![None; chains.len()];
        for at in self.order.iter().copied().chain(self.vacant) {
            done[at] = chains[at].take().map(|chain| chain.finish(slots));
        }
        let chains = done.into_iter().flatten().collect();
        Ok(Table::new(self.name, chains, self.order.into(), self.index))
    }
}
