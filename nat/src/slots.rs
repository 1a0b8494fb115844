//! How connections are found, and how they enter and leave the table.
//!
//! Connections live in numbered slots (`store.rs`); the index holds a number and a direction for
//! each tuple and reads the tuple itself from the slot. A generation tells a connection from a
//! later one in the same slot, so a [`crate::Tracked`] that outlives its connection finds nothing.

use tidegate_packet::Instant;

use crate::Tuple;
use crate::conn::{Connection, Direction, Status};
use crate::event::{Changes, EventKind};
use crate::hash::HashKey;
use crate::store::{NONE, Slots};
use crate::table::Conntrack;
use crate::tracked::ConnId;

impl Conntrack {
    #[inline]
    pub(crate) fn find_slot(&self, tuple: &Tuple, zones: [u16; 2]) -> Option<(ConnId, Direction)> {
        let found = self.find_hashed(tuple, zones, zones[0]);
        // Most often both are the same.
        if found.is_none() && zones[0] != zones[1] {
            return self.find_hashed(tuple, zones, zones[1]);
        }
        found
    }

    /// The connection that has this tuple in a direction whose zone is that of the same direction of
    /// `zones` and equals `zone` (`nf_ct_key_equal` in the chain of that zone).
    #[inline]
    pub(crate) fn find_hashed(
        &self,
        tuple: &Tuple,
        zones: [u16; 2],
        zone: u16,
    ) -> Option<(ConnId, Direction)> {
        let hash = self.key.zoned(tuple, zone);
        let &entry = self.index.find(hash, |&e| {
            conn_at(&self.slots, e).is_some_and(|conn| {
                let way = way_of(e);
                conn.has_tuple(way, tuple) && {
                    let (own, way) = (conn.zones()[way.index()], way.index());
                    own == zone && own == zones[way]
                }
            })
        })?;
        let slot = entry / 2;
        // Of a flow that is its own answer, netfilter finds the reply first.
        let own_answer = tuple.src == tuple.dst && tuple.sport == tuple.dport;
        let original = entry & 1 == 0 && !own_answer;
        let direction = if original { Direction::Original } else { Direction::Reply };
        Some((ConnId { slot, generation: self.slots.get(slot)?.generation }, direction))
    }

    /// As [`Conntrack::find`]; a connection that is found expired is removed.
    pub(crate) fn lookup(
        &mut self,
        tuple: &Tuple,
        zones: [u16; 2],
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let found = self.find_slot(tuple, zones);
        self.unless_expired(found, now)
    }

    /// The same for one direction's zone only, as netfilter asks whether a tuple is taken.
    pub(crate) fn lookup_in(
        &mut self,
        tuple: &Tuple,
        zones: [u16; 2],
        direction: Direction,
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let found = self.find_hashed(tuple, zones, zones[direction.index()]);
        self.unless_expired(found, now)
    }

    fn unless_expired(
        &mut self,
        found: Option<(ConnId, Direction)>,
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let (id, direction) = found?;
        if self.get(id)?.is_expired(now) {
            self.settle_lease(id.slot, false);
        }
        if self.get(id)?.is_expired(now) {
            self.remove(id.slot);
            return None;
        }
        Some((id, direction))
    }

    /// The newest of the connections whose original source is that of `tuple` and was translated,
    /// and from there on the older ones.
    pub(crate) fn same_source(&self, tuple: &Tuple) -> impl Iterator<Item = &Connection> {
        let head = self
            .sources
            .find(self.key.source(tuple), |&s| same_source_at(&self.slots, s, tuple))
            .copied();
        let at = |slot: u32| self.slots.get(slot);
        std::iter::successors(head.and_then(at), move |conn| at(conn.same_source[0]))
    }

    /// Under which its two tuples are found.
    fn hashes(&self, conn: &Connection) -> [u64; 2] {
        let zones = conn.zones();
        [Direction::Original, Direction::Reply]
            .map(|way| self.key.zoned(&conn.tuple(way), zones[way.index()]))
    }

    pub(crate) fn insert(&mut self, mut conn: Connection) -> ConnId {
        self.hold_mappings(&mut conn);
        let hashes = self.hashes(&conn);
        let (source, translated) = (conn.original(), conn.status.has(Status::SNAT));
        self.shared.enter(&self.key, &mut conn, hashes, self.number);
        let deadline = conn.deadline;
        let id = self.slots.put(conn);
        let slot = id.slot;
        self.wheel.arm(slot, deadline);
        let (key, slots) = (self.key, &self.slots);
        for (direction, hash) in hashes.into_iter().enumerate() {
            let entry = slot * 2 + direction as u32;
            self.index.insert(hash, entry, |&e| entry_hash(key, slots, e));
        }
        if translated && !self.shared.is_divided() {
            self.link_source(slot, &source);
        }
        id
    }

    fn link_source(&mut self, slot: u32, source: &Tuple) {
        let (key, slots) = (self.key, &self.slots);
        let hash = key.source(source);
        let head = self.sources.find_mut(hash, |&s| same_source_at(slots, s, source));
        let old = match head {
            Some(head) => std::mem::replace(head, slot),
            None => {
                self.sources.insert(hash, slot, |&s| source_hash(key, slots, s));
                NONE
            }
        };
        self.set_neighbour(slot, 0, old);
        self.set_neighbour(old, 1, slot);
    }

    fn unlink_source(&mut self, slot: u32) {
        let (key, slots) = (self.key, &self.slots);
        let Some([next, prev]) = slots.get(slot).map(|conn| conn.same_source) else { return };
        if prev == NONE {
            // It is the head.
            let hash = source_hash(key, slots, slot);
            if next == NONE {
                self.sources.remove(hash, |&s| s == slot, |&s| source_hash(key, slots, s));
            } else if let Some(head) = self.sources.find_mut(hash, |&s| s == slot) {
                *head = next;
            }
        }
        self.set_neighbour(next, 1, prev);
        self.set_neighbour(prev, 0, next);
    }

    fn set_neighbour(&mut self, slot: u32, side: usize, to: u32) {
        if let Some(conn) = self.slots.get_mut(slot) {
            conn.same_source[side] = to;
        }
    }

    /// Takes a connection out of the table.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        self.settle_lease(slot, true);
        let conn = self.slots.get(slot)?;
        let translated = conn.status.has(Status::SNAT);
        // It stands in its slot until nothing refers to it: entries that move are hashed anew.
        let (key, slots) = (self.key, &self.slots);
        let hashes = self.hashes(conn);
        self.shared.leave(&self.key, conn, hashes, self.number);
        for (direction, hash) in hashes.into_iter().enumerate() {
            let entry = slot * 2 + direction as u32;
            self.index.remove(hash, |&e| e == entry, |&e| entry_hash(key, slots, e));
        }
        if translated && !self.shared.is_divided() {
            self.unlink_source(slot);
        }
        self.wheel.disarm(slot);
        let (conn, empty_page) = self.slots.take(slot)?;
        if let Some(page) = empty_page {
            self.wheel.release(page);
        }
        self.release_mappings(&conn);
        self.unexpect_all(&conn);
        let id = ConnId { slot, generation: conn.generation };
        self.events.push(EventKind::Destroy, Changes::default(), id, &conn);
        Some(conn)
    }

    /// Makes room: removes one connection among a few that is expired, unassured or closing.
    /// netfilter looks at eight chains near the newcomer's in the same way.
    ///
    /// The slots lie far apart, so that a stretch of connections that stand doesn't refuse newcomers
    /// for as long as it lasts; and each comes up once in a round, so that a newcomer has the time
    /// of a whole round to be answered.
    pub(crate) fn drop_early(&mut self, now: Instant) -> bool {
        const LOOK_AT: usize = 64;
        /// Empty slots included.
        const STEPS: usize = 1024;
        // A prime beyond any number of slots.
        const STRIDE: u64 = 2_654_435_761;
        let total = self.slots.places() as u64;
        let mut looked_at = 0;
        for _ in 0..STEPS.min(total as usize) {
            self.victim = ((u64::from(self.victim) + STRIDE) % total) as u32;
            let Some(conn) = self.slots.get(self.victim) else { continue };
            if conn.is_expired(now) || conn.may_drop_early() {
                return self.remove(self.victim).is_some();
            }
            looked_at += 1;
            if looked_at == LOOK_AT {
                break;
            }
        }
        false
    }
}

/// The connection of that name, if it is still there; borrows nothing but the slots.
#[inline]
pub(crate) fn conn_of(slots: &mut Slots, id: ConnId) -> Option<&mut Connection> {
    slots.get_mut(id.slot).filter(|conn| conn.generation == id.generation)
}

/// The direction that an entry of the index is of.
#[inline]
fn way_of(entry: u32) -> Direction {
    if entry & 1 == 0 { Direction::Original } else { Direction::Reply }
}

/// Under which an entry of the index is found.
fn entry_hash(key: HashKey, slots: &Slots, entry: u32) -> u64 {
    let way = way_of(entry);
    slots.get(entry / 2).map_or(0, |conn| key.zoned(&conn.tuple(way), conn.zones()[way.index()]))
}

fn source_hash(key: HashKey, slots: &Slots, slot: u32) -> u64 {
    slots.get(slot).map_or(0, |conn| key.source(&conn.original()))
}

#[inline]
fn conn_at(slots: &Slots, entry: u32) -> Option<&Connection> {
    slots.get(entry / 2)
}

fn same_source_at(slots: &Slots, slot: u32, tuple: &Tuple) -> bool {
    slots.get(slot).is_some_and(|conn| conn.has_source(tuple))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::Proto;
    use crate::settings::Settings;

    fn conn(port: u16) -> Connection {
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|a| a.parse().unwrap());
        let original = Tuple { src: a, dst: b, sport: 1, dport: port, protocol: 17 };
        let reply = Tuple { src: b, dst: c, sport: port, dport: 1, protocol: 17 };
        let mut conn = Connection::new(original, reply, Proto::Plain, false);
        conn.status.set(Status::SNAT.with(Status::CONFIRMED));
        conn
    }

    /// Newest first, whichever goes.
    #[test]
    fn chains_of_one_source() {
        for gone in 0..4usize {
            let mut table = Conntrack::new(Settings::default(), [1, 1]);
            let ids: Vec<ConnId> = (0..4).map(|port| table.insert(conn(port))).collect();
            let chain = |table: &Conntrack| -> Vec<u16> {
                table.same_source(&conn(0).original()).map(|c| c.original().dport).collect()
            };
            assert_eq!(chain(&table), [3, 2, 1, 0]);
            table.remove(ids[gone].slot);
            let mut want = vec![3, 2, 1, 0];
            want.remove(3 - gone);
            assert_eq!(chain(&table), want);
            table.insert(conn(9));
            want.insert(0, 9);
            assert_eq!(chain(&table), want);
            table.flush();
            assert!(chain(&table).is_empty() && table.index.is_empty() && table.sources.is_empty());
        }
    }
}
