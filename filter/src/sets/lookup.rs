//! Packets meet sets.

use std::sync::atomic::Ordering;

use tidegate_packet::{Family, Transport, protocol};

use super::content::{Found, Scope};
use super::element::{Element, Entry, Iface, SkbInfo, v4};
use super::kind::Part;
use super::{Body, Set};
use crate::query::Query;

/// For each dimension whether the packet's source counts (else its destination).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sides {
    count: u8,
    source: u8,
}

/// `IPSET_DIM_MAX`.
pub(crate) const MAX_SIDES: usize = 6;

impl Sides {
    /// One more side, if there is room.
    pub fn push(&mut self, source: bool) -> bool {
        if usize::from(self.count) == MAX_SIDES {
            return false;
        }
        self.source |= u8::from(source) << self.count;
        self.count += 1;
        true
    }

    pub fn len(self) -> usize {
        self.count.into()
    }

    /// As rules write them.
    pub fn text(self) -> String {
        let side = |n| if self.source(n) { "src" } else { "dst" };
        (0..self.len()).map(side).collect::<Vec<_>>().join(",")
    }

    fn source(self, dimension: usize) -> bool {
        self.source >> dimension & 1 != 0
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
    /// Count it in the member of a list that it is found in, too.
    pub count_members: bool,
    pub packets: Option<CounterTest>,
    pub bytes: Option<CounterTest>,
}

impl Question {
    /// A question that counts nothing and looks at no counter.
    pub fn plain(family: Family, sides: Sides) -> Self {
        Self {
            family,
            sides,
            return_nomatch: false,
            count: false,
            count_members: false,
            packets: None,
            bytes: None,
        }
    }

    /// Whether an entry is what is asked for, once the packet is counted in it
    /// (ip_set_match_extensions).
    fn accepts(&self, body: &Body, entry: &Entry, query: &Query<'_>, dry: bool) -> bool {
        if !body.options.counters {
            return true;
        }
        if self.count && !dry {
            entry.packets.fetch_add(1, Ordering::Relaxed);
            entry.bytes.fetch_add(query.packet.len.into(), Ordering::Relaxed);
        }
        let holds = |test: Option<CounterTest>, count: u64| test.is_none_or(|t| t.holds(count));
        holds(self.packets, entry.packets.load(Ordering::Relaxed))
            && holds(self.bytes, entry.bytes.load(Ordering::Relaxed))
    }
}

impl Set {
    /// Whether packets of a family, looked up by so many parts, can't be in the set.
    pub fn never_matches(&self, family: Family, sides: usize) -> bool {
        self.read().never_matches(family, sides)
    }

    /// The family whose rules alone may name it; none if both may.
    pub fn only_family(&self) -> Option<Family> {
        let body = self.read();
        body.kind.has_family().then_some(body.options.family)
    }

    /// Whether a packet is in the set.
    pub fn test(&self, query: &Query<'_>, question: &Question, dry: bool) -> bool {
        self.read().test(query, question, dry, &mut None)
    }

    /// Whether the answer to a question depends on nothing but the packet's flow until a command
    /// changes the set: no time, no counters, no link addresses, and no rules that write to it.
    pub fn is_steady(&self, question: &Question) -> bool {
        let plain = question.packets.is_none() && question.bytes.is_none();
        plain && !self.is_written_by_rules() && {
            let Body { kind, options, content } = &*self.read();
            options.timeout.is_none()
                && !options.counters
                && !kind.has(Part::Mac)
                && content.members.iter().all(|member| member.set.is_steady(question))
        }
    }

    /// What the set keeps for the packet, if it is in it (`--map-set`).
    pub fn skb_info(&self, query: &Query<'_>, question: &Question, dry: bool) -> Option<SkbInfo> {
        let mut found = None;
        let matched = self.read().test(query, question, dry, &mut found);
        matched.then(|| found.unwrap_or_default())
    }

    /// Adds the packet's element (`-j SET`); whether a set took it.
    pub fn add_packet(
        &self,
        query: &Query<'_>,
        question: &Question,
        timeout: Option<u32>,
        exist: bool,
    ) -> bool {
        self.change(query, question, &|body, element| {
            let entry = Entry {
                expires: body.expiry(timeout, query.now),
                // The packet that makes an entry is counted in it.
                packets: 1.into(),
                bytes: u64::from(query.packet.len).into(),
                ..Entry::default()
            };
            let room = body.room();
            body.content.add(element, entry, exist, room, query.now).is_ok()
        })
    }

    /// Removes the packet's element.
    pub fn delete_packet(&self, query: &Query<'_>, question: &Question) -> bool {
        self.change(query, question, &|body, element| body.content.delete(&element, query.now))
    }

    fn change(
        &self,
        query: &Query<'_>,
        question: &Question,
        act: &dyn Fn(&mut Body, Element) -> bool,
    ) -> bool {
        let body = self.read();
        if body.never_matches(question.family, question.sides.len()) {
            return false;
        }
        if body.kind.is_list() {
            // The first member that takes it.
            let mut members = body.content.members.iter().filter(|m| m.entry.is_alive(query.now));
            return members.any(|member| member.set.change(query, question, act));
        }
        let Some(mut element) = body.element(query, question.sides) else { return false };
        if body.kind.has_networks() {
            // As long as the longest network that is there.
            element = element.within(body.content.longest().unwrap_or(element.lengths()));
        }
        drop(body);
        let mut body = self.write();
        // Another set may have been put in its place meanwhile.
        !body.never_matches(question.family, question.sides.len()) && act(&mut body, element)
    }
}

impl Body {
    /// Whether packets of a family, looked up by so many parts, can't be in the set.
    pub fn never_matches(&self, family: Family, sides: usize) -> bool {
        sides < self.kind.dimensions() || self.kind.has_family() && family != self.options.family
    }

    /// Whether a packet is in the set (ip_set_test). `skb` becomes what is kept for it.
    fn test(
        &self,
        query: &Query<'_>,
        question: &Question,
        dry: bool,
        skb: &mut Option<SkbInfo>,
    ) -> bool {
        if self.never_matches(question.family, question.sides.len()) {
            return false;
        }
        if self.kind.is_list() {
            return self.test_members(query, question, dry, skb);
        }
        let found = match self.element(query, question.sides) {
            Some(element) => {
                let scope = Scope::of(self.kind);
                self.content.find(&element, scope, query.now, &mut |entry| {
                    let accepted = self.is_of(entry, query, question.sides, dry)
                        && question.accepts(self, entry, query, dry);
                    if accepted && self.options.skbinfo {
                        *skb = Some(entry.skb.as_deref().copied().unwrap_or_default());
                    }
                    accepted
                })
            }
            None => Found::No,
        };
        // `--return-nomatch` turns exceptions round, where a kind has them.
        match question.return_nomatch && self.kind.has_networks() {
            true => found == Found::Exception,
            false => found == Found::Yes,
        }
    }

    /// Asks the members of a list one after the other. A rule's tests of counters are about the
    /// list's own (list_set_ktest).
    fn test_members(
        &self,
        query: &Query<'_>,
        question: &Question,
        dry: bool,
        skb: &mut Option<SkbInfo>,
    ) -> bool {
        let count = question.count && question.count_members;
        let inner = Question { count, packets: None, bytes: None, ..question.clone() };
        self.content.members.iter().filter(|m| m.entry.is_alive(query.now)).any(|member| {
            let found = member.set.read().test(query, &inner, dry, skb)
                && question.accepts(self, &member.entry, query, dry);
            if found && self.options.skbinfo {
                *skb = Some(member.entry.skb.as_deref().copied().unwrap_or_default());
            }
            found
        })
    }

    /// Whether an entry of a bitmap of stations is about the packet's.
    fn is_of(&self, entry: &Entry, query: &Query<'_>, sides: Sides, dry: bool) -> bool {
        if !self.kind.is_bitmap() || !self.kind.has(Part::Mac) {
            return true;
        }
        let Some(link) = &query.link else { return false };
        let mac = if sides.source(1) { link.src } else { link.dst };
        match dry {
            true => entry.mac.get().is_none_or(|known| *known == mac),
            // Who is first with the address has it from now on (bitmap_ipmac_do_test, MAC_UNSET).
            false => *entry.mac.get_or_init(|| mac) == mac,
        }
    }

    /// What the set would hold of a packet.
    fn element(&self, query: &Query<'_>, sides: Sides) -> Option<Element> {
        let packet = query.packet;
        let mut element = Element::none();
        for (n, part) in self.kind.parts.iter().enumerate() {
            let source = sides.source(n);
            let addr = if source { packet.src } else { packet.dst };
            match part {
                Part::Ip | Part::Net if n == 0 => {
                    let addr = self.cut(addr);
                    (element.addr, element.len) = (addr, addr.family().bits());
                    // A hash has no place for it (hash_ip4_kadt).
                    if *part == Part::Ip && self.kind.is_hash() && addr.is_unspecified() {
                        return None;
                    }
                }
                Part::Ip | Part::Net => {
                    (element.second, element.second_len) = (addr, addr.family().bits());
                }
                Part::Port if self.kind.is_bitmap() => {
                    // ip_set_get_ip_port takes only these.
                    if !matches!(packet.protocol, protocol::TCP | protocol::UDP) {
                        return None;
                    }
                    let (sport, dport) = packet.ports()?;
                    element.port = if source { sport } else { dport };
                    let (low, high) = self.options.range;
                    (low..=high).contains(&element.port.into()).then_some(())?;
                }
                Part::Port => (element.protocol, element.port) = protocol_and_port(query, source)?,
                Part::Mark => element.mark = query.mark & self.options.mark_mask,
                Part::Mac => {
                    let link = query.link.as_ref()?;
                    let mac = if source { link.src } else { link.dst };
                    // A bitmap compares it with what it knows of the address.
                    if self.kind.is_hash() {
                        element.mac = Some(mac).filter(|mac| !mac.is_zero())?;
                    }
                }
                Part::Iface => {
                    let name = if source { query.input } else { query.output };
                    element.iface = Iface::new(name.filter(|name| !name.is_empty())?)?;
                }
                Part::Set => return None,
            }
        }
        if self.kind.is_bitmap() && self.kind.has(Part::Ip) {
            let (low, high) = self.options.range;
            let addr = if sides.source(0) { packet.src } else { packet.dst };
            (low..=high).contains(&v4(addr)).then_some(())?;
        }
        Some(element)
    }
}

/// ICMP has type and code for a port; protocols without ports have zero (ip_set_get_ip4_port).
fn protocol_and_port(query: &Query<'_>, source: bool) -> Option<(u8, u16)> {
    let packet = query.packet;
    let has_ports = matches!(
        packet.protocol,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE | protocol::ICMP
    );
    let port = match packet.transport {
        Transport::LaterFragment if !has_ports && packet.family == Family::V4 => 0,
        Transport::LaterFragment | Transport::Malformed => return None,
        Transport::Icmp { kind, code, .. } | Transport::Icmpv6 { kind, code, .. } => {
            u16::from_be_bytes([kind, code])
        }
        _ if packet.protocol == protocol::DCCP => 0,
        _ => packet.ports().map_or(0, |(sport, dport)| if source { sport } else { dport }),
    };
    Some((packet.protocol, port))
}
