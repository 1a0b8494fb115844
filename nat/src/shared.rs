//! What the tables of a gateway's shards share, and how one of them looks into another.
//!
//! Terms. A *shard* has a table of its own. A connection's *home* is the shard that its original
//! tuple hashes to; it is *owned* by the shard whose table it is in. That is its home, but for
//! expected connections, which live with their masters. The *registry* knows the owner of every
//! tuple in any table, so it is what makes reply tuples unique in all of them.
//!
//! Whoever works on a table holds the gateway's engine, and the table that works has what is shared
//! ([`Conntrack::exchange_shared`]): so nothing here has a lock. With one shard nothing is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hashbrown::HashTable;
use tidegate_packet::{Addr, Instant, Parsed, protocol};

use crate::gre::Calls;
use crate::hash::{HashKey, in_zone};
use crate::signs::Sign;
use crate::table::Conntrack;
use crate::tracked::ConnId;
use crate::{Connection, Direction, TcpState, Tuple, icmp, icmp_error};

/// The ways to other shards' tables.
pub trait Others: fmt::Debug + Send + Sync {
    /// Lets `work` have another shard's table for a moment. It waits for nobody who could wait for
    /// the caller.
    fn visit(&self, shard: u8, work: &mut dyn FnMut(&mut Conntrack));
}

/// Most shards that a gateway can have.
pub const SHARDS_MAX: usize = 64;

/// What there is once for all tables, besides mappings and expectations.
#[derive(Debug)]
pub(crate) struct Shared {
    others: Option<Arc<dyn Others>>,
    pub(crate) shards: u8,
    /// Secret of [`home`].
    pub(crate) steering: u32,
    /// To be put up or taken down.
    pub(crate) signs: Vec<Sign>,
    registry: Registry,
    sources: HashTable<Source>,
    /// Flows with a translated source so far.
    flows: u32,
    /// Connections in all tables.
    pub(crate) connections: usize,
    /// How many have ever entered one: as long as it stays the same, what was free is free.
    pub(crate) entered: u64,
    /// Random numbers drawn so far.
    pub(crate) draws: u64,
    /// Calls of PPTP, by which GRE finds its connections.
    pub(crate) calls: Calls,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            others: None,
            shards: 1,
            steering: 0,
            signs: Vec::new(),
            registry: Registry::default(),
            sources: HashTable::new(),
            flows: 0,
            connections: 0,
            entered: 0,
            draws: 0,
            calls: Calls::default(),
        }
    }
}

/// Parts of the registry: each grows by itself, so none takes long.
const PARTS: usize = 64;

/// Tuples in use and their owners. An entry is 56 bits of the keyed hash of tuple and zone, a bit for
/// the direction, and seven for the shard. Two tuples with the same 56 bits can't be told apart: then a
/// port that is free isn't chosen, or a packet is looked for in a table that it isn't in.
#[derive(Debug, Default)]
struct Registry {
    parts: Vec<HashTable<u64>>,
}

impl Registry {
    const HASH: u64 = !0xff;

    fn entry(hash: u64, way: usize, shard: u8) -> u64 {
        hash & Self::HASH | (way as u64) << 7 | u64::from(shard)
    }

    /// The low bits of an entry say nothing about its tuple.
    fn place(entry: u64) -> u64 {
        (entry & Self::HASH).rotate_right(20)
    }

    fn part(hash: u64) -> usize {
        (hash >> 8) as usize % PARTS
    }

    fn enter(&mut self, hashes: [u64; 2], shard: u8) {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, HashTable::new);
        }
        for (way, hash) in hashes.into_iter().enumerate() {
            let entry = Self::entry(hash, way, shard);
            let part = &mut self.parts[Self::part(hash)];
            part.insert_unique(Self::place(entry), entry, |e| Self::place(*e));
        }
    }

    fn leave(&mut self, hashes: [u64; 2], shard: u8) {
        for (way, hash) in hashes.into_iter().enumerate() {
            let entry = Self::entry(hash, way, shard);
            let Some(part) = self.parts.get_mut(Self::part(hash)) else { return };
            if let Ok(found) = part.find_entry(Self::place(entry), |e| *e == entry) {
                found.remove();
            }
        }
    }

    /// Who owns a tuple, in a direction that will do.
    fn owner(&self, hash: u64, will_do: impl Fn(usize) -> bool) -> Option<u8> {
        let part = self.parts.get(Self::part(hash))?;
        let same =
            |e: &u64| *e & Self::HASH == hash & Self::HASH && will_do((*e >> 7 & 1) as usize);
        part.find(Self::place(hash), same).map(|e| (*e & 0x7f) as u8)
    }
}

/// Outside ends that an inside end has in its flows, by the number that each flow got when it began.
#[derive(Debug)]
struct Source {
    hash: u64,
    mapped: BTreeMap<u32, (Addr, u16)>,
}

impl Shared {
    /// Whether there are several tables.
    #[inline]
    pub(crate) fn is_divided(&self) -> bool {
        self.shards > 1
    }

    /// `source` is the hash of its source, if that is translated.
    pub(crate) fn enter(
        &mut self,
        conn: &mut Connection,
        hashes: [u64; 2],
        source: Option<u64>,
        shard: u8,
    ) {
        self.connections += 1;
        self.entered += 1;
        if !self.is_divided() {
            return;
        }
        self.registry.enter(hashes, shard);
        self.sign(conn, hashes, shard, true);
        let (Some(end), Some(hash)) = (mapped_source(conn), source) else { return };
        self.flows = self.flows.wrapping_add(1);
        // With several tables nothing else is in its place.
        conn.same_source[0] = self.flows;
        let hash = in_zone(hash, conn.zones()[0]);
        match self.sources.find_mut(hash, |s| s.hash == hash) {
            Some(source) => {
                source.mapped.insert(self.flows, end);
            }
            None => {
                let source = Source { hash, mapped: BTreeMap::from([(self.flows, end)]) };
                self.sources.insert_unique(hash, source, |s| s.hash);
            }
        }
    }

    pub(crate) fn leave(&mut self, key: &HashKey, conn: &Connection, hashes: [u64; 2], shard: u8) {
        self.connections = self.connections.saturating_sub(1);
        if !self.is_divided() {
            return;
        }
        self.registry.leave(hashes, shard);
        self.sign(conn, hashes, shard, false);
        if mapped_source(conn).is_none() {
            return;
        }
        let hash = in_zone(key.source(&conn.original()), conn.zones()[0]);
        let Ok(mut found) = self.sources.find_entry(hash, |s| s.hash == hash) else { return };
        let mapped = &mut found.get_mut().mapped;
        mapped.remove(&conn.same_source[0]);
        if mapped.is_empty() {
            found.remove();
        }
    }
}

/// The outside end of a connection whose source is translated.
pub(crate) fn mapped_source(conn: &Connection) -> Option<(Addr, u16)> {
    if !conn.status().has(crate::Status::SNAT) {
        return None;
    }
    let reply = conn.reply();
    // For ICMP the identifier stands at the same place in both directions.
    Some((reply.dst, if reply.is_icmp() { reply.sport } else { reply.dport }))
}

/// Which shard a tuple is at home in: by what translation keeps in both directions unless it has to
/// change it. That is the pair of ports, or the identifier of an ICMP query. Protocols without ports
/// go by the pair of addresses, which ends at another shard where one of them is translated.
pub fn home(key: u32, shards: usize, tuple: &Tuple) -> usize {
    let (a, b) = match tuple.protocol {
        protocol::ICMP | protocol::ICMPV6 => (u32::from(tuple.sport), 0),
        _ if tuple.has_ports() => (u32::from(tuple.sport), u32::from(tuple.dport)),
        _ => (fold(tuple.src), fold(tuple.dst)),
    };
    spread(key, shards, a, b)
}

/// The arithmetic of [`home`]: 32 bits wide and symmetrical, so that the kernel's steering program can
/// do the same.
pub fn spread(key: u32, shards: usize, a: u32, b: u32) -> usize {
    let mut x = (a ^ b).wrapping_add(a.wrapping_add(b).wrapping_mul(0x9e37_79b1)) ^ key;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x as usize % shards.max(1)
}

fn fold(addr: Addr) -> u32 {
    let bits = addr.bits();
    (bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32
}

impl Conntrack {
    /// Says that this table is one of several. All of them need the same key, and numbers from 0 on.
    /// `steering` is the key of [`home`].
    pub fn divide(&mut self, shards: usize, steering: u32, others: Arc<dyn Others>) {
        self.shared.steering = steering;
        self.shared.shards = shards.clamp(1, SHARDS_MAX) as u8;
        self.shared.others = Some(others);
    }

    /// Exchanges what all tables of a gateway share with `other`: whichever of them works at the
    /// moment has it.
    #[inline]
    pub fn exchange_shared(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.mappings, &mut other.mappings);
        std::mem::swap(&mut self.expectations, &mut other.expectations);
        std::mem::swap(&mut self.shared, &mut other.shared);
    }

    /// Connections in all tables.
    #[inline]
    pub fn total(&self) -> usize {
        self.shared.connections
    }

    /// Tuples that the registry knows: two of each connection, and none with one shard.
    pub fn tuples(&self) -> usize {
        self.shared.registry.parts.iter().map(HashTable::len).sum()
    }

    /// Lets `work` have the table of a shard. `None` if there is no such shard.
    fn visit<R>(&mut self, shard: u8, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        if shard == self.number {
            return Some(work(self));
        }
        let others = self.shared.others.clone().filter(|_| shard < self.shared.shards)?;
        let (mut work, mut result) = (Some(work), None);
        others.visit(shard, &mut |table| {
            if let Some(work) = work.take() {
                self.exchange_shared(table);
                result = Some(work(table));
                self.exchange_shared(table);
            }
        });
        result
    }

    /// The same for the table of a connection.
    pub(crate) fn visit_of<R>(
        &mut self,
        id: ConnId,
        work: impl FnOnce(&mut Self) -> R,
    ) -> Option<R> {
        self.visit(id.shard(), work)
    }

    /// Tries one table after the other, this one first.
    pub(crate) fn any(&mut self, mut work: impl FnMut(&mut Self) -> bool) -> bool {
        if work(self) {
            return true;
        }
        let own = self.number;
        (0..self.shared.shards)
            .filter(|shard| *shard != own)
            .any(|shard| self.visit(shard, &mut work) == Some(true))
    }

    /// The connection in any table that has this tuple in a zone: as [`Conntrack::lookup_in`].
    #[inline]
    pub(crate) fn holder(
        &mut self,
        tuple: (&Tuple, u64),
        zones: [u16; 2],
        direction: Direction,
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let own = self.lookup_in(tuple, zones, direction, now);
        if own.is_some() || !self.shared.is_divided() {
            return own;
        }
        self.holder_elsewhere(tuple, zones, direction, now)
    }

    fn holder_elsewhere(
        &mut self,
        tuple: (&Tuple, u64),
        zones: [u16; 2],
        direction: Direction,
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let shard = self.registered(tuple.1, zones, zones[direction.index()])?;
        if shard == self.number {
            return None;
        }
        self.visit(shard, |table| table.lookup_in(tuple, zones, direction, now)).flatten()
    }

    fn registered(&self, hash: u64, zones: [u16; 2], zone: u16) -> Option<u8> {
        self.shared.registry.owner(in_zone(hash, zone), |way| zones[way] == zone)
    }

    /// The newest of the outside ends that the same original source has in any table and `fits`.
    pub(crate) fn outside_end<R>(
        &self,
        (tuple, hash): (&Tuple, u64),
        zone: u16,
        mut fits: impl FnMut((Addr, u16)) -> Option<R>,
    ) -> Option<R> {
        if !self.shared.is_divided() {
            let in_zone = self.same_source((tuple, hash)).filter(|conn| conn.zones()[0] == zone);
            return in_zone.filter_map(mapped_source).find_map(fits);
        }
        let hash = in_zone(hash, zone);
        let source = self.shared.sources.find(hash, |s| s.hash == hash)?;
        source.mapped.values().rev().find_map(|end| fits(*end))
    }

    /// The shard whose table has a packet's connection, or is to have it: the owner of its tuple, else
    /// of what expects it, else its home. `key` is that of [`home`].
    #[inline]
    pub fn owner(
        &self,
        key: u32,
        zones: [u16; 2],
        packet: &Parsed,
        bytes: &[u8],
        now: Instant,
    ) -> u8 {
        if !self.shared.is_divided() {
            return 0;
        }
        // One that has no tuple is INVALID in every table.
        self.tuple_of(packet, bytes).map_or(0, |tuple| self.owner_of(key, zones, &tuple, now))
    }

    /// The same for a tuple.
    pub fn owner_of(&self, key: u32, zones: [u16; 2], tuple: &Tuple, now: Instant) -> u8 {
        if !self.shared.is_divided() {
            return 0;
        }
        let hash = self.key.tuple(tuple);
        let owner = self.registered(hash, zones, zones[0]).or_else(|| {
            (zones[0] != zones[1]).then(|| self.registered(hash, zones, zones[1])).flatten()
        });
        owner
            .or_else(|| self.expecting(tuple, zones, now))
            .unwrap_or_else(|| home(key, self.shared.shards.into(), tuple) as u8)
    }

    /// The tuple that a packet's connection has: for an error the one of answers to the quoted
    /// packet.
    fn tuple_of(&self, packet: &Parsed, bytes: &[u8]) -> Option<Tuple> {
        let segment = packet.segment(bytes);
        if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6)
            && icmp::check(packet, segment, false) == Ok(icmp::Kind::Error)
        {
            return icmp_error::answer(self, packet, bytes);
        }
        let mut tuple = Tuple::of(packet, segment)?;
        self.complete(&mut tuple, segment);
        Some(tuple)
    }

    /// Puts what GRE's packets don't tell into their tuple.
    #[inline]
    pub(crate) fn complete(&self, tuple: &mut Tuple, segment: &[u8]) {
        self.shared.calls.complete(tuple, segment);
    }

    /// Removes the connection with this tuple from whichever table has it.
    pub(crate) fn delete_anywhere(&mut self, tuple: &Tuple, zones: [u16; 2]) -> bool {
        let hash = self.key.tuple(tuple);
        let delete = |table: &mut Self| match table.find_slot((tuple, hash), zones) {
            Some((id, _)) => table.delete(id),
            None => false,
        };
        let shard = self.registered(hash, zones, zones[0]).filter(|shard| *shard != self.number);
        delete(self) || shard.and_then(|shard| self.visit(shard, delete)) == Some(true)
    }

    /// Whether any table has a connection with this tuple, and its TCP state.
    pub fn tcp_state_of(
        &self,
        tuple: &Tuple,
        zones: [u16; 2],
        now: Instant,
    ) -> Option<Option<TcpState>> {
        let state = |table: &Self| {
            let (id, _) = table.find_in(tuple, zones, now)?;
            table.get(id).map(Connection::tcp_state)
        };
        let own = state(self);
        if own.is_some() || !self.shared.is_divided() {
            return own;
        }
        let hash = self.key.tuple(tuple);
        let shard = self.registered(hash, zones, zones[0]).filter(|shard| *shard != self.number)?;
        let mut found = None;
        self.shared.others.as_ref()?.visit(shard, &mut |table| found = state(table));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(sport: u16, dport: u16, protocol: u8) -> Tuple {
        let [src, dst] = ["10.0.0.1", "192.0.2.9"].map(|a| a.parse().unwrap());
        Tuple { src, dst, sport, dport, protocol }
    }

    #[test]
    fn both_directions_have_one_home_also_translated() {
        for shards in [1, 2, 3, 8] {
            let mut seen = vec![0; shards];
            for port in 1024..5000 {
                let there = tuple(port, 443, protocol::TCP);
                let mut back = there.inverse().unwrap();
                back.dst = "203.0.113.1".parse().unwrap();
                let at = home(7, shards, &there);
                assert_eq!(at, home(7, shards, &back));
                seen[at] += 1;
            }
            let least = seen.iter().min().unwrap();
            assert!(least * shards * 2 > 3976, "{seen:?}");
            let echo = tuple(77, 0x0800, protocol::ICMP);
            assert_eq!(home(7, shards, &echo), home(7, shards, &echo.inverse().unwrap()));
            let esp = tuple(0, 0, protocol::ESP);
            assert_eq!(home(7, shards, &esp), home(7, shards, &esp.inverse().unwrap()));
        }
    }

    #[test]
    fn the_registry_knows_owners_by_direction() {
        let mut registry = Registry::default();
        let (a, b) = (0x1234_5678_9abc_de00, 0xfedc_ba98_7654_3200);
        registry.enter([a, b], 5);
        assert_eq!(registry.owner(a, |_| true), Some(5));
        assert_eq!(registry.owner(b, |way| way == 1), Some(5));
        assert_eq!(registry.owner(b, |way| way == 0), None);
        // A flow that is its own answer.
        registry.enter([b, b], 6);
        registry.leave([a, b], 5);
        assert_eq!((registry.owner(a, |_| true), registry.owner(b, |_| true)), (None, Some(6)));
        registry.leave([b, b], 6);
        assert!(registry.parts.iter().all(HashTable::is_empty));
        for n in 0..100_000u64 {
            registry.enter([n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n << 8], (n % 3) as u8);
        }
        assert_eq!(registry.owner(777 << 8, |way| way == 1), Some(0));
    }
}
