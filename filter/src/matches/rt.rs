//! `-m rt`: the routing header of an IPv6 packet (RFC 8200 section 4.4, type 0 of RFC 2460).

use std::fmt::Write as _;

use tidegate_packet::{Addr, Family, ipv6, protocol};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::values::{Span, bang, list_range, save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    families: &[Family::V6],
    options: &[
        value(&["rt-type"]).inverts(),
        value(&["rt-segsleft"]).inverts(),
        value(&["rt-len"]).inverts(),
        flag(&["rt-0-res"]),
        value(&["rt-0-addrs"]),
        flag(&["rt-0-not-strict"]),
    ],
    ..Spec::new("rt", build)
};

/// `IP6T_RT_HOPS`.
const MAX_ADDRESSES: usize = 16;
/// Where the addresses of a type 0 header start.
const ADDRESSES_AT: usize = 8;

#[derive(Debug)]
struct Routing {
    kind: Option<(u32, bool)>,
    segments: (u32, u32),
    segments_inverted: bool,
    len: Option<(u32, bool)>,
    reserved: bool,
    addresses: Vec<Addr>,
    /// The header holds the addresses in their order, perhaps with others between them.
    loose: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let number = |name: &str| match given.value(name) {
        Some((word, inverted)) => {
            word.number(0..=u64::from(u32::MAX)).map(|n| Some((n as u32, inverted)))
        }
        None => Ok(None),
    };
    let (segments, segments_inverted) = match given.value("rt-segsleft") {
        Some((word, inverted)) => (word.u32_range()?, inverted),
        None => ((0, u32::MAX), false),
    };
    let addresses = match given.value("rt-0-addrs") {
        Some((word, _)) => addresses(word)?,
        None => Vec::new(),
    };
    let this = Routing {
        kind: number("rt-type")?,
        segments,
        segments_inverted,
        len: number("rt-len")?,
        reserved: given.has("rt-0-res"),
        addresses,
        loose: given.has("rt-0-not-strict"),
    };
    // Only type 0 has the fields that these ask for, and iptables wants to know it before.
    let place = |name: &str| given.extension.options.iter().position(|o| o.opt.names[0] == name);
    for name in ["rt-0-res", "rt-0-addrs"] {
        let asked = place(name);
        if asked.is_some() && (this.kind != Some((0, false)) || place("rt-type") > asked) {
            return Err(given
                .wrong(format!("--rt-type 0 has to stand before --{name}"))
                .words(format!("`--rt-type 0' required before `--{name}'")));
        }
    }
    let listed = place("rt-0-addrs").is_some_and(|at| Some(at) < place("rt-0-not-strict"));
    if this.loose && !listed {
        return Err(given
            .wrong("--rt-0-addrs has to stand before --rt-0-not-strict")
            .words("`--rt-0-addr ...' required before `--rt-0-not-strict'"));
    }
    Ok(Box::new(this))
}

fn addresses(word: &Word<'_>) -> Outcome<Vec<Addr>> {
    let mut addresses = Vec::new();
    for part in word.list() {
        addresses.push(part.address(Family::V6)?);
    }
    if addresses.len() > MAX_ADDRESSES {
        return Err(word.wrong(format!("at most {MAX_ADDRESSES} addresses")));
    }
    Ok(addresses)
}

impl Routing {
    fn visits(&self, header: &[u8]) -> bool {
        let (there, _) = header.get(ADDRESSES_AT..).unwrap_or_default().as_chunks::<16>();
        let mut there = there.iter().map(|bytes| Addr::from_bits(u128::from_be_bytes(*bytes)));
        match self.loose {
            true => self.addresses.iter().all(|wanted| there.any(|found| found == *wanted)),
            false => there.eq(self.addresses.iter().copied()),
        }
    }
}

impl Match for Routing {
    /// ip6t_rt.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let Some(bytes) = context.query.bytes.get(..context.query.packet.len as usize) else {
            return false;
        };
        let found = ipv6::Extensions::new(bytes).find(|e| e.kind == protocol::ROUTING);
        let Some(header) = found.and_then(|e| bytes.get(e.at..e.at + e.len)) else { return false };
        let Some(&[_, _, kind, left, reserved @ ..]) = header.first_chunk::<8>() else {
            return false;
        };
        let (low, high) = self.segments;
        let left = u32::from(left);
        let is = |asked: Option<(u32, bool)>, value: u32| {
            asked.is_none_or(|(wanted, inverted)| (wanted == value) != inverted)
        };
        (low <= left && left <= high) != self.segments_inverted
            && is(self.len, header.len() as u32)
            && is(self.kind, kind.into())
            && (!self.reserved || reserved == [0; 4])
            && (self.addresses.is_empty() || self.visits(header))
    }

    fn list(&self, out: &mut String, _: Listing) {
        out.push_str(" rt");
        if let Some((kind, inverted)) = self.kind {
            let _ = write!(out, " type:{}{}", bang(inverted), kind as i32);
        }
        if self.segments != (0, u32::MAX) || self.segments_inverted {
            out.push(' ');
            list_range(out, "segsleft", self.segments, self.segments_inverted);
        }
        if let Some((len, inverted)) = self.len {
            let _ = write!(out, " length:{}{len}", bang(inverted));
        }
        if self.reserved {
            out.push_str(" reserved");
        }
        if !self.addresses.is_empty() {
            let _ = write!(out, " 0-addrs {}", joined(&self.addresses));
        }
        if self.loose {
            out.push_str(" 0-not-strict");
        }
    }

    fn save(&self, out: &mut String) {
        if let Some((kind, inverted)) = self.kind {
            save_option(out, "rt-type", inverted, kind);
        }
        let (low, high) = self.segments;
        if self.segments != (0, u32::MAX) {
            save_option(out, "rt-segsleft", self.segments_inverted, Span(low, high, ':'));
        }
        if let Some((len, inverted)) = self.len {
            save_option(out, "rt-len", inverted, len);
        }
        if self.reserved {
            save_name(out, "rt-0-res", false);
        }
        if !self.addresses.is_empty() {
            save_option(out, "rt-0-addrs", false, joined(&self.addresses));
        }
        if self.loose {
            save_name(out, "rt-0-not-strict", false);
        }
    }
}

fn joined(addresses: &[Addr]) -> String {
    addresses.iter().map(Addr::to_string).collect::<Vec<_>>().join(",")
}
