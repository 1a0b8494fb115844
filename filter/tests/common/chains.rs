//! Walks through long chains of the mangle table, with look-ups and plainly, before and after
//! commands.

use super::{Seen, query};
use tidegate_filter::*;
use tidegate_packet::{Family, Parsed, checksum};

/// A packet and the interface that it comes in by.
pub type Arrival = (Vec<u8>, &'static str);

pub fn loaded(text: &str, family: Family) -> Ruleset {
    match load(Source { name: "rules", text }, family) {
        Ok(loaded) => loaded.ruleset,
        Err(errors) => panic!("{errors:?}\n{text}"),
    }
}

pub fn saved(rules: &Ruleset) -> String {
    rules.save(None, SaveStyle { stamp: "", rule_counters: false })
}

/// Where each packet's walk leads, what it does on the way and what it counts.
pub fn outcome(rules: &Ruleset, packets: &[Arrival], plainly: bool) -> Vec<String> {
    let (mut counters, memory) = (rules.zero_counters(), Memory::new());
    let mut told = Vec::new();
    for (bytes, input) in packets {
        let (mut bytes, Ok(mut packet)) = (bytes.clone(), Parsed::parse(bytes)) else { continue };
        let mut seen = Seen::default();
        let (table, hook) = (TableName::Mangle, Hook::Prerouting);
        let mut walk = match plainly {
            true => rules.walk_plainly(table, hook),
            false => rules.walk(table, hook),
        };
        let verdict = loop {
            let query = Query { trace: true, input: Some(input), ..query(&packet, &bytes) };
            match walk.resume(&query, &mut counters, &memory, &mut seen) {
                Step::Done(verdict) => break verdict,
                Step::Edit(Edit::Header(edit)) => {
                    edit.make(&mut packet, &mut bytes, checksum::Field::Complete);
                }
                Step::Edit(edit) => seen.0.push(format!("{edit:?}")),
            }
        };
        told.push(format!("{verdict:?} {:?}", seen.0));
    }
    told.push(rules.save(Some(&counters), SaveStyle { stamp: "", rule_counters: true }));
    told
}

/// The rules after these commands of iptables, of which some fail.
pub fn changed(mut rules: Ruleset, commands: &[String]) -> Ruleset {
    let (program, family) = (live::Program::Iptables, rules.family());
    for command in commands {
        let args: Vec<String> = ["-t", "mangle"]
            .into_iter()
            .chain(command.split_whitespace())
            .map(str::to_owned)
            .collect();
        let call = live::Call { program, family, args: &args, input: "", stamp: "" };
        let counters = rules.zero_counters();
        let answer = live::run(call, live::Present { ruleset: &rules, counters: &counters });
        if let Some(change) = answer.change {
            rules = change.ruleset;
        }
    }
    rules
}

/// A chain is found by look-ups as it is met plainly; and what was changed in small steps is what a
/// file makes that has it all.
pub fn check(text: &str, family: Family, commands: &[String], packets: &[Arrival]) {
    // `limit` and `nth` remember, so each way has rules of its own.
    let load = || loaded(text, family);
    assert_eq!(outcome(&load(), packets, false), outcome(&load(), packets, true));
    let changed = changed(load(), commands);
    let anew = loaded(&saved(&changed), family);
    assert_eq!(outcome(&changed, packets, false), outcome(&anew, packets, true));
}
