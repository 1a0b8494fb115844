//! `-m dccp`: ports, packet types and options (RFC 4340 section 5).

use std::fmt::Write as _;

use tidegate_packet::protocol;

use super::header;
use super::tcp::Ports;
use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::values::{bang, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["source-port", "sport"]).inverts(),
        value(&["destination-port", "dport"]).inverts(),
        value(&["dccp-types"]).inverts(),
        value(&["dccp-option"]).inverts(),
    ],
    protocols: &[protocol::DCCP],
    ..Spec::new("dccp", build)
};

/// Types by their numbers; all from the last on are reserved.
const TYPES: [&str; 11] = [
    "REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC",
    "SYNCACK", "INVALID",
];
const INVALID: usize = 10;

#[derive(Debug)]
struct Dccp {
    source: Option<Ports>,
    destination: Option<Ports>,
    /// A bit for each type.
    types: Option<(u16, bool)>,
    option: Option<(u8, bool)>,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let types = match given.value("dccp-types") {
        Some((word, inverted)) => Some((types(word)?, inverted)),
        None => None,
    };
    let option = match given.value("dccp-option") {
        Some((word, inverted)) => Some((word.number(1..=255)? as u8, inverted)),
        None => None,
    };
    Ok(Box::new(Dccp {
        source: ports(given, "source-port")?,
        destination: ports(given, "destination-port")?,
        types,
        option,
    }))
}

/// Unlike the others' ports, a range may run backwards; nothing is in it.
fn ports(given: &Given<'_>, name: &str) -> Outcome<Option<Ports>> {
    let Some((word, inverted)) = given.value(name) else { return Ok(None) };
    // A name may be that of any protocol.
    let port = |word: &Word<'_>| word.port(given.protocol).or_else(|_| word.port(None));
    let end = |text: &str, default| match text {
        "" => Ok(default),
        text => port(&word.part(text)),
    };
    let (low, high) = match word.text.split_once(':') {
        Some((low, high)) => (end(low, 0)?, end(high, u16::MAX)?),
        None => (port(word)?, port(word)?),
    };
    Ok(Some(Ports::new(low, high, inverted)))
}

fn types(word: &Word<'_>) -> Outcome<u16> {
    let mut bits = 0;
    for part in word.list().filter(|part| !part.text.is_empty()) {
        bits |= match TYPES.iter().position(|name| part.text.eq_ignore_ascii_case(name)) {
            Some(INVALID) => u16::MAX << INVALID,
            Some(kind) => 1 << kind,
            None => {
                return Err(part
                    .wrong(format!("unknown DCCP type `{}`", part.text))
                    .words(format!("Unknown DCCP type `{}'", part.text))
                    .help(format!("expected {}", TYPES.join(", "))));
            }
        };
    }
    if bits == 0 {
        return Err(word.wrong("no DCCP type is named"));
    }
    Ok(bits)
}

/// The length of the header that a type has, without options (RFC 4340 sections 5.1 to 5.8).
fn header_len(kind: u8, extended: bool) -> usize {
    let own = match kind {
        2 => 0,
        3..=6 | 8 | 9 => 8,
        0 => 4,
        _ => 12,
    };
    12 + if extended { 4 } else { 0 } + own
}

/// Looks for an option as xt_dccp does: a length of zero counts as one byte. `None` if the header
/// is too short for what its own length says.
fn has_option(segment: &[u8], wanted: u8) -> Option<bool> {
    let (offset, kind) = (segment.get(4)?, segment.get(8)?);
    let len = usize::from(*offset) * 4;
    let start = header_len(kind >> 1 & 0xf, kind & 1 != 0);
    if len == start {
        return Some(false);
    }
    let options = segment.get(start..len)?;
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        if *kind == wanted {
            return Some(true);
        }
        at += match options.get(at + 1) {
            Some(len) if *kind >= 2 => usize::from(*len).max(1),
            _ => 1,
        };
    }
    Some(false)
}

impl Match for Dccp {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(header) = header::<12>(context) else { return false };
        let port = |at| u16::from_be_bytes([header[at], header[at + 1]]);
        if !self.source.is_none_or(|ports| ports.matches(port(0)))
            || !self.destination.is_none_or(|ports| ports.matches(port(2)))
        {
            return false;
        }
        let kind = header[8] >> 1 & 0xf;
        if self.types.is_some_and(|(bits, inverted)| (bits >> kind & 1 != 0) == inverted) {
            return false;
        }
        let Some((wanted, inverted)) = self.option else { return true };
        match has_option(context.query.packet.segment(context.query.bytes), wanted) {
            Some(found) => found != inverted,
            None => {
                context.hotdrop = true;
                false
            }
        }
    }

    fn list(&self, out: &mut String, style: Listing) {
        out.push_str(" dccp");
        for (ports, name) in [(self.source, "spt"), (self.destination, "dpt")] {
            if let Some(ports) = ports {
                ports.list(out, name, style);
            }
        }
        if let Some((bits, inverted)) = self.types {
            out.push_str(if inverted { " !" } else { "" });
            let last = if style.numeric { 16 } else { TYPES.len() };
            let mut between = ' ';
            for kind in (0..last).filter(|kind| bits >> kind & 1 != 0) {
                let _ = match style.numeric {
                    true => write!(out, "{between}{kind}"),
                    false => write!(out, "{between}{}", TYPES[kind]),
                };
                between = ',';
            }
        }
        if let Some((option, inverted)) = self.option {
            let _ = write!(out, " option={}{option}", bang(inverted));
        }
    }

    fn save(&self, out: &mut String) {
        Ports::save_given(self.source, out, "sport");
        Ports::save_given(self.destination, out, "dport");
        if let Some((bits, inverted)) = self.types {
            save_name(out, "dccp-types", inverted);
            let names = TYPES.iter().enumerate().filter(|(kind, _)| bits >> kind & 1 != 0);
            let _ = write!(out, " {}", names.map(|(_, name)| *name).collect::<Vec<_>>().join(","));
        }
        if let Some((option, inverted)) = self.option {
            save_option(out, "dccp-option", inverted, option);
        }
    }
}
