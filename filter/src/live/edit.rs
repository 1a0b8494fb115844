//! `iptables`: lists, and single changes.

use super::program::Failed;
use super::{Answer, Call, Change, Present, list, table};
use crate::ast::{ItemAst, Place};
use crate::counters::Slots;
use crate::diagnostic::Problem;
use crate::lex::Word;
use crate::matches::icmp;
use crate::names;
use crate::parse::command::{self, CommandLine};
use crate::query::TableName;
use crate::ruleset::Ruleset;
use crate::validate::Draftbook;
use std::fmt::Write as _;
use std::sync::Arc;
use tidegate_packet::Family;

/// What is said of `-W`.
pub(super) const NO_INTERVAL: &str = "Ignoring deprecated --wait-interval option.\n";

pub(super) fn run(call: Call<'_>, present: Present<'_>) -> Result<Answer, Failed> {
    let line = command::call(words(call.args), call.family)?;
    let deprecated = line.switches.wait_interval;
    let mut done = act(call, present, line).unwrap_or_else(|failed| failed.answer(call));
    if deprecated {
        done.err.insert_str(0, NO_INTERVAL);
    }
    Ok(done)
}

fn act(call: Call<'_>, present: Present<'_>, line: CommandLine) -> Result<Answer, Failed> {
    let CommandLine { switches, list, item } = line;
    if switches.version {
        return Ok(call.version());
    }
    if switches.help {
        let mut out = help(call.family);
        let icmp = ["icmp", "icmpv6", "ipv6-icmp"];
        if call.args.iter().any(|word| icmp.contains(&word.as_str())) {
            out.push('\n');
            out.push_str(&icmp::types(call.family));
        }
        return Ok(Answer { out, ..Answer::default() });
    }
    let name = switches.table.as_ref().map_or("filter", |word| &*word.text);
    let name = table(name).ok_or_else(|| Failed::NoTable(name.to_owned()))?;
    let mut answer = Answer::default();
    if let Some(list) = &list {
        list::list(&mut answer.out, list, &switches, present, name)?;
    }
    let Some(item) = item else { return Ok(answer) };
    let mut book = book(present.ruleset, name);
    let before: Vec<String> = book.chain_names().map(str::to_owned).collect();
    if switches.verbose {
        book.tell();
    }
    book.item(&item, &mut Vec::new())?;
    if switches.verbose {
        tell(&mut answer.out, &item, &before, &mut book);
    }
    // A question changes nothing, and what it asks for is there.
    if !matches!(item, ItemAst::Rule { place: Place::Check, .. }) {
        answer.change = Some(change(present.ruleset, vec![book]).map_err(first)?);
    }
    Ok(answer)
}

/// The arguments as words; their places are those in the arguments joined by blanks.
fn words(args: &[String]) -> Vec<Word<'_>> {
    let mut start = 0;
    let words = args.iter().map(|text| {
        let span = start..start + text.len();
        start = span.end + 1;
        Word { text: text.into(), span, quoted: false }
    });
    words.collect()
}

pub(super) fn first(problems: Vec<Problem>) -> Failed {
    match problems.into_iter().next() {
        Some(problem) => problem.into(),
        None => Problem::new(0..0, "it can't be done").into(),
    }
}

/// A table as it is, to be written on.
pub(super) fn book(ruleset: &Ruleset, name: TableName) -> Draftbook {
    match ruleset.table(name) {
        Some(table) => Draftbook::of(table, ruleset),
        None => Draftbook::empty(name, ruleset.family, &ruleset.sets),
    }
}

/// The rules with these tables instead of the old ones.
pub(super) fn change(ruleset: &Ruleset, books: Vec<Draftbook>) -> Result<Change, Vec<Problem>> {
    let freed = books.iter().flat_map(Draftbook::freed);
    let mut slots = Slots::with(ruleset.places.clone(), freed);
    let mut tables = ruleset.tables.clone();
    for book in books {
        let table = Arc::new(book.finish(&mut slots, None)?);
        match tables.iter_mut().find(|old| old.name == table.name) {
            Some(old) => *old = table,
            None => tables.push(table),
        }
    }
    let (places, adjust) = slots.done();
    let ruleset = ruleset.changed(tables, places);
    Ok(Change { ruleset, adjust })
}

/// What `-v` says of a change.
pub(super) fn tell(out: &mut String, item: &ItemAst<'_>, before: &[String], after: &mut Draftbook) {
    let chains = |name: &Option<Word<'_>>| match name {
        Some(name) => vec![name.text.to_string()],
        None => before.to_vec(),
    };
    let mut each = |verb: &str, names: Vec<String>| {
        for name in names {
            let _ = writeln!(out, "{verb} chain `{name}'");
        }
    };
    match item {
        ItemAst::Flush(name) => each("Flushing", chains(name)),
        ItemAst::Zero(name, None) => each("Zeroing", chains(name)),
        ItemAst::DeleteChain(name) => {
            let mut names = chains(name);
            names.retain(|name| !after.chain_names().any(|left| left == name));
            each("Deleting", names);
        }
        ItemAst::Rule { .. } => out.push_str(&after.told()),
        _ => {}
    }
}

/// The text of `--help`: the forms of the command. The options of rules are iptables' own.
fn help(family: Family) -> String {
    let name = names::program(family);
    format!(
        "{name} for the running Tidegate gateway

Usage: {name} -[ACD] chain rule-specification [options]
       {name} -I chain [rulenum] rule-specification [options]
       {name} -R chain rulenum rule-specification [options]
       {name} -D chain rulenum [options]
       {name} -[LS] [chain [rulenum]] [options]
       {name} -Z [chain [rulenum]] [options]
       {name} -[FX] [chain]
       {name} -N chain
       {name} -E old-chain-name new-chain-name
       {name} -P chain target [options]

Options: -t table, -n, -v, -x, --line-numbers, -c packets bytes, -w [seconds]
Rules are written as for {name} itself; iptables-extensions(8) has them all.
"
    )
}
