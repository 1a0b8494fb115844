//! Endpoint-independent mappings (RFC 4787 REQ-1, RFC 5382 REQ-1): one outside address and port for
//! each inside one, whatever the destination.
//!
//! Terms. An *end* is an address, a port and a protocol. A mapping joins an *inside* end with an
//! *outside* end on the interface that the rule was asked for; no two mappings share an outside end.
//!
//! Life of a mapping. It is made when a rule with `--mapping endpoint-independent` translates the
//! first flow of an inside end. It lives while a connection uses it and, for UDP, for
//! `nf_conntrack_udp_timeout_stream` afterwards (RFC 4787 REQ-5 asks for two minutes, which is the
//! default). Packets in both directions prolong connections, and with them the mapping (REQ-6).

use std::ops::Range;
use std::time::Duration;

use tidegate_packet::{Addr, Instant, protocol};

use crate::blocks::{BlockRule, Blocks};
use crate::choice::MappingRule;
use crate::expiry::Wheel;
use crate::hash::HashKey;
use crate::index::Index;
use crate::pages::{Pages, page_of};
use crate::settings::Settings;

/// Whose packets an endpoint-independent mapping lets in (RFC 4787 REQ-8).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Filtering {
    /// Anybody's.
    EndpointIndependent,
    /// Those of addresses that the inside end has a connection to, from any port.
    AddressDependent,
    /// Those of connections only, as everywhere in netfilter.
    #[default]
    AddressAndPortDependent,
}

/// How long a mapping stays when its last connection has gone.
pub(crate) fn linger(settings: &Settings, protocol: u8) -> Duration {
    match protocol {
        protocol::UDP => settings.udp_stream,
        // The connection itself stays for as long as RFC 5382 REQ-5 asks for.
        _ => Duration::from_secs(1),
    }
}

/// An address with a port of a protocol.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) addr: Addr,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
}

/// No mapping.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) inside: Endpoint,
    pub(crate) outside: Endpoint,
    pub(crate) filtering: Filtering,
    /// The interface that the rule sent the first flow out of.
    pub(crate) interface: u32,
    /// The outside address is that interface's own.
    pub(crate) masqueraded: bool,
    /// Its port is of a block of the host's.
    pub(crate) blocks: Option<BlockRule>,
    /// The ports that the rule has.
    pub(crate) ports: Option<(u16, u16)>,
    /// Connections that use it.
    users: u32,
    /// When it ends, if nobody uses it.
    deadline: Instant,
}

/// How often an inside end sends to an outside address.
#[derive(Debug)]
struct Permit {
    mapping: u32,
    peer: Addr,
    connections: u32,
}

/// All mappings of a table.
#[derive(Debug)]
pub(crate) struct Mappings {
    key: HashKey,
    slots: Pages<Option<Mapping>>,
    /// All numbers that were given are below.
    end: u32,
    free: Vec<u32>,
    inside: Index<u32>,
    outside: Index<u32>,
    permits: Index<Permit>,
    pub(crate) blocks: Blocks,
    /// Holds those that nobody uses.
    wheel: Wheel,
    /// The time of the last packet or sweep.
    pub(crate) seen: Instant,
}

impl Mappings {
    pub(crate) fn new(key: HashKey) -> Self {
        Self {
            key,
            slots: Pages::new(),
            end: 0,
            free: Vec::new(),
            inside: Index::new(),
            outside: Index::new(),
            permits: Index::new(),
            blocks: Blocks::default(),
            wheel: Wheel::new(),
            seen: Instant::ZERO,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.end as usize - self.free.len()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Mapping> {
        self.slots.get(id)?.as_ref()
    }

    /// The mapping of an inside end on an interface.
    pub(crate) fn of_inside(&self, inside: Endpoint, interface: u32, now: Instant) -> Option<u32> {
        let hash = self.inside_hash(&inside, interface);
        let found = self.inside.find(hash, |&id| {
            self.get(id).is_some_and(|m| m.inside == inside && m.interface == interface)
        });
        found.copied().filter(|&id| self.is_alive(id, now))
    }

    /// The mapping that has an outside end.
    #[inline]
    pub(crate) fn of_outside(&self, outside: Endpoint, now: Instant) -> Option<u32> {
        // Most gateways have none.
        if self.outside.is_empty() {
            return None;
        }
        let hash = self.key.endpoint(&outside);
        let found =
            self.outside.find(hash, |&id| self.get(id).is_some_and(|m| m.outside == outside));
        found.copied().filter(|&id| self.is_alive(id, now))
    }

    fn is_alive(&self, id: u32, now: Instant) -> bool {
        self.get(id).is_some_and(|m| m.users > 0 || m.deadline > now)
    }

    /// Adds a mapping, both of whose ends have to be free, for a connection that is about to be
    /// confirmed; if it isn't, the mapping ends at `deadline`.
    pub(crate) fn add(
        &mut self,
        (inside, outside): (Endpoint, Endpoint),
        rule: MappingRule,
        ports: Option<(u16, u16)>,
        deadline: Instant,
    ) -> u32 {
        let MappingRule { filtering, interface, masqueraded, blocks } = rule;
        // One that is over and not yet taken away may still be in the way.
        let hashes = [self.inside_hash(&inside, interface), self.key.endpoint(&outside)];
        let stale = [
            self.inside.find(hashes[0], |&id| {
                self.get(id).is_some_and(|m| m.inside == inside && m.interface == interface)
            }),
            self.outside.find(hashes[1], |&id| self.get(id).is_some_and(|m| m.outside == outside)),
        ]
        .map(|found| found.copied());
        for id in stale.into_iter().flatten() {
            self.remove(id);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        });
        self.slots.make(page_of(id), |_| None);
        let users = 0;
        if let Some(place) = self.slots.get_mut(id) {
            *place = Some(Mapping {
                inside,
                outside,
                filtering,
                interface,
                masqueraded,
                blocks,
                ports,
                users,
                deadline,
            });
        }
        let (key, slots) = (self.key, &self.slots);
        self.inside.insert(hashes[0], id, |&id| inside_of(key, slots, id));
        self.outside.insert(hashes[1], id, |&id| outside_of(key, slots, id));
        self.wheel.arm(id, deadline);
        id
    }

    fn inside_hash(&self, inside: &Endpoint, interface: u32) -> u64 {
        self.key.endpoint(inside) ^ u64::from(interface)
    }

    /// A connection uses it from now on. `peer` is whom the inside end has addressed, if it is the
    /// one who began.
    pub(crate) fn hold(&mut self, id: u32, peer: Option<Addr>) {
        let Some(mapping) = self.slots.get_mut(id).and_then(Option::as_mut) else {
            return;
        };
        mapping.users += 1;
        self.wheel.disarm(id);
        let Some(peer) = peer else { return };
        let hash = self.key.peer(id, peer);
        match self.permits.find_mut(hash, |p| p.mapping == id && p.peer == peer) {
            Some(permit) => permit.connections += 1,
            None => {
                let key = self.key;
                let permit = Permit { mapping: id, peer, connections: 1 };
                self.permits.insert(hash, permit, |p| key.peer(p.mapping, p.peer));
            }
        }
    }

    /// The opposite of [`Mappings::hold`]. With its last connection the mapping begins to run out.
    pub(crate) fn release(&mut self, id: u32, peer: Option<Addr>, deadline: Instant) {
        if let Some(peer) = peer {
            let hash = self.key.peer(id, peer);
            let is_it = |p: &Permit| p.mapping == id && p.peer == peer;
            if let Some(permit) = self.permits.find_mut(hash, is_it) {
                permit.connections -= 1;
                if permit.connections == 0 {
                    let key = self.key;
                    self.permits.remove(hash, is_it, |p| key.peer(p.mapping, p.peer));
                }
            }
        }
        let Some(mapping) = self.slots.get_mut(id).and_then(Option::as_mut) else {
            return;
        };
        mapping.users -= 1;
        mapping.deadline = deadline;
        if mapping.users == 0 {
            self.wheel.arm(id, deadline);
        }
    }

    /// Whether a packet of `peer` that belongs to no connection may use the mapping.
    pub(crate) fn admits(&self, id: u32, peer: Addr) -> bool {
        match self.get(id).map(|m| m.filtering) {
            Some(Filtering::EndpointIndependent) => true,
            Some(Filtering::AddressDependent) => {
                let hash = self.key.peer(id, peer);
                self.permits.find(hash, |p| p.mapping == id && p.peer == peer).is_some()
            }
            Some(Filtering::AddressAndPortDependent) | None => false,
        }
    }

    /// Removes what has run out, as long as something is `left` to be done.
    pub(crate) fn expire(&mut self, now: Instant, left: &mut usize) {
        while *left > 0
            && let Some(id) = self.wheel.pop(now)
        {
            *left -= 1;
            match self.get(id) {
                Some(m) if m.users == 0 && m.deadline <= now => self.remove(id),
                Some(m) if m.users == 0 => {
                    let deadline = m.deadline;
                    self.wheel.arm(id, deadline);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// All numbers of mappings are below.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Removes those of these numbers that no connection uses and that `which` names, and says how
    /// many.
    pub(crate) fn remove_unused(
        &mut self,
        numbers: Range<u32>,
        which: impl Fn(&Mapping) -> bool,
    ) -> usize {
        let mut gone = 0;
        for id in numbers.start..numbers.end.min(self.end) {
            if self.get(id).is_some_and(|m| m.users == 0 && which(m)) {
                self.remove(id);
                gone += 1;
            }
        }
        gone
    }

    fn remove(&mut self, id: u32) {
        let Some(mapping) = self.get(id).cloned() else { return };
        let (key, slots) = (self.key, &self.slots);
        let hash = self.inside_hash(&mapping.inside, mapping.interface);
        self.inside.remove(hash, |&other| other == id, |&id| inside_of(key, slots, id));
        let hash = self.key.endpoint(&mapping.outside);
        self.outside.remove(hash, |&other| other == id, |&id| outside_of(key, slots, id));
        self.wheel.disarm(id);
        if mapping.blocks.is_some() {
            let Endpoint { addr, port, protocol } = mapping.outside;
            self.blocks.put_back(addr, port, protocol);
        }
        if let Some(place) = self.slots.get_mut(id) {
            *place = None;
        }
        self.free.push(id);
    }
}

fn inside_of(key: HashKey, slots: &Pages<Option<Mapping>>, id: u32) -> u64 {
    let mapping = slots.get(id).and_then(Option::as_ref);
    mapping.map_or(0, |m| key.endpoint(&m.inside) ^ u64::from(m.interface))
}

fn outside_of(key: HashKey, slots: &Pages<Option<Mapping>>, id: u32) -> u64 {
    slots.get(id).and_then(Option::as_ref).map_or(0, |m| key.endpoint(&m.outside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(addr: &str, port: u16) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), port, protocol: 17 }
    }

    fn rule(filtering: Filtering, interface: u32) -> MappingRule {
        MappingRule { filtering, interface, masqueraded: false, blocks: None }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_secs(seconds)
    }

    #[test]
    fn a_mapping_outlives_its_last_connection_for_a_while() {
        let mut all = Mappings::new(HashKey::new([1, 2]));
        let (inside, outside) = (end("10.0.0.1", 5), end("192.0.2.1", 5));
        let id = all.add((inside, outside), rule(Filtering::AddressDependent, 3), None, at(10));
        let peer: Addr = "198.51.100.1".parse().unwrap();
        let other: Addr = "198.51.100.2".parse().unwrap();
        assert_eq!(all.of_inside(inside, 3, at(9)), Some(id));
        assert_eq!(all.of_inside(inside, 4, at(9)), None, "another interface");
        all.hold(id, Some(peer));
        all.hold(id, Some(peer));
        all.hold(id, None);
        all.expire(at(1000), &mut 100);
        assert_eq!(all.of_outside(outside, at(1000)), Some(id));
        assert!(all.admits(id, peer) && !all.admits(id, other));
        all.release(id, Some(peer), at(1100));
        assert!(all.admits(id, peer), "one connection is left");
        all.release(id, Some(peer), at(1200));
        assert!(!all.admits(id, peer));
        all.release(id, None, at(1300));
        assert_eq!(all.of_outside(outside, at(1299)), Some(id));
        assert_eq!(all.of_outside(outside, at(1300)), None);
        all.expire(at(1301), &mut 100);
        assert_eq!(all.len(), 0);
        assert!(all.inside.is_empty() && all.outside.is_empty() && all.permits.is_empty());
    }

    /// Between its end and the sweep its place can be taken.
    #[test]
    fn what_has_run_out_is_replaced() {
        let mut all = Mappings::new(HashKey::new([1, 2]));
        let (inside, outside) = (end("10.0.0.1", 5), end("192.0.2.1", 5));
        let rule = rule(Filtering::default(), 0);
        all.add((inside, outside), rule, None, at(10));
        let new = all.add((end("10.0.0.2", 5), outside), rule, None, at(30));
        assert_eq!((all.len(), all.of_outside(outside, at(20))), (1, Some(new)));
        assert_eq!(all.of_inside(inside, 0, at(5)), None);
    }
}
