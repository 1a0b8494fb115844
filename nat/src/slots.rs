//! How connections are found, and how they enter and leave the table.
//!
//! Connections live in numbered slots (`store.rs`); the index holds a number, a direction and half a
//! hash for each tuple and reads the tuple itself from the slot. A generation tells a connection from a
//! later one in the same slot, so a [`crate::Tracked`] that outlives its connection finds nothing.

use tidegate_packet::Instant;

use crate::Tuple;
use crate::conn::{Connection, Direction, Status};
use crate::event::{Changes, EventKind};
use crate::hash::{HashKey, in_zone};
use crate::store::{NONE, Slots};
use crate::table::Conntrack;
use crate::tracked::ConnId;

impl Conntrack {
    /// A tuple with its hash outside zones.
    #[inline]
    pub(crate) fn hashed<'a>(&self, tuple: &'a Tuple) -> (&'a Tuple, u64) {
        (tuple, self.key.tuple(tuple))
    }

    #[inline]
    pub(crate) fn find_slot(
        &self,
        (tuple, hash): (&Tuple, u64),
        zones: [u16; 2],
    ) -> Option<(ConnId, Direction)> {
        let found = self.find_hashed((tuple, hash), zones, zones[0]);
        // Most often both are the same.
        if found.is_none() && zones[0] != zones[1] {
            return self.find_hashed((tuple, hash), zones, zones[1]);
        }
        found
    }

    /// The connection that has this tuple in a direction whose zone is that of the same direction of
    /// `zones` and equals `zone` (`nf_ct_key_equal` in the chain of that zone). `hash` is the tuple's
    /// outside zones.
    #[inline]
    fn find_hashed(
        &self,
        (tuple, hash): (&Tuple, u64),
        zones: [u16; 2],
        zone: u16,
    ) -> Option<(ConnId, Direction)> {
        let hash = in_zone(hash, zone);
        let &entry = self.index.find(hash, |&e| {
            e.has(hash)
                && e.conn(&self.slots).is_some_and(|conn| {
                    let way = e.way();
                    conn.has_tuple(way, tuple) && {
                        let (own, way) = (conn.zones()[way.index()], way.index());
                        own == zone && own == zones[way]
                    }
                })
        })?;
        // Of a flow that is its own answer, netfilter finds the reply first.
        let own_answer = tuple.sport == tuple.dport && tuple.src == tuple.dst;
        let direction = if own_answer { Direction::Reply } else { entry.way() };
        let generation = entry.conn(&self.slots)?.generation;
        Some((ConnId { slot: entry.slot(), generation }, direction))
    }

    /// As [`Conntrack::find`]; a connection that is found expired is removed.
    #[inline]
    pub(crate) fn lookup(
        &mut self,
        tuple: (&Tuple, u64),
        zones: [u16; 2],
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let found = self.find_slot(tuple, zones)?;
        self.unless_expired(found, now)
    }

    /// The same for one direction's zone only, as netfilter asks whether a tuple is taken.
    #[inline]
    pub(crate) fn lookup_in(
        &mut self,
        tuple: (&Tuple, u64),
        zones: [u16; 2],
        direction: Direction,
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
        let found = self.find_hashed(tuple, zones, zones[direction.index()])?;
        self.unless_expired(found, now)
    }

    fn unless_expired(
        &mut self,
        (id, direction): (ConnId, Direction),
        now: Instant,
    ) -> Option<(ConnId, Direction)> {
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
    /// `hash` is that of the source.
    pub(crate) fn same_source(
        &self,
        (tuple, hash): (&Tuple, u64),
    ) -> impl Iterator<Item = &Connection> {
        let head = self.sources.find(hash, |&s| same_source_at(&self.slots, s, tuple)).copied();
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
        let hashes = self.hashes(&conn);
        self.enter(&mut conn, hashes, None)
    }

    /// The same with the hashes of its tuples in their zones, and of its source if that is known.
    /// The connection is taken out of where it is.
    pub(crate) fn enter(
        &mut self,
        conn: &mut Connection,
        hashes: [u64; 2],
        source: Option<u64>,
    ) -> ConnId {
        debug_assert_eq!(hashes, self.hashes(conn));
        self.hold_mappings(conn);
        // Where its source is found, if it is translated.
        let source = conn.status.has(Status::SNAT).then(|| {
            let tuple = conn.original();
            let hash = source.unwrap_or_else(|| self.key.source(&tuple));
            debug_assert_eq!(hash, self.key.source(&tuple));
            (tuple, hash)
        });
        self.shared.enter(conn, hashes, source.map(|(_, hash)| hash), self.number);
        self.entered += 1;
        let deadline = conn.deadline;
        let id = self.slots.put(conn.take_out());
        let slot = id.slot;
        self.wheel.arm(slot, deadline);
        for (way, hash) in WAYS.into_iter().zip(hashes) {
            self.index.insert(hash, Located::new(slot, way, hash), Located::hash);
        }
        if let Some((tuple, hash)) = source.filter(|_| !self.shared.is_divided()) {
            self.link_source(slot, &tuple, hash);
        }
        id
    }

    fn link_source(&mut self, slot: u32, source: &Tuple, hash: u64) {
        let (key, slots) = (self.key, &self.slots);
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
        // It stands in its slot until nothing refers to it: sources that move are hashed anew.
        let hashes = self.hashes(conn);
        self.shared.leave(&self.key, conn, hashes, self.number);
        for (way, hash) in WAYS.into_iter().zip(hashes) {
            let entry = Located::new(slot, way, hash);
            self.index.remove(hash, |&e| e == entry, Located::hash);
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

const WAYS: [Direction; 2] = [Direction::Original, Direction::Reply];

/// An entry of the index: where a tuple is found. The upper half of the tuple's hash, the number of a
/// slot and, in the last bit, a direction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located(u64);

impl Located {
    /// No tuple's place.
    pub(crate) const NOWHERE: Self = Self(u64::MAX);

    fn new(slot: u32, way: Direction, hash: u64) -> Self {
        Self(hash >> 32 << 32 | u64::from(slot) << 1 | way.index() as u64)
    }

    /// Under which it is found: the lower half doesn't count.
    fn hash(&self) -> u64 {
        self.0
    }

    /// Whether it is found under this hash.
    #[inline]
    pub(crate) fn has(self, hash: u64) -> bool {
        self.0 >> 32 == hash >> 32
    }

    #[inline]
    pub(crate) fn slot(self) -> u32 {
        self.0 as u32 >> 1
    }

    /// The direction that the tuple is of.
    #[inline]
    pub(crate) fn way(self) -> Direction {
        WAYS[(self.0 & 1) as usize]
    }

    #[inline]
    pub(crate) fn conn(self, slots: &Slots) -> Option<&Connection> {
        slots.get(self.slot())
    }
}

fn source_hash(key: HashKey, slots: &Slots, slot: u32) -> u64 {
    slots.get(slot).map_or(0, |conn| key.source(&conn.original()))
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
                table
                    .same_source((&conn(0).original(), table.key.source(&conn(0).original())))
                    .map(|c| c.original().dport)
                    .collect()
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
