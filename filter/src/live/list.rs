//! `iptables -L` and `-S`, byte for byte.

use super::Present;
use super::program::Failed;
use crate::base::{Address, Interface};
use crate::counters::{Count, Counters, Slots};
use crate::diagnostic::Refusal;
use crate::extension::Listing as Style;
use crate::names;
use crate::parse::command::{Listing, Switches, rule_number};
use crate::query::TableName;
use crate::ruleset::{Action, Chain, Policy, Rule, RuleBody, Ruleset, Table};
use crate::validate::Draftbook;
use std::borrow::Cow;
use std::fmt::Write as _;

/// Appends what `-L` or `-S` asks for.
pub(super) fn list(
    out: &mut String,
    listing: &Listing,
    switches: &Switches,
    present: Present<'_>,
    name: TableName,
) -> Result<(), Failed> {
    let ruleset = present.ruleset;
    let table = match ruleset.table(name) {
        Some(table) => Cow::Borrowed(table),
        // A table that nobody has used is one without rules.
        None => Cow::Owned(bare(name, ruleset)?),
    };
    let wanted = |chain: &&Chain| listing.chain.as_ref().is_none_or(|w| w.text == *chain.name);
    let chains: Vec<&Chain> = table.ordered().filter(wanted).collect();
    if let (Some(word), true) = (&listing.chain, chains.is_empty()) {
        let problem = word.wrong(format!("there is no chain `{}`", word.text));
        return Err(problem.refused(Refusal::NoChain).into());
    }
    let number = match &listing.number {
        Some(word) => Some(rule_number(word)? as usize),
        None => None,
    };
    let view = View { table: &table, counters: present.counters, number };
    if listing.as_rules {
        view.rules(out, &chains, switches.verbose);
    } else {
        view.tables(out, &chains, switches);
    }
    Ok(())
}

/// A table without rules.
fn bare(name: TableName, ruleset: &Ruleset) -> Result<Table, Failed> {
    let book = Draftbook::empty(name, ruleset.family, &ruleset.sets);
    let mut table = book.finish(&mut Slots::default(), None).map_err(super::edit::first)?;
    // It counts nowhere.
    for builtin in table.chains.iter_mut().filter_map(|chain| chain.builtin.as_mut()) {
        builtin.counter = usize::MAX;
    }
    Ok(table)
}

/// What is listed.
struct View<'a> {
    table: &'a Table,
    counters: &'a Counters,
    number: Option<usize>,
}

fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Accept => "ACCEPT",
        Policy::Drop => "DROP",
    }
}

impl View<'_> {
    /// The rules of a chain that are wanted, with their numbers.
    fn wanted<'r>(&self, chain: &'r Chain) -> impl Iterator<Item = (usize, &'r Rule)> {
        let number = self.number;
        let numbered = chain.content.rules.iter().enumerate().map(|(n, rule)| (n + 1, rule));
        numbered.filter(move |(n, _)| number.is_none_or(|wanted| wanted == *n))
    }

    /// `-S`.
    fn rules(&self, out: &mut String, chains: &[&Chain], counted: bool) {
        let count = |out: &mut String, Count { packets, bytes }| {
            // Writing to a string can't fail.
            let _ = write!(out, " -c {packets} {bytes}");
        };
        for chain in chains.iter().filter(|_| self.number.is_none()) {
            match chain.builtin {
                Some(builtin) => {
                    let _ = write!(out, "-P {} {}", chain.name, policy_name(builtin.policy));
                    if counted {
                        count(out, self.counters.get(builtin.counter));
                    }
                }
                None => {
                    let _ = write!(out, "-N {}", chain.name);
                }
            }
            out.push('\n');
        }
        let name = |at: usize| &*self.table.chains[at].name;
        for chain in chains {
            for (_, rule) in self.wanted(chain) {
                let _ = write!(out, "-A {}", chain.name);
                if counted {
                    rule.save_counted(out, self.counters.get(rule.counter), name);
                } else {
                    rule.save(out, name);
                }
                out.push('\n');
            }
        }
    }

    /// `-L`.
    fn tables(&self, out: &mut String, chains: &[&Chain], switches: &Switches) {
        let form = Form {
            numeric: switches.numeric,
            counts: switches.verbose,
            exact: switches.exact,
            in_line: false,
        };
        for (at, chain) in chains.iter().enumerate() {
            if at > 0 {
                out.push('\n');
            }
            if self.number.is_none() {
                self.header(out, chain, form, switches.line_numbers);
            }
            for (number, rule) in self.wanted(chain) {
                if switches.line_numbers {
                    let _ = write!(out, "{number:<4} ");
                }
                if form.counts {
                    let count = self.counters.get(rule.counter);
                    number_cell(out, count.packets, form);
                    number_cell(out, count.bytes, form);
                }
                let to = |at: usize| &*self.table.chains[at].name;
                line(out, rule, form, to);
                out.push('\n');
            }
        }
    }

    fn header(&self, out: &mut String, chain: &Chain, form: Form, numbers: bool) {
        let _ = write!(out, "Chain {} (", chain.name);
        match chain.builtin {
            Some(builtin) => {
                let _ = write!(out, "policy {}", policy_name(builtin.policy));
                if form.counts {
                    let Count { packets, bytes } = self.counters.get(builtin.counter);
                    let form = Form { in_line: true, ..form };
                    out.push(' ');
                    number_cell(out, packets, form);
                    out.push_str("packets, ");
                    number_cell(out, bytes, form);
                    out.push_str("bytes");
                }
            }
            None => {
                let to = |rule: &&Rule| match rule.action {
                    Action::Jump(to) | Action::Goto(to) => self.table.chains[to].name == chain.name,
                    _ => false,
                };
                let rules = self.table.chains.iter().flat_map(|c| &c.content.rules);
                let _ = write!(out, "{} references", rules.filter(to).count());
            }
        }
        out.push_str(")\n");
        if numbers {
            out.push_str("num  ");
        }
        match form {
            Form { counts: false, .. } => {}
            Form { exact: true, .. } => out.push_str("    pkts      bytes "),
            _ => out.push_str(" pkts bytes "),
        }
        out.push_str("target     prot opt");
        if form.counts {
            out.push_str(" in     out    ");
        }
        let _ = writeln!(out, " {:<19}  {:<19} ", "source", "destination");
    }
}

/// How a rule is shown.
#[derive(Copy, Clone, Debug)]
struct Form {
    numeric: bool,
    /// Counters and interfaces.
    counts: bool,
    exact: bool,
    /// Not in columns, as `-v` tells of a change.
    in_line: bool,
}

/// A counter: in full, or in thousands once it has more than five digits.
fn number_cell(out: &mut String, mut number: u64, form: Form) {
    if form.exact {
        let _ = match form.in_line {
            true => write!(out, "{number} "),
            false => write!(out, "{number:>8} "),
        };
        return;
    }
    let mut unit = "";
    if number > 99_999 {
        for next in ["K", "M", "G", "T"] {
            unit = next;
            number = number.saturating_add(500) / 1000;
            if number <= 9_999 {
                break;
            }
        }
    }
    let width = if form.in_line { 0 } else { 5 - unit.len() };
    let _ = write!(out, "{number:>width$}{unit} ");
}

/// A rule from its target to its end, without the line end.
fn line<'a>(out: &mut String, rule: &Rule, form: Form, chain: impl Fn(usize) -> &'a str) {
    let RuleBody { base, matches, action, tied: _ } = &**rule;
    let target = match action {
        Action::None => "",
        Action::Accept => "ACCEPT",
        Action::Drop => "DROP",
        Action::Return => "RETURN",
        Action::Jump(to) | Action::Goto(to) => chain(*to),
        // What saved rules call NOTRACK is CT to the kernel.
        Action::Target(spec, _) if spec.name == "NOTRACK" => "CT",
        Action::Target(spec, _) => spec.name,
    };
    let cell = |out: &mut String, text: &str, width: usize| {
        let width = if form.in_line { 0 } else { width };
        let _ = write!(out, "{text:<width$} ");
    };
    cell(out, target, 9);
    let inverted = base.protocol.is_some_and(|p| p.inverted);
    out.push(if inverted { '!' } else { ' ' });
    cell(out, &protocol(base.protocol.map_or(0, |p| p.number), form), 4);
    if form.in_line {
        out.push_str("opt ");
    }
    out.push_str(match base.fragment {
        None => "-- ",
        Some(true) => "-f ",
        Some(false) => "!f ",
    });
    if form.counts {
        let any = if form.numeric { "*" } else { "any" };
        out.push_str(if form.in_line { "in " } else { " " });
        cell(out, &interface(base.input.as_ref(), any), 6);
        out.push_str(if form.in_line { "out " } else { "" });
        cell(out, &interface(base.output.as_ref(), any), 6);
    }
    out.push(if base.source.inverted { '!' } else { ' ' });
    cell(out, &address(base.source, form), 19);
    out.push(if base.destination.inverted { '!' } else { ' ' });
    match form.in_line {
        true => {
            let _ = write!(out, "-> {}  ", address(base.destination, form));
        }
        false => cell(out, &address(base.destination, form), 19),
    }
    if matches!(action, Action::Goto(_)) {
        out.push_str("[goto] ");
    }
    let protocol = base.protocol.filter(|p| !p.inverted).map(|p| p.number);
    let style = Style { numeric: form.numeric, protocol };
    for m in matches {
        m.test.list(out, style);
    }
    if let Action::Target(_, target) = action {
        target.list(out, style);
    }
}

/// iptables 1.8.9 shows protocols as numbers where it is asked for numbers, in columns only.
fn protocol(number: u8, form: Form) -> String {
    let name = match number {
        _ if form.numeric && !form.in_line => None,
        0 => Some("all"),
        // Without a look into /etc/protocols it knows only those that it has extensions for.
        58 => Some("ipv6-icmp"),
        1 | 6 | 17 | 50 | 51 | 132 | 136 => names::protocol_name(number),
        135 if form.numeric => Some("ipv6-mh"),
        _ if form.numeric => None,
        _ => names::protocol_name(number),
    };
    name.map_or_else(|| number.to_string(), str::to_owned)
}

fn interface(interface: Option<&Interface>, any: &str) -> String {
    match interface {
        Some(i) => format!("{}{}", if i.inverted { "!" } else { "" }, i.text()),
        None => any.to_owned(),
    }
}

/// Addresses are shown as numbers: a name server's answer isn't what the rule says.
fn address(address: Address, form: Form) -> String {
    let network = address.network;
    match network.prefix_len() {
        Some(0) if !form.numeric => "anywhere".to_owned(),
        Some(len) if len == network.family.bits() => network.shown(),
        _ => network.to_string(),
    }
}

/// What `-v` says of a rule that is added or taken away, its line end included.
pub(crate) fn told(rule: &Rule, to: &str) -> String {
    let mut out = String::new();
    let form = Form { numeric: true, counts: true, exact: false, in_line: true };
    line(&mut out, rule, form, |_| to);
    out.push('\n');
    out
}
