//! Packets meet sets.

use tidegate_packet::{Addr, Family, Instant, Transport, protocol};

use super::element::network;
use super::{Element, Entry, Kind, Set};
use crate::query::Query;

/// For each dimension whether the packet's source counts (else its destination).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sides(pub Vec<bool>);

impl Sides {
    /// As rules write them.
    pub fn text(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|src| if *src { "src" } else { "dst" }).collect();
        names.join(",")
    }

    fn source(&self, dimension: usize) -> bool {
        self.0.get(dimension).copied().unwrap_or(false)
    }
}

/// What a rule wants of an entry's counter.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum CounterTest {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    Greater(u64),
}

impl CounterTest {
    fn holds(self, count: u64) -> bool {
        match self {
            Self::Equal(n) => count == n,
            Self::NotEqual(n) => count != n,
            Self::Less(n) => count < n,
            Self::Greater(n) => count > n,
        }
    }
}

/// How a rule looks a packet up.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub family: Family,
    pub sides: Sides,
    pub return_nomatch: bool,
    /// Count the packet in the entry it is found in.
    pub count: bool,
    pub packets: Option<CounterTest>,
    pub bytes: Option<CounterTest>,
}

/// What a look-up found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Found {
    No,
    Yes,
    /// An entry that is an exception.
    Exception,
}

impl Set {
    /// Whether packets of a family, looked up by so many parts, can't be in the set.
    pub fn never_matches(&self, family: Family, sides: usize) -> bool {
        let any_family = matches!(self.kind, Kind::BitmapPort | Kind::List);
        sides < self.kind.dimensions() || !any_family && family != self.options.family
    }

    /// Whether a packet is in the set (ip_set_test).
    pub fn test(&self, query: &Query<'_>, question: &Question, dry: bool) -> bool {
        if self.never_matches(question.family, question.sides.0.len()) {
            return false;
        }
        if self.kind == Kind::List {
            let members = self.content().members.clone();
            return members.iter().any(|member| member.test(query, question, dry));
        }
        let found = match self.element(query, &question.sides) {
            Some(element) => self.find(element, query, question, dry),
            None => Found::No,
        };
        // `--return-nomatch` turns exceptions round, where a kind has them.
        match question.return_nomatch && self.kind.has_networks() {
            true => found == Found::Exception,
            false => found == Found::Yes,
        }
    }

    fn find(
        &self,
        mut element: Element,
        query: &Query<'_>,
        question: &Question,
        dry: bool,
    ) -> Found {
        let mut content = self.content();
        let lengths: Vec<u8> = match self.kind.has_networks() {
            true => content.lengths.keys().rev().copied().collect(),
            false => vec![element.len],
        };
        let addr = element.addr;
        for len in lengths {
            (element.addr, element.len) = (network(addr, len), len);
            let Some(entry) = content.entries.get_mut(&element) else { continue };
            if !entry.is_alive(query.now) {
                continue;
            }
            if entry.nomatch {
                return Found::Exception;
            }
            if self.options.counters && !entry.count(query, question, dry) {
                return Found::No;
            }
            return Found::Yes;
        }
        Found::No
    }

    /// Adds or removes the packet's element (`-j SET`); whether a set took it.
    pub fn add_packet(
        &self,
        query: &Query<'_>,
        question: &Question,
        timeout: Option<u32>,
        exist: bool,
    ) -> bool {
        self.change(query, question, &|set, element| {
            let entry = Entry { expires: set.expiry(timeout, query.now), ..Entry::default() };
            set.add(element, entry, exist, query.now).is_ok()
        })
    }

    /// Removes the packet's element.
    pub fn delete_packet(&self, query: &Query<'_>, question: &Question) -> bool {
        self.change(query, question, &|set, element| set.delete(&element, query.now))
    }

    fn change(
        &self,
        query: &Query<'_>,
        question: &Question,
        act: &dyn Fn(&Self, Element) -> bool,
    ) -> bool {
        if self.never_matches(question.family, question.sides.0.len()) {
            return false;
        }
        if self.kind == Kind::List {
            // The first member that takes it.
            let members = self.content().members.clone();
            return members.iter().any(|member| member.change(query, question, act));
        }
        let Some(mut element) = self.element(query, &question.sides) else { return false };
        if self.kind.has_networks() {
            // As long as the longest network that is there.
            let longest = self.content().lengths.keys().next_back().copied();
            element.len = longest.unwrap_or(element.len);
            element.addr = network(element.addr, element.len);
        }
        act(self, element)
    }

    /// What the set would hold of a packet.
    fn element(&self, query: &Query<'_>, sides: &Sides) -> Option<Element> {
        let packet = query.packet;
        let addr = |n: usize| if sides.source(n) { packet.src } else { packet.dst };
        if self.kind == Kind::BitmapPort {
            let (sport, dport) = packet.ports()?;
            let port = if sides.source(0) { sport } else { dport };
            let (low, high) = self.options.range;
            return (low..=high).contains(&port.into()).then(|| Element::port(port));
        }
        let mut element = Element::host(self.cut(addr(0)));
        if self.kind == Kind::BitmapIp {
            let (low, high) = self.options.range;
            return (low..=high).contains(&v4(addr(0))).then_some(element);
        }
        if self.kind.has_ports() {
            (element.protocol, element.port) = protocol_and_port(query, sides.source(1))?;
        }
        match self.kind {
            Kind::HashIpPortIp => element.second = Some(addr(2)),
            Kind::HashNetIface => {
                let name = if sides.source(1) { query.input } else { query.output };
                element.interface = name?.to_owned();
            }
            _ => {}
        }
        Some(element)
    }
}

/// An IPv4 address as a number.
pub(super) fn v4(addr: Addr) -> u32 {
    addr.bits() as u32
}

/// ICMP has type and code for a port; protocols without ports have zero.
fn protocol_and_port(query: &Query<'_>, source: bool) -> Option<(u8, u16)> {
    let packet = query.packet;
    let port = match packet.transport {
        Transport::LaterFragment | Transport::Malformed => return None,
        Transport::Icmp { kind, code, .. } | Transport::Icmpv6 { kind, code, .. } => {
            u16::from_be_bytes([kind, code])
        }
        _ if packet.protocol == protocol::DCCP => 0,
        _ => packet.ports().map_or(0, |(sport, dport)| if source { sport } else { dport }),
    };
    Some((packet.protocol, port))
}

impl Entry {
    /// Counts a packet; whether the counters are what the rule asks for.
    fn count(&mut self, query: &Query<'_>, question: &Question, dry: bool) -> bool {
        if question.count && !dry {
            self.packets = self.packets.wrapping_add(1);
            self.bytes = self.bytes.wrapping_add(query.packet.len.into());
        }
        question.packets.is_none_or(|test| test.holds(self.packets))
            && question.bytes.is_none_or(|test| test.holds(self.bytes))
    }
}

/// Seconds that are left, rounded as listings have them.
pub(super) fn seconds_left(entry: &Entry, now: Instant) -> u64 {
    entry.expires.map_or(0, |at| at.saturating_since(now).as_secs().max(1))
}
