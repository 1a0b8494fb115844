//! `-m addrtype`: what the routing table makes of an address.

use std::fmt::{self, Write as _};

use tidegate_packet::{Addr, Family};

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, flag, value};
use crate::lex::Word;
use crate::query::{AddrType, Hook};
use crate::values::bang;
use crate::values::{save_name, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["src-type"]).inverts(),
        value(&["dst-type"]).inverts(),
        flag(&["limit-iface-in"]),
        flag(&["limit-iface-out"]),
    ],
    ..Spec::new("addrtype", build)
};

/// In the order they are printed. The last three no address has.
const TYPES: [(&str, Option<AddrType>); 12] = [
    ("UNSPEC", Some(AddrType::Unspec)),
    ("UNICAST", Some(AddrType::Unicast)),
    ("LOCAL", Some(AddrType::Local)),
    ("BROADCAST", Some(AddrType::Broadcast)),
    ("ANYCAST", Some(AddrType::Anycast)),
    ("MULTICAST", Some(AddrType::Multicast)),
    ("BLACKHOLE", Some(AddrType::Blackhole)),
    ("UNREACHABLE", Some(AddrType::Unreachable)),
    ("PROHIBIT", Some(AddrType::Prohibit)),
    ("THROW", None),
    ("NAT", None),
    ("XRESOLVE", None),
];

/// A bit for each of the names.
#[derive(Copy, Clone, Debug)]
struct Types(u16);

impl Types {
    fn has(self, found: AddrType) -> bool {
        TYPES.iter().enumerate().any(|(n, (_, t))| self.0 >> n & 1 != 0 && *t == Some(found))
    }

    fn names(self, wanted: AddrType) -> bool {
        self.has(wanted)
    }

    /// Of an IPv6 address all types must be true (match_type6): those that the address itself shows,
    /// and one of those that take a look at the routes.
    fn all_of_v6(self, addr: Addr, found: impl Fn() -> AddrType) -> bool {
        let shows = |kind, is| !self.names(kind) || is;
        let unicast = !addr.is_multicast() && !addr.is_unspecified();
        let routed = [AddrType::Local, AddrType::Anycast, AddrType::Unreachable];
        shows(AddrType::Multicast, addr.is_multicast())
            && shows(AddrType::Unicast, unicast)
            && shows(AddrType::Unspec, addr.is_unspecified())
            && (!routed.iter().any(|kind| self.names(*kind)) || {
                let found = found();
                routed.contains(&found) && self.names(found)
            })
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = TYPES.iter().enumerate().filter(|(n, _)| self.0 >> n & 1 != 0);
        for (at, (_, (name, _))) in set.enumerate() {
            write!(f, "{}{name}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Limit {
    None,
    Input,
    Output,
}

#[derive(Debug)]
struct AddrTypes {
    source: Option<(Types, bool)>,
    destination: Option<(Types, bool)>,
    limit: Limit,
}

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.exclusive(&["limit-iface-in", "limit-iface-out"])?;
    let ask = |name| match given.value(name) {
        Some((word, inverted)) => types(word, given.family).map(|types| Some((types, inverted))),
        None => Ok(None),
    };
    let (source, destination) = (ask("src-type")?, ask("dst-type")?);
    if source.is_none() && destination.is_none() {
        return Err(given.wrong("--src-type or --dst-type must be given"));
    }
    let limit = match (given.has("limit-iface-in"), given.has("limit-iface-out")) {
        (true, _) => Limit::Input,
        (_, true) => Limit::Output,
        _ => Limit::None,
    };
    Ok(Box::new(AddrTypes { source, destination, limit }))
}

/// Types that IPv6 doesn't have, or that xt_addrtype can't tell there.
const NOT_IN_V6: [&str; 6] = ["BROADCAST", "BLACKHOLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"];

fn types(word: &Word<'_>, family: Family) -> Outcome<Types> {
    let mut sum = 0;
    for part in word.list() {
        let lacking = NOT_IN_V6.iter().any(|name| part.text.eq_ignore_ascii_case(name));
        if family == Family::V6 && lacking {
            return Err(part.wrong(format!("IPv6 has no `{}` here", part.text)));
        }
        let at = TYPES.iter().position(|(name, _)| part.text.eq_ignore_ascii_case(name));
        sum |= 1
            << at.ok_or_else(|| {
                let names: Vec<_> = TYPES.iter().map(|(name, _)| *name).collect();
                part.wrong(format!("unknown address type `{}`", part.text))
                    .help(format!("expected {}", names.join(", ")))
                    .words(format!("addrtype: bad type \"{}\"", part.text))
            })?;
    }
    Ok(Types(sum))
}

impl Match for AddrTypes {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let interface = match self.limit {
            Limit::None => None,
            Limit::Input => query.input,
            Limit::Output => query.output,
        };
        let holds = |asked: Option<(Types, bool)>, addr: Addr| {
            asked.is_none_or(|(types, inverted)| {
                let found = || query.gateway.addr_type(addr, interface);
                let has =
                    if addr.is_v4() { types.has(found()) } else { types.all_of_v6(addr, found) };
                has != inverted
            })
        };
        holds(self.source, query.packet.src) && holds(self.destination, query.packet.dst)
    }

    fn flow_only(&self) -> bool {
        true
    }

    fn list(&self, out: &mut String, _style: Listing) {
        out.push_str(" ADDRTYPE match");
        for (name, asked) in [("src-type", self.source), ("dst-type", self.destination)] {
            if let Some((types, inverted)) = asked {
                let _ = write!(out, " {name} {}{types}", bang(inverted));
            }
        }
        out.push_str(match self.limit {
            Limit::None => "",
            Limit::Input => " limit-in",
            Limit::Output => " limit-out",
        });
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        for (name, asked) in [("src-type", self.source), ("dst-type", self.destination)] {
            if let Some((types, inverted)) = asked {
                save_option(out, name, inverted, types);
            }
        }
        match self.limit {
            Limit::None => {}
            Limit::Input => save_name(out, "limit-iface-in", false),
            Limit::Output => save_name(out, "limit-iface-out", false),
        }
    }

    fn check_hooks(&self, hooks: u8) -> Result<(), &'static str> {
        let no_input = Hook::Output.bit() | Hook::Postrouting.bit();
        let no_output = Hook::Prerouting.bit() | Hook::Input.bit();
        match self.limit {
            Limit::Input if hooks & no_input != 0 => {
                Err("--limit-iface-in doesn't work in OUTPUT and POSTROUTING")
            }
            Limit::Output if hooks & no_output != 0 => {
                Err("--limit-iface-out doesn't work in PREROUTING and INPUT")
            }
            _ => Ok(()),
        }
    }
}
