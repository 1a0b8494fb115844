//! AST → [`Ruleset`]: chains exist, jumps don't loop, extensions stand where they may.

mod chain;
mod declare;
mod hooks;
mod place;
mod reach;
mod rule;

use std::sync::Arc;

use tidegate_packet::Family;

use crate::ast::*;
use crate::counters::{Count, Counters, Slots};
use crate::diagnostic::{Outcome, Problem, Refusal};
use crate::lex::Word;
use crate::parse::{self, Event, Reading};
use crate::query::{Hook, TableName};
use crate::ruleset::{Chain, ChainIndex, Ruleset, Table};
use crate::sets::Sets;
use chain::ChainDraft;
use rule::Draft;

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
            ItemAst::DeleteNumber { chain, number } => self.delete_number(chain, number),
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
