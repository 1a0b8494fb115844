//! `-m pkttype`: to whom the frame was addressed on its link.

use std::fmt::Write as _;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::query::LinkType;
use crate::values::bang;
use crate::values::save_option;

pub(crate) static SPEC: MatchSpec =
    MatchSpec { options: &[value(&["pkt-type"]).inverts()], ..Spec::new("pkttype", build) };

/// What a rule asks for.
#[derive(Copy, Clone, Debug)]
enum Wanted {
    Link(LinkType),
    /// Another station's packet: the gateway never takes one.
    OtherHost,
}

/// Name as printed, another name.
const NAMES: [(&str, &str, Wanted); 4] = [
    ("unicast", "host", Wanted::Link(LinkType::Unicast)),
    ("broadcast", "bcast", Wanted::Link(LinkType::Broadcast)),
    ("multicast", "mcast", Wanted::Link(LinkType::Multicast)),
    ("otherhost", "otherhost", Wanted::OtherHost),
];

#[derive(Debug)]
struct PktType {
    name: &'static str,
    wanted: Wanted,
    inverted: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let (word, inverted) = given.required("pkt-type")?;
    let same = |name: &str| word.text.eq_ignore_ascii_case(name);
    let Some((name, _, wanted)) = NAMES.iter().find(|(name, other, _)| same(name) || same(other))
    else {
        return Err(word
            .wrong(format!("unknown packet type `{}`", word.text))
            .help("expected unicast, broadcast, multicast or otherhost"));
    };
    Ok(Box::new(PktType { name, wanted: *wanted, inverted }))
}

impl Match for PktType {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        // The gateway's own packets count as addressed to a host, unless looped back: then the
        // address tells (xt_pkttype).
        let kind = match query.link {
            Some(link) => link.kind,
            None if query.packet.dst.is_multicast() => LinkType::Multicast,
            None if query.packet.dst.is_limited_broadcast() => LinkType::Broadcast,
            None => LinkType::Unicast,
        };
        let same = match self.wanted {
            Wanted::Link(wanted) => wanted == kind,
            Wanted::OtherHost => false,
        };
        same != self.inverted
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let _ = write!(out, " PKTTYPE {}= {}", bang(self.inverted), self.name);
    }

    fn save(&self, out: &mut String) {
        save_option(out, "pkt-type", self.inverted, self.name);
    }
}
