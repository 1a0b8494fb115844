//! AST → [`Ruleset`]: chains exist, jumps don't loop, extensions stand where they may.

mod hooks;
mod rule;

use std::collections::HashMap;
use std::ops::Range;

use tidegate_packet::Family;

use crate::ast::*;
use crate::counters::{Count, Counters};
use crate::diagnostic::{Outcome, Problem};
use crate::lex::Word;
use crate::query::{Hook, TableName};
use crate::ruleset::{Builtin, Chain, Policy, Rule, Ruleset, Table};
use crate::sets::Sets;
use crate::targets;
use rule::Draft;

/// The longest chain name (`XT_EXTENSION_MAXNAMELEN` less the final zero).
const MAX_CHAIN_NAME: usize = 28;

/// Validates a whole file; on failure gives all problems found.
pub(crate) fn ruleset(
    ast: &FileAst,
    family: Family,
    sets: &Sets,
) -> Result<(Ruleset, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut warnings = ast.warnings.clone();
    let mut tables: Vec<Draftbook<'_>> = Vec::new();
    for table in &ast.tables {
        let book = Draftbook::read(table, family, sets, &mut problems, &mut warnings);
        // A second section of a table replaces the first, which keeps its place in the order.
        match tables.iter_mut().find(|t| t.name == book.name) {
            Some(earlier) => *earlier = book,
            None => tables.push(book),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut counts = Vec::new();
    let tables = tables
        .into_iter()
        .filter_map(|book| book.finish(&mut counts).map_err(|p| problems.extend(p)).ok())
        .collect();
    if problems.is_empty() {
        Ok((Ruleset { family, tables, initial: Counters(counts) }, warnings))
    } else {
        Err(problems)
    }
}

/// A table while its lines are read.
struct Draftbook<'a> {
    name: TableName,
    family: Family,
    sets: &'a Sets,
    chains: Vec<ChainDraft>,
    /// Places in `chains` by name: published rulesets have thousands.
    index: HashMap<String, usize>,
}

/// A chain while the table's lines are read.
struct ChainDraft {
    name: String,
    hook: Option<Hook>,
    policy: Policy,
    count: Count,
    rules: Vec<Draft>,
}

impl<'a> Draftbook<'a> {
    fn read(
        table: &TableAst,
        family: Family,
        sets: &'a Sets,
        problems: &mut Vec<Problem>,
        warnings: &mut Vec<Problem>,
    ) -> Self {
        let builtin = |&hook: &Hook| ChainDraft {
            name: hook.chain_name().to_owned(),
            hook: Some(hook),
            policy: Policy::Accept,
            count: Count::default(),
            rules: Vec::new(),
        };
        let chains = table.name.hooks().iter().map(builtin).collect();
        let mut book = Self { name: table.name, family, sets, chains, index: HashMap::new() };
        book.reindex();
        for item in &table.items {
            if let Err(problem) = book.item(item, warnings) {
                problems.push(problem);
            }
        }
        book
    }

    fn item(&mut self, item: &ItemAst, warnings: &mut Vec<Problem>) -> Outcome<()> {
        match item {
            ItemAst::Chain { name, policy, count } => self.declare(name, policy, *count),
            ItemAst::New(name) => self.new_chain(name),
            ItemAst::Policy { name, policy } => self.set_policy(name, policy, Count::default()),
            ItemAst::Rule { chain, place, rule } => self.place(chain, place, rule, warnings),
            ItemAst::DeleteNumber { chain, number } => {
                let n = number.number(1..=u64::from(u32::MAX))? as usize;
                let rules = &mut self.chain(chain)?.rules;
                if n > rules.len() {
                    return Err(number.wrong(format!("{} has no rule {n}", chain.text)));
                }
                rules.remove(n - 1);
                Ok(())
            }
            ItemAst::Flush(Some(name)) => {
                self.chain(name)?.rules.clear();
                Ok(())
            }
            ItemAst::Flush(None) => {
                self.chains.iter_mut().for_each(|c| c.rules.clear());
                Ok(())
            }
            ItemAst::Zero(name) => {
                if let Some(name) = name {
                    self.chain(name)?;
                }
                let named = |c: &&mut ChainDraft| name.as_ref().is_none_or(|n| n.text == c.name);
                for chain in self.chains.iter_mut().filter(named) {
                    chain.count = Count::default();
                    chain.rules.iter_mut().for_each(|rule| rule.count = Count::default());
                }
                Ok(())
            }
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

    fn chain(&mut self, name: &Word) -> Outcome<&mut ChainDraft> {
        let table = self.name.as_str();
        let at = self.find(&name.text);
        at.and_then(|at| self.chains.get_mut(at)).ok_or_else(|| {
            name.wrong(format!("table {table} has no chain `{}`", name.text))
                .help("a chain must be declared before rules use it")
        })
    }

    /// `:CHAIN POLICY`: declares the user's own chain or sets a policy.
    fn declare(&mut self, name: &Word, policy: &Word, count: Count) -> Outcome<()> {
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
                .help("only built-in chains have one; expected -"));
        }
        if self.find(&name.text).is_some() {
            return Err(name.wrong(format!("chain `{}` is declared twice", name.text)));
        }
        self.add_chain(name)
    }

    fn new_chain(&mut self, name: &Word) -> Outcome<()> {
        if self.find(&name.text).is_some() {
            return Err(name.wrong(format!("there is a chain `{}` already", name.text)));
        }
        if name.text.starts_with(['-', '!']) {
            return Err(name.wrong("a chain's name can't start with - or !"));
        }
        if name.text.contains(char::is_whitespace) {
            return Err(name.wrong("a chain's name can't contain blanks"));
        }
        if targets::find(&name.text, self.family).is_some() {
            return Err(name.wrong(format!("`{}` is the name of a target", name.text)));
        }
        self.add_chain(name)
    }

    fn add_chain(&mut self, name: &Word) -> Outcome<()> {
        if name.text.is_empty() || name.text.len() > MAX_CHAIN_NAME {
            return Err(name
                .wrong(format!("bad chain name `{}`", name.text))
                .help(format!("expected 1 to {MAX_CHAIN_NAME} characters")));
        }
        if rule::is_verdict(&name.text) {
            return Err(name.wrong(format!("`{}` is the name of a verdict", name.text)));
        }
        self.index.insert(name.text.clone(), self.chains.len());
        self.chains.push(ChainDraft {
            name: name.text.clone(),
            hook: None,
            policy: Policy::Accept,
            count: Count::default(),
            rules: Vec::new(),
        });
        Ok(())
    }

    fn set_policy(&mut self, name: &Word, policy: &Word, count: Count) -> Outcome<()> {
        let nat = self.name == TableName::Nat;
        let chain = self.chain(name)?;
        if chain.hook.is_none() {
            return Err(name.wrong(format!("`{}` can't have a policy", name.text)));
        }
        chain.policy = match policy.text.as_str() {
            "ACCEPT" => Policy::Accept,
            "DROP" if nat => return Err(rule::no_filtering_in_nat(policy)),
            "DROP" => Policy::Drop,
            other => {
                return Err(policy
                    .wrong(format!("bad policy `{other}`"))
                    .help("expected ACCEPT or DROP"));
            }
        };
        chain.count = count;
        Ok(())
    }

    fn place(
        &mut self,
        name: &Word,
        place: &Place,
        ast: &RuleAst,
        warnings: &mut Vec<Problem>,
    ) -> Outcome<()> {
        self.chain(name)?;
        let drafts = rule::drafts(self, name, ast, warnings)?;
        let chain = self.chain(name)?;
        let len = chain.rules.len();
        let missing = |n: u32, span: &Range<usize>| {
            Problem::new(span.clone(), format!("{} has no place {n} for a rule", name.text))
                .help(format!("it has {len} rules"))
        };
        match place {
            Place::Append => chain.rules.extend(drafts),
            Place::Insert(n, span) => {
                let at = *n as usize - 1;
                if at > len {
                    return Err(missing(*n, span));
                }
                // One after the other at the same place, so that they end up reversed, as with -I.
                drafts.into_iter().for_each(|draft| chain.rules.insert(at, draft));
            }
            Place::Replace(n, span) => {
                let at = *n as usize - 1;
                let mut drafts = drafts.into_iter();
                let (Some(draft), None) = (drafts.next(), drafts.next()) else {
                    return Err(Problem::new(ast.span.clone(), "-R takes a single rule"));
                };
                *chain.rules.get_mut(at).ok_or_else(|| missing(*n, span))? = draft;
            }
            Place::Delete => {
                for draft in drafts {
                    let text = draft.text();
                    let at =
                        chain.rules.iter().position(|r| r.text() == text).ok_or_else(|| {
                            Problem::new(
                                ast.span.clone(),
                                format!("{} has no such rule", name.text),
                            )
                        })?;
                    chain.rules.remove(at);
                }
            }
        }
        Ok(())
    }

    fn is_referenced(&self, name: &str) -> bool {
        self.chains.iter().flat_map(|c| &c.rules).any(|r| r.to.as_deref() == Some(name))
    }

    fn delete_chain(&mut self, name: Option<&Word>) -> Outcome<()> {
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
        let why = match chain {
            c if c.hook.is_some() => "is a built-in chain",
            c if !c.rules.is_empty() => "still has rules",
            _ if referenced => "is still used by rules",
            _ => {
                self.chains.retain(|c| c.name != name.text);
                self.reindex();
                return Ok(());
            }
        };
        Err(name.wrong(format!("`{}` {why}", name.text)))
    }

    fn rename(&mut self, old: &Word, new: &Word) -> Outcome<()> {
        if self.chain(old)?.hook.is_some() {
            return Err(old.wrong("a built-in chain can't be renamed"));
        }
        self.new_chain(new)?;
        self.chains.pop();
        for chain in &mut self.chains {
            if chain.name == old.text {
                chain.name.clone_from(&new.text);
            }
            for rule in &mut chain.rules {
                if rule.to.as_ref() == Some(&old.text) {
                    rule.to = Some(new.text.clone());
                }
            }
        }
        self.reindex();
        Ok(())
    }

    /// Settles the order of chains, resolves jumps, checks what depends on where chains hang.
    fn finish(mut self, counts: &mut Vec<Count>) -> Result<Table, Vec<Problem>> {
        let builtins = self.chains.iter().filter(|c| c.hook.is_some()).count();
        self.chains[builtins..].sort_by(|a, b| a.name.cmp(&b.name));
        self.reindex();
        let index = std::mem::take(&mut self.index);
        for chain in &mut self.chains {
            chain.rules.iter_mut().for_each(|rule| rule.resolve(&index));
        }
        hooks::check(&self.chains)?;
        let mut chains = Vec::with_capacity(self.chains.len());
        for draft in self.chains {
            let mut rules: Vec<Rule> = Vec::with_capacity(draft.rules.len());
            for mut rule in draft.rules {
                rule.rule.counter = counts.len();
                counts.push(rule.count);
                rules.push(rule.rule);
            }
            let builtin = draft.hook.map(|hook| {
                counts.push(draft.count);
                Builtin { hook, policy: draft.policy, counter: counts.len() - 1 }
            });
            chains.push(Chain { name: draft.name, builtin, rules });
        }
        Ok(Table { name: self.name, chains })
    }
}
