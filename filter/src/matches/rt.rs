//! `-m rt`: the routing header of an IPv6 packet (RFC 8200 section 4.4; type 0 is RFC 2460's,
//! which RFC 5095 took back and which firewalls are therefore told to drop).

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use tidegate_packet::{Family, ipv6, protocol};

use crate::ast::OptionAst;
use crate::diagnostic::{Outcome, Problem};
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::values::{Span, save_name, save_option};

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

/// Addresses that a rule may list.
const ADDRESSES_MAX: usize = 16;
/// The fixed part of a type 0 header.
const FIXED: usize = 8;
const ADDRESS: usize = 16;

#[derive(Debug)]
struct Routing {
    kind: Option<(u32, bool)>,
    left: (u32, u32, bool),
    len: Option<(u32, bool)>,
    reserved: bool,
    addresses: Option<Vec<Ipv6Addr>>,
    /// Others may stand between the addresses.
    not_strict: bool,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    let number = |name| match given.value(name) {
        Some((word, inverted)) => {
            word.number(0..=u64::from(u32::MAX)).map(|n| Some((n as u32, inverted)))
        }
        None => Ok(None),
    };
    let kind = number("rt-type")?;
    let left = match given.value("rt-segsleft") {
        Some((word, inverted)) => {
            let (low, high) = word.u32_range()?;
            (low, high, inverted)
        }
        None => (0, u32::MAX, false),
    };
    let type_0 = given.get("rt-type").filter(|_| kind == Some((0, false)));
    for name in ["rt-0-res", "rt-0-addrs"] {
        after(given, name, type_0, "--rt-type 0", "--rt-0-res")?;
    }
    let listed = given.get("rt-0-addrs");
    after(given, "rt-0-not-strict", listed, "--rt-0-addr ...", "--rt-0-not-strict")?;
    Ok(Box::new(Routing {
        kind,
        left,
        len: number("rt-len")?,
        reserved: given.has("rt-0-res"),
        addresses: given.value("rt-0-addrs").map(|(word, _)| addresses(word)).transpose()?,
        not_strict: given.has("rt-0-not-strict"),
    }))
}

/// Some options have a meaning only behind another.
fn after(
    given: &Given<'_>,
    name: &str,
    first: Option<&OptionAst>,
    wanted: &str,
    shown: &str,
) -> Outcome<()> {
    let Some(option) = given.get(name) else { return Ok(()) };
    if first.is_some_and(|first| first.span.start < option.span.start) {
        return Ok(());
    }
    Err(Problem::new(option.span.clone(), format!("--{name} must stand behind {wanted}"))
        .words(format!("`{wanted}' required before `{shown}'")))
}

fn addresses(word: &crate::lex::Word) -> Outcome<Vec<Ipv6Addr>> {
    let parts = word.list();
    if parts.len() > ADDRESSES_MAX {
        return Err(word
            .wrong(format!("more than {ADDRESSES_MAX} addresses"))
            .words("too many addresses specified"));
    }
    let address = |part: &crate::lex::Word| {
        part.text.parse().map_err(|_| {
            part.wrong(format!("`{}` is no IPv6 address", part.text))
                .words(format!("bad address: {}", part.text))
        })
    };
    parts.iter().map(address).collect()
}

impl Routing {
    /// ip6t_rt's look at the addresses of a type 0 header.
    fn lists(&self, wanted: &[Ipv6Addr], header: &[u8]) -> bool {
        let there: Vec<Ipv6Addr> =
            header[FIXED..].as_chunks::<ADDRESS>().0.iter().map(|&a| a.into()).collect();
        if self.not_strict {
            // All of them, in this order.
            let mut rest = wanted.iter().peekable();
            for address in &there {
                rest.next_if(|next| *next == address);
            }
            return rest.peek().is_none();
        }
        there == wanted
    }

    fn addresses_text(&self) -> Option<String> {
        let texts: Vec<_> = self.addresses.as_ref()?.iter().map(ToString::to_string).collect();
        Some(texts.join(","))
    }
}

impl Match for Routing {
    /// ip6t_rt.
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let Some(bytes) = query.bytes.get(..query.packet.len as usize) else { return false };
        let mut chain = ipv6::Extensions::new(bytes);
        let Some(found) = chain.find(|e| e.kind == protocol::ROUTING) else { return false };
        let Some(header) = bytes.get(found.at..found.at + found.len) else { return false };
        let (low, high, inverted) = self.left;
        let left = u32::from(header[3]);
        let equal = |wanted: Option<(u32, bool)>, is: u32| {
            wanted.is_none_or(|(wanted, inverted)| (wanted == is) != inverted)
        };
        (low <= left && left <= high) != inverted
            && equal(self.len, found.len as u32)
            && equal(self.kind, u32::from(header[2]))
            && (!self.reserved || header[4..FIXED] == [0; 4])
            && self.addresses.as_ref().is_none_or(|wanted| self.lists(wanted, header))
    }

    fn list(&self, out: &mut String, _style: Listing) {
        let sign = |inverted| if inverted { "!" } else { "" };
        out.push_str(" rt");
        // Writing to a string can't fail.
        if let Some((kind, inverted)) = self.kind {
            let _ = write!(out, " type:{}{kind}", sign(inverted));
        }
        let _ = match self.left {
            (0, u32::MAX, false) => Ok(()),
            (low, high, inverted) if low == high => {
                write!(out, " segsleft:{}{low}", sign(inverted))
            }
            (low, high, inverted) => write!(out, " segslefts:{}{low}:{high}", sign(inverted)),
        };
        if let Some((len, inverted)) = self.len {
            let _ = write!(out, " length:{}{len}", sign(inverted));
        }
        if self.reserved {
            out.push_str(" reserved");
        }
        if let Some(addresses) = self.addresses_text() {
            let _ = write!(out, " 0-addrs {addresses}");
        }
        if self.not_strict {
            out.push_str(" 0-not-strict");
        }
    }

    fn save(&self, out: &mut String) {
        if let Some((kind, inverted)) = self.kind {
            save_option(out, "rt-type", inverted, kind);
        }
        let (low, high, inverted) = self.left;
        // Not even a negated one, as the original has it.
        if (low, high) != (0, u32::MAX) {
            save_option(out, "rt-segsleft", inverted, Span(low, high, ':'));
        }
        if let Some((len, inverted)) = self.len {
            save_option(out, "rt-len", inverted, len);
        }
        if self.reserved {
            save_name(out, "rt-0-res", false);
        }
        if let Some(addresses) = self.addresses_text() {
            save_option(out, "rt-0-addrs", false, addresses);
        }
        if self.not_strict {
            save_name(out, "rt-0-not-strict", false);
        }
    }
}
