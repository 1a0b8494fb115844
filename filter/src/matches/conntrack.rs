//! `-m conntrack`: everything rules may ask about a packet's connection.

use std::fmt;

use tidegate_packet::Addr;

use crate::diagnostic::Outcome;
use crate::extension::{Context, Given, Listing, Match, MatchSpec, Spec, value};
use crate::lex::Word;
use crate::parse::command::protocol;
use crate::query::{Connection, CtState, Direction};
use crate::values::list_saved;
use crate::values::{Network, Span, save_option};

pub(crate) static SPEC: MatchSpec = MatchSpec {
    options: &[
        value(&["ctstate"]).inverts(),
        value(&["ctproto"]).inverts(),
        value(&["ctorigsrc"]).inverts(),
        value(&["ctorigdst"]).inverts(),
        value(&["ctreplsrc"]).inverts(),
        value(&["ctrepldst"]).inverts(),
        value(&["ctorigsrcport"]).inverts(),
        value(&["ctorigdstport"]).inverts(),
        value(&["ctreplsrcport"]).inverts(),
        value(&["ctrepldstport"]).inverts(),
        value(&["ctstatus"]).inverts(),
        value(&["ctexpire"]).inverts(),
        value(&["ctdir"]),
    ],
    ..Spec::new("conntrack", build)
};

/// Names in the order they are printed.
const STATES: [&str; 7] = ["INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"];
const SNAT: u8 = 1 << 5;
const DNAT: u8 = 1 << 6;
const STATUSES: [&str; 4] = ["EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"];

/// A set of states; a bit for each of the names.
#[derive(Copy, Clone, Debug)]
pub(super) struct States(u8);

impl States {
    pub fn has(self, state: CtState) -> bool {
        self.0 & Self::bit(state) != 0
    }

    fn bit(state: CtState) -> u8 {
        match state {
            CtState::Invalid => 1,
            CtState::New => 1 << 1,
            CtState::Related => 1 << 2,
            CtState::Established => 1 << 3,
            CtState::Untracked => 1 << 4,
        }
    }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        names(f, &STATES, self.0)
    }
}

fn names(f: &mut fmt::Formatter<'_>, names: &[&str], bits: u8) -> fmt::Result {
    let set = names.iter().enumerate().filter(|(n, _)| bits >> n & 1 != 0);
    for (at, (_, name)) in set.enumerate() {
        write!(f, "{}{name}", if at > 0 { "," } else { "" })?;
    }
    Ok(())
}

/// A list of states; only the conntrack match knows SNAT and DNAT.
pub(super) fn states(word: &Word<'_>, virtual_too: bool) -> Outcome<States> {
    let (known, what) =
        if virtual_too { (&STATES[..7], "ctstate") } else { (&STATES[..5], "state") };
    bits(word, known, what).map(States)
}

fn bits(word: &Word<'_>, known: &[&str], what: &str) -> Outcome<u8> {
    let mut sum = 0;
    for part in word.list() {
        let at = known.iter().position(|name| part.text.eq_ignore_ascii_case(name));
        sum |= 1
            << at.ok_or_else(|| {
                part.wrong(format!("unknown {} `{}`", what.trim_start_matches("ct"), part.text))
                    .words(format!("Bad {what} \"{}\"", part.text))
                    .help(format!("expected {}", known.join(", ")))
            })?;
    }
    Ok(sum)
}

#[derive(Copy, Clone, Debug)]
struct Statuses(u8);

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("NONE") } else { names(f, &STATUSES, self.0) }
    }
}

/// A question and whether its answer is negated.
type Asked<T> = Option<(T, bool)>;

#[derive(Debug)]
struct Conntrack {
    states: Asked<States>,
    protocol: Asked<u8>,
    /// ctorigsrc, ctorigdst, ctreplsrc, ctrepldst.
    addresses: [Asked<Network>; 4],
    /// The same four, as ports.
    ports: [Asked<(u16, u16)>; 4],
    status: Asked<Statuses>,
    expire: Asked<(u32, u32)>,
    direction: Option<Direction>,
    /// Whether anything but the state is asked.
    more_than_state: bool,
}

const ADDRESSES: [&str; 4] = ["ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst"];
const PORTS: [&str; 4] = ["ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport"];

fn build(given: &Given<'_>) -> Outcome<Box<dyn Match>> {
    given.not_empty()?;
    let mut addresses = [None; 4];
    for (place, name) in addresses.iter_mut().zip(ADDRESSES) {
        *place = ask(given, name, |word| word.unmasked_network(given.family))?;
    }
    let mut ports = [None; 4];
    for (place, name) in ports.iter_mut().zip(PORTS) {
        *place = ask(given, name, |word| word.port_range(None))?;
    }
    let mut built = Conntrack {
        states: ask(given, "ctstate", |word| states(word, true))?,
        protocol: ask(given, "ctproto", protocol)?,
        addresses,
        ports,
        status: ask(given, "ctstatus", status)?,
        expire: ask(given, "ctexpire", expire)?,
        direction: match given.value("ctdir") {
            Some((word, _)) => Some(direction(word)?),
            None => None,
        },
        more_than_state: false,
    };
    let Conntrack { states, protocol, status, expire, direction, .. } = &built;
    built.more_than_state = states.is_none()
        || protocol.is_some()
        || addresses.iter().any(Option::is_some)
        || ports.iter().any(Option::is_some)
        || status.is_some()
        || expire.is_some()
        || direction.is_some();
    Ok(Box::new(built))
}

fn ask<T>(
    given: &Given<'_>,
    name: &str,
    read: impl Fn(&Word<'_>) -> Outcome<T>,
) -> Outcome<Asked<T>> {
    match given.value(name) {
        Some((word, inverted)) => read(word).map(|value| Some((value, inverted))),
        None => Ok(None),
    }
}

fn status(word: &Word<'_>) -> Outcome<Statuses> {
    // NONE is the name of no bit, so beside others it means nothing.
    let mut sum = 0;
    for part in word.list().filter(|part| !part.text.eq_ignore_ascii_case("NONE")) {
        sum |= bits(&part, &STATUSES, "ctstatus")?;
    }
    Ok(Statuses(sum))
}

fn expire(word: &Word<'_>) -> Outcome<(u32, u32)> {
    let (low, high) = match word.text.split_once(':') {
        Some((low, high)) => (low, Some(high)),
        None => (&*word.text, None),
    };
    let end = |text: &str, default| match text {
        "" => Ok(default),
        text => word.part(text).number(0..=u64::from(u32::MAX)).map(|n| n as u32),
    };
    let low_end = end(low, 0)?;
    Ok((low_end, high.map_or(Ok(low_end), |high| end(high, u32::MAX))?))
}

fn direction(word: &Word<'_>) -> Outcome<Direction> {
    match word.text.to_ascii_uppercase().as_str() {
        "ORIGINAL" => Ok(Direction::Original),
        "REPLY" => Ok(Direction::Reply),
        _ => Err(word
            .wrong(format!("unknown direction `{}`", word.text))
            .help("expected ORIGINAL or REPLY")),
    }
}

fn holds<T: Copy>(asked: Asked<T>, test: impl FnOnce(T) -> bool) -> bool {
    asked.is_none_or(|(value, inverted)| test(value) != inverted)
}

impl Conntrack {
    fn connection_matches(&self, c: &Connection) -> bool {
        let addrs: [Addr; 4] = [c.original.src, c.original.dst, c.reply.src, c.reply.dst];
        let ports = [c.original.sport, c.original.dport, c.reply.sport, c.reply.dport];
        let status = u8::from(c.expected)
            | u8::from(c.seen_reply) << 1
            | u8::from(c.assured) << 2
            | u8::from(c.confirmed) << 3;
        self.direction.is_none_or(|d| d == c.direction)
            && (0..4).all(|n| holds(self.addresses[n], |net| net.contains(addrs[n])))
            && holds(self.protocol, |p| p == c.original.protocol)
            && (0..4).all(|n| holds(self.ports[n], |(low, high)| (low..=high).contains(&ports[n])))
            && holds(self.status, |s| s.0 & status != 0)
            && holds(self.expire, |(low, high)| (low..=high).contains(&c.expires))
    }
}

impl Match for Conntrack {
    fn matches(&self, context: &mut Context<'_>) -> bool {
        let query = context.query;
        let translated = |wanted: States| {
            let nat = query
                .connection
                .map_or(0, |c| (u8::from(c.snat) * SNAT) | (u8::from(c.dnat) * DNAT));
            wanted.0 & nat != 0
        };
        let in_state = |wanted: States| {
            wanted.has(query.state) || wanted.0 & (SNAT | DNAT) != 0 && translated(wanted)
        };
        if !holds(self.states, in_state) {
            return false;
        }
        match query.connection.filter(|_| self.more_than_state) {
            Some(connection) => self.connection_matches(connection),
            // Without a connection the state is all there is: netfilter then forgets the rest.
            None => self.states.is_some(),
        }
    }

    fn flow_only(&self) -> bool {
        self.expire.is_none()
    }

    fn list(&self, out: &mut String, _style: Listing) {
        list_saved(out, |out| self.save(out));
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn save(&self, out: &mut String) {
        let Self {
            states,
            protocol,
            addresses,
            ports,
            status,
            expire,
            direction,
            more_than_state: _,
        } = self;
        if let Some((states, inverted)) = states {
            save_option(out, "ctstate", *inverted, states);
        }
        if let Some((protocol, inverted)) = protocol {
            save_option(out, "ctproto", *inverted, protocol);
        }
        for (name, asked) in ADDRESSES.iter().zip(addresses) {
            if let Some((network, inverted)) = asked {
                save_option(out, name, *inverted, Masked(*network));
            }
        }
        for (name, asked) in PORTS.iter().zip(ports) {
            if let Some(((low, high), inverted)) = asked {
                save_option(out, name, *inverted, Span(*low, *high, ':'));
            }
        }
        if let Some((status, inverted)) = status {
            save_option(out, "ctstatus", *inverted, status);
        }
        if let Some(((low, high), inverted)) = expire {
            save_option(out, "ctexpire", *inverted, Span(*low, *high, ':'));
        }
        if let Some(direction) = direction {
            let name = match direction {
                Direction::Original => "ORIGINAL",
                Direction::Reply => "REPLY",
            };
            save_option(out, "ctdir", false, name);
        }
    }

    /// Such a packet is NEW, or RELATED if a helper expected it. SNAT and DNAT can be true in the
    /// later of two chains.
    fn never_new(&self) -> bool {
        let first = States(1 << 1 | 1 << 2 | SNAT | DNAT);
        self.states.is_some_and(|(states, inverted)| !inverted && states.0 & first.0 == 0)
    }

    fn uses_conntrack(&self) -> bool {
        true
    }
}

/// A network as this match prints it: a single address goes without a length.
struct Masked(Network);

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = self.0;
        match network.prefix_len() {
            Some(len) if len == network.family.bits() => write!(f, "{}", network.shown()),
            _ => write!(f, "{network}"),
        }
    }
}
