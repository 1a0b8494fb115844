//! `-m icmp` and `-m icmp6`: type and code.

use std::fmt::Write as _;

use tidegate_packet::{Family, protocol};

use super::header;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::bang;
use crate::values::{parse_number, save_name};

pub(crate) static V4: MatchSpec = MatchSpec {
    families: &[Family::V4],
    options: &[value(&["icmp-type"]).inverts()],
    protocols: &[protocol::ICMP],
    ..Spec::new("icmp", build_v4)
};

pub(crate) static V6: MatchSpec = MatchSpec {
    aliases: &["icmpv6", "ipv6-icmp"],
    families: &[Family::V6],
    options: &[value(&["icmpv6-type"]).inverts()],
    protocols: &[protocol::ICMPV6],
    ..Spec::new("icmp6", build_v6)
};

/// In IPv4 this type stands for any.
const ANY: u8 = 255;

/// A name, its type, and its code if it means just one.
type Name = (&'static str, u8, Option<u8>);

#[rustfmt::skip]
const NAMES_V4: &[Name] = &[
    ("any", ANY, None),
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-unknown", 3, Some(6)),
    ("host-unknown", 3, Some(7)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("TOS-network-unreachable", 3, Some(11)),
    ("TOS-host-unreachable", 3, Some(12)),
    ("communication-prohibited", 3, Some(13)),
    ("host-precedence-violation", 3, Some(14)),
    ("precedence-cutoff", 3, Some(15)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("network-redirect", 5, Some(0)),
    ("host-redirect", 5, Some(1)),
    ("TOS-network-redirect", 5, Some(2)),
    ("TOS-host-redirect", 5, Some(3)),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("ip-header-bad", 12, Some(0)),
    ("required-option-missing", 12, Some(1)),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
];

#[rustfmt::skip]
const NAMES_V6: &[Name] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("beyond-scope", 1, Some(2)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("failed-policy", 1, Some(5)),
    ("reject-route", 1, Some(6)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("ttl-zero-during-transit", 3, Some(0)),
    ("ttl-zero-during-reassembly", 3, Some(1)),
    ("parameter-problem", 4, None),
    ("bad-header", 4, Some(0)),
    ("unknown-header-type", 4, Some(1)),
    ("unknown-option", 4, Some(2)),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

/// What `--help` behind `-p icmp` says of types, which programs read (firewalld): a type on a line with
/// its other name in brackets, its codes below it.
pub(crate) fn types(family: Family) -> String {
    let (heading, names) = match family {
        Family::V4 => ("Valid ICMP Types:", NAMES_V4),
        Family::V6 => ("Valid ICMPv6 Types:", NAMES_V6),
    };
    let mut out = String::from(heading);
    let mut before = None;
    for &(name, kind, code) in names {
        if before == Some((kind, code)) {
            out.push_str(&format!(" ({name})"));
        } else {
            let indent = if code.is_some() { "   " } else { "" };
            out.push_str(&format!("\n{indent}{name}"));
        }
        before = Some((kind, code));
    }
    out.push('\n');
    out
}

#[derive(Debug)]
struct Icmp {
    family: Family,
    kind: u8,
    code: Option<u8>,
    inverted: bool,
}

fn build_v4(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    build(given, "icmp-type", NAMES_V4)
}

fn build_v6(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    build(given, "icmpv6-type", NAMES_V6)
}

fn build(given: &Given<'_>, option: &str, names: &[Name]) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required(option)?;
    let (kind, code) = read(word, names)?;
    Ok(Box::new(Icmp { family: given.family, kind, code, inverted }))
}

/// A name, an unambiguous beginning of one, or `type[/code]`.
fn read(word: &Word<'_>, names: &[Name]) -> Outcome<(u8, Option<u8>)> {
    let starts = |name: &str| {
        name.get(..word.text.len()).is_some_and(|head| head.eq_ignore_ascii_case(&word.text))
    };
    let mut found = names.iter().filter(|(name, ..)| starts(name));
    match (found.next(), found.next()) {
        (Some((_, kind, code)), None) => return Ok((*kind, *code)),
        (Some((a, ..)), Some((b, ..))) => {
            let message = format!("ambiguous ICMP type `{}`", word.text);
            let words = format!("Ambiguous ICMP type `{}': `{a}' or `{b}'?", word.text);
            return Err(word.wrong(message).help(format!("expected {a} or {b}")).words(words));
        }
        (None, _) => {}
    }
    let (kind, code) = match word.text.split_once('/') {
        Some((kind, code)) => (kind, Some(code)),
        None => (&*word.text, None),
    };
    let byte = |text: &str| {
        parse_number(text).and_then(|n| u8::try_from(n).ok()).ok_or_else(|| {
            word.wrong(format!("unknown ICMP type `{}`", word.text))
                .help("expected a name such as echo-request, a type of 0 to 255, or type/code")
                .words(format!(
                    "Unknown ICMP {} `{}'",
                    if word.text.contains('/') { "code" } else { "type" },
                    word.text
                ))
                .nearest(&word.text, names.iter().map(|(name, ..)| *name))
        })
    };
    Ok((byte(kind)?, code.map(byte).transpose()?))
}

impl Match for Icmp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<8>(context) else { return false };
        let any = self.family == Family::V4 && self.kind == ANY;
        let same = self.kind == header[0] && self.code.is_none_or(|code| code == header[1]);
        (any || same) != self.inverted
    }

    fn list(&self, out: &mut String, style: Listing) {
        let Self { family, kind, code, inverted } = *self;
        let (prefix, names) = match family {
            Family::V4 => (" icmp", NAMES_V4),
            Family::V6 => (" ipv6-icmp", NAMES_V6),
        };
        out.push_str(prefix);
        let name = names.iter().find(|(_, k, c)| (*k, *c) == (kind, code));
        if let Some((name, ..)) = name.filter(|_| !style.numeric) {
            let _ = write!(out, " {}{name}", bang(inverted));
            return;
        }
        let _ = write!(out, "{}type {kind}", if inverted { " !" } else { "" });
        if let Some(code) = code {
            let _ = write!(out, " code {code}");
        }
    }

    fn save(&self, out: &mut String) {
        let Self { family, kind, code, inverted } = *self;
        let name = if family == Family::V4 { "icmp-type" } else { "icmpv6-type" };
        save_name(out, name, inverted);
        if family == Family::V4 && kind == ANY {
            out.push_str(" any");
            return;
        }
        let _ = match code {
            Some(code) => write!(out, " {kind}/{code}"),
            None => write!(out, " {kind}"),
        };
    }
}
