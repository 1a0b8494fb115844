//! Random rulesets that iptables takes.

use super::dice::Dice;
use super::matches::{Place, Protocol, condition, protocol};
use super::model::{Rule, Table};
use super::targets::target;
use super::values::{INTERFACES, Net, prefix};

/// The tables in the order of their hooks, with their chains.
const TABLES: [(&str, &[&str]); 5] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("security", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// A ruleset of some of the tables.
pub fn ruleset(d: &mut Dice, net: Net) -> Vec<Table> {
    let likely = [25, 45, 60, 85, 8];
    let mut tables = Vec::new();
    for ((name, hooks), likely) in TABLES.into_iter().zip(likely) {
        if d.chance(likely) {
            tables.push(table(d, net, name, hooks));
        }
    }
    tables
}

fn table(d: &mut Dice, net: Net, name: &'static str, hooks: &'static [&'static str]) -> Table {
    // A policy other than ACCEPT in nat stops most of what there is to see.
    let drops = |d: &mut Dice| d.chance(if name == "filter" { 20 } else { 2 }) && name != "nat";
    let policies = hooks.iter().map(|hook| (*hook, drops(d))).collect();
    let chains = chains(d, name);
    let mut rules = Vec::new();
    // A chain only leads to chains behind it, so there is no loop; nat's lead to those that
    // translate the same side of a packet.
    for (at, chain) in chains.iter().enumerate() {
        let onward: Vec<&String> =
            chains[at + 1..].iter().filter(|c| c[..1] == chain[..1]).collect();
        let place = Place { net, table: name, hook: None, source_side: chain.starts_with('S') };
        for _ in 0..d.within(0, 3) {
            rules.push(rule(d, &place, chain, &onward));
        }
    }
    for _ in 0..d.within(1, 8) {
        let hook = d.pick(hooks);
        let source_side = matches!(hook, "POSTROUTING" | "INPUT");
        let onward: Vec<&String> = chains
            .iter()
            .filter(|c| name != "nat" || c.starts_with('S') == source_side)
            .filter(|_| !is_noisy(net, hook))
            .collect();
        let place = Place { net, table: name, hook: Some(hook), source_side };
        rules.push(rule(d, &place, hook, &onward));
    }
    Table { name, policies, chains, rules }
}

/// Whether packets that the kernel sends of its own accord pass here: neighbour discovery and
/// reports. What counts or remembers packets must not be here.
pub fn is_noisy(net: Net, hook: &str) -> bool {
    net == Net::V6 && matches!(hook, "OUTPUT" | "POSTROUTING")
}

fn chains(d: &mut Dice, table: &str) -> Vec<String> {
    let count = d.below(4);
    (0..count)
        .map(|n| match table {
            "nat" if n % 2 == 0 => format!("SRC{n}"),
            "nat" => format!("DST{n}"),
            _ => format!("chain{n}"),
        })
        .collect()
}

fn rule(d: &mut Dice, place: &Place, chain: &str, onward: &[&String]) -> Rule {
    let mut parts = Vec::new();
    let wanted = match d.below(10) {
        0..4 => None,
        _ => Some(protocol(d, place.net)),
    };
    let (target, needed) = match onward {
        [] => target(d, place),
        _ if d.chance(30) => (format!("-{} {}", d.pick(&["j", "j", "g"]), d.pick(onward)), None),
        _ => target(d, place),
    };
    let wanted = needed.as_ref().map_or(wanted, |n| Some(n.protocol));
    if d.chance(25) {
        parts.push(format!("{}-s {}", d.not(), prefix(d, place.net)));
    }
    if d.chance(25) {
        parts.push(format!("{}-d {}", d.not(), prefix(d, place.net)));
    }
    let inward = place.hook.is_none_or(|h| !matches!(h, "OUTPUT" | "POSTROUTING"));
    let outward = place.hook.is_none_or(|h| !matches!(h, "PREROUTING" | "INPUT"));
    for (side, may) in [("-i", inward), ("-o", outward)] {
        if may && d.chance(15) {
            let name = d.pick(&[INTERFACES[0], INTERFACES[1], INTERFACES[2], "eth+", "+"]);
            // "Anything but anything" is refused in some forms.
            let not = if name == "+" { "" } else { d.not() };
            parts.push(format!("{not}{side} {name}"));
        }
    }
    if place.net == Net::V4 && d.chance(4) {
        parts.push(format!("{}-f", d.not()));
    }
    if let Some(protocol) = wanted {
        let not = if needed.is_some() || d.chance(92) { "" } else { "! " };
        parts.push(format!("{not}-p {}", protocol.name(place.net)));
        if let Some(syn) = needed.and_then(|n| n.condition) {
            parts.push(syn.to_owned());
        }
        if not.is_empty() {
            with_conditions(d, place, Some(protocol), &mut parts);
            return Rule { chain: chain.to_owned(), parts, target };
        }
    }
    with_conditions(d, place, None, &mut parts);
    Rule { chain: chain.to_owned(), parts, target }
}

fn with_conditions(
    d: &mut Dice,
    place: &Place,
    protocol: Option<Protocol>,
    parts: &mut Vec<String>,
) {
    let count = d.pick(&[0, 1, 1, 1, 2, 2, 3]);
    for _ in 0..count {
        if let Some(found) = condition(d, place, protocol) {
            // The same match twice is legal for most and refused for few; once shows as much.
            let name = |text: &str| text.split(' ').nth(1).map(str::to_owned);
            if parts.iter().all(|p| name(p) != name(&found) || !p.starts_with("-m")) {
                parts.push(found);
            }
        }
    }
}
