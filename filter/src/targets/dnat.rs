//! `DNAT`: changes the destination; and the form of ranges, which SNAT shares.

use std::fmt::{self, Write as _};

use tidegate_packet::{Family, protocol};

use super::mapping::save_mapping;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Next, Spec, Target, TargetSpec, flag, value};
use crate::lex::Word;
use crate::query::{Hook, TableName};
use crate::values::{Span, list_saved, save_name, save_option};
use crate::verdict::{NatAction, NatRange, Verdict};

pub(crate) static SPEC: TargetSpec = TargetSpec {
    options: &[value(&["to-destination"]), flag(&["random"]), flag(&["persistent"])],
    tables: &[TableName::Nat],
    hooks: &[Hook::Prerouting, Hook::Output],
    ..Spec::new("DNAT", build)
};

#[derive(Debug)]
struct Dnat {
    range: NatRange,
    family: Family,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Target>> {
    let (word, _) = given.required("to-destination")?;
    let range = switches(given, range(given, word, true)?);
    Ok(Box::new(Dnat { range, family: given.family }))
}

/// Adds the switches that were given.
pub(super) fn switches(given: &Given<'_>, range: NatRange) -> NatRange {
    NatRange {
        random: given.has("random"),
        random_fully: given.has("random-fully"),
        persistent: given.has("persistent"),
        ..range
    }
}

/// What MASQUERADE and REDIRECT share: `--to-ports` and the switches.
pub(super) fn to_ports(given: &Given<'_>) -> Outcome<NatRange> {
    let ports = given.value("to-ports").map(|(word, _)| ports(given, word)).transpose()?;
    Ok(switches(given, NatRange { ports, ..NatRange::default() }))
}

/// And how that is saved.
pub(super) fn save_to_ports(out: &mut String, range: &NatRange) {
    if let Some((first, last)) = range.ports {
        save_option(out, "to-ports", false, Span(first, last, '-'));
    }
    save_switches(out, range);
}

/// `[addr[-addr]][:port[-port[/base]]]`; an IPv6 address before a port stands in brackets.
pub(super) fn range(given: &Given<'_>, word: &Word<'_>, base_allowed: bool) -> Outcome<NatRange> {
    let text = &*word.text;
    let (addrs, ports) = match given.family {
        Family::V4 => match text.split_once(':') {
            Some((addrs, ports)) => (addrs, Some(ports)),
            None => (text, None),
        },
        Family::V6 => match text.strip_prefix('[') {
            Some(inner) => {
                let Some((addrs, rest)) = inner.split_once(']') else {
                    return Err(word.wrong("the bracket is never closed"));
                };
                match rest.strip_prefix(':') {
                    Some(ports) => (addrs, Some(ports)),
                    None if rest.is_empty() => (addrs, None),
                    None => return Err(word.wrong(format!("unexpected `{rest}`"))),
                }
            }
            None => match text.strip_prefix(':').filter(|rest| !rest.contains(':')) {
                Some(ports) => ("", Some(ports)),
                None => (text, None),
            },
        },
    };
    let mut range = NatRange::default();
    if !addrs.is_empty() {
        let (first, last) = addrs.split_once('-').unwrap_or((addrs, addrs));
        let address = |text: &str| word.part(text).address(given.family);
        range.addrs = Some((address(first)?, address(last)?));
    } else if ports.is_none() {
        return Err(word.wrong("neither an address nor a port"));
    }
    let Some(ports) = ports else { return Ok(range) };
    let (ports, base) = match ports.split_once('/') {
        Some((ports, base)) if base_allowed => (ports, Some(base)),
        _ => (ports, None),
    };
    range.ports = Some(self::ports(given, &word.part(ports))?);
    range.base_port = base.map(|base| word.part(base).port(given.protocol)).transpose()?;
    Ok(range)
}

/// `port[-port]`, for a rule whose protocol has ports.
pub(super) fn ports(given: &Given<'_>, word: &Word<'_>) -> Outcome<(u16, u16)> {
    // ICMP's identifier serves as a port, so netfilter lets ICMP pass here too.
    let has_ports = matches!(
        given.protocol,
        Some(protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::ICMP)
    );
    if !has_ports {
        return Err(word
            .wrong("ports need a rule for a protocol that has them")
            .help("expected -p tcp, -p udp, -p sctp or -p dccp")
            .words("Need TCP, UDP, SCTP or DCCP with port specification"));
    }
    let port = |text: &str| word.part(text).port(given.protocol);
    // A service's name may have a dash in it.
    let (first, last) = match (port(&word.text), word.text.split_once('-')) {
        (Ok(single), _) => (single, single),
        (Err(_), Some((first, last))) => (port(first)?, port(last)?),
        (Err(problem), None) => return Err(problem),
    };
    if first > last {
        return Err(word.wrong(format!("port range `{}` runs backwards", word.text)));
    }
    Ok((first, last))
}

/// A range as it is printed.
pub(super) struct Shown(pub NatRange, pub Family);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(range, family) = self;
        let brackets = *family == Family::V6 && range.ports.is_some();
        if let Some((first, last)) = range.addrs {
            let (open, close) = if brackets { ("[", "]") } else { ("", "") };
            write!(f, "{open}{}{close}", Span(first, last, '-'))?;
        }
        if let Some((first, last)) = range.ports {
            write!(f, ":{}", Span(first, last, '-'))?;
        }
        match range.base_port {
            Some(base) => write!(f, "/{base}"),
            None => Ok(()),
        }
    }
}

/// Appends the switches of a range.
pub(super) fn save_switches(out: &mut String, range: &NatRange) {
    for (given, name) in [
        (range.random, "random"),
        (range.random_fully, "random-fully"),
        (range.persistent, "persistent"),
    ] {
        if given {
            save_name(out, name, false);
        }
    }
    save_mapping(out, range);
}

/// Appends a range and its switches as `iptables -L` shows them.
pub(super) fn list_range(out: &mut String, range: NatRange, family: Family) {
    // Writing to a string can't fail.
    let _ = write!(out, " to:{}", Shown(range, family));
    list_saved(out, |out| save_switches(out, &range));
}

impl Target for Dnat {
    fn apply(&self, _: &mut Context<'_>) -> Next {
        Next::Final(Verdict::Nat(NatAction::Destination(self.range)))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_range(out, self.range, self.family);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "to-destination", false, Shown(self.range, self.family));
        save_switches(out, &self.range);
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}
