//! Where connections stand: numbered slots in pages.
//!
//! Slots never move, so growth copies nothing. A new connection gets a slot of the lowest page that
//! has one free; that way the others become empty when there are fewer connections, and an empty
//! page is given back (one stays in reserve, so that a connection more and less doesn't cost a
//! page each time).

use crate::conn::Connection;
use crate::pages::{PAGE, Pages, page_of};
use crate::tracked::ConnId;

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// Generations have the number of their shard in front, so that a name finds nothing elsewhere.
pub(crate) const GENERATION_BITS: u32 = 24;

fn next_generation(generation: u32) -> u32 {
    const COUNTED: u32 = (1 << GENERATION_BITS) - 1;
    generation & !COUNTED | (generation + 1) & COUNTED
}

/// A slot: two cache lines.
#[derive(Debug)]
#[repr(align(64))]
enum Slot {
    Used(Connection),
    /// `next` is the next free one of the page, `generation` is for the next connection.
    Free {
        generation: u32,
        next: u32,
    },
}

/// What is known of a page, whether it is there or not.
#[derive(Copy, Clone, Debug)]
struct Page {
    used: u32,
    /// Its first free slot, if it is there.
    free: u32,
    /// No connection in it has had this generation or a later one.
    generation: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Pages<Slot>,
    pages: Vec<Page>,
    /// Pages that are there and have a free slot.
    with_room: Numbers,
    /// Pages that aren't there.
    absent: Numbers,
    /// A page that is there, though nothing is in it.
    reserve: Option<usize>,
    len: usize,
    /// Of a slot that was never used.
    first_generation: u32,
}

impl Slots {
    /// For the table of this shard.
    pub(crate) fn new(shard: u8) -> Self {
        Self {
            slots: Pages::new(),
            pages: Vec::new(),
            with_room: Numbers::default(),
            absent: Numbers::default(),
            reserve: None,
            len: 0,
            first_generation: u32::from(shard) << GENERATION_BITS,
        }
    }

    /// Connections.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Slots that there are or have been: all numbers are below.
    pub(crate) fn places(&self) -> usize {
        self.slots.count() * PAGE
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&Connection> {
        match self.slots.get(slot)? {
            Slot::Used(conn) => Some(conn),
            Slot::Free { .. } => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        match self.slots.get_mut(slot)? {
            Slot::Used(conn) => Some(conn),
            Slot::Free { .. } => None,
        }
    }

    /// All connections from a slot on, with their names.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = (ConnId, &Connection)> {
        self.slots.from(first).filter_map(|(slot, place)| match place {
            Slot::Used(conn) => Some((name(slot, conn), conn)),
            Slot::Free { .. } => None,
        })
    }

    /// All connections.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|place| match place {
            Slot::Used(conn) => Some(conn),
            Slot::Free { .. } => None,
        })
    }

    /// Gives a connection a slot.
    pub(crate) fn put(&mut self, mut conn: Connection) -> ConnId {
        let page = self.with_room.first().unwrap_or_else(|| self.make());
        let state = &mut self.pages[page];
        let slot = state.free;
        let place = self.slots.get_mut(slot);
        if let Some(place) = place
            && let Slot::Free { generation, next } = *place
        {
            conn.generation = generation;
            let id = name(slot, &conn);
            *place = Slot::Used(conn);
            state.used += 1;
            state.free = next;
            if next == NONE {
                self.with_room.remove(page);
            }
            if self.reserve == Some(page) {
                self.reserve = None;
            }
            self.len += 1;
            return id;
        }
        unreachable!("a page's list of free slots holds free slots");
    }

    /// Makes a page: one that has been there before, or a new one.
    fn make(&mut self) -> usize {
        let page = self.absent.first().unwrap_or(self.pages.len());
        if page == self.pages.len() {
            let generation = self.first_generation;
            self.pages.push(Page { used: 0, free: NONE, generation });
        }
        self.absent.remove(page);
        self.with_room.add(page);
        let state = &mut self.pages[page];
        let (first, generation) = ((page * PAGE) as u32, state.generation);
        state.free = first;
        self.slots.make(page, |at| {
            let next = if at + 1 < PAGE { first + at as u32 + 1 } else { NONE };
            Slot::Free { generation, next }
        });
        page
    }

    /// Takes a connection out of its slot. The second is a page that isn't there any more.
    pub(crate) fn take(&mut self, slot: u32) -> Option<(Connection, Option<usize>)> {
        let generation = next_generation(self.get(slot)?.generation);
        let page = page_of(slot);
        let state = &mut self.pages[page];
        let freed = Slot::Free { generation, next: state.free };
        let Slot::Used(conn) = std::mem::replace(self.slots.get_mut(slot)?, freed) else {
            return None;
        };
        state.free = slot;
        state.used -= 1;
        state.generation = state.generation.max(generation);
        self.len -= 1;
        self.with_room.add(page);
        let emptied = state.used == 0;
        let gone = emptied.then(|| self.give_back(page)).flatten();
        Some((conn, gone))
    }

    /// A page has become empty: it is the reserve now, or goes. Of two the lower one stays.
    fn give_back(&mut self, page: usize) -> Option<usize> {
        let other = self.reserve.replace(page)?;
        let (stays, goes) = (page.min(other), page.max(other));
        self.reserve = Some(stays);
        self.slots.release(goes);
        self.with_room.remove(goes);
        self.absent.add(goes);
        Some(goes)
    }
}

fn name(slot: u32, conn: &Connection) -> ConnId {
    ConnId { slot, generation: conn.generation }
}

/// A set of small numbers that knows its least one.
#[derive(Debug, Default)]
struct Numbers {
    words: Vec<u64>,
    /// All words before are empty.
    start: usize,
}

impl Numbers {
    fn add(&mut self, n: usize) {
        if n / 64 >= self.words.len() {
            self.words.resize(n / 64 + 1, 0);
        }
        self.words[n / 64] |= 1 << (n % 64);
        self.start = self.start.min(n / 64);
    }

    fn remove(&mut self, n: usize) {
        if let Some(word) = self.words.get_mut(n / 64) {
            *word &= !(1 << (n % 64));
        }
    }

    fn first(&mut self) -> Option<usize> {
        while *self.words.get(self.start)? == 0 {
            self.start += 1;
        }
        Some(self.start * 64 + self.words[self.start].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Tuple;
    use crate::conn::Proto;
    use crate::tcp::TcpTrack;

    #[test]
    fn sizes() {
        assert_eq!((size_of::<TcpTrack>(), size_of::<Proto>()), (56, 56));
        assert!(size_of::<Connection>() <= 128, "{}", size_of::<Connection>());
        assert_eq!(size_of::<Slot>(), 128);
        // What every packet needs is in the first line.
        assert!(std::mem::offset_of!(Connection, proto) <= 64);
    }

    fn conn(mark: u32) -> Connection {
        let [src, dst] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let tuple = Tuple { src, dst, sport: 1, dport: 2, protocol: 17 };
        let mut conn = Connection::new(tuple, tuple, Proto::Plain, false);
        conn.mark = mark;
        conn
    }

    fn present(slots: &Slots) -> usize {
        slots.slots.from(0).count() / PAGE
    }

    #[test]
    fn pages_come_and_go() {
        let mut slots = Slots::new(0);
        let ids: Vec<ConnId> = (0..10 * PAGE as u32).map(|n| slots.put(conn(n))).collect();
        assert_eq!((slots.len(), present(&slots)), (10 * PAGE, 10));
        // One of each page stays: no page can go.
        let (stay, go): (Vec<ConnId>, Vec<ConnId>) =
            ids.iter().partition(|id| id.slot as usize % PAGE == 7);
        for id in go {
            assert!(matches!(slots.take(id.slot), Some((_, None))));
        }
        assert_eq!((slots.len(), present(&slots)), (10, 10));
        // What comes then goes into the lowest.
        let id = slots.put(conn(0));
        assert_eq!(page_of(id.slot), 0);
        slots.take(id.slot);
        let gone: Vec<_> = stay.iter().map(|id| slots.take(id.slot).unwrap().1).collect();
        assert_eq!(gone.iter().flatten().count(), 9);
        assert_eq!((slots.len(), present(&slots), slots.reserve), (0, 1, Some(0)));
        // A name is never given twice, though pages were made anew.
        for n in 0..10 * PAGE as u32 {
            let id = slots.put(conn(n));
            assert!(!ids.contains(&id));
        }
        assert_eq!(slots.places(), 10 * PAGE);
    }

    proptest! {
        /// Against a map from names to marks.
        #[test]
        fn as_a_map(steps in proptest::collection::vec((any::<bool>(), 0usize..900), 1..40)) {
            let mut slots = Slots::new(0);
            let mut model: HashMap<ConnId, u32> = HashMap::new();
            let mut order: Vec<ConnId> = Vec::new();
            let mut mark = 0;
            for (add, count) in steps {
                for n in 0..count {
                    if add {
                        mark += 1;
                        let id = slots.put(conn(mark));
                        prop_assert!(model.insert(id, mark).is_none());
                        order.push(id);
                    } else if !order.is_empty() {
                        let id = order.swap_remove(n * 31 % order.len());
                        let taken = slots.take(id.slot).map(|(conn, _)| conn.mark);
                        prop_assert_eq!(taken, model.remove(&id));
                        prop_assert!(slots.take(id.slot).is_none());
                    }
                }
                prop_assert_eq!(slots.len(), model.len());
                let all: HashMap<ConnId, u32> = slots.from(0).map(|(id, c)| (id, c.mark)).collect();
                prop_assert_eq!(&all, &model);
                // At most a page more than the most that were there at once, and one in reserve.
                prop_assert!(present(&slots) <= slots.places() / PAGE);
                prop_assert!(!model.is_empty() || present(&slots) <= 1);
            }
        }
    }
}
